//! Which source port a probe leaves from, so that none inherits what a lost one left in a NAT on the way. Pure.
//!
//! A SYN that is lost behind a NAT leaves an entry there; a later SYN from the same port is translated as that one was, by
//! whatever policy was in force then. So ports are walked through one after another, and those of lost probes are left
//! alone for as long as such an entry lives.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::document::outcome::Outcome;
use crate::document::stress::PortRange;
use crate::sys::clock::Monotonic;

/// How long an entry lives whose SYN was never answered: `nf_conntrack_tcp_timeout_syn_sent`; Cilium's is 60 s.
pub(crate) const ENTRY_LIFETIME: Duration = Duration::from_mins(2);

/// Until what was established on the way is gone, for all that is known.
const FOREVER: Monotonic = Monotonic::from_ns(u64::MAX);

/// The port of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourcePort {
    /// Its number.
    pub number: u16,
    /// A probe from it was lost, and what that left in a NAT may still be there.
    pub is_unsafe: bool,
}

/// Walks through the local ports. A step costs the same whatever was lost: each lost port is passed over once.
#[derive(Debug)]
pub struct PortWalk {
    range: PortRange,
    /// Steps from the lowest to the next port, as long as nothing was lost.
    next: u32,
    /// Once something was: the ports to use, the next one first.
    walk: Option<VecDeque<u16>>,
    /// Ports of lost probes, each until what they left is gone.
    lost: HashMap<u16, Lost>,
    /// The same in the order in which that will be, each port once: when it was lost first.
    ends: VecDeque<(Monotonic, u16)>,
    handed_out: u64,
    first: Option<Monotonic>,
    wrap: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Lost {
    until: Monotonic,
    /// It was its turn meanwhile: it is not in the walk.
    passed_over: bool,
}

impl PortWalk {
    /// Through `range`, from `start` steps in.
    pub fn new(range: PortRange, start: u32) -> Self {
        Self {
            range,
            next: start % range.ports(),
            walk: None,
            lost: HashMap::new(),
            ends: VecDeque::new(),
            handed_out: 0,
            first: None,
            wrap: None,
        }
    }

    /// Through `range`, from the port of a probe that left at `sent` on: it comes last.
    pub fn after(range: PortRange, port: u16, sent: Monotonic) -> Self {
        let mut walk = Self::new(range, u32::from(port.saturating_sub(range.low)));
        walk.next(sent);
        walk
    }

    /// The next port. Unsafe only if every port is.
    pub fn next(&mut self, now: Monotonic) -> SourcePort {
        let first = *self.first.get_or_insert(now);
        self.handed_out += 1;
        if self.handed_out == u64::from(self.range.ports()) + 1 {
            self.wrap = Some(now.since(first));
        }
        self.forget(now);
        let Some(walk) = &mut self.walk else {
            return SourcePort { number: self.step(), is_unsafe: false };
        };
        while let Some(number) = walk.pop_front() {
            let Some(lost) = self.lost.get_mut(&number) else {
                walk.push_back(number);
                return SourcePort { number, is_unsafe: false };
            };
            lost.passed_over = true;
        }
        SourcePort { number: self.step(), is_unsafe: true }
    }

    fn step(&mut self) -> u16 {
        let number = self.range.low + self.next as u16;
        self.next = (self.next + 1) % self.range.ports();
        number
    }

    /// The port that the kernel chose by itself.
    pub fn chosen(&mut self, number: u16, now: Monotonic) -> SourcePort {
        self.forget(now);
        SourcePort { number, is_unsafe: self.lost.contains_key(&number) }
    }

    /// The probe from this port has ended.
    pub fn ended(&mut self, number: u16, outcome: Outcome, now: Monotonic) {
        let until = match outcome {
            Outcome::Timeout | Outcome::Unreachable => now + ENTRY_LIFETIME,
            // Established somewhere on the way: such an entry lives for hours, if the RST that ends it is lost too.
            Outcome::Silent => FOREVER,
            _ => return,
        };
        self.walk.get_or_insert_with(|| {
            let mut walk: VecDeque<u16> = (self.range.low..=self.range.high).collect();
            walk.rotate_left(self.next as usize);
            walk
        });
        let is_known = self.lost.contains_key(&number);
        let lost = self.lost.entry(number).or_insert(Lost { until, passed_over: false });
        lost.until = lost.until.max(until);
        if !is_known && until != FOREVER {
            self.ends.push_back((until, number));
        }
    }

