//! From the error of a system call to the reason why a dial failed or a connection was lost.

use std::io;

use crate::document::held::LossReason;
use crate::document::stress::DialFailure;

/// The reason behind an error of socket, connect, or the handshake.
pub(crate) fn dial_failure(error: &io::Error) -> DialFailure {
    match error.raw_os_error() {
        // EAGAIN: connect(2), "insufficient entries in the routing cache" or no port.
        Some(libc::EADDRNOTAVAIL | libc::EAGAIN | libc::EADDRINUSE) => DialFailure::NoLocalPort,
        Some(libc::EMFILE | libc::ENFILE) => DialFailure::NoDescriptor,
        Some(libc::ENOBUFS | libc::ENOMEM) => DialFailure::NoMemory,
        Some(libc::EPERM | libc::EACCES) => DialFailure::Forbidden,
        Some(libc::ETIMEDOUT) => DialFailure::Timeout,
        Some(libc::ECONNREFUSED) => DialFailure::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => DialFailure::Reset,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
            DialFailure::Unreachable
        }
        _ if error.kind() == io::ErrorKind::TimedOut => DialFailure::Timeout,
        _ => DialFailure::Other,
    }
}

/// The reason behind the error that a connection ended with; none is an orderly close.
pub(crate) fn loss_reason(error: Option<&io::Error>) -> LossReason {
    match error.and_then(io::Error::raw_os_error) {
        None => LossReason::Closed,
        Some(libc::ECONNRESET | libc::EPIPE) => LossReason::Reset,
        Some(libc::ETIMEDOUT) => LossReason::TimedOut,
        Some(_) => LossReason::Unreachable,
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
            assert_eq!(dial_failure(&io::Error::from_raw_os_error(errno)), expected);
        }
        let own = io::Error::new(io::ErrorKind::TimedOut, "no answer within 5s");
        assert_eq!(dial_failure(&own), DialFailure::Timeout);
    }

    #[test]
    fn names_are_those_of_the_document() {
        for failure in DialFailure::ALL {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.name());
        }
    }
}
