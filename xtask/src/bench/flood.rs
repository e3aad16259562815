//! A SYN flood from a hundred thousand sources: do the totals hold, are lost events counted, is memory bounded?

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egw_probe_common::tag::{MAX_CLIENT, Tag, TagKey};

use super::host::{DEVICE, Hosts, PORT, TARGET, resident_kib};
use super::row::{Bench, Table};
use crate::lab::packet::PacketSocket;

/// SYNs of half of the sources are allowed: 10.64.0.0/10, of those in 10.0.0.0/9.
const ALLOWED: &str = "10.64.0.0/10";

/// Floods the target from both cores.
pub(super) fn flood(bench: &Bench) -> Result<Table> {
    let hosts = Hosts::new(&bench.interrupt)?;
    silence(&hosts)?;
    let allowed = format!("--allowed-cidr={ALLOWED}");
    let target = hosts.start(&bench.program, &[&allowed, "--ebpf=required", "--interface=wire"])?;
    let header = ethernet(&hosts)?;
    let length = Duration::from_secs(if bench.quick { 1 } else { 10 });
    let (before_kib, received_before) = (resident_kib(target.id())?, hosts.received()?);
    let begun = Instant::now();
    let sent: u64 = std::thread::scope(|scope| {
        let peer = &hosts.peer;
        let pour = |thread| move || peer.run(|| Ok(pour(thread, header, begun + length, None)?));
        let floods: Vec<_> = (0..2).map(|thread| scope.spawn(pour(thread))).collect();
        floods.into_iter().map(|flood| flood.join().expect("the flood does not panic")).sum::<Result<u64>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    hosts.pause(Duration::from_millis(1500))?;
    let [received, dropped] = hosts.received()?;
    let (received, dropped) = (received - received_before[0], dropped - received_before[1]);
    let kernel = hosts.kernel_sources()?;
    let count = |key: &str| kernel[key].as_u64().with_context(|| format!("/sources lacks {key}"));
    let (allowed, denied, lost) = (count("allowed_syns")?, count("denied_syns")?, count("events_lost")?);
    let events = hosts.metric("egw_probe_target_syns_total")? as u64 - lost;
    let after_kib = resident_kib(target.id())?;
    hosts.stop(target)?;
    ensure!(allowed + denied == received, "{allowed} + {denied} SYNs counted, {received} packets received");
    ensure!(events + lost == received, "{events} events + {lost} lost, {received} packets received");
    let unlisted = ["allowed", "denied"].map(|class| kernel["unlisted"][class]["sources"].as_u64());
    let listed = kernel["sources"].as_array().map_or(0, Vec::len) as u64;
    let kept = listed + unlisted.into_iter().flatten().sum::<u64>();
    let per_second = |count: u64| format!("{:.0} per second", count as f64 / seconds);
    let share = |part: u64| format!("{:.1} %", part as f64 / received as f64 * 100.0);
    let line = |name: &str, value: String, remark: String| vec![name.to_owned(), value, remark];
    let lines = vec![
        line("SYNs sent", sent.to_string(), per_second(sent)),
        line("received by the interface, less drops", received.to_string(), per_second(received)),
        line("dropped before it could see them", dropped.to_string(), "net.core.netdev_max_backlog".into()),
        line(
            "counted: allowed + denied",
            (allowed + denied).to_string(),
            format!("{} allowed", share(allowed)),
        ),
        line("events + lost", (events + lost).to_string(), format!("{} lost", share(lost))),
        line("sources kept", kept.to_string(), format!("{} evicted", count("evicted")?)),
        line(
            "resident memory, MiB",
            format!("{:.1}", after_kib / 1024.0),
            format!("{:.1} before", before_kib / 1024.0),
        ),
    ];
    Ok(Table {
        title: format!("SYN flood over veth, TCX, {seconds:.1} s, two senders on the same cores"),
        columns: vec!["", "", ""],
        lines,
        remarks: vec!["the generator shares the cores with what it floods: the rate is the machine's, not the program's".into()],
    })
}

/// `struct virtio_net_hdr` of zeroes, and an Ethernet header from the peer to the target.
pub(super) type Header = [u8; 24];

pub(super) fn ethernet(hosts: &Hosts) -> Result<Header> {
    let mac = |namespace: &crate::lab::namespace::Namespace| -> Result<[u8; 6]> {
        let text = namespace.run(|| {
            let output = std::process::Command::new("ip").args(["-br", "link", "show", DEVICE]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })?;
        let word = text.split_whitespace().find(|word| word.matches(':').count() == 5);
        let octets: Vec<u8> =
            word.unwrap_or_default().split(':').filter_map(|hex| u8::from_str_radix(hex, 16).ok()).collect();
        octets.try_into().ok().context("the wire has no MAC address")
    };
    let mut header = [0; 24];
    header[10..16].copy_from_slice(&mac(&hosts.target)?);
    header[16..22].copy_from_slice(&mac(&hosts.peer)?);
    header[22..24].copy_from_slice(&0x0800u16.to_be_bytes());
    Ok(header)
}

/// How many random foreign SYNs are taken for a tag, and what all client numbers together cost in memory.
pub(super) fn tags(bench: &Bench) -> Result<Table> {
    let hosts = Hosts::new(&bench.interrupt)?;
    silence(&hosts)?;
    let allowed = format!("--allowed-cidr={ALLOWED}");
    let flags = [&allowed, "--ebpf=required", "--interface=wire", "--tags", "--tag-key=77"];
    let target = hosts.start(&bench.program, &flags)?;
    let header = ethernet(&hosts)?;
    let idle_kib = resident_kib(target.id())?;
    let foreign = if bench.quick { 20_000 } else { 1_000_000 };
    let mut random = fastrand::Rng::with_seed(7);
    let sequences = std::iter::repeat_with(|| random.u32(..)).take(foreign);
    hosts.peer.run(|| send_sequences(header, sequences))?;
    hosts.pause(Duration::from_millis(1200))?;
    let kernel = hosts.kernel_sources()?;
    let count = |key: &str| kernel[key].as_u64().with_context(|| format!("/sources lacks {key}"));
    let (seen, taken) = (count("allowed_syns")? + count("denied_syns")?, count("tagged_syns")?);
    hosts.stop(target)?;

    let target = hosts.start(&bench.program, &flags)?;
    let key = TagKey::derive(77);
    let syns = (0..20).flat_map(|sent| (1..=MAX_CLIENT).filter_map(move |client| Tag::new(client, sent)));
    hosts.peer.run(|| send_sequences(header, syns.map(|tag| tag.encode(key))))?;
    hosts.pause(Duration::from_millis(1200))?;
    let asked = Instant::now();
    let page: serde_json::Value = serde_json::from_str(&hosts.get("/clients")?)?;
    let answered = asked.elapsed();
    let clients = page["clients"].as_array().context("/clients lacks clients")?;
    let missing: u64 = clients.iter().filter_map(|client| client["missing_syns"].as_u64()).sum();
    let all_kib = resident_kib(target.id())?;
    hosts.stop(target)?;
    Ok(Table {
        title: "SYN tags".into(),
        columns: vec!["", "", ""],
        lines: vec![
            vec!["random foreign SYNs".into(), seen.to_string(), format!("{taken} taken for a tag")],
            vec![
                "share taken".into(),
                format!("1 in {:.1}", seen as f64 / taken as f64),
                "1 in 256 by the check byte".into(),
            ],
            vec![
                "clients told at /clients".into(),
                clients.len().to_string(),
                format!("{:.1} ms to answer", answered.as_secs_f64() * 1e3),
            ],
            vec!["SYNs missing, of 20 each".into(), missing.to_string(), String::new()],
            vec![
                "resident memory, MiB".into(),
                format!("{:.1}", all_kib / 1024.0),
                format!("{:.1} idle", idle_kib / 1024.0),
            ],
        ],
        remarks: vec![],
    })
}

/// One SYN for each sequence number, from the allowed and the denied half of the sources in turn.
fn send_sequences(header: Header, sequences: impl Iterator<Item = u32>) -> Result<()> {
    let socket = PacketSocket::open(DEVICE)?;
    let mut frame = [header.as_slice(), &[0; 40]].concat();
    for (number, sequence) in sequences.enumerate() {
        let number = number as u32;
        let source = Ipv4Addr::from(0x0a00_0001 | ((number & 1) << 22) | (number >> 12 << 8));
        syn(&mut frame[24..], source, (number % 60_000) as u16 + 1024, sequence);
        while !socket.send(&frame)? {
            std::thread::yield_now();
        }
    }
    Ok(())
}

/// Lets no answer find a way back, so that only SYNs are on the wire.
fn silence(hosts: &Hosts) -> Result<()> {
    hosts.target.ip("route add blackhole 10.0.0.0/9\n")?;
    hosts.target.sysctl(&[("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/wire/rp_filter", "0")])
}

/// Sends SYNs from ever new sources until `end`, at most so many a second if that is said; how many left.
pub(super) fn pour(thread: u32, header: Header, end: Instant, per_second: Option<u32>) -> io::Result<u64> {
    let socket = PacketSocket::open(DEVICE)?;
    let mut frame = [header.as_slice(), &[0; 40]].concat();
    let mut sent = 0;
    let mut number = thread;
    let begun = Instant::now();
    while Instant::now() < end {
        if per_second.is_some_and(|most| sent as f64 > begun.elapsed().as_secs_f64() * f64::from(most)) {
            std::thread::yield_now();
            continue;
        }
        for _ in 0..256 {
            // Steps through 100,003 sources and all ports without repeating a pair soon.
            number = number.wrapping_add(2);
            let source = Ipv4Addr::from(0x0a00_0000 | ((number % 100_003).wrapping_mul(83) & 0x007f_ffff));
            syn(
                &mut frame[24..],
                source,
                (number / 7 % 60_000) as u16 + 1024,
                number.wrapping_mul(0x9e37_79b1),
            );
            sent += u64::from(socket.send(&frame)?);
        }
    }
    Ok(sent)
}

/// Writes an IPv4 packet with a bare SYN, checksums included.
fn syn(packet: &mut [u8], source: Ipv4Addr, port: u16, sequence: u32) {
    let (ip, tcp) = packet.split_at_mut(20);
    ip.copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&TARGET.octets());
    let sum = checksum(ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    tcp.copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    tcp[0..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&PORT.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    // Pseudo header (RFC 9293, 3.1): both addresses, the protocol, the length.
    let sum = checksum(&[&ip[12..20], &[0, 6, 0, 20], &*tcp].concat(), 0);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], begin: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.fold(begin, u32::wrapping_add);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Opens so many connections a second from the peer, one after another, until `end`.
pub(super) fn connect_at(hosts: &Hosts, per_second: u32, end: Instant) -> Result<u64> {
    hosts.peer.run(|| {
        let mut opened = 0u64;
        let begun = Instant::now();
        while Instant::now() < end {
            let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
            if opened >= due {
                std::thread::yield_now();
                continue;
            }
            let mut stream = std::net::TcpStream::connect((TARGET, PORT))?;
            socket_linger(&stream)?;
            // To the end, as a client reads it.
            let mut reply = [0; 64];
            while stream.read(&mut reply).is_ok_and(|length| length > 0) {}
            opened += 1;
        }
        Ok(opened)
    })
}

/// Closes by RST, so that ports do not run out.
fn socket_linger(stream: &std::net::TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).map_err(io::Error::from)
}
