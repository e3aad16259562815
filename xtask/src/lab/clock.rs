//! The one time base of a lab run: `CLOCK_MONOTONIC`, which the kernel, the lab and the client share.

use std::time::Duration;

use egw_probe::document::result::ResultDocument;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// An instant of `CLOCK_MONOTONIC`, in nanoseconds. Unlike `std::time::Instant` it can be compared with a number
/// another process printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Monotonic(u64);

impl Monotonic {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
        Self(nanoseconds(time))
    }

    pub(crate) const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    pub(crate) const fn ns(self) -> u64 {
        self.0
    }

    pub(crate) fn after(self, wait: Duration) -> Self {
        Self(self.0 + wait.as_nanos() as u64)
    }

    /// The instant `seconds` after this one, as result documents give it.
    pub(crate) fn after_seconds(self, seconds: f64) -> Self {
        Self(self.0.saturating_add_signed((seconds * 1e9).round() as i64))
    }

    /// The start of the client whose result this is.
    pub(crate) const fn start_of(document: &ResultDocument) -> Self {
        Self(document.start_monotonic_ns)
    }

    /// Seconds from `earlier` to this instant; negative if `earlier` is the later one.
    pub(crate) fn seconds_since(self, earlier: Self) -> f64 {
        self.0.wrapping_sub(earlier.0).cast_signed() as f64 / 1e9
    }

    /// How long until this instant; zero once it has passed.
    pub(crate) fn remaining(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(Self::now().0))
    }
}

/// A reading of any clock as one number.
pub(crate) fn nanoseconds(time: TimeSpec) -> u64 {
    time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
}
