//! Leaks that are made for a whole lab, and whether clients tell them: from which address probes leak while the policy never
//! comes, and how many connections of a stress test pass by a policy that is in force.

use std::collections::HashSet;

use anyhow::Result;
use egw_probe::document::result::ResultDocument;

use super::addresses::{Family, LeakFrom};
use super::capture::Captured;
use super::nfset;
use super::options::{Plan, Scenario};
use super::topology::Topology;

/// Connections of a stress test, and of how many one passes the gateway by.
const CONNECTIONS: u64 = 2_000;
const ONE_IN: u64 = 50;

/// What a client is to do for a stress test.
pub(crate) fn stress() -> [String; 4] {
    let connections = format!("--stress-connections={CONNECTIONS}");
    ["--stress".into(), connections, "--stress-concurrency=8".into(), "--max-leaked=0".into()]
}

/// What is wrong with the leaks that a stress test tells, beside a capture of what arrived at the target.
pub(crate) fn stress_faults(plan: &Plan, measured: &ResultDocument, arrived: &Captured) -> Vec<String> {
    let mut faults = vec![];
    let Some(stress) = &measured.stress else { return vec!["there was no stress test".into()] };
    let passed_by = arrived.syns().filter(|syn| !plan.allows(syn.source.ip()));
    let passed_by: HashSet<_> = passed_by.map(|syn| (syn.source, syn.sequence)).collect();
    let (passed_by, told) = (passed_by.len() as u64, stress.leaked + measured.probes.leaked);
    if arrived.dropped > 0 {
        faults.push(format!("the capture dropped {} frames: it is no measure", arrived.dropped));
    }
    if told != passed_by {
        faults.push(format!("{told} leaks are told where {passed_by} connections arrived from outside"));
    }
    // Fewer than 10 in one run of ten million.
    if stress.opened != CONNECTIONS || stress.leaked < 10 {
        faults.push(format!("{} of {} stress connections leaked", stress.leaked, stress.opened));
    }
    let presumed = if plan.annotated { 0 } else { stress.leaked };
    if stress.leaked_presumed != presumed {
        faults.push(format!("{} of the leaks are presumed, not {presumed}", stress.leaked_presumed));
    }
    let gate = format!("{} stress connections leaked", stress.leaked);
    if !measured
        .failed_gates
        .iter()
        .any(|failed| failed.starts_with("--max-leaked 0: ") && failed.ends_with(&gate))
    {
        faults.push(format!("the failed gates are {:?}", measured.failed_gates));
    }
    faults
}

/// Puts in place what stays there for the whole lab.
pub(crate) fn put_in_place(plan: &Plan, topology: &Topology) -> Result<()> {
    if plan.scenario == Scenario::Stress {
        // The whole of a connection goes the same way.
        let pass_by = format!("meta l4proto tcp ct state new numgen random mod {ONE_IN} == 0 ct mark set 1");
        let insert = |rule: &str| format!("insert rule inet {} steer {rule}\n", nfset::TABLE);
        return topology.node.nft(&(insert("ct mark 1 accept") + &insert(&pass_by)));
    }
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
