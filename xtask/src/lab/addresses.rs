//! Addresses, ports and names that the lab's parts agree on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use egw_probe::document::egress::Whose;

/// The port probes go to.
pub(crate) const PORT: u16 = 1337;
/// The target's pages.
pub(crate) const METRICS_PORT: u16 = 2113;

/// A gateway's end of the tunnel.
pub(crate) const GATEWAY_TUNNEL: &str = "vxlan";

/// The node's side of the wire to Pod `pod`: what the policy selects a Pod by.
pub(crate) fn pod_interface(pod: usize) -> String {
    format!("pod{}", pod + 1)
}

/// Which Internet Protocol the clients use. The topology carries both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn target(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// The node's, on the wire to the target.
    pub(crate) fn node(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1).into(),
        }
    }

    /// That of gateway `number`, counted from 1, where it has one of its own.
    pub(crate) fn egress(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, 99 + number).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0xff + u16::from(number)).into(),
        }
    }

    /// The source address of Pod `pod`, counted from 0.
    pub(crate) fn pod(self, pod: usize) -> IpAddr {
        let number = pod as u32 + 1;
        match self {
            Self::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + number).into(),
            Self::V6 => {
                let net = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0);
                Ipv6Addr::from_bits(net.to_bits() + u128::from(number)).into()
            }
        }
    }
}

/// Whose address the target sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeakFrom {
    /// The node masquerades
    Node,
    /// Nobody translates
    Pod,
    /// The policy is in force, and the target does not allow its gateway's egress IP
    Gateway,
}

impl LeakFrom {
    /// The address of the first Pod's leaks.
    pub(crate) fn address(self, family: Family) -> IpAddr {
        match self {
            Self::Node => family.node(),
            Self::Pod => family.pod(0),
            Self::Gateway => family.egress(1),
        }
    }

    pub(crate) const fn whose(self) -> Option<Whose> {
        match self {
            Self::Node => Some(Whose::Node),
            Self::Pod => Some(Whose::Own),
            Self::Gateway => None,
        }
    }

    /// What the summary says of the address.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Node => ", the node's address",
            Self::Pod => ", the client's own address",
            Self::Gateway => "; from",
        }
    }
}
