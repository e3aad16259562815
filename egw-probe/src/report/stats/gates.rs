//! Limits that set the exit code. Pure. Kept or failed is what holds wherever in their brackets the delays were; where that depends on
//! it, a gate cannot tell, and does not pass: what is not known to be within a limit may be beyond it.

use std::time::Duration;

use crate::document::go::format_duration;
use crate::document::outcome::Outcome;
use crate::report::data::client::ClientResult;
use crate::report::data::figures::{self, clients, range, seconds};
use crate::report::data::run::{Bounds, Comparison, Gate, GateState, Run};
use crate::report::stats::ranks::{ALPHA, least_share};

/// The limits, as the user set them.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Of the p99 of the delay.
    pub max_p99: Option<Duration>,
    /// Of leaked probes and connections, over all clients.
    pub max_leaked: Option<u64>,
    /// Of clients that were not masqueraded.
    pub max_failed: Option<u64>,
    /// Of disruptions, over all clients.
    pub max_disruptions: Option<u64>,
    /// Of the length of each.
    pub max_disruption: Option<Duration>,
    /// Fewest clients, by name.
    pub min_clients: Option<u64>,
    /// By how much a quantile may be later than in the run that this one is compared with.
    pub max_regression: Vec<(&'static str, Duration)>,
    /// By how much medians may differ either way.
    pub equivalent_within: Option<Duration>,
}

/// A value that is known to lie between two others.
#[derive(Debug, Clone, Copy)]
struct Between {
    lower: Option<f64>,
    upper: Option<f64>,
}

impl Between {
    fn exactly(value: u64) -> Self {
        Self { lower: Some(value as f64), upper: Some(value as f64) }
    }

    /// A time is later than its lower bound, so one that begins at the limit is beyond it.
    fn of(bounds: Bounds) -> Self {
        Self { lower: bounds.lower_seconds.map(f64::next_up), upper: bounds.upper_seconds }
    }

    fn at_most(self, limit: f64) -> GateState {
        match (self.lower, self.upper) {
            (_, Some(upper)) if upper <= limit => GateState::Kept,
            (Some(lower), _) if lower > limit => GateState::Failed,
            _ => GateState::CannotTell,
        }
    }
}

/// A limit in seconds, the number that its text reads as: `as_secs_f64` rounds twice.
fn exact(limit: Duration) -> f64 {
    limit.as_nanos() as f64 / 1e9
}

fn gate(gate: String, limit: f64, value: Between, state: GateState, found: String) -> Gate {
    let passed = state == GateState::Kept;
    Gate { gate, passed, state, limit, lower: value.lower, upper: value.upper, found }
}

