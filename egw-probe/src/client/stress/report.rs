//! What the stress test measured: plain data, a part of the result document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failure::DialFailure;
use super::lanes::PortRange;
use super::limit::Limit;
use super::series::Point;
use crate::client::hold::LossReason;
use crate::client::result::Quantiles;

/// Failures and closings kept in the result; what comes after is only counted.
pub const CAP: usize = 1_000;

/// What the stress test measured. Instants count from its first dial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StressReport {
    /// Connections established.
    pub opened: u64,
    /// Of these, closed by themselves before the test was over.
    pub closed: u64,
    /// Dials that failed.
    pub failed: u64,
    /// How long successful dials took; null if there was none.
    pub latency_seconds: Option<Quantiles>,
    /// Of those opened, answered by the target.
    pub answered: u64,
    /// Dials under way when the test ended: no outcome.
    pub unsettled: u64,
    /// Most connections open at a time.
    pub peak_open: u64,
    /// From the first dial to the last connection established.
    pub opening_seconds: f64,
    /// Why the test ended.
    pub ended: Option<StressEnd>,
    /// The limit that it ran into; null if into none.
    pub limit: Option<Limit>,
    /// Failed dials by reason.
    pub failed_by: BTreeMap<DialFailure, u64>,
    /// The first failed dials, in order.
    pub failures: Vec<FailedDial>,
    /// Connections that closed by themselves, by how.
    pub closed_by: BTreeMap<LossReason, u64>,
    /// The first of them, in order.
    pub closings: Vec<Closing>,
    /// How it went over time.
    pub series: Vec<Point>,
    /// Dials under way at a time.
    pub concurrency: u64,
    /// Pairs of source address and target.
    pub lanes: u64,
    /// `net.ipv4.ip_local_port_range`: the ports of each pair.
    pub local_port_range: Option<PortRange>,
}

impl StressReport {
    /// Adds another shard's counts and lists.
    pub fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.failed += other.failed;
        self.answered += other.answered;
        self.unsettled += other.unsettled;
        // Each shard saw the connections of all.
        self.peak_open = self.peak_open.max(other.peak_open);
        self.opening_seconds = self.opening_seconds.max(other.opening_seconds);
        for (reason, count) in other.failed_by {
            *self.failed_by.entry(reason).or_default() += count;
        }
        for (reason, count) in other.closed_by {
            *self.closed_by.entry(reason).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.closings.extend(other.closings);
    }
}

/// Why a stress test ended; of several reasons the last one here counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StressEnd {
    /// As many connections as were asked for.
    Connections,
    /// The time was over.
    Duration,
    /// No descriptor was left for another connection.
    Descriptors,
    /// Too many dials failed.
    FailedDials,
    /// A signal came.
    Interrupted,
}

/// A dial that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedDial {
    /// When it was known.
    pub at_seconds: f64,
    /// How long the dial took.
    pub elapsed_seconds: f64,
    /// Connections open then.
    pub open: u64,
    /// Where it went.
    pub target: String,
    /// Why it failed.
    pub reason: DialFailure,
    /// The same in the kernel's words.
    pub error: String,
}

/// A connection that closed by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// When it was seen.
    pub at_seconds: f64,
    /// How long it had been open.
    pub open_seconds: f64,
    /// Where it went.
    pub target: String,
    /// Whether the target had answered on it.
    pub answered: bool,
    /// How.
    pub reason: LossReason,
}
