//! Disruptions: runs of misses after a pong, judged in sent order.
//!
//! Pure, like [`super::bracket`]: takes settled probes, returns what began and what ended.
//!
//! The upper end of a length runs from the last pong's SYN to the instant by which the next pong's SYN had got through.
//! The lower end is what the misses prove: a probe that was settled as a miss met the broken path before that, and one sent
//! later met it after it was sent. A refusal or the target's own denial is no chance. All else may have been lost beside the
//! outage: of those as many are left out at the ends as chance explains.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::client::outcome::Probe;
use crate::document::disruption::{Disruption, EgressChange, Kind, LengthBracket, ProbeLoss, wilson};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Disruptions and egress changes kept in the result; what comes after is counted.
const CAP: usize = 1_000;
/// Of the kept disruptions, as many are the latest; the others are the longest.
const LATEST: usize = CAP / 2;
/// Misses remembered at each end of a run.
const ENDS: usize = 64;
/// How improbable it must be that chance alone explains one more miss at an end.
pub(crate) const IMPROBABLE: f64 = 1e-7;
/// Standard deviations by which the loss rate is taken higher than it was seen.
pub(crate) const CAUTION: f64 = 4.0;

/// What a probe brought about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A disruption has begun.
    Began {
        /// Of this kind so far.
        kind: Kind,
        /// The first miss was sent then.
        start: Duration,
    },
    /// A disruption has ended.
    Ended(Disruption),
    /// A miss was alone between two pongs.
    Isolated(Outcome),
    /// The egress IP is another one.
    EgressChanged(EgressChange),
}

#[derive(Debug)]
struct Open {
    first_outcome: Outcome,
    first_sent: Monotonic,
    /// When each of the first misses was settled.
    first_settled: Vec<Monotonic>,
    /// When each of the last misses was sent.
    last_sent: VecDeque<Monotonic>,
    /// When the first of those that no chance explains was settled, and when the last was sent.
    answered: Option<(Monotonic, Monotonic)>,
    misses: u64,
    leaked: u64,
    unanswered: u64,
}

impl Open {
    fn new(probe: &Probe) -> Self {
        Self {
            first_outcome: probe.outcome(),
            first_sent: probe.sent,
            first_settled: Vec::new(),
            last_sent: VecDeque::new(),
            answered: None,
            misses: 0,
            leaked: 0,
            unanswered: 0,
        }
    }

