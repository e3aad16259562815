//! The verified program against the host's walk, frame by frame: the same verdict, the same counters, the same event.
//!
//! The frames run through `BPF_PROG_TEST_RUN` of the TC program. Its calls cost microseconds; those of an XDP program cost
//! 10 to 30 ms, because each one waits for an RCU grace period to install the program in the XDP dispatcher. XDP runs the
//! same body over the same reader, so it gets the table and a sample instead of the hundred thousand.

use std::net::IpAddr;
use std::num::NonZeroU16;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun, TestRunOptions};
use egw_probe::document::verdict::Verdict;
use egw_probe::workbench::observer as object;
use egw_probe::workbench::observer::{Programs, Settings, SynSeen, TagSettings, parse};
use egw_probe_common::address::Address;
use egw_probe_common::event::{Counters, SourceRecord};
use egw_probe_common::packet::{self, Link};
use egw_probe_common::tag::{Tag, TagKey, TagRecord};
use ipnet::IpNet;

use crate::common::told::as_root;
use crate::kernel::{DESTINATIONS_V4, DESTINATIONS_V6, Random, SHORTEST, frame};

const PORT: u16 = 1337;
const RANDOM_FRAMES: usize = 120_000;

/// The loaded program, and what the host expects of it.
struct Bench {
    ebpf: Ebpf,
    programs: Programs,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Counters>,
    own: Vec<IpAddr>,
    allowed: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Tc,
    Xdp,
}

/// What one frame did.
#[derive(Debug, PartialEq, Eq)]
struct Effect {
    allowed: u64,
    denied: u64,
    forwarded: u64,
    event: Option<(IpAddr, u16, u32, Verdict)>,
}

impl Bench {
    fn new(tags: Option<TagSettings>) -> Self {
        let allowed: Vec<IpNet> =
            ["10.0.0.0/8", "192.0.2.128/25", "2001:db8:a::/48"].map(|n| n.parse().unwrap()).into();
        let mut settings = Settings::new(NonZeroU16::new(PORT).unwrap(), allowed.clone());
        settings.tags = tags;
        let (mut ebpf, programs) = object::load(&settings).unwrap();
        let own: Vec<IpAddr> = DESTINATIONS_V4[..2]
            .iter()
            .map(|a| IpAddr::from(*a))
            .chain(DESTINATIONS_V6[..2].iter().map(|a| IpAddr::from(*a)))
            .collect();
        let mut map: HashMap<_, Address, u32> = HashMap::try_from(ebpf.map_mut("OWN").unwrap()).unwrap();
        for address in &own {
            map.insert(Address::from(*address), 1, 0).unwrap();
        }
        let ring = object::take_map(&mut ebpf, "EVENTS").unwrap();
        let counters = object::take_map(&mut ebpf, "COUNTERS").unwrap();
        Self { ebpf, programs, ring, counters, own, allowed }
    }

    fn totals(&self) -> Counters {
        self.counters.get(&0, 0).unwrap().iter().copied().fold(Counters::default(), Counters::plus)
    }

    /// Runs one frame; what it did, and whether it was let pass.
    fn run(&mut self, hook: Hook, link: Link, data: &[u8]) -> Effect {
        let before = self.totals();
        let mut out = vec![0; data.len() + 64];
        let opts = TestRunOptions { data_in: Some(data), data_out: Some(&mut out), ..Default::default() };
        let (result, pass) = match (hook, link) {
            (Hook::Tc, Link::Ethernet) => {
                (object::tc(&mut self.ebpf, self.programs.tc).unwrap().test_run(opts), -1)
            }
            (Hook::Tc, Link::Ip) => {
                (object::tc(&mut self.ebpf, self.programs.tc_l3).unwrap().test_run(opts), -1)
            }
            (Hook::Xdp, Link::Ethernet) => {
                (object::xdp(&mut self.ebpf, self.programs.xdp).unwrap().test_run(opts), 2)
            }
            (Hook::Xdp, Link::Ip) => {
                (object::xdp(&mut self.ebpf, self.programs.xdp_l3).unwrap().test_run(opts), 2)
            }
        };
        let result = result.unwrap();
        assert_eq!(result.return_value.cast_signed(), pass, "a packet must always pass");
        assert_eq!(&out[..result.data_size_out as usize], data, "a packet must never be changed");
        let after = self.totals();
        let mut events = Vec::new();
        while let Some(record) = self.ring.next() {
            events.push(parse(&record).expect("a record of ours"));
        }
        assert!(events.len() <= 1, "{events:?}");
        Effect {
            allowed: after.allowed.syns - before.allowed.syns,
            denied: after.denied.syns - before.denied.syns,
            forwarded: after.forwarded - before.forwarded,
            event: events.first().map(|e: &SynSeen| (e.source.ip(), e.source.port(), e.sequence, e.class)),
        }
    }

