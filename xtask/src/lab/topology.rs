//! The machines of the lab as network namespaces, and the wires between them.
//!
//! ```text
//!  pod1 ─┐
//!  pod2 ─┤ node ──────────────── wire ── target      no policy: the node masquerades to its own address
//!   ...  │   ├─ VXLAN ─ gateway ──┤                   policy: the gateway rewrites to the egress IP
//!            ├─ VXLAN ─ second ───┤                   failover: the second one does, to the same or another egress IP
//!            └─ VXLAN ─ third ────┘                   several gateways: each does, for connections of its own
//! ```
//!
//! Every neighbour is known beforehand, so that no ARP and no neighbour discovery comes between a SYN and its way, unless
//! that is to disturb it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::addresses::{Family, pod_interface};
use super::namespace::Namespace;
use super::nfset;
use super::policy::Policy;
use crate::unready::unready;

/// The largest number of Pods: what the Pods' IPv4 network holds.
pub(crate) const MAX_PODS: usize = 60_000;

/// The packet mark and the routing table of traffic that a policy sends to the first gateway; the others' follow.
const POLICY_MARK: u32 = 100;
/// The same for the second gateway.
const SECOND_MARK: u32 = POLICY_MARK + 1;
/// Else each start of a lab has another one.
const HASH_SEED: u32 = 0x0e9e_55ed;
/// The gateways' roles. The first is always there.
const GATEWAYS: [&str; 3] = ["gateway", "second", "third"];

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) pods: usize,
    /// The wire to the target is left open at two devices, `near` and `far` of the wire's namespace, for a forwarder to
    /// close.
    pub(crate) gap: bool,
    pub(crate) nat: Nat,
    pub(crate) gateways: Gateways,
    /// SYN-ACKs to the node's own address get lost: handshakes of leaked SYNs never complete.
    pub(crate) no_return: bool,
    /// The gateway that the policy moves to last does not know the target's MAC address, and asks for it when traffic comes.
    pub(crate) asks: bool,
}

/// How many gateways there are, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gateways {
    One,
    /// The policy moves to the second one. With the same IP that rewrites to the first one's egress IP, and answers to the same
    /// MAC address, as a VRRP router does: the bridge learns from its first frame where that is now.
    Two {
        same_ip: bool,
    },
    /// The node spreads connections over so many.
    Spread(u8),
}

impl Gateways {
    const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two { .. } => 2,
            Self::Spread(number) => number,
        }
    }

    /// The node's rules that mark what the set `gateway` selects. A hash of the source, as in ECMP: all segments of a connection
    /// go the same way.
    fn steer(self, gateway: &str) -> String {
        let Self::Spread(gateways) = self else {
            return format!("iifname @{gateway} meta mark set {POLICY_MARK} accept");
        };
        let by = |family: &str| {
            format!(
                "iifname @{gateway} meta mark set jhash {family} saddr . tcp sport mod {gateways} seed 0x{HASH_SEED:x} \
                 offset {POLICY_MARK} accept\n"
            )
        };
        by("ip") + &by("ip6")
    }
}

/// How node and gateway choose source ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nat {
    /// The source port stays, where it is free
    Masquerade,
    /// A random port
    FullyRandom,
    /// A port from a range
    PortRange,
}

impl Nat {
    /// What follows an address, or its lack, in a rule.
    const fn ports(self) -> &'static str {
        match self {
            Self::Masquerade => "",
            Self::FullyRandom => " fully-random",
            Self::PortRange => ":20000-59999",
        }
    }

    fn masquerade(self) -> String {
        let to = if self == Self::PortRange { " to " } else { "" };
        format!("masquerade{to}{}", self.ports())
    }

    fn snat(self, egress: IpAddr) -> String {
        let ports = self.ports();
        match egress {
            IpAddr::V4(egress) => format!("snat ip to {egress}{ports}"),
            IpAddr::V6(egress) if self == Self::PortRange => format!("snat ip6 to [{egress}]{ports}"),
            IpAddr::V6(egress) => format!("snat ip6 to {egress}{ports}"),
        }
    }
}

/// All namespaces, wired up. Dropping it removes them.
pub(crate) struct Topology {
    pub(crate) pods: Vec<Namespace>,
    pub(crate) node: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) wire: Namespace,
    pub(crate) target: Namespace,
    /// The other gateways.
    further: Vec<Namespace>,
}

