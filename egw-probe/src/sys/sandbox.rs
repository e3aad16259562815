//! What the process may still ask of the kernel once it is set up: as nobody, without capabilities but those it goes on using,
//! without new privileges, behind a seccomp filter over all threads.

use std::io;

use caps::{CapSet, Capability};

use crate::sys::seccomp;
pub(crate) use crate::sys::seccomp::Role;
use crate::sys::user::NextUser;

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

/// The calling thread becomes `user`, with no capabilities but `keep`. Users and capabilities belong to the thread in Linux:
/// each that runs already does it for itself, and those that follow inherit it.
pub(crate) fn shed(user: NextUser, keep: &[Capability]) -> io::Result<()> {
    user.enter()?;
    keep_only(keep)
}

/// Puts every thread of the process under the filter of `role`, for good. Where the kernel has no seccomp, or somebody
/// forbids its use, a warning says so, and measuring goes on.
pub(crate) fn enter(role: Role) {
    if let Err(error) = seccomp::enter(role) {
        tracing::warn!("no seccomp filter: {error}");
    }
}
