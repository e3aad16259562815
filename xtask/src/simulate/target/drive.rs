//! Drives the shipped decisions of the target through a world: events are read when the process runs, connections are joined
//! and attempts given up on at its ticks, and somebody looks at `/clients` now and then.

use std::collections::VecDeque;

use egw_probe::document::clients::{ClientEntry, Progress};
use egw_probe::workbench::external_target::ClientTable;
use egw_probe::workbench::observer::{Accepted, HalfOpen, Join, Joined, Queue, SynKind, SynSeen};
use egw_probe::workbench::sys::Monotonic;

use super::super::world::{MS, Ns, SECOND};
use super::kernel::Kernel;
use super::traffic::{Event, Traffic, What};
use super::world::World;

/// The world's beginning on the target's clock.
pub(super) const START: Ns = 100 * SECOND;
/// How often accepted connections are joined at the least (`observer/task.rs`).
const TICK: Ns = 250 * MS;
/// When whatever is still open has been given up on, at the latest, after the last event.
const SETTLED: Ns = 30 * SECOND;

/// What `/clients` says at an instant.
pub(super) struct Page {
    pub(super) now: Ns,
    pub(super) clients: Vec<ClientEntry>,
    pub(super) progress: Progress,
}

/// Everything that the target has said.
pub(super) struct Said {
    pub(super) pages: Vec<Page>,
    /// By attempt.
    pub(super) joined: Vec<(usize, Joined)>,
    /// Attempts whose events were read, and those of which some were lost.
    pub(super) seen: Vec<bool>,
    pub(super) lost: Vec<bool>,
    pub(super) firsts: u64,
    pub(super) half_open: HalfOpen,
    pub(super) unmatched: u64,
    pub(super) forgotten: u64,
    pub(super) proofs: u64,
    pub(super) put_back: u64,
}

struct Target<'world> {
    world: &'world World,
    traffic: &'world Traffic,
    random: fastrand::Rng,
    kernel: Kernel,
    join: Join,
    queue: Queue,
    /// Which attempts the connections in the queue are of.
    accepted: VecDeque<usize>,
    table: ClientTable,
    wake: Ns,
    /// The last accept that could not be made.
    delayed: Option<Ns>,
    said: Said,
}

const fn at(ns: Ns) -> Monotonic {
    Monotonic::from_ns(START + ns)
}

pub(super) fn run(world: &World, traffic: &Traffic, seed: u64) -> Said {
    let attempts = traffic.attempts.len();
    let mut target = Target {
        world,
        traffic,
        random: fastrand::Rng::with_seed(seed ^ 0xd41e),
        kernel: Kernel::new(world.key, world.expected, world.ring),
        join: Join::new(at(0)),
        queue: Queue::default(),
        accepted: VecDeque::new(),
        table: ClientTable::new(world.expected, world.key),
        wake: Ns::MAX,
        delayed: None,
        said: Said {
            pages: vec![],
            joined: vec![],
            seen: vec![false; attempts],
            lost: vec![false; attempts],
            firsts: 0,
            half_open: HalfOpen::default(),
            unmatched: 0,
            forgotten: 0,
            proofs: 0,
            put_back: 0,
        },
    };
    target.run();
    target.said.unmatched = target.join.correlator().unmatched();
    target.said.forgotten = target.join.correlator().forgotten();
    target.said.proofs = target.kernel.proofs;
    target.said
}

