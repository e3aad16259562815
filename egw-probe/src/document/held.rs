//! What became of held connections: stalls and losses.

use serde::{Deserialize, Serialize};

use crate::document::disruption::LengthBracket;

/// What became of the held connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// How many were to be held.
    pub connections: u64,
    /// Connections that the target answered with pong, those opened again after a loss included.
    pub opened: u64,
    /// Attempts that the target denied: it saw a source outside its CIDRs.
    #[serde(default)]
    pub leaked: u64,
    /// Of these, known by a close without a byte alone, which anything on the way can make.
    #[serde(default)]
    pub leaked_presumed: u64,
    /// Connections lost, in order.
    pub lost: Vec<Loss>,
    /// All losses, those beyond the list included.
    pub lost_total: u64,
    /// Stalls, in the order in which they ended.
    pub stalls: Vec<HeldStall>,
    /// All stalls, those beyond the list included.
    pub stalls_total: u64,
}

/// A stall of one held connection. Instants are counted from the client's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldStall {
    /// Number of the connection, from 0.
    pub connection: u64,
    /// The byte that was lost first was sent then.
    pub at_seconds: f64,
    /// Until it was acknowledged; without an upper end while it was not.
    pub length_seconds: LengthBracket,
    /// How long the path itself was interrupted: the retransmissions that failed and the one that succeeded bound it.
    pub outage_seconds: LengthBracket,
    /// How often the kernel sent again.
    pub retransmissions: u64,
    /// How it ended.
    pub ended: StallEnd,
}

/// How a stall ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StallEnd {
    /// The connection survived.
    Recovered,
    /// The connection was lost meanwhile.
    Lost,
    /// The watch ended first.
    Open,
}

/// A held connection that was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Number of the connection.
    pub connection: u64,
    /// When it was seen, from the start.
    pub at_seconds: f64,
    /// How.
    pub reason: LossReason,
}

/// How a held connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// By an RST: its NAT state or its other end is gone, or its other end ended before it had read everything.
    Reset,
    /// The other end closed it: a target without `--keep-open`, or one that ended.
    Closed,
    /// The kernel gave up sending again.
    TimedOut,
    /// By another error of the path.
    Unreachable,
}

impl LossReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Reset, Self::Closed, Self::TimedOut, Self::Unreachable];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
        }
    }
}
