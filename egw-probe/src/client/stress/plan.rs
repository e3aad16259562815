//! What all shards of a stress test go by, and what they count together.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use socket2::TcpKeepalive;

use crate::client::metrics::ClientMetrics;
use crate::sys::clock::Monotonic;

/// What all shards go by.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Where everything is counted.
    pub metrics: &'a ClientMetrics,
    /// The first dial.
    pub begun: Monotonic,
    /// When the test is over, if that is set.
    pub end: Option<Monotonic>,
    /// Connections to open.
    pub wanted: u64,
    /// Connections that the descriptors allow, dials under way included.
    pub most: u64,
    /// The target annotates its replies.
    pub annotates: bool,
    /// Failed dials that end the test.
    pub max_failed: u64,
    /// Checks on idle connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Counts of all shards.
    pub total: Total,
}

/// Counts of all shards together.
#[derive(Debug, Default)]
pub(crate) struct Total {
    /// Connections established.
    pub opened: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections that closed by themselves.
    pub closed: AtomicU64,
    /// Dials that failed.
    pub failed: AtomicU64,
    /// Connections that the target denied.
    pub leaked: AtomicU64,
    /// Set once a signal has come.
    pub interrupted: AtomicBool,
    /// Dials begun, less those that failed.
    begun: AtomicU64,
    /// Descriptors taken.
    pub taken: AtomicU64,
}

impl Plan<'_> {
    /// Takes a place for one more dial, if there is one.
    pub(crate) fn claim(&self) -> bool {
        let total = &self.total;
        if total.failed.load(Relaxed) >= self.max_failed {
            return false;
        }
        if total.begun.fetch_add(1, Relaxed) < self.wanted {
            if total.taken.fetch_add(1, Relaxed) < self.most {
                return true;
            }
            total.taken.fetch_sub(1, Relaxed);
        }
        total.begun.fetch_sub(1, Relaxed);
        false
    }

    /// Gives a place back.
    pub(crate) fn give_back(&self) {
        self.total.begun.fetch_sub(1, Relaxed);
        self.total.taken.fetch_sub(1, Relaxed);
    }
}
