//! One outage under a client that watches: what is done, when, and the record of it. The judgement is in
//! [`super::watched`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use egw_probe::document::result::ResultDocument;
use egw_probe::document::sources::SourcesPage;
use serde::Deserialize as _;
use serde_json::Value;

use super::activation::{QUIET, Stage, WIDEST_SWITCH, go_duration};
use super::addresses::PORT;
use super::child::Child;
use super::clock::Monotonic;
use super::disturbance::Disturb;
use super::judgement::{Done, Judgement};
use super::options::{Plan, Scenario};
use super::policy::{Change, Policy};
use super::target::{Settings, Target};
use super::{several, watched};

/// How long after a signal a client may take to settle its probes and end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Beyond [`super::options::Plan::recovery`]: a connection that was lost is opened again after 200 ms.
const REOPENS_WITHIN: Duration = Duration::from_millis(250);
/// How soon after the target speaks a gateway that asks every 20 ms knows it.
const ASKS_WITHIN: Duration = Duration::from_secs(2);
const TARGET_STARTS_WITHIN: Duration = Duration::from_secs(5);
/// How often a target that is coming up is tried.
const KNOCK: Duration = Duration::from_micros(50);

/// One outage and what the client made of it.
pub(crate) struct Outage {
    /// Counted from 1.
    pub(crate) run: u32,
    pub(crate) done: Done,
    pub(crate) document: Value,
    pub(crate) watched: ResultDocument,
    pub(crate) judgement: Judgement,
}

impl Outage {
    /// Whether nothing can be judged by this: a switch was recorded too coarsely, or the client was not up before it. A
    /// process's end and start, the walk through all connections, and a question for a MAC address take what they take:
    /// there the record is an interval, and judged as one.
    pub(crate) fn is_void(&self, plan: &Plan) -> bool {
        let wide =
            |[before, after]: [Monotonic; 2]| after.seconds_since(before) > WIDEST_SWITCH.as_secs_f64();
        let coarse = wide(self.done.begin) || (!plan.has(Disturb::Arp) && wide(self.done.end));
        !watched::was_up_before(&self.watched, self.done.begin[0])
            || (coarse && matches!(plan.scenario, Scenario::Failover | Scenario::Flap | Scenario::Gateways))
    }
}

/// The target of outages: the restart scenario takes it away and brings it back.
pub(crate) struct Mortal<'lab> {
    pub(crate) target: Option<Target<'lab>>,
    pub(crate) settings: Settings,
}

impl Mortal<'_> {
    /// How many connections of each source the target has counted.
    fn counted(&self) -> Result<BTreeMap<IpAddr, u64>> {
        let target = self.target.as_ref().context("there is a target")?;
        let sources = target.document::<SourcesPage>("/sources")?.sources;
        Ok(sources.into_iter().map(|source| (source.address, source.connections)).collect())
    }
}

impl<'lab> Stage<'lab> {
    /// Runs one outage.
    pub(crate) fn watch_outage(
        &self,
        run: u32,
        mortal: &mut Mortal<'lab>,
        random: &mut fastrand::Rng,
    ) -> Result<Outage> {
        self.switcher.reset()?;
        self.make_newcomer_ask()?;
        self.make(Monotonic::now(), Change::On(Policy::Gateway))?;
        self.interrupt.sleep(QUIET)?;
        let before = mortal.counted()?;
        let (begin, length) = self.plan.draw_outage(random);
        let started = Monotonic::now();
        let client = self.start_client_with(0, self.watch_args())?;
        let (begin_at, end_at) = (started.after(begin), started.after(begin + length));
        let done = match self.plan.scenario {
            Scenario::Failover => self.fail_over(begin_at, end_at, random)?,
            Scenario::Gateways => {
                let begin = self.make(begin_at, Change::On(Policy::Dead))?;
                Done { begin, end: self.make(end_at, Change::Off(Policy::Dead))? }
            }
            Scenario::Flap => {
                let off = self.make(begin_at, Change::Off(Policy::Gateway))?;
                Done { begin: off, end: self.make(end_at, Change::On(Policy::Gateway))? }
            }
            Scenario::Restart => self.restart(mortal, begin_at, end_at)?,
            Scenario::Steady => {
                self.interrupt.sleep(begin_at.remaining())?;
                self.interrupt.sleep(self.plan.lasts)?;
                Done { begin: [begin_at; 2], end: [begin_at; 2] }
            }
            // The gateway has forgotten everything at once, and goes on: an outage of no length for new connections.
            _ => {
                let forgotten = self.make(begin_at, Change::Forget)?;
                Done { begin: forgotten, end: forgotten }
            }
        };
        let lasted = Duration::from_secs_f64(done.length()[1]).max(length);
        let over = if self.plan.scenario == Scenario::Gateways {
            done.end[1].after(self.plan.usual()[1] + self.plan.probe_timeout())
        } else {
            done.begin[1].after(self.plan.recovery(lasted) + REOPENS_WITHIN)
        };
        self.interrupt.sleep(over.remaining())?;
        let (document, watched, code, log) = self.end_watch(client)?;
        let mut judgement = watched::judge(self.plan, &done, &watched);
        if self.plan.scenario == Scenario::Steady && self.plan.disturb.is_empty() {
            let after = mortal.counted()?;
            judgement.faults.extend(several::shares_fault(self.plan, &watched, &before, &after));
            judgement.faults.extend(several::warnings(&log).into_iter().map(String::from));
        }
        // A miss at the very end leaves a disruption open, which fails the client's gate.
        let expected = i32::from(!watched.passed());
        if code != Some(expected) || (expected != 0 && self.plan.disturb.is_empty()) {
            judgement
                .faults
                .push(format!("the client's exit status is {code:?}: {:?}", watched.failed_gates));
        }
        Ok(Outage { run, done, document, watched, judgement })
    }

