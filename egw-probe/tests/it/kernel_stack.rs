//! What the kernel side counts beside what the host's stack answers: crafted frames, one source each. Where the two differ,
//! docs/claims.md says so.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use egw_probe::workbench::config::{AttachMode, Selection};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::common::told::as_root;
use crate::kernel::crafted::{Crafted, FROM, SYN, TO, tcp};
use crate::kernel::net::{PORT, Pair, Running, V4, config, inside, ip};

/// A row of the table.
struct Row {
    name: String,
    source: IpAddr,
    frames: Vec<Vec<u8>>,
    /// SYNs that the kernel side counts.
    counted: u64,
    /// Connections that the stack answers.
    answered: u64,
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    sources: u16,
}

/// What a row says: counted, answered.
type Says = (u64, u64);
const BOTH: Says = (1, 1);
const NEITHER: Says = (0, 0);
/// The stack drops what is counted.
const COUNTED_ONLY: Says = (1, 0);
/// The stack accepts what is not counted.
const ANSWERED_ONLY: Says = (0, 1);

impl Table {
    fn v4(&mut self, name: &str, says: Says, change: impl FnOnce(&mut Crafted)) {
        let source = Ipv4Addr::new(10, 77, 4, self.next());
        self.add(&format!("IPv4, {name}"), source.into(), says, change);
    }

    fn v6(&mut self, name: &str, says: Says, change: impl FnOnce(&mut Crafted)) {
        let source = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.next()));
        self.add(&format!("IPv6, {name}"), source.into(), says, change);
    }

    fn next(&mut self) -> u8 {
        self.sources += 1;
        self.sources.try_into().expect("a source for each")
    }

    fn add(&mut self, name: &str, source: IpAddr, says: Says, change: impl FnOnce(&mut Crafted)) {
        let mut crafted = Crafted::syn(source);
        change(&mut crafted);
        self.push(name, crafted.source, says, vec![crafted.bytes()]);
    }

    fn push(&mut self, name: &str, source: IpAddr, (counted, answered): Says, frames: Vec<Vec<u8>>) {
        self.rows.push(Row { name: name.to_owned(), source, frames, counted, answered });
    }

    /// Two fragments, cut after so many bytes of TCP; the second first, if it is `reversed`.
    fn fragments(&mut self, name: &str, v4: bool, says: Says, cut: usize, reversed: bool) {
        let number = self.next();
        let source = if v4 {
            IpAddr::from([10, 77, 4, number])
        } else {
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)).into()
        };
        let long = Crafted { tcp: tcp(u16::from(SYN), &[1; 40]), ..Crafted::syn(source) };
        let mut frames = long.fragments(cut).to_vec();
        if reversed {
            frames.reverse();
        }
        self.push(name, source, says, frames);
    }
}

fn data(crafted: &mut Crafted, length: usize) {
    crafted.tcp.resize(crafted.tcp.len() + length, 0x64);
}

fn flags(flags: u16) -> impl Fn(&mut Crafted) {
    move |crafted| crafted.tcp = tcp(flags, &[2, 4, 5, 0xb4])
}

fn options(options: &[u8]) -> impl Fn(&mut Crafted) {
    move |crafted| crafted.tcp = tcp(u16::from(SYN), options)
}

/// An IPv6 extension header of eight bytes with this option, or with padding.
fn header(kind: u8, option: [u8; 6]) -> (u8, Vec<u8>) {
    (kind, [&[0][..], &option].concat())
}

const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
const DESTINATION: u8 = 60;
const HOP_BY_HOP: u8 = 0;

fn chain(crafted: &mut Crafted, first: &[u8], destinations: usize) {
    let kinds = first.iter().copied().chain(std::iter::repeat_n(DESTINATION, destinations));
    crafted.extensions = kinds.map(|kind| header(kind, PADDING)).collect();
}

/// A routing header with one address.
fn routing(kind: u8, segments_left: u8) -> (u8, Vec<u8>) {
    let mut body = vec![2, kind, segments_left, 0, 0, 0, 0];
    body.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 9).octets());
    (43, body)
}

