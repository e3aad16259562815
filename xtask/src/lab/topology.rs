//! The machines of the lab as network namespaces, and the wires between them.
//!
//! ```text
//!  pod1 ─┐
//!  pod2 ─┤ node ──────────────── wire ── target      no policy: the node masquerades to its own address
//!   ...  │   └─ VXLAN ─ gateway ──┘                   policy: the gateway rewrites to the egress IP
//! ```
//!
//! Every neighbour is known beforehand, so no ARP and no neighbour discovery comes between a SYN and its way.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use anyhow::{Context, Result};

use super::{
    namespace::Namespace,
    nfset,
    policy::Policy,
    tool::{ip, ip6, nft},
};
use crate::unready;

/// Which Internet Protocol the clients use. The topology carries both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    pub(crate) fn egress(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, 100).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x100).into(),
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

/// The largest number of Pods: what the Pods' IPv4 network holds.
pub(crate) const MAX_PODS: usize = 60_000;

/// The packet mark and the routing table of traffic that a policy sends to the gateway.
const POLICY_MARK: u32 = 100;

/// All namespaces, wired up. Dropping it removes them.
pub(crate) struct Topology {
    pub(crate) pods: Vec<Namespace>,
    pub(crate) node: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) wire: Namespace,
    pub(crate) target: Namespace,
}

/// The node's side of the wire to Pod `pod`: what the policy selects a Pod by.
pub(crate) fn pod_interface(pod: usize) -> String {
    format!("pod{}", pod + 1)
}

impl Topology {
    /// Builds it for `pods` Pods. With `gap` the wire to the target is left open at two devices, `near` and `far` of
    /// the wire's namespace, for a forwarder to close.
    pub(crate) fn build(pods: usize, gap: bool) -> Result<Self> {
        let fixed = ["node", "gateway", "wire", "target"].map(String::from);
        let roles: Vec<String> = fixed.into_iter().chain((0..pods).map(pod_interface)).collect();
        let mut namespaces = Namespace::create(&roles)?.into_iter();
        let mut next = || namespaces.next().context("a namespace for each role");
        let (node, gateway, wire, target) = (next()?, next()?, next()?, next()?);
        let topology = Self { pods: namespaces.collect(), node, gateway, wire, target };
        topology.sysctls()?;
        topology.lay_wires(gap)?;
        topology.lay_tunnel().map_err(|error| kernel_lacks(error, "VXLAN", "CONFIG_VXLAN", "vxlan"))?;
        topology.load_rules().map_err(|error| {
            kernel_lacks(error, "NAT in nftables", "CONFIG_NFT_NAT and CONFIG_NFT_MASQ", "nft_masq")
        })?;
        topology.connect_pods()?;
        Ok(topology)
    }