/// A gateway, as the rest of the topology sees it.
struct Gateway<'lab> {
    namespace: &'lab Namespace,
    /// Counted from 1: the number of its tunnel.
    number: u8,
    mark: u32,
    mac: &'static str,
    addresses: [IpAddr; 2],
    egress: [IpAddr; 2],
}

impl Topology {
    pub(crate) fn build(layout: Layout) -> Result<Self> {
        let gateways = GATEWAYS.into_iter().take(layout.gateways.number().into());
        let fixed = ["node", "wire", "target"].into_iter().chain(gateways);
        let roles: Vec<String> = fixed.map(String::from).chain((0..layout.pods).map(pod_interface)).collect();
        let mut namespaces = Namespace::create(&roles)?.into_iter();
        let mut next = || namespaces.next().context("a namespace for each role");
        let (node, wire, target, gateway) = (next()?, next()?, next()?, next()?);
        let further = (1..layout.gateways.number()).map(|_| next()).collect::<Result<_>>()?;
        let topology = Self { pods: namespaces.collect(), node, gateway, wire, target, further };
        topology.sysctls()?;
        topology.lay_wires(layout)?;
        for gateway in topology.gateways(layout) {
            topology
                .connect_gateway(&gateway)
                .map_err(|error| kernel_lacks(error, "VXLAN", "CONFIG_VXLAN", "vxlan"))?;
            load_gateway_rules(&gateway, layout.nat).map_err(kernel_lacks_nat)?;
        }
        topology.load_node_rules(layout).map_err(kernel_lacks_nat)?;
        topology.connect_pods()?;
        if layout.asks {
            topology.let_newcomer_ask()?;
        }
        Ok(topology)
    }

    /// Makes target, node and gateways forget connections that have ended. Else a run at a short interval soon comes upon ports
    /// of an earlier one: a target in TIME-WAIT answers a held connection's stray segment with an ACK, where any other
    /// answers with an RST, and a gateway does not translate it.
    pub(crate) fn forget_ended_connections(&self) -> Result<()> {
        self.target.sysctl(&[("net/ipv4/tcp_max_tw_buckets", "0")])?;
        for namespace in [&self.node, &self.gateway].into_iter().chain(&self.further) {
            for state in ["time_wait", "close", "close_wait", "fin_wait", "last_ack"] {
                let timeout = format!("net/netfilter/nf_conntrack_tcp_timeout_{state}");
                namespace.sysctl(&[(&timeout, "1")])?;
            }
        }
        Ok(())
    }

    /// The gateway that the policy moves to last.
    pub(crate) fn newcomer(&self) -> &Namespace {
        self.further.last().unwrap_or(&self.gateway)
    }

    /// Whether it knows the target's MAC address.
    pub(crate) fn newcomer_knows(&self, family: Family) -> Result<bool> {
        let target = family.target().to_string();
        let said = self.newcomer().ask("ip", &["neighbour", "show", "to", &target, "dev", "wire"])?;
        Ok(said.contains("lladdr") && !said.contains("FAILED"))
    }

