//! Wall time for kernel stamps: the offset from `CLOCK_MONOTONIC` to `CLOCK_REALTIME`, sampled, with its error bound.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::clock::Monotonic;

/// Readings of which the tightest is taken.
const READINGS: usize = 16;

/// The offset between the two clocks as one sample found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// What to add to `CLOCK_MONOTONIC` to have `CLOCK_REALTIME`, in nanoseconds since the epoch.
    offset_ns: i128,
    /// The true offset lay no further than this from it when it was sampled.
    pub error: Duration,
}

/// The wall clock, read between two readings of the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Read before.
    pub before: Monotonic,
    /// Time since the epoch.
    pub wall: Duration,
    /// Read after.
    pub after: Monotonic,
}

impl ClockOffset {
    /// Samples the clocks.
    pub fn sample() -> Self {
        let mut readings =
            [Reading { before: Monotonic::from_ns(0), wall: Duration::ZERO, after: Monotonic::from_ns(0) };
                READINGS];
        for reading in &mut readings {
            reading.before = Monotonic::now();
            // A wall clock before 1970 is a broken one; its stamps are then counted from the epoch.
            reading.wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            reading.after = Monotonic::now();
        }
        Self::tightest(&readings).unwrap_or(Self { offset_ns: 0, error: Duration::MAX })
    }

    /// The offset by the reading whose two monotonic stamps lie closest together.
    pub fn tightest(readings: &[Reading]) -> Option<Self> {
        let best = readings.iter().min_by_key(|reading| reading.after.since(reading.before))?;
        let between = best.after.since(best.before);
        let middle = i128::from(best.before.as_ns()) + (between.as_nanos() / 2).cast_signed();
        Some(Self {
            offset_ns: best.wall.as_nanos().cast_signed() - middle,
            // Half the distance, and the nanosecond that halving cuts off.
            error: between / 2 + Duration::from_nanos(1),
        })
    }

    /// The wall time of a stamp.
    pub fn wall(&self, stamp: Monotonic) -> SystemTime {
        let ns = (i128::from(stamp.as_ns()) + self.offset_ns).max(0);
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(before: u64, wall: u64, after: u64) -> Reading {
        Reading {
            before: Monotonic::from_ns(before),
            wall: Duration::from_nanos(wall),
            after: Monotonic::from_ns(after),
        }
    }

    #[test]
    fn the_tightest_reading_gives_the_offset_and_half_its_width_the_error() {
        let offset = ClockOffset::tightest(&[
            reading(0, 5_000, 1_000),
            reading(2_000, 7_010, 2_020),
            reading(3_000, 1, 9_000),
        ])
        .unwrap();
        assert_eq!(offset.error, Duration::from_nanos(11));
        assert_eq!(offset.wall(Monotonic::from_ns(2_010)), UNIX_EPOCH + Duration::from_nanos(7_010));
    }

    #[test]
    fn the_true_wall_time_lies_within_the_error_of_the_sample() {
        let offset = ClockOffset::sample();
        assert!(offset.error < Duration::from_millis(10), "{:?}", offset.error);
        let before = SystemTime::now();
        let stamp = Monotonic::now();
        let after = SystemTime::now();
        let wall = offset.wall(stamp);
        let slack = offset.error + Duration::from_millis(1);
        assert!(before - slack <= wall && wall <= after + slack);
    }
}
