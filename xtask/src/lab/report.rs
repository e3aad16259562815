//! What a lab says: a table for people, one JSON document for programs.

use std::fmt::Write;

use clap::ValueEnum as _;
use egw_probe::document::outcome::Outcome;
use egw_probe::document::result::ProbeCounts;
use serde_json::{Value, json};

use super::account::Account;
use super::activation::Activation;
use super::addresses::Family;
use super::clock::Monotonic;
use super::cost::Cost;
use super::disturbance::Disturb;
use super::observed::Observed;
use super::options::{Plan, Scenario};
use super::policy::Switch;
use super::target::Judged;
use super::verdict::Recorded;
use super::wire::Exactness;

/// Everything the report tells, beside the activations.
pub(crate) struct Facts<'lab> {
    pub(crate) plan: &'lab Plan,
    pub(crate) clients: usize,
    pub(crate) seed: u64,
    /// Whether the policy thread had real-time priority.
    pub(crate) realtime: bool,
    pub(crate) judged: Judged,
    pub(crate) sources: Value,
    pub(crate) wire: Option<Exactness>,
    pub(crate) cost: Cost,
    /// What the comparison with the target's kernel side found.
    pub(crate) observed: Option<Observed>,
}

const HEAD: &str = " run client   switched  window   lower end   upper end      width leaked  holds";

/// What is measured, in one line.
pub(crate) fn title(scenario: &str, plan: &Plan, clients: usize, seed: u64) -> String {
    let family = if plan.family == Family::V6 { "IPv6" } else { "IPv4" };
    let family =
        plan.target_name.as_ref().map_or(family.into(), |name| format!("whatever {name} resolves to"));
    let mut text = format!("{scenario} over {family}, NAT {:?}, interval {:?}", plan.nat, plan.interval);
    if !plan.delay.is_zero() {
        let _ = write!(text, ", RTT +{:?}", plan.delay);
    }
    if !plan.disturb.is_empty() {
        let _ = write!(text, ", disturbed by {}", names(plan).join(", "));
    }
    let _ = writeln!(text, ", {clients} {}, seed {seed}", if clients == 1 { "client" } else { "clients" });
    text
}

/// What disturbs, as the user gives it.
pub(crate) fn names(plan: &Plan) -> Vec<String> {
    let name = |what: &Disturb| {
        let name = what.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        if *what == Disturb::Loss { format!("{name} ({} %)", plan.loss_percent) } else { name }
    };
    plan.disturb.iter().map(name).collect()
}

/// The first lines of the table.
pub(crate) fn heading(plan: &Plan, clients: usize, seed: u64) -> String {
    let mut text = title(&plan.scenario.name(), plan, clients, seed);
    text += "Times in seconds since the client's start; bracket ends relative to the switch.\n\n";
    if matches!(plan.scenario, Scenario::Masquerade | Scenario::Blackhole) {
        text += HEAD;
    } else {
        text += " run client  outcome          pong  leaked  timeout    sent  as expected";
    }
    text
}

/// One activation of one client as a line of the table, with a further line for each fault.
pub(crate) fn row(activation: &Activation) -> String {
    let Activation { run, pod, measured, .. } = activation;
    let client = pod + 1;
    let holds = if activation.is_void() {
        "void"
    } else if activation.faults.is_empty() {
        "yes"
    } else {
        "NO"
    };
    let mut text = if let Some(Recorded { before, after }) = activation.recorded() {
        let end = |end: Option<f64>, switch: f64| {
            end.map_or("none".into(), |end| format!("{:+.3} ms", (end - switch) * 1e3))
        };
        let lower = end(measured.bracket.lower_seconds, before);
        let upper = end(measured.bracket.upper_seconds, after);
        let width = activation.margins().map_or("-".into(), |margins| milliseconds(margins.width));
        let window = format!("{:.1} us", (after - before) * 1e6);
        let leaked = measured.probes.leaked;
        format!(
            "{run:4} {client:6} {before:10.6} {window:>7} {lower:>11} {upper:>11} {width:>10} {leaked:6} {holds:>6}"
        )
    } else {
        let ProbeCounts { pong, leaked, timeout, sent, .. } = measured.probes;
        let outcome = measured.outcome.name();
        format!("{run:4} {client:6}  {outcome:15} {pong:5} {leaked:7} {timeout:8} {sent:7} {holds:>12}")
    };
    if let Some(Account { left, vanished, outside, inside, cut, .. }) = activation.account {
        let _ = write!(
            text,
            "\n             SYNs: {left} left the Pod = {inside} reached the target from inside + {outside} from \
             outside\n             + {vanished} vanished + {cut} in flight at the switch; captures dropped nothing"
        );
    }
    for fault in &activation.faults {
        let _ = write!(text, "\n             {fault}");
    }
    text
}

