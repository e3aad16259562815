//! What a report says of a run: plain data, the form of `--output json`. Every other output is written from it, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::outcome::Outcome;
use crate::report::data::egress::{Addresses, LeakedConnections, Loss};
use crate::report::data::interval::Interval;

/// Quantiles of the delay that are told.
pub(crate) const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];
/// Two runs differ if chance alone brings about as much of a difference once in so many times at most.
pub(crate) const SIGNIFICANCE: f64 = 0.01;

/// What settings beyond those that are kept by name are called.
pub(crate) const OTHER_SETTINGS: &str = "others";

/// The methods, as they are named wherever their results stand.
pub(crate) const METHODS: [&str; 4] = [
    "Of these clients: the quantile's rank among all lower ends and among all upper ends of the brackets. Whatever the delays were, \
     theirs lies between. A client that timed out is later than its test timeout, one under way later than its last probe.",
    "95 % confidence: binomial order-statistic bounds (Conover; Hahn and Meeker), the lower one from lower ends, the upper one from \
     upper ends; valid for any distribution and any censoring, where clients are an independent sample.",
    "Where every client names its node, nodes are drawn again with all of their clients (cluster bootstrap; expanded percentiles: Hesterberg \
     2015), and nodes are exchanged in comparisons.",
    "Gates judge these very clients: passed or failed is what holds wherever in their brackets the delays were; where that depends, they \
     cannot tell, and fail.",
];

/// The whole report.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub(crate) struct Report {
    /// Version of this form: 2; grows only by adding keys.
    pub report_schema: u32,
    /// Version of the program.
    pub version: &'static str,
    /// The run.
    pub run: Run,
    /// The one that it is compared with: the last that `--compare` names.
    pub compared_with: Option<Run>,
    /// How they differ.
    pub comparison: Option<Comparison>,
    /// Of several that `--compare` names, all, in that order.
    pub trend: Vec<TrendPoint>,
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
    /// Known from an earlier report alone: of leaks, losses and disruptions it keeps nothing.
    pub of_report: bool,
    /// Nodes that clients are on; null unless all of them name theirs. Then confidence is that of a sample of nodes.
    pub nodes: Option<usize>,
    /// Clients in groups, where that was asked for.
    pub by: Option<Groups>,
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
    /// When ticks were; null where no result tells.
    pub ticks: Option<Ticks>,
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

/// Two bounds, seconds; null where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    /// Later than this.
    pub lower_seconds: Option<f64>,
    /// Not later than this.
    pub upper_seconds: Option<f64>,
}

impl From<Interval> for Bounds {
    fn from(interval: Interval) -> Self {
        Self {
            lower_seconds: Some(interval.lower.max(0.0)),
            upper_seconds: interval.upper.is_finite().then_some(interval.upper),
        }
    }
}

/// The delays of all clients.
#[derive(Debug, Serialize)]
pub struct Delay {
    /// Clients that were masqueraded before anything of theirs leaked: nothing says how much earlier they could have been.
    pub without_lower_end: u64,
    /// p50 to p99.
    pub quantiles: Vec<Quantile>,
    /// The longest delay; without an upper end where a client never got through, null without clients.
    pub max: Option<Bounds>,
    /// The longest delay that is known to have ended, where `max` is not.
    pub longest_known: Option<Bounds>,
    /// Where the delay lies that a share of these very clients does not exceed: the distribution functions of lower ends and of upper
    /// ends, at some of their ranks where there are more than can be drawn.
    pub distribution: Vec<DistributionStep>,
    /// All brackets, a line each (`LOWER UPPER CLIENTS OUTCOME [NODE]`): what a later `--compare` needs. Of the run itself, in JSON.
    pub brackets: Vec<String>,
}

/// One quantile of the delay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantile {
    /// `p50` and so on.
    pub name: &'static str,
    /// Bounds for this run's own quantile, for certain.
    pub of_this_run: Bounds,
    /// Bounds with 95 % confidence, where these clients are an independent sample.
    pub confidence: Bounds,
}

/// Clients in groups.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub struct Groups {
    /// The label whose values they have.
    pub label: String,
    /// Groups in all.
    pub total: usize,
    /// The slowest ones, those with the latest p95 first.
    pub groups: Vec<Group>,
}

