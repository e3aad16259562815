//! From one document to what a report needs of it, or to the reason why it is not read. Pure.
//!
//! What is required of a result is what every version of schema 1 has; keys of later ones may be missing or new.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::document::disruption::{Disruption, ProbeLoss};
use crate::document::egress::{EgressIp, LeakSource};
use crate::document::go;
use crate::document::outcome::Outcome;
use crate::document::result::{BracketSeconds, ProbeCounts, TestOutcome, TimelineRun};
use crate::document::sources::{Rest, Unlisted};
use crate::report::data::client::{ClientResult, Reading, Verdict, WatchedDisruption};
use crate::report::data::egress;
use crate::report::data::interval::Interval;
use crate::report::read::baseline::{self, Baseline, Unusable, WireRun};
use crate::report::read::log_line::{is_foreign_json, is_own_json};

/// The newest form of result documents that is understood.
const SCHEMA: u64 = 1;

/// Why a document is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No JSON, or a result that contradicts itself.
    #[error("damaged: {0}")]
    Damaged(String),
    /// It ends too early.
    #[error("truncated")]
    Truncated,
    /// Nothing that this program writes.
    #[error("foreign: {0}")]
    Foreign(&'static str),
    /// Of a later form.
    #[error("newer: schema {0}, and this program knows {SCHEMA}: read it with a newer egw-probe")]
    Newer(u64),
    /// Could not be fetched or opened.
    #[error("unreadable: {0}")]
    Unreadable(String),
}

impl Refusal {
    /// The kind's name, by which refusals are counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Truncated => "truncated",
            Self::Foreign(_) => "foreign",
            Self::Newer(_) => "newer",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// What a document turned out to be.
#[derive(Debug)]
pub enum Found {
    /// One client's result.
    Client(Box<Reading>),
    /// What a target knows of its clients by their tags (`/clients`).
    Tags(Vec<TagTimeline>),
    /// A line of our own log (`--log-format json`), as `kubectl logs` mixes it in.
    LogLine,
    /// A line of another program's log, as JSON.
    ForeignLine,
    /// What a report wrote in another form.
    Report,
    /// What a target knows of sources (`/sources`).
    Sources(SourcesSeen),
    /// An earlier run, as its own report as JSON tells of it.
    Baseline(Result<Box<Baseline>, Refusal>),
}

/// One entry of a target's `/clients`, as far as it is used. Instants are the target's.
#[derive(Debug, Clone, Deserialize)]
pub struct TagTimeline {
    /// The client's number.
    pub client: u16,
    /// SYNs from outside the allowed CIDRs.
    pub leaked_syns: u64,
    /// SYNs from inside them.
    pub masqueraded_syns: u64,
    first_syn_ns: u64,
    bracket: TagBracket,
}

#[derive(Debug, Clone, Deserialize)]
struct TagBracket {
    lower_ns: Option<u64>,
    upper_ns: Option<u64>,
}

impl TagTimeline {
    /// As a client's result: delays are counted from its first SYN then.
    pub fn reading(&self, source: &str) -> Reading {
        let since_first = |ns: u64| ns.saturating_sub(self.first_syn_ns) as f64 / 1e9;
        let (lower, upper) =
            (self.bracket.lower_ns.map_or(0.0, since_first), self.bracket.upper_ns.map(since_first));
        let mut outcomes = [0; Outcome::ALL.len()];
        outcomes[Outcome::Pong as usize] = self.masqueraded_syns;
        outcomes[Outcome::Leaked as usize] = self.leaked_syns;
        Reading {
            client: ClientResult {
                name: format!("tag {} at {source}", self.client),
                verdict: if upper.is_some() { Verdict::Masqueraded } else { Verdict::Unfinished },
                // A first SYN that is masqueraded has no width: the policy was there before it.
                delay: Interval::bracket(lower, upper),
                leaked: self.leaked_syns,
                leak_seconds: None,
                ..ClientResult::default()
            },
            outcomes,
            ..Reading::default()
        }
    }
}

/// What a target saw of sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcesSeen {
    /// Connections from inside the allowed CIDRs.
    pub allowed: u64,
    /// Connections from outside them.
    pub denied: u64,
    /// Addresses outside, with the connections from each.
    pub denied_from: Vec<(String, u64)>,
    /// SYNs that the kernel saw from inside and from outside, where it looked.
    pub syns: Option<(u64, u64)>,
}

