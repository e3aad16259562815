//! The packet walk over a table of frames: each row says what the frame is and what the walk makes of it.

use std::net::IpAddr;

use egw_probe_common::packet::{self, Link, MAX_IPV6_EXTENSIONS, Pass, Syn};

const PORT: u16 = 1337;

fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (depth, tpid) in tags.iter().enumerate() {
        frame.extend(tpid.to_be_bytes());
        frame.extend([0, 10 + depth as u8]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn tcp(port: u16, flags: u8, options: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(40_000u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend(0xdead_beefu32.to_be_bytes());
    header.extend([0; 4]);
    header.extend([(((20 + options) / 4) as u8) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(vec![1; options]);
    header
}

fn ipv4(options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options;
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 9, 198, 51, 100, 1]);
    packet.extend(vec![1; options]);
    packet.extend(payload);
    packet
}

fn ipv6(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([first, 64]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend(payload);
    packet
}

/// Puts extension headers before `payload` (TCP); the number of the first, and the bytes.
fn extended(headers: &[(u8, usize)], payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (i, (kind, units)) in headers.iter().enumerate() {
        let next = headers.get(i + 1).map_or(6, |(next, _)| *next);
        let len = match kind {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let mut header = vec![0; len];
        header[0] = next;
        header[1] = if *kind == 44 { 0 } else { *units as u8 };
        bytes.extend(header);
    }
    bytes.extend(payload);
    (headers.first().map_or(6, |(kind, _)| *kind), bytes)
}

fn walk(frame: &[u8]) -> Result<Syn, Pass> {
    packet::syn(frame, Link::Ethernet, PORT)
}

fn assert_syn(found: Result<Syn, Pass>, source: &str, destination: &str) {
    let syn = found.unwrap();
    assert_eq!(IpAddr::from(syn.source), source.parse::<IpAddr>().unwrap());
    assert_eq!(IpAddr::from(syn.destination), destination.parse::<IpAddr>().unwrap());
    assert_eq!((syn.source_port, syn.sequence), (40_000, 0xdead_beef));
}

fn assert_v4(found: Result<Syn, Pass>) {
    assert_syn(found, "192.0.2.9", "198.51.100.1");
}

fn assert_v6(found: Result<Syn, Pass>) {
    assert_syn(found, "2001:db8::9", "2001:db8::1");
}

#[test]
fn a_plain_syn_is_found_in_both_families() {
    assert_v4(walk(&ethernet(&[], 0x0800, &ipv4(0, 0, 6, &tcp(PORT, 0x02, 0)))));
    assert_v6(walk(&ethernet(&[], 0x86dd, &ipv6(6, &tcp(PORT, 0x02, 0)))));
}

#[test]
fn ip_and_tcp_options_are_stepped_over() {
    for options in [4, 20, 40] {
        assert_v4(walk(&ethernet(&[], 0x0800, &ipv4(options, 0, 6, &tcp(PORT, 0x02, 40)))));
    }
}

#[test]
fn one_vlan_tag_and_two_are_stepped_over_and_a_third_is_not_ip() {
    let packet = ipv4(0, 0, 6, &tcp(PORT, 0x02, 0));
    assert_v4(walk(&ethernet(&[0x8100], 0x0800, &packet)));
    assert_v4(walk(&ethernet(&[0x88a8, 0x8100], 0x0800, &packet)));
    assert_v4(walk(&ethernet(&[0x9100, 0x8100], 0x0800, &packet)));
    assert_eq!(walk(&ethernet(&[0x88a8, 0x8100, 0x8100], 0x0800, &packet)), Err(Pass::NotIp));
}

#[test]
fn a_layer_3_device_has_no_ethernet_header() {
    let found = |packet: &[u8]| packet::syn(packet, Link::Ip, PORT);
    assert_v4(found(&ipv4(8, 0, 6, &tcp(PORT, 0x02, 0))));
    assert_v6(found(&ipv6(6, &tcp(PORT, 0x02, 0))));
    assert_eq!(found(&[0; 60]), Err(Pass::NotIp));
}

#[test]
fn every_extension_header_is_stepped_over_by_its_own_unit() {
    let syn = tcp(PORT, 0x02, 0);
    for headers in [
        &[(0, 0)][..],
        &[(60, 3)],
        &[(43, 2)],
        &[(44, 0)],
        &[(51, 4)],
        &[(0, 1), (60, 0), (43, 0), (44, 0), (51, 1), (60, 2), (60, 0), (60, 1)],
    ] {
        let (first, payload) = extended(headers, &syn);
        assert_v6(walk(&ethernet(&[], 0x86dd, &ipv6(first, &payload))));
    }
}

#[test]
fn one_extension_header_too_many_is_not_followed() {
    let (first, payload) = extended(&[(60, 0); MAX_IPV6_EXTENSIONS + 1], &tcp(PORT, 0x02, 0));
    assert_eq!(walk(&ethernet(&[], 0x86dd, &ipv6(first, &payload))), Err(Pass::TooManyExtensions));
}

#[test]
fn a_fragment_is_none_wherever_it_lies() {
    let syn = tcp(PORT, 0x02, 0);
    assert_v4(walk(&ethernet(&[], 0x0800, &ipv4(0, 0x4000, 6, &syn))));
    for fragment in [0x2000, 1, 0x2001] {
        assert_eq!(walk(&ethernet(&[], 0x0800, &ipv4(0, fragment, 6, &syn))), Err(Pass::Fragment));
    }
    let (first, mut payload) = extended(&[(44, 0)], &syn);
    // All of a packet may lie in one (RFC 6946); what is reserved does not matter.
    for (byte, expected) in
        [(0x00, None), (0x06, None), (0x01, Some(Pass::Fragment)), (0x08, Some(Pass::Fragment))]
    {
        payload[3] = byte;
        assert_eq!(walk(&ethernet(&[], 0x86dd, &ipv6(first, &payload))).err(), expected, "{byte:#x}");
    }
    let (first, payload) = extended(&[(44, 0), (44, 0)], &syn);
    assert_eq!(walk(&ethernet(&[], 0x86dd, &ipv6(first, &payload))), Err(Pass::Malformed));
}

#[test]
fn a_packet_that_has_yet_to_go_elsewhere_is_not_for_this_host() {
    let (first, mut payload) = extended(&[(43, 2)], &tcp(PORT, 0x02, 0));
    payload[3] = 1;
    assert_eq!(walk(&ethernet(&[], 0x86dd, &ipv6(first, &payload))), Err(Pass::Malformed));
}

#[test]
fn a_frame_to_a_group_begins_no_connection() {
    let mut frame = ethernet(&[], 0x0800, &ipv4(0, 0, 6, &tcp(PORT, 0x02, 0)));
    for first in [0x01, 0x33, 0xff] {
        frame[0] = first;
        assert_eq!(walk(&frame), Err(Pass::Group));
    }
}

#[test]
fn a_source_that_is_nobodys_is_not_believed() {
    let walk_from = |source: [u8; 4]| {
        let mut packet = ipv4(0, 0, 6, &tcp(PORT, 0x02, 0));
        packet[12..16].copy_from_slice(&source);
        walk(&ethernet(&[], 0x0800, &packet)).err()
    };
    for source in [[0, 0, 0, 0], [0, 1, 2, 3], [224, 0, 0, 1], [239, 255, 255, 255], [255; 4]] {
        assert_eq!(walk_from(source), Some(Pass::Malformed), "{source:?}");
    }
    for source in [[1, 0, 0, 1], [223, 255, 255, 255], [240, 0, 0, 1], [127, 0, 0, 1], [255, 255, 255, 254]] {
        assert_eq!(walk_from(source), None, "{source:?}");
    }
    let mut packet = ipv6(6, &tcp(PORT, 0x02, 0));
    packet[8] = 0xff;
    assert_eq!(walk(&ethernet(&[], 0x86dd, &packet)), Err(Pass::Malformed));
}

#[test]
fn syn_counts_without_ack_fin_and_rst_whatever_the_other_flags() {
    let found = |flags| walk(&ethernet(&[], 0x0800, &ipv4(0, 0, 6, &tcp(PORT, flags, 0))));
    for flags in [0x02, 0x0a, 0x42, 0xc2, 0xea] {
        assert_v4(found(flags));
    }
    for flags in [0x12, 0x10, 0x03, 0x06, 0x04, 0x14, 0x18, 0x01, 0x00, 0xd2, 0xc3] {
        assert_eq!(found(flags), Err(Pass::NotSyn), "flags {flags:#x}");
    }
}

#[test]
fn other_ports_and_protocols_are_not_ours() {
    let packet = |protocol, port| ethernet(&[], 0x0800, &ipv4(0, 0, protocol, &tcp(port, 0x02, 0)));
    assert_eq!(walk(&packet(6, PORT + 1)), Err(Pass::OtherPort));
    assert_eq!(walk(&packet(6, PORT.swap_bytes())), Err(Pass::OtherPort));
    assert_eq!(walk(&packet(17, PORT)), Err(Pass::NotTcp));
    assert_eq!(walk(&ethernet(&[], 0x86dd, &ipv6(58, &tcp(PORT, 2, 0)))), Err(Pass::NotTcp));
    assert_eq!(walk(&ethernet(&[], 0x0806, &[0; 46])), Err(Pass::NotIp));
}

#[test]
fn headers_that_contradict_themselves_are_not_believed() {
    let good = ipv4(0, 0, 6, &tcp(PORT, 0x02, 0));
    for (byte, value) in [(0, 0x65), (0, 0x44), (3, 39), (2, 0)] {
        let mut bad = good.clone();
        bad[byte] = value;
        if byte == 2 {
            bad[3] = 19;
        }
        assert_eq!(walk(&ethernet(&[], 0x0800, &bad)), Err(Pass::Malformed), "byte {byte} = {value:#x}");
    }
    let mut short_tcp = good;
    short_tcp[32] = 0x40;
    assert_eq!(walk(&ethernet(&[], 0x0800, &short_tcp)), Err(Pass::Malformed));
}

#[test]
fn a_mapped_ipv6_address_cannot_pose_as_one_of_ipv4() {
    let packet = ipv6(6, &tcp(PORT, 0x02, 0));
    for at in [8, 24] {
        let mut packet = packet.clone();
        packet[at..at + 16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(walk(&ethernet(&[], 0x86dd, &packet)), Err(Pass::Malformed));
    }
}

#[test]
fn a_frame_cut_off_anywhere_in_its_headers_is_truncated() {
    let (first, payload) = extended(&[(0, 1), (60, 0), (51, 1)], &tcp(PORT, 0x02, 0));
    for (frame, tcp_end) in [
        (ethernet(&[0x8100], 0x0800, &ipv4(8, 0, 6, &tcp(PORT, 0x02, 8))), 14 + 4 + 28 + 20),
        (ethernet(&[0x88a8, 0x8100], 0x86dd, &ipv6(first, &payload)), 14 + 8 + 40 + payload.len()),
    ] {
        for len in 0..tcp_end {
            assert_eq!(walk(&frame[..len]), Err(Pass::Truncated), "cut to {len} of {tcp_end} bytes");
        }
        assert!(walk(&frame[..tcp_end]).is_ok());
    }
}
