//! `egw-probe client`: probes the target until it answers, and tells how long that took.
//!
//! Data goes one way: pacer -> probe -> outcome -> in flight -> bracket -> result, metrics. Only [`prober`],
//! [`probe`], [`stress`], [`resolve`] and [`route`] touch a socket; the rest takes values and returns values.

pub(crate) mod bracket;
pub(crate) mod chance;
pub(crate) mod clues;
pub(crate) mod diagnosis;
pub(crate) mod disruptions;
pub(crate) mod egress;
pub(crate) mod evidence;
pub(crate) mod failure;
pub(crate) mod hold;
pub(crate) mod holding;
pub(crate) mod inflight;
pub(crate) mod metrics;
pub(crate) mod outcome;
pub(crate) mod pacer;
pub(crate) mod partial;
pub(crate) mod ports;
pub(crate) mod probe;
pub(crate) mod prober;
pub(crate) mod probing;
pub(crate) mod record;
pub(crate) mod reply;
pub(crate) mod resolve;
pub(crate) mod result;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod stall;
pub(crate) mod stress;
pub(crate) mod summary;
pub(crate) mod tagging;
pub(crate) mod telling;

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::Context;
use caps::Capability;
use hyper::StatusCode;

use crate::client::diagnosis::Facts;
use crate::client::hold::Hold;
use crate::client::metrics::ClientMetrics;
use crate::client::probe::Destination;
use crate::client::prober::{Measurement, Prober, Setup};
use crate::client::probing::Ended;
use crate::client::resolve::{Resolved, resolve};
use crate::client::route::{Awaited, Way};
use crate::client::stress::lanes::Ways;
use crate::config::choice::Output;
use crate::config::client::{ClientConfig, FIRST_SYN_RETRANSMISSION, Route, StressConfig, TargetAddr};
use crate::config::error::ConfigError;
use crate::document::egress::Whose;
use crate::document::go::format_duration;
use crate::document::held::HoldReport;
use crate::document::result::{Hint, ResultDocument, TestOutcome};
use crate::document::stress::StressReport;
use crate::sys::clock::{Monotonic, Start};
use crate::sys::http::HttpThread;
use crate::sys::metrics::Exposition;
use crate::sys::page::{Answer, Page, Pages, SharedPage};
use crate::sys::sandbox::{self, Role};
use crate::sys::signals::Signals;
use crate::sys::user::NextUser;
use crate::sys::{metrics as shared_metrics, net, output, progress, thread};

/// The result could not be written: that is no verdict.
const EXIT_LOST: u8 = 4;

/// Runs the client to its end. The exit code is 0, 1 for a test that failed under `--exit` or was interrupted, or 4 if the
/// result could not be written.
///
/// # Errors
/// Bad input that only the system could tell (a port in use, a name that does not resolve) is a [`ConfigError`]; anything
/// else means that this host cannot run the client at all.
pub fn run(config: &ClientConfig, start: Start, signals: &Signals) -> anyhow::Result<ExitCode> {
    let descriptors = net::raise_descriptor_limit();
    if let Some(stress) = &config.stress {
        stress::check_descriptors(stress, descriptors)?;
    }
    let registry = shared_metrics::registry()?;
    let metrics = ClientMetrics::register(&registry)?;
    let test_over = Arc::new(AtomicBool::new(false));
    let address = config.metrics_addr.address;
    let listener =
        net::listen(address).map_err(|error| ConfigError::listening("--metrics-addr", address, &error))?;
    let needed = needed(config);
    let first = if config.user.changes() { &NextUser::NEEDED[..] } else { &[] };
    sandbox::keep_only(&[first, &needed].concat()).context("cannot drop capabilities")?;
    let settling = Settling::new(listener, registry, Arc::clone(&test_over), config.user, needed);
    if config.probe_timeout >= FIRST_SYN_RETRANSMISSION {
        tracing::warn!(
            "--probe-timeout {} reaches the kernel's first SYN retransmission (1s): a probe may be several SYNs; \
             those are counted in the result as syn_retransmissions",
            format_duration(config.probe_timeout)
        );
    }
    let client = Client {
        config,
        start,
        signals,
        metrics: &metrics,
        descriptors,
        test_over: &test_over,
        settling: &settling,
    };
    let exit = client.run();
    settling.stop();
    exit
}

/// What waits until the first SYN has left, because it would make every delay longer: another user, the seccomp filter, and
/// behind them the threads that serve HTTP. Until then nothing of a peer is read.
struct Settling {
    waiting: Cell<Option<(TcpListener, prometheus::Registry, Arc<AtomicBool>)>>,
    http: OnceCell<HttpThread>,
    user: NextUser,
    needed: Vec<Capability>,
}

