//! From probes in sent order to winner, masquerade delay, delay bracket, blackhole and timeline.
//!
//! Pure: takes settled probes, returns what they mean. Each claim and its assumptions: docs/claims.md.

use std::time::Duration;

use crate::client::outcome::Probe;
use crate::document::outcome::{Evidence, Outcome};
use crate::document::result::TimelineRun;
use crate::sys::clock::Monotonic;

/// Runs kept in the timeline; what comes after is counted.
const TIMELINE_CAP: usize = 1_000;

/// Probes by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    by_outcome: [u64; Outcome::ALL.len()],
    /// Of the leaked ones, those whose target said so.
    pub proven_leaks: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome, proven: bool) {
        self.by_outcome[outcome as usize] += 1;
        self.proven_leaks += u64::from(outcome == Outcome::Leaked && proven);
    }

    /// Probes with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome as usize]
    }

    /// Every outcome but pong.
    pub fn misses(&self) -> u64 {
        self.total() - self.of(Outcome::Pong)
    }

    /// Probes settled.
    pub fn total(&self) -> u64 {
        self.by_outcome.iter().sum()
    }

    /// What was taken for leaks was closed by something else.
    fn retract_presumed(&mut self) {
        let presumed = self.of(Outcome::Leaked) - self.proven_leaks;
        self.by_outcome[Outcome::Leaked as usize] -= presumed;
        self.by_outcome[Outcome::Closed as usize] += presumed;
    }
}

/// Where the policy became effective, measured from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bracket {
    /// The last leaked probe before the winner was sent then: the policy was not yet effective. `None` if none leaked.
    pub lower: Option<Duration>,
    /// How that is known.
    pub lower_evidence: Option<Evidence>,
    /// A SYN had got through under the policy by then. `None` without a pong.
    pub upper: Option<Duration>,
}

/// Judges probes in sent order.
#[derive(Debug)]
pub struct Judge {
    start: Monotonic,
    all: Counts,
    before_winner: Counts,
    last_proven: Option<Monotonic>,
    last_presumed: Option<Monotonic>,
    annotates: bool,
    pongs: Pongs,
    first_timeout: Option<Monotonic>,
    last_timeout: Option<Monotonic>,
    blackhole: Duration,
    won: bool,
    earliest_through: Option<Monotonic>,
    timeline: Vec<TimelineRun>,
    timeline_omitted: u64,
}

/// What pongs told of the way in between.
#[derive(Debug, Clone, Copy, Default)]
struct Pongs {
    all: u64,
    end_to_end: u64,
    intercepted: u64,
}

impl Judge {
    /// A judge of a test that began at `start`.
    pub fn new(start: Monotonic) -> Self {
        Self {
            start,
            all: Counts::default(),
            before_winner: Counts::default(),
            last_proven: None,
            last_presumed: None,
            annotates: false,
            pongs: Pongs::default(),
            first_timeout: None,
            last_timeout: None,
            blackhole: Duration::ZERO,
            won: false,
            earliest_through: None,
            timeline: Vec::new(),
            timeline_omitted: 0,
        }
    }

    /// This target annotates its replies: a close without a byte is none of its own. What was presumed of earlier ones is
    /// taken back.
    pub fn note_annotated(&mut self) {
        if std::mem::replace(&mut self.annotates, true) {
            return;
        }
        self.all.retract_presumed();
        self.before_winner.retract_presumed();
        self.last_presumed = None;
        for run in &mut self.timeline {
            if run.outcome == Outcome::Leaked {
                run.outcome = Outcome::Closed;
            }
        }
    }

    /// Whether this target annotates its replies, as far as is known.
    pub fn annotates(&self) -> bool {
        self.annotates
    }

    /// What becomes of a probe that ended like this, by what is known of the target.
    pub fn outcome_of(&self, probe: &Probe) -> Outcome {
        match probe.outcome() {
            Outcome::Leaked if self.annotates && probe.end.source.is_none() => Outcome::Closed,
            outcome => outcome,
        }
    }

    /// Takes the next probe in sent order, its outcome being that of [`Judge::outcome_of`].
    pub fn take(&mut self, probe: Probe) {
        let outcome = probe.outcome();
        let proven = probe.end.source.is_some();
        self.all.add(outcome, proven);
        self.extend_timeline(probe);
        if outcome == Outcome::Pong {
            let through = probe.got_through();
            let earliest = self.earliest_through.get_or_insert(through);
            *earliest = through.min(*earliest);
            self.pongs.all += 1;
            self.pongs.end_to_end += u64::from(probe.end.end_to_end == Some(true));
            self.pongs.intercepted += u64::from(probe.end.end_to_end == Some(false));
        }
        if self.won {
            return;
        }
        // An error never left this host, so it says nothing of the path: it neither ends a blackhole nor extends it.
        if outcome == Outcome::Timeout {
            self.first_timeout.get_or_insert(probe.sent);
            self.last_timeout = Some(probe.sent);
        } else if outcome != Outcome::Error
            && let Some(first) = self.first_timeout.take()
        {
            self.blackhole += probe.sent.since(first);
        }
        match outcome {
            Outcome::Pong => {
                self.won = true;
                return;
            }
            Outcome::Leaked if !probe.unsafe_port => {
                let last = if proven { &mut self.last_proven } else { &mut self.last_presumed };
                *last = Some(probe.sent);
            }
            _ => {}
        }
        self.before_winner.add(outcome, proven);
    }