    /// Lets it ask often and for long, and the target be silent about it.
    fn let_newcomer_ask(&self) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            let setting = |name: &str| format!("net/{family}/neigh/wire/{name}");
            let (pause, limit) = (setting("retrans_time_ms"), setting("mcast_solicit"));
            self.newcomer().sysctl(&[(&pause, "20"), (&limit, "500")])?;
        }
        self.newcomer()
            .ip("neighbour delete 203.0.113.10 dev wire\nneighbour delete 2001:db8:113::10 dev wire\n")?;
        let mute = Policy::Mute.set();
        self.target.nft(&format!(
            "table netdev {} {{
                set {mute} {{ type ifname; }}
                chain listen {{
                    type filter hook ingress device \"wire\" priority filter;
                    iifname @{mute} ether type arp drop
                    iifname @{mute} icmpv6 type nd-neighbor-solicit drop
                }}
            }}",
            nfset::TABLE
        ))
    }

    fn gateways(&self, layout: Layout) -> Vec<Gateway<'_>> {
        let namespaces = [&self.gateway].into_iter().chain(&self.further);
        let gateway = |(number, namespace): (u8, _)| {
            let like = if layout.gateways == (Gateways::Two { same_ip: true }) { 1 } else { number };
            Gateway {
                namespace,
                number,
                mark: POLICY_MARK + u32::from(number) - 1,
                mac: MAC_GATEWAYS[usize::from(like) - 1],
                addresses: [Ipv4Addr::new(203, 0, 113, 1 + number).into(), wire_v6(1 + u16::from(number))],
                egress: [Family::V4, Family::V6].map(|family| family.egress(like)),
            }
        };
        (1..).zip(namespaces).map(gateway).collect()
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
        for namespace in [&self.node, &self.gateway].into_iter().chain(&self.further) {
            set(namespace, "1")?;
        }
        for namespace in [&self.target].into_iter().chain(&self.pods) {
            set(namespace, "0")?;
        }
        // A wire has nothing to say for itself.
        self.wire
            .sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])
    }

    /// The network outside: node, gateways and target on one bridge.
    fn lay_wires(&self, layout: Layout) -> Result<()> {
        let port = |name: &str, peer: &Namespace, mac: &str| {
            let peer = peer.name();
            format!(
                "link add {name} type veth peer name wire netns {peer} address {mac}\nlink set {name} up\n"
            )
        };
        let mut wire =
            String::from("link add bridge type bridge stp_state 0 mcast_snooping 0\nlink set bridge up\n");
        wire += &port("node", &self.node, MAC_NODE);
        wire += "link set node master bridge\n";
        for gateway in self.gateways(layout) {
            let name = format!("gateway{}", gateway.number);
            wire += &port(&name, gateway.namespace, gateway.mac);
            let _ = writeln!(wire, "link set {name} master bridge");
        }
        wire += &port("far", &self.target, MAC_TARGET);
        wire += if layout.gap {
            "link add port type veth peer name near\nlink set port master bridge up\nlink set near up\n"
        } else {
            "link set far master bridge\n"
        };
        self.wire.ip(&wire)?;
        let up = "link set lo up\nlink set wire up\n";
        let to_target = neighbours("wire", &[("203.0.113.10", MAC_TARGET), ("2001:db8:113::10", MAC_TARGET)]);
        let own = addresses("wire", &["203.0.113.1/24", "2001:db8:113::1/64"]);
        self.node.ip(&format!("{up}{own}{to_target}"))?;
        // The bridge floods what goes to nobody, and every host ignores it.
        let node = if layout.no_return { MAC_NOBODY } else { MAC_NODE };
        let mut target = format!("{up}{}", addresses("wire", &["203.0.113.10/24", "2001:db8:113::10/64"]));
        target += &neighbours("wire", &[("203.0.113.1", node), ("2001:db8:113::1", node)]);
        for gateway in self.gateways(layout) {
            let with_prefix =
                |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
            let held: Vec<String> =
                gateway.addresses.iter().chain(&gateway.egress).map(with_prefix).collect();
            let held: Vec<&str> = held.iter().map(String::as_str).collect();
            gateway.namespace.ip(&format!("{up}{}{to_target}", addresses("wire", &held)))?;
            let egress = gateway.egress.map(|egress| egress.to_string());
            target += &neighbours("wire", &[(&egress[0], gateway.mac), (&egress[1], gateway.mac)]);
        }
        self.target.ip(&target)
    }

    /// The tunnel from node to gateway, over a wire of its own, and the node's route into it for marked packets.
    fn connect_gateway(&self, gateway: &Gateway) -> Result<()> {
        let Gateway { number, mark, .. } = *gateway;
        let tunnel = |suffix: &str, local: &str, remote: &str, mac: &str| {
            format!(
                "link set underlay{suffix} up\naddress add 172.16.{number}.{local}/30 dev underlay{suffix}\n\
                 link add vxlan{suffix} type vxlan id {number} dstport 4789 \
                 local 172.16.{number}.{local} remote 172.16.{number}.{remote}\n\
                 link set vxlan{suffix} address {mac} up\n"
            )
        };
        let suffix = number.to_string();
        let node = format!(
            "link add underlay{number} address {MAC_NODE} type veth peer name underlay netns {} address {MAC_GATEWAY}\n",
            gateway.namespace.name()
        ) + &tunnel(&suffix, "1", "2", MAC_NODE)
            + &neighbours(&format!("underlay{number}"), &[(&format!("172.16.{number}.2"), MAC_GATEWAY)])
            + &neighbours(&format!("vxlan{number}"), &[("169.254.2.2", MAC_GATEWAY), ("fe80::2", MAC_GATEWAY)])
            // Only what comes from Pods: the tunnel's own packets bear the mark, too, and would go round in circles.
            + &format!(
                "rule add from 10.244.0.0/16 fwmark {mark} lookup {mark}\n\
                 route add default via 169.254.2.2 dev vxlan{number} onlink table {mark}\n\
                 route add ::/0 via fe80::2 dev vxlan{number} table {mark}\n"
            );
        self.node.ip(&node)?;
        self.node.ip6(&format!("rule add from fd00:244::/64 fwmark {mark} lookup {mark}\n"))?;
        let far = tunnel("", "2", "1", MAC_GATEWAY)
            + &neighbours("underlay", &[(&format!("172.16.{number}.1"), MAC_NODE)])
            + &neighbours("vxlan", &[("169.254.2.1", MAC_NODE), ("fe80::1", MAC_NODE)])
            + "route add 10.244.0.0/16 via 169.254.2.1 dev vxlan onlink\n\
               route add fd00:244::/64 via fe80::1 dev vxlan\n";
        gateway.namespace.ip(&far)
    }

    fn load_node_rules(&self, layout: Layout) -> Result<()> {
        let [gateway, second, dropped] = [Policy::Gateway, Policy::Second, Policy::Drop].map(Policy::set);
        // All decisions are looked up for every packet: a switch takes effect on connections under way, too. What stays inside
        // the cluster is no policy's.
        self.node.nft(&format!(
            "table inet {} {{
                    set {gateway} {{ type ifname; }}
                    set {second} {{ type ifname; }}
                    set {dropped} {{ type ifname; }}
                    chain steer {{
                        type filter hook prerouting priority mangle;
                        ip daddr 10.244.0.0/16 accept
                        ip6 daddr fd00:244::/64 accept
                        iifname @{second} meta mark set {SECOND_MARK} accept
                        {}
                        iifname @{dropped} drop
                    }}
                    chain leave {{
                        type nat hook postrouting priority srcnat;
                        oifname \"wire\" meta l4proto tcp {}
                    }}
                }}",
            nfset::TABLE,
            layout.gateways.steer(gateway),
            layout.nat.masquerade(),
        ))
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
        self.node.ip(&node)?;
        let configure = |first: usize| {
            for (pod, namespace) in self.pods.iter().enumerate().skip(first).step_by(2) {
                let (v4, v6) = (Family::V4.pod(pod).to_string(), Family::V6.pod(pod).to_string());
                let batch = format!(
                    "link set lo up\nlink set eth0 up\n{}{}\
                     route add default via 169.254.1.1 dev eth0 onlink\nroute add ::/0 via fe80::1 dev eth0\n",
                    addresses("eth0", &[&v4, &v6]),
                    neighbours("eth0", &[("169.254.1.1", MAC_NODE), ("fe80::1", MAC_NODE)]),
                );
                namespace.ip(&batch)?;
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

fn load_gateway_rules(gateway: &Gateway, nat: Nat) -> Result<()> {
    let dead = Policy::Dead.set();
    let [v4, v6] = gateway.egress.map(|egress| nat.snat(egress));
    gateway.namespace.nft(&format!(
        "table inet {} {{
                set {dead} {{ type ifname; }}
                chain forward {{
                    type filter hook forward priority filter;
                    iifname @{dead} drop
                    oifname @{dead} drop
                }}
                chain leave {{
                    type nat hook postrouting priority srcnat;
                    oifname \"wire\" ip saddr 10.244.0.0/16 meta l4proto tcp {v4}
                    oifname \"wire\" ip6 saddr fd00:244::/64 meta l4proto tcp {v6}
                }}
            }}",
        nfset::TABLE,
    ))
}

fn kernel_lacks_nat(error: anyhow::Error) -> anyhow::Error {
    kernel_lacks(error, "NAT in nftables", "CONFIG_NFT_NAT and CONFIG_NFT_MASQ", "nft_masq")
}

/// Names the kernel feature, where what a tool said means that the kernel lacks it.
pub(super) fn kernel_lacks(error: anyhow::Error, feature: &str, option: &str, module: &str) -> anyhow::Error {
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
const MAC_GATEWAY: &str = MAC_GATEWAYS[0];
const MAC_GATEWAYS: [&str; GATEWAYS.len()] = ["02:00:00:00:00:03", "02:00:00:00:00:05", "02:00:00:00:00:06"];
const MAC_TARGET: &str = "02:00:00:00:00:04";
/// No device has it.
const MAC_NOBODY: &str = "02:00:00:00:00:ff";

/// Address number `host` on the wire.
fn wire_v6(host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host).into()
}

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