impl Settling {
    fn new(
        listener: TcpListener,
        registry: prometheus::Registry,
        test_over: Arc<AtomicBool>,
        user: NextUser,
        needed: Vec<Capability>,
    ) -> Self {
        let waiting = Cell::new(Some((listener, registry, test_over)));
        Self { waiting, http: OnceCell::new(), user, needed }
    }

    /// Does it, unless it is done.
    fn settle(&self) -> anyhow::Result<()> {
        if let Some((listener, registry, test_over)) = self.waiting.take() {
            sandbox::shed(self.user, &self.needed).context("cannot drop rights")?;
            sandbox::enter(Role::Client);
            let http = HttpThread::spawn(listener, pages(registry, test_over)?);
            let http = http.context("HTTP cannot be served")?;
            let _ = self.http.set(http);
            progress::enable();
        }
        Ok(())
    }

    fn stop(self) {
        if let Some(http) = self.http.into_inner() {
            http.stop();
        }
    }
}

/// What one run of the client has at hand.
struct Client<'a> {
    config: &'a ClientConfig,
    start: Start,
    signals: &'a Signals,
    metrics: &'a ClientMetrics,
    descriptors: u64,
    test_over: &'a AtomicBool,
    settling: &'a Settling,
}

/// What the probing came to.
struct Probed {
    target: SocketAddr,
    measured: Measurement,
    held: Option<HoldReport>,
}

/// What follows once the result is out.
#[derive(Debug, Clone, Copy)]
struct Over {
    /// The result could not be written.
    lost: bool,
    failed: bool,
    /// The numbers stay to be scraped, and connections held, until a signal comes.
    stays: bool,
}

impl Over {
    fn exit_code(self) -> ExitCode {
        match (self.lost, self.failed) {
            (true, _) => ExitCode::from(EXIT_LOST),
            (false, true) => ExitCode::FAILURE,
            (false, false) => ExitCode::SUCCESS,
        }
    }
}

