//! What the result keeps of the probing beside bracket and disruptions: times, stalls, counts. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::bracket::Bracket;
use crate::client::probing::Fact;
use crate::document::quantiles::Times;
use crate::document::result::Stall;
use crate::sys::clock::Monotonic;

/// Stalls kept in the result; what comes after is counted.
const STALL_CAP: usize = 1_000;

/// Grows with each fact.
#[derive(Debug)]
pub(crate) struct Record {
    start: Monotonic,
    /// Handshake times of established probes.
    pub connect: Times,
    /// How late ticks were served; the first one, which waits for the client, is not among them.
    pub tick_lateness: Times,
    /// When this client itself was held up: the first of them.
    pub stalls: Vec<Stall>,
    /// How many there were in all.
    pub stalls_total: u64,
    /// The latest of them, each from its first skipped tick to the next one served.
    latest_stalls: VecDeque<(Monotonic, Monotonic)>,
}

impl Record {
    /// Of a test that began at `start`.
    pub(crate) fn new(start: Monotonic) -> Self {
        Self {
            start,
            connect: Times::default(),
            tick_lateness: Times::default(),
            stalls: Vec::new(),
            stalls_total: 0,
            latest_stalls: VecDeque::new(),
        }
    }

    /// Takes in the next fact.
    pub(crate) fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Served { late } => self.tick_lateness.record(*late),
            Fact::Stalled { from, to } => self.note_stall(*from, *to),
            Fact::Settled { probe, .. } => {
                if let Some(established) = probe.established {
                    self.connect.record(established.since(probe.sent));
                }
            }
            Fact::Skipped(_) | Fact::Won { .. } | Fact::Watched(_) | Fact::Egress(..) => {}
        }
    }

    /// How much of `bracket` this client was itself held up for, as far as the latest stalls tell.
    pub(crate) fn stalled_in(&self, bracket: Bracket) -> Duration {
        let (Some(lower), Some(upper)) = (bracket.lower, bracket.upper) else { return Duration::ZERO };
        let (lower, upper) = (self.start + lower, self.start + upper);
        // An instant since a later one is zero.
        let inside = |&(begin, end): &(Monotonic, Monotonic)| end.min(upper).since(begin.max(lower));
        self.latest_stalls.iter().map(inside).sum()
    }

    fn note_stall(&mut self, from: Monotonic, to: Monotonic) {
        self.stalls_total += 1;
        if self.stalls.len() < STALL_CAP {
            self.stalls.push(Stall {
                at_seconds: from.since(self.start).as_secs_f64(),
                length_seconds: to.since(from).as_secs_f64(),
            });
        }
        if self.latest_stalls.len() == STALL_CAP {
            self.latest_stalls.pop_front();
        }
        self.latest_stalls.push_back((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stall_only_what_lies_in_the_bracket_weakens_it() {
        let at = |ms: u64| Monotonic::from_ns(ms * 1_000_000);
        let ms = Duration::from_millis;
        let mut record = Record::new(at(1_000));
        for (from, to) in [(1_000, 1_020), (1_090, 1_150), (1_180, 1_300)] {
            record.take(&Fact::Stalled { from: at(from), to: at(to) });
        }
        let bracket = Bracket { lower: Some(ms(100)), lower_evidence: None, upper: Some(ms(200)) };
        assert_eq!(record.stalled_in(bracket), ms(70));
        assert_eq!(record.stalled_in(Bracket { lower: None, ..bracket }), Duration::ZERO);
        assert_eq!((record.stalls_total, record.stalls[1].at_seconds), (3, 0.09));
    }
}
