//! `egw-probe client`: probes the target until it answers, and tells how long that took.
//!
//! Data goes one way: pacer -> probe -> outcome -> in flight -> bracket -> result, metrics. Only [`prober`],
//! [`probe`], [`stress`] and [`resolve`] touch a socket; the rest takes values and returns values.

pub mod bracket;
pub mod disruptions;
pub mod failure;
pub mod hold;
pub mod holding;
pub mod inflight;
pub mod metrics;
pub mod outcome;
pub mod pacer;
pub mod probe;
pub mod prober;
pub mod probing;
pub mod record;
pub mod resolve;
pub mod result;
pub mod stall;
pub mod stress;
pub mod summary;
pub mod tagging;
pub mod telling;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::Context;
use caps::Capability;
use hyper::StatusCode;

use crate::client::hold::Hold;
use crate::client::metrics::ClientMetrics;
use crate::client::probe::Destination;
use crate::client::prober::{Measurement, Prober, Setup};
use crate::client::probing::Ended;
use crate::client::resolve::{Resolved, resolve};
use crate::client::stress::Ways;
use crate::client::tagging::Tagger;
use crate::config::choice::Output;
use crate::config::client::{ClientConfig, FIRST_SYN_RETRANSMISSION, Route, StressConfig};
use crate::config::error::ConfigError;
use crate::document::go::format_duration;
use crate::document::held::HoldReport;
use crate::document::result::{ResultDocument, TestOutcome};
use crate::document::stress::StressReport;
use crate::sys::clock::{Monotonic, Start};
use crate::sys::http::{HttpThread, Page, Pages};
use crate::sys::metrics::Exposition;
use crate::sys::sandbox::{self, Role};
use crate::sys::signals::Signals;
use crate::sys::{metrics as shared_metrics, net, output, progress};

/// Runs the client to its end. The exit code is 0, or 1 for a test that failed under `--exit` or was interrupted.
///
/// # Errors
/// Bad input that only the system could tell (a port in use, a name that does not resolve) is a
/// [`ConfigError`](crate::config::ConfigError); anything else means that this host cannot run the client at all.
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
    sandbox::keep_only(&needed(config)).context("cannot drop capabilities")?;
    let http = HttpThread::spawn(listener, pages(registry, Arc::clone(&test_over)))?;
    if config.probe_timeout >= FIRST_SYN_RETRANSMISSION {
        tracing::warn!(
            "--probe-timeout {} reaches the kernel's first SYN retransmission (1s): a probe may be several SYNs; \
             those are counted in the result as syn_retransmissions",
            format_duration(config.probe_timeout)
        );
    }
    let exit = measure(config, start, signals, &metrics, descriptors, &test_over);
    http.stop();
    exit
}

