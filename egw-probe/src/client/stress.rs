//! The stress test: how many connections a path carries at a time.
//!
//! As the old program: connections are dialled one after another and kept, and the test ends after 3 failed dials.
//! A kept connection costs a descriptor and a registration with epoll, no task and no buffer.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use socket2::{Socket, TcpKeepalive};

use super::metrics::ClientMetrics;
use super::probe::Destination;
use super::result::Quantiles;
use crate::clock::Monotonic;
use crate::config::StressConfig;
use crate::log::RateLimit;
use crate::net::RESERVED_DESCRIPTORS;
use crate::poller::{EventFlags, Poller, Ready};
use crate::progress::Progress;
use crate::signals::Signals;

const SIGNAL: u64 = u64::MAX;
/// How long one dial may take, as in the old program.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Failed dials that end the test, as in the old program.
const MAX_FAILED: u64 = 3;
/// A dial slower than this is worth a log line, as in the old program.
const SLOW_DIAL: Duration = Duration::from_millis(100);

/// What the stress test measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StressReport {
    /// Connections established.
    pub opened: u64,
    /// Of these, closed by the other end before the test was over.
    pub closed: u64,
    /// Dials that failed.
    pub failed: u64,
    /// How long successful dials took; null if there was none.
    pub latency_seconds: Option<Quantiles>,
}

/// The stress test under way. Connections stay open until it is dropped.
#[derive(Debug)]
pub struct Stress<'a> {
    destination: &'a Destination,
    metrics: &'a ClientMetrics,
    signals: &'a Signals,
    poller: Poller,
    /// Open connections; the index is what epoll knows them by.
    held: Vec<Option<Socket>>,
    /// Indexes of `held` that are free again.
    free: Vec<usize>,
    ready: Vec<Ready>,
    opened: u64,
    closed: u64,
    failed: u64,
    latency_ns: Histogram<u64>,
    interrupted: bool,
    log: RateLimit,
}

impl<'a> Stress<'a> {
    /// A stress test that has not begun.
    pub fn new(
        destination: &'a Destination,
        metrics: &'a ClientMetrics,
        signals: &'a Signals,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(signals, SIGNAL, EventFlags::IN)?;
        Ok(Self {
            destination,
            metrics,
            signals,
            poller,
            held: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            opened: 0,
            closed: 0,
            failed: 0,
            latency_ns: Quantiles::histogram_ns(),
            interrupted: false,
            log: RateLimit::per_second(1),
        })
    }

    /// Dials until 3 dials have failed, the duration is over, the descriptors are used up, or a signal comes.
    pub fn run(&mut self, config: StressConfig, descriptors: u64) -> io::Result<StressReport> {
        for operation in ["open", "close"] {
            self.metrics.stress_connections.with_label_values(&[operation]);
        }
        tracing::info!(delay = ?config.delay, "waiting before the stress test");
        self.watch_until(Monotonic::now() + config.delay)?;
        let begun = Monotonic::now();
        let end = config.duration.map(|duration| begun + duration);
        let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        let mut progress = Progress::default();
        while !self.interrupted && self.failed < MAX_FAILED {
            let now = Monotonic::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            let open = self.opened - self.closed;
            if open >= most {
                tracing::warn!(
                    "stopped at {open} connections: no descriptors are left; raise the limit (ulimit -n)"
                );
                break;
            }
            progress.show(now, || {
                format!(
                    "stress  {:.1} s  open {open}  failed {}",
                    now.since(begun).as_secs_f64(),
                    self.failed
                )
            });
            self.dial(end)?;
        }
        drop(progress);
        tracing::info!(opened = self.opened, closed = self.closed, failed = self.failed, "stress test over");
        Ok(StressReport {
            opened: self.opened,
            closed: self.closed,
            failed: self.failed,
            latency_seconds: Quantiles::of_ns(&self.latency_ns),
        })
    }

    /// Goes on counting connections that the other end closes, until a signal comes.
    pub fn watch(&mut self) -> io::Result<()> {
        while !self.interrupted {
            self.wait(None)?;
        }
        Ok(())
    }