    /// Whether a probe has got a pong and all that were sent before it are judged: what comes now was sent after the winner.
    pub fn has_winner(&self) -> bool {
        self.won
    }

    /// By when a SYN had got through, as far as it is known.
    pub fn earliest_through(&self) -> Option<Monotonic> {
        self.earliest_through
    }

    /// The masquerade delay: the upper end of the bracket.
    pub fn delay(&self) -> Option<Duration> {
        self.earliest_through.map(|through| through.since(self.start))
    }

    /// The bracket as far as it is known.
    pub fn bracket(&self) -> Bracket {
        let proven = self.last_proven.map(|at| (at, Evidence::Proven));
        let presumed = self.last_presumed.map(|at| (at, Evidence::Presumed));
        let lower = proven.into_iter().chain(presumed).max_by_key(|(at, _)| *at);
        Bracket {
            lower: lower.map(|(at, _)| at.since(self.start)),
            lower_evidence: lower.map(|(_, evidence)| evidence),
            upper: self.delay(),
        }
    }

    /// Whether nothing in between terminated TCP: `None` if no pong, or not every one, tells.
    pub fn end_to_end(&self) -> Option<bool> {
        match self.pongs {
            Pongs { intercepted: 1.., .. } => Some(false),
            Pongs { all, end_to_end, .. } => (all > 0 && all == end_to_end).then_some(true),
        }
    }

    /// Time without an answer before the winner. A run of timeouts that nothing ended counts up to its last probe.
    pub fn blackhole(&self) -> Duration {
        match (self.first_timeout, self.last_timeout) {
            (Some(first), Some(last)) => self.blackhole + last.since(first),
            _ => self.blackhole,
        }
    }

    /// All probes judged.
    pub fn counts(&self) -> &Counts {
        &self.all
    }

    /// The probes judged before the winner.
    pub fn before_winner(&self) -> &Counts {
        &self.before_winner
    }

    /// The outcomes, run-length coded, and how many probes came after the timeline was full.
    pub fn timeline(&self) -> (&[TimelineRun], u64) {
        (&self.timeline, self.timeline_omitted)
    }

    fn extend_timeline(&mut self, probe: Probe) {
        let at = probe.sent.since(self.start).as_secs_f64();
        let full = self.timeline.len() == TIMELINE_CAP;
        let outcome = probe.outcome();
        match self.timeline.last_mut() {
            Some(run) if run.outcome == outcome && self.timeline_omitted == 0 => {
                run.to_seconds = at;
                run.probes += 1;
            }
            Some(_) if full => self.timeline_omitted += 1,
            _ => self.timeline.push(TimelineRun { outcome, from_seconds: at, to_seconds: at, probes: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use Outcome::{Closed, Error, Leaked, Pong, Reset, Timeout};

    use super::*;
    use crate::client::outcome::ProbeEnd;

    const TOLD: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn probe(sent: u64, established: u64, outcome: Outcome) -> Probe {
        let start = Monotonic::from_ns(1_000_000_000);
        let established = (established > 0).then(|| start + ms(established));
        let sent = start + ms(sent);
        let settled = established.map_or(sent, |established| established + ms(7));
        Probe { sent, established, settled, end: ProbeEnd::plain(outcome), unsafe_port: false }
    }

    fn told(probe: Probe, end_to_end: Option<bool>) -> Probe {
        Probe { end: ProbeEnd { source: TOLD, end_to_end, ..probe.end }, ..probe }
    }

    fn judge_all(probes: &[Probe]) -> Judge {
        let mut judge = Judge::new(Monotonic::from_ns(1_000_000_000));
        for probe in probes {
            judge.take(*probe);
        }
        judge
    }

    /// Judges probes given as (sent, established or 0, outcome), in milliseconds from the start; each verdict comes 7 ms
    /// after its handshake.
    fn judge(probes: &[(u64, u64, Outcome)]) -> Judge {
        let probe = |&(sent, established, outcome): &_| probe(sent, established, outcome);
        judge_all(&probes.iter().map(probe).collect::<Vec<_>>())
    }

    fn ends(judge: &Judge) -> (Option<Duration>, Option<Duration>) {
        (judge.bracket().lower, judge.bracket().upper)
    }

    #[test]
    fn a_plain_pong_bounds_by_its_arrival_and_one_known_to_be_end_to_end_by_its_handshake() {
        let leak = probe(50, 80, Leaked);
        let pong = |end_to_end| told(probe(100, 190, Pong), end_to_end);
        for (end_to_end, upper) in [(None, 197), (Some(false), 197), (Some(true), 190)] {
            let judge = judge_all(&[leak, pong(end_to_end)]);
            assert_eq!((ends(&judge), judge.end_to_end()), ((Some(ms(50)), Some(ms(upper))), end_to_end));
            assert_eq!(judge.delay(), Some(ms(upper)));
        }
    }

    #[test]
    fn the_bracket_ends_with_the_earliest_of_all_pongs() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Leaked), (100, 190, Pong), (150, 175, Pong)]);
        assert_eq!(ends(&judge), (Some(ms(50)), Some(ms(182))));
    }