    /// What the host's walk over the same bytes says it should do.
    fn expected(&self, link: Link, data: &[u8]) -> Effect {
        let nothing = Effect { allowed: 0, denied: 0, forwarded: 0, event: None };
        let Ok(syn) = packet::syn(data, link, PORT) else { return nothing };
        let (source, destination) = (IpAddr::from(syn.source), IpAddr::from(syn.destination));
        let loopback = matches!(destination, IpAddr::V4(v4) if v4.is_loopback());
        if !loopback && !self.own.contains(&destination) {
            return Effect { forwarded: 1, ..nothing };
        }
        let allowed = self.allowed.iter().any(|net| net.contains(&source));
        Effect {
            allowed: u64::from(allowed),
            denied: u64::from(!allowed),
            forwarded: 0,
            event: Some((
                source,
                syn.source_port,
                syn.sequence,
                if allowed { Verdict::Allowed } else { Verdict::Denied },
            )),
        }
    }

    /// TC where the kernel takes the frame there: for a socket buffer it wants the whole header that the type announces.
    fn compare_anywhere(&mut self, data: &[u8]) -> Effect {
        let needed = match data[12..14] {
            [0x08, 0x00] => 14 + 20,
            [0x86, 0xdd] => 14 + 40,
            _ => 0,
        };
        let hook = if data.len() < needed { Hook::Xdp } else { Hook::Tc };
        self.compare(hook, Link::Ethernet, data)
    }

    fn compare(&mut self, hook: Hook, link: Link, data: &[u8]) -> Effect {
        let expected = self.expected(link, data);
        let found = self.run(hook, link, data);
        assert_eq!(found, expected, "{hook:?} {link:?} {data:02x?}");
        found
    }
}

#[test]
fn kernel_and_host_agree_on_random_frames() {
    if !as_root() {
        return;
    }
    let mut bench = Bench::new(None);
    let mut random = Random::new(1);
    let mut counted = [0u64; 4];
    for _ in 0..RANDOM_FRAMES {
        let data = frame(&mut random, PORT);
        let effect = bench.compare_anywhere(&data);
        counted[0] += effect.allowed;
        counted[1] += effect.denied;
        counted[2] += effect.forwarded;
        counted[3] += u64::from(effect.event.is_none());
    }
    let totals = bench.totals();
    assert_eq!(
        (totals.allowed.syns, totals.denied.syns, totals.forwarded),
        (counted[0], counted[1], counted[2])
    );
    assert_eq!((totals.allowed.lost, totals.denied.lost, totals.duplicates), (0, 0, 0));
    // The generator reaches every outcome often.
    assert!(counted.iter().all(|count| *count > RANDOM_FRAMES as u64 / 30), "{counted:?}");
    println!(
        "{RANDOM_FRAMES} frames: {} allowed, {} denied, {} forwarded, {} passed over",
        counted[0],
        counted[1],
        counted[2],
        counted[3] - counted[2]
    );

    let sources: HashMap<_, Address, SourceRecord> =
        HashMap::try_from(bench.ebpf.map("SOURCES").unwrap()).unwrap();
    let recorded: u64 = sources.iter().map(|entry| entry.unwrap().1.syns).sum();
    assert_eq!(recorded, counted[0] + counted[1], "the ledger holds every counted SYN");
}

