//! From which addresses the target saw this client's probes. Pure.
//!
//! An egress IP *appears* with its first pong, and *stops* once so many pongs came by others that its share, taken four standard
//! deviations lower than it was seen, makes that improbable. One that comes again after that *returns*, and its share counts
//! anew.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::client::chance::{CAUTION, IMPROBABLE};
use crate::client::outcome::Probe;
use crate::document::disruption::wilson;
use crate::document::egress::{EgressChange, EgressIp, LeakSource};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Addresses kept of each kind; probes from others are counted.
const MOST: usize = 64;
/// Changes kept; what comes after is counted.
const MOST_CHANGES: usize = 1_000;

/// What a probe brought about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An egress IP came for the first time, or again.
    Appeared {
        /// The address.
        address: IpAddr,
        /// It had stopped before.
        again: bool,
    },
    /// An egress IP comes no more.
    Stopped(IpAddr),
    /// A leak came from an address that none came from before.
    LeakedFrom(IpAddr),
}

#[derive(Debug)]
struct Ip {
    address: IpAddr,
    pongs: u64,
    first: Monotonic,
    last: Monotonic,
    in_force: bool,
    /// Since it came, or came again.
    stint: Stint,
    /// Misses of the stints before.
    missed: u64,
}

/// A time in which an egress IP came: its own pongs, and those and the misses of all, before the first and up to the last.
#[derive(Debug)]
struct Stint {
    pongs: u64,
    all_before: u64,
    all_then: u64,
    misses_before: u64,
    misses_then: u64,
}

impl Stint {
    /// Whether its share does not explain that it has not come in the latest pongs, of `all`.
    fn is_over(&self, all: u64) -> bool {
        let (share, _) = wilson(self.pongs, self.all_then - self.all_before, CAUTION);
        (all - self.all_then) as f64 * (1.0 - share).ln() < IMPROBABLE.ln()
    }

    fn missed(&self) -> u64 {
        self.misses_then - self.misses_before
    }
}

#[derive(Debug)]
struct Leak {
    address: IpAddr,
    probes: u64,
    first: Monotonic,
    last: Monotonic,
}

/// Every address that annotated replies told, in sent order.
#[derive(Debug)]
pub struct Egress {
    start: Monotonic,
    ips: Vec<Ip>,
    latest: Option<IpAddr>,
    expected: Vec<IpNet>,
    unexpected_pongs: u64,
    pongs: u64,
    misses: u64,
    other_pongs: u64,
    leaks: Vec<Leak>,
    other_leaks: u64,
    changes: Vec<EgressChange>,
    changes_total: u64,
    stops: u64,
}

impl Egress {
    /// Of a test that began at `start`.
    pub fn new(start: Monotonic) -> Self {
        Self {
            start,
            ips: Vec::new(),
            latest: None,
            expected: Vec::new(),
            unexpected_pongs: 0,
            pongs: 0,
            misses: 0,
            other_pongs: 0,
            leaks: Vec::new(),
            other_leaks: 0,
            changes: Vec::new(),
            changes_total: 0,
            stops: 0,
        }
    }

    /// Counts the pongs that come by addresses outside of these; none, if it is empty.
    pub fn expect(&mut self, networks: Vec<IpNet>) {
        self.expected = networks;
    }

    /// Takes the next settled probe, and tells what it brought about.
    pub fn take(&mut self, probe: &Probe, tell: &mut impl FnMut(Event)) {
        match (probe.outcome(), probe.end.source) {
            (Outcome::Pong, Some(address)) => self.pong(address, probe.sent, tell),
            (Outcome::Pong | Outcome::Error, _) => {}
            (outcome, source) => {
                self.misses += 1;
                if let (Outcome::Leaked, Some(address)) = (outcome, source) {
                    self.leak(address, probe.sent, tell);
                }
            }
        }
    }

    fn pong(&mut self, address: IpAddr, sent: Monotonic, tell: &mut impl FnMut(Event)) {
        self.pongs += 1;
        let is_expected = self.expected.is_empty() || self.expected.iter().any(|net| net.contains(&address));
        self.unexpected_pongs += u64::from(!is_expected);
        let from = self.latest.replace(address);
        let known = self.ips.iter().position(|ip| ip.address == address);
        let Some(index) = known.or_else(|| self.room_for(address, sent)) else {
            self.other_pongs += 1;
            return;
        };
        let stint = self.new_stint();
        let ip = &mut self.ips[index];
        if !std::mem::replace(&mut ip.in_force, true) {
            ip.missed += std::mem::replace(&mut ip.stint, stint).missed();
            tell(Event::Appeared { address, again: known.is_some() });
            if let Some(from) = from {
                self.changes_total += 1;
                if self.changes.len() < MOST_CHANGES {
                    let at_seconds = sent.since(self.start).as_secs_f64();
                    self.changes.push(EgressChange { at_seconds, from, to: address });
                }
            }
        }
        let ip = &mut self.ips[index];
        ip.pongs += 1;
        ip.last = sent;
        ip.stint.pongs += 1;
        (ip.stint.all_then, ip.stint.misses_then) = (self.pongs, self.misses);
        for ip in self.ips.iter_mut().filter(|ip| ip.in_force) {
            if ip.stint.is_over(self.pongs) {
                ip.in_force = false;
                self.stops += 1;
                tell(Event::Stopped(ip.address));
            }
        }
    }

