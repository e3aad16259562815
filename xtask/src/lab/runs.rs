//! Runs of misses after the winner, read from a client's timeline: what its disruptions, partial outages and lost probes have to
//! agree with. Pure.

use egw_probe::document::outcome::Outcome;
use egw_probe::document::result::{ResultDocument, TimelineRun};

/// Misses between two pongs. Seconds since the client's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MissRun {
    pub(crate) misses: u64,
    pub(crate) first_sent: f64,
    pub(crate) last_pong_sent: f64,
    /// None if no pong came any more.
    pub(crate) next_pong_sent: Option<f64>,
    /// Nobody answered any of them: only that can be chance.
    pub(crate) unanswered: bool,
}

impl MissRun {
    /// By definition one miss between two pongs is no disruption.
    pub(crate) fn is_single(&self) -> bool {
        self.misses == 1 && self.next_pong_sent.is_some()
    }
}

/// All of them, in sent order. What never left the client's host is passed over.
pub(crate) fn after_winner(measured: &ResultDocument) -> Vec<MissRun> {
    of_timeline(&measured.timeline)
}

fn of_timeline(timeline: &[TimelineRun]) -> Vec<MissRun> {
    let mut runs: Vec<MissRun> = vec![];
    let mut last_pong = None;
    let mut open: Option<MissRun> = None;
    for run in timeline.iter().filter(|run| run.outcome != Outcome::Error) {
        if run.outcome == Outcome::Pong {
            runs.extend(open.take().map(|open| MissRun { next_pong_sent: Some(run.from_seconds), ..open }));
            last_pong = Some(run.to_seconds);
        } else if let Some(last_pong_sent) = last_pong {
            let open = open.get_or_insert(MissRun {
                misses: 0,
                first_sent: run.from_seconds,
                last_pong_sent,
                next_pong_sent: None,
                unanswered: true,
            });
            open.misses += run.probes;
            open.unanswered &= matches!(run.outcome, Outcome::Timeout | Outcome::Silent);
        }
    }
    runs.extend(open);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_between_pongs_and_errors_do_not_count() {
        let run = |outcome, from_seconds, to_seconds, probes| TimelineRun {
            outcome,
            from_seconds,
            to_seconds,
            probes,
        };
        let timeline = [
            run(Outcome::Leaked, 0.0, 0.1, 2),
            run(Outcome::Pong, 0.2, 0.3, 2),
            run(Outcome::Timeout, 0.4, 0.4, 1),
            run(Outcome::Error, 0.5, 0.5, 1),
            run(Outcome::Pong, 0.6, 0.6, 1),
            run(Outcome::Timeout, 0.7, 0.8, 2),
            run(Outcome::Refused, 0.9, 0.9, 1),
        ];
        let single = MissRun {
            misses: 1,
            first_sent: 0.4,
            last_pong_sent: 0.3,
            next_pong_sent: Some(0.6),
            unanswered: true,
        };
        let open = MissRun {
            misses: 3,
            first_sent: 0.7,
            last_pong_sent: 0.6,
            next_pong_sent: None,
            unanswered: false,
        };
        assert_eq!(of_timeline(&timeline), [single, open]);
        assert!(single.is_single() && !open.is_single());
    }
}
