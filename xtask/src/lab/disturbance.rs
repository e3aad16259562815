//! What can be disturbed: the words of `--disturb`.

use std::time::Duration;

use clap::ValueEnum;

/// The most that jitter, a duplicate or reordering adds to a frame's way, each.
pub(crate) const MOST_JITTER: Duration = Duration::from_millis(20);

/// What is disturbed, as `--disturb` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Disturb {
    /// A TCP proxy in a Pod of its own answers at once, then dials the target; where it cannot, it closes or resets
    Proxy,
    /// The same proxy in the client's own Pod
    Sidecar,
    /// The target's host answers SYNs by SYN cookies (SYNPROXY), and only then lets the connection begin
    Synproxy,
    /// The gateway has to ask for the target's MAC address (ARP, ND), and gets no answer for a while
    Arp,
    /// Packets are lost by chance between NAT and target
    Loss,
    /// Each frame takes up to 20 ms longer, in order
    Jitter,
    /// One frame of ten comes twice, the second time up to 20 ms later
    Duplicate,
    /// One frame of ten takes up to 20 ms longer, and others overtake it
    Reorder,
    /// The Pod has 64 source ports
    Portreuse,
}

impl Disturb {
    /// Whether it answers SYNs for the target.
    pub(crate) const fn terminates_tcp(self) -> bool {
        matches!(self, Self::Proxy | Self::Sidecar | Self::Synproxy)
    }
}