    /// One that begins with the latest pong.
    fn new_stint(&self) -> Stint {
        Stint {
            pongs: 0,
            all_before: self.pongs - 1,
            all_then: self.pongs,
            misses_before: self.misses,
            misses_then: self.misses,
        }
    }

    fn room_for(&mut self, address: IpAddr, sent: Monotonic) -> Option<usize> {
        if self.ips.len() == MOST {
            return None;
        }
        let stint = self.new_stint();
        self.ips.push(Ip { address, pongs: 0, first: sent, last: sent, in_force: false, stint, missed: 0 });
        Some(self.ips.len() - 1)
    }

    fn leak(&mut self, address: IpAddr, sent: Monotonic, tell: &mut impl FnMut(Event)) {
        if let Some(leak) = self.leaks.iter_mut().find(|leak| leak.address == address) {
            leak.probes += 1;
            leak.last = sent;
        } else if self.leaks.len() < MOST {
            self.leaks.push(Leak { address, probes: 1, first: sent, last: sent });
            tell(Event::LeakedFrom(address));
        } else {
            self.other_leaks += 1;
        }
    }

    /// The egress IP that was told last.
    pub fn latest(&self) -> Option<IpAddr> {
        self.latest
    }

    /// The networks that egress IPs are expected in, and how many pongs came by others.
    pub fn unexpected(&self) -> (&[IpNet], u64) {
        (&self.expected, self.unexpected_pongs)
    }

    /// Egress IPs that come now.
    pub fn in_force(&self) -> usize {
        self.ips.iter().filter(|ip| ip.in_force).count()
    }

    /// Each egress IP, in the order in which they appeared, and how many pongs came by others.
    pub fn ips(&self) -> (Vec<EgressIp>, u64) {
        let seconds = |at: Monotonic| at.since(self.start).as_secs_f64();
        let shown = |ip: &Ip| EgressIp {
            address: ip.address,
            pongs: ip.pongs,
            share: ip.pongs as f64 / self.pongs as f64,
            first_seconds: seconds(ip.first),
            last_seconds: seconds(ip.last),
            in_force: ip.in_force,
            missed: ip.missed + ip.stint.missed(),
        };
        (self.ips.iter().map(shown).collect(), self.other_pongs)
    }

    /// Each address that probes leaked from, in the order in which they appeared, and how many probes leaked from others.
    pub fn leaks(&self) -> (Vec<LeakSource>, u64) {
        let seconds = |at: Monotonic| at.since(self.start).as_secs_f64();
        let shown = |leak: &Leak| LeakSource {
            address: leak.address,
            whose: None,
            probes: leak.probes,
            first_seconds: seconds(leak.first),
            last_seconds: seconds(leak.last),
        };
        (self.leaks.iter().map(shown).collect(), self.other_leaks)
    }

    /// Egress IPs that appeared after another one, or returned, and how many did.
    pub fn changes(&self) -> (&[EgressChange], u64) {
        (&self.changes, self.changes_total)
    }

