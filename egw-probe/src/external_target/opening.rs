//! What the SYN of an accepted connection said, from the headers that the kernel saved of it. Pure.

use egw_probe_common::packet::{self, Link};

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_SEGMENT_SIZE: u8 = 2;
const OPTION_TIMESTAMP: u8 = 8;

/// A SYN that opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Its initial sequence number.
    pub sequence: u32,
    /// The timestamp value that it carried (RFC 7323).
    pub timestamp: Option<u32>,
    /// The maximum segment size that it announced, in bytes.
    pub segment_size: Option<u16>,
}

impl Opening {
    /// Reads saved headers (`TCP_SAVED_SYN`) of a SYN to `port`; `None` if there are none, as after a SYN cookie.
    pub(crate) fn read(headers: &[u8], port: u16) -> Option<Self> {
        let syn = packet::syn(headers, Link::Ip, port).ok()?;
        let header = headers.get(usize::from(syn.tcp_at)..)?;
        let length = usize::from(header.get(12)? >> 4) * 4;
        let options = header.get(20..length.min(header.len())).unwrap_or_default();
        Some(Self {
            sequence: syn.sequence,
            timestamp: option(options, OPTION_TIMESTAMP)
                .map(|[a, b, c, d, ..]: [u8; 8]| u32::from_be_bytes([a, b, c, d])),
            segment_size: option(options, OPTION_SEGMENT_SIZE).map(u16::from_be_bytes),
        })
    }
}

/// The value of the first option of this kind and length (RFC 9293 section 3.1).
fn option<const LENGTH: usize>(options: &[u8], wanted: u8) -> Option<[u8; LENGTH]> {
    let mut rest = options;
    loop {
        match *rest {
            [OPTION_END, ..] | [] | [_] => return None,
            [OPTION_NOP, ref next @ ..] => rest = next,
            [kind, length, ..] => {
                let value = rest.get(2..usize::from(length))?;
                if kind == wanted && value.len() == LENGTH {
                    return value.first_chunk().copied();
                }
                rest = &rest[usize::from(length)..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 1337;
    /// As Linux sends them: segment size 1460, SACK, timestamp 0x01020304, padding, window scale.
    const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

    fn tcp(options: &[u8]) -> Vec<u8> {
        let words = 5 + options.len().div_ceil(4);
        let mut header =
            vec![0x9c, 0x40, 0x05, 0x39, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, (words as u8) << 4, 2];
        header.resize(20, 0);
        header.extend(options);
        header.resize(words * 4, 0);
        header
    }

    fn over_ipv4(options: &[u8]) -> Vec<u8> {
        let tcp = tcp(options);
        let mut headers = vec![0x46, 0, 0, (24 + tcp.len()) as u8, 0, 0, 0, 0, 64, 6, 0, 0];
        headers.extend([192, 0, 2, 9, 198, 51, 100, 1, 1, 1, 1, 1]);
        headers.extend(tcp);
        headers
    }

    fn read(options: &[u8]) -> (Option<u32>, Option<u16>) {
        let opening = Opening::read(&over_ipv4(options), PORT).unwrap();
        assert_eq!(opening.sequence, 0xdead_beef);
        (opening.timestamp, opening.segment_size)
    }

    #[test]
    fn timestamp_and_segment_size_are_those_of_the_syn() {
        assert_eq!(read(&LINUX), (Some(0x0102_0304), Some(1460)));
        // Another order, and an option that nobody knows in between.
        assert_eq!(read(&[1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 99, 3, 1, 2, 4, 2, 9]), (Some(7), Some(521)));
    }

    #[test]
    fn headers_of_ipv6_may_have_extensions() {
        let tcp = tcp(&LINUX);
        let mut headers = vec![0x60, 0, 0, 0, 0, (8 + tcp.len()) as u8, 60, 64];
        headers.extend([0x20; 32]);
        headers.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        headers.extend(tcp);
        let read = Opening::read(&headers, PORT).unwrap();
        assert_eq!((read.timestamp, read.segment_size), (Some(0x0102_0304), Some(1460)));
    }

    #[test]
    fn what_a_syn_lacks_or_says_wrongly_is_left_out() {
        for options in [
            &[][..],
            &[0, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0],
            &[2, 0],
            &[2, 1],
            &[2, 3, 5],
            &[8, 10, 1],
            &[8],
            &[1, 1, 1, 1, 1, 2, 4, 5],
        ] {
            assert_eq!(read(options), (None, None), "{options:?}");
        }
        assert_eq!(Opening::read(&[], PORT), None);
        assert_eq!(Opening::read(&over_ipv4(&LINUX), PORT + 1), None);
    }

    #[test]
    fn no_bytes_are_read_out_of_bounds() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let options: Vec<u8> = (0..random.usize(..=40)).map(|_| random.u8(..12)).collect();
            let headers = over_ipv4(&options);
            Opening::read(&headers[..random.usize(..=headers.len())], PORT);
        }
    }
}
