//! Nanoseconds per packet, over an empty program: what the observer costs the traffic of the host (issue 3, figure 2).
//!
//! Ignored by default because a figure on a busy machine says nothing; run it with
//! `cargo test --release --test kernel_cost -- --ignored --nocapture`.

#[path = "kernel/raw.rs"]
mod raw;

use std::{net::IpAddr, num::NonZeroU16};

use aya::{
    Ebpf,
    maps::{Array, HashMap, RingBuf},
    programs::{TestRun, TestRunOptions},
};
use egw_probe::target::kernel::object::{self, Settings};
use egw_probe_common::{address::Address, event::OwnFew};
use etherparse::PacketBuilder;

const REPEAT: u32 = 20_000;
const ROUNDS: usize = 41;

fn frame(kind: &str) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut out = Vec::new();
    let v4 = || {
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
            [10, 0, 0, 9],
            [192, 0, 2, 1],
            64,
        )
    };
    match kind {
        "non-TCP" => v4().udp(4000, 53).write(&mut out, &[0; 32]).unwrap(),
        "non-SYN" => v4().tcp(4000, 1337, 7, 1000).ack(9).write(&mut out, &[0; 32]).unwrap(),
        "SYN v4" => v4().tcp(4000, 1337, 7, 1000).syn().write(&mut out, &[]).unwrap(),
        "SYN v6" => eth
            .ipv6(
                [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
                [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                64,
            )
            .tcp(4000, 1337, 7, 1000)
            .syn()
            .write(&mut out, &[])
            .unwrap(),
        _ => unreachable!("{kind}"),
    }
    out
}

fn drain(ebpf: &mut Ebpf) -> usize {
    let mut ring = RingBuf::try_from(ebpf.map_mut("EVENTS").unwrap()).unwrap();
    std::iter::from_fn(|| ring.next().map(drop)).count()
}

#[test]
#[ignore = "a benchmark"]
fn cost_per_packet_stays_within_the_budget() {
    let settings = Settings::new(
        NonZeroU16::new(1337).unwrap(),
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
    );
    let (mut ebpf, _) = object::load(&settings).unwrap();
    let mut own: HashMap<_, Address, u32> = HashMap::try_from(ebpf.map_mut("OWN").unwrap()).unwrap();
    let few = OwnFew {
        addresses: ["192.0.2.1", "2001:db8::1", "::", "::"].map(|a| a.parse::<IpAddr>().unwrap().into()),
    };
    for address in ["192.0.2.1", "2001:db8::1"] {
        own.insert(Address::from(address.parse::<IpAddr>().unwrap()), 1, 0).unwrap();
    }
    Array::try_from(ebpf.map_mut("OWN_FEW").unwrap()).unwrap().set(0, few, 0).unwrap();
    for (kind, verdict) in [(raw::Kind::Xdp, 2), (raw::Kind::SchedCls, -1)] {
        let empty = raw::empty(kind, verdict).unwrap();
        for name in ["non-TCP", "non-SYN", "SYN v4", "SYN v6"] {
            let data = frame(name);
            let mut over = Vec::new();
            let mut base = Vec::new();
            for _ in 0..ROUNDS {
                let nothing = raw::run(&empty, &data, REPEAT).unwrap().as_nanos() as i64;
                let opts = TestRunOptions { data_in: Some(&data), repeat: REPEAT, ..Default::default() };
                let ours = match kind {
                    raw::Kind::Xdp => object::xdp(&mut ebpf, "egw_xdp_frags").unwrap().test_run(opts),
                    raw::Kind::SchedCls => object::tc(&mut ebpf, "egw_tc").unwrap().test_run(opts),
                }
                .unwrap();
                drain(&mut ebpf);
                over.push(ours.duration.as_nanos() as i64 - nothing);
                base.push(nothing);
            }
            over.sort_unstable();
            base.sort_unstable();
            println!(
                "{:4} {name:8} empty {:3} ns; over it: min {:4}, p25 {:4}, median {:4}, p75 {:4}, max {:4} ns",
                if matches!(kind, raw::Kind::Xdp) { "XDP" } else { "TC" },
                base[ROUNDS / 2],
                over[0],
                over[ROUNDS / 4],
                over[ROUNDS / 2],
                over[ROUNDS * 3 / 4],
                over[ROUNDS - 1],
            );
        }
    }
}
