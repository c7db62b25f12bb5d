//! The memory that the container allows this process.

/// The limit in bytes; `None` where nothing limits the process.
pub(crate) fn limit() -> Option<u64> {
    // Of cgroups of version 2, and 1.
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limit = files
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    // Version 1 writes a number near the end of the range where there is none.
    limit.filter(|limit| *limit < 1 << 50)
}
