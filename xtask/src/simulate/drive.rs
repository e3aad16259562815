//! Drives the shipped decisions of the client through a world, as its loop does: ticks first, then what has come, then what
//! has expired.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::Duration;

use egw_probe::document::outcome::Outcome;
use egw_probe::document::stress::PortRange;
use egw_probe::workbench::client::{
    Fact, Findings, Launch, PortWalk, Probe, ProbeEvent, ProbeId, Probing, Rules, SourcePort,
};
use egw_probe::workbench::config::WatchConfig;
use egw_probe::workbench::sys::Monotonic;

use super::path::{Walker, Way};
use super::world::{MS, Nat, Ns, World};

/// The client's start on its clock.
pub(super) const START: Ns = 1_000_000_000;
/// Events that one turn of the loop reads: fewer than the real one's, so that a batch is full more often.
const BATCH: usize = 8;
/// Local ports tried for a probe.
const PORTS_TRIED: u32 = 64;
/// A history with more turns is cut off, as by a signal.
const MOST_TURNS: u64 = 60_000;

/// Everything that happened.
pub(super) struct History {
    pub(super) probes: Vec<Sent>,
    pub(super) facts: Vec<Fact>,
    pub(super) settled: Vec<(Probe, bool)>,
    pub(super) findings: Findings,
    pub(super) unsafe_ports: u64,
}

/// A probe, and what truly became of it.
pub(super) struct Sent {
    pub(super) at: Ns,
    pub(super) way: Way,
}

struct Client<'world> {
    world: &'world World,
    walker: Walker<'world>,
    ports: PortWalk,
    probing: Probing<u16>,
    due: BinaryHeap<Reverse<(Ns, ProbeId, u8)>>,
    probes: Vec<Sent>,
    settled: Vec<(Probe, bool)>,
    facts: Vec<Fact>,
    unsafe_ports: u64,
    in_use: HashSet<u16>,
}

const fn at(ns: Ns) -> Monotonic {
    Monotonic::from_ns(START + ns)
}

pub(super) fn run(world: &World, seed: u64) -> History {
    let range = PortRange { low: 1_000, high: 1_000 + world.ports - 1 };
    let mut client = Client {
        world,
        walker: Walker { world, nat: Nat::default(), random: fastrand::Rng::with_seed(seed) },
        ports: PortWalk::new(range, seed as u32),
        probing: Probing::new(Rules {
            start: at(0),
            phase: Duration::from_nanos(world.phase),
            interval: Duration::from_nanos(world.interval),
            test_timeout: Duration::from_nanos(world.test_timeout),
            probe_timeout: Duration::from_nanos(world.probe_timeout),
            watch: world
                .watch
                .map(|length| WatchConfig { duration: Some(Duration::from_nanos(length)), hold: 0 }),
            most_in_flight: world.most_in_flight,
        }),
        due: BinaryHeap::new(),
        probes: vec![],
        settled: vec![],
        facts: vec![],
        unsafe_ports: 0,
        in_use: HashSet::new(),
    };
    client.run();
    let _ended = client.probing.finish();
    client.collect();
    History {
        probes: client.probes,
        facts: client.facts,
        settled: client.settled,
        findings: client.probing.into_findings(),
        unsafe_ports: client.unsafe_ports,
    }
}

impl Client<'_> {
    fn run(&mut self) {
        let mut now = self.awake(self.world.ready);
        self.tick(now);
        let mut timer = ns(self.probing.next_tick());
        for _ in 0..MOST_TURNS {
            if self.probing.is_over(at(now)) {
                return;
            }
            if self.world.interrupted.is_some_and(|interrupted| interrupted <= now) {
                break;
            }
            let looked = now + self.walker.random.u64(100..3_000);
            let deadline = self.probing.next_deadline().map_or(looked, ns);
            let next = self.due.peek().map_or(Ns::MAX, |Reverse((when, ..))| *when);
            let wake = deadline.min(next).min(timer).min(looked + 200 * MS).max(looked);
            let late = self.walker.random.u64(500..20_000);
            now = self.awake(wake + late);
            while timer <= now {
                timer += self.world.interval;
            }
            self.tick(now);
            let all_read = self.deliver(now);
            let looked = if all_read { at(looked) } else { Monotonic::from_ns(0) };
            while let Some((port, outcome)) = self.probing.on_deadline(looked, at(now)) {
                self.done(port, outcome, now);
            }
            self.collect();
        }
        self.probing.on_signal(at(now));
        self.probing.on_signal(at(now));
    }

    /// When the client really runs that would at `wanted`.
    fn awake(&self, wanted: Ns) -> Ns {
        let mut now = wanted;
        while let Some((_, to)) = self.world.stalls.iter().find(|(from, to)| *from <= now && now < *to) {
            now = *to;
        }
        now
    }

    fn tick(&mut self, now: Ns) {
        if !self.probing.on_tick(at(now)) {
            return;
        }
        let id = self.probing.next_id();
        let sent = now + 3_000;
        let left = sent + self.walker.random.u64(2_000..30_000);
        // The kernel refuses a port that is in use.
        let free = (0..PORTS_TRIED)
            .map(|_| self.ports.next(at(sent)))
            .find(|port| !self.in_use.contains(&port.number));
        let Some(SourcePort { number, is_unsafe }) = free else {
            let way = Way::none();
            self.probes.push(Sent { at: sent, way });
            let launch =
                Launch { sent: at(sent), left: at(sent), state: Err(Outcome::Error), unsafe_port: false };
            self.probing.launched(launch);
            return;
        };
        self.in_use.insert(number);
        self.unsafe_ports += u64::from(is_unsafe);
        let way = self.walker.walk(number, left);
        for (index, (when, _)) in way.events.iter().enumerate() {
            self.due.push(Reverse(((*when).max(left), id, index as u8)));
        }
        self.probes.push(Sent { at: sent, way });
        self.probing.launched(Launch {
            sent: at(sent),
            left: at(left),
            state: Ok(number),
            unsafe_port: is_unsafe,
        });
    }

    /// Hands on what has come by `now`; whether that was all.
    fn deliver(&mut self, now: Ns) -> bool {
        for _ in 0..BATCH {
            match self.due.peek() {
                Some(Reverse((when, ..))) if *when <= now => {}
                _ => return true,
            }
            let Some(Reverse((_, id, index))) = self.due.pop() else { return true };
            let (_, event): (Ns, ProbeEvent) = self.probes[id as usize].way.events[usize::from(index)];
            if let Some((port, outcome)) = self.probing.on_event(id, event, at(now)) {
                self.done(port, outcome, now);
            }
        }
        false
    }

    fn done(&mut self, port: u16, outcome: Outcome, now: Ns) {
        self.in_use.remove(&port);
        self.ports.ended(port, outcome, at(now));
        let sent = self.probes.iter().rposition(|sent| sent.way.port == port);
        if let Some(sent) = sent {
            let way = self.probes[sent].way.clone();
            self.walker.close(&way, now);
        }
    }

    fn collect(&mut self) {
        for fact in self.probing.take_facts() {
            if let Fact::Settled { probe, before_winner } = &fact {
                self.settled.push((*probe, *before_winner));
            }
            self.facts.push(fact);
        }
    }
}

fn ns(instant: Monotonic) -> Ns {
    instant.as_ns().saturating_sub(START)
}
