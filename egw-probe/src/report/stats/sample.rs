//! Quantiles of a run's delays with what is known of them. Pure.

use crate::report::data::client::ClientResult;
use crate::report::data::interval::Interval;
use crate::report::data::run::{QUANTILES, Quantile};
use crate::report::stats::nodes::Resampled;
use crate::report::stats::ranks::{ALPHA, Ends};

/// The delays of clients, and of their nodes drawn again where nodes are known.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) ends: Ends,
    resampled: Option<Resampled>,
}

impl Sample {
    /// Of these clients' delays, each read in this way.
    pub(crate) fn of(clients: &[ClientResult], read: impl Fn(Interval) -> Interval) -> Self {
        let delays: Vec<Interval> = clients.iter().map(|one| read(one.delay)).collect();
        Self { ends: Ends::of(&delays), resampled: resampled(clients, &delays) }
    }

    /// Where the quantile of this place in [`QUANTILES`] lies, wrong with probability `alpha`. Nodes only make it wider: chance can
    /// make those that were drawn look more alike than clients can be.
    pub(crate) fn confidence(&self, place: usize, alpha: f64) -> Interval {
        let q = QUANTILES[place].1;
        let independent = self.ends.confidence(q, alpha);
        let Some(nodes) = &self.resampled else { return independent };
        let worth = self.ends.confidence_of(nodes.worth(place, alpha), q, alpha);
        let wider =
            |a: Interval, b: Interval| Interval { lower: a.lower.min(b.lower), upper: a.upper.max(b.upper) };
        wider(wider(independent, worth), nodes.confidence(place, alpha))
    }
}

/// All quantiles that are told.
pub(crate) fn quantiles(sample: &Sample) -> Vec<Quantile> {
    let of = |(place, (name, q)): (usize, (&'static str, f64))| {
        Some(Quantile {
            name,
            of_this_run: sample.ends.of_sample(q)?.into(),
            confidence: sample.confidence(place, ALPHA).into(),
        })
    };
    QUANTILES.into_iter().enumerate().filter_map(of).collect()
}

/// How many nodes these clients are on; `None` unless each of them says on which.
pub(crate) fn nodes(clients: &[ClientResult]) -> Option<usize> {
    numbers(clients).map(|numbers| numbers.len())
}

/// The numbers of these nodes, in order.
fn numbers(clients: &[ClientResult]) -> Option<Vec<u32>> {
    if clients.is_empty() || clients.iter().any(|one| one.node == 0) {
        return None;
    }
    let mut numbers: Vec<u32> = clients.iter().map(|one| one.node).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

fn resampled(clients: &[ClientResult], delays: &[Interval]) -> Option<Resampled> {
    let numbers = numbers(clients)?;
    let place = |one: &ClientResult| numbers.partition_point(|node| *node < one.node) as u32;
    let node_of: Vec<u32> = clients.iter().map(place).collect();
    Some(Resampled::of(delays, &node_of, numbers.len(), &QUANTILES.map(|(_, q)| q)))
}
