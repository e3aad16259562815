//! Nanoseconds per packet, over an empty program: what the observer costs the traffic of the host.
//!
//! `cargo bench -p egw-probe --bench kernel_cost [-- --quick]`, as root. The program and an empty one take turns, so that
//! whatever else the machine does meets both; quartiles tell how much of it there was. Every map of the full path is in use:
//! own addresses, CIDRs, the duplicate filter, counters, sources, tags, and the ring, which is drained between rounds.

#[path = "kernel_cost/raw.rs"]
mod raw;

use std::{error::Error, net::IpAddr, num::NonZeroU16, process::ExitCode};

use aya::{
    Ebpf,
    maps::{Array, HashMap, RingBuf},
    programs::{TestRun, TestRunOptions},
};
use egw_probe::workbench::observer as object;
use egw_probe::workbench::observer::{Programs, Settings, TagSettings};
use egw_probe_common::{
    address::Address,
    event::OwnFew,
    tag::{Tag, TagKey},
};
use etherparse::{
    PacketBuilder,
    TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp},
};

/// Runs in one round: so few that their events fit into the ring.
const REPEAT: u32 = 20_000;

const SOURCE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const OWN_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[derive(Clone, Copy)]
enum Kind {
    NonTcp,
    NonSyn,
    SynV4,
    SynV6,
    LeakedSyn,
    ItsAck,
}

impl Kind {
    const ALL: [(Self, &str); 6] = [
        (Self::NonTcp, "not TCP"),
        (Self::NonSyn, "not a SYN"),
        (Self::SynV4, "SYN, IPv4"),
        (Self::SynV6, "SYN, IPv6"),
        (Self::LeakedSyn, "leaked SYN, IPv4, with timestamp"),
        (Self::ItsAck, "its acknowledgement"),
    ];

    fn frame(self) -> Vec<u8> {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let v4 = || ethernet().ipv4([10, 0, 0, 9], [192, 0, 2, 1], 64);
        let leaked = || ethernet().ipv4([198, 51, 100, 9], [192, 0, 2, 1], 64);
        let tag = Tag::new(7, 0).expect("client 7 has tags").encode(TagKey::derive(0));
        // Of another client than the one that is masqueraded.
        let leak = Tag::new(8, 0).expect("client 8 has tags").encode(TagKey::derive(0));
        let mut out = Vec::new();
        match self {
            Self::NonTcp => v4().udp(4000, 53).write(&mut out, &[0; 32]),
            Self::NonSyn => v4().tcp(4000, 1337, 7, 1000).ack(9).write(&mut out, &[0; 32]),
            Self::SynV4 => v4().tcp(4000, 1337, tag, 1000).syn().write(&mut out, &[]),
            Self::SynV6 => {
                ethernet().ipv6(SOURCE_V6, OWN_V6, 64).tcp(4000, 1337, tag, 1000).syn().write(&mut out, &[])
            }
            Self::LeakedSyn => {
                let options = [MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted, Timestamp(1, 0)];
                let syn = leaked().tcp(4000, 1337, leak, 1000).syn().options(&options);
                syn.expect("they fit").write(&mut out, &[])
            }
            Self::ItsAck => {
                let ack =
                    leaked().tcp(4000, 1337, leak + 1, 1000).ack(9).options(&[Noop, Noop, Timestamp(2, 1)]);
                ack.expect("they fit").write(&mut out, &[])
            }
        }
        .expect("a Vec takes every byte");
        out
    }

    const fn is_syn(self) -> bool {
        matches!(self, Self::SynV4 | Self::SynV6 | Self::LeakedSyn)
    }
}

fn main() -> ExitCode {
    // SAFETY: the call has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: kernel_cost: needs root");
        return ExitCode::SUCCESS;
    }
    let rounds = if std::env::args().any(|a| a == "--quick") { 5 } else { 41 };
    match measure(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(rounds: usize) -> Result<(), Box<dyn Error>> {
    let (mut ebpf, programs) = load()?;
    println!("Nanoseconds per packet; {rounds} rounds of {REPEAT} runs each.\n");
    println!("| hook | packet | empty program | over it: median | quartiles | least, most |");
    println!("|---|---|---|---|---|---|");
    for (hook, name, verdict) in [(raw::Kind::Xdp, "XDP", 2), (raw::Kind::SchedCls, "TC", -1)] {
        let empty = raw::empty(hook, verdict)?;
        for (kind, packet) in Kind::ALL {
            let data = kind.frame();
            let (mut over, mut base) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let nothing = raw::run(&empty, &data, REPEAT)?.as_nanos() as i64;
                let options = TestRunOptions { data_in: Some(&data), repeat: REPEAT, ..Default::default() };
                let ours = match hook {
                    raw::Kind::Xdp => object::xdp(&mut ebpf, programs.xdp)?.test_run(options)?,
                    raw::Kind::SchedCls => object::tc(&mut ebpf, programs.tc)?.test_run(options)?,
                };
                let events = drain(&mut ebpf)?;
                if events != if kind.is_syn() { REPEAT as usize } else { 0 } {
                    return Err(format!("{events} events of {REPEAT} {packet} packets").into());
                }
                over.push(ours.duration.as_nanos() as i64 - nothing);
                base.push(nothing);
            }
            over.sort_unstable();
            base.sort_unstable();
            println!(
                "| {name} | {packet} | {} | {} | {} to {} | {}, {} |",
                base[rounds / 2],
                over[rounds / 2],
                over[rounds / 4],
                over[rounds * 3 / 4],
                over[0],
                over[rounds - 1],
            );
        }
    }
    Ok(())
}

/// The program with everything on that a target can switch on, but trace.
fn load() -> Result<(Ebpf, Programs), Box<dyn Error>> {
    let mut settings = Settings::new(
        NonZeroU16::new(1337).expect("not 0"),
        vec!["10.0.0.0/8".parse()?, "2001:db8::/32".parse()?],
    );
    settings.tags = Some(TagSettings { clients: 500, key: TagKey::derive(0) });
    let (mut ebpf, programs) = object::load(&settings)?;
    let own = [IpAddr::from([192, 0, 2, 1]), IpAddr::from(OWN_V6)].map(Address::from);
    let mut all: HashMap<_, Address, u32> = HashMap::try_from(ebpf.map_mut("OWN").ok_or("no OWN")?)?;
    for address in own {
        all.insert(address, 1, 0)?;
    }
    let few = OwnFew { addresses: [own[0], own[1], Address::default(), Address::default()] };
    Array::try_from(ebpf.map_mut("OWN_FEW").ok_or("no OWN_FEW")?)?.set(0, few, 0)?;
    Ok((ebpf, programs))
}

fn drain(ebpf: &mut Ebpf) -> Result<usize, Box<dyn Error>> {
    let mut ring = RingBuf::try_from(ebpf.map_mut("EVENTS").ok_or("no EVENTS")?)?;
    Ok(std::iter::from_fn(|| ring.next().map(drop)).count())
}
