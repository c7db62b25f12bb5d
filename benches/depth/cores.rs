//! A core for Redis alone: a script that waits for a CPU looks slow to the SLOWLOG.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::Result;

/// Binds this process to all of its cores but the first, and says which that is; a single core stays everybody's.
pub(crate) fn leave_one() -> Result<Option<usize>> {
    let mut ours = sched_getaffinity(Pid::this())?;
    let mut cores = (0..CpuSet::count()).filter(|core| ours.is_set(*core).unwrap_or(false));
    let (Some(first), Some(_)) = (cores.next(), cores.next()) else {
        return Ok(None);
    };
    ours.unset(first)?;
    sched_setaffinity(Pid::this(), &ours)?;
    Ok(Some(first))
}

/// Binds all threads of a process to a core.
pub(crate) fn give(core: usize, process: u32) -> Result {
    let mut set = CpuSet::new();
    set.set(core)?;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &set)?;
    }
    Ok(())
}
