//! What became of a probe, decided from what its socket said.

use std::io;
use std::net::IpAddr;

use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// The outcome of a connection attempt that failed before it was established. `ECONNRESET` is not among them: the
/// kernel reports an RST to the SYN as `ECONNREFUSED` (`tcp_reset`, net/ipv4/tcp_input.c).
pub(crate) fn of_connect_error(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Outcome::Refused,
        Some(libc::ETIMEDOUT) => Outcome::Timeout,
        Some(
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EMSGSIZE
            | libc::EACCES,
        ) => Outcome::Unreachable,
        _ => Outcome::Error,
    }
}

/// A probe whose outcome is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Read just before `connect`.
    pub sent: Monotonic,
    /// Read as soon as the handshake was known to be complete.
    pub established: Option<Monotonic>,
    /// When its outcome was known; of one that never left, `sent`.
    pub settled: Monotonic,
    /// How it ended.
    pub end: ProbeEnd,
    /// It bounds nothing: NAT may still hold what a lost probe from its source port left there.
    pub unsafe_port: bool,
}

impl Probe {
    /// What became of it.
    pub const fn outcome(&self) -> Outcome {
        self.end.outcome
    }

    /// By when its SYN had certainly got through, if it got a pong: a handshake proves it only where nothing in between can
    /// have made it.
    pub fn got_through(&self) -> Monotonic {
        match (self.end.end_to_end, self.established) {
            (Some(true), Some(established)) => established,
            _ => self.settled,
        }
    }
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeEnd {
    /// What became of it.
    pub outcome: Outcome,
    /// The source address that the target saw: there is one if the reply was annotated.
    pub source: Option<IpAddr>,
    /// Whether nothing in between terminated TCP, where that is known.
    pub end_to_end: Option<bool>,
}

impl ProbeEnd {
    /// Without an annotation.
    pub const fn plain(outcome: Outcome) -> Self {
        Self { outcome, source: None, end_to_end: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_path_are_told_from_errors_of_this_host() {
        for (errno, expected) in [
            (libc::ECONNREFUSED, Outcome::Refused),
            (libc::EHOSTUNREACH, Outcome::Unreachable),
            (libc::ENETUNREACH, Outcome::Unreachable),
            (libc::ETIMEDOUT, Outcome::Timeout),
            (libc::EADDRNOTAVAIL, Outcome::Error),
            (libc::EMFILE, Outcome::Error),
            (libc::EPERM, Outcome::Error),
        ] {
            assert_eq!(of_connect_error(&io::Error::from_raw_os_error(errno)), expected);
        }
    }
}
