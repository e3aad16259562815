//! Quantiles of times, and the histogram that they are taken from.

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

impl Quantiles {
    /// An empty histogram of nanoseconds, from 1 µs to 100 s at three digits: some kilobytes, whatever it counts.
    pub fn histogram_ns() -> Histogram<u64> {
        Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("the bounds are in order")
    }

    /// The quantiles of a histogram of nanoseconds; `None` if it is empty.
    pub fn of_ns(histogram: &Histogram<u64>) -> Option<Self> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        (!histogram.is_empty()).then(|| Self {
            min: seconds(histogram.min()),
            p50: seconds(histogram.value_at_quantile(0.5)),
            p90: seconds(histogram.value_at_quantile(0.9)),
            p99: seconds(histogram.value_at_quantile(0.99)),
            max: seconds(histogram.max()),
        })
    }
}
