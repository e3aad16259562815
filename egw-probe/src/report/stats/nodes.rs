//! Bounds for quantiles where clients of one node share their fate: a sample of nodes, not of clients. Pure.
//!
//! Nodes are drawn again with all of their clients (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their
//! Application, 3.8), and the quantile is taken of lower ends and of upper ends. Percentiles of few nodes are too narrow, so they are
//! taken further out, by Student's distribution (Hesterberg, The American Statistician 69, 2015: the expanded percentile interval).
//! No resample reaches beyond the slowest node, so that order statistics of as many clients as these are worth (Korn and Graubard,
//! Survey Methodology 24, 1998: by the design effect) have a say, too.

use crate::report::data::interval::Interval;
use crate::report::stats::normal;
use crate::report::stats::random::Random;
use crate::report::stats::ranks::rank;

/// From fewer nodes nothing is concluded.
pub(crate) const FEWEST: usize = 6;
/// Most resamples, fewest, and the steps that all together may take.
const RESAMPLES: [usize; 2] = [1_999, 199];
const STEPS: usize = 200_000_000;

/// The quantiles of all resamples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resampled {
    nodes: usize,
    /// For each quantile, those of lower ends and of upper ends, in order.
    ends: Vec<[Vec<f64>; 2]>,
    /// For each quantile, how many independent clients would tell as much.
    worth: Vec<f64>,
}

impl Resampled {
    /// Draws the nodes of these delays again. Nodes are numbers below `count`.
    pub(crate) fn of(delays: &[Interval], node_of: &[u32], count: usize, quantiles: &[f64]) -> Self {
        if count < FEWEST {
            return Self {
                nodes: count,
                ends: vec![Default::default(); quantiles.len()],
                worth: vec![0.0; quantiles.len()],
            };
        }
        let sorted = |end: fn(&Interval) -> f64| {
            let mut ends: Vec<(f64, u32)> = delays.iter().map(end).zip(node_of.iter().copied()).collect();
            ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            ends
        };
        let both = [sorted(|one| one.lower), sorted(|one| one.upper)];
        let mut sizes = vec![0_usize; count];
        for node in node_of {
            sizes[*node as usize] += 1;
        }
        let resamples = (STEPS / delays.len().max(1)).clamp(RESAMPLES[1], RESAMPLES[0]);
        let mut random = Random(Random::SEED);
        let mut ends = vec![<[Vec<f64>; 2]>::default(); quantiles.len()];
        for _ in 0..resamples {
            let mut times = vec![0_usize; count];
            (0..count).for_each(|_| times[random.below(count)] += 1);
            let all = times.iter().zip(&sizes).map(|(times, size)| times * size).sum();
            for (side, sorted) in both.iter().enumerate() {
                let (mut seen, mut at) = (0, 0);
                for (place, q) in quantiles.iter().enumerate() {
                    let rank = rank(*q, all);
                    while seen < rank {
                        seen += times[sorted[at].1 as usize];
                        at += 1;
                    }
                    ends[place][side].push(sorted[at - 1].0);
                }
            }
        }
        ends.iter_mut().flatten().for_each(|ends| ends.sort_unstable_by(f64::total_cmp));
        let worth = quantiles.iter().map(|q| worth(&both[1], &sizes, *q)).collect();
        Self { nodes: count, ends, worth }
    }

    /// How many independent clients would tell as much of the quantile of this place, if nodes were many.
    pub(crate) fn worth(&self, place: usize, alpha: f64) -> usize {
        if self.nodes < FEWEST {
            return 0;
        }
        let of_nodes = normal::student(1.0 - alpha / 2.0, self.nodes as f64 - 1.0);
        (self.worth[place] * (normal::quantile(1.0 - alpha / 2.0) / of_nodes).powi(2)) as usize
    }

    /// Where the quantile of this place lies, wrong with probability `alpha`.
    pub(crate) fn confidence(&self, place: usize, alpha: f64) -> Interval {
        let [lower, upper] = &self.ends[place];
        if lower.is_empty() {
            return Interval::later_than(0.0);
        }
        let nodes = self.nodes as f64;
        let further = normal::student(1.0 - alpha / 2.0, nodes - 1.0) * (nodes / (nodes - 1.0)).sqrt();
        let outside = (normal::share(-further) * lower.len() as f64) as usize;
        Interval { lower: lower[outside], upper: upper[upper.len() - 1 - outside] }
    }
}

/// Clients divided by the design effect: how much more a share of clients varies because whole nodes do.
fn worth(sorted: &[(f64, u32)], sizes: &[usize], q: f64) -> f64 {
    let (all, nodes) = (sorted.len() as f64, sizes.len() as f64);
    let mut within = vec![0_usize; sizes.len()];
    let rank = rank(q, sorted.len());
    for (_, node) in &sorted[..rank] {
        within[*node as usize] += 1;
    }
    let share = rank as f64 / all;
    let apart = |(within, size): (&usize, &usize)| (*within as f64 - share * *size as f64).powi(2);
    let by_nodes = within.iter().zip(sizes).map(apart).sum::<f64>() / all.powi(2) * nodes / (nodes - 1.0);
    let effect = (by_nodes / (share * (1.0 - share) / all)).max(1.0);
    // The last one of all says nothing of how much varies: then a node is worth one client.
    if effect.is_finite() { all / effect } else { nodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten clients on each node, all of them with the node's own delay.
    fn run(nodes: u32) -> (Vec<Interval>, Vec<u32>) {
        let node_of: Vec<u32> = (0..nodes * 10).map(|client| client / 10).collect();
        let delays =
            node_of.iter().map(|node| Interval { lower: f64::from(*node), upper: f64::from(*node) + 1.0 });
        (delays.collect(), node_of)
    }

    #[test]
    fn two_hundred_clients_of_twenty_nodes_tell_what_twenty_clients_would() {
        let (delays, node_of) = run(20);
        let found = Resampled::of(&delays, &node_of, 20, &[0.5]).confidence(0, 0.05);
        // Of 20 the ranks are 6 and 15; of 200 they would be 86 and 115.
        assert!((4.0..=6.0).contains(&found.lower) && (14.0..=17.0).contains(&found.upper), "{found:?}");
    }

    #[test]
    fn five_nodes_tell_nothing() {
        let (delays, node_of) = run(5);
        let found = Resampled::of(&delays, &node_of, 5, &[0.5]).confidence(0, 0.05);
        assert_eq!(found, Interval::later_than(0.0));
    }
}
