//! The packet walk: from the first byte of a frame to a SYN, or to the reason why it is none.
//!
//! The walk reads through [`Packet`] only, so the same code runs over XDP memory, a TC socket buffer and a slice.

use crate::address::Address;

/// Ethernet header length in bytes, without VLAN tags.
pub const ETHERNET_LEN: usize = 14;
/// How many VLAN tags are stepped over: a single tag and `QinQ` (IEEE 802.1ad).
pub const MAX_VLAN_TAGS: usize = 2;
/// How many IPv6 extension headers are stepped over: more than the seven positions of RFC 8200 section 4.1. Linux takes a longer
/// chain; many hosts drop it.
pub const MAX_IPV6_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
// The pre-standard QinQ type, which Linux still accepts on receive (ETH_P_QINQ1).
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

/// The first byte of a MAC address that is a group's, broadcast included (IEEE 802, I/G).
const GROUP_BIT: u8 = 1;

const PROTO_TCP: u8 = 6;
const PROTO_HOP_BY_HOP: u8 = 0;
const PROTO_ROUTING: u8 = 43;
const PROTO_FRAGMENT: u8 = 44;
const PROTO_AUTHENTICATION: u8 = 51;
const PROTO_DESTINATION: u8 = 60;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Bounds-checked access to the bytes of one packet.
pub trait Packet {
    /// The `N` bytes from `offset`, or `None` when they do not all lie inside what can be read.
    ///
    /// The one bounds check of the whole walk: nothing else in it looks at memory.
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Bytes>;
}

/// Bytes that can be read. Only those that are asked for are loaded, each field by one instruction where the machine can.
///
/// `AT` is a place inside the `N` bytes of [`Packet::read`], checked when this is compiled.
pub trait Bytes {
    /// The byte at `AT`.
    fn byte<const AT: usize>(&self) -> u8;
    /// Two bytes in network order.
    fn be16<const AT: usize>(&self) -> u16;
    /// Four bytes in network order.
    fn be32<const AT: usize>(&self) -> u32;
    /// Eight bytes as they lie in memory.
    fn word<const AT: usize>(&self) -> u64;
}

impl Packet for [u8] {
    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Bytes> {
        self.get(offset..)?.first_chunk::<N>()
    }
}

impl<const N: usize> Bytes for &[u8; N] {
    #[inline]
    fn byte<const AT: usize>(&self) -> u8 {
        const { assert!(AT < N) };
        self[AT]
    }

    #[inline]
    fn be16<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= N) };
        u16::from_be_bytes([self[AT], self[AT + 1]])
    }

    #[inline]
    fn be32<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= N) };
        u32::from_be_bytes([self[AT], self[AT + 1], self[AT + 2], self[AT + 3]])
    }

    #[inline]
    fn word<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 8 <= N) };
        u64::from_ne_bytes([
            self[AT],
            self[AT + 1],
            self[AT + 2],
            self[AT + 3],
            self[AT + 4],
            self[AT + 5],
            self[AT + 6],
            self[AT + 7],
        ])
    }
}

/// What the first byte of a packet belongs to, known from the interface and never guessed: the first byte of a MAC
/// address can look like an IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header (`ARPHRD_ETHER`, `ARPHRD_LOOPBACK`).
    Ethernet,
    /// An IP header: tun, `WireGuard`, ipip and other layer-3 devices.
    Ip,
}

/// The facts of one SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Initial sequence number, host order.
    pub sequence: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Where in the packet its TCP header begins.
    pub tcp_at: u16,
}

/// A packet to the listen port that may tell something of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// It asks for a connection.
    Syn(Syn),
    /// It belongs to one that the other end takes for established.
    Ack(Ack),
}

/// The facts of a segment that acknowledges something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Its sequence number, host order: that of the SYN plus one, as long as nothing has been sent.
    pub sequence: u32,
    /// Where in the packet its TCP header begins.
    pub tcp_at: u16,
}

/// Why a packet is not a SYN to the listen port. Every one of them lets it pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// A header does not lie wholly in the bytes that can be read.
    Truncated,
    /// Neither IPv4 nor IPv6, or more VLAN tags than are stepped over.
    NotIp,
    /// To a group of hosts, by its link-layer destination: no connection begins so.
    Group,
    /// What a header says makes the host's stack drop the packet.
    Malformed,
    /// A part of a packet: the others may never come.
    Fragment,
    /// More IPv6 extension headers than are stepped over.
    TooManyExtensions,
    /// IP, but not TCP.
    NotTcp,
    /// TCP to another port.
    OtherPort,
    /// TCP to the port, but not the first packet of a connection.
    NotSyn,
}

/// Finds the SYN in `packet`, if it is one that asks for a connection to `listen_port` (host order).
///
/// # Errors
///
/// The reason why it is none; see [`Pass`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
pub fn syn<P: Packet + ?Sized>(packet: &P, link: Link, listen_port: u16) -> Result<Syn, Pass> {
    match segment(packet, link, listen_port)? {
        Segment::Syn(syn) => Ok(syn),
        Segment::Ack(_) => Err(Pass::NotSyn),
    }
}

