//! Quantiles of times, and the histogram that they are taken from.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Quantiles of a set of times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// A set of times, up to 100 s each at three digits: some kilobytes, whatever it counts, and none before the first.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u32>);

impl Default for Times {
    fn default() -> Self {
        // From 1 µs on. It grows with the longest time.
        let mut empty = Histogram::new_with_bounds(1_000, 2_000, 3).expect("the bounds are in order");
        empty.auto(true);
        Self(empty)
    }
}

impl Times {
    /// A longer one counts as this.
    const MOST: Duration = Duration::from_secs(100);

    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.0.record(time.min(Self::MOST).as_nanos() as u64).expect("it grows");
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows");
    }

    /// The time that this share of them does not exceed; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.value_at_quantile(share)))
    }

    /// Their quantiles; `None` without any.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let quantile = |share| self.quantile(share).map(|time| time.as_secs_f64());
        Some(Quantiles {
            min: seconds(self.0.min()),
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
            max: seconds(self.0.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_size_are_kept_at_three_digits_and_added_up() {
        let mut times = Times::default();
        assert_eq!((times.quantiles(), times.quantile(0.5)), (None, None));
        let mut others = Times::default();
        for ms in 1..=1_000 {
            times.record(Duration::from_millis(ms));
            others.record(Duration::from_secs(ms));
        }
        times.add(&others);
        let told = times.quantiles().unwrap();
        let close = |told: f64, expected: f64| (told / expected - 1.0).abs() < 1e-3;
        assert!(close(told.min, 0.001) && close(told.p50, 1.0) && close(told.max, 100.0), "{told:?}");
        assert!(close(told.p90, 100.0), "what is longer counts as the longest: {told:?}");
    }
}
