//! Why a dial failed: from the error of a system call to a reason.

use std::io;

use serde::{Deserialize, Serialize};

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialFailure {
    /// No local port is free for any pair of source address and target (EADDRNOTAVAIL).
    NoLocalPort,
    /// This process (EMFILE) or this host (ENFILE) has no descriptor left.
    NoDescriptor,
    /// This host has no memory for another socket (ENOBUFS, ENOMEM).
    NoMemory,
    /// A local rule forbids it (EPERM, EACCES: a firewall's REJECT, a cgroup program).
    Forbidden,
    /// No answer within the dial timeout.
    Timeout,
    /// RST to the SYN.
    Refused,
    /// RST right after the handshake.
    Reset,
    /// An ICMP error or no route.
    Unreachable,
    /// Anything else; the list of failures has its text.
    Other,
}

impl DialFailure {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::NoLocalPort,
        Self::NoDescriptor,
        Self::NoMemory,
        Self::Forbidden,
        Self::Timeout,
        Self::Refused,
        Self::Reset,
        Self::Unreachable,
        Self::Other,
    ];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoLocalPort => "no_local_port",
            Self::NoDescriptor => "no_descriptor",
            Self::NoMemory => "no_memory",
            Self::Forbidden => "forbidden",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }

    /// The reason behind an error of socket, connect, or the handshake.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // EAGAIN: connect(2), "insufficient entries in the routing cache" or no port.
            Some(libc::EADDRNOTAVAIL | libc::EAGAIN | libc::EADDRINUSE) => Self::NoLocalPort,
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptor,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::NoMemory,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ETIMEDOUT) => Self::Timeout,
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ECONNRESET | libc::EPIPE) => Self::Reset,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
                Self::Unreachable
            }
            _ if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_dial_has_its_reason() {
        for (errno, expected) in [
            (libc::EADDRNOTAVAIL, DialFailure::NoLocalPort),
            (libc::EMFILE, DialFailure::NoDescriptor),
            (libc::ENOMEM, DialFailure::NoMemory),
            (libc::EPERM, DialFailure::Forbidden),
            (libc::ETIMEDOUT, DialFailure::Timeout),
            (libc::ECONNREFUSED, DialFailure::Refused),
            (libc::ECONNRESET, DialFailure::Reset),
            (libc::EHOSTUNREACH, DialFailure::Unreachable),
            (libc::EPROTO, DialFailure::Other),
        ] {
            assert_eq!(DialFailure::of(&io::Error::from_raw_os_error(errno)), expected);
        }
        let own = io::Error::new(io::ErrorKind::TimedOut, "no answer within 5s");
        assert_eq!(DialFailure::of(&own), DialFailure::Timeout);
    }

    #[test]
    fn names_are_those_of_the_document() {
        for failure in DialFailure::ALL {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.name());
        }
    }
}