/// A fragment header.
fn fragment(offset_and_more: u16) -> (u8, Vec<u8>) {
    (44, [&[0][..], &offset_and_more.to_be_bytes(), &[0, 0, 0, 7]].concat())
}

fn ip_headers(table: &mut Table) {
    table.v4("plain", BOTH, |_| {});
    table.v4("options: padding", BOTH, |f| f.options = vec![1; 4]);
    table.v4("options: record route", BOTH, |f| f.options = [&[7, 15, 4][..], &[0; 13]].concat());
    table.v4("options: router alert", BOTH, |f| f.options = vec![148, 4, 0, 0]);
    table
        .v4("options: loose source route", COUNTED_ONLY, |f| f.options = vec![131, 7, 4, 198, 51, 100, 7, 0]);
    table.v4("options: malformed", COUNTED_ONLY, |f| f.options = vec![7, 60, 4, 1]);
    table.v4("time to live 0", BOTH, |f| f.lifetime = 0);
    table.v4("congestion experienced", BOTH, |f| f.service = 3);
    table.v4("reserved bit", BOTH, |f| f.fragment = 0x8000);
    table.v4("don't fragment", BOTH, |f| f.fragment = 0x4000);
    table.v4("wrong header checksum", COUNTED_ONLY, |f| f.spoil_ip_checksum = true);
    table.v4("version 5", NEITHER, |f| f.first = 0x55);
    table.v4("header length 4", NEITHER, |f| f.first = 0x44);
    table.v4("length beyond the frame", COUNTED_ONLY, |f| f.length = Some(200));
    table.v4("padded frame", BOTH, |f| f.trailer = 20);
    table.v4("length that cuts TCP options", NEITHER, |f| f.length = Some(40));
    table.v4("length that cuts the TCP header", NEITHER, |f| f.length = Some(30));
    table.v4("UDP", NEITHER, |f| f.protocol = 17);
    table.v4("IPIP", NEITHER, |f| f.protocol = 4);
    table.v4("GRE", NEITHER, |f| f.protocol = 47);
    table.v6("plain", BOTH, |_| {});
    table.v6("traffic class", BOTH, |f| f.service = 0xb8);
    table.v6("hop limit 0", BOTH, |f| f.lifetime = 0);
    table.v6("length beyond the frame", COUNTED_ONLY, |f| f.length = Some(200));
    table.v6("padded frame", BOTH, |f| f.trailer = 20);
    table.v6("length that cuts TCP options", NEITHER, |f| f.length = Some(20));
    table.v6("length 0", NEITHER, |f| f.length = Some(0));
    table.v6("under IPv4's type", NEITHER, |f| f.ethertype = 0x0800);
}

fn fragments(table: &mut Table) {
    table.v4("first fragment alone", NEITHER, |f| f.fragment = 0x2000);
    for (cut, reversed) in [(48, false), (24, false), (16, false), (8, false), (24, true)] {
        let name =
            format!("IPv4, two fragments, cut at {cut}{}", if reversed { ", second first" } else { "" });
        table.fragments(&name, true, ANSWERED_ONLY, cut, reversed);
    }
    table.v6("first fragment alone", NEITHER, |f| f.extensions = vec![fragment(1)]);
    table.v6("all in one fragment", BOTH, |f| f.extensions = vec![fragment(0)]);
    table.v6("fragment header twice", NEITHER, |f| f.extensions = vec![fragment(0), fragment(0)]);
    table.fragments("IPv6, two fragments, cut at 24", false, ANSWERED_ONLY, 24, false);
}