/// The lines below the table.
pub(crate) fn summary(facts: &Facts, activations: &[Activation]) -> String {
    let valid: Vec<&Activation> = activations.iter().filter(|activation| !activation.is_void()).collect();
    let good = valid.iter().filter(|activation| activation.faults.is_empty()).count();
    let void = activations.len() - valid.len();
    let voids = if void == 0 {
        String::new()
    } else {
        format!(" ({void} void: switch recorded too coarsely, or client up too late)")
    };
    let switched = valid.iter().any(|activation| activation.switch.is_some());
    let question = if switched { "switch inside the bracket" } else { "as expected" };
    let mut lines = vec![(question, format!("{good} of {}{voids}", valid.len()))];
    lines.extend(measured_lines(facts, &valid, switched));
    lines.push(("probes", probes(activations)));
    lines.extend(accounts(activations));
    lines.push((
        "connections at the target",
        format!("{} allowed, {} denied", facts.judged.allowed, facts.judged.denied),
    ));
    if let Some(wire) = &facts.wire {
        lines.push(("delay exact within", exactness(wire)));
        lines.push(("frames delayed", format!("{}, {} dropped", wire.frames, wire.dropped)));
    }
    let mut cost = format!("{:.2} s of CPU", facts.cost.client_cpu_seconds);
    if facts.clients > 1 {
        let _ = write!(cost, ", {:.0} MB of memory at the most", facts.cost.memory_bytes as f64 / 1e6);
    }
    lines.push(("clients took", cost));
    if let Some(observed) = &facts.observed {
        lines.extend(observed_lines(observed));
    }
    let text =
        lines.iter().fold(String::new(), |text, (name, value)| text + &format!("\n  {name:26} {value}"));
    let faults = facts.observed.iter().flat_map(|observed| &observed.faults);
    faults.fold(text, |text, fault| text + &format!("\n  WRONG: {fault}"))
}

/// What valid measurements say of the policy.
fn measured_lines(facts: &Facts, valid: &[&Activation], switched: bool) -> Vec<(&'static str, String)> {
    let mut lines = vec![];
    if switched {
        let margins: Vec<_> = valid.iter().filter_map(|activation| activation.margins()).collect();
        let spread = |values: Vec<f64>| spread(values, 1e3, "ms");
        lines.push(("bracket width", spread(margins.iter().map(|margins| margins.width).collect())));
        lines
            .push(("lower end before switch", spread(margins.iter().map(|margins| margins.below).collect())));
        lines.push(("upper end after switch", spread(margins.iter().map(|margins| margins.above).collect())));
        lines.push(("switch recorded within", windows(valid, facts.realtime)));
    }
    let delays: Vec<f64> = valid.iter().filter_map(|a| a.measured.masquerade_delay_seconds).collect();
    if !delays.is_empty() {
        lines.push(("masquerade delay", spread(delays, 1e3, "ms")));
    }
    if facts.plan.scenario == Scenario::Blackhole {
        let off = |activation: &&Activation| {
            let done = activation.switch?.before.seconds_since(activation.dropped?.before);
            Some(activation.measured.blackhole_seconds - done)
        };
        lines.push(("blackhole, measured - done", spread(valid.iter().filter_map(off).collect(), 1e3, "ms")));
    }
    let weak = valid.iter().filter(|activation| !activation.measured.warnings.is_empty()).count();
    if weak > 0 {
        let silent = |one: &&&Activation| !one.faults.is_empty() && one.measured.warnings.is_empty();
        let silent = valid.iter().filter(silent).count();
        lines.push((
            "called weak by the client",
            format!("{weak} of {}; {silent} went wrong and were not", valid.len()),
        ));
    }
    lines
}

/// Timeouts and leaks, set against what was captured.
fn accounts(activations: &[Activation]) -> Option<(&'static str, String)> {
    let accounts: Vec<Account> = activations.iter().filter_map(|activation| activation.account).collect();
    let sum = |part: fn(&Account) -> u64| accounts.iter().map(part).sum::<u64>();
    let [vanished, cut, outside] = [sum(|a| a.vanished), sum(|a| a.cut), sum(|a| a.outside)];
    let text = format!(
        "{vanished} vanished + {cut} cut in flight = timeouts and silent, {outside} from outside = leaked"
    );
    (!accounts.is_empty()).then_some(("SYNs captured", text))
}

