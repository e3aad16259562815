//! From which address probes leak while the policy never comes, and whether clients say so.

use anyhow::Result;
use egw_probe::document::result::ResultDocument;

use super::addresses::{Family, LeakFrom};
use super::nfset;
use super::options::Plan;
use super::topology::Topology;

/// Puts in place what stays there for the whole lab.
pub(crate) fn put_in_place(plan: &Plan, topology: &Topology) -> Result<()> {
    if plan.leak_from != LeakFrom::Pod {
        return Ok(());
    }
    topology.node.nft(&format!("flush chain inet {} leave", nfset::TABLE))?;
    let [v4, v6] = [Family::V4, Family::V6].map(Family::node);
    topology.target.ip(&format!("route add 10.244.0.0/16 via {v4}\nroute add fd00:244::/64 via {v6}\n"))
}

/// The label by which a client knows its node.
pub(crate) fn label(plan: &Plan) -> [String; 2] {
    ["--label".into(), format!("node-ip={}", plan.family.node())]
}

/// What is wrong with the leaks of a client in its result, its log, and the summary of another one.
pub(crate) fn faults(plan: &Plan, measured: &ResultDocument, log: &str, summary: &str) -> Vec<String> {
    let mut faults = vec![];
    let (address, whose) = (plan.leak_from.address(plan.family), plan.leak_from.whose());
    let told = &measured.leaked_from;
    let right = matches!(told.as_slice(), [one] if one.address == address && one.whose == whose
        && one.probes == measured.probes.leaked_proven);
    if !right {
        faults.push(format!("leaks of {address} ({whose:?}) are told as {told:?}"));
    }
    if !measured.egress_ips.is_empty() {
        faults.push(format!("egress IPs {:?} though all leak", measured.egress_ips));
    }
    let line = format!("probes leak from this address address={address}");
    if log.matches(&line).count() != 1 {
        faults.push(format!("the log does not say once: {line}"));
    }
    let said = format!("probes from {address}{}", plan.leak_from.words());
    if !summary.contains(&said) {
        faults.push(format!("the summary lacks {said:?}: {summary}"));
    }
    faults
}
