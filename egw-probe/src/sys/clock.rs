//! The one clock of every measurement: `CLOCK_MONOTONIC`.

use std::ops::Add;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// An instant of `CLOCK_MONOTONIC`, in nanoseconds: the clock that the kernel side stamps with too, so that the two
/// compare directly on one host. Steps of the wall clock do not touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

impl Monotonic {
    /// Reads the clock.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// The instant at `ns` nanoseconds of the clock.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds of the clock.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero if that lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    /// Saturates at the end of the clock, 584 years after boot.
    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// When the client started, on both clocks, read one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// First statement of `main`.
    pub monotonic: Monotonic,
    /// The wall clock then.
    pub wall: SystemTime,
}

impl Start {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { monotonic: Monotonic::now(), wall: SystemTime::now() }
    }
}
