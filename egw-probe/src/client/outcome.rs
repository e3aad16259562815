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
pub(crate) struct Probe {
    /// Read just before `connect`.
    pub sent: Monotonic,
    /// Read as soon as the handshake was known to be complete.
    pub established: Option<Monotonic>,
    /// When its outcome was known; of one that never left, `sent`.
    pub settled: Monotonic,
    /// What became of it.
    pub outcome: Outcome,
    /// The source address that the target saw, where an annotated reply told it.
    pub egress_ip: Option<IpAddr>,
}

/// Reads a reply as its bytes come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    matched: u8,
}

impl Reply {
    const PONG: &'static [u8] = b"pong\n";

    /// Takes the next bytes; `Some` once they decide.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Outcome> {
        for &byte in bytes {
            if byte != Self::PONG[usize::from(self.matched)] {
                return Some(Outcome::Garbled);
            }
            self.matched += 1;
            if usize::from(self.matched) == Self::PONG.len() {
                return Some(Outcome::Pong);
            }
        }
        None
    }

    /// The outcome if the established connection was closed or reset now.
    pub fn closed(self) -> Outcome {
        if self.matched == 0 { Outcome::Leaked } else { Outcome::Garbled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_is_read_whole_or_byte_by_byte() {
        assert_eq!(Reply::default().read(b"pong\n"), Some(Outcome::Pong));
        assert_eq!(Reply::default().read(b"pong\nsource=192.0.2.1:5\n"), Some(Outcome::Pong));
        let mut reply = Reply::default();
        for byte in b"pong" {
            assert_eq!(reply.read(&[*byte]), None);
        }
        assert_eq!(reply.read(b"\n"), Some(Outcome::Pong));
    }

    #[test]
    fn another_reply_is_garbled_at_its_first_wrong_byte() {
        assert_eq!(Reply::default().read(b"HTTP/1.1 400"), Some(Outcome::Garbled));
        assert_eq!(Reply::default().read(b"pong\r\n"), Some(Outcome::Garbled));
        assert_eq!(Reply::default().read(b"pongpong"), Some(Outcome::Garbled));
    }

    #[test]
    fn closed_without_a_byte_is_leaked_and_with_half_a_pong_garbled() {
        let mut reply = Reply::default();
        assert_eq!(reply.closed(), Outcome::Leaked);
        assert_eq!(reply.read(b"pong"), None);
        assert_eq!(reply.closed(), Outcome::Garbled);
    }

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
