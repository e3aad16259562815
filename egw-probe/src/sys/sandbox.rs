//! What the process may still ask of the kernel once it is set up: no capabilities but those it goes on using,
//! without new privileges, behind a seccomp filter over all threads.

use std::io;

use caps::{CapSet, Capability};

use crate::sys::seccomp;

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

/// Puts every thread of the process under the filter of `role`, for good. Where the kernel has no seccomp, or somebody
/// forbids its use, a warning says so, and measuring goes on.
pub(crate) fn enter(role: Role) {
    if let Err(error) = seccomp::enter(role) {
        tracing::warn!("no seccomp filter: {error}");
    }
}