    /// A new namespace takes `ip_forward` and `rp_filter` over from the first one: whatever they are there, set them.
    fn sysctls(&self) -> Result<()> {
        let set = |namespace: &Namespace, forwarding: &str| {
            namespace.sysctl(&[
                ("net/ipv4/ip_forward", forwarding),
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
                ("net/ipv6/conf/all/forwarding", forwarding),
                ("net/ipv6/conf/all/disable_ipv6", "0"),
                ("net/ipv6/conf/default/disable_ipv6", "0"),
                ("net/ipv6/conf/default/accept_ra", "0"),
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/all/accept_dad", "0"),
            ])
        };
        for namespace in [&self.node, &self.gateway] {
            set(namespace, "1")?;
        }
        for namespace in [&self.target].into_iter().chain(&self.pods) {
            set(namespace, "0")?;
        }
        // A wire has nothing to say for itself.
        self.wire
            .sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])
    }

    /// The network outside: node, gateway and target on one bridge.
    fn lay_wires(&self, gap: bool) -> Result<()> {
        let (node, gateway, target) = (self.node.name(), self.gateway.name(), self.target.name());
        let port = |name: &str, peer: &str, mac: &str| {
            format!(
                "link add {name} type veth peer name wire netns {peer} address {mac}\nlink set {name} up\n"
            )
        };
        let mut wire =
            String::from("link add bridge type bridge stp_state 0 mcast_snooping 0\nlink set bridge up\n");
        wire += &port("node", node, MAC_NODE);
        wire += &port("gateway", gateway, MAC_GATEWAY);
        wire += "link set node master bridge\nlink set gateway master bridge\n";
        wire += &port("far", target, MAC_TARGET);
        wire += if gap {
            "link add port type veth peer name near\nlink set port master bridge up\nlink set near up\n"
        } else {
            "link set far master bridge\n"
        };
        ip(Some(&self.wire), &wire)?;
        ip(
            Some(&self.node),
            &format!(
                "link set lo up\nlink set wire up\n{}{}",
                addresses("wire", &["203.0.113.1/24", "2001:db8:113::1/64"]),
                neighbours("wire", &[("203.0.113.10", MAC_TARGET), ("2001:db8:113::10", MAC_TARGET)]),
            ),
        )?;
        ip(
            Some(&self.gateway),
            &format!(
                "link set lo up\nlink set wire up\n{}{}",
                addresses(
                    "wire",
                    &["203.0.113.2/24", "203.0.113.100/24", "2001:db8:113::2/64", "2001:db8:113::100/64"]
                ),
                neighbours("wire", &[("203.0.113.10", MAC_TARGET), ("2001:db8:113::10", MAC_TARGET)]),
            ),
        )?;
        ip(
            Some(&self.target),
            &format!(
                "link set lo up\nlink set wire up\n{}{}",
                addresses("wire", &["203.0.113.10/24", "2001:db8:113::10/64"]),
                neighbours(
                    "wire",
                    &[
                        ("203.0.113.1", MAC_NODE),
                        ("203.0.113.100", MAC_GATEWAY),
                        ("2001:db8:113::1", MAC_NODE),
                        ("2001:db8:113::100", MAC_GATEWAY),
                    ]
                ),
            ),
        )
    }

    /// The tunnel from node to gateway, over a wire of its own, and the node's route into it for marked packets.
    fn lay_tunnel(&self) -> Result<()> {
        let tunnel = |local: &str, remote: &str, mac: &str| {
            format!(
                "link set underlay up\naddress add 172.16.0.{local}/30 dev underlay\n\
                 link add vxlan type vxlan id 1 dstport 4789 local 172.16.0.{local} remote 172.16.0.{remote}\n\
                 link set vxlan address {mac} up\n"
            )
        };
        let underlay = format!(
            "link add underlay address {MAC_NODE} type veth peer name underlay netns {} address {MAC_GATEWAY}\n",
            self.gateway.name()
        );
        let node = underlay
            + &tunnel("1", "2", MAC_NODE)
            + &neighbours("underlay", &[("172.16.0.2", MAC_GATEWAY)])
            + &neighbours("vxlan", &[("169.254.2.2", MAC_GATEWAY), ("fe80::2", MAC_GATEWAY)])
            // Only what comes from Pods: the tunnel's own packets bear the mark, too, and would go round in circles.
            + &format!(
                "rule add from 10.244.0.0/16 fwmark {POLICY_MARK} lookup {POLICY_MARK}\n\
                 route add default via 169.254.2.2 dev vxlan onlink table {POLICY_MARK}\n\
                 route add ::/0 via fe80::2 dev vxlan table {POLICY_MARK}\n"
            );
        ip(Some(&self.node), &node)?;
        ip6(&self.node, &format!("rule add from fd00:244::/64 fwmark {POLICY_MARK} lookup {POLICY_MARK}\n"))?;
        let gateway = tunnel("2", "1", MAC_GATEWAY)
            + &neighbours("underlay", &[("172.16.0.1", MAC_NODE)])
            + &neighbours("vxlan", &[("169.254.2.1", MAC_NODE), ("fe80::1", MAC_NODE)])
            + "route add 10.244.0.0/16 via 169.254.2.1 dev vxlan onlink\n\
               route add fd00:244::/64 via fe80::1 dev vxlan\n";
        ip(Some(&self.gateway), &gateway)
    }

    fn load_rules(&self) -> Result<()> {
        let (table, policy, dropped) = (nfset::TABLE, Policy::Gateway.set(), Policy::Drop.set());
        // Both decisions are looked up for every packet: a switch takes effect on connections under way, too.
        nft(
            &self.node,
            &format!(
                "table inet {table} {{
                    set {policy} {{ type ifname; }}
                    set {dropped} {{ type ifname; }}
                    chain steer {{
                        type filter hook prerouting priority mangle;
                        iifname @{policy} meta mark set {POLICY_MARK} accept
                        iifname @{dropped} drop
                    }}
                    chain leave {{
                        type nat hook postrouting priority srcnat;
                        oifname \"wire\" masquerade
                    }}
                }}"
            ),
        )?;
        nft(
            &self.gateway,
            &format!(
                "table inet {table} {{
                    chain leave {{
                        type nat hook postrouting priority srcnat;
                        oifname \"wire\" ip saddr 10.244.0.0/16 snat ip to {}
                        oifname \"wire\" ip6 saddr fd00:244::/64 snat ip6 to {}
                    }}
                }}",
                Family::V4.egress(),
                Family::V6.egress(),
            ),
        )
    }

    /// Gives every Pod its wire to the node, its addresses and its routes.
    fn connect_pods(&self) -> Result<()> {
        let mut node = String::new();
        for (pod, namespace) in self.pods.iter().enumerate() {
            let interface = pod_interface(pod);
            let (v4, v6) = (Family::V4.pod(pod), Family::V6.pod(pod));
            write!(
                node,
                "link add {interface} address {MAC_NODE} type veth peer name eth0 netns {} address {MAC_POD}\n\
                 link set {interface} up\n\
                 {}route add {v4} dev {interface}\nroute add {v6} dev {interface}\n",
                namespace.name(),
                neighbours(&interface, &[(&v4.to_string(), MAC_POD), (&v6.to_string(), MAC_POD)]),
            )?;
        }
        ip(Some(&self.node), &node)?;
        let configure = |first: usize| {
            for (pod, namespace) in self.pods.iter().enumerate().skip(first).step_by(2) {
                let (v4, v6) = (Family::V4.pod(pod).to_string(), Family::V6.pod(pod).to_string());
                let batch = format!(
                    "link set lo up\nlink set eth0 up\n{}{}\
                     route add default via 169.254.1.1 dev eth0 onlink\nroute add ::/0 via fe80::1 dev eth0\n",
                    addresses("eth0", &[&v4, &v6]),
                    neighbours("eth0", &[("169.254.1.1", MAC_NODE), ("fe80::1", MAC_NODE)]),
                );
                ip(Some(namespace), &batch)?;
            }
            Ok(())
        };
        // Most of this is waiting for `ip` to start: two at a time go twice as fast.
        thread::scope(|scope| {
            let odd = scope.spawn(|| configure(1));
            configure(0).and(odd.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

/// Names the kernel feature, where what a tool said means that the kernel lacks it.
fn kernel_lacks(error: anyhow::Error, feature: &str, option: &str, module: &str) -> anyhow::Error {
    let said = format!("{error:#}");
    let lacking = ["not supported", "Unknown device type", "No such file or directory"];
    if lacking.iter().any(|sign| said.contains(sign)) {
        let remedy = format!("run `modprobe {module}`, or use a kernel with {option}");
        return unready(format!("this kernel lacks {feature}: {remedy} ({said})"));
    }
    error
}

const MAC_POD: &str = "02:00:00:00:00:01";
const MAC_NODE: &str = "02:00:00:00:00:02";
const MAC_GATEWAY: &str = "02:00:00:00:00:03";
const MAC_TARGET: &str = "02:00:00:00:00:04";

/// Lines for `ip -batch` that give `device` its addresses, usable at once (no duplicate address detection).
fn addresses(device: &str, addresses: &[&str]) -> String {
    let line = |address: &&str| {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        format!("address add {address} dev {device}{nodad}\n")
    };
    addresses.iter().map(line).collect()
}

/// Lines for `ip -batch` that make neighbours known for good: such entries are exempt from the kernel's limit, too.
fn neighbours(device: &str, neighbours: &[(&str, &str)]) -> String {
    let line = |(address, mac): &(&str, &str)| {
        format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent\n")
    };
    neighbours.iter().map(line).collect()
}
