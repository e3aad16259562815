//! Disruptions after the winner, and changes of the egress IP.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What kind of misses a disruption was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// At least one leaked.
    Leak,
    /// All timed out.
    Blackhole,
    /// Neither: refused, unreachable or garbled.
    Rejected,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Leak, Self::Blackhole, Self::Rejected];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Blackhole => "blackhole",
            Self::Rejected => "rejected",
        }
    }
}

/// A run of misses after a pong. Instants are counted from the client's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disruption {
    /// What the misses were.
    pub kind: Kind,
    /// The first miss was sent then.
    pub start_seconds: f64,
    /// How long it lasted, as far as the probes tell.
    pub length_seconds: LengthBracket,
    /// Probes missed.
    pub misses: u64,
}

/// A length known to lie between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthBracket {
    /// `sent(last miss)` less the instant by which the path was surely broken: when the first miss was settled, or when it
    /// should have been, had it taken as long as the last pong did. 0 where that comes later.
    pub lower: f64,
    /// `sent(next pong) - sent(last pong)`; null while the disruption is open.
    pub upper: Option<f64>,
}

/// A source address other than before, as annotated replies told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressChange {
    /// The first probe from the new address was sent then.
    pub at_seconds: f64,
    /// The address before.
    pub from: IpAddr,
    /// The address since.
    pub to: IpAddr,
}
