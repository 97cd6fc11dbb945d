//! How the child gives up its rights, before it reads the script. All of it is enforced by the
//! kernel and holds for the rest of the process's life. What the kernel lacks is reported.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset,
    RulesetAttr as _, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};
use serde::{Deserialize, Serialize};

use crate::Limits;

/// Address space beside the script's values: the program itself, its libraries, stacks and the
/// allocator's arenas (measured: 62 MiB for `reauth` in a debug build, 152 MiB at the most with the
/// test harness), and its copies of a long answer or script (all tests pass with half of this).
const PROGRAM_BYTES: u64 = 256 << 20;
/// The socket, stdout, stderr, and what the start-up may hold.
const FILES_MAX: u64 = 16;
/// What the kernel says of this process.
const STATUS: &str = "/proc/self/status";
/// `PROT_EXEC`: no page of the child becomes executable any more.
const PROT_EXEC: u64 = 4;

/// What protects a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guards {
    /// Memory, processor time, files and processes are limited: all of them.
    pub rlimits: bool,
    /// No program can give rights back.
    pub no_new_privs: bool,
    /// The system calls that remain are those on a short list.
    pub seccomp: bool,
    /// No path can be opened (Landlock, ABI 1).
    pub landlock: bool,
    /// No TCP port can be listened on or connected to (Landlock, ABI 4).
    pub landlock_tcp: bool,
    /// Nobody else can be signalled or reached by an abstract name (Landlock, ABI 6).
    pub landlock_scopes: bool,
}

impl Guards {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.all().iter().all(|(_, is_on)| *is_on)
    }

    fn all(self) -> [(&'static str, bool); 6] {
        [
            ("resource limits", self.rlimits),
            ("no-new-privileges", self.no_new_privs),
            ("seccomp", self.seccomp),
            ("Landlock for paths", self.landlock),
            ("Landlock for TCP", self.landlock_tcp),
            ("Landlock for signals and abstract sockets", self.landlock_scopes),
        ]
    }
}

impl fmt::Display for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        let names = |wanted: bool| {
            let some = all.iter().filter(|(_, is_on)| *is_on == wanted).map(|(name, _)| *name);
            some.collect::<Vec<_>>().join(", ")
        };
        match (names(true), names(false)) {
            (on, off) if off.is_empty() => write!(f, "scripts run behind {on}"),
            (on, off) if on.is_empty() => write!(f, "this machine lacks {off}"),
            (on, off) => write!(f, "scripts run behind {on}; this machine lacks {off}"),
        }
    }
}

/// Dies as soon as the thread that started this child does: who is killed can end no child. The
/// threads of a server's runtime live as long as it does, and a script comes after this was said.
pub(crate) fn die_with_parent() -> bool {
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill).is_ok()
}

/// How much memory this process has had in use at most, as the kernel counts it.
pub(crate) struct Peak {
    status: File,
    first_bytes: u64,
}

impl Peak {
    /// Opens what a child cannot open later.
    pub(crate) fn open() -> Option<Self> {
        let first_bytes = peak_bytes(&std::fs::read_to_string(STATUS).ok()?)?;
        Some(Self { status: File::open(STATUS).ok()?, first_bytes })
    }

