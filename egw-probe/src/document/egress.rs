//! From which addresses a client's connections came, as the target saw them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An egress IP: a source address inside the allowed CIDRs. Instants are when a probe was sent, from the client's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressIp {
    /// The address.
    pub address: IpAddr,
    /// Pongs that came by it.
    pub pongs: u64,
    /// The same as a share of all pongs that told an address, 0 to 1.
    pub share: f64,
    /// The first of them.
    pub first_seconds: f64,
    /// The last of them.
    pub last_seconds: f64,
    /// It still came when the probing ended, as far as its share tells.
    pub in_force: bool,
    /// Probes missed while it came (from its first pong to the last before it stopped, and so each time that it returned), by
    /// whichever gateway they went.
    pub missed: u64,
}

/// A source address outside the allowed CIDRs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeakSource {
    /// The address.
    pub address: IpAddr,
    /// Whose it is, where that is known.
    pub whose: Option<Whose>,
    /// Probes that leaked from it.
    pub probes: u64,
    /// The first of them was sent then, from the client's start.
    pub first_seconds: f64,
    /// And the last.
    pub last_seconds: f64,
}

/// Whose address a leak came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The client's own: nothing has translated it.
    Own,
    /// That of the client's node, as `--label node-ip=` tells it.
    Node,
}

/// An egress IP that came for the first time after another one, or came again after it had stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressChange {
    /// The first probe from it was sent then.
    pub at_seconds: f64,
    /// The address of the pong before.
    pub from: IpAddr,
    /// The address that came.
    pub to: IpAddr,
}