fn tcp_headers(table: &mut Table) {
    table.v4("wrong TCP checksum", COUNTED_ONLY, |f| f.spoil_tcp_checksum = true);
    table.v6("wrong TCP checksum", COUNTED_ONLY, |f| f.spoil_tcp_checksum = true);
    for (words, name) in [(0, "0"), (4, "4"), (15, "beyond the segment")] {
        let name = format!("TCP header length {name}");
        table.v4(&name, NEITHER, |f| f.tcp[12] = words << 4);
    }
    table.v4("data", BOTH, |f| data(f, 100));
    table.v4("data of 1,400 bytes", BOTH, |f| data(f, 1_400));
    for (bits, name, says) in [
        (0x003, "SYN, FIN", NEITHER),
        (0x006, "SYN, RST", NEITHER),
        (0x02a, "SYN, PSH, URG", BOTH),
        (0x0c2, "SYN, ECE, CWR", BOTH),
        (0x1c2, "SYN, ECE, CWR, AE", BOTH),
        (0xe02, "SYN, reserved bits", BOTH),
        (0x0ef, "all but ACK", NEITHER),
        (0x000, "none", NEITHER),
        (0x012, "SYN, ACK", NEITHER),
    ] {
        table.v4(&format!("flags: {name}"), says, flags(bits));
    }
    table.v6("flags: SYN, ECE, CWR", BOTH, flags(0x0c2));
    table.v4("source port 0", BOTH, |f| f.tcp[..2].copy_from_slice(&[0, 0]));
    table.v4("sequence number 0", BOTH, |f| f.tcp[4..8].copy_from_slice(&[0; 4]));
    table.v4("another port", NEITHER, |f| f.tcp[2..4].copy_from_slice(&1338u16.to_be_bytes()));
    table.v4("no TCP options", BOTH, options(&[]));
    table.v4("TCP option that nobody knows", BOTH, options(&[&[200, 40][..], &[0x5a; 38]].concat()));
    table.v4("TCP option of length 0", BOTH, options(&[19, 0, 1, 1]));
    table.v4("TCP MD5 signature", COUNTED_ONLY, options(&[&[19, 18][..], &[0x41; 16], &[1, 1]].concat()));
    table.v4("TCP authentication", BOTH, options(&[&[29, 16, 1, 1][..], &[0x41; 12]].concat()));
}

fn addresses(table: &mut Table) {
    let v4 = |source: [u8; 4]| IpAddr::from(source);
    let own: [(&str, IpAddr, Says); 7] = [
        ("IPv4, source 127.9.9.9", v4([127, 9, 9, 9]), NEITHER),
        ("IPv4, source 0.0.0.0", v4([0; 4]), NEITHER),
        ("IPv4, source 255.255.255.255", v4([255; 4]), NEITHER),
        ("IPv4, source 224.1.2.3", v4([224, 1, 2, 3]), NEITHER),
        ("IPv4, source 240.0.0.1", v4([240, 0, 0, 1]), BOTH),
        ("IPv4, source the target's own", V4, COUNTED_ONLY),
        ("IPv4, source the network's broadcast", v4([198, 51, 100, 255]), BOTH),
    ];
    for (name, source, says) in own {
        table.add(name, source, says, |_| {});
    }
    for (source, says) in [
        ("::1", NEITHER),
        ("ff02::9", NEITHER),
        ("::ffff:10.77.251.9", NEITHER),
        ("::10.77.251.10", BOTH),
        ("2001:db8:f::1", COUNTED_ONLY),
    ] {
        // Not the mapped one's canonical form, which would be of the other family.
        let source: Ipv6Addr = source.parse().unwrap();
        table.add(&format!("IPv6, source {source}"), source.into(), says, |_| {});
    }
    for to in [[198, 51, 100, 255], [255; 4], [224, 0, 0, 1], [198, 51, 100, 77], [127, 0, 0, 1]] {
        let to = IpAddr::from(to);
        table.v4(&format!("to {to}"), NEITHER, |f| f.destination = to);
    }
    for to in ["::ffff:198.51.100.1", "::1", "ff02::1", "2001:db8:f::"] {
        let to: Ipv6Addr = to.parse().unwrap();
        table.v6(&format!("to {to}"), NEITHER, |f| f.destination = to.into());
    }
    for (to, name, says) in [
        ([2, 0, 0, 0, 0, 0x99], "another host's MAC", COUNTED_ONLY),
        ([0xff; 6], "broadcast MAC", NEITHER),
        ([1, 0, 0x5e, 0, 0, 1], "multicast MAC", NEITHER),
    ] {
        table.v4(&format!("to {name}"), says, |f| f.to = to);
    }
    table.v6("to another host's MAC", COUNTED_ONLY, |f| f.to = [2, 0, 0, 0, 0, 0x99]);
    for (tags, name, says) in [
        (&[(0x8100, 0x6000)][..], "priority tag", BOTH),
        (&[(0x8100, 0), (0x8100, 0)], "two priority tags", BOTH),
        (&[(0x8100, 5)], "a VLAN without a device", COUNTED_ONLY),
        (&[(0x88a8, 5), (0x8100, 6)], "two VLANs without a device", COUNTED_ONLY),
    ] {
        table.v4(name, says, |f| f.tags = tags.to_vec());
    }
}

