//! SYN tags: a client's number in the initial sequence number of every SYN (design section 6 of the README).

use std::io;

use egw_probe_common::tag::{MAX_CLIENT, Tag, TagKey};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tcp;

/// Tags one client's SYNs, one after another.
#[derive(Debug, Clone)]
pub struct Tagger {
    client: u16,
    key: TagKey,
    sent: u64,
}

impl Tagger {
    /// A tagger for client `1..=4095`, if this process may choose sequence numbers.
    ///
    /// # Errors
    /// What the kernel says to the attempt: `EPERM` without `CAP_NET_ADMIN`, which [`crate::sandbox::keep_only`] makes effective
    /// where a file capability only permits it.
    pub fn new(client: u16, key: TagKey) -> io::Result<Self> {
        let trial = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        tcp::set_initial_sequence(&trial, 1)?;
        Ok(Self { client, key, sent: 0 })
    }

    /// Notes that the SYN with the last tag has left.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// The client's number.
    pub const fn client(&self) -> u16 {
        self.client
    }

    /// Gives the SYN that `socket` will send the next tag. It counts as sent only by [`Tagger::sent`].
    pub fn tag(&self, socket: &Socket) -> io::Result<()> {
        let tag = Tag::new(self.client, self.sent).ok_or(io::ErrorKind::InvalidInput)?;
        tcp::set_initial_sequence(socket, tag.encode(self.key))
    }
}

/// The number that `--tag auto` makes of a client's name, 1 to 4095: FNV-1a (RFC 9923) of its bytes, which stays the
/// same from one version to the next. Of 100 names 2 to 3 share
/// their number with another on average, of 1,000 about 220; the target notices and says so.
pub fn number_of(client_id: &str) -> u16 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = client_id.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    (hash % u64::from(MAX_CLIENT)) as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_in_range() {
        for name in ["", "pod-0", "pod-1", "a-very-long-pod-name-7f9c6d5b4-x2x4z"] {
            assert!((1..=MAX_CLIENT).contains(&number_of(name)));
            assert_eq!(number_of(name), number_of(name));
        }
        // The published hash of "a" is 0xaf63dc4c8601ec8c.
        assert_eq!(u64::from(number_of("a")), 0xaf63_dc4c_8601_ec8c % 4095 + 1);
        assert_ne!(number_of("pod-0"), number_of("pod-1"));
    }
}