/// Finds the segment to `listen_port` (host order) in `packet`, if it is one that asks for a connection or acknowledges something.
///
/// A SYN has SYN set, and ACK, RST and FIN clear; other flags do not matter (ECN sets CWR and ECE on a SYN), so that the count is
/// what a capture with the filter `tcp[13] & 0x17 = 2` shows. What the host's stack would drop is passed over where that costs
/// nothing; checksums are not verified, nor options read.
///
/// # Errors
///
/// The reason why it is none; see [`Pass`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
pub fn segment<P: Packet + ?Sized>(packet: &P, link: Link, listen_port: u16) -> Result<Segment, Pass> {
    match link {
        Link::Ethernet => {
            let (ethertype, offset) = network_header(packet)?;
            match ethertype {
                ETHERTYPE_IPV4 => ipv4(packet, offset, listen_port),
                ETHERTYPE_IPV6 => ipv6(packet, offset, listen_port),
                _ => Err(Pass::NotIp),
            }
        }
        Link::Ip => {
            // A whole header, because the verifier does not understand a check for one byte at offset 0.
            let header = packet.read::<IPV4_LEN>(0).ok_or(Pass::Truncated)?;
            match header.byte::<0>() >> 4 {
                4 => ipv4(packet, 0, listen_port),
                6 => ipv6(packet, 0, listen_port),
                _ => Err(Pass::NotIp),
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn network_header<P: Packet + ?Sized>(packet: &P) -> Result<(u16, usize), Pass> {
    let header = packet.read::<ETHERNET_LEN>(0).ok_or(Pass::Truncated)?;
    if header.byte::<0>() & GROUP_BIT != 0 {
        return Err(Pass::Group);
    }
    let mut ethertype = header.be16::<12>();
    let mut offset = ETHERNET_LEN;
    for _ in 0..MAX_VLAN_TAGS {
        match ethertype {
            ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD => {
                let tag = packet.read::<4>(offset).ok_or(Pass::Truncated)?;
                ethertype = tag.be16::<2>();
                offset += 4;
            }
            _ => break,
        }
    }
    Ok((ethertype, offset))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn ipv4<P: Packet + ?Sized>(packet: &P, offset: usize, listen_port: u16) -> Result<Segment, Pass> {
    let header = packet.read::<IPV4_LEN>(offset).ok_or(Pass::Truncated)?;
    if header.byte::<9>() != PROTO_TCP {
        return Err(Pass::NotTcp);
    }
    let header_len = usize::from(header.byte::<0>() & 0x0f) * 4;
    if header.byte::<0>() >> 4 != 4 || header_len < IPV4_LEN {
        return Err(Pass::Malformed);
    }
    // RFC 791: more fragments, and where this one lies.
    if header.be16::<6>() & 0x3fff != 0 {
        return Err(Pass::Fragment);
    }
    let total_len = usize::from(header.be16::<2>());
    let tcp_at = offset + header_len;
    let tcp = tcp(packet, tcp_at, total_len.checked_sub(header_len), listen_port)?;
    if tcp.is_ack {
        return Ok(Segment::Ack(Ack { sequence: tcp.sequence, tcp_at: tcp_at as u16 }));
    }
    // Nobody's address (RFC 1122 section 3.2.1.3); Linux drops these (ip_route_input_slow).
    if matches!(header.byte::<12>(), 0 | 224..=239) || header.be32::<12>() == u32::MAX {
        return Err(Pass::Malformed);
    }
    Ok(Segment::Syn(Syn {
        source: Address::v4(header.be32::<12>().to_be_bytes()),
        destination: Address::v4(header.be32::<16>().to_be_bytes()),
        sequence: tcp.sequence,
        source_port: tcp.source_port,
        tcp_at: tcp_at as u16,
    }))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn ipv6<P: Packet + ?Sized>(packet: &P, offset: usize, listen_port: u16) -> Result<Segment, Pass> {
    // Only what every packet pays for; the addresses are read once it is known to be a SYN.
    let header = packet.read::<8>(offset).ok_or(Pass::Truncated)?;
    if header.byte::<0>() >> 4 != 6 {
        return Err(Pass::Malformed);
    }
    let payload_len = usize::from(header.be16::<4>());
    let extensions_len = ipv6_extensions(packet, offset + IPV6_LEN, header.byte::<6>())?;
    let tcp_at = offset + IPV6_LEN + extensions_len;
    let tcp = tcp(packet, tcp_at, payload_len.checked_sub(extensions_len), listen_port)?;
    if tcp.is_ack {
        return Ok(Segment::Ack(Ack { sequence: tcp.sequence, tcp_at: tcp_at as u16 }));
    }
    let addresses = packet.read::<32>(offset + 8).ok_or(Pass::Truncated)?;
    let source = Address::from_words([addresses.word::<0>(), addresses.word::<8>()]);
    let destination = Address::from_words([addresses.word::<16>(), addresses.word::<24>()]);
    // Linux drops these on receive (ipv6_rcv); counting them would let a forged packet pose as one of IPv4.
    if source.is_v4() || destination.is_v4() || addresses.byte::<0>() == 0xff {
        return Err(Pass::Malformed);
    }
    Ok(Segment::Syn(Syn {
        source,
        destination,
        sequence: tcp.sequence,
        source_port: tcp.source_port,
        tcp_at: tcp_at as u16,
    }))
}

/// Length of the extension headers between the IPv6 and the TCP header.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn ipv6_extensions<P: Packet + ?Sized>(packet: &P, start: usize, first: u8) -> Result<usize, Pass> {
    let mut next = first;
    let mut len = 0;
    let mut is_fragment = false;
    for place in 0..MAX_IPV6_EXTENSIONS {
        let kind = match next {
            PROTO_TCP => return Ok(len),
            // RFC 8200 section 4.1: right behind the IPv6 header or nowhere; Linux drops it elsewhere.
            PROTO_HOP_BY_HOP if place > 0 => return Err(Pass::Malformed),
            PROTO_HOP_BY_HOP | PROTO_ROUTING | PROTO_DESTINATION | PROTO_AUTHENTICATION | PROTO_FRAGMENT => {
                next
            }
            _ => return Err(Pass::NotTcp),
        };
        let header = packet.read::<8>(start + len).ok_or(Pass::Truncated)?;
        let units = usize::from(header.byte::<1>());
        next = header.byte::<0>();
        len += match kind {
            // RFC 8200 section 4.5: fixed length; the offset is in the upper thirteen bits, "more" in the lowest.
            PROTO_FRAGMENT => {
                if header.be16::<2>() & 0xfff9 != 0 {
                    return Err(Pass::Fragment);
                }
                if is_fragment {
                    return Err(Pass::Malformed);
                }
                is_fragment = true;
                8
            }
            // RFC 8200 section 4.4: it has yet to go elsewhere.
            PROTO_ROUTING if header.byte::<3>() != 0 => return Err(Pass::Malformed),
            // RFC 4302 section 2.2: counted in 4-byte units, less 2, and never without its three fixed words.
            PROTO_AUTHENTICATION if units == 0 => return Err(Pass::Malformed),
            PROTO_AUTHENTICATION => (units + 2) * 4,
            // RFC 8200 section 4.3: counted in 8-byte units, not including the first.
            _ => (units + 1) * 8,
        };
    }
    if next == PROTO_TCP { Ok(len) } else { Err(Pass::TooManyExtensions) }
}

/// What the walk reads of a TCP header.
struct Tcp {
    sequence: u32,
    source_port: u16,
    is_ack: bool,
}

/// The TCP header of a segment to `listen_port`. `room` is what the IP header claims to carry from here on.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn tcp<P: Packet + ?Sized>(
    packet: &P,
    offset: usize,
    room: Option<usize>,
    listen_port: u16,
) -> Result<Tcp, Pass> {
    let header = packet.read::<TCP_LEN>(offset).ok_or(Pass::Truncated)?;
    if header.be16::<2>() != listen_port {
        return Err(Pass::OtherPort);
    }
    let is_ack = match header.byte::<13>() & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) {
        TCP_SYN => false,
        kind if kind & !TCP_FIN == TCP_ACK => true,
        _ => return Err(Pass::NotSyn),
    };
    let header_len = usize::from(header.byte::<12>() >> 4) * 4;
    match room {
        Some(room) if header_len >= TCP_LEN && header_len <= room => {}
        _ => return Err(Pass::Malformed),
    }
    Ok(Tcp { sequence: header.be32::<4>(), source_port: header.be16::<0>(), is_ack })
}

/// Options as Linux lays them out in a SYN: segment size, then SACK permitted or padding, then the timestamp.
const SYN_OPTIONS: [(u16, u16); 2] = [(0x0204, 0x0402), (0x0204, 0x0101)];
const TIMESTAMP: u16 = 0x080a;
/// And in any other segment: padding, the timestamp.
const PADDED_TIMESTAMP: u32 = 0x0101_080a;

/// Where reading of a TCP header for its options begins: at its length. What lies before costs the kernel's stack only.
const LENGTH_AT: usize = 12;

/// The timestamp value of a SYN whose TCP header begins at `tcp_at`, if its options lie as Linux lays them out
/// (`tcp_options_write`, `net/ipv4/tcp_output.c`).
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
pub fn timestamp_of_syn<P: Packet + ?Sized>(packet: &P, tcp_at: u16) -> Option<u32> {
    let rest = packet.read::<20>(usize::from(tcp_at) + LENGTH_AT)?;
    let has_room = rest.byte::<0>() >> 4 >= 9;
    let usual = SYN_OPTIONS.contains(&(rest.be16::<8>(), rest.be16::<12>()));
    (has_room && usual && rest.be16::<14>() == TIMESTAMP).then(|| rest.be32::<16>())
}

/// The same of a segment that acknowledges something.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
pub fn timestamp_of_ack<P: Packet + ?Sized>(packet: &P, tcp_at: u16) -> Option<u32> {
    let rest = packet.read::<16>(usize::from(tcp_at) + LENGTH_AT)?;
    let has_room = rest.byte::<0>() >> 4 >= 8;
    (has_room && rest.be32::<8>() == PADDED_TIMESTAMP).then(|| rest.be32::<12>())
}