fn extension_headers(table: &mut Table) {
    for (name, first, destinations, says) in [
        ("hop-by-hop", &[HOP_BY_HOP][..], 0, BOTH),
        ("one destination header", &[], 1, BOTH),
        ("eight destination headers", &[], 8, BOTH),
        ("twenty destination headers", &[], 20, ANSWERED_ONLY),
        ("hop-by-hop and six destination headers", &[HOP_BY_HOP], 6, BOTH),
        ("hop-by-hop behind another", &[DESTINATION, HOP_BY_HOP], 0, NEITHER),
        ("hop-by-hop twice", &[HOP_BY_HOP, HOP_BY_HOP], 0, NEITHER),
    ] {
        table.v6(name, says, |f| chain(f, first, destinations));
    }
    for (name, kind, option, says) in [
        ("hop-by-hop: router alert", HOP_BY_HOP, [5, 2, 0, 0, 1, 0], BOTH),
        ("hop-by-hop: unknown, to be skipped", HOP_BY_HOP, [0x1e, 4, 1, 2, 3, 4], BOTH),
        ("hop-by-hop: unknown, to be discarded", HOP_BY_HOP, [0x5e, 4, 1, 2, 3, 4], COUNTED_ONLY),
        ("hop-by-hop: jumbo beside a length", HOP_BY_HOP, [0xc2, 4, 0, 1, 0x11, 0x70], COUNTED_ONLY),
        ("destination: unknown, to be discarded", DESTINATION, [0x5e, 4, 1, 2, 3, 4], COUNTED_ONLY),
    ] {
        table.v6(name, says, |f| f.extensions = vec![header(kind, option)]);
    }
    for (name, kind, left, says) in [
        ("routing type 0 at its end", 0, 0, BOTH),
        ("routing type 0 on its way", 0, 1, NEITHER),
        ("routing type 2 at its end", 2, 0, BOTH),
        ("segment routing at its end", 4, 0, COUNTED_ONLY),
        ("segment routing on its way", 4, 1, NEITHER),
    ] {
        table.v6(name, says, |f| f.extensions = vec![routing(kind, left)]);
    }
    let authentication = (51, [&[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0; 12]].concat());
    table.v6("authentication header", COUNTED_ONLY, |f| f.extensions = vec![authentication]);
    for (name, kind) in [("ESP", 50), ("mobility", 135), ("HIP", 139), ("shim6", 140), ("no next header", 59)]
    {
        table.v6(name, NEITHER, |f| f.extensions = vec![header(kind, [5, 0, 0, 0, 0, 0])]);
    }
}

fn table() -> Table {
    let mut table = Table::default();
    ip_headers(&mut table);
    fragments(&mut table);
    tcp_headers(&mut table);
    addresses(&mut table);
    extension_headers(&mut table);
    table
}

/// Makes the way between the two as the frames take it for granted.
fn prepare(pair: &Pair) {
    let mac = |[a, b, c, d, e, f]: [u8; 6]| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    pair.ip(&format!("link set veth0 address {}", mac(TO)));
    ip(&format!("-n {} link set veth0 address {}", pair.outside, mac(FROM)));
    for (family, gateway) in [("-4", "198.51.100.9"), ("-6", "2001:db8:f::9")] {
        pair.ip(&format!("neigh replace {gateway} lladdr {} dev veth0 nud permanent", mac(FROM)));
        pair.ip(&format!("{family} route add default via {gateway}"));
    }
    for interface in ["all", "veth0"] {
        let setting = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        inside(&pair.inside, || std::fs::write(&setting, "0").unwrap());
    }
}

