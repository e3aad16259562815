//! Bytes that no generator thought of: the walk reads nothing out of bounds, agrees with an independent parser wherever
//! that finds no fault, and names the same SYN when the frame goes on.
#![no_main]

use egw_probe_common::packet::{self, Link, MAX_VLAN_TAGS, Pass};
use etherparse::{LinkExtSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (port, frame) = input;
    let _ = packet::syn(frame, Link::Ip, port);
    let found = packet::syn(frame, Link::Ethernet, port);
    let longer = [frame, &[0xa5; 32]].concat();
    if found != Err(Pass::Truncated) {
        assert_eq!(packet::syn(longer.as_slice(), Link::Ethernet, port), found);
    }
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return };
    let vlan = |ext: &&LinkExtSlice<'_>| matches!(ext, LinkExtSlice::Vlan(_));
    let tags = sliced.link_exts.iter().filter(vlan).count();
    if tags != sliced.link_exts.len() || tags > MAX_VLAN_TAGS {
        return;
    }
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return };
    let expected = tcp.destination_port() == port && tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
    match found {
        Ok(syn) => {
            assert!(expected);
            assert_eq!((syn.source_port, syn.sequence), (tcp.source_port(), tcp.sequence_number()));
        }
        // Stricter than the oracle by intent.
        Err(Pass::TooManyExtensions | Pass::Malformed | Pass::Group | Pass::Fragment) => {}
        Err(_) => assert!(!expected),
    }
});
