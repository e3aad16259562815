//! How far the offset from `CLOCK_MONOTONIC`, the clock of kernel stamps, to `CLOCK_REALTIME` can be known.

use std::time::{Duration, SystemTime};

use crate::sys::clock::Monotonic;

/// Readings of which the tightest is taken.
const READINGS: usize = 16;

/// The error bound of the offset, as the wall clock read between two readings of the monotonic one gives it: half of the
/// time between those, and the nanosecond that halving cuts off.
pub(crate) fn error_bound() -> Duration {
    let between = |_| {
        let before = Monotonic::now();
        let _wall = std::hint::black_box(SystemTime::now());
        Monotonic::now().since(before)
    };
    (0..READINGS).map(between).min().unwrap_or(Duration::MAX) / 2 + Duration::from_nanos(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_are_read_within_microseconds_of_each_other() {
        let error = error_bound();
        assert!(Duration::ZERO < error && error < Duration::from_millis(10), "{error:?}");
    }
}
