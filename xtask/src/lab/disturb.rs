//! What disturbs a measurement: real parts in the lab's namespaces, and how they are put there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::addresses::{Family, PORT, pod_interface};
use super::disturbance::{Disturb, MOST_JITTER};
use super::namespace::Namespace;
use super::options::Plan;
use super::proxy::Proxy;
use super::topology::{Topology, kernel_lacks};
use super::wire::Manner;

/// Ports of a Pod whose ports are soon used again.
const FEW_PORTS: &str = "40000 40063";
/// Marks what a sidecar sends, so that it does not come back to it.
const SIDECAR_MARK: u32 = 7;

/// The parts that run; dropping it ends them.
pub(crate) struct Parts {
    _proxies: Vec<Proxy>,
}

/// What the wire does to frames.
pub(crate) fn manner(plan: &Plan, seed: u64) -> Manner {
    let share = |what| if plan.has(what) { 0.1 } else { 0.0 };
    Manner {
        delay: plan.delay / 2,
        jitter: if plan.has(Disturb::Jitter) { MOST_JITTER } else { Duration::ZERO },
        duplicated: share(Disturb::Duplicate),
        overtaken: share(Disturb::Reorder),
        late: MOST_JITTER,
        seed,
    }
}

/// Puts everything in place that stays there for the whole lab.
pub(crate) fn put_in_place(plan: &Plan, topology: &Topology) -> Result<Parts> {
    let mut proxies = vec![];
    for what in &plan.disturb {
        match what {
            Disturb::Proxy => proxies.extend(start_proxies(plan, topology)?),
            Disturb::Sidecar => proxies.extend(start_sidecars(plan, topology)?),
            Disturb::Synproxy => load_synproxy(&topology.target)?,
            Disturb::Loss => load_loss(&topology.target, plan.loss_percent)?,
            Disturb::Portreuse => {
                for pod in &topology.pods {
                    pod.sysctl(&[("net/ipv4/ip_local_port_range", FEW_PORTS)])?;
                }
            }
            // The topology is built for it, the wire made for them.
            Disturb::Arp | Disturb::Jitter | Disturb::Duplicate | Disturb::Reorder => {}
        }
    }
    Ok(Parts { _proxies: proxies })
}

/// In a Pod beside each client's: the node sends what the client sends to the target there.
fn start_proxies(plan: &Plan, topology: &Topology) -> Result<Vec<Proxy>> {
    let start = |pod: usize| {
        let (from, proxy) = (pod_interface(pod), plan.steered(pod));
        let (v4, v6) = (Family::V4.pod(proxy), Family::V6.pod(proxy));
        topology.node.nft(&format!(
            "table inet egwl-proxy {{
                chain divert {{
                    type nat hook prerouting priority dstnat;
                    iifname \"{from}\" tcp dport {PORT} dnat ip to {v4}
                    iifname \"{from}\" tcp dport {PORT} dnat ip6 to {v6}
                }}
            }}"
        ))?;
        Proxy::start(&topology.pods[proxy], target(plan), None, plan.rtt)
    };
    (0..plan.clients).map(start).collect()
}

fn start_sidecars(plan: &Plan, topology: &Topology) -> Result<Vec<Proxy>> {
    let start = |namespace: &Namespace| {
        namespace.nft(&format!(
            "table inet egwl-sidecar {{
                chain divert {{
                    type nat hook output priority -100;
                    oifname \"eth0\" tcp dport {PORT} meta mark != {SIDECAR_MARK} redirect to :{PORT}
                }}
            }}"
        ))?;
        Proxy::start(namespace, target(plan), Some(SIDECAR_MARK), plan.rtt)
    };
    topology.pods.iter().map(start).collect()
}

/// Without timestamps: with them, SYNPROXY hands on an acknowledgement with a wrong echo, and a target that drops it begins a second
/// later (Linux 6.18).
fn load_synproxy(target: &Namespace) -> Result<()> {
    let rules = format!(
        "table inet egwl-synproxy {{
            chain untrack {{
                type filter hook prerouting priority raw;
                tcp dport {PORT} tcp flags syn notrack
            }}
            chain answer {{
                type filter hook input priority filter;
                tcp dport {PORT} ct state invalid,untracked synproxy mss 1460
                tcp dport {PORT} ct state invalid drop
            }}
        }}"
    );
    target.nft(&rules).map_err(|error| {
        kernel_lacks(error, "SYNPROXY in nftables", "CONFIG_NFT_SYNPROXY", "nft_synproxy")
    })?;
    // Else the acknowledgement of a cookie passes for a connection under way.
    target.sysctl(&[("net/netfilter/nf_conntrack_tcp_loose", "0")])
}

fn target(plan: &Plan) -> SocketAddr {
    SocketAddr::new(plan.family.target(), PORT)
}

/// Both ways, between the last NAT and the target.
fn load_loss(target: &Namespace, percent: u32) -> Result<()> {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{
                type filter hook {hook} device \"wire\" priority filter;
                meta l4proto tcp numgen random mod 100 < {percent} drop
            }}\n"
        )
    };
    let rules = format!("table netdev egwl-loss {{\n{}{}}}", chain("ingress"), chain("egress"));
    target.nft(&rules).map_err(|error| {
        kernel_lacks(error, "packet filters at egress", "CONFIG_NETFILTER_EGRESS", "nf_tables")
    })
}