    /// Whether a signal has ended the test.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    fn watch_until(&mut self, instant: Monotonic) -> io::Result<()> {
        while !self.interrupted && Monotonic::now() < instant {
            self.wait(Some(instant))?;
        }
        Ok(())
    }

    fn dial(&mut self, end: Option<Monotonic>) -> io::Result<()> {
        let begun = Monotonic::now();
        match self.connect(begun + DIAL_TIMEOUT, end) {
            Ok(Some(established)) => {
                let elapsed = Monotonic::now().since(begun);
                self.opened += 1;
                self.latency_ns.saturating_record(elapsed.as_nanos() as u64);
                self.metrics.stress_connections.with_label_values(&["open"]).inc();
                self.metrics.stress_latency.observe(elapsed.as_secs_f64());
                if elapsed > SLOW_DIAL
                    && let Some(held_back) = self.log.pass(begun)
                {
                    tracing::warn!(
                        ?elapsed,
                        opened = self.opened,
                        held_back,
                        "dialling took more than 100 ms"
                    );
                }
                self.keep(established.token as usize);
                // It may be closed again already, and epoll tells that only once.
                self.handle(established);
            }
            Ok(None) => {}
            Err(error) => {
                self.failed += 1;
                let elapsed = Monotonic::now().since(begun);
                tracing::warn!(%error, ?elapsed, opened = self.opened, failed = self.failed, "dial failed");
            }
        }
        // Closings are looked at between dials, without waiting.
        self.wait(Some(Monotonic::now())).map(drop)
    }

    /// `Ok(None)` if the test ended while the dial was under way.
    fn connect(&mut self, deadline: Monotonic, end: Option<Monotonic>) -> io::Result<Option<Ready>> {
        let socket = self.destination.socket()?;
        self.destination.connect(&socket)?;
        let index = self.free.pop().unwrap_or(self.held.len());
        let interest = EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.poller.add(&socket, index as u64, interest)?;
        if index == self.held.len() {
            self.held.push(None);
        }
        self.held[index] = Some(socket);
        let outcome = loop {
            let until = end.map_or(deadline, |end| end.min(deadline));
            match self.wait_for(index, until) {
                Ok(Some(established)) => break Ok(Some(established)),
                Ok(None) if self.interrupted || end.is_some_and(|end| Monotonic::now() >= end) => {
                    break Ok(None);
                }
                Ok(None) if Monotonic::now() >= deadline => {
                    break Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5s"));
                }
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        if !matches!(outcome, Ok(Some(_))) {
            self.held[index] = None;
            self.free.push(index);
        }
        outcome
    }

    fn keep(&self, index: usize) {
        let Some(Some(socket)) = self.held.get(index) else { return };
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(1))
            .with_interval(Duration::from_secs(1))
            .with_retries(15);
        if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
            tracing::debug!(%error, "no keepalive");
        }
    }

    /// Waits until `until` at most; `Some` once the connection `dialled` is established.
    fn wait_for(&mut self, dialled: usize, until: Monotonic) -> io::Result<Option<Ready>> {
        let mut established = None;
        let mut failed = None;
        self.poller.wait(Some(until), &mut self.ready)?;
        for ready in std::mem::take(&mut self.ready) {
            if ready.token != dialled as u64 {
                self.handle(ready);
            } else if let Some(Some(socket)) = self.held.get(dialled) {
                // A reset follows an established connection; a refused one says ECONNREFUSED.
                let reset =
                    |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE));
                if ready.flags.intersects(EventFlags::ERR) {
                    failed = socket.take_error()?.filter(|error| !reset(error));
                }
                established = ready.flags.contains(EventFlags::OUT).then_some(ready);
            }
        }
        failed.map_or(Ok(established), Err)
    }

    fn wait(&mut self, until: Option<Monotonic>) -> io::Result<()> {
        self.poller.wait(until, &mut self.ready)?;
        for ready in std::mem::take(&mut self.ready) {
            self.handle(ready);
        }
        Ok(())
    }

    fn handle(&mut self, ready: Ready) {
        if ready.token == SIGNAL {
            self.interrupted |= self.signals.take();
            return;
        }
        if !ready.flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(socket) = self.held.get_mut(ready.token as usize).and_then(Option::take) else { return };
        self.free.push(ready.token as usize);
        self.closed += 1;
        self.metrics.stress_connections.with_label_values(&["close"]).inc();
        if let Some(held_back) = self.log.pass(Monotonic::now()) {
            let reason = match socket.take_error() {
                Ok(Some(error)) => error.to_string(),
                _ => "closed by the other end".to_owned(),
            };
            tracing::warn!(reason, closed = self.closed, held_back, "connection lost");
        }
    }
}
