//! For charts over commits: `customSmallerIsBetter` of <https://github.com/benchmark-action/github-action-benchmark>.

use serde::Serialize;

use crate::report::data::run::{Bounds, Report, Run};
use crate::report::write::words;

#[derive(Serialize)]
struct Entry {
    name: String,
    unit: &'static str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<String>,
    extra: String,
}

/// Writes the figures of the run, each at the end that is worse. What has no number, as a quantile that was never reached, is left out:
/// the clients that were not masqueraded tell.
pub(crate) fn json(report: &Report) -> serde_json::Result<String> {
    let clients = words::clients(report.run.clients.total);
    let extra = format!("egw-probe report {}, {clients}", report.version);
    let entry = |(name, unit, value, range)| Entry { name, unit, value, range, extra: extra.clone() };
    // Nothing was measured: no point of a chart.
    let measured = if report.run.clients.total > 0 { figures(&report.run) } else { vec![] };
    let entries: Vec<Entry> = measured.into_iter().map(entry).collect();
    Ok(serde_json::to_string_pretty(&entries)? + "\n")
}

type Figure = (String, &'static str, f64, Option<String>);

fn figures(run: &Run) -> Vec<Figure> {
    let quantiles = run.delay.quantiles.iter().map(|quantile| (quantile.name, quantile.of_this_run));
    let delays = quantiles.chain(run.delay.max.map(|max| ("max", max))).filter_map(|(name, bounds)| {
        let Bounds { lower_seconds, upper_seconds } = bounds;
        let (lower, upper) = (lower_seconds?, upper_seconds?);
        Some((format!("delay {name}"), "s", upper, Some(format!("{lower} to {upper}"))))
    });
    let count = |name: &str, unit, count: u64| (name.to_owned(), unit, count as f64, None);
    let counts = [
        count("clients not masqueraded", "clients", run.clients.timed_out + run.clients.unfinished),
        count("leaked probes", "probes", words::leaked_probes(run)),
        count("leaked connections", "connections", run.leaked_connections.total()),
        count("disruptions", "disruptions", run.disruptions.total),
    ];
    let lost = run.loss.map(|loss| {
        let [share, low, high] =
            [loss.by_chance.share, loss.by_chance.low, loss.by_chance.high].map(|share| share * 100.0);
        ("probes lost by chance".to_owned(), "%", share, Some(format!("{low:.3} to {high:.3}")))
    });
    delays.chain(counts).chain(lost).collect()
}
