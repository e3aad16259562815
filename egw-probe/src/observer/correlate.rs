//! The join of SYNs and accepted connections, by source address and port: pure code over values and time.
//!
//! It tells first SYNs from retransmissions, how long a SYN took to become an accepted connection, and which SYNs never
//! became one. Its memory is bounded: beyond the limit it forgets the oldest attempt, and counts that.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::document::verdict::Verdict;
use crate::observer::event::SynSeen;
use crate::sys::clock::Monotonic;

/// What a SYN is to the attempt it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynKind {
    /// The first of its connection attempt.
    First,
    /// The same sequence number from the same source again.
    Retransmit,
}

/// An accepted connection that found its SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Verdict the kernel gave to the SYN.
    pub class: Verdict,
    /// Arrival of the attempt's first SYN.
    pub syn_at: Monotonic,
    /// From there to the accept.
    pub syn_to_accept: Duration,
    /// How often the SYN was sent again before.
    pub retransmits: u32,
}

/// Attempts that were given up on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HalfOpen {
    /// Of allowed sources.
    pub allowed: u64,
    /// Of denied sources.
    pub denied: u64,
}

impl HalfOpen {
    fn count(&mut self, class: Verdict) {
        match class {
            Verdict::Allowed => self.allowed += 1,
            Verdict::Denied => self.denied += 1,
        }
    }

    /// Takes what has been counted since the last call.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[derive(Debug)]
struct Attempt {
    number: u64,
    sequence: u32,
    first: Monotonic,
    last: Monotonic,
    class: Verdict,
    retransmits: u32,
    accepted: bool,
}

#[derive(Debug)]
struct Deadline {
    at: Monotonic,
    source: SocketAddr,
    number: u64,
}

/// The open attempts.
#[derive(Debug)]
pub struct Correlator {
    attempts: HashMap<SocketAddr, Attempt>,
    // In order of their time; one for each attempt, plus those whose attempt a newer one has replaced.
    deadlines: VecDeque<Deadline>,
    expiry: Duration,
    limit: usize,
    half_open: HalfOpen,
    forgotten: u64,
    unmatched: u64,
    begun: u64,
}

impl Correlator {
    /// Remembers up to `limit` attempts, each until `expiry` after its latest SYN.
    pub fn new(limit: usize, expiry: Duration) -> Self {
        Self {
            attempts: HashMap::new(),
            deadlines: VecDeque::new(),
            expiry,
            limit,
            half_open: HalfOpen::default(),
            forgotten: 0,
            unmatched: 0,
            begun: 0,
        }
    }

    /// Takes in one SYN.
    pub fn syn(&mut self, syn: &SynSeen) -> SynKind {
        if let Some(attempt) = self.attempts.get_mut(&syn.source) {
            if attempt.sequence == syn.sequence {
                attempt.retransmits += 1;
                // Two CPUs may hand in their SYNs a little out of order.
                attempt.first = attempt.first.min(syn.at);
                attempt.last = attempt.last.max(syn.at);
                return SynKind::Retransmit;
            }
            // The port is used again, so the earlier attempt is over.
            let (class, accepted) = (attempt.class, attempt.accepted);
            self.attempts.remove(&syn.source);
            if !accepted {
                self.half_open.count(class);
            }
        }
        while self.deadlines.len() >= self.limit {
            self.forget_oldest();
        }
        self.begun += 1;
        let number = self.begun;
        let attempt = Attempt {
            number,
            sequence: syn.sequence,
            first: syn.at,
            last: syn.at,
            class: syn.class,
            retransmits: 0,
            accepted: false,
        };
        self.attempts.insert(syn.source, attempt);
        self.deadlines.push_back(Deadline { at: syn.at + self.expiry, source: syn.source, number });
        SynKind::First
    }

    /// Takes in one accepted connection. Every SYN that the kernel saw before must have been taken in before.
    /// `None` when its SYN is not known: its event was lost, it is older than the program, or it came in on an interface
    /// that is not observed.
    pub fn accepted(&mut self, source: SocketAddr, at: Monotonic) -> Option<Joined> {
        let attempt = self.attempts.get_mut(&source).filter(|attempt| !attempt.accepted);
        let Some(attempt) = attempt else {
            self.unmatched += 1;
            return None;
        };
        // Kept until it expires, so that a retransmission that crossed the accept is still known for one.
        attempt.accepted = true;
        Some(Joined {
            class: attempt.class,
            syn_at: attempt.first,
            syn_to_accept: at.since(attempt.first),
            retransmits: attempt.retransmits,
        })
    }

    /// When the latest attempt of `source` began.
    pub fn syn_of(&self, source: &SocketAddr) -> Option<Monotonic> {
        self.attempts.get(source).map(|attempt| attempt.first)
    }

    /// Gives up on attempts whose time is over.
    pub fn expire(&mut self, now: Monotonic) {
        while let Some(deadline) = self.deadlines.pop_front_if(|deadline| deadline.at <= now) {
            let Some(attempt) = self.current(&deadline) else { continue };
            if attempt.last + self.expiry > now && !attempt.accepted {
                // Sent again meanwhile. Counted from now, so that the queue stays in order.
                self.deadlines.push_back(Deadline { at: now + self.expiry, ..deadline });
                continue;
            }
            let (class, accepted) = (attempt.class, attempt.accepted);
            self.attempts.remove(&deadline.source);
            if !accepted {
                self.half_open.count(class);
            }
        }
    }

