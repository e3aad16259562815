//! Whether what a client measured agrees with what was done to it. Pure: values in, values out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::clock::Monotonic;
use super::options::{Plan, Scenario};

/// The part of a client's result document (schema 1) that the lab judges.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Measured {
    pub(crate) start_monotonic_ns: u64,
    pub(crate) outcome: String,
    pub(crate) masquerade_delay_seconds: Option<f64>,
    pub(crate) bracket: Bracket,
    pub(crate) blackhole_seconds: f64,
    /// One count for each outcome, `sent`, `skipped_ticks` and others; null where it isn't counted.
    pub(crate) probes: BTreeMap<String, Option<u64>>,
    /// Why the client calls its own numbers weak.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// Seconds since the client's start: the policy became effective inside `(lower, upper]`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Bracket {
    pub(crate) lower_seconds: Option<f64>,
    pub(crate) upper_seconds: Option<f64>,
}

impl Measured {
    pub(crate) fn start(&self) -> Monotonic {
        Monotonic::from_ns(self.start_monotonic_ns)
    }

    pub(crate) fn probes(&self, outcome: &str) -> u64 {
        self.probes.get(outcome).copied().flatten().unwrap_or(0)
    }
}

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
    pub(crate) fn of(bracket: Bracket, switch: Recorded) -> Option<Self> {
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
    measured: &Measured,
    dropped: Option<Recorded>,
    switch: Option<Recorded>,
) -> Vec<String> {
    let mut faults = vec![];
    let mut expect = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    let Measured { outcome, bracket, .. } = measured;
    let expected = if plan.scenario == Scenario::Never { "timed_out" } else { "masqueraded" };
    expect(outcome == expected, format!("the outcome is {outcome}, not {expected}"));
    let [pong, leaked, errors] = ["pong", "leaked", "error"].map(|outcome| measured.probes(outcome));
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
            let timeouts = measured.probes("timeout");
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
fn blackhole_fault(plan: &Plan, measured: &Measured, done: f64) -> Option<String> {
    let slack = blackhole_slack(plan, measured);
    let off = measured.blackhole_seconds - done;
    (off.abs() > slack.as_secs_f64())
        .then(|| format!("the measured blackhole is {:+.3} ms off, more than {slack:?}", off * 1e3))
}

/// How far a blackhole can truly be off: by a tick at each end, and by the probes in flight when it began. A skipped
/// tick makes its gap longer.
fn blackhole_slack(plan: &Plan, measured: &Measured) -> Duration {
    let ticks = 1 + measured.probes("skipped_ticks") as u32;
    ticks * plan.interval + plan.rtt + Duration::from_millis(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRACKET: Bracket = Bracket { lower_seconds: Some(1.0), upper_seconds: Some(2.0) };

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
        let open = Bracket { lower_seconds: None, ..BRACKET };
        assert!(Margins::of(open, Recorded { before: 1.4, after: 1.6 }).is_none());
    }
}