#[test]
fn kernel_and_host_agree_on_packets_without_an_ethernet_header() {
    if !as_root() {
        return;
    }
    let mut bench = Bench::new(None);
    let mut random = Random::new(2);
    for _ in 0..5_000 {
        let data = frame(&mut random, PORT);
        if let Some(packet) = data.get(14..).filter(|packet| packet.len() >= SHORTEST) {
            bench.compare(Hook::Tc, Link::Ip, packet);
        }
    }
}

#[test]
fn xdp_and_tc_agree() {
    if !as_root() {
        return;
    }
    let mut bench = Bench::new(None);
    let mut random = Random::new(3);
    for _ in 0..300 {
        let data = frame(&mut random, PORT);
        bench.compare(Hook::Xdp, Link::Ethernet, &data);
        if let Some(packet) = data.get(14..).filter(|packet| packet.len() >= SHORTEST) {
            bench.compare(Hook::Xdp, Link::Ip, packet);
        }
    }
}

#[test]
fn a_syn_cut_off_at_any_byte_passes_uncounted_and_a_whole_one_counts() {
    if !as_root() {
        return;
    }
    let mut bench = Bench::new(None);
    let mut random = Random::new(4);
    let mut whole = 0;
    while whole < 6 {
        let data = frame(&mut random, PORT);
        if bench.expected(Link::Ethernet, &data).event.is_none() {
            continue;
        }
        whole += 1;
        for len in SHORTEST..=data.len() {
            bench.compare_anywhere(&data[..len]);
        }
    }
}

/// A TCP segment to an own address, with these flags and options.
fn segment(source: [u8; 4], port: u16, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    let length = 20 + options.len() as u8;
    let mut data = vec![2; 12];
    data.extend([8, 0, 0x45, 0, 0, 20 + length, 0, 0, 0, 0, 64, 6, 0, 0]);
    data.extend(source);
    data.extend(DESTINATIONS_V4[0]);
    data.extend(port.to_be_bytes());
    data.extend(PORT.to_be_bytes());
    data.extend(sequence.to_be_bytes());
    data.extend([0, 0, 0, 0, (length / 4) << 4, flags, 1, 0, 0, 0, 0, 0]);
    data.extend(options);
    data
}

#[test]
fn the_acknowledgement_of_a_leaked_syn_proves_when_it_had_not_left_yet() {
    const WAITED_MS: u32 = 40;
    if !as_root() {
        return;
    }
    let key = TagKey::derive(3);
    let mut bench = Bench::new(Some(TagSettings { clients: 9, key }));
    let tag = |counter| Tag::new(7, counter).unwrap().encode(key);
    let (leaked, masqueraded) = ([203, 0, 113, 5], [10, 1, 2, 3]);
    let mut send = |source, counter: u64, timestamp: u32, flags, sack: [u8; 2]| {
        let timestamp = timestamp.to_be_bytes();
        let is_syn = flags & 0x02 != 0;
        let mut options = if is_syn { vec![2, 4, 5, 0xb4, sack[0], sack[1]] } else { vec![1, 1] };
        options.extend([8, 10]);
        options.extend(timestamp);
        options.extend([0; 4]);
        let sequence = tag(counter).wrapping_add(u32::from(!is_syn));
        let data = segment(source, 1000 + counter as u16, sequence, flags, &options);
        assert_eq!(bench.compare(Hook::Tc, Link::Ethernet, &data).event.is_some(), is_syn);
        let records: aya::maps::Array<_, TagRecord> = bench.ebpf.map("TAGS").unwrap().try_into().unwrap();
        records.get(&7, 0).unwrap()
    };
    let (syn, ack, fin, reset) = (0x02, 0x10, 0x11, 0x14);
    let first = send(leaked, 0, u32::MAX - 9, syn, [4, 2]);
    assert_eq!(first.proven_by_ns, 0);
    // Nobody's acknowledgement, and a reset, prove nothing.
    assert_eq!(send(leaked, 1, 5, ack, [4, 2]), first);
    assert_eq!(send(leaked, 0, 5, reset, [4, 2]), first);
    let proven = send(leaked, 0, WAITED_MS - 10, ack, [4, 2]);
    assert_eq!(proven.proven_by_ns, first.first_ns);
    assert_eq!(first.first_ns - proven.proven_lower_ns, u64::from(WAITED_MS + 1) * 1_001_000);
    assert_eq!(send(leaked, 0, 5_000, fin, [4, 2]), proven, "only the first");
    // Without SACK; the answer comes by another way, as after a switch.
    let second = send(leaked, 1, 7, syn, [1, 1]);
    let proven = send(masqueraded, 1, 7, ack, [4, 2]);
    assert_eq!((proven.proven_by_ns, proven.masqueraded), (second.last_ns, 0));
    // From the first masqueraded SYN on nothing moves the lower end.
    send(masqueraded, 2, 8, syn, [4, 2]);
    send(leaked, 3, 9, syn, [4, 2]);
    let flap = send(leaked, 3, 9, ack, [4, 2]);
    assert_eq!((flap.proven_by_ns, flap.proven_lower_ns), (proven.proven_by_ns, proven.proven_lower_ns));
    // Options in another order are not read.
    assert_eq!(send(leaked, 4, 9, syn, [9, 9]).leaked, 4);
}

