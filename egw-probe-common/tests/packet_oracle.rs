//! The packet walk against an independent parser, over frames that are built, bent, and random.

use std::net::IpAddr;

use egw_probe_common::packet::{self, Link, MAX_VLAN_TAGS, Pass, Syn};
use etherparse::{
    IpNumber, LaxNetSlice, LaxSlicedPacket, LinkExtSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice,
};
use proptest::prelude::*;

const PORT: u16 = 1337;

type Facts = (IpAddr, IpAddr, u16, u32);

fn facts(syn: &Syn) -> Facts {
    (syn.source.into(), syn.destination.into(), syn.source_port, syn.sequence)
}

/// Whether flags are those of a SYN.
fn opens(syn: bool, others: [bool; 3]) -> bool {
    syn && others == [false; 3]
}

/// The SYN as etherparse sees it, on a frame it finds no fault with.
fn oracle(frame: &[u8]) -> Option<Facts> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let tags = sliced.link_exts.iter().filter(|ext| matches!(ext, LinkExtSlice::Vlan(_))).count();
    if tags > MAX_VLAN_TAGS || tags != sliced.link_exts.len() {
        return None;
    }
    let addresses = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return None };
    (tcp.destination_port() == PORT && opens(tcp.syn(), [tcp.ack(), tcp.rst(), tcp.fin()]))
        .then(|| (addresses.0, addresses.1, tcp.source_port(), tcp.sequence_number()))
}

/// The same, forgiving what the walk does not look at: lengths, TCP options that are cut off, further fragments.
fn lax_oracle(frame: &[u8]) -> Option<Facts> {
    let padded = [frame, &[0; 64]].concat();
    let sliced = LaxSlicedPacket::from_ethernet(&padded).ok()?;
    let (source, destination, payload) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) if !ip.header().is_fragmenting_payload() => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload())
        }
        LaxNetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload())
        }
        _ => return None,
    };
    if payload.ip_number != IpNumber::TCP {
        return None;
    }
    // Not from the parsed packet: it does not look into a first fragment.
    let tcp = TcpSlice::from_slice(payload.payload).ok()?;
    (tcp.destination_port() == PORT && opens(tcp.syn(), [tcp.ack(), tcp.rst(), tcp.fin()]))
        .then(|| (source, destination, tcp.source_port(), tcp.sequence_number()))
}

fn tcp() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<u16>(),
        prop_oneof![4 => Just(PORT), 1 => any::<u16>()],
        any::<u32>(),
        5u8..=15,
        prop_oneof![3 => Just(2u8), 2 => any::<u8>()],
        any::<u8>(),
    )
        .prop_map(|(source, port, sequence, words, flags, filler)| {
            let mut header = Vec::new();
            header.extend(source.to_be_bytes());
            header.extend(port.to_be_bytes());
            header.extend(sequence.to_be_bytes());
            header.extend([0; 4]);
            header.extend([words << 4, flags, 1, 0, 0, 0, 0, 0]);
            header.resize(usize::from(words) * 4, filler);
            header
        })
}

fn ipv4() -> impl Strategy<Value = (u16, Vec<u8>)> {
    (
        tcp(),
        5u8..=15,
        any::<[u8; 8]>(),
        prop_oneof![8 => Just(6u8), 1 => any::<u8>()],
        prop_oneof![6 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => any::<u16>()],
    )
        .prop_map(|(payload, words, addresses, protocol, fragment)| {
            let header_len = usize::from(words) * 4;
            let mut packet = vec![0x40 | words, 0];
            packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(fragment.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(addresses);
            packet.resize(header_len, 1);
            packet.extend(payload);
            (0x0800, packet)
        })
}

fn ipv6() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let extension = (prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60)], 1usize..6);
    (tcp(), prop::collection::vec(extension, 0..10), any::<[u8; 32]>()).prop_map(
        |(tcp, extensions, addresses)| {
            let mut payload = Vec::new();
            for (i, (kind, units)) in extensions.iter().enumerate() {
                let len = match kind {
                    44 => 8,
                    51 => (units + 2) * 4,
                    _ => (units + 1) * 8,
                };
                let mut header = vec![0; len];
                header[0] = extensions.get(i + 1).map_or(6, |(next, _)| *next);
                header[1] = if *kind == 44 { 0 } else { *units as u8 };
                payload.extend(header);
            }
            payload.extend(tcp);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([extensions.first().map_or(6, |(kind, _)| *kind), 64]);
            packet.extend(addresses);
            packet.extend(payload);
            (0x86dd, packet)
        },
    )
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::collection::vec(prop_oneof![Just(0x8100u16), Just(0x88a8), Just(0x9100)], 0..4);
    (tags, prop_oneof![ipv4(), ipv6()], 0usize..20).prop_map(|(tags, (ethertype, packet), padding)| {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame.resize(frame.len() + padding, 0);
        frame
    })
}

/// A built frame with a few bytes overwritten, and possibly cut.
fn bent_frame() -> impl Strategy<Value = Vec<u8>> {
    (
        frame(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        prop::option::of(any::<prop::sample::Index>()),
    )
        .prop_map(|(mut frame, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame
        })
}

/// What is true of every frame, whatever made it.
fn agree(frame: &[u8]) -> Result<(), TestCaseError> {
    let found = packet::syn(frame, Link::Ethernet, PORT);
    match (&found, oracle(frame)) {
        (Ok(syn), Some(expected)) => prop_assert_eq!(facts(syn), expected),
        // The oracle wants every byte that a header claims; we want the headers themselves.
        (Ok(syn), None) => prop_assert_eq!(Some(facts(syn)), lax_oracle(frame)),
        // Stricter than the oracle by intent: a chain longer than ours, what no stack accepts.
        (Err(Pass::TooManyExtensions | Pass::Malformed | Pass::Group | Pass::Fragment), Some(_))
        | (Err(_), None) => {}
        (Err(pass), Some(expected)) => prop_assert!(false, "passed as {pass:?}, oracle found {expected:?}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn walk_and_oracle_agree_on_built_frames(frame in frame()) {
        agree(&frame)?;
    }

    #[test]
    fn walk_and_oracle_agree_on_bent_frames(frame in bent_frame()) {
        agree(&frame)?;
    }

    #[test]
    fn random_bytes_are_walked_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agree(&bytes)?;
        let _ = packet::syn(bytes.as_slice(), Link::Ip, PORT);
    }

    #[test]
    fn a_longer_frame_changes_no_verdict(frame in frame(), more in prop::collection::vec(any::<u8>(), 0..64)) {
        let before = packet::syn(frame.as_slice(), Link::Ethernet, PORT);
        let longer = [frame.as_slice(), &more].concat();
        if before != Err(Pass::Truncated) {
            prop_assert_eq!(packet::syn(longer.as_slice(), Link::Ethernet, PORT), before);
        }
    }
}
