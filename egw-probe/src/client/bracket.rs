//! From probes in sent order to winner, masquerade delay, delay bracket, blackhole and timeline.
//!
//! Pure: takes settled probes, returns what they mean. The definitions are those of the README.

use std::time::Duration;

use crate::client::outcome::Probe;
use crate::document::outcome::Outcome;
use crate::document::result::TimelineRun;
use crate::sys::clock::Monotonic;

/// Runs kept in the timeline; what comes after is counted.
const TIMELINE_CAP: usize = 1_000;

/// Probes by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts([u64; Outcome::ALL.len()]);

impl Counts {
    /// Counts one more.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }

    /// Probes with this outcome.
    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// Every outcome but pong.
    pub(crate) fn misses(&self) -> u64 {
        self.total() - self.of(Outcome::Pong)
    }

    /// Probes settled.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Of the probes that got a pong, the one sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Winner {
    /// `established(winner) - start`.
    pub masquerade_delay: Duration,
    /// When it was sent, from the start.
    pub sent: Duration,
}

/// Where the policy became effective, measured from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bracket {
    /// The last leaked probe before the winner was sent then: the policy was not yet effective. `None` if none leaked.
    pub lower: Option<Duration>,
    /// The earliest handshake of all pongs was complete then: the policy was effective. `None` without a pong.
    pub upper: Option<Duration>,
}

/// Judges probes in sent order.
#[derive(Debug)]
pub(crate) struct Judge {
    start: Monotonic,
    all: Counts,
    before_winner: Counts,
    last_leaked: Option<Monotonic>,
    first_timeout: Option<Monotonic>,
    last_timeout: Option<Monotonic>,
    blackhole: Duration,
    winner: Option<Winner>,
    earliest_established: Option<Monotonic>,
    timeline: Vec<TimelineRun>,
    timeline_omitted: u64,
}

impl Judge {
    /// A judge of a test that began at `start`.
    pub(crate) fn new(start: Monotonic) -> Self {
        Self {
            start,
            all: Counts::default(),
            before_winner: Counts::default(),
            last_leaked: None,
            first_timeout: None,
            last_timeout: None,
            blackhole: Duration::ZERO,
            winner: None,
            earliest_established: None,
            timeline: Vec::new(),
            timeline_omitted: 0,
        }
    }

    /// Takes the next probe in sent order.
    pub(crate) fn take(&mut self, probe: Probe) {
        self.all.add(probe.outcome);
        self.extend_timeline(probe);
        if probe.outcome == Outcome::Pong {
            // A pong without an established handshake cannot be; its sent time is the bound that certainly holds.
            let established = probe.established.unwrap_or(probe.sent);
            let earliest = self.earliest_established.get_or_insert(established);
            *earliest = established.min(*earliest);
        }
        if self.winner.is_some() {
            return;
        }
        // An error never left this host, so it says nothing of the path: it neither ends a blackhole nor extends it.
        if probe.outcome == Outcome::Timeout {
            self.first_timeout.get_or_insert(probe.sent);
            self.last_timeout = Some(probe.sent);
        } else if probe.outcome != Outcome::Error
            && let Some(first) = self.first_timeout.take()
        {
            self.blackhole += probe.sent.since(first);
        }
        match probe.outcome {
            Outcome::Pong => {
                let established = probe.established.unwrap_or(probe.sent);
                self.winner = Some(Winner {
                    masquerade_delay: established.since(self.start),
                    sent: probe.sent.since(self.start),
                });
                return;
            }
            Outcome::Leaked => self.last_leaked = Some(probe.sent),
            _ => {}
        }
        self.before_winner.add(probe.outcome);
    }

    /// The winner, once it is known.
    pub(crate) fn winner(&self) -> Option<Winner> {
        self.winner
    }

    /// The bracket as far as it is known.
    pub(crate) fn bracket(&self) -> Bracket {
        let from_start = |instant: Monotonic| instant.since(self.start);
        Bracket { lower: self.last_leaked.map(from_start), upper: self.earliest_established.map(from_start) }
    }

    /// Time without an answer before the winner. A run of timeouts that nothing ended counts up to its last probe.
    pub(crate) fn blackhole(&self) -> Duration {
        match (self.first_timeout, self.last_timeout) {
            (Some(first), Some(last)) => self.blackhole + last.since(first),
            _ => self.blackhole,
        }
    }

    /// All probes judged.
    pub(crate) fn counts(&self) -> &Counts {
        &self.all
    }

    /// The probes judged before the winner.
    pub(crate) fn before_winner(&self) -> &Counts {
        &self.before_winner
    }

    /// The outcomes, run-length coded, and how many probes came after the timeline was full.
    pub(crate) fn timeline(&self) -> (&[TimelineRun], u64) {
        (&self.timeline, self.timeline_omitted)
    }

    fn extend_timeline(&mut self, probe: Probe) {
        let at = probe.sent.since(self.start).as_secs_f64();
        let full = self.timeline.len() == TIMELINE_CAP;
        match self.timeline.last_mut() {
            Some(run) if run.outcome == probe.outcome && self.timeline_omitted == 0 => {
                run.to_seconds = at;
                run.probes += 1;
            }
            Some(_) if full => self.timeline_omitted += 1,
            _ => self.timeline.push(TimelineRun {
                outcome: probe.outcome,
                from_seconds: at,
                to_seconds: at,
                probes: 1,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Error, Leaked, Pong, Timeout};

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Judges probes given as (sent, established or 0, outcome), in milliseconds from a start at 1 s.
    fn judge(probes: &[(u64, u64, Outcome)]) -> Judge {
        let start = Monotonic::from_ns(1_000_000_000);
        let mut judge = Judge::new(start);
        for &(sent, established, outcome) in probes {
            let established = (established > 0).then(|| start + ms(established));
            let sent = start + ms(sent);
            judge.take(Probe { sent, established, settled: sent, outcome, egress_ip: None });
        }
        judge
    }

    #[test]
    fn the_delay_is_that_of_the_first_pong_in_sent_order() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Leaked), (100, 190, Pong), (150, 175, Pong)]);
        assert_eq!(judge.winner().unwrap().masquerade_delay, ms(190));
        assert_eq!(judge.winner().unwrap().sent, ms(100));
    }

    #[test]
    fn the_bracket_runs_from_the_last_leak_to_the_earliest_handshake_of_all_pongs() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Leaked), (100, 190, Pong), (150, 175, Pong)]);
        assert_eq!(judge.bracket(), Bracket { lower: Some(ms(50)), upper: Some(ms(175)) });
    }

    #[test]
    fn without_a_leak_the_bracket_has_no_lower_end() {
        let judge = judge(&[(0, 0, Timeout), (50, 80, Pong)]);
        assert_eq!(judge.bracket(), Bracket { lower: None, upper: Some(ms(80)) });
    }

    #[test]
    fn a_leak_after_the_winner_moves_neither_bracket_nor_leak_count() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Pong), (100, 130, Leaked), (150, 180, Pong)]);
        assert_eq!(judge.bracket(), Bracket { lower: Some(ms(0)), upper: Some(ms(80)) });
        assert_eq!(judge.before_winner().misses(), 1);
        assert_eq!(judge.counts().misses(), 2);
    }

    #[test]
    fn a_timed_out_test_has_a_lower_end_and_no_upper_one() {
        let judge = judge(&[(0, 30, Leaked), (50, 80, Leaked)]);
        assert_eq!(judge.bracket(), Bracket { lower: Some(ms(50)), upper: None });
        assert_eq!(judge.winner(), None);
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