    #[test]
    fn one_pong_that_something_in_between_answered_refutes_the_rest() {
        let pong = |end_to_end| told(probe(100, 190, Pong), end_to_end);
        let of = |ends: &[Option<bool>]| {
            judge_all(&ends.iter().map(|end| pong(*end)).collect::<Vec<_>>()).end_to_end()
        };
        assert_eq!(of(&[Some(true), Some(true)]), Some(true));
        assert_eq!(of(&[Some(true), None]), None);
        assert_eq!(of(&[None, Some(true)]), None);
        assert_eq!(of(&[Some(true), Some(false), None]), Some(false));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn without_a_leak_the_bracket_has_no_lower_end_and_a_reset_is_none() {
        let judge = judge(&[(0, 0, Timeout), (20, 30, Reset), (50, 80, Pong)]);
        assert_eq!(ends(&judge), (None, Some(ms(87))));
        assert_eq!(judge.bracket().lower_evidence, None);
    }

    #[test]
    fn a_leak_after_the_winner_moves_neither_bracket_nor_leak_count() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Pong), (100, 130, Leaked), (150, 180, Pong)]);
        assert_eq!(ends(&judge), (Some(ms(0)), Some(ms(87))));
        assert_eq!(judge.before_winner().misses(), 1);
        assert_eq!(judge.counts().misses(), 2);
    }

    #[test]
    fn a_leak_from_a_port_whose_nat_entry_may_be_old_bounds_nothing() {
        let old = Probe { unsafe_port: true, ..probe(50, 80, Leaked) };
        let judge = judge_all(&[probe(0, 30, Leaked), old, probe(100, 130, Pong)]);
        assert_eq!(judge.bracket().lower, Some(ms(0)));
        assert_eq!(judge.before_winner().of(Leaked), 2);
    }

    #[test]
    fn a_target_that_annotates_takes_back_what_was_presumed() {
        let mut judge = judge(&[(0, 30, Leaked), (50, 80, Leaked)]);
        assert_eq!(judge.bracket().lower_evidence, Some(Evidence::Presumed));
        judge.note_annotated();
        assert_eq!(ends(&judge), (None, None));
        assert_eq!((judge.counts().of(Leaked), judge.counts().of(Closed)), (0, 2));
        assert_eq!(judge.timeline().0[0].outcome, Closed);
        assert_eq!(judge.outcome_of(&probe(60, 70, Leaked)), Closed);
        let proven = told(probe(90, 99, Leaked), None);
        assert_eq!(judge.outcome_of(&proven), Leaked);
        judge.take(proven);
        judge.note_annotated();
        assert_eq!(judge.bracket().lower_evidence, Some(Evidence::Proven));
        assert_eq!((ends(&judge).0, judge.before_winner().proven_leaks), (Some(ms(90)), 1));
    }

    #[test]
    fn the_blackhole_sums_runs_of_timeouts_up_to_the_next_other_outcome() {
        let judge = judge(&[
            (0, 0, Timeout),
            (50, 0, Timeout),
            (100, 130, Leaked),
            (150, 0, Timeout),
            (200, 230, Pong),
            (250, 0, Timeout),
            (300, 330, Pong),
        ]);
        assert_eq!(judge.blackhole(), ms(150));
    }

    #[test]
    fn a_blackhole_that_nothing_ends_counts_up_to_its_last_probe() {
        assert_eq!(judge(&[(0, 0, Timeout), (50, 0, Timeout), (100, 0, Timeout)]).blackhole(), ms(100));
    }

    #[test]
    fn a_local_error_neither_ends_nor_starts_a_blackhole() {
        let judge =
            judge(&[(0, 0, Error), (50, 0, Timeout), (100, 0, Error), (150, 0, Timeout), (200, 230, Pong)]);
        assert_eq!(judge.blackhole(), ms(150));
        assert_eq!(judge.before_winner().misses(), 4);
    }

    #[test]
    fn the_timeline_is_run_length_coded_and_capped() {
        let run = |outcome, from_seconds, to_seconds, probes| TimelineRun {
            outcome,
            from_seconds,
            to_seconds,
            probes,
        };
        let judged = judge(&[(0, 0, Timeout), (50, 0, Timeout), (100, 130, Leaked), (150, 180, Pong)]);
        let expected = [run(Timeout, 0.0, 0.05, 2), run(Leaked, 0.1, 0.1, 1), run(Pong, 0.15, 0.15, 1)];
        assert_eq!(judged.timeline(), (&expected[..], 0));
        let flapping: Vec<_> = (0..2_005).map(|i| (i, 0, if i % 2 == 0 { Timeout } else { Error })).collect();
        let (runs, omitted) = (judge(&flapping).timeline().0.len(), judge(&flapping).timeline().1);
        assert_eq!((runs, omitted), (1_000, 1_005));
    }
}
