//! What became of a probe, as results, metrics and timelines name it.

use serde::{Deserialize, Serialize};

/// What became of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The line `pong\n` came.
    Pong,
    /// Established, then closed or reset without a pong: the target saw a source outside the CIDR.
    Leaked,
    /// No verdict within the probe timeout.
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
    pub const ALL: [Self; 7] = [
        Self::Pong,
        Self::Leaked,
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
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Garbled => "garbled",
            Self::Error => "error",
        }
    }
}