impl Client<'_> {
    fn run(&self) -> anyhow::Result<ExitCode> {
        if let TargetAddr::Name { .. } = self.config.target {
            // The resolver's answers come from a peer.
            self.settling.settle()?;
        }
        let target = match first_target(self.config, self.start.monotonic, self.signals)? {
            Ok(target) => target,
            Err(outcome) => return self.end_without_probes(outcome),
        };
        let destination = Destination::new(target, &self.config.route);
        let deadline = self.start.monotonic + self.config.test_timeout;
        match self.wait_for_way(target, None, deadline)? {
            Awaited::There => {}
            Awaited::Interrupted => return self.end_without_probes(TestOutcome::Interrupted),
            Awaited::NotInTime => return self.end_without_probes(TestOutcome::TimedOut),
        }
        let (measured, held) = self.probe(&destination)?;
        tell(&measured, self.metrics);
        let probed = Probed { target, measured, held };
        let masqueraded = probed.measured.ended == Ended::Masqueraded;
        if let Some(stress) = self.config.stress.as_ref().filter(|_| masqueraded) {
            return self.stress(stress, &probed);
        }
        let over = self.over(&probed, None)?;
        if over.stays {
            self.signals.wait();
        }
        Ok(over.exit_code())
    }

    /// Waits until connections can leave by this source of the stress test, or of the probes where there is none.
    fn wait_for_way(
        &self,
        target: SocketAddr,
        source: Option<IpAddr>,
        deadline: Monotonic,
    ) -> anyhow::Result<Awaited> {
        let settle = || self.settling.settle();
        let route = &self.config.route;
        let of_stress = source.map(|source| Route { source_addr: Some(source), ..route.clone() });
        let source_flag = if source.is_some() { "--stress-source-addr" } else { "--source-addr" };
        let way = Way { target, route: of_stress.as_ref().unwrap_or(route), source_flag };
        route::wait_for(&way, deadline, self.signals, settle)
    }

    /// Waits for every source of the stress test, after the masquerade test: that is no business of theirs.
    fn wait_for_sources(&self, stress: &StressConfig, target: SocketAddr) -> anyhow::Result<bool> {
        let deadline = Monotonic::now() + self.config.test_timeout;
        for source in &stress.sources {
            if self.wait_for_way(target, Some(*source), deadline)? != Awaited::There {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The name never resolved, the route never was there, or a signal came before.
    fn end_without_probes(&self, outcome: TestOutcome) -> anyhow::Result<ExitCode> {
        let timed_out = outcome == TestOutcome::TimedOut;
        if timed_out {
            self.metrics.failed_tests.inc();
        }
        self.test_over.store(true, Ordering::Relaxed);
        let mut document = result::without_probes(self.config, self.start, outcome);
        let lost = print(self.config.output, &mut document)?;
        let stays = timed_out && !self.config.exit;
        if stays {
            self.signals.wait();
        }
        Ok(Over { lost, failed: !stays, stays }.exit_code())
    }

    /// Probes, and holds connections from the winner on if the watch wants some.
    fn probe(&self, destination: &Destination) -> anyhow::Result<(Measurement, Option<HoldReport>)> {
        let (config, start) = (self.config, self.start.monotonic);
        let tagger = tagging::tagger(config)?;
        let count = config.watch.map_or(0, |watch| watch.hold);
        let hold = (count > 0)
            .then(|| Hold::new(destination, self.metrics, start, count, config.interval))
            .transpose()?;
        let stop = AtomicBool::new(false);
        let (winner_named, wait_for_winner) = mpsc::channel::<bool>();
        let on_winner = move |annotates| {
            self.test_over.store(true, Ordering::Relaxed);
            // Nobody waits where nothing is to be held.
            let _ = winner_named.send(annotates);
        };
        let setup = Setup {
            config,
            destination,
            metrics: self.metrics,
            signals: self.signals,
            on_winner: Box::new(on_winner),
            start,
            phase: config.tick_phase,
            descriptors: self.descriptors.saturating_sub(u64::from(count)),
        };
        let mut prober = Prober::new(setup, tagger).context("the probing broke off")?;
        prober.first_tick();
        self.settling.settle()?;
        std::thread::scope(|scope| {
            let stop = &stop;
            let hold_once_named = move |hold: Hold<'_>| match wait_for_winner.recv() {
                Ok(annotates) => hold.run(annotates, stop).map(Some),
                Err(mpsc::RecvError) => Ok(None),
            };
            let holding = hold
                .map(|hold| thread::spawn_scoped(scope, "holding", move || hold_once_named(hold)))
                .transpose()?;
            // With it goes the other end of the channel.
            let measured = prober.run();
            stop.store(true, Ordering::Relaxed);
            let report = match holding.map(std::thread::ScopedJoinHandle::join) {
                Some(Ok(report)) => report.context("holding connections broke off")?,
                _ => None,
            };
            Ok((measured.context("the probing broke off")?, report))
        })
    }

    /// Runs the stress test, and ends with the result.
    fn stress(&self, stress: &StressConfig, probed: &Probed) -> anyhow::Result<ExitCode> {
        let mut targets = vec![probed.target];
        let further = self.wait_for_sources(stress, probed.target).and_then(|there| {
            let further = || further_targets(stress, probed.target, self.config, self.signals);
            Ok(if there { further()? } else { None })
        });
        match further {
            Ok(Some(further)) => targets.extend(further),
            // What was measured is printed, whatever becomes of the stress test.
            other => {
                let over = self.over(probed, None)?;
                return other.map(|_| Over { failed: true, ..over }.exit_code());
            }
        }
        let ways = Ways { targets: &targets, sources: &stress.sources, route: &self.config.route };
        let mut exit_code = None;
        let annotates = probed.measured.found.judge.annotates();
        let known = stress::Known { descriptors: self.descriptors, annotates };
        let ran = stress::run(stress, ways, known, self.metrics, self.signals, |report| {
            let over = self.over(probed, Some(report))?;
            exit_code = Some(over.exit_code());
            anyhow::Ok(over.stays)
        });
        match (ran, exit_code) {
            (Err(error), None) => {
                self.over(probed, None)?;
                Err(error)
            }
            (ran, exit_code) => ran.map(|()| exit_code.unwrap_or(ExitCode::SUCCESS)),
        }
    }

    /// Whose address the target saw, where this client can know it.
    fn whose(&self, address: IpAddr, target: SocketAddr) -> Option<Whose> {
        let own = Destination::new(target, &self.config.route).own_address().ok();
        let node = self.config.labels.get(NODE_IP).and_then(|text| text.parse::<IpAddr>().ok());
        // Where the client is in its node's network, both are the same.
        match address {
            _ if node == Some(address) => Some(Whose::Node),
            _ if own == Some(address) => Some(Whose::Own),
            _ => None,
        }
    }

    /// The test is over: prints the result.
    fn over(&self, probed: &Probed, stress: Option<StressReport>) -> anyhow::Result<Over> {
        self.test_over.store(true, Ordering::Relaxed);
        let Probed { target, measured, held } = probed;
        let mut document =
            result::document(self.config, self.start, target.to_string(), measured, held.clone(), stress);
        for leak in &mut document.leaked_from {
            leak.whose = self.whose(leak.address, *target);
        }
        for warning in &document.warnings {
            tracing::warn!("weak numbers: {warning}");
        }
        document.diagnosis = diagnosis::hints(&Facts {
            probes: &document.probes,
            leaked_from: &document.leaked_from,
            clues: measured.clues,
            probe_timeout: self.config.probe_timeout,
            interval: self.config.interval,
        });
        for Hint { what, next } in &document.diagnosis {
            tracing::warn!("{what}; look next: {next}");
        }
        let lost = print(self.config.output, &mut document)?;
        Ok(Over {
            lost,
            failed: match document.outcome {
                TestOutcome::Interrupted => true,
                TestOutcome::Masqueraded | TestOutcome::TimedOut => self.config.exit && !document.passed(),
            },
            stays: !self.config.exit && !measured.signalled,
        })
    }
}

/// The label that names the client's node by its address.
const NODE_IP: &str = "node-ip";

/// What the client does for each of its sockets, and the kernel asks a right for.
fn needed(config: &ClientConfig) -> Vec<Capability> {
    let tag = config.tag.as_ref().map(|_| Capability::CAP_NET_ADMIN);
    // Before Linux 5.7 (SO_BINDTODEVICE, net/core/sock.c).
    let device = config.route.bind_device.as_ref().map(|_| Capability::CAP_NET_RAW);
    tag.into_iter().chain(device).collect()
}

/// The address of the target, or how the test ended before there was one.
fn first_target(
    config: &ClientConfig,
    start: Monotonic,
    signals: &Signals,
) -> Result<Result<SocketAddr, TestOutcome>, ConfigError> {
    let deadline = start + config.test_timeout;
    let stress_source = config.stress.as_ref().and_then(|stress| stress.sources.first().copied());
    let family = config.route.source_addr.or(stress_source);
    match resolve("--external-target-addr", &config.target, family, deadline, signals)? {
        Resolved::Address(address) => Ok(Ok(address)),
        Resolved::Interrupted => Ok(Err(TestOutcome::Interrupted)),
        Resolved::NotInTime(reason) => {
            tracing::error!("the test timeout has passed: {reason}");
            Ok(Err(TestOutcome::TimedOut))
        }
    }
}

/// Further targets of the stress test, of the family of the first. Resolved only now, so that no name but the target's can
/// delay or fail the masquerade test; one that does not resolve is told, and left out. `None` if a signal came.
fn further_targets(
    stress: &StressConfig,
    first: SocketAddr,
    config: &ClientConfig,
    signals: &Signals,
) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
    let deadline = Monotonic::now() + config.test_timeout;
    let mut addresses = Vec::new();
    for target in &stress.targets {
        match resolve("--stress-target-addr", target, Some(first.ip()), deadline, signals)? {
            Resolved::Address(address) => addresses.push(address),
            Resolved::Interrupted => return Ok(None),
            Resolved::NotInTime(reason) => tracing::error!("the stress test goes on without it: {reason}"),
        }
    }
    Ok(Some(addresses))
}

