//! How often chance alone makes two runs as different: permutation tests. Pure.
//!
//! What is exchanged between the runs is a unit: a client, or a node with all of its clients, because clients of one node share
//! their fate. A node that is in both runs is exchanged with itself, so that what is the node's own is no difference between runs.
//! One is added to both counts (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010).

use crate::report::stats::random::Random;

/// Scores by which units are compared at once.
pub(crate) const SCORES: usize = 6;
/// Tests that are made of them.
pub(crate) const TESTS: usize = 3;
/// Which scores each test takes: the largest of their differences, in units of what one client makes of them, is what it judges.
const OF_TEST: [std::ops::Range<usize>; TESTS] = [0..1, 1..5, 5..6];
/// Shuffles of small runs, and of runs whose size makes each shuffle slow.
const SHUFFLES: [u32; 2] = [9_999, 999];
/// Units in the smaller run from which it is the fewer.
const LARGE: usize = 5_000;

/// What is exchanged as a whole: the sums of its clients' scores, and how many they are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Unit {
    pub scores: [f64; SCORES],
    pub clients: f64,
}

impl Unit {
    /// Adds the clients of another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.scores.iter_mut().zip(other.scores).for_each(|(sum, more)| *sum += more);
        self.clients += other.clients;
    }
}

/// The units of two runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Units {
    /// Nodes in both: this run's and the other's.
    pub pairs: Vec<[Unit; 2]>,
    /// All others, this run's first.
    pub others: Vec<Unit>,
    /// How many of the others are this run's.
    pub of_this: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Permuted {
    /// Of each test, how often a random exchange differs by as much.
    pub p_values: [f64; TESTS],
    /// The standard deviation of the difference of means of the first score among exchanges.
    pub deviation: f64,
    pub shuffles: u32,
}

impl Units {
    /// The smallest p-value that these units can have at all: of so many exchanges, this one and its reverse.
    pub(crate) fn least_p_value(&self) -> f64 {
        let (all, this) = (self.others.len(), self.of_this.min(self.others.len() - self.of_this));
        let ways = (0..this).map(|n| (all - n) as f64 / (n + 1) as f64);
        let ways = ways.chain(self.pairs.iter().map(|_| 2.0)).take(200).product::<f64>();
        (2.0 / ways).min(1.0)
    }

    /// Judges by random exchanges.
    pub(crate) fn permute(&self) -> Permuted {
        let mut all = Unit::default();
        self.others.iter().chain(self.pairs.iter().flatten()).for_each(|unit| all.add(unit));
        let mut others = self.others.clone();
        // Either run's share tells the same: the smaller one is faster to draw.
        let mut drawn = self.of_this;
        let reversed = drawn * 2 > others.len();
        if reversed {
            drawn = others.len() - drawn;
            others.reverse();
        }
        let shuffles = SHUFFLES[usize::from(drawn > LARGE)];
        // What is 0 or 1, or a position, has no larger deviation than this.
        let scale = all.scores.map(|sum| {
            let mean = sum / all.clients.max(1.0);
            if mean > 0.0 && mean < 1.0 { (mean * (1.0 - mean)).sqrt().recip() } else { 0.0 }
        });
        let differences = |this: &Unit| {
            let rest = (all.clients - this.clients).max(1.0);
            let of = |one: usize| {
                this.scores[one] / this.clients.max(1.0) - (all.scores[one] - this.scores[one]) / rest
            };
            let test = |scores: std::ops::Range<usize>| {
                scores.map(|one| of(one).abs() * scale[one]).fold(0.0, f64::max)
            };
            (of(0), OF_TEST.map(test))
        };
        let mut this = Unit::default();
        let side = usize::from(reversed);
        others[..drawn]
            .iter()
            .chain(self.pairs.iter().map(|pair| &pair[side]))
            .for_each(|unit| this.add(unit));
        let found = differences(&this).1.map(|found| found * (1.0 - 1e-9) - 1e-12);
        let (mut as_far, mut squares) = ([0_u32; TESTS], 0.0);
        let mut random = Random(Random::SEED);
        for _ in 0..shuffles {
            let mut this = Unit::default();
            for place in 0..drawn {
                let from = place + random.below(others.len() - place);
                others.swap(place, from);
                this.add(&others[place]);
            }
            for pair in &self.pairs {
                this.add(&pair[random.below(2)]);
            }
            let (first, far) = differences(&this);
            squares += first * first;
            for (test, far) in far.into_iter().enumerate() {
                as_far[test] += u32::from(far >= found[test]);
            }
        }
        Permuted {
            p_values: as_far.map(|as_far| f64::from(as_far + 1) / f64::from(shuffles + 1)),
            deviation: (squares / f64::from(shuffles)).sqrt(),
            shuffles,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client, whose score is below 1.
    fn unit(score: f64) -> Unit {
        Unit { scores: [score / 1_000.0; SCORES], clients: 1.0 }
    }

    #[test]
    fn three_against_three_can_never_be_rarer_than_one_in_ten() {
        let others: Vec<Unit> = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(unit).to_vec();
        let units = Units { pairs: vec![], others, of_this: 3 };
        assert!((units.least_p_value() - 0.1).abs() < 1e-12);
        let p = units.permute().p_values[0];
        assert!((p - 0.1).abs() < 0.01, "{p}");
    }

    #[test]
    fn what_is_the_nodes_own_is_no_difference_between_runs() {
        let pairs: Vec<[Unit; 2]> =
            (0..12).map(|node| [unit(f64::from(node) * 9.0 + 1.0), unit(f64::from(node) * 9.0)]).collect();
        let apart: Vec<Unit> =
            pairs.iter().map(|pair| pair[0]).chain(pairs.iter().map(|pair| pair[1])).collect();
        let paired = Units { pairs, ..Units::default() }.permute().p_values[0];
        let unpaired = Units { pairs: vec![], others: apart, of_this: 12 }.permute().p_values[0];
        // All twelve coins fall the same way: 2 of 4,096.
        assert!((paired - 2.0 / 4_096.0).abs() < 0.000_8 && unpaired > 0.5, "{paired} {unpaired}");
    }
}
