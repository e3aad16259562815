//! The stress test: how many connections a path carries at a time.
//!
//! As the old program: connections are dialled and kept, and the test ends after 3 failed dials. A kept connection
//! costs a descriptor, a registration with epoll and a few bytes in a table: no task and no buffer.

pub(crate) mod heard;
pub(crate) mod lanes;
pub(crate) mod limit;
pub(crate) mod plan;
pub(crate) mod replies;
pub(crate) mod series;
pub(crate) mod shard;

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::TcpKeepalive;

use crate::client::metrics::ClientMetrics;
use crate::client::stress::lanes::{Lanes, Ways};
use crate::client::stress::limit::Evidence;
use crate::client::stress::plan::{Plan, Total};
use crate::client::stress::series::Series;
use crate::client::stress::shard::{Shard, ShardReport};
use crate::config::client::StressConfig;
use crate::config::error::ConfigError;
use crate::document::quantiles::Times;
use crate::document::stress::{CAP, PortRange, StressEnd, StressReport};
use crate::sys::clock::Monotonic;
use crate::sys::net::{RESERVED_DESCRIPTORS, local_port_range};
use crate::sys::poller::{EventFlags, Poller};
use crate::sys::progress::Progress;
use crate::sys::signals::Signals;
use crate::sys::thread;

/// Keepalive checks that a connection may miss, as in the old program.
const KEEPALIVE_RETRIES: u32 = 15;
/// Dials that may wait for the target's reply beside those whose handshake is under way: one at a time need not wait for the target's
/// turn of the processor. Its accept queue holds no more of ours than these and the concurrency.
const UNANSWERED: usize = 16;
/// How often the shards are looked at while they dial.
const GLANCE: Duration = Duration::from_millis(10);