#[test]
fn tags_are_recorded_for_the_right_client_only() {
    if !as_root() {
        return;
    }
    let key = TagKey::derive(99);
    let mut bench = Bench::new(Some(TagSettings { clients: 500, key }));
    let syn = |source, port, sequence| segment(source, port, sequence, 0x02, &[]);
    let tag = |client, counter| Tag::new(client, counter).unwrap().encode(key);
    let (leaked, masqueraded) = ([203, 0, 113, 5], [10, 1, 2, 3]);
    for (source, port, sequence) in [
        (leaked, 1001, tag(7, 0)),
        (leaked, 1002, tag(7, 1)),
        (masqueraded, 1003, tag(7, 2)),
        (leaked, 1004, tag(7, 3)),
        (masqueraded, 1005, tag(7, 4)),
        // Beyond --expect-clients, with a wrong check byte, with another key: nobody's.
        (leaked, 1006, tag(501, 0)),
        (leaked, 1007, tag(7, 5) ^ 1),
        (leaked, 1008, Tag::new(7, 6).unwrap().encode(TagKey::derive(98))),
    ] {
        assert!(bench.compare(Hook::Tc, Link::Ethernet, &syn(source, port, sequence)).event.is_some());
    }
    let records: aya::maps::Array<_, TagRecord> = bench.ebpf.map("TAGS").unwrap().try_into().unwrap();
    let record = records.get(&7, 0).unwrap();
    assert_eq!((record.leaked, record.masqueraded), (3, 2));
    assert_eq!((record.proven_lower_ns, record.proven_by_ns), (0, 0), "no timestamps, no proof");
    assert!(record.first_ns < record.last_leaked_before_ns);
    assert!(record.last_leaked_before_ns < record.first_masqueraded_ns);
    assert!(
        record.first_masqueraded_ns < record.last_leaked_ns,
        "a later leak is a flap and moves no bracket"
    );
    assert!(record.last_leaked_ns < record.last_ns);
    let others =
        (1..4096).filter(|client| *client != 7 && records.get(client, 0).unwrap().first_ns != 0).count();
    assert_eq!(others, 0);
    assert_eq!(bench.totals().tagged, 5);
}

#[test]
fn a_full_ring_loses_events_and_never_counts() {
    if !as_root() {
        return;
    }
    let mut bench = Bench::new(None);
    let mut random = Random::new(5);
    let data = loop {
        let data = frame(&mut random, PORT);
        if bench.expected(Link::Ethernet, &data).denied == 1 {
            break data;
        }
    };
    let repeat = 100_000;
    let opts = TestRunOptions { data_in: Some(&data), repeat, ..Default::default() };
    object::tc(&mut bench.ebpf, bench.programs.tc).unwrap().test_run(opts).unwrap();
    let mut events = 0;
    while bench.ring.next().is_some() {
        events += 1;
    }
    let totals = bench.totals();
    assert_eq!(totals.denied.syns, u64::from(repeat));
    assert_eq!(events + totals.denied.lost, u64::from(repeat));
    assert!(totals.denied.lost > 0, "the ring was meant to be too small");
}