/// What scrapes and log readers wait for.
fn tell(measured: &Measurement, metrics: &ClientMetrics) {
    match measured.ended {
        Ended::TimedOut => {
            metrics.failed_tests.inc();
            tracing::error!("the test timeout has passed without a pong");
        }
        Ended::Interrupted => tracing::warn!("interrupted before a verdict"),
        Ended::Masqueraded => {}
    }
}

fn pages(registry: prometheus::Registry, test_over: Arc<AtomicBool>) -> anyhow::Result<Arc<Pages>> {
    let metrics = Exposition::new(registry)?;
    let metrics = SharedPage::new(move || metrics.page())?;
    let ready = |status, line| Some(Answer::Now(Page::text(status, line)));
    Ok(Arc::new(move |path| match path {
        "/metrics" => Some(Answer::Shared(metrics.clone())),
        "/readyz" if test_over.load(Ordering::Relaxed) => ready(StatusCode::OK, "the test is over"),
        "/readyz" => ready(StatusCode::INTERNAL_SERVER_ERROR, "the test is under way"),
        _ => None,
    }))
}

/// Prints the result. Tells if it was lost.
fn print(form: Output, document: &mut ResultDocument) -> serde_json::Result<bool> {
    let lost_lines = progress::lost_log_lines();
    if lost_lines > 0 {
        document.warnings.push(format!("{lost_lines} log lines were lost: stderr took no more"));
    }
    let text = match form {
        Output::Text => summary::text(document),
        Output::Json => serde_json::to_string(document)? + "\n",
    };
    let printed = output::print(&text);
    if let Err(lost) = &printed {
        tracing::error!("the result is lost: {lost}");
    }
    Ok(printed.is_err())
}