/// A socket for whole frames of the device outside.
fn frames_outside(pair: &Pair) -> Socket {
    inside(&pair.outside, || {
        let every = libc::ETH_P_ALL as u16;
        let kind = Type::RAW.nonblocking();
        let socket =
            Socket::new(Domain::PACKET, kind, Some(Protocol::from(i32::from(every.to_be())))).unwrap();
        let index: i32 = std::fs::read_to_string("/proc/thread-self/net/dev_mcast")
            .unwrap()
            .lines()
            .find_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[1] == "veth0").then(|| words[0].parse().unwrap())
            })
            .unwrap();
        // SAFETY: all zeros are a valid sockaddr_storage, and a sockaddr_ll fits into it.
        let address = unsafe {
            let mut storage = SockAddrStorage::zeroed();
            let link = storage.view_as::<libc::sockaddr_ll>();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = every.to_be();
            link.sll_ifindex = index;
            SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        socket.bind(&address).unwrap();
        socket.set_recv_buffer_size(1 << 22).unwrap();
        socket
    })
}

/// Where a SYN-ACK of the target goes to, if the frame is one.
fn syn_ack(frame: &[u8]) -> Option<(IpAddr, [u8; 2])> {
    let (to, segment): (IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(frame.get(14)? & 15) * 4;
            (<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into(), frame.get(14 + header..)?)
        }
        [0x86, 0xdd] => (<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into(), frame.get(54..)?),
        _ => return None,
    };
    let is_answer = segment.get(..2)? == PORT.to_be_bytes() && segment.get(13)? & 0x12 == 0x12;
    is_answer.then(|| (to, [segment[2], segment[3]]))
}

#[test]
fn what_is_counted_is_what_the_stack_answers_but_for_the_rows_that_say_otherwise() {
    if !as_root() {
        return;
    }
    let (pair, table) = (Pair::new("stack"), table());
    prepare(&pair);
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let _listener = inside(&pair.inside, || TcpListener::bind(any).unwrap());
    let wire = frames_outside(&pair);
    let mut answers: BTreeMap<IpAddr, BTreeSet<[u8; 2]>> = BTreeMap::new();
    let mut listen_for = |length: Duration| {
        let until = Instant::now() + length;
        let mut room = [MaybeUninit::<u8>::uninit(); 2048];
        while Instant::now() < until {
            let Ok(length) = wire.recv(&mut room) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            // SAFETY: so many bytes have been received.
            let frame: Vec<u8> = room[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            if let Some((to, port)) = syn_ack(&frame) {
                answers.entry(to).or_default().insert(port);
            }
        }
    };
    for frame in table.rows.iter().flat_map(|row| &row.frames) {
        wire.send(frame).unwrap();
        listen_for(Duration::from_millis(4));
    }
    listen_for(Duration::from_millis(500));
    let sources = running.handle.sources().unwrap();
    let counted: BTreeMap<IpAddr, u64> = sources.seen.iter().map(|seen| (seen.address, seen.syns)).collect();
    let wrong: Vec<String> = (table.rows.iter())
        .filter_map(|row| {
            let found = (
                counted.get(&row.source).copied().unwrap_or(0),
                answers.get(&row.source).map_or(0, |ports| ports.len() as u64),
            );
            (found != (row.counted, row.answered))
                .then(|| format!("{}: {found:?}, not {:?}", row.name, (row.counted, row.answered)))
        })
        .collect();
    assert!(wrong.is_empty(), "counted, answered:\n{}", wrong.join("\n"));
    let differ = table.rows.iter().filter(|row| row.counted != row.answered).count();
    assert_eq!((table.rows.len(), differ), (115, 26), "as docs/claims.md says");
}
