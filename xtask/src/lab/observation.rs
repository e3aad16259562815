//! The captures beside the target's kernel side, and asking that side what it saw. The comparison is in
//! [`super::observed`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egw_probe::document::clients::ClientsPage;
use egw_probe::document::sources::SourcesPage;

use super::activation::Activation;
use super::capture::Capture;
use super::interrupt::Interrupt;
use super::observed::{self, Evidence, Observed};
use super::options::{Attach, Plan, Scenario};
use super::target::Target;
use super::topology::Topology;

/// The target joins SYNs and connections as their events come, a moment later.
const SETTLES: Duration = Duration::from_millis(200);
/// The target gives a connection up 10 s after its last SYN, and counts it as half-open.
const HALF_OPEN_WITHIN: Duration = Duration::from_secs(13);

/// Captures at the target: what arrives there, and what it answers.
pub(crate) struct Captures {
    arriving: Capture,
    answering: Capture,
}

impl Captures {
    pub(crate) fn start(topology: &Topology) -> Result<Self> {
        Ok(Self {
            arriving: Capture::start(&topology.target, "wire")?,
            answering: Capture::start(&topology.wire, "far")?,
        })
    }
}

/// Ends the captures, asks the target, and compares.
pub(crate) fn compare(
    captures: Captures,
    plan: &Plan,
    target: &Target,
    activations: &[Activation],
    interrupt: &Interrupt,
) -> Result<Observed> {
    interrupt.sleep(SETTLES)?;
    let (arrived, answered) = (captures.arriving.finish()?, captures.answering.finish()?);
    let sources = target.document::<SourcesPage>("/sources")?;
    let clients = target.document::<ClientsPage>("/clients")?.clients;
    let allowed = |address| plan.allows(address);
    let denied = arrived.syns().filter(|syn| !allowed(syn.source.ip())).count() as u64;
    let half_open_denied = plan.no_return.then(|| await_half_open(target, denied, interrupt)).transpose()?;
    Ok(observed::compare(&Evidence {
        mode: target.attach_mode("wire")?,
        requested: plan.ebpf.map_or_else(String::new, Attach::name),
        arrived: &arrived,
        answered: &answered,
        sources: sources.kernel.context("the target's /sources tells nothing of the kernel")?,
        clients,
        half_open_denied,
        allowed: &allowed,
        activations,
        switched: plan.scenario == Scenario::Masquerade || plan.scenario == Scenario::Blackhole,
    }))
}

/// Waits until the target has given up on as many connections of denied sources, and returns how many those are.
fn await_half_open(target: &Target, expected: u64, interrupt: &Interrupt) -> Result<u64> {
    let deadline = Instant::now() + HALF_OPEN_WITHIN;
    loop {
        let counted = target.half_open_denied()?;
        if counted >= expected || Instant::now() > deadline {
            return Ok(counted);
        }
        interrupt.sleep(Duration::from_millis(100))?;
    }
}
