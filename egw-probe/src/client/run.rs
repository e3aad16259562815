//! One run of misses, and what it proves of how long the path was broken. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::chance::Misses;
use crate::client::outcome::Probe;
use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Misses remembered at each end of a run.
pub(crate) const ENDS: usize = 64;

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) first_sent: Monotonic,
    /// When each of the first misses was settled.
    first_settled: Vec<Monotonic>,
    /// When each of the last misses was sent.
    last_sent: VecDeque<Monotonic>,
    /// When the first of those that no chance explains was settled, and when the last was sent.
    answered: Option<(Monotonic, Monotonic)>,
    pub(crate) misses: u64,
    pub(crate) by: Misses,
    pub(crate) told: bool,
}

impl Run {
    pub(crate) fn new(probe: &Probe) -> Self {
        Self {
            first_sent: probe.sent,
            first_settled: Vec::new(),
            last_sent: VecDeque::new(),
            answered: None,
            misses: 0,
            by: Misses::default(),
            told: false,
        }
    }

    pub(crate) fn take(&mut self, probe: &Probe) {
        self.misses += 1;
        self.by[probe.outcome() as usize] += 1;
        // What NAT remembers of an earlier probe says nothing of the path now.
        if probe.unsafe_port {
            return;
        }
        if self.first_settled.len() < ENDS {
            self.first_settled.push(probe.settled);
        }
        if self.last_sent.len() == ENDS {
            self.last_sent.pop_front();
        }
        self.last_sent.push_back(probe.sent);
        if is_no_chance(probe) {
            self.answered.get_or_insert((probe.settled, probe.sent)).1 = probe.sent;
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        let unanswered = Outcome::ALL.into_iter().filter(|outcome| outcome.is_unanswered());
        if self.by[Outcome::Leaked as usize] > 0 {
            Kind::Leak
        } else if unanswered.map(|outcome| self.by[outcome as usize]).sum::<u64>() == self.misses {
            Kind::Blackhole
        } else {
            Kind::Rejected
        }
    }

    /// Nothing but loss is needed to explain it, however improbable that is.
    pub(crate) fn may_be_chance(&self) -> bool {
        self.kind() == Kind::Blackhole
    }

    /// What the misses prove of the length, if chance explains `by_chance` of them at the ends, however many at which.
    pub(crate) fn at_least(&self, by_chance: usize) -> Duration {
        let without = |first: usize| {
            let ends = self.first_settled.get(first).zip(self.last_sent.iter().rev().nth(by_chance - first));
            ends.map_or(Duration::ZERO, |(broken_by, broken_at)| broken_at.since(*broken_by))
        };
        let without_chance = if self.misses as usize > by_chance && by_chance < ENDS {
            (0..=by_chance).map(without).min().unwrap_or_default()
        } else {
            Duration::ZERO
        };
        let answered =
            self.answered.map_or(Duration::ZERO, |(broken_by, broken_at)| broken_at.since(broken_by));
        without_chance.max(answered)
    }
}

/// Whether the miss of a probe was somebody's decision. A close or a reset is not: a proxy makes one where it has lost its
/// own packets.
fn is_no_chance(probe: &Probe) -> bool {
    match probe.outcome() {
        Outcome::Refused | Outcome::Unreachable => true,
        Outcome::Leaked => probe.end.source.is_some(),
        _ => false,
    }
}