impl Target<'_> {
    fn run(&mut self) {
        let last = self.traffic.events.last().map_or(0, |event| event.at);
        let lacks = self.world.lacks.iter().map(|(_, to, _)| *to);
        let end = lacks.fold(last, Ns::max) + SETTLED;
        let mut looks: Vec<Ns> = (0..2).map(|_| self.random.u64(0..=last)).chain([end]).collect();
        looks.sort_unstable();
        let mut looks = looks.into_iter().map(|look| self.world.awake(look, false)).peekable();
        let mut events = self.traffic.events.iter().peekable();
        let mut tick = TICK;
        self.join.on_listening(at(self.world.listening));
        while let Some(&look) = looks.peek() {
            let next = events.peek().map_or(Ns::MAX, |event| event.at);
            let now = next.min(tick).min(self.wake).min(look);
            if now == next {
                events.next();
                self.on_event(self.traffic.events[self.traffic.events.len() - events.len() - 1]);
            } else if now == self.wake {
                self.wake = if self.drain(self.world.batch) { Ns::MAX } else { now + 1_000 };
            } else if now == tick {
                self.drain(self.world.batch);
                self.settle(now);
                // The next one is counted from when this one was over (`MissedTickBehavior::Delay`).
                tick = self.world.awake(now + TICK, false);
            } else {
                looks.next();
                self.look(now);
            }
        }
    }

    fn on_event(&mut self, Event { at: now, of, what }: Event) {
        let attempt = &self.traffic.attempts[of];
        match what {
            What::Syn { timestamp } if self.world.kernel => {
                let had_events = self.kernel.has_events();
                let syn = SynSeen {
                    at: at(now),
                    source: attempt.source,
                    sequence: attempt.sequence,
                    ifindex: 1,
                    class: attempt.verdict,
                };
                let swaps = self.random.bool();
                let kept = self.kernel.syn(syn, timestamp, swaps);
                self.said.seen[of] |= kept;
                self.said.lost[of] |= !kept;
                if !had_events {
                    self.wake = self.world.awake(now + self.random.u64(2_000..500_000), false);
                }
            }
            What::Ack { timestamp } if self.world.kernel => {
                self.kernel.acknowledge(attempt.sequence, timestamp, START + now);
            }
            What::Accept if self.world.kernel => {
                let sequence = self.world.keeps_syns.then_some(attempt.sequence);
                self.queue.push(Accepted { source: attempt.source, sequence, at: at(now) });
                self.accepted.push_back(of);
            }
            What::Accept => self.table.syn(attempt.sequence, attempt.verdict, at(now), false),
            What::Syn { .. } | What::Ack { .. } => {}
        }
    }

    /// As `observer/shared.rs` does it; whether the ring is empty now.
    fn drain(&mut self, limit: usize) -> bool {
        let taken = self.queue.take();
        let waited = taken.len();
        let empty = self.read(limit);
        let ready = self.queue.ready(taken, empty);
        self.said.put_back += u64::from(ready.len() < waited);
        for Accepted { source, sequence, at } in ready {
            let of = self.accepted.pop_front().expect("one for each in the queue");
            if let Some(joined) = self.join.on_accepted(source, sequence, at) {
                self.said.joined.push((of, joined));
            }
        }
        empty
    }

    fn read(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(syn) = self.kernel.read() else { return true };
            let kind = self.join.on_syn(&syn);
            self.said.firsts += u64::from(kind == SynKind::First);
            self.table.syn(syn.sequence, syn.class, syn.at, kind == SynKind::Retransmit);
        }
        false
    }

    fn settle(&mut self, now: Ns) {
        let delayed = self.world.accept_delayed(now);
        if let Some(delayed) = delayed.filter(|_| delayed > std::mem::replace(&mut self.delayed, delayed)) {
            self.join.on_accept_delayed(at(delayed));
        }
        let half_open = self.join.on_tick(at(now));
        self.said.half_open.allowed += half_open.allowed;
        self.said.half_open.denied += half_open.denied;
    }

    /// Somebody asks for `/clients` (`external_target/mod.rs`).
    fn look(&mut self, now: Ns) {
        if self.world.kernel {
            self.drain(usize::MAX);
            self.wake = Ns::MAX;
            self.settle(now);
            let mut clients = self.table.lock();
            for (number, record) in &self.kernel.tags {
                clients.set_record(*number, *record);
            }
        }
        let clients = self.table.lock();
        let page = Page { now, clients: clients.entries().collect(), progress: clients.progress() };
        drop(clients);
        self.said.pages.push(page);
    }
}