fn measure(
    config: &ClientConfig,
    start: Start,
    signals: &Signals,
    metrics: &ClientMetrics,
    descriptors: u64,
    test_over: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let deadline = start.monotonic + config.test_timeout;
    let target = match first_target(config, deadline, signals)? {
        Ok(target) => target,
        Err(outcome) => {
            if outcome == TestOutcome::TimedOut {
                metrics.failed_tests.inc();
            }
            test_over.store(true, Ordering::Relaxed);
            print(config.output, &result::without_probes(config, start, outcome))?;
            if outcome == TestOutcome::TimedOut && !config.exit {
                sandbox::enter(Role::Client);
                signals.wait();
                return Ok(ExitCode::SUCCESS);
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let destination = Destination::new(target, &config.route);
    try_route(&destination, config)?;
    let sources = config.stress.as_ref().map_or(&[][..], |stress| &stress.sources);
    try_sources(target, sources, &config.route)?;
    sandbox::enter(Role::Client);
    progress::enable();
    let (measured, held) =
        probe_and_hold(config, &destination, start, signals, metrics, descriptors, test_over)?;
    tell(&measured, metrics);

    let mut failed = false;
    let mut over = |stress: Option<StressReport>| -> anyhow::Result<bool> {
        test_over.store(true, Ordering::Relaxed);
        let document = result::document(config, start, target.to_string(), &measured, held.clone(), stress);
        for warning in &document.warnings {
            tracing::warn!("weak numbers: {warning}");
        }
        print(config.output, &document)?;
        failed = match document.outcome {
            TestOutcome::Interrupted => true,
            TestOutcome::Masqueraded | TestOutcome::TimedOut => config.exit && !document.passed(),
        };
        // The numbers stay to be scraped, and connections held, until somebody ends us.
        Ok(!config.exit && !measured.signalled)
    };
    match config.stress.as_ref().filter(|_| measured.ended == Ended::Masqueraded) {
        Some(stress) => {
            let mut targets = vec![target];
            let Some(further) = further_targets(stress, target, config, signals)? else {
                over(None)?;
                return Ok(ExitCode::FAILURE);
            };
            targets.extend(further);
            let ways = Ways { targets: &targets, sources, route: &config.route };
            stress::run(stress, ways, descriptors, metrics, signals, |report| over(Some(report)))?;
        }
        None => {
            if over(None)? {
                signals.wait();
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the client does for each of its sockets, and the kernel asks a right for.
fn needed(config: &ClientConfig) -> Vec<Capability> {
    let tag = config.tag.as_ref().map(|_| Capability::CAP_NET_ADMIN);
    // Before Linux 5.7 (SO_BINDTODEVICE, net/core/sock.c).
    let device = config.route.bind_device.as_ref().map(|_| Capability::CAP_NET_RAW);
    tag.into_iter().chain(device).collect()
}

/// Probes, and holds connections from the winner on if the watch wants some.
fn probe_and_hold(
    config: &ClientConfig,
    destination: &Destination,
    start: Start,
    signals: &Signals,
    metrics: &ClientMetrics,
    descriptors: u64,
    test_over: &AtomicBool,
) -> anyhow::Result<(Measurement, Option<HoldReport>)> {
    let tagger = tagger(config)?;
    let count = config.watch.map_or(0, |watch| watch.hold);
    let hold = match count {
        0 => None,
        _ => Some(Hold::new(destination, metrics, start.monotonic, count, config.interval)?),
    };
    let stop = AtomicBool::new(false);
    let (winner_named, wait_for_winner) = mpsc::channel::<()>();
    let on_winner = move || {
        test_over.store(true, Ordering::Relaxed);
        // Nobody waits where nothing is to be held.
        let _ = winner_named.send(());
    };
    std::thread::scope(|scope| {
        let stop = &stop;
        let holding = hold.map(|hold| {
            scope.spawn(move || match wait_for_winner.recv() {
                Ok(()) => hold.run(stop).map(Some),
                Err(mpsc::RecvError) => Ok(None),
            })
        });
        let setup = Setup {
            config,
            destination,
            metrics,
            signals,
            on_winner: &on_winner,
            start: start.monotonic,
            descriptors: descriptors.saturating_sub(u64::from(count)),
        };
        let measured = Prober::new(setup, tagger).and_then(Prober::run);
        stop.store(true, Ordering::Relaxed);
        drop(on_winner);
        let report = match holding.map(std::thread::ScopedJoinHandle::join) {
            Some(Ok(report)) => report.context("holding connections broke off")?,
            _ => None,
        };
        Ok((measured.context("the probing broke off")?, report))
    })
}

/// The address of the target, or how the test ended before there was one.
fn first_target(
    config: &ClientConfig,
    deadline: Monotonic,
    signals: &Signals,
) -> Result<Result<SocketAddr, TestOutcome>, ConfigError> {
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

/// Binds a socket to each source of the stress test, so that a wrong one is told before the test.
fn try_sources(target: SocketAddr, sources: &[IpAddr], route: &Route) -> Result<(), ConfigError> {
    for source in sources {
        let route = Route { source_addr: Some(*source), ..route.clone() };
        if let Err(error) = Destination::new(target, &route).socket() {
            let remedy =
                format!("cannot be connected from: {error}; `ip address` lists the addresses of this host");
            return Err(ConfigError::new("--stress-source-addr", source, remedy));
        }
    }
    Ok(())
}

/// Opens and closes a socket by the user's route, so that a wrong one is told before the test.
fn try_route(destination: &Destination, config: &ClientConfig) -> Result<(), ConfigError> {
    let Err(error) = destination.socket() else { return Ok(()) };
    Err(match (&config.route.source_addr, &config.route.bind_device, error.kind()) {
        (Some(source), _, io::ErrorKind::AddrNotAvailable) => {
            ConfigError::new("--source-addr", source, "not an address of this host: `ip address` lists them")
        }
        (_, Some(device), _) => ConfigError::new(
            "--bind-device",
            device,
            format!("cannot be bound to: {error}; CAP_NET_RAW may be missing"),
        ),
        _ => ConfigError::new(
            "--external-target-addr",
            destination.target,
            format!("no socket for it: {error}"),
        ),
    })
}

/// What tags the SYNs, if they are to be and can be.
fn tagger(config: &ClientConfig) -> anyhow::Result<Option<Tagger>> {
    let Some(tag) = config.tag else { return Ok(None) };
    match Tagger::new(tag.client, tag.key) {
        Ok(tagger) => {
            tracing::info!(client = tag.client, "SYNs are tagged");
            Ok(Some(tagger))
        }
        Err(error) => {
            let line = format!(
                "--tag: SYNs cannot be tagged: {error}; choosing sequence numbers needs CAP_NET_ADMIN: run as root, or \
                 `setcap cap_net_admin+p` on the file, or securityContext.capabilities.add [NET_ADMIN]"
            );
            anyhow::ensure!(!tag.required, line);
            tracing::warn!("{line}; going on without tags");
            Ok(None)
        }
    }
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

fn pages(registry: prometheus::Registry, test_over: Arc<AtomicBool>) -> Arc<Pages> {
    let metrics = Exposition::new(registry);
    Arc::new(move |path| match path {
        "/metrics" => Some(metrics.page()),
        "/readyz" if test_over.load(Ordering::Relaxed) => {
            Some(Page::text(StatusCode::OK, "the test is over"))
        }
        "/readyz" => Some(Page::text(StatusCode::INTERNAL_SERVER_ERROR, "the test is under way")),
        _ => None,
    })
}

/// Prints the result.
fn print(form: Output, document: &ResultDocument) -> io::Result<()> {
    output::print(&match form {
        Output::Text => summary::text(document),
        Output::Json => serde_json::to_string(document)? + "\n",
    })
}