    /// The ports.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// How long it took to use every port once, if that was less than an entry lives: probes since then rely on the RST of
    /// the one before.
    pub fn wrapped_within(&self) -> Option<Duration> {
        self.wrap.filter(|wrap| *wrap < ENTRY_LIFETIME)
    }

    /// Takes ports up again whose probes were lost so long ago that nothing is left of them.
    fn forget(&mut self, now: Monotonic) {
        while let Some((until, number)) = self.ends.pop_front_if(|(until, _)| *until <= now) {
            // Lost again since, it has a later end.
            let later = self.lost.get(&number).map_or(until, |lost| lost.until);
            if later > now {
                if later != FOREVER {
                    self.ends.push_back((later, number));
                }
                continue;
            }
            if self.lost.remove(&number).is_some_and(|lost| lost.passed_over) {
                self.walk.get_or_insert_default().push_back(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange { low: 100, high: 103 };

    fn at(s: u64) -> Monotonic {
        Monotonic::from_ns(s * 1_000_000_000)
    }

    fn numbers(walk: &mut PortWalk, s: u64, count: usize) -> Vec<u16> {
        (0..count).map(|_| walk.next(at(s)).number).collect()
    }

    #[test]
    fn every_port_is_used_before_one_is_used_again() {
        let mut walk = PortWalk::new(RANGE, 6);
        assert_eq!(numbers(&mut walk, 0, 5), [102, 103, 100, 101, 102]);
    }

    #[test]
    fn the_port_that_the_kernel_chose_first_comes_last() {
        let mut walk = PortWalk::after(RANGE, 102, at(0));
        assert_eq!(numbers(&mut walk, 1, 3), [103, 100, 101]);
        assert_eq!(walk.wrapped_within(), None);
        assert_eq!(numbers(&mut walk, 2, 1), [102]);
        assert_eq!(walk.wrapped_within(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn the_port_of_a_lost_probe_is_left_alone_for_as_long_as_an_entry_lives() {
        let mut walk = PortWalk::new(RANGE, 0);
        assert_eq!(numbers(&mut walk, 0, 4), [100, 101, 102, 103]);
        walk.ended(100, Outcome::Timeout, at(1));
        walk.ended(101, Outcome::Silent, at(1));
        walk.ended(102, Outcome::Pong, at(1));
        assert_eq!(numbers(&mut walk, 120, 3), [102, 103, 102]);
        assert_eq!(numbers(&mut walk, 121, 3), [103, 102, 100]);
        assert!(walk.chosen(101, at(100_000)).is_unsafe, "an established entry lives for days");
    }

    #[test]
    fn a_port_is_unsafe_only_where_all_are() {
        let mut walk = PortWalk::new(RANGE, 0);
        for number in 100..=103 {
            walk.ended(number, Outcome::Timeout, at(0));
        }
        assert_eq!(walk.next(at(1)), SourcePort { number: 100, is_unsafe: true });
        assert_eq!(walk.next(at(1)), SourcePort { number: 101, is_unsafe: true });
        walk.ended(101, Outcome::Timeout, at(2));
        assert_eq!(numbers(&mut walk, 120, 4), [100, 102, 103, 100], "101 was lost again");
        assert_eq!(numbers(&mut walk, 122, 4), [102, 103, 100, 101]);
    }

    #[test]
    fn a_step_past_lost_ports_is_taken_once() {
        let range = PortRange { low: 1_024, high: u16::MAX };
        let mut walk = PortWalk::new(range, 0);
        for number in range.low..range.high {
            walk.ended(number, Outcome::Timeout, at(0));
        }
        assert_eq!(walk.next(at(1)), SourcePort { number: range.high, is_unsafe: false });
        assert_eq!(walk.walk.as_ref().unwrap().len(), 1, "the others are not looked at again");
        assert_eq!(walk.next(at(120)), SourcePort { number: range.high, is_unsafe: false });
        assert_eq!(walk.next(at(120)), SourcePort { number: range.low, is_unsafe: false });
    }

    #[test]
    fn a_walk_that_wraps_within_the_life_of_an_entry_says_how_fast() {
        let mut fast = PortWalk::new(RANGE, 0);
        let mut slow = PortWalk::new(RANGE, 0);
        for step in 0..5 {
            fast.next(at(step));
            slow.next(at(step * 31));
        }
        assert_eq!(fast.wrapped_within(), Some(Duration::from_secs(4)));
        assert_eq!(slow.wrapped_within(), None);
    }
}