    fn take(&mut self, probe: &Probe) {
        self.misses += 1;
        self.leaked += u64::from(probe.outcome() == Outcome::Leaked);
        self.unanswered += u64::from(probe.outcome().is_unanswered());
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

    fn kind(&self) -> Kind {
        if self.leaked > 0 {
            Kind::Leak
        } else if self.unanswered == self.misses {
            Kind::Blackhole
        } else {
            Kind::Rejected
        }
    }

    /// What the misses prove of the length, if chance explains `by_chance` of them at the ends, however many at which.
    fn at_least(&self, by_chance: usize) -> Duration {
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

/// Finds disruptions among probes in sent order.
#[derive(Debug)]
pub struct Watch {
    start: Monotonic,
    last_pong: Option<Probe>,
    open: Option<Open>,
    ended: Vec<Disruption>,
    total: u64,
    longest_upper: f64,
    loss: ProbeLoss,
    pongs: u64,
    /// Runs of misses, single ones included.
    runs: u64,
    egress: Option<IpAddr>,
    egress_changes: Vec<EgressChange>,
    egress_changes_total: u64,
}

impl Watch {
    /// A watch over a test that began at `start`.
    pub fn new(start: Monotonic) -> Self {
        Self {
            start,
            last_pong: None,
            open: None,
            ended: Vec::new(),
            total: 0,
            longest_upper: 0.0,
            loss: ProbeLoss::default(),
            pongs: 0,
            runs: 0,
            egress: None,
            egress_changes: Vec::new(),
            egress_changes_total: 0,
        }
    }

    /// Takes the next probe in sent order, and tells what it brought about.
    pub fn take(&mut self, probe: Probe, tell: &mut impl FnMut(Event)) {
        // An error never left this host: it neither starts, ends nor extends a disruption. Before the first pong there is
        // nothing to disrupt.
        if probe.outcome() == Outcome::Error || (self.last_pong.is_none() && probe.outcome() != Outcome::Pong)
        {
            return;
        }
        self.loss.probes += u64::from(self.last_pong.is_some());
        if probe.outcome() == Outcome::Pong {
            self.end(Some(&probe)).map(&mut *tell);
            self.pongs += 1;
            self.last_pong = Some(probe);
            self.note_egress(probe).map(Event::EgressChanged).map(tell);
            return;
        }
        self.runs += u64::from(self.open.is_none());
        let open = self.open.get_or_insert_with(|| Open::new(&probe));
        open.take(&probe);
        if open.misses == 2 {
            tell(Event::Began { kind: open.kind(), start: open.first_sent.since(self.start) });
        }
    }

    /// Ends the watch: a disruption that is still open is counted, without an upper bound. A single miss at the very end
    /// counts as one: nothing says that it was alone.
    pub fn finish(&mut self) -> Option<Event> {
        self.end(None)
    }

    /// The disruptions that ended, in order, and how many there were in all.
    pub fn disruptions(&self) -> (&[Disruption], u64) {
        (&self.ended, self.total)
    }

    /// The largest upper bound of a disruption's length, in seconds; infinite if one never ended.
    pub fn longest_upper(&self) -> f64 {
        self.longest_upper
    }

    /// What was lost, with its rates.
    pub fn loss(&self) -> ProbeLoss {
        let mut loss = self.loss.clone();
        loss.rate();
        loss
    }

    /// The changes of the egress IP, in order, and how many there were in all.
    pub fn egress_changes(&self) -> (&[EgressChange], u64) {
        (&self.egress_changes, self.egress_changes_total)
    }

    /// The egress IP that was told last.
    pub fn egress_ip(&self) -> Option<IpAddr> {
        self.egress
    }

    fn end(&mut self, next_pong: Option<&Probe>) -> Option<Event> {
        let open = self.open.take()?;
        let last_pong = self.last_pong?;
        if open.misses == 1 && next_pong.is_some() {
            self.loss.count_isolated(open.first_outcome);
            return Some(Event::Isolated(open.first_outcome));
        }
        let by_chance = self.by_chance();
        let upper = next_pong.map(|pong| pong.got_through().since(last_pong.sent).as_secs_f64());
        let disruption = Disruption {
            kind: open.kind(),
            start_seconds: open.first_sent.since(self.start).as_secs_f64(),
            length_seconds: LengthBracket { lower: open.at_least(by_chance).as_secs_f64(), upper },
            misses: open.misses,
        };
        self.loss.in_disruptions.misses += open.misses;
        self.total += 1;
        self.longest_upper = self.longest_upper.max(upper.unwrap_or(f64::INFINITY));
        self.keep(disruption.clone());
        Some(Event::Ended(disruption))
    }

    /// How many misses in a row chance explains: a miss followed so many of the pongs, whatever followed then.
    fn by_chance(&self) -> usize {
        let (_, rate) = wilson(self.runs, self.pongs, CAUTION);
        if rate >= 1.0 { ENDS } else { (IMPROBABLE.ln() / rate.ln()).ceil() as usize }
    }

    /// Keeps the longest and the latest.
    fn keep(&mut self, disruption: Disruption) {
        let length = |kept: &Disruption| kept.length_seconds.upper.unwrap_or(f64::INFINITY);
        if self.ended.len() == CAP {
            let older = self.ended[..=CAP - LATEST].iter().enumerate();
            let shortest = older.min_by(|(_, one), (_, other)| length(one).total_cmp(&length(other)));
            let index = shortest.map_or(0, |(index, _)| index);
            self.ended.remove(index);
        }
        self.ended.push(disruption);
    }

    /// Notes what a probe's reply told of the egress IP; a change is returned.
    pub fn note_egress(&mut self, probe: Probe) -> Option<EgressChange> {
        let to = probe.end.source.filter(|_| probe.outcome() == Outcome::Pong)?;
        let from = self.egress.replace(to).filter(|from| *from != to)?;
        let change = EgressChange { at_seconds: probe.sent.since(self.start).as_secs_f64(), from, to };
        self.egress_changes_total += 1;
        if self.egress_changes.len() < CAP {
            self.egress_changes.push(change.clone());
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Error, Leaked, Pong, Refused, Reset, Silent, Timeout};

    use super::*;
    use crate::client::outcome::ProbeEnd;

    const START: Monotonic = Monotonic::from_ns(1_000_000_000);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A probe sent at so many milliseconds that took as long as it does on this path: a pong 8, a timeout 90.
    fn probe(sent_ms: u64, outcome: Outcome) -> Probe {
        let sent = START + ms(sent_ms);
        let took = if outcome.is_unanswered() { 90 } else { 8 };
        let established = (outcome == Pong).then(|| sent + ms(5));
        Probe {
            sent,
            established,
            settled: sent + ms(took),
            end: ProbeEnd::plain(outcome),
            unsafe_port: false,
        }
    }

    /// A watch that has seen so many pongs at 1 ms before the start, and then these.
    fn watch_after(pongs: u64, probes: &[(u64, Outcome)]) -> Watch {
        let mut watch = Watch::new(START);
        let before = (0..pongs).map(|_| Probe { sent: Monotonic::from_ns(0), ..probe(0, Pong) });
        for probe in before.chain(probes.iter().map(|&(sent, outcome)| probe(sent, outcome))) {
            watch.take(probe, &mut drop);
        }
        watch
    }

    fn watch(probes: &[(u64, Outcome)]) -> Watch {
        watch_after(0, probes)
    }

    /// Pongs, then timeouts every 10 ms from `from` up to `to`, then a pong.
    fn outage(from: u64, to: u64) -> Vec<(u64, Outcome)> {
        let mut probes = vec![(from - 10, Pong)];
        probes.extend((from..=to).step_by(10).map(|sent| (sent, Timeout)));
        probes.push((to + 10, Pong));
        probes
    }

    fn lengths(watch: &Watch) -> Vec<(f64, Option<f64>)> {
        let disruptions = watch.disruptions().0.iter();
        disruptions.map(|one| (one.length_seconds.lower, one.length_seconds.upper)).collect()
    }

    #[test]
    fn misses_before_the_first_pong_are_no_disruption() {
        let watch = watch(&[(0, Leaked), (50, Timeout), (100, Pong), (150, Pong)]);
        assert_eq!(watch.disruptions(), (&[][..], 0));
        assert_eq!(watch.loss().probes, 1);
    }

    #[test]
    fn the_upper_end_waits_for_the_next_pong_to_get_through() {
        // Its SYN waited in a queue for 800 ms while the path was down; whether its handshake proves anything decides.
        let mut watch = watch(&[(100, Pong), (150, Timeout), (200, Timeout)]);
        let late =
            Probe { established: Some(START + ms(1_050)), settled: START + ms(1_060), ..probe(250, Pong) };
        watch.take(late, &mut drop);
        assert_eq!(lengths(&watch), [(0.0, Some(0.96))]);
        let mut watch = self::watch(&[(100, Pong), (150, Timeout), (200, Timeout)]);
        let end = ProbeEnd { end_to_end: Some(true), ..late.end };
        watch.take(Probe { end, ..late }, &mut drop);
        assert_eq!(lengths(&watch), [(0.0, Some(0.95))]);
    }

    #[test]
    fn the_lower_end_leaves_out_what_chance_explains_and_begins_when_the_first_of_the_others_was_settled() {
        // Of 30,000 pongs one was followed by a miss: chance explains 3 in a row.
        let seconds = |length: u64| Some(ms(length).as_secs_f64());
        let watch = watch_after(30_000, &outage(1_000, 1_400));
        assert_eq!(lengths(&watch), [(seconds(1_370 - 1_000 - 90).unwrap(), seconds(1_418 - 990))]);
        // Of 10 none was lost: that says little, and nothing is proven.
        let watch = watch_after(10, &outage(1_000, 1_400));
        assert_eq!(lengths(&watch), [(0.0, seconds(1_418 - 990))]);
    }

    #[test]
    fn what_was_answered_is_no_chance() {
        let lower = |last: Outcome| {
            let outcomes = [Pong, Timeout, Refused, Timeout, last, Timeout, Pong];
            let probes: Vec<_> =
                outcomes.iter().zip(0..).map(|(outcome, tick)| (tick * 10, *outcome)).collect();
            Duration::from_secs_f64(lengths(&watch(&probes))[0].0)
        };
        assert_eq!(lower(Refused), ms(40 - 28));
        // A proxy that has lost its own packets closes, or resets.
        assert_eq!([lower(Leaked), lower(Reset), lower(Timeout)], [Duration::ZERO; 3]);
    }

    #[test]
    fn one_leak_makes_it_a_leak_and_one_refusal_spoils_a_blackhole() {
        let watch = watch(&[
            (0, Pong),
            (10, Timeout),
            (20, Leaked),
            (30, Pong),
            (40, Timeout),
            (50, Refused),
            (60, Pong),
            (70, Silent),
            (80, Timeout),
            (90, Pong),
        ]);
        let kinds: Vec<Kind> = watch.disruptions().0.iter().map(|disruption| disruption.kind).collect();
        assert_eq!(kinds, [Kind::Leak, Kind::Rejected, Kind::Blackhole]);
    }

    #[test]
    fn a_local_error_neither_starts_ends_nor_extends() {
        let watch = watch(&[
            (0, Pong),
            (10, Error),
            (20, Timeout),
            (30, Error),
            (40, Timeout),
            (50, Error),
            (60, Pong),
            (70, Error),
        ]);
        let [disruption] = watch.disruptions().0 else { panic!("{:?}", watch.disruptions()) };
        assert_eq!((disruption.misses, disruption.start_seconds), (2, 0.02));
        assert_eq!(watch.loss().probes, 3);
    }

    #[test]
    fn a_miss_between_two_pongs_is_lost_and_no_disruption() {
        let watch = watch(&[(0, Pong), (10, Timeout), (20, Pong), (30, Leaked), (40, Pong)]);
        assert_eq!(watch.disruptions().1, 0);
        let loss = watch.loss();
        assert_eq!((loss.probes, loss.isolated.misses, loss.in_disruptions.misses), (4, 2, 0));
        assert_eq!(loss.isolated_by, [("leaked".to_owned(), 1), ("timeout".to_owned(), 1)].into());
        assert!((loss.isolated.share - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_disruption_without_a_next_pong_is_open_and_counted() {
        let mut watch = watch(&[(0, Pong), (10, Refused)]);
        let Some(Event::Ended(open)) = watch.finish() else { panic!("it is open") };
        assert_eq!((open.kind, open.length_seconds.upper, open.misses), (Kind::Rejected, None, 1));
        assert_eq!(watch.disruptions().1, 1);
        assert!(watch.longest_upper().is_infinite());
        assert_eq!(watch.finish(), None);
    }

    #[test]
    fn each_begin_and_each_end_is_told_once() {
        let mut watch = Watch::new(START);
        let mut told = Vec::new();
        for (sent, outcome) in [(0, Pong), (10, Timeout), (20, Timeout), (30, Pong), (40, Pong)] {
            watch.take(probe(sent, outcome), &mut |event| told.push((sent, event)));
        }
        let [(20, Event::Began { kind: Kind::Blackhole, start }), (30, Event::Ended(ended))] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((*start, ended.misses, ended.length_seconds.upper), (ms(10), 2, Some(0.038)));
    }

    #[test]
    fn the_longest_and_the_latest_are_kept_and_the_rest_counted() {
        let mut probes = vec![(0, Pong)];
        for number in 0..3_000 {
            let at = number * 100 + 50;
            // The real outage, in the middle of it all, is 40 ms longer.
            let back = if number == 1_200 { 42 } else { 2 };
            probes.extend([(at, Timeout), (at + 1, Timeout), (at + back, Pong)]);
        }
        let watch = watch(&probes);
        let (kept, total) = watch.disruptions();
        assert_eq!((kept.len(), total), (1_000, 3_000));
        let longest = |one: &&Disruption| one.length_seconds.upper > Some(0.14);
        assert_eq!(kept.iter().filter(longest).count(), 1);
        assert!(kept.is_sorted_by(|one, other| one.start_seconds < other.start_seconds));
        assert!(kept[500].start_seconds > 249.9, "the latest 500: {}", kept[500].start_seconds);
    }

    #[test]
    fn another_egress_ip_is_an_event() {
        let mut watch = Watch::new(START);
        let from = |sent, outcome, last: u8| {
            let end = ProbeEnd { source: Some([192, 0, 2, last].into()), ..ProbeEnd::plain(outcome) };
            Probe { end, ..probe(sent, outcome) }
        };
        let mut told = Vec::new();
        // The second reply tells nothing, and a denied one is no egress IP: neither changes anything.
        for probe in
            [from(0, Pong, 1), probe(5, Pong), from(10, Pong, 1), from(15, Leaked, 9), from(20, Pong, 2)]
        {
            watch.take(probe, &mut |event| told.push(event));
        }
        let change =
            EgressChange { at_seconds: 0.02, from: [192, 0, 2, 1].into(), to: [192, 0, 2, 2].into() };
        assert_eq!(told, [Event::Isolated(Leaked), Event::EgressChanged(change)]);
        assert_eq!(watch.egress_ip(), Some([192, 0, 2, 2].into()));
    }
}