/// Judges a run in which `leaked` probes leaked, and what came of comparing it. Without a client no limit is known to be kept.
pub(crate) fn judge(
    limits: &Limits,
    (run, clients): (&Run, &[ClientResult]),
    leaked: u64,
    comparison: Option<&Comparison>,
) -> Vec<Gate> {
    let failed = run.clients.timed_out + run.clients.unfinished;
    let all_leaked = leaked.saturating_add(run.leaked_connections.total());
    let leaks = figures::leaked(leaked, run.leaked_connections);
    let counted = |name: &str, max: Option<u64>, count: u64, found: String| {
        let value = Between::exactly(count);
        max.map(|max| gate(format!("{name} {max}"), max as f64, value, value.at_most(max as f64), found))
    };
    let least = limits.min_clients.map(|min| {
        let count = run.clients.distinct;
        let state = if count >= min { GateState::Kept } else { GateState::Failed };
        let found = format!("{} by name", figures::clients(count));
        gate(format!("--min-clients {min}"), min as f64, Between::exactly(count), state, found)
    });
    let mut gates: Vec<Gate> = [
        limits.max_p99.map(|max| p99(max, run, clients)),
        counted(
            "--max-leaked",
            limits.max_leaked,
            all_leaked,
            format!("{leaks} leaked{}", unknown_leaks(run)),
        ),
        counted(
            "--max-failed",
            limits.max_failed,
            failed,
            format!("{} not masqueraded", figures::clients(failed)),
        ),
        limits.max_disruptions.map(|max| disruptions(max, run)),
        limits.max_disruption.map(|max| disruption(max, run)),
        least,
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(comparison) = comparison {
        gates.extend(limits.max_regression.iter().map(|(name, max)| regression(name, *max, comparison)));
        gates.extend(limits.equivalent_within.map(|within| equivalence(within, comparison)));
    }
    if clients.is_empty() {
        for gate in &mut gates {
            (gate.passed, gate.state) = (false, GateState::CannotTell);
            "there is no client".clone_into(&mut gate.found);
        }
    }
    gates
}

/// What nobody but a target with a kernel side can tell.
fn unknown_leaks(run: &Run) -> String {
    match run.probes_of(Outcome::Timeout) {
        0 => String::new(),
        timeouts => format!(
            "; {} timed out: only the target can tell whether they did",
            figures::counted(timeouts, "probe")
        ),
    }
}

fn p99(max: Duration, run: &Run, all: &[ClientResult]) -> Gate {
    let limit = exact(max);
    let bounds = run.delay.quantile("p99").map(|p99| p99.of_this_run);
    let value = bounds.map_or(Between { lower: None, upper: None }, Between::of);
    let state = value.at_most(limit);
    let bounds =
        bounds.map_or((0.0, None), |bounds| (bounds.lower_seconds.unwrap_or(0.0), bounds.upper_seconds));
    let found = match (state, bounds) {
        (GateState::Kept, (_, upper)) => {
            format!("the p99 of these clients is {} at most", seconds(upper.unwrap_or(f64::INFINITY)))
        }
        (GateState::Failed, (lower, _)) => {
            format!("the p99 of these clients is later than {}", seconds(lower))
        }
        (GateState::CannotTell, (lower, Some(upper))) => {
            format!("cannot tell: the p99 of these clients lies in {}; probe faster", range(lower, upper))
        }
        (GateState::CannotTell, (lower, None)) => format!(
            "cannot tell: the p99 of these clients is later than {}, and not bounded: too many clients did not get through",
            seconds(lower)
        ),
    };
    let slowest = match all.len() {
        count @ 1..100 => format!(" (of {} it is the slowest one)", clients(count as u64)),
        _ => String::new(),
    };
    let within = all.iter().filter(|one| one.delay.upper <= limit).count();
    let share = least_share(within, all.len(), ALPHA);
    // Rounded down: the words promise no more than the number. Of clients that share the fate of their node it promises too much.
    let like_these = match run.nodes {
        Some(_) => String::new(),
        None => format!(
            ", and by at least {:.1} % of clients like these (95 % confidence, where these are an independent sample)",
            (share * 1_000.0).floor() / 10.0
        ),
    };
    let (limit_named, all_named) = (format_duration(max), clients(all.len() as u64));
    let promise = format!(". Up to {limit_named} is met by {within} of {all_named} for certain{like_these}");
    gate(format!("--max-p99 {}", format_duration(max)), limit, value, state, found + &slowest + &promise)
}

/// One that is still open may have only begun: no limit is known to be kept.
fn still_open(run: &Run) -> String {
    match run.disruptions.open {
        0 => String::new(),
        open => format!(", {open} without an end"),
    }
}

fn disruptions(max: u64, run: &Run) -> Gate {
    let partial = run.loss.as_ref().map_or(0, |loss| loss.partial_outages);
    let total = run.disruptions.total;
    let value = Between::exactly(total.saturating_add(partial));
    let state = match value.at_most(max as f64) {
        GateState::Kept if run.disruptions.open > 0 => GateState::CannotTell,
        state => state,
    };
    let and = match partial {
        0 => String::new(),
        partial => format!(" and {}", figures::counted(partial, "partial outage")),
    };
    let found = format!("{}{and}{}", figures::counted(total, "disruption"), still_open(run));
    gate(format!("--max-disruptions {max}"), max as f64, value, state, found)
}

fn disruption(max: Duration, run: &Run) -> Gate {
    let disruptions = &run.disruptions;
    let longest = disruptions.longest.iter().map(|one| one.length);
    // The longest by its upper end comes first; another one may have the higher lower end.
    let lower = longest.clone().filter_map(|length| length.lower_seconds).fold(0.0, f64::max);
    let upper = longest.map(|length| length.upper_seconds.unwrap_or(f64::INFINITY)).fold(0.0, f64::max);
    let known = disruptions.open == 0 && disruptions.without_length == 0;
    let value = Between { lower: Some(lower), upper: Some(upper).filter(|upper| known && upper.is_finite()) };
    let state = value.at_most(exact(max));
    let found = match (state, known) {
        (GateState::Failed, _) => format!("the longest lasted {} at least", seconds(lower)),
        _ if disruptions.open > 0 => {
            format!("{}{}", figures::counted(disruptions.total, "disruption"), still_open(run))
        }
        (_, false) => {
            let unknown = figures::counted(disruptions.without_length, "disruption");
            format!("of {unknown} nobody tells the length")
        }
        (GateState::CannotTell, _) => {
            format!("cannot tell: the longest lasted {}; probe faster", range(lower, upper))
        }
        (GateState::Kept, _) => format!("the longest may have lasted {}", seconds(upper)),
    };
    gate(format!("--max-disruption {}", format_duration(max)), exact(max), value, state, found)
}

/// What brings a bound nearer that is too far away for a verdict.
const NEARER: &str = "probe faster, or use more clients";

/// By how much a quantile is later at least and at most: of upper ends, which are known, where both runs probed alike.
fn one_sided(name: &str, comparison: &Comparison) -> (Between, String) {
    let Some(found) = comparison.quantiles.iter().find(|one| one.name == name) else {
        return (Between { lower: None, upper: None }, "no client".to_owned());
    };
    let (bounds, of) = match found.upper_ends {
        Some(ends) => (ends.one_sided, "upper ends"),
        None => (found.delay.one_sided, "brackets: the runs did not probe alike"),
    };
    let what = if comparison.nodes.is_some() { "nodes" } else { "clients" };
    let assumes = format!("{of}; 95 % confidence, where {what} are an independent sample");
    (Between { lower: bounds.lower_seconds, upper: bounds.upper_seconds }, assumes)
}

fn regression(name: &str, max: Duration, comparison: &Comparison) -> Gate {
    let (value, of) = one_sided(name, comparison);
    let state = value.at_most(exact(max));
    let bound = |end: Option<f64>| seconds(end.unwrap_or(f64::INFINITY));
    let found = match state {
        GateState::Kept => format!("the {name} is not later by more than {}", bound(value.upper)),
        GateState::Failed => format!("the {name} is later by at least {}", bound(value.lower)),
        GateState::CannotTell if value.upper.is_none() => {
            format!("cannot tell: nothing says by how much the {name} may be later; {NEARER}")
        }
        GateState::CannotTell => {
            format!("cannot tell: the {name} may be later by {}; {NEARER}", bound(value.upper))
        }
    };
    let found = format!("{found} ({of})");
    gate(format!("--max-regression {name}={}", format_duration(max)), exact(max), value, state, found)
}

/// Two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987).
fn equivalence(within: Duration, comparison: &Comparison) -> Gate {
    let limit = exact(within);
    let (value, of) = one_sided("p50", comparison);
    let Between { lower, upper } = value;
    let state = match (lower, upper) {
        (Some(lower), Some(upper)) if -limit <= lower && upper <= limit => GateState::Kept,
        (Some(lower), _) if lower > limit => GateState::Failed,
        (_, Some(upper)) if upper < -limit => GateState::Failed,
        _ => GateState::CannotTell,
    };
    let told = match (lower, upper) {
        (Some(lower), Some(upper)) => format!("medians differ by {}", range(lower, upper)),
        (Some(lower), None) => format!("medians differ by {} or more", seconds(lower)),
        (None, Some(upper)) => format!("medians differ by {} or less", seconds(upper)),
        (None, None) => "nothing says by how much medians differ".to_owned(),
    };
    let found = match state {
        GateState::CannotTell => format!("cannot tell: {told}; {NEARER}"),
        _ => told,
    };
    let found = format!("{found} ({of})");
    gate(format!("--equivalent-within {}", format_duration(within)), limit, value, state, found)
}
