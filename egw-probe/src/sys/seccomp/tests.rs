//! Each call is made on a thread under the filter. As root, so that it is the filter that refuses.

use std::ffi::CStr;
use std::io;

use super::*;

const BOTH: [Role; 2] = [Role::Client, Role::ExternalTarget];
const FORBIDDEN: Result<i64, i32> = Err(libc::EPERM);

/// What becomes of `work` on a thread under the filter of `role`.
fn under<T: Send>(role: Role, work: impl FnOnce() -> T + Send) -> T {
    let programs = programs(role).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            for program in &programs {
                seccompiler::apply_filter(program).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

fn call<const N: usize>(number: i64, arguments: [i64; N]) -> Result<i64, i32> {
    let at = |index| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the numbers and pointers are those of the tests below: none makes the kernel write to memory of others.
    let answer = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if answer < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(answer) }
}

fn open(path: &CStr, flags: i32) -> Result<i64, i32> {
    let path = path.as_ptr() as i64;
    let opened = call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into(), 0o600]);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(opened.is_ok(), call(libc::SYS_open, [path, flags.into(), 0o600]).is_ok());
    opened
}

#[test]
fn files_are_opened_to_be_read_and_in_no_other_way() {
    let new = c"/etc/cron.d/egw-probe-test";
    for role in BOTH {
        for (path, flags) in [
            (new, libc::O_WRONLY | libc::O_CREAT),
            (new, libc::O_RDONLY | libc::O_CREAT),
            (c"/proc/sys/kernel/core_pattern", libc::O_WRONLY),
            (c"/proc/sys/kernel/core_pattern", libc::O_RDWR),
            (c"/dev/null", libc::O_RDONLY | libc::O_TRUNC),
            (c"/dev/null", libc::O_RDONLY | libc::O_APPEND),
            (c"/tmp", libc::O_RDWR | libc::O_TMPFILE),
        ] {
            assert_eq!(under(role, || open(path, flags)), FORBIDDEN, "{path:?} {flags:o}");
        }
        for (path, flags) in [
            (c"/proc/self/stat", libc::O_RDONLY | libc::O_CLOEXEC),
            (c"/proc/self", libc::O_PATH | libc::O_DIRECTORY),
            (c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK),
        ] {
            assert!(under(role, || open(path, flags)).is_ok(), "{path:?}");
        }
    }
    assert!(!std::path::Path::new(new.to_str().unwrap()).exists());
}

#[test]
fn threads_are_started_and_no_process_no_program_and_no_namespace() {
    let child = |flags: i32| match call(libc::SYS_clone, [flags.into()]) {
        // SAFETY: of a child that should not be there nothing is to run.
        Ok(0) => unsafe { libc::_exit(1) },
        other => other,
    };
    for role in BOTH {
        for flags in [
            libc::SIGCHLD,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            libc::CLONE_NEWUSER | libc::SIGCHLD,
            libc::CLONE_NEWNET | THREAD as i32,
        ] {
            assert_eq!(under(role, || child(flags)), FORBIDDEN, "{flags:x}");
        }
        assert_eq!(under(role, || call(libc::SYS_clone3, [0, 0])), Err(libc::ENOSYS));
        assert_eq!(under(role, || call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into()])), FORBIDDEN);
        let program = c"/bin/true".as_ptr() as i64;
        assert_eq!(under(role, || call(libc::SYS_execve, [program])), FORBIDDEN);
        assert_eq!(under(role, || std::thread::spawn(|| 7).join().unwrap()), 7);
    }
}

#[test]
fn signals_go_to_this_process_alone() {
    let parent = i64::from(std::os::unix::process::parent_id());
    let own = i64::from(std::process::id());
    // Signal 0 only asks whether one could be sent.
    for role in BOTH {
        assert_eq!(under(role, || call(libc::SYS_tgkill, [parent, parent, 0])), FORBIDDEN);
        for number in [libc::SYS_kill, libc::SYS_tkill] {
            assert_eq!(under(role, || call(number, [parent, 0])), FORBIDDEN);
        }
        assert_eq!(
            under(role, || call(libc::SYS_tgkill, [own, call(libc::SYS_gettid, []).unwrap(), 0])),
            Ok(0)
        );
    }
}