/// Every key that is used, of all kinds of documents.
#[derive(Deserialize)]
struct Wire {
    schema: Option<u64>,
    report_schema: Option<serde_json::Value>,
    run: Option<WireRun>,
    client_id: Option<String>,
    tag: Option<u16>,
    target: Option<String>,
    started_at: Option<String>,
    start_monotonic_ns: Option<u64>,
    outcome: Option<TestOutcome>,
    bracket: Option<BracketSeconds>,
    #[serde(default)]
    blackhole_seconds: f64,
    probes: Option<ProbeCounts>,
    #[serde(default)]
    disruptions: Option<Vec<Disruption>>,
    #[serde(default)]
    disruptions_total: u64,
    #[serde(default)]
    leaked_from: Vec<LeakSource>,
    #[serde(default)]
    leaked_from_omitted_probes: u64,
    #[serde(default)]
    egress_ips: Vec<EgressIp>,
    #[serde(default)]
    egress_ips_omitted_pongs: u64,
    loss: Option<ProbeLoss>,
    #[serde(default)]
    partial_outages_total: u64,
    stress: Option<Leaks>,
    held: Option<Leaks>,
    #[serde(default)]
    timeline: Vec<TimelineRun>,
    #[serde(default)]
    timeline_omitted_probes: u64,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    failed_gates: Vec<IgnoredAny>,
    #[serde(default)]
    warnings: Vec<IgnoredAny>,
    settings: Option<serde_json::Map<String, serde_json::Value>>,
    version: Option<String>,
    /// Added to a result by whoever switched the policy and knows when: `[before, after]` from the client's start.
    policy_switch_seconds: Option<[f64; 2]>,
    clients: Option<Vec<TagTimeline>>,
    sources: Option<Vec<WireSource>>,
    #[serde(default)]
    unlisted: Unlisted,
    kernel: Option<WireKernel>,
}

/// What a stress test, or held connections, tell of leaks.
#[derive(Clone, Copy, Default, Deserialize)]
struct Leaks {
    #[serde(default)]
    leaked: u64,
}

#[derive(Deserialize)]
struct WireSource {
    address: String,
    verdict: String,
    connections: u64,
}

#[derive(Deserialize)]
struct WireKernel {
    allowed_syns: u64,
    denied_syns: u64,
}

/// The keys that tell what a document is when it cannot be read.
#[derive(Deserialize)]
struct Kind {
    schema: Option<serde_json::Value>,
    outcome: Option<IgnoredAny>,
    clients: Option<IgnoredAny>,
    sources: Option<IgnoredAny>,
}

/// No count of anything is as large: numbers beyond are no longer whole in every reader of JSON.
pub(crate) const MOST: u64 = 1 << 53;
/// No time of a test is as long: ten years, seconds.
pub(crate) const LONGEST_SECONDS: f64 = 10.0 * 365.25 * 86_400.0;

/// Refuses counts that nothing can have counted.
fn counts(counts: impl IntoIterator<Item = u64>) -> Result<(), String> {
    match counts.into_iter().find(|count| *count > MOST) {
        Some(count) => Err(format!("a count of {count} is none")),
        None => Ok(()),
    }
}

/// Refuses times that nothing can have taken.
fn times(seconds: impl IntoIterator<Item = f64>) -> Result<(), String> {
    match seconds.into_iter().find(|seconds| !(0.0..=LONGEST_SECONDS).contains(seconds)) {
        Some(seconds) => Err(format!("a time of {seconds:?} s is none")),
        None => Ok(()),
    }
}