fn observed_lines(observed: &Observed) -> Vec<(&'static str, String)> {
    let Observed { stamps, .. } = observed;
    let us = |seconds: f64| seconds * 1e6;
    let mut lines = vec![
        (
            "SYNs captured, counted",
            format!(
                "allowed {} = {}, denied {} = {}; by {}, {} events lost",
                observed.captured_allowed,
                observed.counted_allowed,
                observed.captured_denied,
                observed.counted_denied,
                observed.mode,
                observed.events_lost
            ),
        ),
        (
            "stamp less capture's",
            format!(
                "{} stamps ({} of replies, {} untold): {:.1} us (p50), {:.1} (p99), {:.1} (max); {:+.1} to {:+.1}; clock +-{:.2}",
                stamps.of_records + stamps.of_replies,
                stamps.of_replies,
                stamps.untold,
                us(stamps.error_p50_seconds),
                us(stamps.error_p99_seconds),
                us(stamps.error_max_seconds),
                us(stamps.least_seconds),
                us(stamps.greatest_seconds),
                us(stamps.capture_clock_error_seconds)
            ),
        ),
    ];
    if observed.brackets > 0 {
        lines.push((
            "in the target's bracket",
            format!(
                "{} of {} ({} uncorrected), median width {}; {} overlap the client's",
                observed.brackets_hold,
                observed.brackets,
                observed.brackets_uncorrected,
                observed.bracket_width_median_seconds.map_or("-".into(), milliseconds),
                observed.brackets_overlap
            ),
        ));
    }
    if let Some(half_open) = observed.half_open_denied {
        lines.push(("half-open, denied", format!("{half_open} of {} SYNs", observed.captured_denied)));
    }
    lines
}

pub(crate) fn exactness(wire: &Exactness) -> String {
    let [p50, p99, max] =
        [wire.error_p50_seconds, wire.error_p99_seconds, wire.error_max_seconds].map(|error| error * 1e3);
    format!("{p50:.3} ms (p50), {p99:.3} (p99), {max:.3} (max)")
}

fn windows(valid: &[&Activation], realtime: bool) -> String {
    let window = |switch: Switch| switch.after.seconds_since(switch.before);
    let windows = valid.iter().filter_map(|activation| activation.switch.map(window)).collect();
    spread(windows, 1e6, "us") + if realtime { "" } else { ", no real-time priority" }
}

fn probes(activations: &[Activation]) -> String {
    let total = |count: &dyn Fn(&ProbeCounts) -> u64| -> u64 {
        activations.iter().map(|activation| count(&activation.measured.probes)).sum()
    };
    let by_outcome = Outcome::ALL.map(|outcome| (total(&|probes| probes.of(outcome)), outcome.name()));
    let skipped = (total(&|probes| probes.skipped_ticks), "skipped ticks");
    let counted = by_outcome.into_iter().chain([skipped]).filter(|(count, _)| *count > 0);
    let sent = format!("{} sent", total(&|probes| probes.sent));
    counted.fold(sent, |text, (count, name)| format!("{text}, {count} {name}"))
}

/// Median, least and most of `values` in the unit that `factor` makes.
pub(crate) fn spread(mut values: Vec<f64>, factor: f64, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let Some((least, most)) = values.first().zip(values.last()) else { return "-".into() };
    let [median, least, most] = [&values[values.len() / 2], least, most].map(|value| value * factor);
    if values.len() == 1 {
        return format!("{median:.3} {unit}");
    }
    format!("median {median:.3} {unit}, {least:.3} to {most:.3}")
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

/// The whole lab as one JSON document.
pub(crate) fn document(facts: &Facts, activations: &[Activation]) -> Value {
    let valid = activations.iter().filter(|activation| !activation.is_void());
    let good = valid.clone().filter(|activation| activation.faults.is_empty()).count();
    let mut widths: Vec<f64> =
        valid.clone().filter_map(Activation::margins).map(|margins| margins.width).collect();
    widths.sort_by(f64::total_cmp);
    json!({
        "schema": 1,
        "scenario": facts.plan.scenario.name(),
        "ipv6": facts.plan.family == Family::V6,
        "interval_seconds": facts.plan.interval.as_secs_f64(),
        "delay_seconds": facts.plan.delay.as_secs_f64(),
        "disturb": names(facts.plan),
        "clients": facts.clients,
        "seed": facts.seed,
        "realtime_switch": facts.realtime,
        "activations": activations.iter().map(activation_document).collect::<Vec<_>>(),
        "summary": {
            "valid": valid.count(),
            "as_expected": good,
            "width_median_seconds": widths.get(widths.len() / 2),
            "width_max_seconds": widths.last(),
        },
        "target": { "connections": facts.judged, "sources": facts.sources },
        "wire": facts.wire,
        "cost": facts.cost,
        "observed": facts.observed,
    })
}

fn activation_document(activation: &Activation) -> Value {
    let start = Monotonic::start_of(&activation.measured);
    let switch = |switch: Switch| {
        json!({
            "before_monotonic_ns": switch.before.ns(),
            "after_monotonic_ns": switch.after.ns(),
            "before_seconds": switch.before.seconds_since(start),
            "after_seconds": switch.after.seconds_since(start),
        })
    };
    json!({
        "run": activation.run,
        "client": activation.pod + 1,
        "dropped": activation.dropped.map(switch),
        "switch": activation.switch.map(switch),
        "void": activation.is_void(),
        "as_expected": activation.faults.is_empty(),
        "faults": activation.faults,
        "below_seconds": activation.margins().map(|margins| margins.below),
        "above_seconds": activation.margins().map(|margins| margins.above),
        "tag": activation.tag,
        "account": activation.account,
        "result": activation.document,
    })
}
