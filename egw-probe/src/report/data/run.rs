//! What a report says of a run: plain data, the form of `--output json`. Every other output is written from it, too.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::document::outcome::Outcome;
use crate::report::data::egress::{Addresses, LeakedConnections, Loss};
use crate::report::data::interval::Interval;

/// Quantiles of the delay that are told.
pub(crate) const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];
/// Two runs differ if chance alone brings about as much of a difference once in so many times at most.
pub(crate) const SIGNIFICANCE: f64 = 0.01;

/// The methods, as they are named wherever their results stand.
pub(crate) const METHODS: [&str; 4] = [
    "Estimate: Turnbull's NPMLE for interval-censored data (Peto 1973, Turnbull 1976; EM-ICM: Wellner and Zhan 1997). It is itself \
     a bracket: nothing says where inside the delay lies. A client that timed out is later than everything.",
    "95 % confidence: binomial order-statistic bounds (Conover; Hahn and Meeker), the lower one from lower ends, the upper one from \
     upper ends of the brackets; valid for any distribution and any censoring.",
    "Where more than 1 in 20 clients have no lower end (nothing leaked before they were masqueraded), their likelihood says nothing, and \
     quantiles are those of the upper ends, 'up to', with 95 % confidence for quantiles of upper ends.",
    "Gates judge this run's own quantile at the upper end of its bracket: no reading of the brackets is worse.",
];

/// The whole report.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub(crate) struct Report {
    /// Version of this form: 1; grows only by adding keys.
    pub report_schema: u32,
    /// Version of the program.
    pub version: &'static str,
    /// The run.
    pub run: Run,
    /// The one that it is compared with.
    pub compared_with: Option<Run>,
    /// How they differ.
    pub comparison: Option<Comparison>,
    /// Limits, and whether they were kept.
    pub gates: Vec<Gate>,
    /// How the numbers were found.
    pub methods: [&'static str; 4],
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Clients by what became of them.
    pub clients: Clients,
    /// Probes of all clients, by outcome.
    pub probes: BTreeMap<&'static str, u64>,
    /// The delays.
    pub delay: Delay,
    /// How long clients leaked; null if no timeline tells.
    pub leak: Option<Times>,
    /// How long clients got no answer.
    pub blackhole: Times,
    /// Connections that targets denied, of stress tests and of those that were to be held.
    pub leaked_connections: LeakedConnections,
    /// Addresses that probes leaked from, as annotating targets saw them.
    pub leaked_from: Addresses,
    /// Egress IPs that pongs came by.
    pub egress_ips: Addresses,
    /// What watches lost; null without one.
    pub loss: Option<Loss>,
    /// What watches saw.
    pub disruptions: Disruptions,
    /// The clients that fared worst, the worst first.
    pub worst: Vec<Worst>,
    /// What targets saw of sources.
    pub sources: Option<Sources>,
    /// How many results were produced by which settings.
    pub settings: BTreeMap<String, u64>,
    /// First and last start of a client, RFC 3339.
    pub started: Option<[String; 2]>,
    /// What was read and what not.
    pub read: Read,
    /// What to keep in mind, one line each.
    pub notes: Vec<String>,
}

/// Clients by what became of them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Clients {
    pub total: u64,
    /// Names among them.
    pub distinct: u64,
    pub masqueraded: u64,
    pub timed_out: u64,
    /// Interrupted, or still under way.
    pub unfinished: u64,
    /// Of all, those of which a probe leaked.
    pub leaked: u64,
    /// Of all, those that got no answer for a time before they were masqueraded.
    pub blackholed: u64,
    /// Of all, those with a disruption after it.
    pub disrupted: u64,
}

/// Two bounds, seconds. A null lower end: later than everything. A null upper end: unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    pub lower_seconds: Option<f64>,
    pub upper_seconds: Option<f64>,
}

impl From<Interval> for Bounds {
    fn from(interval: Interval) -> Self {
        Self {
            lower_seconds: (!interval.is_never()).then_some(interval.lower.max(0.0)),
            upper_seconds: interval.upper.is_finite().then_some(interval.upper),
        }
    }
}

/// What estimate, confidence and distribution of the delays are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Brackets: Turnbull's estimate.
    Brackets,
    /// Upper ends alone, because too many lower ends are missing: delays are these at most.
    UpperEnds,
}

