//! Whether what a client measured agrees with what was done to it. Pure: values in, values out.

use std::time::Duration;

use egw_probe::document::outcome::{Evidence, Outcome};
use egw_probe::document::result::{BracketSeconds, ResultDocument, TestOutcome};

use super::disturbance::Disturb;
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
}

/// A claim: the whole switch lies in what is printed of `(lower, upper]`.
fn contains(bracket: BracketSeconds, switch: Recorded) -> bool {
    let below = bracket.lower_seconds.is_none_or(|lower| lower < switch.before);
    below && bracket.upper_seconds.is_some_and(|upper| switch.after <= upper)
}

/// Everything that is wrong with a measurement; nothing, if it agrees with what was done.
pub(crate) fn faults(
    plan: &Plan,
    measured: &ResultDocument,
    dropped: Option<Recorded>,
    switch: Option<Recorded>,
) -> Vec<String> {
    let mut faults = vec![];
    let mut expect = |holds: bool, fault: String| faults.extend((!holds).then_some(fault));
    let ResultDocument { outcome, bracket, .. } = measured;
    let expected =
        if plan.scenario == Scenario::Never { TestOutcome::TimedOut } else { TestOutcome::Masqueraded };
    expect(*outcome == expected, format!("the outcome is {}, not {}", outcome.name(), expected.name()));
    let [pong, leaked, errors] =
        [Outcome::Pong, Outcome::Leaked, Outcome::Error].map(|outcome| measured.probes.of(outcome));
    // Of a few ports all may be taken.
    let may_fail = plan.has(Disturb::Portreuse);
    expect(errors == 0 || may_fail, format!("{errors} probes failed on the client's own side"));
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
        Scenario::Stress => expect(pong > 0, "no pong though the policy is in force".into()),
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
            let holds = switch.is_some_and(|switch| contains(*bracket, switch));
            expect(holds, "the recorded switch is not inside the measured bracket".into());
            // What is disturbed may prove less, and nothing wrong.
            let proves = leaked > 0 && bracket.lower_seconds.is_some() || !plan.disturb.is_empty();
            expect(proves, "nothing leaked before the policy".into());
        }
    }
    faults.extend(
        dropped
            .zip(switch)
            .and_then(|(dropped, switch)| blackhole_fault(plan, measured, switch.before - dropped.before)),
    );
    faults
}

/// What is wrong with the evidence that a client gives.
pub(crate) fn evidence_faults(plan: &Plan, measured: &ResultDocument) -> Vec<String> {
    let mut faults = vec![];
    let probes = &measured.probes;
    if probes.pong > 0
        && let Some(fault) = end_to_end_fault(plan, measured.end_to_end)
    {
        faults.push(fault);
    }
    let presumed = probes.leaked - probes.leaked_proven;
    if plan.annotated && (presumed > 0 || measured.bracket.lower_evidence == Some(Evidence::Presumed)) {
        faults.push(format!("{presumed} leaks are presumed though the target tells of each"));
    }
    if !plan.annotated
        && (probes.leaked_proven > 0 || measured.bracket.lower_evidence == Some(Evidence::Proven))
    {
        faults.push("a leak is proven though the target tells of none".into());
    }
    faults
}

/// Whether a client may say this of the way in between. A proxy beside it has the address that the timestamps of its SYNs
/// depend on: of that it may leave open whether it is there. So it may of SYNPROXY, which sends no timestamps, and of a SYN that was sent again, where an RST was lost
/// that should have ended the connection before it from the same port.
pub(crate) fn end_to_end_fault(plan: &Plan, told: Option<bool>) -> Option<String> {
    let may_be: &[Option<bool>] = if !plan.annotated {
        &[None]
    } else if plan.has(Disturb::Synproxy) {
        &[Some(false), None]
    } else if plan.has(Disturb::Proxy) {
        &[Some(false)]
    } else if plan.has(Disturb::Sidecar) {
        &[Some(false), None]
    } else if plan.has(Disturb::Loss) || plan.has(Disturb::Portreuse) {
        &[Some(true), None]
    } else {
        &[Some(true)]
    };
    (!may_be.contains(&told)).then(|| format!("end_to_end is {told:?}, not one of {may_be:?}"))
}

/// What is wrong with the leaks that clients call proven, of so many connections that the target denied meanwhile. A reply
/// that is lost proves nothing to the client, and a proxy may dial for a client that is gone.
pub(crate) fn leaks_fault(plan: &Plan, measured: &[&ResultDocument], denied: u64) -> Option<String> {
    let of_stress = |measured: &ResultDocument| {
        measured.stress.as_ref().map_or(0, |stress| stress.leaked - stress.leaked_presumed)
    };
    let proven: u64 =
        measured.iter().map(|measured| measured.probes.leaked_proven + of_stress(measured)).sum();
    let all_are_told = plan.annotated && plan.disturb.is_empty();
    (proven > denied || (all_are_told && proven < denied))
        .then(|| format!("{proven} leaks are proven where the target denied {denied}"))
}

/// What is wrong with the measured length of a blackhole that was made for so many seconds. It is a sum over probes as it is
/// defined, and claims no bounds: so this is an expectation, and has a tolerance.
fn blackhole_fault(plan: &Plan, measured: &ResultDocument, done: f64) -> Option<String> {
    // By chance or in a queue, more probes get no answer than the policy took.
    if !plan.disturb.is_empty() {
        return None;
    }
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
        contains(BRACKET, Recorded { before, after })
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
    fn a_bracket_without_a_lower_end_claims_none_and_has_no_width() {
        let open = BracketSeconds { lower_seconds: None, ..BRACKET };
        assert!(Margins::of(open, Recorded { before: 0.4, after: 0.6 }).is_none());
        assert!(contains(open, Recorded { before: 0.4, after: 0.6 }));
        assert!(!contains(
            BracketSeconds { upper_seconds: None, ..BRACKET },
            Recorded { before: 1.4, after: 1.6 }
        ));
    }
}
