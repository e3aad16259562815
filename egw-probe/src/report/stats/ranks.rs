//! Bounds for quantiles that hold whatever the distribution and whatever censored it. Pure.
//!
//! The number of delays up to the true q-quantile is binomial, so that quantile lies between two order statistics of the delays
//! with a probability that only their ranks decide (Conover, Practical Nonparametric Statistics, 3.2; Hahn and Meeker,
//! Statistical Intervals, 5.2). No delay is known exactly, but each is later than its bracket's lower end and not later than
//! the upper, so order statistics of lower ends and of upper ends enclose those of the delays: the bounds stay valid.

use statrs::distribution::{Beta, ContinuousCDF as _};

use crate::report::data::interval::Interval;

/// Probability that a quantile lies outside its interval.
pub const ALPHA: f64 = 0.05;

/// Observations by both ends, each in order.
#[derive(Debug, Default)]
pub struct Ends {
    lower: Vec<f64>,
    upper: Vec<f64>,
}

impl Ends {
    /// Of these observations.
    pub fn of(observations: &[Interval]) -> Self {
        let sorted = |end: fn(&Interval) -> f64| {
            let mut ends: Vec<f64> = observations.iter().map(end).collect();
            ends.sort_unstable_by(f64::total_cmp);
            ends
        };
        Self { lower: sorted(|one| one.lower), upper: sorted(|one| one.upper) }
    }

    /// Where the q-quantile of everything that clients like these could have shown lies, wrong with probability `alpha` at
    /// most. From 0 or without end where there are too few observations to say.
    pub fn confidence(&self, q: f64, alpha: f64) -> Interval {
        let (low, high) = ranks(self.lower.len(), q, alpha);
        Interval {
            lower: low.map_or(0.0, |rank| self.lower[rank - 1]),
            upper: high.map_or(f64::INFINITY, |rank| self.upper[rank - 1]),
        }
    }

    /// The same, if these observations tell no more than `worth` independent ones would.
    pub(crate) fn confidence_of(&self, worth: usize, q: f64, alpha: f64) -> Interval {
        let (low, high) = ranks(worth, q, alpha);
        let each = self.lower.len() as f64 / worth.max(1) as f64;
        let last = self.lower.len().saturating_sub(1);
        Interval {
            lower: low.map_or(0.0, |rank| self.lower[((rank - 1) as f64 * each) as usize]),
            upper: high.map_or(f64::INFINITY, |rank| self.upper[((rank as f64 * each) as usize).min(last)]),
        }
    }

    /// Where the q-quantile of these very observations lies, for certain: the smallest delay that a share `q` does not exceed.
    pub fn of_sample(&self, q: f64) -> Option<Interval> {
        self.at(rank(q, self.lower.len()))
    }

    /// Where the delay of this rank, from 1, lies for certain.
    pub fn at(&self, rank: usize) -> Option<Interval> {
        Some(Interval { lower: *self.lower.get(rank - 1)?, upper: self.upper[rank - 1] })
    }

    /// Observations.
    pub fn count(&self) -> usize {
        self.lower.len()
    }
}

/// The rank, from 1, of the smallest of `count` delays that a share `q` does not exceed.
pub(crate) fn rank(q: f64, count: usize) -> usize {
    ((q * count as f64 - 1e-9).ceil() as usize).clamp(1, count.max(1))
}

/// The share of everything of which at least `hits` of `count` are a sample, wrong with probability `alpha` at most (Clopper and
/// Pearson, Biometrika 26, 1934; one-sided).
pub(crate) fn least_share(hits: usize, count: usize, alpha: f64) -> f64 {
    if hits == 0 {
        return 0.0;
    }
    if hits == count {
        return alpha.powf(1.0 / count as f64);
    }
    let beta = Beta::new(hits as f64, (count - hits + 1) as f64);
    beta.map_or(0.0, |beta| beta.inverse_cdf(alpha))
}

/// Ranks, from 1, of the order statistics below and above the q-quantile, each wrong with probability `alpha / 2` at most.
fn ranks(count: usize, q: f64, alpha: f64) -> (Option<usize>, Option<usize>) {
    let probabilities = binomial(count, q);
    let (mut below, mut low) = (0.0, None);
    // Above the quantile lies the order statistic of rank r if fewer than r observations lie below it.
    for (successes, probability) in probabilities.iter().enumerate().take(count) {
        below += probability;
        if below > alpha / 2.0 {
            break;
        }
        low = Some(successes + 1);
    }
    let (mut above, mut high) = (0.0, None);
    for (successes, probability) in probabilities.iter().enumerate().skip(1).rev() {
        above += probability;
        if above > alpha / 2.0 {
            break;
        }
        high = Some(successes);
    }
    (low, high)
}

/// The probabilities of 0 to `count` successes, built from the likeliest outward so that nothing overflows.
fn binomial(count: usize, q: f64) -> Vec<f64> {
    let mut weights = vec![0.0; count + 1];
    let mode = ((count + 1) as f64 * q).floor().min(count as f64) as usize;
    let odds = q / (1.0 - q);
    weights[mode] = 1.0;
    for successes in mode..count {
        weights[successes + 1] =
            weights[successes] * (count - successes) as f64 / (successes + 1) as f64 * odds;
    }
    for successes in (1..=mode).rev() {
        weights[successes - 1] =
            weights[successes] * successes as f64 / (count - successes + 1) as f64 / odds;
    }
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conover's table and R's `qbinom` give these.
    #[test]
    fn ranks_are_those_of_the_tables() {
        assert_eq!(ranks(10, 0.5, 0.05), (Some(2), Some(9)));
        assert_eq!(ranks(100, 0.5, 0.05), (Some(40), Some(61)));
        assert_eq!(ranks(5, 0.5, 0.05), (None, None));
        assert_eq!(ranks(100, 0.99, 0.05).1, None, "a hundred clients cannot bound a p99 from above");
        assert_eq!(ranks(367, 0.99, 0.05).1, None);
        assert_eq!(ranks(368, 0.99, 0.05).1, Some(368), "0.99^368 is the first below 0.025");
        assert_eq!(ranks(0, 0.5, 0.05), (None, None));
    }

    /// `binom.test(x, n, alternative = "greater")$conf.int[1]` of R gives these.
    #[test]
    fn the_least_share_is_clopper_and_pearsons() {
        for (hits, count, share) in
            [(412, 420, 0.965_895), (420, 420, 0.992_893), (0, 9, 0.0), (1, 2, 0.025_321)]
        {
            let ours = least_share(hits, count, ALPHA);
            assert!((ours - share).abs() < 1e-6, "{hits} of {count}: {ours} is not {share}");
        }
    }

    #[test]
    fn the_sample_quantile_is_enclosed_by_that_of_either_end() {
        let observations: Vec<Interval> =
            (0..100).map(|n| Interval { lower: f64::from(n), upper: f64::from(n) + 1.5 }).collect();
        let ends = Ends::of(&observations);
        assert_eq!(ends.of_sample(0.99), Some(Interval { lower: 98.0, upper: 99.5 }));
        assert_eq!(ends.of_sample(1.0), Some(Interval { lower: 99.0, upper: 100.5 }));
        assert_eq!(ends.confidence(0.5, ALPHA), Interval { lower: 39.0, upper: 61.5 });
        assert_eq!(Ends::of(&[]).of_sample(0.5), None);
    }
}
