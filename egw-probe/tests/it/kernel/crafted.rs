//! Frames to a target, right in every respect but those that are changed on purpose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kernel::net::{PORT, V4, v6};

/// MAC addresses of the two ends.
pub(crate) const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub(crate) const SYN: u8 = 0x02;
const TCP: u8 = 6;

/// A frame that is put together from these parts.
#[derive(Clone)]
pub(crate) struct Crafted {
    pub(crate) to: [u8; 6],
    /// VLAN tags: type and number.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ethertype: u16,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Version and, of IPv4, the header's length in words.
    pub(crate) first: u8,
    pub(crate) service: u8,
    pub(crate) fragment: u16,
    pub(crate) lifetime: u8,
    pub(crate) protocol: u8,
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers: kind, and all of the header behind the kind of the next.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// What the IP header says of the length.
    pub(crate) length: Option<u16>,
    pub(crate) spoil_ip_checksum: bool,
    pub(crate) tcp: Vec<u8>,
    pub(crate) spoil_tcp_checksum: bool,
    /// Behind what the IP header speaks of.
    pub(crate) trailer: usize,
}

/// A TCP header with these options.
pub(crate) fn tcp(flags: u16, options: &[u8]) -> Vec<u8> {
    let mut header = [0x10u16.to_be_bytes(), PORT.to_be_bytes()].concat();
    header.extend([0, 1, 0xe2, 0x40, 0, 0, 0, 0]);
    let words = 5 + options.len() as u16 / 4;
    header.extend((words << 12 | flags).to_be_bytes());
    header.extend([0xfa, 0xf0, 0, 0, 0, 0]);
    header.extend(options);
    header
}

/// The segment size of Ethernet.
const MSS: [u8; 4] = [2, 4, 5, 0xb4];

impl Crafted {
    /// A SYN from this source.
    pub(crate) fn syn(source: IpAddr) -> Self {
        let is_v4 = source.is_ipv4();
        Self {
            to: TO,
            tags: vec![],
            ethertype: if is_v4 { 0x0800 } else { 0x86dd },
            source,
            destination: if is_v4 { V4 } else { v6() },
            first: if is_v4 { 0x45 } else { 0x60 },
            service: 0,
            fragment: 0,
            lifetime: 64,
            protocol: TCP,
            options: vec![],
            extensions: vec![],
            length: None,
            spoil_ip_checksum: false,
            tcp: tcp(u16::from(SYN), &MSS),
            spoil_tcp_checksum: false,
            trailer: 0,
        }
    }

    /// The bytes of the frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        self.around(&payload)
    }

    /// The frames of two fragments, the first one with so many bytes.
    pub(crate) fn fragments(&self, cut: usize) -> [Vec<u8>; 2] {
        let payload = self.segment();
        let behind = (cut / 8) as u16;
        let whole = Self { extensions: vec![], ..self.clone() };
        if self.source.is_ipv4() {
            let part = |fragment, bytes: &[u8]| Self { fragment, ..whole.clone() }.around(bytes);
            return [part(0x2000, &payload[..cut]), part(behind, &payload[cut..])];
        }
        let part = |offset: u16, bytes: &[u8]| {
            let mut body = vec![TCP, 0];
            body.extend(offset.to_be_bytes());
            body.extend([0, 0, 0, 9]);
            body.extend(bytes);
            Self { protocol: 44, ..whole.clone() }.around(&body)
        };
        [part(1, &payload[..cut]), part(behind << 3, &payload[cut..])]
    }

    /// The TCP segment with its checksum.
    fn segment(&self) -> Vec<u8> {
        let mut segment = self.tcp.clone();
        let mut pseudo = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => panic!("two families"),
        };
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, TCP]);
        pseudo.extend(&segment);
        let spoilt = if self.spoil_tcp_checksum { 0x1234 } else { 0 };
        if let Some(place) = segment.get_mut(16..18) {
            place.copy_from_slice(&(checksum(&pseudo) ^ spoilt).to_be_bytes());
        }
        segment
    }

    /// Extension headers and segment.
    fn payload(&self) -> Vec<u8> {
        let mut payload = vec![];
        for (place, (_, body)) in self.extensions.iter().enumerate() {
            payload.push(self.extensions.get(place + 1).map_or(self.protocol, |(kind, _)| *kind));
            payload.extend(body);
        }
        payload.extend(self.segment());
        payload
    }

    fn around(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.to, FROM].concat();
        for (kind, number) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(number.to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => frame.extend(self.ipv4(from, to, payload.len())),
            (IpAddr::V6(from), IpAddr::V6(to)) => frame.extend(self.ipv6(from, to, payload.len())),
            _ => panic!("two families"),
        }
        frame.extend(payload);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
        let length = self.length.unwrap_or((20 + self.options.len() + payload) as u16);
        let mut header = vec![self.first + (self.options.len() / 4) as u8, self.service];
        header.extend(length.to_be_bytes());
        header.extend([0x10, self.source_number()]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.lifetime, self.protocol, 0, 0]);
        header.extend([from.octets(), to.octets()].concat());
        header.extend(&self.options);
        let spoilt = if self.spoil_ip_checksum { 0x1234 } else { 0 };
        let sum = (checksum(&header) ^ spoilt).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn ipv6(&self, from: Ipv6Addr, to: Ipv6Addr, payload: usize) -> Vec<u8> {
        let next = self.extensions.first().map_or(self.protocol, |(kind, _)| *kind);
        let mut header = vec![self.first | self.service >> 4, self.service << 4, 0, 0];
        header.extend(self.length.unwrap_or(payload as u16).to_be_bytes());
        header.extend([next, self.lifetime]);
        header.extend([from.octets(), to.octets()].concat());
        header
    }

    /// A number that fragments of one packet share.
    fn source_number(&self) -> u8 {
        match self.source {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        }
    }
}

/// The Internet checksum (RFC 1071) of bytes in which its own place is zero.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