    fn fail_over(&self, begin_at: Monotonic, end_at: Monotonic, random: &mut fastrand::Rng) -> Result<Done> {
        let begin = self.make(begin_at, Change::On(Policy::Dead))?;
        let end = self.make(end_at, Change::On(Policy::Second))?;
        Ok(Done { begin, end: if self.plan.has(Disturb::Arp) { self.answer_newcomer(random)? } else { end } })
    }

    fn watch_args(&self) -> Vec<String> {
        let hold = self.plan.hold.to_string();
        ["--watch", "--hold", &hold, "--probe-timeout", &go_duration(self.plan.probe_timeout())]
            .map(String::from)
            .to_vec()
    }

    /// Lets the target tell its MAC address after a while. The outage goes on until the gateway knows it: between the change
    /// and the first look that finds it there.
    fn answer_newcomer(&self, random: &mut fastrand::Rng) -> Result<[Monotonic; 2]> {
        let speaks = Monotonic::now().after(self.plan.draw_silence(random));
        let [silent_until, _] = self.make(speaks, Change::Off(Policy::Mute))?;
        let deadline = Instant::now() + ASKS_WITHIN;
        while !self.topology.newcomer_knows(self.plan.family)? {
            if Instant::now() > deadline {
                bail!("the gateway does not learn the target's MAC address within {ASKS_WITHIN:?}");
            }
            self.interrupt.check()?;
        }
        Ok([silent_until, Monotonic::now()])
    }

    /// Makes one change, and returns the instants between which it took effect.
    fn make(&self, due: Monotonic, change: Change) -> Result<[Monotonic; 2]> {
        self.switcher.schedule(due, change, self.plan.steered(0));
        loop {
            if let Some(switch) = self.switcher.next(Duration::from_millis(20))? {
                return Ok([switch.before, switch.after]);
            }
            self.interrupt.check()?;
        }
    }

    /// Kills the target, and starts another one; the outage ends when that listens, whatever it does next.
    fn restart(&self, mortal: &mut Mortal<'lab>, begin: Monotonic, end: Monotonic) -> Result<Done> {
        self.interrupt.sleep(begin.remaining())?;
        let begin = mortal.target.take().context("there is a target to kill")?.kill()?;
        self.interrupt.sleep(end.remaining())?;
        let namespace = &self.topology.target;
        let (listens, listening) = channel();
        thread::scope(|scope| {
            scope.spawn(move || listens.send(namespace.run(first_listening)));
            let started =
                Target::start(namespace, &self.program, &mortal.settings, &self.folder, self.interrupt);
            let end = listening.recv().context("nobody knocks")?;
            mortal.target = Some(started?);
            Ok(Done { begin, end: end? })
        })
    }

    fn end_watch(&self, mut client: Child) -> Result<(Value, ResultDocument, Option<i32>, String)> {
        let explain = |client: &Child| format!("the client gave no result{}", client.complaint());
        if client.ended()?.is_none() {
            client.tell_to_end()?;
        }
        let status = client.wait(Instant::now() + ENDS_WITHIN, self.interrupt)?;
        let document: Value = serde_json::from_str(&client.output()?).with_context(|| explain(&client))?;
        let watched = ResultDocument::deserialize(&document).with_context(|| explain(&client))?;
        Ok((document, watched, status.code(), client.log()))
    }
}

/// Tries the target's port from its own host until it listens: between the last refusal and the first success.
fn first_listening() -> Result<[Monotonic; 2]> {
    let deadline = Instant::now() + TARGET_STARTS_WITHIN;
    let mut refused = Monotonic::now();
    loop {
        let before = Monotonic::now();
        if TcpStream::connect((IpAddr::from(Ipv4Addr::LOCALHOST), PORT)).is_ok() {
            return Ok([refused, Monotonic::now()]);
        }
        refused = before;
        if Instant::now() > deadline {
            bail!("the target does not listen again after {TARGET_STARTS_WITHIN:?}");
        }
        thread::sleep(KNOCK);
    }
}
