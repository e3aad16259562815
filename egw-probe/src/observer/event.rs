//! Bytes from the ring become events here, in one free function that needs no kernel to test.

use std::net::SocketAddr;

use egw_probe_common::class;
use egw_probe_common::event::SynEvent;

use crate::document::verdict::Verdict;
use crate::sys::clock::Monotonic;

/// One SYN that the kernel saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynSeen {
    /// When it arrived.
    pub at: Monotonic,
    /// Where it came from; a 4-in-6 mapped source is the IPv4 address.
    pub source: SocketAddr,
    /// Its initial sequence number.
    pub sequence: u32,
    /// Index of the interface it came in on.
    pub ifindex: u32,
    /// Which side of the allowed CIDRs it came from.
    pub class: Verdict,
}

/// Reads one ring record; `None` when it is not one of ours (a length or class that no version has written).
pub fn parse(bytes: &[u8]) -> Option<SynSeen> {
    if bytes.len() != size_of::<SynEvent>() {
        return None;
    }
    // SAFETY: as many bytes as the struct has, for which every bit pattern is a value; the read needs no alignment.
    let event = unsafe { bytes.as_ptr().cast::<SynEvent>().read_unaligned() };
    let class = match event.class {
        class::ALLOWED => Verdict::Allowed,
        class::DENIED => Verdict::Denied,
        _ => return None,
    };
    Some(SynSeen {
        at: Monotonic::from_ns(event.stamp_ns),
        source: SocketAddr::new(event.source.into(), event.source_port),
        sequence: event.sequence,
        ifindex: event.ifindex,
        class,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(class: u8) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&1_000_000_007u64.to_ne_bytes());
        bytes[18..20].copy_from_slice(&[0xff, 0xff]);
        bytes[20..24].copy_from_slice(&[192, 0, 2, 9]);
        bytes[24..28].copy_from_slice(&0xdead_beef_u32.to_ne_bytes());
        bytes[28..32].copy_from_slice(&3u32.to_ne_bytes());
        bytes[32..34].copy_from_slice(&40_000u16.to_ne_bytes());
        bytes[34] = class;
        bytes
    }

    #[test]
    fn a_record_becomes_the_event_that_the_kernel_wrote() {
        assert_eq!(
            parse(&record(1)),
            Some(SynSeen {
                at: Monotonic::from_ns(1_000_000_007),
                source: "192.0.2.9:40000".parse().unwrap(),
                sequence: 0xdead_beef,
                ifindex: 3,
                class: Verdict::Allowed,
            })
        );
    }

    #[test]
    fn records_of_another_length_or_class_are_refused() {
        assert_eq!(parse(&record(1)[..39]), None);
        assert_eq!(parse(&[0; 48]), None);
        assert_eq!(parse(&record(2)), None);
    }
}
