//! Nanoseconds of the hot pure parts: the packet walk, the classification, the join of SYNs and accepts, reading a reply.
//!
//! `cargo bench -p egw-probe --bench hot_paths`. Nothing here touches the kernel.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use egw_probe::document::verdict::Verdict;
use egw_probe::workbench::client::{Event, Reply, Series};
use egw_probe::workbench::external_target::AllowedSources;
use egw_probe::workbench::observer::{Correlator, SynSeen};
use egw_probe::workbench::sys::Monotonic;
use egw_probe_common::packet::{self, Link};
use etherparse::PacketBuilder;
use ipnet::{IpNet, Ipv4Net};

const PORT: u16 = 1337;

fn packet_walk(criterion: &mut Criterion) {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (mut syn, mut syn6, mut udp) = (vec![], vec![], vec![]);
    let whole = "a Vec takes every byte";
    ethernet()
        .ipv4([10, 0, 0, 9], [192, 0, 2, 1], 64)
        .tcp(4000, PORT, 7, 1000)
        .syn()
        .write(&mut syn, &[])
        .expect(whole);
    ethernet().ipv6([1; 16], [2; 16], 64).tcp(4000, PORT, 7, 1000).syn().write(&mut syn6, &[]).expect(whole);
    ethernet().ipv4([10, 0, 0, 9], [192, 0, 2, 1], 64).udp(4000, 53).write(&mut udp, &[0; 32]).expect(whole);
    let mut group = criterion.benchmark_group("packet walk");
    for (name, frame) in [("SYN, IPv4", &syn), ("SYN, IPv6", &syn6), ("not TCP", &udp)] {
        let frame = frame.as_slice();
        group.bench_function(name, |bencher| {
            bencher.iter(|| packet::syn(black_box(frame), Link::Ethernet, PORT));
        });
    }
}

fn classification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classification");
    for count in [1u32, 8, 256] {
        // Apart from each other, so that they do not aggregate.
        let net =
            |number: u32| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from(0x0b00_0000 + number * 512), 24));
        let allowed = AllowedSources::new(&(0..count).map(net).collect::<Vec<_>>());
        let denied = IpAddr::from([192, 0, 2, 1]);
        group.bench_function(format!("denied by {count} CIDRs"), |bencher| {
            bencher.iter(|| allowed.verdict(black_box(denied)));
        });
    }
}

fn correlator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("correlator");
    let source = |number: u32| {
        SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number % 50_000), 1024 + (number % 60_000) as u16))
    };
    let syn = move |number: u32| SynSeen {
        at: Monotonic::from_ns(u64::from(number) * 10_000),
        source: source(number),
        sequence: number,
        ifindex: 1,
        class: Verdict::Allowed,
    };
    group.bench_function("a SYN and its accept, 65,536 remembered", |bencher| {
        let mut correlator = Correlator::new(65_536, Duration::from_secs(10));
        let mut number = 0;
        bencher.iter(|| {
            number += 1;
            let seen = syn(number);
            correlator.syn(&seen);
            correlator.accepted(seen.source, None, seen.at)
        });
    });
    group.bench_function("a retransmission", |bencher| {
        let mut correlator = Correlator::new(65_536, Duration::from_secs(10));
        bencher.iter(|| correlator.syn(black_box(&syn(7))));
    });
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client");
    group.bench_function("a pong read", |bencher| {
        bencher.iter_batched(
            Reply::default,
            |mut reply| reply.read(black_box(b"pong\n")),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("a stress dial noted in the series", |bencher| {
        let mut series = Series::default();
        let mut at = Duration::ZERO;
        bencher.iter(|| {
            at += Duration::from_micros(25);
            series.note(at, Event::Opened(Duration::from_micros(20)));
        });
    });
}

criterion_group!(benches, packet_walk, classification, correlator, client);
criterion_main!(benches);
