//! Gauges of the run, for a pushgateway, a textfile collector or a backfill: OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), which scrapers of the older text format read, too.

use std::fmt::Write;

use crate::report::data::egress::{Addresses, Seen};
use crate::report::data::run::{Bounds, QUANTILES, Quantile, Report};
use crate::report::write::words;

/// Labels as they are written, and the value.
type Sample = (String, f64);

/// Writes every family with its type, its unit and what it is.
pub(crate) fn page(report: &Report) -> String {
    let mut text = String::new();
    for (name, unit, help, samples) in delays(report).into_iter().chain(counts(report)) {
        if samples.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# TYPE egw_probe_report_{name} gauge");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT egw_probe_report_{name} {unit}");
        }
        let _ = writeln!(text, "# HELP egw_probe_report_{name} {help}");
        for (labels, value) in samples {
            let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
            let _ = writeln!(text, "egw_probe_report_{name}{labels} {value}");
        }
    }
    text + "# EOF\n"
}

type Family = (&'static str, &'static str, &'static str, Vec<Sample>);

fn delays(report: &Report) -> [Family; 3] {
    let run = &report.run;
    let of = |bounds: fn(&Quantile) -> Bounds| {
        let quantiles = run.delay.quantiles.iter().filter_map(move |quantile| {
            let (_, q) = QUANTILES.iter().find(|(name, _)| *name == quantile.name)?;
            Some(ends(&format!("q=\"{q}\","), bounds(quantile)))
        });
        quantiles.flatten().collect()
    };
    [
        (
            "delay_seconds",
            "seconds",
            "Masquerade delay of these very clients lies between these bounds, +Inf where nothing bounds it.",
            of(|quantile| quantile.of_this_run),
        ),
        (
            "delay_confidence_seconds",
            "seconds",
            "The same for clients like these, with 95 % confidence where these are an independent sample.",
            of(|quantile| quantile.confidence),
        ),
        (
            "delay_max_seconds",
            "seconds",
            "Longest masquerade delay.",
            run.delay.max.map_or(vec![], |max| ends("", max).to_vec()),
        ),
    ]
}

/// Both ends, each a sample.
fn ends(labels: &str, bounds: Bounds) -> [Sample; 2] {
    [("lower", bounds.lower_seconds), ("upper", bounds.upper_seconds)]
        .map(|(end, seconds)| (format!("{{{labels}bound=\"{end}\"}}"), seconds.unwrap_or(f64::INFINITY)))
}

fn counts(report: &Report) -> [Family; 9] {
    let run = &report.run;
    let (clients, connections) = (&run.clients, run.leaked_connections);
    let by = |label: &str, counts: &[(&str, u64)]| {
        counts.iter().map(|(value, count)| (format!("{{{label}=\"{value}\"}}"), *count as f64)).collect()
    };
    let outcomes = [
        ("masqueraded", clients.masqueraded),
        ("timed_out", clients.timed_out),
        ("unfinished", clients.unfinished),
    ];
    let kinds: Vec<(&str, u64)> =
        run.disruptions.by_kind.iter().map(|(kind, count)| (*kind, *count)).collect();
    let loss = run.loss.map_or(vec![], |loss| {
        let share = loss.by_chance;
        let ends = [("estimate", share.share), ("lower", share.low), ("upper", share.high)];
        ends.map(|(end, share)| (format!("{{bound=\"{end}\"}}"), share)).to_vec()
    });
    let gates = report.gates.iter();
    let gates = gates.map(|gate| (format!("{{gate=\"{}\"}}", gate.gate), f64::from(u8::from(gate.passed))));
    [
        ("clients", "", "Clients by what became of them.", by("outcome", &outcomes)),
        ("leaked_clients", "", "Clients of which a probe leaked.", one(clients.leaked)),
        ("leaked_probes", "", "Probes that leaked.", one(words::leaked_probes(run))),
        (
            "leaked_connections",
            "",
            "Connections that leaked.",
            by("phase", &[("stress", connections.stress), ("held", connections.held)]),
        ),
        (
            "leaked_from_probes",
            "",
            "Leaked probes by the address that the target saw.",
            addresses(&run.leaked_from),
        ),
        ("egress_ip_pongs", "", "Pongs by egress IP.", addresses(&run.egress_ips)),
        ("disruptions", "", "Disruptions after the winner by kind.", by("kind", &kinds)),
        (
            "loss_ratio",
            "ratio",
            "Share of probes after the winner lost by chance, with its 95 % confidence.",
            loss,
        ),
        ("gate_passed", "", "1 if the gate was kept, else 0.", gates.collect()),
    ]
}

fn one(count: u64) -> Vec<Sample> {
    vec![(String::new(), count as f64)]
}

fn addresses(told: &Addresses) -> Vec<Sample> {
    let sample = |seen: &Seen| (format!("{{address=\"{}\"}}", seen.address), seen.probes as f64);
    told.addresses.iter().map(sample).collect()
}
