//! A helper confines itself before it reads its first byte: it limits its memory and CPU time, and gives up the file
//! system, the network, and nearly all system calls.

use std::{fmt, fs};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::set_no_new_privs,
};

/// The confinement of a helper, beside its limits on memory and CPU time. The kernel, or the container around it, may
/// lack either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SandboxReport {
    /// Landlock: no file can be opened, no TCP connection made.
    pub landlock: bool,
    /// Seccomp: system calls other than those of a computation fail.
    pub seccomp: bool,
}

impl SandboxReport {
    pub(super) fn code(self) -> u8 {
        u8::from(self.landlock) | u8::from(self.seccomp) << 1
    }

    pub(super) fn of(code: u8) -> Self {
        Self {
            landlock: code & 1 != 0,
            seccomp: code & 2 != 0,
        }
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.landlock, self.seccomp) {
            (true, true) => "Landlock and seccomp",
            (true, false) => "Landlock alone",
            (false, true) => "seccomp alone",
            (false, false) => "neither Landlock nor seccomp",
        })
    }
}

/// Confines this process for good. `memory` is what it may take beyond what it has taken so far, bytes.
///
/// # Errors
/// When a limit cannot be set: then nothing would stop a hostile recording.
pub(super) fn confine(memory: u64, cpu_seconds: u64) -> std::io::Result<SandboxReport> {
    // Should the host run out of memory, the kernel ends a helper rather than the worker. A container may forbid it.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    limit(Resource::As, address_space().saturating_add(memory))?;
    limit(Resource::Cpu, cpu_seconds)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    set_no_new_privs(true)?;
    Ok(SandboxReport {
        landlock: linux::landlock(),
        seccomp: linux::seccomp(),
    })
}

/// Lets the process use `seconds` of CPU time from now on, within its hard limit.
pub(super) fn allow_cpu(seconds: u64) -> std::io::Result<()> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = u64::try_from(used.tv_sec).unwrap_or(u64::MAX);
    let hard = getrlimit(Resource::Cpu).maximum;
    // One more: the part of a second that is used up already is not counted.
    let soft = used.saturating_add(seconds).saturating_add(1);
    let soft = hard.map_or(soft, |hard| hard.min(soft));
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(soft),
            maximum: hard,
        },
    )?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> std::io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    setrlimit(
        resource,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )?;
    Ok(())
}

/// Bytes of address space that are taken already: program, libraries, and the allocator's reserve.
fn address_space() -> u64 {
    const PAGE: u64 = 4096;
    /// Where the kernel does not tell: above what the allocator reserves.
    const UNKNOWN: u64 = 2 << 30;
    let statm = fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    pages.map_or(UNKNOWN, |pages| pages.saturating_mul(PAGE))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
    };
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

    /// Forbids all files and all of the network that this kernel's Landlock knows of.
    pub(super) fn landlock() -> bool {
        let forbid = || -> Result<RulesetStatus, RulesetError> {
            let ruleset = Ruleset::default()
                .handle_access(AccessFs::from_all(ABI::V5))?
                .handle_access(AccessNet::from_all(ABI::V4))?
                .scope(Scope::from_all(ABI::V6))?
                .create()?;
            Ok(ruleset.restrict_self()?.ruleset)
        };
        forbid().is_ok_and(|status| status != RulesetStatus::NotEnforced)
    }

    /// The calls of a computation: its pipes, memory, time, and its end. Every other call fails with EPERM.
    const ALLOWED: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_prlimit64,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    pub(super) fn seccomp() -> bool {
        let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
            return false;
        };
        let rules: BTreeMap<i64, Vec<_>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch);
        let program: Option<BpfProgram> = filter.ok().and_then(|filter| filter.try_into().ok());
        program.is_some_and(|program| apply_filter(&program).is_ok())
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(super) fn landlock() -> bool {
        false
    }

    pub(super) fn seccomp() -> bool {
        false
    }
}
