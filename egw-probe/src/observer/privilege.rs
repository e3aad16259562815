//! Capabilities and limits that the kernel side needs, and what to say where they are missing. They are dropped by
//! [`crate::sys::sandbox::keep_only`].
//!
//! Linux keeps capabilities per thread: threads inherit what the one that starts them has.

use std::io;

use caps::{CapSet, Capability};

use crate::observer::error::KernelError;

/// What the kernel side needs, and for what.
pub const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Makes those of [`NEEDED`] effective that the process is permitted, and returns those that it is not.
///
/// A file capability without the effective bit (`+p`, which alone survives a bounding set that lacks one of them) leaves
/// them permitted only.
pub(crate) fn raise() -> Vec<Capability> {
    NEEDED
        .into_iter()
        .filter(|capability| {
            caps::raise(None, CapSet::Effective, *capability).is_err()
                // CAP_SYS_ADMIN stands in for all three, as it did before 5.8 split them off.
                && !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
        })
        .collect()
}

/// The error for a call that was refused with `EPERM` or `EACCES`.
pub(super) fn refused(doing: &'static str, source: io::Error) -> KernelError {
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|c| !caps::has_cap(None, CapSet::Effective, *c).unwrap_or(false))
        .map(|c| c.to_string())
        .collect();
    if !missing.is_empty() {
        return KernelError::Capability { missing: missing.join(" and "), doing };
    }
    if let Some(limit) = low_memory_limit() {
        return KernelError::MemoryLimit { limit };
    }
    KernelError::Forbidden { doing, source }
}

/// `RLIMIT_MEMLOCK`, where it can be what stops us: on kernels that charge maps to it, and when it is finite.
fn low_memory_limit() -> Option<u64> {
    if aya::util::KernelVersion::current().is_ok_and(|v| v >= aya::util::KernelVersion::new(5, 11, 0)) {
        return None;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct of the type the call fills in.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (answer == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Lifts `RLIMIT_MEMLOCK` where the process may; where it may not, creating the maps says so.
pub(super) fn lift_memory_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live struct of the type the call reads.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}