/// Refuses a number of connections that the descriptor limit does not allow, before anything is opened.
pub(crate) fn check_descriptors(config: &StressConfig, descriptors: u64) -> Result<(), ConfigError> {
    let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    match config.connections {
        Some(wanted) if wanted > most => {
            let needed = wanted + RESERVED_DESCRIPTORS;
            Err(ConfigError::new(
                "--stress-connections",
                wanted,
                format!(
                    "needs {needed} descriptors ({RESERVED_DESCRIPTORS} in reserve), and the hard limit is \
                     {descriptors}: run `prlimit --pid $$ --nofile={needed}:{needed}` as root in this shell, or set \
                     LimitNOFILE={needed} (systemd), --ulimit nofile={needed} (docker)"
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// What the stress test goes by that is known before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Descriptors that the process may open.
    pub descriptors: u64,
    /// The target annotates its replies, and so denies by a line of its own.
    pub annotates: bool,
}

/// Runs the stress test. Then calls `over` with what came of it, with all connections open; goes on counting those that
/// close, until a signal comes, if `over` wants that.
pub(crate) fn run<E: From<io::Error>>(
    config: &StressConfig,
    ways: Ways<'_>,
    known: Known,
    metrics: &ClientMetrics,
    signals: &Signals,
    over: impl FnOnce(StressReport) -> Result<bool, E>,
) -> Result<(), E> {
    metrics.stress.begin();
    tracing::info!(delay = ?config.delay, "waiting before the stress test");
    let poller = Poller::new()?;
    poller.add(signals, 0, EventFlags::IN)?;
    let interrupted = wait(&poller, signals, Monotonic::now() + config.delay)?;

    let begun = Monotonic::now();
    let keepalive = |interval| {
        TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(KEEPALIVE_RETRIES)
    };
    let plan = Plan {
        metrics,
        begun,
        end: config.duration.map(|duration| begun + duration),
        wanted: config.connections.unwrap_or(u64::MAX),
        most: known.descriptors.saturating_sub(RESERVED_DESCRIPTORS),
        annotates: known.annotates,
        max_failed: config.max_failed,
        keepalive: config.keepalive.map(keepalive),
        total: Total::default(),
    };
    plan.total.interrupted.store(interrupted, Relaxed);
    let range = local_port_range();
    // A thread for each core: most of a dial's cost is the kernel's, on the core of who dials.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = config.concurrency.min(cores);
    let shards = (0..count).map(|number| {
        let share = (config.concurrency + count - 1 - number) / count;
        let lanes = Lanes::new(ways, range.map(|range| range.part(number, count, begun.as_ns() as u32)));
        Shard::new(&plan, share, (UNANSWERED / count).max(1), lanes)
    });
    let mut shards = shards.collect::<io::Result<Vec<_>>>()?;
    let lanes = (ways.targets.len() * ways.sources.len().max(1)) as u64;
    warn_of_limits(&plan, range, lanes);

    let reports = oversee(&plan, &mut shards, &poller, signals)?;
    let report = StressReport {
        concurrency: config.concurrency as u64,
        lanes,
        local_port_range: range,
        ..combine(reports, &plan, ways.targets.len() as u64, lanes, range)
    };
    let StressReport { opened, closed, leaked, failed, .. } = report;
    tracing::info!(opened, closed, leaked, failed, "stress test over");
    if over(report)? && !plan.total.interrupted.load(Relaxed) {
        watch(&mut shards, &poller, signals)?;
    }
    Ok(())
}

/// Waits until `until`; whether a signal came before.
fn wait(poller: &Poller, signals: &Signals, until: Monotonic) -> io::Result<bool> {
    let mut ready = Vec::new();
    while Monotonic::now() < until {
        poller.wait(Some(until), &mut ready)?;
        if signals.take() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets every shard dial on a thread of its own; shows how far they are, and tells them of a signal.
fn oversee(
    plan: &Plan<'_>,
    shards: &mut [Shard<'_>],
    poller: &Poller,
    signals: &Signals,
) -> io::Result<Vec<ShardReport>> {
    std::thread::scope(|scope| {
        let start = |shard| thread::spawn_scoped(scope, "stress", || Shard::run(shard));
        let threads: io::Result<Vec<_>> = shards.iter_mut().map(start).collect();
        // Those that run already need not go on without one that cannot be started.
        let threads = threads.inspect_err(|_| plan.total.interrupted.store(true, Relaxed))?;
        let mut progress = Progress::default();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            if wait(poller, signals, Monotonic::now() + GLANCE)? {
                plan.total.interrupted.store(true, Relaxed);
            }
            let now = Monotonic::now();
            progress.show(now, || progress_line(plan, now));
        }
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

fn progress_line(plan: &Plan<'_>, now: Monotonic) -> String {
    let elapsed = now.since(plan.begun).as_secs_f64();
    let total = &plan.total;
    let [opened, open, closed, failed] =
        [&total.opened, &total.open, &total.closed, &total.failed].map(|count| count.load(Relaxed));
    let rate = opened as f64 / elapsed.max(0.001);
    format!("stress  {elapsed:.1} s  open {open}  {rate:.0}/s  closed {closed}  failed {failed}")
}

/// Goes on counting connections that close, until a signal comes.
fn watch(shards: &mut [Shard<'_>], poller: &Poller, signals: &Signals) -> io::Result<()> {
    for (number, shard) in shards.iter().enumerate() {
        poller.add(shard.poller(), number as u64 + 1, EventFlags::IN)?;
    }
    let mut ready = Vec::new();
    while !signals.take() {
        poller.wait(None, &mut ready)?;
        for event in ready.drain(..).filter(|event| event.token > 0) {
            shards[event.token as usize - 1].look()?;
        }
    }
    Ok(())
}

fn warn_of_limits(plan: &Plan<'_>, range: Option<PortRange>, lanes: u64) {
    let ports = range.map_or(u64::MAX, |range| u64::from(range.ports()) * lanes);
    if ports < plan.wanted.min(plan.most) {
        tracing::warn!(
            "at most {ports} connections: the ports of {lanes} pairs of source address and target \
             (net.ipv4.ip_local_port_range); --stress-source-addr and --stress-target-addr add pairs"
        );
    } else if plan.most < plan.wanted {
        tracing::warn!(
            "at most {} connections: the hard limit on descriptors, less {RESERVED_DESCRIPTORS} in reserve; raise it \
             before the start (`ulimit -Hn`, as root) for more",
            plan.most
        );
    }
}

/// All shards' counts as one report.
fn combine(
    shards: Vec<ShardReport>,
    plan: &Plan<'_>,
    targets: u64,
    lanes: u64,
    port_range: Option<PortRange>,
) -> StressReport {
    let mut all = StressReport::default();
    let mut latency = Times::default();
    let mut series = Series::default();
    let mut ended = StressEnd::Connections;
    for shard in shards {
        all.add(shard.report);
        latency.add(&shard.latency);
        series = series.with(shard.series);
        ended = ended.max(shard.ended);
    }
    all.failures.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
    all.closings.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
    all.failures.truncate(CAP);
    all.closings.truncate(CAP);
    let limit = limit::judge(&Evidence {
        ended,
        failed_by: &all.failed_by,
        open: all.opened - all.closed,
        opened: all.opened,
        lost_syns: all.syn_retransmissions,
        lost_dials: all.lost_syn_dials,
        lost: all.first_lost_syn.zip(all.last_lost_syn),
        // What the target denied, and therefore closed, says nothing of a limit.
        closed: all.closed.saturating_sub(all.leaked),
        lanes,
        targets,
        port_range,
        most: plan.most,
    });
    StressReport {
        latency_seconds: latency.quantiles(),
        ended: Some(ended),
        limit,
        series: series.points(Monotonic::now().since(plan.begun)),
        ..all
    }
}
