//! One activation: clients start, their policies are switched, and what they measured is judged.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egw_probe::document::result::ResultDocument;
use serde::Deserialize as _;
use serde_json::Value;

use super::account::{self, Account};
use super::addresses::{PORT, pod_interface};
use super::capture::{Capture, Captured};
use super::child::{Child, Rights};
use super::clock::Monotonic;
use super::cost::{Cost, Meter};
use super::disturbance::Disturb;
use super::interrupt::Interrupt;
use super::leak;
use super::options::{Plan, Scenario};
use super::policy::{Change, Policy, Switch, Switcher};
use super::target::Target;
use super::topology::Topology;
use super::verdict::{self, Margins, Recorded};

/// Time for packets of an earlier activation to get where they go.
pub(crate) const QUIET: Duration = Duration::from_millis(30);
/// How long after its test timeout a client may take to end: it settles the probes in flight.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);
/// A switch recorded less exactly than this is no measure for a bracket: the machine was busy, and the run is void.
pub(crate) const WIDEST_SWITCH: Duration = Duration::from_micros(100);

/// What an activation needs.
pub(crate) struct Stage<'lab> {
    pub(crate) plan: &'lab Plan,
    pub(crate) topology: &'lab Topology,
    pub(crate) switcher: &'lab Switcher,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    /// In place of `/etc/hosts` for clients.
    pub(crate) hosts: Option<PathBuf>,
    pub(crate) client_args: &'lab [String],
    pub(crate) control_shift: bool,
    pub(crate) interrupt: &'lab Interrupt,
}

/// One client's part of an activation.
pub(crate) struct Activation {
    /// Counted from 1.
    pub(crate) run: u32,
    pub(crate) pod: usize,
    /// The client's number in its SYNs.
    pub(crate) tag: Option<u16>,
    /// So long a client has to be up before its first switch, to have leaked and to have noticed.
    least_lead: Duration,
    pub(crate) dropped: Option<Switch>,
    pub(crate) switch: Option<Switch>,
    /// The client's whole result document.
    pub(crate) document: Value,
    pub(crate) measured: ResultDocument,
    /// Where its SYNs went, in scenarios that ask.
    pub(crate) account: Option<Account>,
    log: String,
    pub(crate) faults: Vec<String>,
}

impl Activation {
    /// When the policy was switched, in seconds since the client's start.
    pub(crate) fn recorded(&self) -> Option<Recorded> {
        self.switch.map(|switch| recorded(&switch, &self.measured))
    }

    pub(crate) fn margins(&self) -> Option<Margins> {
        Margins::of(self.measured.bracket, self.recorded()?)
    }

    /// Whether nothing can be judged by this: the switch was recorded too coarsely, or came before the client was up.
    pub(crate) fn is_void(&self) -> bool {
        let first = self.dropped.or(self.switch).map(|switch| recorded(&switch, &self.measured));
        let late = first.is_some_and(|first| first.before < self.least_lead.as_secs_f64());
        if late || self.account.is_some_and(|account| account.again > 0) {
            return true;
        }
        let wide = |switch: &Switch| switch.after.seconds_since(switch.before) > WIDEST_SWITCH.as_secs_f64();
        self.dropped.iter().chain(&self.switch).any(wide)
    }
}

fn recorded(switch: &Switch, measured: &ResultDocument) -> Recorded {
    let start = Monotonic::start_of(measured);
    Recorded { before: switch.before.seconds_since(start), after: switch.after.seconds_since(start) }
}

