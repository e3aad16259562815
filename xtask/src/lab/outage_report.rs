//! What a lab says about outages: a table for people, one JSON document for programs.

use std::fmt::Write;

use egw_probe::document::disruption::Disruption;
use egw_probe::document::held::HoldReport;
use serde_json::{Value, json};

use super::clock::Monotonic;
use super::options::Plan;
use super::outage::Outage;
use super::report::{self, milliseconds, spread};
use super::watched::longest;
use super::wire::Exactness;

const HEAD: &str =
    " run     begins     lasted       lower       upper      width misses kind       held          holds";

/// The first lines of the table.
pub(crate) fn heading(plan: &Plan, seed: u64) -> String {
    let same_ip = if plan.same_ip { " (same egress IP)" } else { "" };
    let title = format!("{}{same_ip}", plan.scenario.name());
    let text = report::title(&title, plan, 1, seed);
    format!(
        "{text}Begin in seconds since the client's start; lengths of the outage, recorded and measured.\n\n{HEAD}"
    )
}

/// One outage as a line of the table, with a further line for each fault.
pub(crate) fn row(outage: &Outage, plan: &Plan) -> String {
    let Outage { run, done, watched, judgement, .. } = outage;
    let begin = done.begin[0].seconds_since(Monotonic::start_of(watched));
    let lasted = milliseconds(done.length()[0]);
    let measured = longest(watched).map_or_else(
        || format!("{:>11} {:>11} {:>10} {:6} {:10}", "-", "-", "-", 0, "none"),
        |Disruption { kind, length_seconds, misses, .. }| {
            let upper = length_seconds.upper.map_or("open".into(), milliseconds);
            let width = judgement.width_seconds.map_or("-".into(), milliseconds);
            format!(
                "{:>11} {upper:>11} {width:>10} {misses:6} {:10}",
                milliseconds(length_seconds.lower),
                kind.name()
            )
        },
    );
    let held = watched.held.as_ref().map_or("-".into(), |HoldReport { lost, stalls, .. }| {
        format!("{} lost, {} st.", lost.len(), stalls.len())
    });
    let holds = if outage.is_void(plan) {
        "void"
    } else if !judgement.faults.is_empty() {
        "NO"
    } else {
        "yes"
    };
    let mut text = format!("{run:4} {begin:10.6} {lasted:>10} {measured} {held:14} {holds:>4}");
    for fault in &judgement.faults {
        let _ = write!(text, "\n             {fault}");
    }
    text
}

/// The lines below the table.
pub(crate) fn summary(plan: &Plan, outages: &[Outage], wire: Option<&Exactness>) -> String {
    let valid: Vec<&Outage> = outages.iter().filter(|outage| !outage.is_void(plan)).collect();
    let count = |is: &dyn Fn(&Outage) -> bool| valid.iter().filter(|outage| is(outage)).count();
    let good = count(&|outage| outage.judgement.faults.is_empty());
    let by_lateness = count(&|outage| outage.judgement.wide_by_lateness);
    let widths = valid.iter().filter_map(|outage| outage.judgement.width_seconds);
    let recorded = |ends: fn(&Outage) -> [Monotonic; 2]| {
        spread(valid.iter().map(|outage| ends(outage)[1].seconds_since(ends(outage)[0])).collect(), 1e6, "us")
    };
    let mut lines = vec![
        ("as expected", format!("{good} of {} ({} void)", valid.len(), outages.len() - valid.len())),
        ("length inside the bracket", format!("{}", count(&|outage| outage.judgement.inside))),
        (
            "true loss inside 95 %",
            format!("{}", count(&|outage| outage.judgement.true_loss_inside == Some(true))),
        ),
        ("bracket width", spread(widths.collect(), 1e3, "ms")),
        ("wide by late ticks", format!("{by_lateness}")),
        ("begin recorded within", recorded(|outage| outage.done.begin)),
        ("end recorded within", recorded(|outage| outage.done.end)),
    ];
    if let Some(wire) = wire {
        lines.push(("delay exact within", report::exactness(wire)));
    }
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("\n  {name:26} {value}"))
}

/// The whole lab as one JSON document.
pub(crate) fn document(plan: &Plan, seed: u64, outages: &[Outage], wire: Option<&Exactness>) -> Value {
    let valid = outages.iter().filter(|outage| !outage.is_void(plan));
    let good = valid.clone().filter(|outage| outage.judgement.faults.is_empty()).count();
    let instants = |ends: [Monotonic; 2]| ends.map(Monotonic::ns);
    let outage = |outage: &Outage| {
        json!({
            "run": outage.run,
            "begin_monotonic_ns": instants(outage.done.begin),
            "end_monotonic_ns": instants(outage.done.end),
            "length_seconds": outage.done.length(),
            "void": outage.is_void(plan),
            "as_expected": outage.judgement.faults.is_empty(),
            "faults": outage.judgement.faults,
            "judgement": outage.judgement,
            "result": outage.document,
        })
    };
    json!({
        "schema": 1,
        "scenario": plan.scenario.name(),
        "same_ip": plan.same_ip,
        "interval_seconds": plan.interval.as_secs_f64(),
        "delay_seconds": plan.delay.as_secs_f64(),
        "disturb": report::names(plan),
        "seed": seed,
        "activations": outages.iter().map(outage).collect::<Vec<_>>(),
        "summary": {
            "valid": valid.clone().count(),
            "as_expected": good,
            "inside": valid.filter(|outage| outage.judgement.inside).count(),
        },
        "wire": wire,
    })
}