/// Refuses a result with numbers that cannot be.
fn plausible(wire: &Wire) -> Result<(), String> {
    let disruptions = || wire.disruptions.iter().flatten();
    counts([wire.disruptions_total, wire.timeline_omitted_probes])?;
    counts(disruptions().map(|one| one.misses).chain(wire.timeline.iter().map(|run| run.probes)))?;
    times([wire.blackhole_seconds])?;
    times(wire.bracket.iter().flat_map(|ends| [ends.lower_seconds, ends.upper_seconds]).flatten())?;
    times(wire.timeline.iter().flat_map(|run| [run.from_seconds, run.to_seconds]))?;
    let lengths = disruptions().map(|one| one.length_seconds);
    times(lengths.flat_map(|length| [Some(length.lower), length.upper]).flatten())?;
    times(disruptions().map(|one| one.start_seconds))?;
    times(wire.policy_switch_seconds.iter().flatten().map(|seconds| seconds.abs()))?;
    plausible_addresses(wire)?;
    counts([wire.stress, wire.held].into_iter().flatten().map(|leaks| leaks.leaked))?;
    counts([wire.partial_outages_total])?;
    wire.loss.as_ref().map_or(Ok(()), plausible_loss)
}

fn plausible_addresses(wire: &Wire) -> Result<(), String> {
    counts([wire.leaked_from_omitted_probes, wire.egress_ips_omitted_pongs])?;
    counts(wire.leaked_from.iter().map(|leak| leak.probes))?;
    counts(wire.egress_ips.iter().flat_map(|ip| [ip.pongs, ip.missed]))?;
    let leaks = wire.leaked_from.iter().map(|leak| [leak.first_seconds, leak.last_seconds]);
    let instants = leaks.chain(wire.egress_ips.iter().map(|ip| [ip.first_seconds, ip.last_seconds]));
    times(instants.clone().flatten())?;
    instants.into_iter().all(|[first, last]| first <= last).then_some(()).ok_or_else(backwards)
}

/// No more are lost than sent.
fn plausible_loss(loss: &ProbeLoss) -> Result<(), String> {
    let outside = egress::outside_outages(loss);
    counts([loss.probes, outside])?;
    if outside > loss.probes {
        return Err(format!("of {} probes {outside} were outside of outages", loss.probes));
    }
    let parts = [
        (&loss.isolated, outside),
        (&loss.in_disruptions, loss.probes),
        (&loss.in_partial_outages, loss.probes),
    ];
    match parts.into_iter().find(|(share, all)| share.misses > *all) {
        Some((share, all)) => Err(format!("of {all} probes {} were lost", share.misses)),
        None => Ok(()),
    }
}

fn backwards() -> String {
    "times run backwards".to_owned()
}

/// Refuses entries of a target with numbers that cannot be.
fn plausible_tags(entries: &[TagTimeline]) -> Result<(), String> {
    counts(entries.iter().flat_map(|entry| [entry.leaked_syns, entry.masqueraded_syns]))?;
    let instants = |entry: &TagTimeline| [entry.bracket.lower_ns, entry.bracket.upper_ns];
    let since_first =
        |entry: &TagTimeline| instants(entry).map(|at| at.unwrap_or(0).saturating_sub(entry.first_syn_ns));
    times(entries.iter().flat_map(since_first).map(|ns| ns as f64 / 1e9))
}

/// Reads one document.
pub fn read(bytes: &[u8]) -> Result<Found, Refusal> {
    let wire: Wire = match serde_json::from_slice(bytes) {
        Ok(wire) => wire,
        Err(_) if is_own_json(bytes) => return Ok(Found::LogLine),
        Err(_) if is_foreign_json(bytes) => return Ok(Found::ForeignLine),
        Err(error) => return Err(why(bytes, &error)),
    };
    match wire {
        Wire { schema: Some(newer), .. } if newer > SCHEMA => Err(Refusal::Newer(newer)),
        Wire { schema: Some(SCHEMA), outcome: Some(_), .. } => {
            result(wire).map(|reading| Found::Client(Box::new(reading))).map_err(Refusal::Damaged)
        }
        Wire { report_schema: Some(schema), run: Some(run), .. } => {
            let baseline = baseline::read(&schema, run, LONGEST_SECONDS).map(Box::new);
            Ok(Found::Baseline(baseline.map_err(|unusable| match unusable {
                Unusable::Damaged(why) => Refusal::Damaged(why),
                Unusable::Foreign(what) => Refusal::Foreign(what),
            })))
        }
        Wire { clients: Some(clients), .. } => {
            plausible_tags(&clients).map(|()| Found::Tags(clients)).map_err(Refusal::Damaged)
        }
        Wire { sources: Some(sources), unlisted, kernel, .. } => {
            let syns = kernel.iter().flat_map(|kernel| [kernel.allowed_syns, kernel.denied_syns]);
            let totals = [unlisted.allowed.total, unlisted.denied.total].into_iter().chain(syns);
            counts(sources.iter().map(|source| source.connections).chain(totals))
                .map_err(Refusal::Damaged)?;
            Ok(Found::Sources(sources_seen(&sources, unlisted, kernel)))
        }
        Wire { report_schema: Some(_), .. } => Ok(Found::Report),
        _ if is_own_json(bytes) => Ok(Found::LogLine),
        _ if is_foreign_json(bytes) => Ok(Found::ForeignLine),
        _ => Err(FOREIGN),
    }
}

