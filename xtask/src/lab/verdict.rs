//! Whether what a client measured agrees with what was done to it. Pure: values in, values out.

use std::time::Duration;

use egw_probe::document::outcome::Outcome;
use egw_probe::document::result::{BracketSeconds, ResultDocument, TestOutcome};

use super::options::{Plan, Scenario};

/// A recorded change of policy, in seconds since the start of the client it was made to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded {
    pub(crate) before: f64,
    pub(crate) after: f64,
}

/// Where a recorded switch lies in a measured bracket, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Margins {
    pub(crate) width: f64,
    /// From the lower end to the switch; the switch is outside unless positive.
    pub(crate) below: f64,
    /// From the switch to the upper end; the switch is outside if negative.
    pub(crate) above: f64,
}

impl Margins {
    /// None if the bracket is open at an end.
    pub(crate) fn of(bracket: BracketSeconds, switch: Recorded) -> Option<Self> {
        let (lower, upper) = (bracket.lower_seconds?, bracket.upper_seconds?);
        Some(Self { width: upper - lower, below: switch.before - lower, above: upper - switch.after })
    }

    /// Whether the whole switch lies inside `(lower, upper]`.
    pub(crate) fn hold(&self) -> bool {
        self.below > 0.0 && self.above >= 0.0
    }
}

/// Everything that is wrong with a measurement; nothing, if it agrees with what was done.
pub(crate) fn faults(
    plan: &Plan,
    measured: &ResultDocument,
    dropped: Option<Recorded>,
    switch: Option<Recorded>,
) -> Vec<String> {
    let mut faults = vec![];
    let mut expect = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    let ResultDocument { outcome, bracket, .. } = measured;
    let expected =
        if plan.scenario == Scenario::Never { TestOutcome::TimedOut } else { TestOutcome::Masqueraded };
    expect(*outcome == expected, format!("the outcome is {}, not {}", outcome.name(), expected.name()));
    let [pong, leaked, errors] =
        [Outcome::Pong, Outcome::Leaked, Outcome::Error].map(|outcome| measured.probes.of(outcome));
    expect(errors == 0, format!("{errors} probes failed on the client's own side"));
    match plan.scenario {
        Scenario::Baseline => {
            expect(pong > 0 && leaked == 0, format!("{pong} pongs and {leaked} leaks where all are allowed"));
            expect(
                bracket.lower_seconds.is_none(),
                "the bracket has a lower end though nothing leaked".into(),
            );
        }
        Scenario::Never => {
            expect(pong == 0 && leaked > 0, format!("{pong} pongs and {leaked} leaks where all must leak"));
            let ends = (bracket.lower_seconds.is_some(), bracket.upper_seconds.is_some());
            expect(ends == (true, false), "the bracket must have a lower end and no upper one".into());
        }
        // A handshake that never completes proves no leak to the client: its bracket has no lower end.
        Scenario::Masquerade if plan.no_return => {
            let timeouts = measured.probes.timeout;
            expect(leaked == 0 && timeouts > 0, format!("{leaked} leaks and {timeouts} timeouts"));
            let holds =
                switch.zip(bracket.upper_seconds).is_some_and(|(switch, upper)| switch.after <= upper);
            expect(
                holds && bracket.lower_seconds.is_none(),
                "the recorded switch is not inside the measured bracket".into(),
            );
        }
        _ => {
            expect(leaked > 0, "nothing leaked before the policy".into());
            let margins = switch.and_then(|switch| Margins::of(*bracket, switch));
            expect(
                margins.is_some_and(|margins| margins.hold()),
                "the recorded switch is not inside the measured bracket".into(),
            );
        }
    }
    faults.extend(
        dropped
            .zip(switch)
            .and_then(|(dropped, switch)| blackhole_fault(plan, measured, switch.before - dropped.before)),
    );
    faults
}

/// What is wrong with the measured length of a blackhole that was made for so many seconds.
fn blackhole_fault(plan: &Plan, measured: &ResultDocument, done: f64) -> Option<String> {
    let slack = blackhole_slack(plan, measured);
    let off = measured.blackhole_seconds - done;
    (off.abs() > slack.as_secs_f64())
        .then(|| format!("the measured blackhole is {:+.3} ms off, more than {slack:?}", off * 1e3))
}

/// How far a blackhole can truly be off: by a tick at each end, and by the probes in flight when it began. A skipped
/// tick makes its gap longer.
fn blackhole_slack(plan: &Plan, measured: &ResultDocument) -> Duration {
    let ticks = 1 + measured.probes.skipped_ticks as u32;
    ticks * plan.interval + plan.rtt + Duration::from_millis(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRACKET: BracketSeconds =
        BracketSeconds { lower_seconds: Some(1.0), lower_evidence: None, upper_seconds: Some(2.0) };

    fn holds(before: f64, after: f64) -> bool {
        Margins::of(BRACKET, Recorded { before, after }).unwrap().hold()
    }

    #[test]
    fn the_whole_switch_must_lie_inside_the_bracket_whose_lower_end_is_open() {
        assert!(holds(1.4, 1.6));
        assert!(holds(1.9, 2.0));
        assert!(!holds(1.0, 1.1));
        assert!(!holds(0.9, 1.1));
        assert!(!holds(1.9, 2.1));
    }

    #[test]
    fn a_switch_that_is_shifted_by_one_bracket_width_never_fits() {
        for step in 1..=100 {
            let before = 1.0 + f64::from(step) / 100.0;
            assert!(!holds(before + 1.0, before + 1.0));
            assert!(!holds(before - 1.0, before - 1.0));
        }
    }

    #[test]
    fn a_bracket_with_an_open_end_holds_nothing() {
        let open = BracketSeconds { lower_seconds: None, ..BRACKET };
        assert!(Margins::of(open, Recorded { before: 1.4, after: 1.6 }).is_none());
    }
}