/// The delays of all clients.
#[derive(Debug, Serialize)]
pub struct Delay {
    /// What estimate, confidence and distribution are of.
    pub basis: Basis,
    /// Clients that were masqueraded before anything of theirs leaked: nothing says how much earlier they could have been.
    pub without_lower_end: u64,
    /// p50 to p99.
    pub quantiles: Vec<Quantile>,
    /// The longest delay. With clients that timed out it is later than everything; null without clients.
    pub max: Option<Bounds>,
    /// The longest delay that is known to have ended, where `max` is not.
    pub longest_known: Option<Bounds>,
    /// Steps of the estimated distribution, thinned out where there are more than can be drawn.
    pub distribution: Vec<DistributionStep>,
    /// Steps before thinning out.
    pub steps: usize,
    /// Iterations of the estimate.
    pub iterations: u32,
    /// By how much, in log-likelihood, another distribution could be likelier at most.
    pub likelihood_gap: f64,
}

/// One quantile of the delay.
#[derive(Debug, Serialize)]
pub struct Quantile {
    /// `p50` and so on.
    pub name: &'static str,
    /// The estimate, for clients like these.
    pub estimate: Bounds,
    /// Bounds with 95 % confidence, for clients like these.
    pub confidence: Bounds,
    /// Bounds for this run's own quantile, for certain.
    pub of_this_run: Bounds,
}

/// A step of the distribution.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DistributionStep {
    #[serde(flatten)]
    pub within: Bounds,
    pub cumulative: f64,
}

/// How long something lasted, over clients.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Times {
    /// Clients of which it is known.
    pub clients: u64,
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub max_seconds: f64,
    pub total_seconds: f64,
}

/// Disruptions after the winner.
#[derive(Debug, Default, Serialize)]
pub struct Disruptions {
    /// All.
    pub total: u64,
    /// By kind.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Those without an end.
    pub open: u64,
    /// Those of which only the number is known.
    pub without_length: u64,
    /// The longest ones.
    pub longest: Vec<LongDisruption>,
}

/// A disruption by name.
#[derive(Debug, Serialize)]
pub struct LongDisruption {
    pub client_id: String,
    pub kind: &'static str,
    pub start_seconds: f64,
    pub length: Bounds,
    pub misses: u64,
}

/// A client by name.
#[derive(Debug, Serialize)]
pub struct Worst {
    pub client_id: String,
    pub outcome: &'static str,
    pub delay: Bounds,
    pub leaked_probes: u64,
    pub leak_seconds: Option<f64>,
    pub blackhole_seconds: f64,
    pub disruptions: u64,
}

/// What targets saw of sources.
#[derive(Debug, Serialize)]
pub struct Sources {
    pub allowed_connections: u64,
    pub denied_connections: u64,
    /// Addresses outside the CIDRs with the connections from each, most first.
    pub denied_from: Vec<(String, u64)>,
    pub allowed_syns: Option<u64>,
    pub denied_syns: Option<u64>,
}

/// What was read and what not.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub struct Read {
    pub results: u64,
    /// The same result once more: counted once.
    pub read_again: u64,
    /// Lines of our own log among the documents.
    pub log_lines: u64,
    pub skipped: u64,
    pub skipped_by_kind: BTreeMap<&'static str, u64>,
    /// The first of them by name.
    pub skipped_documents: Vec<SkippedDocument>,
}

/// Something that was not read.
#[derive(Debug, Serialize)]
pub struct SkippedDocument {
    pub place: String,
    pub reason: String,
}

impl Run {
    /// Probes of one outcome.
    pub fn probes_of(&self, outcome: Outcome) -> u64 {
        self.probes.get(outcome.name()).copied().unwrap_or(0)
    }
}

impl Delay {
    /// The quantile of this name.
    pub fn quantile(&self, name: &str) -> Option<&Quantile> {
        self.quantiles.iter().find(|quantile| quantile.name == name)
    }
}

/// What came of a comparison: how this run (the other one first) differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The method, and why that one.
    pub method: &'static str,
    /// Whether they differ beyond noise; null if a run has no client.
    pub differ: Option<bool>,
    /// How often chance alone brings about a difference as large.
    pub p_value: f64,
    /// Shuffles that this is known from.
    pub shuffles: u32,
    /// How much likelier a client of this run is to be later than one of the other than the reverse: -1 to 1.
    pub later: f64,
    /// This run's median less that of the other, as far as either is known.
    pub median_difference: Bounds,
    /// The same for all clients that could have been, with 95 % confidence.
    pub median_difference_confidence: Bounds,
}

/// A limit, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub(crate) struct Gate {
    /// The flag with its value.
    pub gate: String,
    /// Whether it was kept.
    pub passed: bool,
    /// What was found.
    pub found: String,
}
