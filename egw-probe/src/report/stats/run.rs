//! A corpus, summed up as a run. Pure.

use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;
use crate::report::data::client::{ClientResult, worse_first};
use crate::report::data::interval::Interval;
use crate::report::data::run::{
    Bounds, Delay, Disruptions, DistributionStep, LongDisruption, Read, Run, SkippedDocument, Sources, Times,
    Worst,
};
use crate::report::read::corpus::Corpus;
use crate::report::stats::groups::{count_clients, groups};
use crate::report::stats::notes::notes;
use crate::report::stats::ranks::Ends;
use crate::report::stats::sample::{Sample, nodes, quantiles};

/// Clients and disruptions named as the worst.
const WORST: usize = 10;
/// Points of the distribution that are told.
const STEPS: usize = 600;

/// The run that was read.
pub fn of(corpus: &Corpus) -> Run {
    let clients = &corpus.clients;
    let leak: Vec<f64> = clients.iter().filter_map(|client| client.leak_seconds).collect();
    let blackhole: Vec<f64> = clients.iter().map(|client| client.blackhole_seconds).collect();
    Run {
        clients: count_clients(clients),
        probes: Outcome::ALL.iter().map(|one| one.name()).zip(corpus.outcomes).collect(),
        notes: notes(corpus),
        delay: delay(clients),
        of_report: corpus.of_reports > 0,
        nodes: nodes(clients),
        by: groups(corpus),
        leak: (!leak.is_empty()).then(|| times(leak)),
        blackhole: times(blackhole),
        leaked_connections: corpus.egress.leaked_connections(),
        leaked_from: corpus.egress.leaked_from(),
        egress_ips: corpus.egress.egress_ips(),
        loss: corpus.egress.loss(),
        disruptions: disruptions(corpus),
        worst: worst(clients),
        sources: corpus.sources.as_ref().map(|seen| Sources {
            allowed_connections: seen.allowed,
            denied_connections: seen.denied,
            denied_from: seen.denied_from.clone(),
            allowed_syns: seen.syns.map(|syns| syns.0),
            denied_syns: seen.syns.map(|syns| syns.1),
        }),
        settings: corpus.settings.clone(),
        ticks: corpus.ticks,
        started: corpus.started.clone().map(|(first, last)| [first, last]),
        read: what_was_read(corpus),
    }
}

/// Probes and, of clients that only metrics of the old program tell of, misses that leaked.
pub(crate) fn leaked_of(clients: &[ClientResult]) -> u64 {
    saturating(clients.iter().map(|client| client.leaked))
}

fn what_was_read(corpus: &Corpus) -> Read {
    let skipped = corpus.skipped.iter();
    Read {
        results: corpus.clients.len() as u64,
        read_again: corpus.read_again,
        log_lines: corpus.log_lines,
        foreign_lines: corpus.foreign_lines,
        reports: corpus.reports,
        skipped: corpus.skipped_total(),
        skipped_by_kind: corpus.skipped_by_kind.clone(),
        skipped_documents: skipped
            .map(|one| SkippedDocument { place: one.place.clone(), reason: one.refusal.to_string() })
            .collect(),
    }
}

/// A sum that stops at the largest number, where it could only be too small.
fn saturating(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

fn delay(clients: &[ClientResult]) -> Delay {
    let sample = Sample::of(clients, |delay| delay);
    let ends = &sample.ends;
    let delays = clients.iter().map(|client| client.delay);
    let ended: Vec<Interval> = delays.clone().filter(|delay| delay.upper.is_finite()).collect();
    let max = ends.of_sample(1.0);
    Delay {
        without_lower_end: delays.filter(|one| one.is_without_lower_end()).count() as u64,
        quantiles: quantiles(&sample),
        max: max.map(Bounds::from),
        longest_known: Ends::of(&ended)
            .of_sample(1.0)
            .filter(|_| max.is_some_and(|max| !max.upper.is_finite()))
            .map(Bounds::from),
        distribution: distribution(ends),
        brackets: vec![],
    }
}

/// All ranks, or so many of them that they can be drawn, the first and the last included.
fn distribution(ends: &Ends) -> Vec<DistributionStep> {
    let count = ends.count();
    let steps = count.min(STEPS);
    let rank = |step: usize| if steps < 2 { 1 } else { 1 + step * (count - 1) / (steps - 1) };
    let at = |rank| {
        let within = ends.at(rank)?.into();
        Some(DistributionStep { within, cumulative: rank as f64 / count as f64 })
    };
    (0..steps).filter_map(|step| at(rank(step))).collect()
}

fn times(mut seconds: Vec<f64>) -> Times {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| {
        let rank = (q * seconds.len() as f64).ceil() as usize;
        seconds.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    Times {
        clients: seconds.len() as u64,
        p50_seconds: at(0.5),
        p99_seconds: at(0.99),
        max_seconds: at(1.0),
        total_seconds: seconds.iter().fold(0.0, |sum, more| sum + more),
    }
}

fn disruptions(corpus: &Corpus) -> Disruptions {
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
    Disruptions {
        total: saturating(corpus.disruptions_by_kind),
        by_kind: Kind::ALL.iter().map(|kind| kind.name()).zip(corpus.disruptions_by_kind).collect(),
        open: corpus.open_disruptions,
        without_length: corpus.disruptions_without_length,
        longest: longest.collect(),
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