    /// Half-open attempts since the last call.
    pub fn take_half_open(&mut self) -> HalfOpen {
        self.half_open.take()
    }

    /// Attempts forgotten for want of room, so far: they are in none of the other counts.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Accepted connections whose SYN was not known, so far.
    pub const fn unmatched(&self) -> u64 {
        self.unmatched
    }

    /// Attempts remembered now.
    pub fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    fn forget_oldest(&mut self) {
        let Some(deadline) = self.deadlines.pop_front() else { return };
        if let Some(attempt) = self.current(&deadline) {
            let accepted = attempt.accepted;
            self.attempts.remove(&deadline.source);
            self.forgotten += u64::from(!accepted);
        }
    }

    fn current(&self, deadline: &Deadline) -> Option<&Attempt> {
        self.attempts.get(&deadline.source).filter(|attempt| attempt.number == deadline.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn syn(port: u16, sequence: u32, ms: u64) -> SynSeen {
        SynSeen { at: at(ms), source: source(port), sequence, ifindex: 1, class: Verdict::Denied }
    }

    #[test]
    fn an_accepted_connection_finds_its_first_syn() {
        let mut join = Correlator::new(100, EXPIRY);
        assert_eq!(join.syn(&syn(1, 7, 1000)), SynKind::First);
        assert_eq!(join.syn(&syn(1, 7, 2000)), SynKind::Retransmit);
        assert_eq!(
            join.accepted(source(1), at(2003)),
            Some(Joined {
                class: Verdict::Denied,
                syn_at: at(1000),
                syn_to_accept: Duration::from_millis(1003),
                retransmits: 1,
            })
        );
    }

    #[test]
    fn a_connection_without_a_known_syn_is_counted_and_joined_to_nothing() {
        let mut join = Correlator::new(100, EXPIRY);
        assert_eq!(join.accepted(source(1), at(5)), None);
        assert_eq!(join.unmatched(), 1);
    }

    #[test]
    fn a_syn_whose_connection_never_comes_is_half_open_after_the_expiry_and_not_before() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 0));
        join.expire(at(9_999));
        assert_eq!(join.take_half_open(), HalfOpen::default());
        join.expire(at(10_000));
        assert_eq!(join.take_half_open(), HalfOpen { allowed: 0, denied: 1 });
        assert_eq!(join.take_half_open(), HalfOpen::default());
        assert!(join.is_empty());
    }

    #[test]
    fn a_retransmission_gives_an_attempt_more_time() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 0));
        join.syn(&syn(1, 7, 7_000));
        join.expire(at(12_000));
        assert_eq!(join.take_half_open(), HalfOpen::default());
        assert!(join.accepted(source(1), at(12_500)).is_some());
    }

    #[test]
    fn an_accepted_connection_is_never_half_open() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 0));
        join.accepted(source(1), at(1));
        assert_eq!(join.syn(&syn(1, 7, 2)), SynKind::Retransmit);
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen::default());
        assert!(join.is_empty());
    }

    #[test]
    fn a_port_used_again_begins_a_new_attempt_and_ends_the_old_one() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 0));
        assert_eq!(join.syn(&syn(1, 8, 500)), SynKind::First);
        assert_eq!(join.take_half_open(), HalfOpen { allowed: 0, denied: 1 });
        let joined = join.accepted(source(1), at(501)).unwrap();
        assert_eq!(joined.syn_to_accept, Duration::from_millis(1));
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen::default());
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_forgotten_and_counted() {
        let mut join = Correlator::new(10, EXPIRY);
        for port in 0..1000 {
            join.syn(&syn(port, 7, 0));
        }
        assert_eq!(join.len(), 10);
        assert_eq!(join.forgotten(), 990);
        // One source that begins anew each time fills no memory either.
        for sequence in 0..1000 {
            join.syn(&syn(5000, sequence, 1));
        }
        assert!(join.deadlines.len() <= 10);
        join.expire(at(60_000));
        assert!(join.is_empty());
    }

    #[test]
    fn every_first_syn_ends_up_in_exactly_one_count() {
        let mut join = Correlator::new(50, EXPIRY);
        let mut firsts = 0;
        let mut joined = 0;
        // A small deterministic generator: reproducible, and no dependency.
        let mut state = 1u32;
        let mut next = move |modulus: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % modulus
        };
        for step in 0..20_000u64 {
            let port = next(200) as u16;
            match next(3) {
                0 => joined += u64::from(join.accepted(source(port), at(step * 10)).is_some()),
                _ => {
                    firsts += u64::from(join.syn(&syn(port, next(3), step * 10)) == SynKind::First);
                }
            }
            join.expire(at(step * 10));
        }
        join.expire(at(10_000_000));
        let half_open = join.take_half_open();
        assert_eq!(joined + half_open.denied + join.forgotten(), firsts);
    }
}