    /// By how much it has grown meanwhile. It is told once.
    pub(crate) fn grown_bytes(&self) -> Option<u64> {
        let mut text = [0; 4_096];
        let length = (&self.status).read(&mut text).ok()?;
        let now = peak_bytes(&String::from_utf8_lossy(&text[..length]))?;
        Some(now.saturating_sub(self.first_bytes))
    }
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Gives up every right that a script does not need. For the child; there is no way back.
pub fn drop_rights(limits: &Limits) -> Guards {
    let rlimits = limit_resources(limits);
    let no_new_privs = rustix::thread::set_no_new_privs(true).is_ok();
    let abi = close_paths();
    let holds = |wanted: ABI| abi.is_some_and(|abi| abi >= wanted);
    Guards {
        rlimits,
        no_new_privs,
        landlock: holds(ABI::V1),
        landlock_tcp: holds(ABI::V4),
        landlock_scopes: holds(ABI::V6),
        // Last, since the others need calls that it ends.
        seccomp: close_calls().is_ok(),
    }
}

fn limit_resources(limits: &Limits) -> bool {
    let cpu_s = limits.cpu.as_secs().max(1);
    let all = [
        (Resource::As, limits.memory_bytes.saturating_add(PROGRAM_BYTES), 0),
        // The soft limit ends it with SIGXCPU; one second later comes SIGKILL.
        (Resource::Cpu, cpu_s, 1),
        (Resource::Nofile, FILES_MAX, 0),
        (Resource::Nproc, 0, 0),
        (Resource::Fsize, 0, 0),
        (Resource::Core, 0, 0),
    ];
    // Each is set, whatever becomes of the others.
    let set = all.map(|(resource, soft, more)| limit(resource, soft, more));
    set.into_iter().all(|is_set| is_set)
}

/// Sets one limit. Whoever started the server may have set a stricter one: it is kept, since less
/// is always allowed, and more would need a right of its own.
fn limit(resource: Resource, soft: u64, more: u64) -> bool {
    let kept = getrlimit(resource).maximum;
    let maximum = kept.map_or(soft + more, |kept| kept.min(soft + more));
    let current = soft.min(maximum.saturating_sub(more));
    setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) }).is_ok()
}

/// Answers how much of what Landlock can do this kernel's can.
fn close_paths() -> Option<ABI> {
    let abi = ABI::V6;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    let status = restricted.ok().filter(|it| it.ruleset != RulesetStatus::NotEnforced)?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi),
        _ => None,
    }
}

fn close_calls() -> Result<(), Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed().into_iter().map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let op = SeccompCmpOp::MaskedEq(PROT_EXEC);
        let plain = SeccompCondition::new(2, SeccompCmpArgLen::Qword, op, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![plain])?]);
    }
    // It may end itself, so that an abort is seen as one; it may signal nobody else.
    let (own, op) = (u64::from(std::process::id()), SeccompCmpOp::Eq);
    let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, op, own)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![to_itself])?]);
    // Of a file it may know the flags, and close it when another program begins: nobody is told
    // when something happens there, and nothing is locked.
    let known = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL].map(|command| {
        let command = u64::from(command.unsigned_abs());
        let op = SeccompCmpOp::Eq;
        SeccompRule::new(vec![SeccompCondition::new(1, SeccompCmpArgLen::Dword, op, command)?])
    });
    let known = known.into_iter().collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_fcntl, known);
    // The allocator looks for a kernel setting before it gives memory back, and copes without it:
    // what it asks is refused, not punished. The stricter of two filters holds.
    let open = [libc::SYS_openat].map(|call| (call, Vec::new())).into();
    let denied = u32::try_from(libc::EACCES).unwrap_or_default();
    apply(open, SeccompAction::Allow, SeccompAction::Errno(denied))?;
    apply(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<(), Box<dyn std::error::Error>> {
    let arch = std::env::consts::ARCH.try_into()?;
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()?;
    Ok(apply_filter_all_threads(&program)?)
}

/// What QuickJS and a loop on one socket need. No call here connects, forks or executes; `openat`
/// is answered with "denied" by a filter of its own.
fn allowed() -> Vec<i64> {
    let mut calls = vec![
        // The socket, and reports of a panic.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_ppoll,
        libc::SYS_close,
        libc::SYS_openat,
        // Memory.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        // Time, waiting, randomness.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_restart_syscall,
        // Signals, and the end.
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    if cfg!(target_arch = "x86_64") {
        #[cfg(target_arch = "x86_64")]
        calls.extend([libc::SYS_poll, libc::SYS_time]);
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let all = Guards {
            rlimits: true,
            no_new_privs: true,
            seccomp: true,
            landlock: true,
            landlock_tcp: true,
            landlock_scopes: true,
        };
        assert!(all.is_complete());
        let some = Guards { landlock_tcp: false, ..all };
        assert!(!some.is_complete());
        assert!(some.to_string().contains("Landlock for paths"), "{some}");
        assert!(some.to_string().ends_with("this machine lacks Landlock for TCP"), "{some}");
    }
}
