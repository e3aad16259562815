//! The join of SYNs and accepted connections: pure code over values and time.
//!
//! It tells first SYNs from retransmissions, how long a SYN took to become an accepted connection, and which SYNs never
//! became one. A SYN is named by source address, port and sequence number; a connection whose sequence number is not known
//! belongs to the oldest SYN of its source that has none yet, because a port may be used again before its first accept. Its
//! memory is bounded: beyond the limit the oldest attempt is given up on, and that is counted.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
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

/// What names a connection attempt: its retransmissions repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    source: SocketAddr,
    sequence: u32,
}

#[derive(Debug)]
struct Attempt {
    number: u64,
    first: Monotonic,
    last: Monotonic,
    class: Verdict,
    retransmits: u32,
    accepted: bool,
}

#[derive(Debug)]
struct Deadline {
    at: Monotonic,
    name: Name,
}

/// The open attempts.
#[derive(Debug)]
pub struct Correlator {
    attempts: HashMap<Name, Attempt>,
    /// Of these, by source and in order of their numbers, the sequence numbers of those without a connection.
    waiting: BTreeSet<(SocketAddr, u64, u32)>,
    /// In order of their time, one for each attempt.
    deadlines: VecDeque<Deadline>,
    expiry: Duration,
    limit: usize,
    listening: Monotonic,
    half_open: HalfOpen,
    /// The source of the latest allowed one, and of the latest denied one.
    latest_half_open: [Option<IpAddr>; 2],
    forgotten: u64,
    unmatched: u64,
    begun: u64,
}

impl Correlator {
    /// Remembers up to `limit` attempts, each until `expiry` after its latest SYN.
    pub fn new(limit: usize, expiry: Duration) -> Self {
        Self {
            attempts: HashMap::new(),
            waiting: BTreeSet::new(),
            deadlines: VecDeque::new(),
            expiry,
            limit,
            listening: Monotonic::from_ns(0),
            half_open: HalfOpen::default(),
            latest_half_open: [None; 2],
            forgotten: 0,
            unmatched: 0,
            begun: 0,
        }
    }

    /// Connections are taken from `at` on: SYNs that came earlier were refused, and are none that stay half-open.
    pub fn listening(&mut self, at: Monotonic) {
        self.listening = at;
    }

    /// Takes in one SYN.
    pub fn syn(&mut self, syn: &SynSeen) -> SynKind {
        let name = Name { source: syn.source, sequence: syn.sequence };
        if let Some(attempt) = self.attempts.get_mut(&name) {
            attempt.retransmits += 1;
            // Two CPUs may hand in their SYNs a little out of order.
            attempt.first = attempt.first.min(syn.at);
            attempt.last = attempt.last.max(syn.at);
            return SynKind::Retransmit;
        }
        while self.deadlines.len() >= self.limit {
            self.forget_oldest();
        }
        self.begun += 1;
        let attempt = Attempt {
            number: self.begun,
            first: syn.at,
            last: syn.at,
            class: syn.class,
            retransmits: 0,
            accepted: false,
        };
        self.attempts.insert(name, attempt);
        self.waiting.insert((name.source, self.begun, name.sequence));
        self.deadlines.push_back(Deadline { at: syn.at + self.expiry, name });
        SynKind::First
    }

    /// Takes in one accepted connection, and the sequence number of its SYN where that is known. Every SYN that the kernel
    /// saw before must have been taken in before. `None` when its SYN is not known: its event was lost, it is older than the
    /// program, or it came by a way that is not observed.
    pub fn accepted(&mut self, source: SocketAddr, sequence: Option<u32>, at: Monotonic) -> Option<Joined> {
        let sequence = sequence.or_else(|| self.waiting_of(source).next());
        let attempt = sequence.and_then(|sequence| self.attempts.get_mut(&Name { source, sequence }));
        let Some((sequence, attempt)) = sequence.zip(attempt.filter(|attempt| !attempt.accepted)) else {
            self.unmatched += 1;
            return None;
        };
        self.waiting.remove(&(source, attempt.number, sequence));
        // Kept until it expires, so that a retransmission that crossed the accept is still known for one.
        attempt.accepted = true;
        Some(Joined {
            class: attempt.class,
            syn_at: attempt.first,
            syn_to_accept: at.since(attempt.first),
            retransmits: attempt.retransmits,
        })
    }

    /// When the attempt of `source` with this sequence number began. Where that is not known: the only one that has no
    /// connection yet.
    pub fn syn_of(&self, source: SocketAddr, sequence: Option<u32>) -> Option<Monotonic> {
        let sequence = sequence.or_else(|| {
            let mut waiting = self.waiting_of(source);
            waiting.next().filter(|_| waiting.next().is_none())
        })?;
        self.attempts.get(&Name { source, sequence }).map(|attempt| attempt.first)
    }

    /// The sequence numbers of a source's attempts without a connection, oldest first.
    fn waiting_of(&self, source: SocketAddr) -> impl Iterator<Item = u32> {
        let all = (source, 0, 0)..=(source, u64::MAX, u32::MAX);
        self.waiting.range(all).map(|(_, _, sequence)| *sequence)
    }

