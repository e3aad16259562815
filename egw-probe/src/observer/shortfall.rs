//! What the observer cannot do, or not any more: told as a metric, by `/healthz`, and with `--ebpf=required` by the end of the
//! program.

/// One kind of shortfall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortfall {
    /// More own addresses than the kernel program can know.
    OwnAddresses,
    /// The host's interfaces and addresses cannot be read.
    Netlink,
    /// An interface that is to be observed could not be attached to.
    Interface,
    /// The observer has ended.
    Ended,
}

impl Shortfall {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::OwnAddresses, Self::Netlink, Self::Interface, Self::Ended];

    /// The `reason` label of `egw_probe_target_observer_degraded`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::OwnAddresses => "own_addresses",
            Self::Netlink => "netlink",
            Self::Interface => "interface",
            Self::Ended => "ended",
        }
    }
}
