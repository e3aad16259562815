//! A line in the log for each denied source that is new.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::sys::clock::Monotonic;
use crate::sys::log::{Pass, RateLimit};

/// Denied sources remembered. One that had to make room is told again.
const CAPACITY: usize = 4_096;

/// Lines in a second: a flood of sources fills no log. Those held back are counted, and `/sources` has them.
const LINES: u64 = 5;

/// The denied sources that have been told of.
#[derive(Debug)]
pub(crate) struct Newcomers(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    known: LruCache<IpAddr, ()>,
    log: RateLimit,
}

impl Newcomers {
    /// Nobody yet.
    pub(crate) fn new() -> Self {
        let known = LruCache::new(NonZeroUsize::new(CAPACITY).unwrap_or(NonZeroUsize::MIN));
        Self(Mutex::new(Inner { known, log: RateLimit::per_second(LINES) }))
    }

    /// A denied source has been seen.
    pub(crate) fn denied(&self, address: IpAddr, now: Monotonic) {
        if let Some(Pass { held_back }) = self.line_for(address, now) {
            tracing::info!(source = %address, held_back, "new denied source: outside the allowed CIDRs");
        }
    }

    fn line_for(&self, address: IpAddr, now: Monotonic) -> Option<Pass> {
        let mut inner = self.0.lock();
        // Whoever comes again becomes the latest.
        if inner.known.get(&address).is_some() {
            return None;
        }
        inner.known.push(address, ());
        inner.log.pass(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_source_has_a_line_up_to_a_few_in_a_second_and_the_others_are_counted() {
        let newcomers = Newcomers::new();
        let line = |last: u8, ms: u64| {
            newcomers.line_for([192, 0, 2, last].into(), Monotonic::from_ns(ms * 1_000_000))
        };
        let told = Some(Pass { held_back: None });
        assert_eq!([line(1, 0), line(1, 1), line(2, 2), line(1, 3)], [told, None, told, None]);
        assert_eq!((3..=20).filter(|last| line(*last, 5).is_some()).count(), 3);
        assert_eq!(line(21, 1_000), Some(Pass { held_back: Some(15) }));
        assert_eq!(line(20, 1_000), None, "held back, not forgotten");
    }
}