    /// Gives up on attempts whose time is over.
    pub fn expire(&mut self, now: Monotonic) {
        while let Some(Deadline { name, .. }) = self.deadlines.pop_front_if(|deadline| deadline.at <= now) {
            let sent_again = |attempt: &Attempt| !attempt.accepted && attempt.last + self.expiry > now;
            if self.attempts.get(&name).is_some_and(sent_again) {
                // Counted from now, so that the queue stays in order.
                self.deadlines.push_back(Deadline { at: now + self.expiry, name });
            } else {
                self.give_up(name);
            }
        }
    }

    /// Half-open attempts since the last call.
    pub fn take_half_open(&mut self) -> HalfOpen {
        self.half_open.take()
    }

    /// The source of the latest half-open attempt of this class.
    pub(super) const fn latest_half_open(&self, class: Verdict) -> Option<IpAddr> {
        self.latest_half_open[class as usize]
    }

    /// Of the half-open attempts, those that were given up on early, for want of room, so far.
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
        let Some(Deadline { name, .. }) = self.deadlines.pop_front() else { return };
        self.forgotten += u64::from(self.give_up(name));
    }

    /// Removes an attempt; whether it is half-open.
    fn give_up(&mut self, name: Name) -> bool {
        let Some(attempt) = self.attempts.remove(&name).filter(|attempt| !attempt.accepted) else {
            return false;
        };
        self.waiting.remove(&(name.source, attempt.number, name.sequence));
        let half_open = attempt.first >= self.listening;
        if half_open {
            self.half_open.count(attempt.class);
            self.latest_half_open[attempt.class as usize] = Some(name.source.ip());
        }
        half_open
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
            join.accepted(source(1), None, at(2003)),
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
        assert_eq!(join.accepted(source(1), None, at(5)), None);
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
        assert!(join.accepted(source(1), None, at(12_500)).is_some());
    }

    #[test]
    fn an_accepted_connection_is_never_half_open() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 0));
        join.accepted(source(1), None, at(1));
        assert_eq!(join.syn(&syn(1, 7, 2)), SynKind::Retransmit);
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen::default());
        assert!(join.is_empty());
    }

    #[test]
    fn a_port_used_again_before_its_accept_is_joined_oldest_first() {
        let mut join = Correlator::new(100, EXPIRY);
        for (sequence, ms) in [(7, 0), (3, 500), (9, 600)] {
            assert_eq!(join.syn(&syn(1, sequence, ms)), SynKind::First);
        }
        let waits = [700, 701, 702].map(|ms| join.accepted(source(1), None, at(ms)).unwrap().syn_to_accept);
        assert_eq!(waits, [700, 201, 102].map(Duration::from_millis));
        assert_eq!(join.accepted(source(1), None, at(703)), None, "a fourth has no SYN left");
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen::default());
        assert!(join.is_empty() && join.waiting.is_empty());
    }

    #[test]
    fn a_known_sequence_number_finds_its_own_syn() {
        let mut join = Correlator::new(100, EXPIRY);
        for (sequence, ms) in [(7, 0), (8, 500)] {
            join.syn(&syn(1, sequence, ms));
        }
        assert_eq!(join.syn_of(source(1), Some(8)), Some(at(500)));
        assert_eq!(join.syn_of(source(1), None), None, "two may be meant");
        assert_eq!(join.accepted(source(1), Some(9), at(501)), None);
        let joined = join.accepted(source(1), Some(8), at(501)).unwrap();
        assert_eq!(joined.syn_to_accept, Duration::from_millis(1));
        assert_eq!(join.accepted(source(1), Some(8), at(502)), None, "one connection each");
        assert_eq!(join.syn_of(source(1), None), Some(at(0)));
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen { allowed: 0, denied: 1 });
    }

    #[test]
    fn a_syn_that_came_before_anybody_listened_was_refused_and_is_not_half_open() {
        let mut join = Correlator::new(100, EXPIRY);
        join.syn(&syn(1, 7, 10));
        join.syn(&syn(2, 7, 20));
        join.listening(at(20));
        join.expire(at(60_000));
        assert_eq!(join.take_half_open(), HalfOpen { allowed: 0, denied: 1 });
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_half_open_at_once_and_counted_as_forgotten() {
        let mut join = Correlator::new(10, EXPIRY);
        for port in 0..1000 {
            join.syn(&syn(port, 7, 0));
        }
        assert_eq!((join.len(), join.waiting.len()), (10, 10));
        assert_eq!(join.forgotten(), 990);
        assert_eq!(join.take_half_open(), HalfOpen { allowed: 0, denied: 990 });
        // One source that begins anew each time fills no memory either.
        for sequence in 0..1000 {
            join.syn(&syn(5000, sequence, 1));
        }
        assert!(join.deadlines.len() <= 10 && join.waiting.len() <= 10);
        // One with a connection makes room without being counted.
        join.accepted(source(5000), Some(990), at(2));
        join.syn(&syn(5001, 0, 2));
        assert_eq!(join.forgotten(), 1990);
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
                0 => {
                    let sequence = Some(next(3)).filter(|sequence| *sequence > 0);
                    joined += u64::from(join.accepted(source(port), sequence, at(step * 10)).is_some());
                }
                _ => {
                    firsts += u64::from(join.syn(&syn(port, next(3), step * 10)) == SynKind::First);
                }
            }
            join.expire(at(step * 10));
        }
        join.expire(at(10_000_000));
        let half_open = join.take_half_open();
        assert_eq!(joined + half_open.denied, firsts);
        assert!(join.forgotten() > 0 && join.waiting.is_empty());
    }
}
