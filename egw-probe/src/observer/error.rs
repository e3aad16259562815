//! Why the kernel side is not to be had: each kind names what is missing and what to do about it.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use aya::programs::xdp::XdpError;

/// Why the kernel cannot observe SYNs for us.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process lacks capabilities (or a seccomp or lockdown policy forbids the call in spite of them).
    #[error("missing {missing} for {doing}; {hint}", hint = capability_hint())]
    Capability {
        /// The missing ones, such as `CAP_BPF and CAP_PERFMON`.
        missing: String,
        /// What they are needed for.
        doing: &'static str,
    },
    /// All capabilities are there, and the kernel refuses nevertheless.
    #[error(
        "the kernel refused {doing} although CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there ({source}); look for \
         a seccomp profile or a lockdown mode that forbids bpf(2)"
    )]
    Forbidden {
        /// What was refused.
        doing: &'static str,
        /// The system call's error.
        source: io::Error,
    },
    /// Before 5.11 maps count against `RLIMIT_MEMLOCK`.
    #[error(
        "RLIMIT_MEMLOCK is {limit} bytes, too low for the maps on a kernel before 5.11; raise it (`ulimit -l unlimited`, \
         `LimitMEMLOCK=infinity`)"
    )]
    MemoryLimit {
        /// The limit in force.
        limit: u64,
    },
    /// The kernel lacks a feature.
    #[error("this kernel lacks {feature}, which came with {since}; the minimum is 5.10 ({source})")]
    Unsupported {
        /// The feature.
        feature: &'static str,
        /// The kernel version that brought it.
        since: &'static str,
        /// The system call's error.
        source: io::Error,
    },
    /// The verifier rejected a program: a bug of ours, or a kernel we have not met.
    #[error("the kernel's verifier rejected the program {program}: {source}")]
    Rejected {
        /// Which entry point.
        program: &'static str,
        /// The verifier's words.
        source: Box<ProgramError>,
    },
    /// The embedded object is not what this program expects.
    #[error("the embedded kernel object is broken ({what}); rebuild it with `cargo xtask ebpf`")]
    Object {
        /// What was wrong.
        what: String,
    },
    /// No interface with this name.
    #[error("--interface {name}: no such interface; `ip link` lists them")]
    NoInterface {
        /// The name as given.
        name: String,
    },
    /// A mode that is named is not to be had, where it must be.
    #[error(
        "--ebpf-attach {requested} is not to be had ({source}); choose another mode, or with --interface an interface that has it"
    )]
    NamedMode {
        /// The mode as named.
        requested: String,
        /// The system call's error.
        source: io::Error,
    },
    /// No interface could be attached to at all.
    #[error("no interface could be attached to: {reasons}")]
    NothingAttached {
        /// One reason for each interface that was tried.
        reasons: String,
    },
    /// A map could not be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// aya's error.
        source: MapError,
    },
    /// Interfaces or addresses could not be read from the kernel.
    #[error("netlink: {doing}: {source}")]
    Netlink {
        /// What was asked for.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The process's clock is off from the kernel's by nobody knows how much.
    #[error(
        "the offset of this process's time namespace cannot be known ({found}): kernel stamps would be off by it; run the \
         target in the host's time namespace"
    )]
    TimeNamespace {
        /// What was found instead.
        found: String,
    },
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Anything else the operating system refused.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl KernelError {
    /// Whether the interface that was to be attached to is not there any more.
    pub(super) fn is_of_a_vanished_interface(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }
}

fn capability_hint() -> &'static str {
    "run as root, or grant them: `setcap cap_bpf,cap_net_admin,cap_perfmon+p` on the file, or the container's \
     securityContext.capabilities.add [BPF, NET_ADMIN, PERFMON]"
}

/// The operating system's error number inside one of aya's errors.
pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        ProgramError::SyscallError(e) => e.io_error.raw_os_error(),
        ProgramError::NetlinkError(e)
        | ProgramError::XdpError(XdpError::NetlinkError(e))
        | ProgramError::TcError(TcError::NetlinkError(e)) => e.raw_os_error(),
        ProgramError::IOError(e) | ProgramError::TcError(TcError::IoError(e)) => e.raw_os_error(),
        ProgramError::MapError(e) => map_errno(e),
        ProgramError::UnknownInterface { .. } => Some(libc::ENODEV),
        _ => None,
    }
}

/// The same for map errors.
pub(super) fn map_errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::CreateError { io_error, .. } => io_error.raw_os_error(),
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        MapError::IoError(e) => e.raw_os_error(),
        _ => None,
    }
}

/// The same for loading errors.
pub(super) fn ebpf_errno(error: &EbpfError) -> Option<i32> {
    match error {
        EbpfError::MapError(e) => map_errno(e),
        EbpfError::ProgramError(e) => errno(e),
        EbpfError::FileError { error, .. } => error.raw_os_error(),
        _ => None,
    }
}

pub(super) fn into_io(error: aya::programs::ProgramError) -> io::Error {
    match errno(&error) {
        Some(n) => io::Error::from_raw_os_error(n),
        None => io::Error::other(error),
    }
}

pub(super) fn tc_into_io(error: TcError) -> io::Error {
    into_io(error.into())
}
