//! What became of a probe, as results, metrics and timelines name it.

use serde::{Deserialize, Serialize};

/// What became of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The line `pong\n` came.
    Pong,
    /// The target says that it saw a source outside the CIDRs; or, from a target that does not annotate its replies, a
    /// close without a byte.
    Leaked,
    /// A close without a byte although this target annotates: something else answered.
    Closed,
    /// An RST after the handshake.
    Reset,
    /// Established, and no verdict within the probe timeout.
    Silent,
    /// No handshake within the probe timeout.
    Timeout,
    /// RST to the SYN.
    Refused,
    /// An ICMP or routing error.
    Unreachable,
    /// Some other reply.
    Garbled,
    /// A local failure: no port, no descriptor, forbidden.
    Error,
}

impl Outcome {
    /// Every outcome, in the order in which they are reported.
    pub const ALL: [Self; 10] = [
        Self::Pong,
        Self::Leaked,
        Self::Closed,
        Self::Reset,
        Self::Silent,
        Self::Timeout,
        Self::Refused,
        Self::Unreachable,
        Self::Garbled,
        Self::Error,
    ];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Leaked => "leaked",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Garbled => "garbled",
            Self::Error => "error",
        }
    }

    /// Whether nothing came back that decides anything: the probe ran out of its time.
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Self::Silent | Self::Timeout)
    }
}

/// How it is known that a probe leaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// By the target's own `denied` line.
    Proven,
    /// By a close without a byte, which anything on the way can make.
    Presumed,
}
