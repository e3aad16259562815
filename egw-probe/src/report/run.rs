//! What a report says of a run: plain data, made of everything that was read. The form of `--output json`; every other output is
//! written from it, too.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::client::{ClientResult, Verdict};
use super::compare::Comparison;
use super::corpus::{Corpus, worse_first};
use super::gates::Gate;
use super::notes::notes;
use super::npmle::{Interval, Npmle, Step};
use super::ranks::{ALPHA, Ends, lower_ends_are_missing};
use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;

/// Quantiles of the delay that are told.
pub const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];
/// Clients and disruptions named as the worst.
const WORST: usize = 10;
/// Steps of the distribution that are told.
const STEPS: usize = 600;

/// The methods, as they are named wherever their results stand.
pub const METHODS: [&str; 4] = [
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
pub struct Report {
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
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
pub struct DistributionStep {
    #[serde(flatten)]
    pub within: Bounds,
    pub cumulative: f64,
}

/// How long something lasted, over clients.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
pub struct LongDisruption {
    pub client_id: String,
    pub kind: &'static str,
    pub start_seconds: f64,
    pub length: Bounds,
    pub misses: u64,
}

/// A client by name.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
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
#[expect(missing_docs, reason = "the names say it")]
pub struct SkippedDocument {
    pub place: String,
    pub reason: String,
}

impl Run {
    /// Of everything that was read.
    pub fn of(corpus: &Corpus) -> Self {
        let clients = &corpus.clients;
        let delays: Vec<Interval> = clients.iter().map(|client| client.delay).collect();
        let count = |is: &dyn Fn(&ClientResult) -> bool| clients.iter().filter(|one| is(one)).count() as u64;
        let distinct = clients.iter().map(|one| one.name.as_str()).collect::<HashSet<_>>().len() as u64;
        let leak: Vec<f64> = clients.iter().filter_map(|client| client.leak_seconds).collect();
        let blackhole: Vec<f64> = clients.iter().map(|client| client.blackhole_seconds).collect();
        let delay = Delay::of(&delays);
        Self {
            clients: Clients {
                total: clients.len() as u64,
                distinct,
                masqueraded: count(&|one| one.verdict == Verdict::Masqueraded),
                timed_out: count(&|one| one.verdict == Verdict::TimedOut),
                unfinished: count(&|one| one.verdict == Verdict::Unfinished),
                leaked: count(&|one| one.leaked > 0),
                blackholed: count(&|one| one.blackhole_seconds > 0.0),
                disrupted: count(&|one| one.disruptions > 0),
            },
            probes: Outcome::ALL.iter().map(|one| one.name()).zip(corpus.outcomes).collect(),
            notes: notes(corpus, &delay),
            delay,
            leak: (!leak.is_empty()).then(|| Times::of(leak)),
            blackhole: Times::of(blackhole),
            disruptions: Disruptions::of(corpus),
            worst: worst(clients),
            sources: corpus.sources.as_ref().map(|seen| Sources {
                allowed_connections: seen.allowed,
                denied_connections: seen.denied,
                denied_from: seen.denied_from.clone(),
                allowed_syns: seen.syns.map(|syns| syns.0),
                denied_syns: seen.syns.map(|syns| syns.1),
            }),
            settings: corpus.settings.clone(),
            started: corpus.started.clone().map(|(first, last)| [first, last]),
            read: Read {
                results: clients.len() as u64,
                read_again: corpus.read_again,
                log_lines: corpus.log_lines,
                skipped: corpus.skipped_total(),
                skipped_by_kind: corpus.skipped_by_kind.clone(),
                skipped_documents: (corpus.skipped.iter())
                    .map(|one| SkippedDocument { place: one.place.clone(), reason: one.refusal.to_string() })
                    .collect(),
            },
        }
    }

    /// Probes of one outcome.
    pub fn probes_of(&self, outcome: Outcome) -> u64 {
        self.probes.get(outcome.name()).copied().unwrap_or(0)
    }

    /// Probes and, of clients that only metrics of the old program tell of, misses that leaked.
    pub fn leaked_of(clients: &[ClientResult]) -> u64 {
        saturating(clients.iter().map(|client| client.leaked))
    }
}

/// A sum that stops at the largest number, where it could only be too small.
fn saturating(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

impl Delay {
    fn of(delays: &[Interval]) -> Self {
        let (basis, used) = if lower_ends_are_missing(delays) {
            (Basis::UpperEnds, delays.iter().map(|one| one.at_its_upper_end()).collect())
        } else {
            (Basis::Brackets, delays.to_vec())
        };
        let estimate = Npmle::of(&used);
        let (ends, ends_used) = (Ends::of(delays), Ends::of(&used));
        // An upper end is the latest that a delay can be, and nothing more.
        let told = |found: Interval| match basis {
            Basis::UpperEnds if !found.is_never() => Interval { lower: 0.0, ..found },
            _ => found,
        };
        let quantiles = QUANTILES.iter().filter_map(|&(name, q)| {
            Some(Quantile {
                name,
                estimate: told(estimate.quantile(q)?).into(),
                confidence: ends_used.confidence(q, ALPHA).into(),
                of_this_run: ends.of_sample(q)?.into(),
            })
        });
        let ended: Vec<Interval> = delays.iter().copied().filter(|delay| delay.upper.is_finite()).collect();
        let max = ends.of_sample(1.0);
        let distribution = thin(&estimate.steps)
            .map(|step| DistributionStep { within: step.within.into(), cumulative: step.cumulative });
        Self {
            basis,
            without_lower_end: delays.iter().filter(|one| one.is_without_lower_end()).count() as u64,
            quantiles: quantiles.collect(),
            max: max.map(Bounds::from),
            longest_known: Ends::of(&ended)
                .of_sample(1.0)
                .filter(|_| max.is_some_and(|max| !max.upper.is_finite()))
                .map(Bounds::from),
            distribution: distribution.collect(),
            steps: estimate.steps.iter().filter(|step| step.mass > LEAST_MASS).count(),
            iterations: estimate.iterations,
            likelihood_gap: estimate.gap,
        }
    }

    /// The quantile of this name.
    pub fn quantile(&self, name: &str) -> Option<&Quantile> {
        self.quantiles.iter().find(|quantile| quantile.name == name)
    }
}

/// Innermost intervals with less than this are where the likelihood wants nothing.
const LEAST_MASS: f64 = 1e-9;

/// Steps with mass; of too many neighbours one stands for all: from where the first begins to where the last ends.
fn thin(steps: &[Step]) -> impl Iterator<Item = Step> {
    let massive: Vec<&Step> = steps.iter().filter(|step| step.mass > LEAST_MASS).collect();
    let never = usize::from(massive.last().is_some_and(|step| step.within.is_never()));
    let (finite, never) = massive.split_at(massive.len() - never);
    let each = finite.len().div_ceil(STEPS).max(1);
    let join = |group: &[&Step]| {
        let (first, last) = (group[0], group[group.len() - 1]);
        Step {
            within: Interval { lower: first.within.lower, upper: last.within.upper },
            mass: group.iter().map(|step| step.mass).sum(),
            cumulative: last.cumulative,
        }
    };
    let joined: Vec<Step> = finite.chunks(each).chain(never.chunks(1)).map(join).collect();
    joined.into_iter()
}

impl Times {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let at = |q: f64| {
            let rank = (q * seconds.len() as f64).ceil() as usize;
            seconds.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            clients: seconds.len() as u64,
            p50_seconds: at(0.5),
            p99_seconds: at(0.99),
            max_seconds: at(1.0),
            total_seconds: seconds.iter().fold(0.0, |sum, more| sum + more),
        }
    }
}

impl Disruptions {
    fn of(corpus: &Corpus) -> Self {
        let longest = corpus.disruptions().iter().take(WORST).map(|one| LongDisruption {
            client_id: one.name.clone(),
            kind: one.disruption.kind.name(),
            start_seconds: one.disruption.start_seconds,
            length: Bounds {
                lower_seconds: Some(one.disruption.length_seconds.lower),
                upper_seconds: one.disruption.length_seconds.upper,
            },
            misses: one.disruption.misses,
        });
        Self {
            total: saturating(corpus.disruptions_by_kind),
            by_kind: Kind::ALL.iter().map(|kind| kind.name()).zip(corpus.disruptions_by_kind).collect(),
            open: corpus.open_disruptions,
            without_length: corpus.disruptions_without_length,
            longest: longest.collect(),
        }
    }
}

fn worst(clients: &[ClientResult]) -> Vec<Worst> {
    let mut order: Vec<&ClientResult> = clients.iter().collect();
    if order.len() > WORST {
        order.select_nth_unstable_by(WORST, |a, b| worse_first(a, b));
        order.truncate(WORST);
    }
    order.sort_by(|a, b| worse_first(a, b));
    let worst = order.into_iter().map(|client| Worst {
        client_id: client.name.clone(),
        outcome: client.verdict.name(),
        delay: client.delay.into(),
        leaked_probes: client.leaked,
        leak_seconds: client.leak_seconds,
        blackhole_seconds: client.blackhole_seconds,
        disruptions: client.disruptions,
    });
    worst.collect()
}
