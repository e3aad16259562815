//! A corpus, summed up as a run. Pure.

use std::collections::HashSet;

use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;
use crate::report::data::client::{ClientResult, Verdict, worse_first};
use crate::report::data::interval::Interval;
use crate::report::data::run::{
    Basis, Bounds, Clients, Delay, Disruptions, DistributionStep, LongDisruption, QUANTILES, Quantile, Read,
    Run, SkippedDocument, Sources, Times, Worst,
};
use crate::report::read::corpus::Corpus;
use crate::report::stats::notes::notes;
use crate::report::stats::npmle::{Npmle, Step};
use crate::report::stats::ranks::{ALPHA, Ends, lower_ends_are_missing};

/// Clients and disruptions named as the worst.
const WORST: usize = 10;
/// Steps of the distribution that are told.
const STEPS: usize = 600;

/// The run that was read.
pub fn of(corpus: &Corpus) -> Run {
    let clients = &corpus.clients;
    let delays: Vec<Interval> = clients.iter().map(|client| client.delay).collect();
    let leak: Vec<f64> = clients.iter().filter_map(|client| client.leak_seconds).collect();
    let blackhole: Vec<f64> = clients.iter().map(|client| client.blackhole_seconds).collect();
    let delay = delay(&delays);
    Run {
        clients: count_clients(clients),
        probes: Outcome::ALL.iter().map(|one| one.name()).zip(corpus.outcomes).collect(),
        notes: notes(corpus, &delay),
        delay,
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
        started: corpus.started.clone().map(|(first, last)| [first, last]),
        read: what_was_read(corpus),
    }
}

/// Probes and, of clients that only metrics of the old program tell of, misses that leaked.
pub(crate) fn leaked_of(clients: &[ClientResult]) -> u64 {
    saturating(clients.iter().map(|client| client.leaked))
}

fn count_clients(clients: &[ClientResult]) -> Clients {
    let count = |is: &dyn Fn(&ClientResult) -> bool| clients.iter().filter(|one| is(one)).count() as u64;
    Clients {
        total: clients.len() as u64,
        distinct: clients.iter().map(|one| one.name.as_str()).collect::<HashSet<_>>().len() as u64,
        masqueraded: count(&|one| one.verdict == Verdict::Masqueraded),
        timed_out: count(&|one| one.verdict == Verdict::TimedOut),
        unfinished: count(&|one| one.verdict == Verdict::Unfinished),
        leaked: count(&|one| one.leaked > 0),
        blackholed: count(&|one| one.blackhole_seconds > 0.0),
        disrupted: count(&|one| one.disruptions > 0),
    }
}

fn what_was_read(corpus: &Corpus) -> Read {
    let skipped = corpus.skipped.iter();
    Read {
        results: corpus.clients.len() as u64,
        read_again: corpus.read_again,
        log_lines: corpus.log_lines,
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

fn delay(delays: &[Interval]) -> Delay {
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
    Delay {
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