#[test]
fn sockets_are_tcp_udp_and_the_kernels_list_of_interfaces() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        call(libc::SYS_socket, [family.into(), kind.into(), protocol.into()])
    };
    for role in BOTH {
        for (family, kind, protocol) in [
            (libc::AF_UNIX, libc::SOCK_STREAM, 0),
            (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
            (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            (libc::AF_PACKET, libc::SOCK_RAW, 0),
            (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
            (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        ] {
            assert_eq!(
                under(role, || socket(family, kind, protocol)),
                FORBIDDEN,
                "{family} {kind} {protocol}"
            );
        }
        for (family, kind, protocol) in [
            (libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0),
            (libc::AF_INET, libc::SOCK_DGRAM, 0),
            (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE),
        ] {
            assert!(under(role, || socket(family, kind, protocol)).is_ok(), "{family} {kind} {protocol}");
        }
        let pair = |kind: i32| {
            let mut room = [0i32; 2];
            call(libc::SYS_socketpair, [libc::AF_UNIX.into(), kind.into(), 0, room.as_mut_ptr() as i64])
        };
        assert_eq!(under(role, || pair(libc::SOCK_DGRAM)), FORBIDDEN, "could be addressed to others");
        assert_eq!(under(role, || pair(libc::SOCK_STREAM | libc::SOCK_CLOEXEC)), Ok(0));
    }
}

#[test]
fn nothing_that_was_written_becomes_code_and_the_target_takes_none_at_all() {
    let [read, write, execute] = [libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC];
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let file = i64::from(std::os::fd::AsRawFd::as_raw_fd(&file));
    let of_file = |protection: i32| {
        call(libc::SYS_mmap, [0, 4096, protection.into(), libc::MAP_PRIVATE.into(), file, 0])
    };
    for role in BOTH {
        let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let memory = |protection: i32| call(libc::SYS_mmap, [0, 4096, protection.into(), anonymous, -1, 0]);
        for protection in [execute, read | execute, read | write | execute] {
            assert_eq!(under(role, || memory(protection)), FORBIDDEN);
        }
        let stack = under(role, || memory(read | write)).unwrap();
        let protect = |protection: i32| call(libc::SYS_mprotect, [stack, 4096, protection.into()]);
        assert_eq!(under(role, || protect(read | execute)), FORBIDDEN);
        assert_eq!(under(role, || protect(read)), Ok(0));
        assert_eq!(under(role, || of_file(read | write | execute)), FORBIDDEN);
    }
    assert_eq!(under(Role::ExternalTarget, || of_file(read | execute)), FORBIDDEN);
    let library = under(Role::Client, || of_file(read | execute));
    assert_eq!(library.is_ok(), cfg!(target_env = "gnu"), "for the resolver's");
}

#[test]
fn of_calls_with_many_purposes_only_ours_are_left() {
    const NONE: i64 = -1;
    let limit = [0u64; 2];
    let limit = limit.as_ptr() as i64;
    for role in BOTH {
        // Of a descriptor that is none: the kernel would say EBADF.
        for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::FIOASYNC] {
            assert_eq!(under(role, || call(libc::SYS_ioctl, [NONE, request as i64])), FORBIDDEN);
        }
        assert_eq!(under(role, || call(libc::SYS_ioctl, [NONE, libc::FIONBIO as i64])), Err(libc::EBADF));
        for command in [libc::F_SETOWN, libc::F_NOTIFY, libc::F_SETPIPE_SZ] {
            assert_eq!(under(role, || call(libc::SYS_fcntl, [NONE, command.into()])), FORBIDDEN);
        }
        assert_eq!(under(role, || call(libc::SYS_fcntl, [NONE, libc::F_GETFL.into()])), Err(libc::EBADF));
        for option in [libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER, libc::PR_SET_MM, libc::PR_CAP_AMBIENT] {
            assert_eq!(under(role, || call(libc::SYS_prctl, [option.into()])), FORBIDDEN);
        }
        let limits = |process: i64, new: i64| call(libc::SYS_prlimit64, [process, 7, new, 0]);
        assert_eq!(under(role, || limits(0, limit)), FORBIDDEN);
        assert_eq!(under(role, || limits(1, 0)), FORBIDDEN);
        assert_eq!(under(role, || limits(0, 0)), Ok(0));
    }
}

#[test]
fn everything_else_is_refused() {
    for number in [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_memfd_create,
        libc::SYS_execveat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_mount,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_seccomp,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_pkey_mprotect,
        libc::SYS_shmat,
        libc::SYS_inotify_init1,
    ] {
        for role in BOTH {
            assert_eq!(under(role, || call(number, [NO_SUCH; 6])), FORBIDDEN, "{number}");
        }
    }
}

/// Neither a descriptor, nor an address, nor a number of anything.
const NO_SUCH: i64 = -1;

#[test]
fn the_target_may_use_maps_but_makes_none_and_loads_nothing_and_the_client_has_no_bpf_at_all() {
    const BPF_MAP_CREATE: i64 = 0;
    const BPF_MAP_LOOKUP_ELEM: i64 = 1;
    const BPF_PROG_LOAD: i64 = 5;
    const BPF_OBJ_GET: i64 = 7;
    const BPF_PROG_GET_FD_BY_ID: i64 = 13;
    for command in [BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_OBJ_GET, BPF_PROG_GET_FD_BY_ID] {
        assert_eq!(under(Role::ExternalTarget, || call(libc::SYS_bpf, [command])), FORBIDDEN);
    }
    let reached = under(Role::ExternalTarget, || call(libc::SYS_bpf, [BPF_MAP_LOOKUP_ELEM])).unwrap_err();
    // The kernel's own answer: without attributes, or without a right where bpf(2) is for the privileged.
    assert!(matches!(reached, libc::EINVAL | libc::EFAULT | libc::EBADF | libc::EPERM), "{reached:?}");
    assert_eq!(under(Role::Client, || call(libc::SYS_bpf, [BPF_MAP_LOOKUP_ELEM])), FORBIDDEN);
}