/// Clients with one value of a label.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The value; null of clients without the label.
    pub value: Option<String>,
    pub clients: Clients,
    pub quantiles: Vec<Quantile>,
}

/// A point of both distribution functions.
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

/// When the ticks of clients were, seconds from each one's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ticks {
    /// Clients that tell.
    pub clients: u64,
    /// Their phases: from the least to the most.
    pub least_phase_seconds: f64,
    pub most_phase_seconds: f64,
    /// When their first probes left, on average.
    pub first_probe_seconds: f64,
}

impl Ticks {
    /// Adds one client's.
    pub(crate) fn add(&mut self, phase: f64, first_probe: f64) {
        let first = self.clients == 0;
        self.clients += 1;
        self.least_phase_seconds = if first { phase } else { self.least_phase_seconds.min(phase) };
        self.most_phase_seconds = self.most_phase_seconds.max(phase);
        self.first_probe_seconds += (first_probe - self.first_probe_seconds) / self.clients as f64;
    }
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
    /// Lines of other programs among them.
    pub foreign_lines: u64,
    /// What a report wrote: passed over.
    pub reports: u64,
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

/// What came of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Beyond noise.
    Differ,
    /// Within what chance makes.
    NoDifferenceSeen,
    /// No difference, however large, could have been told from chance.
    TooFewClients,
    /// The runs were not measured in the same way.
    NotComparable,
    /// A run has no client.
    NothingToCompare,
}

/// How this run differs from the other one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// In a word.
    pub found: Found,
    /// Whether they differ beyond noise; null where that cannot be told.
    pub differ: Option<bool>,
    /// How often chance alone makes as much of a difference in any of the tests.
    pub p_value: f64,
    /// Each test.
    pub tests: Vec<Test>,
    /// Shuffles that p-values are known from.
    pub shuffles: u32,
    /// How much likelier a client of this run is to be later than one of the other than the reverse: -1 to 1.
    pub later: f64,
    /// What settings differ in, one line each.
    pub settings: Vec<String>,
    /// Nodes of this run and of the other; null unless all clients of both name theirs, and each counts by itself.
    pub nodes: Option<[usize; 2]>,
    /// This run's quantiles less those of the other.
    pub quantiles: Vec<QuantileDifference>,
    /// A shift of all delays that these runs would have shown four times in five; null where none would.
    pub detectable_seconds: Option<f64>,
    /// A share of clients that fail in one run alone which would have been seen as often; null where none would.
    pub detectable_failures: Option<f64>,
}

/// An earlier run, and how this one differs from it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrendPoint {
    /// The input.
    pub name: String,
    /// Its clients.
    pub clients: Clients,
    /// Its quantiles.
    pub quantiles: Vec<Quantile>,
    /// How the run differs from it, in a word.
    pub found: Found,
    pub p_value: f64,
    /// Documents of it that could not be read.
    pub skipped: u64,
    /// The run's quantiles less these.
    pub differences: Vec<QuantileDifference>,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Test {
    /// Of what: `delays`, `tail` or `failures`.
    pub of: &'static str,
    pub p_value: f64,
    /// The method.
    pub method: &'static str,
}

/// This run's quantile less that of the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantileDifference {
    /// `p50` and so on.
    pub name: &'static str,
    /// Of the delay, wherever in its brackets.
    #[serde(flatten)]
    pub delay: Difference,
    /// Of the brackets' upper ends: when clients were first seen to be masqueraded. Null where the runs did not probe alike.
    pub upper_ends: Option<Difference>,
}

/// A difference as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Of these very clients, for certain.
    pub of_these_runs: Bounds,
    /// With 95 % confidence, where clients (or nodes) are an independent sample.
    pub confidence: Bounds,
    /// It is later by so much at least, and by so much at most: each with 95 % confidence by itself.
    pub one_sided: Bounds,
}

/// Whether a limit was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GateState {
    /// Wherever in their brackets the delays were.
    Kept,
    /// Broken, wherever they were.
    Failed,
    /// That depends on where they were.
    CannotTell,
}

/// A limit, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub(crate) struct Gate {
    /// The flag with its value.
    pub gate: String,
    /// Whether it is known to be kept.
    pub passed: bool,
    /// The same in three states.
    pub state: GateState,
    /// The limit: seconds, or a count.
    pub limit: f64,
    /// What is limited lies between these; null where there is no bound.
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    /// What was found.
    pub found: String,
}