const FOREIGN: Refusal = Refusal::Foreign("neither a client's result nor a target's /clients or /sources");

fn why(bytes: &[u8], error: &serde_json::Error) -> Refusal {
    // The place is that inside the document, which says nothing to somebody who has the file.
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default().to_owned();
    let Ok(kind) = serde_json::from_slice::<Kind>(bytes) else { return Refusal::Damaged(said) };
    match kind.schema.as_ref().and_then(serde_json::Value::as_u64) {
        Some(newer) if newer > SCHEMA => Refusal::Newer(newer),
        Some(SCHEMA) if kind.outcome.is_some() => Refusal::Damaged(said),
        _ if kind.clients.is_some() || kind.sources.is_some() => Refusal::Damaged(said),
        _ => FOREIGN,
    }
}

fn result(mut wire: Wire) -> Result<Reading, String> {
    plausible(&wire)?;
    let name = wire.client_id.take().ok_or("no client_id")?;
    let bracket_ends = wire.bracket.take().ok_or("no bracket")?;
    let probes = wire.probes.take().ok_or("no probes")?;
    let (verdict, delay) = judge(&wire, &bracket_ends)?;
    if wire.blackhole_seconds < 0.0
        || wire.timeline.iter().any(|run| !(0.0..=run.to_seconds).contains(&run.from_seconds))
    {
        return Err(backwards());
    }
    let outcomes = Outcome::ALL.map(|outcome| probes.of(outcome));
    counts(outcomes)?;
    let ticks =
        wire.timeline.first().map(|first| (setting(&wire, "tick_phase").unwrap_or(0.0), first.from_seconds));
    let disruptions = wire.disruptions.unwrap_or_default();
    let told = |name: &str| WatchedDisruption::of(name, &disruptions);
    let mut hasher = DefaultHasher::new();
    // A client that ran on tells another result of the same start.
    (&name, &wire.started_at, wire.start_monotonic_ns, verdict, outcomes).hash(&mut hasher);
    let identity = wire.started_at.is_some().then(|| hasher.finish());
    Ok(Reading {
        disruptions: told(&name),
        egress: egress::Part {
            leaked_from: wire.leaked_from,
            egress_ips: wire.egress_ips,
            other_leaks: wire.leaked_from_omitted_probes,
            other_pongs: wire.egress_ips_omitted_pongs,
            leaked_connections: egress::LeakedConnections {
                stress: wire.stress.unwrap_or_default().leaked,
                held: wire.held.unwrap_or_default().leaked,
            },
            loss: wire.loss,
            partial_outages: wire.partial_outages_total,
        },
        client: ClientResult {
            name,
            verdict,
            delay,
            leaked: probes.leaked,
            leak_seconds: (!wire.timeline.is_empty() && wire.timeline_omitted_probes == 0)
                .then(|| leak_seconds(&wire.timeline)),
            blackhole_seconds: wire.blackhole_seconds,
            disruptions: wire.disruptions_total.max(disruptions.len() as u64),
            ..ClientResult::default()
        },
        outcomes,
        ticks,
        labels: wire.labels,
        timeline: wire.timeline,
        policy_switch: wire.policy_switch_seconds.filter(|[before, after]| before <= after),
        settings: Some(settings(wire.target.as_deref(), wire.settings.as_ref(), wire.version.as_deref())),
        started_at: wire.started_at,
        identity,
        tag: wire.tag,
        own_gates_failed: !wire.failed_gates.is_empty(),
        warned: !wire.warnings.is_empty(),
        counts_of_kinds: None,
    })
}

