//! What a lab says: a table for people, one JSON document for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    activation::Activation,
    cost::Cost,
    options::{Plan, Scenario},
    policy::Switch,
    target::Judged,
    topology::Family,
    verdict::Recorded,
    wire::Exactness,
};

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
}

const HEAD: &str = " run client   switched  window   lower end   upper end      width leaked  holds";

/// The first lines of the table.
pub(crate) fn heading(plan: &Plan, clients: usize, seed: u64) -> String {
    let scenario = format!("{:?}", plan.scenario).to_lowercase();
    let family = if plan.family == Family::V6 { "IPv6" } else { "IPv4" };
    let mut text = format!("{scenario} over {family}, interval {:?}", plan.interval);
    if !plan.rtt.is_zero() {
        let _ = write!(text, ", RTT +{:?}", plan.rtt);
    }
    let _ = writeln!(text, ", {clients} {}, seed {seed}", if clients == 1 { "client" } else { "clients" });
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
        let leaked = measured.probes("leaked");
        format!(
            "{run:4} {client:6} {before:10.6} {window:>7} {lower:>11} {upper:>11} {width:>10} {leaked:6} {holds:>6}"
        )
    } else {
        let [pong, leaked, timeout, sent] =
            ["pong", "leaked", "timeout", "sent"].map(|name| measured.probes(name));
        let outcome = &measured.outcome;
        format!("{run:4} {client:6}  {outcome:15} {pong:5} {leaked:7} {timeout:8} {sent:7} {holds:>12}")
    };
    for fault in &activation.faults {
        let _ = write!(text, "\n             {fault}");
    }
    text
}

/// The lines below the table.
pub(crate) fn summary(facts: &Facts, activations: &[Activation]) -> String {
    let valid: Vec<&Activation> = activations.iter().filter(|activation| !activation.is_void()).collect();
    let good = valid.iter().filter(|activation| activation.faults.is_empty()).count();
    let mut lines: Vec<(&str, String)> = vec![];
    let void = activations.len() - valid.len();
    let voids =
        if void == 0 { String::new() } else { format!(" ({void} void: switch recorded too coarsely)") };
    let switched = valid.iter().any(|activation| activation.switch.is_some());
    let question = if switched { "switch inside the bracket" } else { "as expected" };
    lines.push((question, format!("{good} of {}{voids}", valid.len())));
    if switched {
        let margins: Vec<_> = valid.iter().filter_map(|activation| activation.margins()).collect();
        let spread = |values: Vec<f64>| spread(values, 1e3, "ms");
        lines.push(("bracket width", spread(margins.iter().map(|margins| margins.width).collect())));
        lines
            .push(("lower end before switch", spread(margins.iter().map(|margins| margins.below).collect())));
        lines.push(("upper end after switch", spread(margins.iter().map(|margins| margins.above).collect())));
        lines.push(("switch recorded within", windows(&valid, facts.realtime)));
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
    lines.push(("probes", probes(activations)));
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
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("\n  {name:26} {value}"))
}

fn exactness(wire: &Exactness) -> String {
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
    let total =
        |name: &str| activations.iter().map(|activation| activation.measured.probes(name)).sum::<u64>();
    let outcomes =
        ["pong", "leaked", "timeout", "refused", "unreachable", "garbled", "error", "skipped_ticks"];
    let counts = outcomes.map(|name| (total(name), name.replace('_', " "))).into_iter();
    let counted = counts.filter(|(count, _)| *count > 0).map(|(count, name)| format!(", {count} {name}"));
    format!("{} sent{}", total("sent"), counted.collect::<String>())
}

/// Median, least and most of `values` in the unit that `factor` makes.
fn spread(mut values: Vec<f64>, factor: f64, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let Some((least, most)) = values.first().zip(values.last()) else { return "-".into() };
    let [median, least, most] = [&values[values.len() / 2], least, most].map(|value| value * factor);
    if values.len() == 1 {
        return format!("{median:.3} {unit}");
    }
    format!("median {median:.3} {unit}, {least:.3} to {most:.3}")
}

fn milliseconds(seconds: f64) -> String {
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
        "scenario": format!("{:?}", facts.plan.scenario).to_lowercase(),
        "ipv6": facts.plan.family == Family::V6,
        "interval_seconds": facts.plan.interval.as_secs_f64(),
        "delay_seconds": facts.plan.rtt.as_secs_f64(),
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
    })
}

fn activation_document(activation: &Activation) -> Value {
    let start = activation.measured.start();
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
        "result": activation.document,
    })
}