    /// How many times an egress IP has stopped.
    pub fn stops(&self) -> u64 {
        self.stops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::outcome::ProbeEnd;

    fn probe(sent_ms: u64, outcome: Outcome, last: u8) -> Probe {
        let sent = Monotonic::from_ns(1_000_000_000 + sent_ms * 1_000_000);
        let end =
            ProbeEnd { source: (last > 0).then(|| [192, 0, 2, last].into()), ..ProbeEnd::plain(outcome) };
        Probe { sent, established: None, settled: sent, end, unsafe_port: false }
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Takes pongs by these addresses, a millisecond apart, a miss where it is 0.
    fn seen(addresses: impl IntoIterator<Item = u8>) -> (Egress, Vec<(u64, Event)>) {
        let mut egress = Egress::new(Monotonic::from_ns(1_000_000_000));
        let mut told = Vec::new();
        for (at, last) in (0..).zip(addresses) {
            let outcome = if last == 0 { Outcome::Timeout } else { Outcome::Pong };
            egress.take(&probe(at, outcome, last), &mut |event| told.push((at, event)));
        }
        (egress, told)
    }

    #[test]
    fn addresses_that_alternate_appear_once_each_and_have_their_shares() {
        let (egress, told) = seen((0..3_000).map(|at| [1, 2, 1, 3][at % 4]));
        let appeared = |at, last| (at, Event::Appeared { address: ip(last), again: false });
        assert_eq!(told, [appeared(0, 1), appeared(1, 2), appeared(3, 3)]);
        let shares: Vec<f64> = egress.ips().0.iter().map(|ip| ip.share).collect();
        assert_eq!(shares, [0.5, 0.25, 0.25]);
        assert_eq!(egress.in_force(), 3);
        assert_eq!(egress.changes().1, 2);
    }

    #[test]
    fn an_address_that_another_one_replaces_has_stopped_and_may_return() {
        let (egress, told) =
            seen([1; 50].into_iter().chain([0; 5]).chain([1; 50]).chain([2; 200]).chain([1]));
        let [first, second, (at, Event::Stopped(stopped)), returned] = &told[..] else { panic!("{told:?}") };
        assert_eq!((first.0, second.0, *stopped, returned.0), (0, 105, ip(1), 305));
        assert!((106..120).contains(at), "{at}");
        assert_eq!(returned.1, Event::Appeared { address: ip(1), again: true });
        let ips = egress.ips().0;
        assert_eq!((ips[0].missed, ips[1].missed, ips[0].pongs), (5, 0, 101));
        let change = &egress.changes().0[0];
        assert_eq!((change.at_seconds, change.from, change.to), (0.105, ip(1), ip(2)));
        assert_eq!((egress.changes().1, egress.stops()), (2, 1));
    }

    #[test]
    fn the_share_of_an_address_that_returns_counts_anew_and_its_absence_is_not_missed_by_it() {
        // 1 alone, then 2 alone for long with misses, then 1 alone again, then 2.
        let away = [2; 10_000].into_iter().chain([0; 7]).chain([2; 100]);
        let (egress, told) = seen([1; 500].into_iter().chain(away).chain([1; 400]).chain([2; 40]));
        let stops: Vec<u64> =
            told.iter().filter(|(_, event)| *event == Event::Stopped(ip(1))).map(|(at, _)| *at).collect();
        let [first, second] = stops[..] else { panic!("{told:?}") };
        assert!((501..520).contains(&first) && (11_007..11_030).contains(&second), "{stops:?}");
        let ips = egress.ips().0;
        assert_eq!((ips[0].pongs, ips[0].missed, ips[1].missed), (900, 0, 7));
    }

    #[test]
    fn pongs_by_addresses_that_were_not_expected_are_counted_even_where_they_are_not_kept() {
        let mut egress = Egress::new(Monotonic::from_ns(0));
        egress.expect(vec!["192.0.2.0/25".parse().unwrap()]);
        for last in 1..=200 {
            egress.take(&probe(0, Outcome::Pong, last), &mut drop);
        }
        assert_eq!((egress.unexpected().1, egress.ips().1), (73, 136));
        egress.expect(vec!["192.0.2.0/24".parse().unwrap()]);
        egress.take(&probe(0, Outcome::Pong, 200), &mut drop);
        assert_eq!(egress.unexpected().1, 73);
    }

    #[test]
    fn of_ever_new_addresses_some_are_kept_and_all_counted() {
        let mut egress = Egress::new(Monotonic::from_ns(0));
        let mut told = 0;
        for last in 1..=200 {
            egress.take(&probe(0, Outcome::Leaked, last), &mut |_| told += 1);
            egress.take(&probe(0, Outcome::Pong, last), &mut drop);
        }
        let ((leaks, other_leaks), (ips, other_pongs)) = (egress.leaks(), egress.ips());
        assert_eq!((leaks.len(), other_leaks, told), (64, 136, 64));
        assert_eq!((ips.len(), other_pongs), (64, 136));
    }

    #[test]
    fn a_leak_is_told_with_its_address_once() {
        let mut egress = Egress::new(Monotonic::from_ns(1_000_000_000));
        let mut told = Vec::new();
        for at in [5, 10, 40] {
            egress.take(&probe(at, Outcome::Leaked, 9), &mut |event| told.push(event));
        }
        // A presumed leak names nobody.
        egress.take(&probe(50, Outcome::Leaked, 0), &mut |event| told.push(event));
        assert_eq!(told, [Event::LeakedFrom(ip(9))]);
        let leak =
            LeakSource { address: ip(9), whose: None, probes: 3, first_seconds: 0.005, last_seconds: 0.04 };
        assert_eq!(egress.leaks(), (vec![leak], 0));
    }
}