/// How a test ended, and where its policy became effective.
fn judge(wire: &Wire, ends: &BracketSeconds) -> Result<(Verdict, Interval), String> {
    let verdict = match wire.outcome {
        Some(TestOutcome::Masqueraded) => Verdict::Masqueraded,
        Some(TestOutcome::TimedOut) => Verdict::TimedOut,
        Some(TestOutcome::Interrupted) | None => Verdict::Unfinished,
    };
    let lower = ends.lower_seconds.unwrap_or(0.0);
    let delay = match (verdict, ends.upper_seconds) {
        // What it was not by its last probe, or by the test timeout, it can only have become later.
        (Verdict::TimedOut, _) => {
            Interval::later_than(lower.max(setting(wire, "test_timeout").unwrap_or_else(|| last_miss(wire))))
        }
        (Verdict::Unfinished, None) => Interval::later_than(lower.max(last_miss(wire))),
        (Verdict::Masqueraded, None) => {
            return Err("masqueraded, but its bracket has no upper end".to_owned());
        }
        (_, Some(upper)) if upper < lower || lower < 0.0 => {
            return Err(format!("its bracket goes from {lower} s to {upper} s"));
        }
        (_, Some(upper)) => Interval::bracket(lower, Some(upper)),
    };
    Ok((verdict, delay))
}

/// A duration among the settings, seconds, if they tell it.
fn setting(wire: &Wire, name: &str) -> Option<f64> {
    let duration = wire.settings.as_ref()?.get(name)?.as_str()?;
    let seconds = go::parse_duration(duration).ok()?.as_secs_f64();
    (seconds <= LONGEST_SECONDS).then_some(seconds)
}

/// When the last probe of a timeline without a pong was sent; 0 without one.
fn last_miss(wire: &Wire) -> f64 {
    let without_pong = wire.timeline.iter().all(|run| run.outcome != Outcome::Pong);
    wire.timeline.last().filter(|_| without_pong).map_or(0.0, |run| run.to_seconds)
}

/// Time in which probes leaked: each run of leaks up to the next other outcome, as a blackhole is counted.
fn leak_seconds(timeline: &[TimelineRun]) -> f64 {
    let ends = timeline.iter().skip(1).map(|next| next.from_seconds).chain([f64::NAN]);
    let leaks = timeline.iter().zip(ends).filter(|(run, _)| run.outcome == Outcome::Leaked);
    // Not by sum, which is -0 for none.
    leaks
        .fold(0.0, |sum, (run, end)| sum + if end.is_nan() { run.to_seconds } else { end } - run.from_seconds)
}

/// The settings as flags, those that are at their default too, but not those that are off, nor the tick phase: it is each client's own.
fn settings(
    target: Option<&str>,
    settings: Option<&serde_json::Map<String, serde_json::Value>>,
    version: Option<&str>,
) -> String {
    use serde_json::Value;
    let mut text = format!("target {}", target.unwrap_or("unknown"));
    for (name, value) in settings.into_iter().flatten() {
        let value = match value {
            Value::Null | Value::Bool(false) => continue,
            _ if name == "tick_phase" => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, ", {} {value}", name.replace('_', "-"));
    }
    text + &version.map_or(String::new(), |version| format!(", version {version}"))
}

fn sources_seen(sources: &[WireSource], unlisted: Unlisted, kernel: Option<WireKernel>) -> SourcesSeen {
    let sum = |verdict: &str, unlisted: Rest| {
        let of_verdict = sources.iter().filter(|source| source.verdict == verdict);
        of_verdict.fold(unlisted.total, |sum, source| sum.saturating_add(source.connections))
    };
    let denied = sources.iter().filter(|source| source.verdict == "denied");
    SourcesSeen {
        allowed: sum("allowed", unlisted.allowed),
        denied: sum("denied", unlisted.denied),
        denied_from: denied.map(|source| (source.address.clone(), source.connections)).collect(),
        syns: kernel.map(|kernel| (kernel.allowed_syns, kernel.denied_syns)),
    }
}
