//! Which tick is due: pure arithmetic on the grid `start + phase + i * interval`.

use std::time::Duration;

use crate::sys::clock::Monotonic;

/// A tick to be served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// The instant for which a probe was due since the last tick: that of the first skipped one, where some were skipped.
    /// So `now - awaited` is how late the client is, stalls included.
    pub awaited: Monotonic,
    /// Ticks skipped before it.
    pub skipped: u64,
}

/// Hands out each tick at most once, and counts those that nobody could serve in time.
#[derive(Debug)]
pub(crate) struct Pacer {
    origin: Monotonic,
    interval: Duration,
    end: Monotonic,
    next: Option<u64>,
    skipped: u64,
}

impl Pacer {
    /// A grid from `origin`, with no tick at or after `end`. The interval is above zero.
    pub(crate) fn new(origin: Monotonic, interval: Duration, end: Monotonic) -> Self {
        Self { origin, interval, end, next: None, skipped: 0 }
    }

    /// The instant of tick `index`.
    pub(crate) fn instant(&self, index: u64) -> Monotonic {
        let ns = self.interval.as_nanos() * u128::from(index);
        self.origin + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The tick due at `now`, once. A tick is skipped only when the next one is already due.
    ///
    /// The first call always gives a tick: the first probe leaves as soon as the client is ready. Ticks before that
    /// were nobody's to serve, and do not count as skipped.
    pub(crate) fn due(&mut self, now: Monotonic) -> Option<Tick> {
        if self.is_over(now) {
            return None;
        }
        // Instants of the grid that have passed, this one included.
        let passed = match now.since(self.origin) {
            Duration::ZERO if now < self.origin => 0,
            length => (length.as_nanos() / self.interval.as_nanos()) as u64 + 1,
        };
        let tick = match self.next {
            Some(next) if passed <= next => return None,
            Some(next) => {
                self.skipped += passed - 1 - next;
                Tick { awaited: self.instant(next), skipped: passed - 1 - next }
            }
            None => Tick { awaited: now, skipped: 0 },
        };
        self.next = Some(passed);
        Some(tick)
    }

    /// Counts a tick that was due but could not be served, for want of descriptors.
    pub(crate) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Moves the end: no tick at or after `end`.
    pub(crate) fn set_end(&mut self, end: Monotonic) {
        self.end = end;
    }

    /// When the ticks end.
    pub(crate) fn end(&self) -> Monotonic {
        self.end
    }

    /// The instant of the next tick.
    pub(crate) fn next_tick(&self) -> Monotonic {
        self.instant(self.next.unwrap_or(0))
    }

    /// No further tick will come.
    pub(crate) fn is_over(&self, now: Monotonic) -> bool {
        now >= self.end
    }

    /// Ticks skipped so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(us: u64) -> Monotonic {
        Monotonic::from_ns(us * 1_000)
    }

    #[expect(clippy::unnecessary_wraps, reason = "what the pacer answers")]
    fn tick(awaited_us: u64, skipped: u64) -> Option<Tick> {
        Some(Tick { awaited: at(awaited_us), skipped })
    }

    fn pacer() -> Pacer {
        Pacer::new(at(1_000), Duration::from_micros(100), at(2_000))
    }

    #[test]
    fn the_first_tick_is_handed_out_at_once_and_the_grid_starts_at_the_start() {
        let mut pacer = pacer();
        assert_eq!(pacer.due(at(1_000)), tick(1_000, 0));
        assert_eq!(pacer.due(at(1_099)), None);
        assert_eq!(pacer.next_tick(), at(1_100));
        assert_eq!(pacer.due(at(1_103)), tick(1_100, 0));
        assert_eq!(pacer.due(at(1_199)), None);
        assert_eq!(pacer.due(at(1_200)), tick(1_200, 0));
        assert_eq!(pacer.skipped(), 0);
    }

    #[test]
    fn ticks_before_the_client_was_ready_are_not_skipped() {
        let mut pacer = pacer();
        assert_eq!(pacer.due(at(1_350)), tick(1_350, 0));
        assert_eq!(pacer.skipped(), 0);
        assert_eq!(pacer.next_tick(), at(1_400));
    }

    #[test]
    fn the_first_probe_leaves_before_a_grid_that_begins_later() {
        let mut pacer = Pacer::new(at(1_070), Duration::from_micros(100), at(2_000));
        assert_eq!(pacer.due(at(1_000)), tick(1_000, 0));
        assert_eq!(pacer.next_tick(), at(1_070));
        assert_eq!(pacer.due(at(1_069)), None);
        assert_eq!(pacer.due(at(1_070)), tick(1_070, 0));
        assert_eq!(pacer.due(at(1_171)), tick(1_170, 0));
        assert_eq!(pacer.skipped(), 0);
    }

    #[test]
    fn a_tick_is_skipped_only_when_the_next_one_is_due() {
        let mut pacer = pacer();
        pacer.due(at(1_000));
        assert_eq!(pacer.due(at(1_199)), tick(1_100, 0), "late, but the next one is not due");
        assert_eq!(pacer.skipped(), 0);
        assert_eq!(pacer.due(at(1_503)), tick(1_200, 3), "awaited since the first that was skipped");
        assert_eq!(pacer.skipped(), 3);
    }

    #[test]
    fn no_tick_comes_at_the_end_or_later() {
        let mut pacer = pacer();
        assert_eq!(pacer.due(at(1_999)), tick(1_999, 0));
        assert!(pacer.is_over(at(2_000)));
        assert_eq!(pacer.due(at(2_000)), None);
    }

    proptest! {
        #[test]
        fn every_tick_is_either_handed_out_or_skipped(steps in prop::collection::vec(1u64..500, 1..200)) {
            let mut pacer = Pacer::new(at(0), Duration::from_micros(100), at(1_000_000));
            let mut now = 0;
            let mut handed_out = 0;
            prop_assert!(pacer.due(at(now)).is_some());
            for step in steps {
                now += step;
                handed_out += u64::from(pacer.due(at(now)).is_some());
            }
            prop_assert_eq!(handed_out + pacer.skipped(), now / 100);
        }
    }
}
