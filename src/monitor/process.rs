//! The process's own numbers, from `/proc`; where there is none (macOS), they are absent.

use std::{
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::telemetry::metrics::{exposition::Exposition, families};

/// Unit of the CPU time that the kernel reports to programs: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// When this was first asked for, at the replica's start: seconds since 1970.
static STARTED: LazyLock<f64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
});

/// Notes when the process started.
pub(super) fn starts() {
    LazyLock::force(&STARTED);
}

pub(super) fn write(text: &mut Exposition) {
    if let Some(bytes) = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| memory(&s))
    {
        text.sample(&families::PROCESS_MEMORY, &[], bytes);
    }
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu(&s)) {
        text.sample(&families::PROCESS_CPU, &[], seconds);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.sample(&families::PROCESS_FDS, &[], files.count() as f64);
    }
    text.sample(&families::PROCESS_START, &[], *STARTED);
}

fn memory(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// The 14th and 15th field; the second, the name in brackets, may hold anything.
fn cpu(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        assert_eq!(memory("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12_288.0));
        assert_eq!(cpu("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0"), Some(3.0));
        for nonsense in ["", "VmRSS:", "1 (x) S 1", ")"] {
            assert_eq!((memory(nonsense), cpu(nonsense)), (None, None));
        }
    }
}