impl Stage<'_> {
    /// Runs one activation of every client.
    pub(crate) fn activate(
        &self,
        run: u32,
        target: &Target,
        random: &mut fastrand::Rng,
    ) -> Result<(Vec<Activation>, Cost)> {
        self.switcher.reset()?;
        self.make_newcomer_ask()?;
        if self.plan.is_steered_from_the_start() {
            self.switcher.schedule(Monotonic::now(), Change::On(Policy::Gateway), self.plan.steered(0));
            self.await_switches(1, &mut Meter::start())?;
        }
        self.interrupt.sleep(QUIET)?;
        let before = target.judged()?;
        let accounts = self.start_captures()?;
        let of_stress = (self.plan.scenario == Scenario::Stress)
            .then(|| Capture::start(&self.topology.target, "wire"))
            .transpose()?;
        let mut meter = Meter::start();
        let (clients, switches) = self.start_clients(run, random)?;
        let deadline = Instant::now() + self.plan.test_timeout + SETTLES_WITHIN;
        meter.look();
        let switches = self.await_switches(switches, &mut meter)?;
        let mut activations = vec![];
        for (pod, client) in clients.into_iter().enumerate() {
            let happened = |policy| {
                let change = Change::On(policy);
                switches.iter().copied().find(|one| one.pod == self.plan.steered(pod) && one.change == change)
            };
            let (dropped, switch) = (happened(Policy::Drop), happened(Policy::Gateway));
            activations.push(self.collect(run, pod, client, deadline, dropped, switch)?);
        }
        let cost = meter.finish();
        let told: Vec<&ResultDocument> = activations.iter().map(|activation| &activation.measured).collect();
        let denied = target.judged()?.denied - before.denied;
        if let Some(fault) = verdict::leaks_fault(self.plan, &told, denied) {
            activations[0].faults.push(fault);
        }
        if self.plan.can_name_leaks() {
            let summary = self.summarize()?;
            let Activation { measured, log, faults, .. } = &mut activations[0];
            faults.extend(leak::faults(self.plan, measured, log, &summary));
        }
        if let Some(arrived) = of_stress {
            let Activation { measured, faults, .. } = &mut activations[0];
            faults.extend(leak::stress_faults(self.plan, measured, &arrived.finish()?));
        }
        if let Some((left, arrived)) = accounts {
            // Behind the last answer no segment is under way but the ends of connections.
            let arrived = arrived.finish()?;
            for (activation, left) in activations.iter_mut().zip(left) {
                activation.settle_account(&left.finish()?, &arrived, self.plan);
            }
        }
        Ok((activations, cost))
    }

    /// What a client tells people that meets the same path for a moment.
    fn summarize(&self) -> Result<String> {
        let brief = ["--output", "text", "--test-timeout", "300ms"].map(String::from);
        let further = brief.into_iter().chain(leak::label(self.plan)).collect();
        let mut client = self.start_client_with(0, further)?;
        client.wait(Instant::now() + SETTLES_WITHIN, self.interrupt)?;
        client.output()
    }

    /// Captures at every Pod and at the target, where a blackhole is to be accounted for.
    fn start_captures(&self) -> Result<Option<(Vec<Capture>, Capture)>> {
        if self.plan.scenario != Scenario::Blackhole || !self.plan.disturb.is_empty() {
            return Ok(None);
        }
        // The node's end: a packet is captured there before the node's rules see it.
        let at_pod = |pod| Capture::start(&self.topology.node, &pod_interface(pod));
        let left = (0..self.plan.clients).map(at_pod).collect::<Result<_>>()?;
        Ok(Some((left, Capture::start(&self.topology.target, "wire")?)))
    }

    /// The number a client has in its SYNs: another one in every run, so that the target keeps a timeline of each.
    fn tag(&self, run: u32, pod: usize) -> Option<u16> {
        let number = (run as usize - 1) * self.plan.clients + pod + 1;
        self.plan.ebpf.and_then(|_| u16::try_from(number).ok())
    }

    /// Starts a client in each Pod, and orders its switches. Returns how many were ordered, too.
    fn start_clients(&self, run: u32, random: &mut fastrand::Rng) -> Result<(Vec<Child>, usize)> {
        let mut clients = vec![];
        let mut switches = 0;
        for pod in 0..self.plan.clients {
            let (vanish, gateway) = self.plan.draw(random);
            let started = Monotonic::now();
            clients.push(self.start_client(run, pod)?);
            for (wait, policy) in [(vanish, Policy::Drop), (gateway, Policy::Gateway)] {
                let Some(wait) = wait else { continue };
                self.switcher.schedule(started.after(wait), Change::On(policy), self.plan.steered(pod));
                switches += 1;
            }
            if let Some(wait) = gateway.filter(|_| self.plan.has(Disturb::Arp)) {
                let speaks = started.after(wait + self.plan.draw_silence(random));
                self.switcher.schedule(speaks, Change::Off(Policy::Mute), pod);
                switches += 1;
            }
            self.interrupt.check()?;
        }
        Ok((clients, switches))
    }

    /// The gateway that is to come does not know the target, and will not be told.
    pub(crate) fn make_newcomer_ask(&self) -> Result<()> {
        if !self.plan.has(Disturb::Arp) {
            return Ok(());
        }
        self.switcher.schedule(Monotonic::now(), Change::On(Policy::Mute), 0);
        self.await_switches(1, &mut Meter::start())?;
        self.topology.newcomer().ip("neighbour flush dev wire\n")?;
        self.topology.newcomer().ip6("neighbour flush dev wire\n")
    }

    fn await_switches(&self, expected: usize, meter: &mut Meter) -> Result<Vec<Switch>> {
        let mut switches = vec![];
        while switches.len() < expected {
            switches.extend(self.switcher.next(Duration::from_millis(20))?);
            meter.look();
            self.interrupt.check()?;
        }
        Ok(switches)
    }

    /// Waits for a client to end, and judges its result.
    fn collect(
        &self,
        run: u32,
        pod: usize,
        mut client: Child,
        deadline: Instant,
        dropped: Option<Switch>,
        switch: Option<Switch>,
    ) -> Result<Activation> {
        let status = client.wait(deadline, self.interrupt)?;
        let output = client.output()?;
        let explain = || format!("client {} ended with {status}{}", pod + 1, client.complaint());
        let document: Value = serde_json::from_str(&output).with_context(explain)?;
        let measured = ResultDocument::deserialize(&document).with_context(explain)?;
        let mut activation = Activation {
            run,
            pod,
            tag: self.tag(run, pod),
            least_lead: 2 * (self.plan.interval + self.plan.rtt),
            dropped,
            switch,
            document,
            measured,
            account: None,
            log: client.log(),
            faults: vec![],
        };
        if self.control_shift {
            activation.shift_by_one_width();
        }
        self.judge(&mut activation, status.code());
        Ok(activation)
    }

    fn start_client(&self, run: u32, pod: usize) -> Result<Child> {
        let mut further = vec![];
        if let Some(tag) = self.tag(run, pod) {
            further.extend(["--tag-required".into(), "--tag".into(), tag.to_string()]);
        }
        match self.plan.scenario {
            Scenario::Never => further.extend(leak::label(self.plan)),
            Scenario::Stress => further.extend(leak::stress()),
            _ => {}
        }
        self.start_client_with(pod, further)
    }

    /// Starts a client with arguments beyond what every client gets.
    pub(crate) fn start_client_with(&self, pod: usize, further: Vec<String>) -> Result<Child> {
        let target = match &self.plan.target_name {
            Some(name) => format!("{name}:{PORT}"),
            None => SocketAddr::new(self.plan.family.target(), PORT).to_string(),
        };
        let mut args: Vec<String> = ["client", "--exit", "--output", "json", "--external-target-addr"]
            .map(String::from)
            .into_iter()
            .chain([target, "--interval".into(), go_duration(self.plan.interval)])
            .chain(["--test-timeout".into(), go_duration(self.plan.test_timeout)])
            .chain(further)
            .collect();
        args.extend_from_slice(self.client_args);
        let (name, namespace) = (format!("client-{}", pod + 1), &self.topology.pods[pod]);
        let rights = if self.plan.ebpf.is_some() { Rights::All } else { Rights::None };
        Child::start(name, namespace, &self.program, &args, &self.folder, self.hosts.as_deref(), rights)
    }

    fn judge(&self, activation: &mut Activation, code: Option<i32>) {
        let measured = &activation.measured;
        let dropped = activation.dropped.map(|switch| recorded(&switch, measured));
        activation.faults = verdict::faults(self.plan, measured, dropped, activation.recorded());
        activation.faults.extend(verdict::evidence_faults(self.plan, measured));
        let expected = i32::from(self.plan.is_to_fail());
        if code != Some(expected) {
            activation.faults.push(format!("the client's exit status is {code:?}, not {expected}"));
        }
    }
}

/// A duration as the program's flags take it.
pub(crate) fn go_duration(duration: Duration) -> String {
    format!("{}ns", duration.as_nanos())
}

impl Activation {
    /// Draws up where its SYNs went.
    fn settle_account(&mut self, left: &Captured, arrived: &Captured, plan: &Plan) {
        let account = account::draw_up(left, arrived, &|address| plan.allows(address));
        self.faults.extend(account.faults(&self.measured));
        let dropped = left.dropped + arrived.dropped;
        if dropped > 0 {
            self.faults.push(format!("the captures dropped {dropped} frames: they are no measure"));
        }
        self.account = Some(account);
    }

    /// The control: the same record, moved by the width of the bracket it is compared with.
    fn shift_by_one_width(&mut self) {
        let Some(margins) = self.margins() else { return };
        if let Some(switch) = &mut self.switch {
            switch.before = switch.before.after_seconds(margins.width);
            switch.after = switch.after.after_seconds(margins.width);
        }
    }
}
