//! What the process may still ask of the kernel once it is set up: no capabilities but those it goes on using, no new
//! privileges, a seccomp filter over all threads.
//!
//! Both ends talk to whoever reaches their port. What is listed here is what measuring takes; a system call beyond it is
//! answered with `EPERM`. In particular: no program is started, no BPF program or map is made, nothing is traced or mounted.

use std::collections::BTreeMap;
use std::io;

use caps::{CapSet, Capability};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Which end the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `egw-probe client`.
    Client,
    /// `egw-probe external-target`: may also use the BPF maps, links and programs that it holds.
    ExternalTarget,
}

/// Drops every capability of the calling thread but `keep`, for good: effective, permitted, inheritable and ambient.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    let kept = keep
        .iter()
        .copied()
        .filter(|capability| caps::has_cap(None, CapSet::Permitted, *capability).unwrap_or(false))
        .collect();
    let drop = || {
        caps::clear(None, CapSet::Ambient)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)?;
        caps::clear(None, CapSet::Inheritable)
    };
    drop().map_err(io::Error::other)
}

/// What every part needs: memory, threads, time, sockets, files of `/proc`, and an orderly end.
const COMMON: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    // glibc's resolver asks for both families at once.
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_tkill,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older forms that a C library still uses on x86-64.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] =
    &[libc::SYS_epoll_wait, libc::SYS_open, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Commands of bpf(2) that make something new (`enum bpf_cmd`, uapi/linux/bpf.h).
const BPF_MAP_CREATE: u64 = 0;
const BPF_PROG_LOAD: u64 = 5;

/// Puts every thread of the process under the filter of `role`, for good. Where the kernel has no seccomp, or somebody
/// forbids its use, a warning says so, and measuring goes on.
pub(crate) fn enter(role: Role) {
    let entered =
        filter(role).map_err(Into::into).and_then(|filter| seccompiler::apply_filter_all_threads(&filter));
    if let Err(error) = entered {
        tracing::warn!("no seccomp filter: {error}");
    }
}

fn filter(role: Role) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        COMMON.iter().chain(OLDER).map(|call| (*call, vec![])).collect();
    if role == Role::Client {
        // A result that goes to a file is put on the disk, or taken away again.
        rules.extend([libc::SYS_fdatasync, libc::SYS_ftruncate].map(|call| (call, vec![])));
    }
    if role == Role::ExternalTarget {
        let is_not = |command| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, command);
        let conditions =
            vec![is_not(BPF_MAP_CREATE), is_not(BPF_PROG_LOAD)].into_iter().collect::<Result<_, _>>();
        rules.insert(libc::SYS_bpf, vec![conditions.and_then(SeccompRule::new)?]);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `call` on a thread under the filter of `role`.
    fn under(role: Role, call: impl FnOnce() -> i64 + Send) -> Result<i64, Option<i32>> {
        let program = filter(role).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                seccompiler::apply_filter(&program).unwrap();
                let answer = call();
                if answer < 0 { Err(io::Error::last_os_error().raw_os_error()) } else { Ok(answer) }
            });
            thread.join().unwrap()
        })
    }

    fn bpf(command: u64) -> i64 {
        // SAFETY: no attributes of no size: the kernel refuses the call, if the filter does not.
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::null::<u8>(), 0) }
    }

    #[test]
    fn no_program_is_started_and_nothing_is_traced() {
        for role in [Role::Client, Role::ExternalTarget] {
            let exec = || {
                let path = c"/bin/true".as_ptr();
                // SAFETY: a terminated path and empty lists; it returns, because it is refused.
                unsafe {
                    libc::syscall(libc::SYS_execve, path, std::ptr::null::<u8>(), std::ptr::null::<u8>())
                }
            };
            assert_eq!(under(role, exec), Err(Some(libc::EPERM)));
            // SAFETY: PTRACE_TRACEME takes no pointer.
            let trace = || unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0) };
            assert_eq!(under(role, trace), Err(Some(libc::EPERM)));
        }
    }

    #[test]
    fn the_target_may_use_maps_but_makes_none_and_loads_nothing_and_the_client_has_no_bpf_at_all() {
        const BPF_MAP_LOOKUP_ELEM: u64 = 1;
        for command in [BPF_MAP_CREATE, BPF_PROG_LOAD] {
            assert_eq!(under(Role::ExternalTarget, || bpf(command)), Err(Some(libc::EPERM)));
        }
        let reached = under(Role::ExternalTarget, || bpf(BPF_MAP_LOOKUP_ELEM)).unwrap_err();
        // The kernel's own answer: without attributes, or without a right where bpf(2) is for the privileged.
        assert!(
            matches!(reached, Some(libc::EINVAL | libc::EFAULT | libc::EBADF | libc::EPERM)),
            "{reached:?}"
        );
        assert_eq!(under(Role::Client, || bpf(BPF_MAP_LOOKUP_ELEM)), Err(Some(libc::EPERM)));
    }
}
