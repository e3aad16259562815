//! What the stress test measured, and which limit it met.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::held::LossReason;
use crate::document::quantiles::Quantiles;

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
    /// Connections that the target denied: it saw a source outside its CIDRs. One that it has closed is among `closed`, too.
    pub leaked: u64,
    /// Of those leaked, known by a close without a byte alone, which anything on the way can make: the target says no more.
    pub leaked_presumed: u64,
    /// Dials that failed.
    pub failed: u64,
    /// How long the handshakes of successful dials took; null if there was none.
    pub latency_seconds: Option<Quantiles>,
    /// Of those opened, answered by the target.
    pub answered: u64,
    /// Dials under way when the test ended: no outcome.
    pub unsettled: u64,
    /// SYNs that the kernel sent again, because no answer came within a second.
    pub syn_retransmissions: u64,
    /// Dials that they were of.
    pub lost_syn_dials: u64,
    /// The first and the last of those dials; null without one.
    pub first_lost_syn: Option<LostSyn>,
    /// See there.
    pub last_lost_syn: Option<LostSyn>,
    /// Most connections open at a time.
    pub peak_open: u64,
    /// From the first dial to the last one that the target has answered.
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
    /// Handshakes under way at a time.
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
        self.leaked += other.leaked;
        self.leaked_presumed += other.leaked_presumed;
        self.failed += other.failed;
        self.answered += other.answered;
        self.unsettled += other.unsettled;
        self.syn_retransmissions += other.syn_retransmissions;
        self.lost_syn_dials += other.lost_syn_dials;
        self.first_lost_syn = LostSyn::first(self.first_lost_syn, other.first_lost_syn);
        self.last_lost_syn = LostSyn::last(self.last_lost_syn, other.last_lost_syn);
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

/// A dial whose first SYN, or the answer to it, was lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LostSyn {
    /// When it was dialled.
    pub at_seconds: f64,
    /// Connections open or under way then.
    pub open: u64,
}

impl LostSyn {
    /// The earlier one.
    pub fn first(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds))
    }

    /// The later one.
    pub fn last(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).max_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds))
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
    /// Whether the target denied it.
    #[serde(default)]
    pub leaked: bool,
    /// How.
    pub reason: LossReason,
}

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialFailure {
    /// No local port is free for any pair of source address and target (EADDRNOTAVAIL).
    NoLocalPort,
    /// This process (EMFILE) or this host (ENFILE) has no descriptor left.
    NoDescriptor,
    /// This host has no memory for another socket (ENOBUFS, ENOMEM).
    NoMemory,
    /// A local rule forbids it (EPERM, EACCES: a firewall's REJECT, a cgroup program).
    Forbidden,
    /// No answer to the SYN within the dial timeout.
    Timeout,
    /// The handshake was complete, and no reply came within the dial timeout.
    NoReply,
    /// RST to the SYN.
    Refused,
    /// RST after the handshake, before any reply.
    Reset,
    /// An ICMP error or no route.
    Unreachable,
    /// Anything else; the list of failures has its text.
    Other,
}

impl DialFailure {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::NoLocalPort,
        Self::NoDescriptor,
        Self::NoMemory,
        Self::Forbidden,
        Self::Timeout,
        Self::NoReply,
        Self::Refused,
        Self::Reset,
        Self::Unreachable,
        Self::Other,
    ];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoLocalPort => "no_local_port",
            Self::NoDescriptor => "no_descriptor",
            Self::NoMemory => "no_memory",
            Self::Forbidden => "forbidden",
            Self::Timeout => "timeout",
            Self::NoReply => "no_reply",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// A limit, how sure that is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Which one.
    pub kind: LimitKind,
    /// Seen on this host, not only concluded.
    pub certain: bool,
    /// What it is concluded from.
    pub evidence: String,
    /// What moves it.
    pub remedy: String,
}

/// What there was not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Descriptors of this process or host.
    Descriptors,
    /// Local ports of this host.
    LocalPorts,
    /// Memory for sockets on this host.
    Memory,
    /// Ports, or connection tracking entries, of the gateway's NAT.
    NatPorts,
    /// The target: its descriptors, its accept queue, or it is gone.
    Target,
    /// The way there, whatever the number of connections.
    Path,
}

impl LimitKind {
    /// As text shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors of this host",
            Self::LocalPorts => "local ports of this host",
            Self::Memory => "socket memory of this host",
            Self::NatPorts => "the gateway's NAT ports",
            Self::Target => "the target",
            Self::Path => "the path",
        }
    }
}

/// The ports that the kernel chooses from: `net.ipv4.ip_local_port_range`, which IPv6 goes by as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
}

impl PortRange {
    /// How many there are.
    pub const fn ports(self) -> u32 {
        self.high as u32 - self.low as u32 + 1
    }
}

/// One point: what happened from `from_seconds` to the next point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// From the first dial.
    pub from_seconds: f64,
    /// Connections open at the point's end.
    pub open: u64,
    /// Connections established meanwhile.
    pub opened: u64,
    /// Connections that closed by themselves meanwhile.
    pub closed: u64,
    /// Dials that failed meanwhile.
    pub failed: u64,
    /// Mean time of the dials that succeeded meanwhile; null if none did.
    pub latency_mean_seconds: Option<f64>,
    /// Longest of them.
    pub latency_max_seconds: Option<f64>,
}
