//! When the join gives up on an attempt, and when it waits: pure, over the [`Correlator`] and a time.
//!
//! Connections that stand are accepted late when this process was held up or lacks descriptors. So nothing is given up on
//! until whoever was held up has had time to accept.

use std::net::SocketAddr;
use std::time::Duration;

use crate::observer::correlate::{Correlator, HalfOpen, Joined, SynKind};
use crate::observer::event::SynSeen;
use crate::sys::clock::Monotonic;

/// Attempts remembered at once; at some 300 bytes each, 80 MB when full.
const ATTEMPTS: usize = 262_144;
/// After this long without a further SYN an attempt is half-open. A client that still tries sends the second SYN after
/// 1 s, the third after 3 s, the fourth after 7 s (RFC 6298), so no gap of a living attempt is longer until then.
const EXPIRY: Duration = Duration::from_secs(10);
/// Whoever has not looked for this long was held up, and connections that stood meanwhile are still to be accepted: they get
/// as long, from then on, before an attempt is given up on.
const HELD_UP: Duration = Duration::from_secs(1);

/// The join of SYNs and accepted connections.
#[derive(Debug)]
pub struct Join {
    correlator: Correlator,
    last_tick: Monotonic,
    patient_until: Monotonic,
}

impl Join {
    /// Nothing seen yet, at `now`.
    pub fn new(now: Monotonic) -> Self {
        Self {
            correlator: Correlator::new(ATTEMPTS, EXPIRY),
            last_tick: now,
            patient_until: Monotonic::from_ns(0),
        }
    }

    /// Takes in one SYN.
    pub fn on_syn(&mut self, syn: &SynSeen) -> SynKind {
        self.correlator.syn(syn)
    }

    /// Takes in one accepted connection, whose SYN has been taken in before.
    pub fn on_accepted(
        &mut self,
        source: SocketAddr,
        sequence: Option<u32>,
        at: Monotonic,
    ) -> Option<Joined> {
        self.correlator.accepted(source, sequence, at)
    }

    /// Connections are taken from `at` on.
    pub fn on_listening(&mut self, at: Monotonic) {
        self.correlator.listening(at);
    }

    /// Connections wait for an accept that cannot be made at `now`: no attempt is given up on meanwhile.
    pub fn on_accept_delayed(&mut self, now: Monotonic) {
        self.patient_until = now + HELD_UP;
    }

    /// Gives up on attempts whose time is over; returns how many since the last tick.
    pub fn on_tick(&mut self, now: Monotonic) -> HalfOpen {
        if now.since(self.last_tick) > HELD_UP {
            self.patient_until = now + HELD_UP;
        }
        self.last_tick = now;
        if now >= self.patient_until {
            self.correlator.expire(now);
        }
        self.correlator.take_half_open()
    }

    /// When the attempt of `source` with this sequence number began ([`Correlator::syn_of`]).
    pub fn syn_of(&self, source: SocketAddr, sequence: Option<u32>) -> Option<Monotonic> {
        self.correlator.syn_of(source, sequence)
    }

    /// The attempts.
    pub const fn correlator(&self) -> &Correlator {
        &self.correlator
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::verdict::Verdict;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    fn with_a_syn_at_zero() -> Join {
        let mut join = Join::new(at(0));
        let source = SocketAddr::from(([192, 0, 2, 1], 5));
        join.on_syn(&SynSeen { at: at(0), source, sequence: 7, ifindex: 1, class: Verdict::Denied });
        join
    }

    #[test]
    fn a_process_that_was_held_up_gives_up_on_nothing_until_it_has_had_time_to_accept() {
        let mut join = with_a_syn_at_zero();
        assert_eq!(join.on_tick(at(11_000)), HalfOpen::default(), "nobody looked for 11 s");
        assert_eq!(join.on_tick(at(11_500)), HalfOpen::default());
        assert_eq!(join.on_tick(at(12_000)), HalfOpen { allowed: 0, denied: 1 });
    }

    #[test]
    fn an_accept_that_cannot_be_made_delays_the_giving_up() {
        let mut join = with_a_syn_at_zero();
        for ms in (0..10_000).step_by(500) {
            join.on_tick(at(ms));
        }
        join.on_accept_delayed(at(9_900));
        assert_eq!(join.on_tick(at(10_500)), HalfOpen::default());
        assert_eq!(join.on_tick(at(10_900)), HalfOpen { allowed: 0, denied: 1 });
    }
}
