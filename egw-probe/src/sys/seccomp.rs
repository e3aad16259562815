//! The seccomp filter: what measuring takes, and for what. A system call beyond it is answered with `EPERM`.
//!
//! Both ends talk to whoever reaches their port. What code of a peer's choice could still do with this list was tried from
//! inside: docs/security.md has it.

use std::collections::BTreeMap;

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

/// Whatever their arguments.
const COMMON: &[i64] = &[
    // Memory of the allocator and of threads' stacks.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads: their start, their locks, their end.
    libc::SYS_exit,
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Signals that come; sending is below.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // Time, and waiting.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    // Sockets of the families below; sendmmsg is glibc's resolver, which asks for both families at once.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Files of /proc and of the resolver, sockets, standard output and error. readlinkat finds /proc/self for the process metrics.
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Seeds of hash tables, the host's name for glibc's resolver, an orderly end.
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    // Answered by a filter of its own.
    libc::SYS_clone3,
];

/// The older forms that a C library still uses on x86-64.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// What only the client does: probes leave on a timer's ticks; a result that goes to a file is put on the disk, or taken away
/// again.
const CLIENT: &[i64] =
    &[libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_timerfd_create, libc::SYS_timerfd_settime];

/// Commands of bpf(2) for what the target holds (`enum bpf_cmd`, uapi/linux/bpf.h): reading and writing maps, and attaching
/// again to an interface that came back. None that makes a map or loads a program.
const BPF_COMMANDS: &[u64] = &[1, 2, 3, 4, 15, 28];

/// The flags by which a C library starts a thread: glibc's and musl's are the same but for one that does nothing
/// (`CLONE_DETACHED`). A process, or a namespace, takes others.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// Any of these, and a file is not merely read. Not `O_ACCMODE`, which holds O_PATH in musl.
const WRITING: u64 = (libc::O_WRONLY
    | libc::O_RDWR
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

const FCNTL: &[i32] = &[
    // Descriptors that are not inherited, and sockets that do not block. Not F_SETOWN: it sends signals to others.
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

const IOCTLS: &[libc::Ioctl] = &[
    // Sockets that do not block; what the resolver's socket holds; what a peer has not acknowledged (SIOCOUTQ).
    libc::FIONBIO,
    libc::FIONREAD,
    libc::TIOCOUTQ,
    // The number of the interface in a scoped IPv6 address.
    libc::SIOCGIFINDEX as libc::Ioctl,
    // Whether there is a terminal, for the line of progress. Nothing that writes to one.
    libc::TCGETS,
    libc::TCGETS2,
    libc::TIOCGWINSZ,
];

/// `SOCK_TYPE_MASK`, include/linux/net.h: the rest are flags.
const SOCKET_TYPE: u64 = 0xf;

/// Puts every thread of the process under the filter of `role`, for good.
pub(super) fn enter(role: Role) -> Result<(), seccompiler::Error> {
    for program in programs(role)? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// In the order in which they are to be installed: nothing may be installed any more under the last.
fn programs(role: Role) -> Result<[BpfProgram; 2], BackendError> {
    // What a filter cannot look into is "not there", so that the C library starts its threads by clone(2).
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    Ok([
        compile(no_clone3, SeccompAction::Allow, errno(libc::ENOSYS))?,
        compile(rules(role)?, errno(libc::EPERM), SeccompAction::Allow)?,
    ])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.cast_unsigned())
}

fn rules(role: Role) -> Result<Rules, BackendError> {
    let by_role = match role {
        Role::Client => CLIENT,
        Role::ExternalTarget => &[],
    };
    let mut rules: Rules = [COMMON, OLDER, by_role].concat().into_iter().map(|call| (call, vec![])).collect();
    rules.extend([
        (libc::SYS_clone, vec![all([masked(0, !(libc::CLONE_DETACHED as u64), THREAD)])?]),
        (libc::SYS_openat, vec![all([masked(2, WRITING, 0)])?]),
        // To this process alone: abort(3) does it. musl has tkill(2) for that, which names no process, and ends by a trap without.
        (libc::SYS_tgkill, vec![all([equal(0, std::process::id().into())])?]),
        // Limits of this process are read, and none is set.
        (libc::SYS_prlimit64, vec![all([equal(0, 0), pointer(2, 0)])?]),
        // Names of threads.
        (libc::SYS_prctl, vec![all([equal(0, libc::PR_SET_NAME as u64)])?]),
        (libc::SYS_fcntl, any(1, FCNTL.iter().map(|command| *command as u64))?),
        (libc::SYS_ioctl, any(1, IOCTLS.iter().map(|request| u64::from(*request as u32)))?),
        (libc::SYS_mmap, mappings(role)?),
        // Stacks and heaps; nothing that was written becomes code.
        (libc::SYS_mprotect, vec![all([masked(2, libc::PROT_EXEC as u64, 0)])?]),
        (libc::SYS_socket, sockets()?),
        // A thread wakes another; as a stream it reaches nobody else, while datagrams could be addressed.
        (
            libc::SYS_socketpair,
            vec![all([equal(0, libc::AF_UNIX as u64), masked(1, SOCKET_TYPE, libc::SOCK_STREAM as u64)])?],
        ),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![all([masked(1, WRITING, 0)])?]);
    if role == Role::ExternalTarget {
        rules.insert(libc::SYS_bpf, any(0, BPF_COMMANDS.iter().copied())?);
    }
    Ok(rules)
}

/// Memory that is no code. glibc's resolver loads what /etc/nsswitch.conf names: the client may map files that hold code, and
/// not write to them there.
fn mappings(role: Role) -> Result<Vec<SeccompRule>, BackendError> {
    let [write, execute, anonymous] =
        [libc::PROT_WRITE as u64, libc::PROT_EXEC as u64, libc::MAP_ANONYMOUS as u64];
    let mut rules = vec![all([masked(2, execute, 0)])?];
    if role == Role::Client && cfg!(target_env = "gnu") {
        rules.push(all([masked(2, write | execute, execute), masked(3, anonymous, 0)])?);
    }
    Ok(rules)
}

/// TCP for probes, connections and HTTP; UDP for the resolver; and the kernel's list of interfaces and addresses, which the
/// observer follows and glibc's resolver looks at.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = vec![];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in
            [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)]
        {
            for protocol in [0, protocol] {
                rules.push(all([
                    equal(0, family as u64),
                    masked(1, SOCKET_TYPE, kind as u64),
                    equal(2, protocol as u64),
                ])?);
            }
        }
    }
    rules.push(all([equal(0, libc::AF_NETLINK as u64), equal(2, libc::NETLINK_ROUTE as u64)])?);
    Ok(rules)
}

type Condition = Result<SeccompCondition, BackendError>;

fn all<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// One of these values.
fn any(argument: u8, values: impl Iterator<Item = u64>) -> Result<Vec<SeccompRule>, BackendError> {
    values.map(|value| all([equal(argument, value)])).collect()
}

/// By the lower half, which is all that the kernel takes of an `int`.
fn equal(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn pointer(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

#[cfg(test)]
mod tests;
