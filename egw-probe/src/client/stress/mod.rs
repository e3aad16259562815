//! The stress test: how many connections a path carries at a time.
//!
//! As the old program: connections are dialled and kept, and the test ends after 3 failed dials. A kept connection
//! costs a descriptor, a registration with epoll and a few bytes in a table: no task and no buffer.

pub mod failure;
pub mod lanes;
pub mod limit;
pub mod report;
pub mod series;

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::net::{RecvFlags, recv};
use socket2::{Socket, TcpKeepalive};

use self::failure::DialFailure;
use self::lanes::Lanes;
use self::limit::Evidence;
use self::report::{CAP, Closing, FailedDial, StressEnd, StressReport};
use self::series::{Event, Series};
use super::hold::LossReason;
use super::metrics::ClientMetrics;
use super::result::Quantiles;
use crate::clock::Monotonic;
use crate::config::{ConfigError, StressConfig};
use crate::log::RateLimit;
use crate::net::RESERVED_DESCRIPTORS;
use crate::poller::{EventFlags, Poller, Ready};
use crate::progress::Progress;
use crate::signals::Signals;

const SIGNAL: u64 = u64::MAX;
/// How long one dial may take, as in the old program.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A dial slower than this is worth a log line, as in the old program.
const SLOW_DIAL: Duration = Duration::from_millis(100);
/// How often dials are looked at for their timeout.
const GLANCE: Duration = Duration::from_millis(50);
/// How long answers on the last connections are waited for.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// Keepalive checks that a connection may miss, as in the old program.
const KEEPALIVE_RETRIES: u32 = 15;

/// Refuses a number of connections that the descriptor limit does not allow, before anything is opened.
pub fn check_descriptors(config: &StressConfig, descriptors: u64) -> Result<(), ConfigError> {
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

/// A place in the table of sockets; epoll knows it by its index.
#[derive(Debug)]
enum Slot {
    Free,
    /// Under way; the index of its [`Dial`].
    Dialling(Socket, u16),
    Open {
        socket: Socket,
        lane: u16,
        answered: bool,
        /// Since the first dial.
        since_milliseconds: u32,
    },
}

// Some bytes for each of a hundred thousand connections.
const _: () = assert!(size_of::<Slot>() <= 12);

/// A dial under way.
#[derive(Debug, Clone, Copy)]
struct Dial {
    slot: u32,
    lane: u16,
    begun: Monotonic,
}

/// The stress test under way. Connections stay open until it is dropped.
#[derive(Debug)]
pub struct Stress<'a> {
    metrics: &'a ClientMetrics,
    signals: &'a Signals,
    poller: Poller,
    slots: Vec<Slot>,
    /// Indexes of `slots` that are free again.
    free: Vec<u32>,
    /// Dials under way, as many places as there may be.
    dials: Vec<Option<Dial>>,
    lanes: Lanes,
    keepalive: Option<TcpKeepalive>,
    ready: Vec<Ready>,
    begun: Monotonic,
    report: StressReport,
    open: u64,
    in_flight: u64,
    /// Open connections on which the target has not answered.
    unanswered: u64,
    latency_ns: Histogram<u64>,
    series: Series,
    interrupted: bool,
    log: RateLimit,
}

impl<'a> Stress<'a> {
    /// A stress test that has not begun.
    pub fn new(metrics: &'a ClientMetrics, signals: &'a Signals, lanes: Lanes) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(signals, SIGNAL, EventFlags::IN)?;
        Ok(Self {
            metrics,
            signals,
            poller,
            slots: Vec::new(),
            free: Vec::new(),
            dials: Vec::new(),
            lanes,
            keepalive: None,
            ready: Vec::new(),
            begun: Monotonic::now(),
            report: StressReport::default(),
            open: 0,
            in_flight: 0,
            unanswered: 0,
            latency_ns: Quantiles::histogram_ns(),
            series: Series::default(),
            interrupted: false,
            log: RateLimit::per_second(1),
        })
    }

    /// Dials until enough dials have failed, there are as many connections as wanted, the duration is over, the
    /// descriptors are used up, or a signal comes.
    pub fn run(&mut self, config: &StressConfig, descriptors: u64) -> io::Result<StressReport> {
        self.metrics.stress.begin();
        tracing::info!(delay = ?config.delay, "waiting before the stress test");
        let delayed = Monotonic::now() + config.delay;
        while !self.interrupted && Monotonic::now() < delayed {
            self.wait(Some(delayed))?;
        }
        let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        self.prepare(config, most);
        let end = config.duration.map(|duration| self.begun + duration);
        let mut progress = Progress::default();
        let mut look_for_timeouts = self.begun + GLANCE;
        let ended = loop {
            let now = Monotonic::now();
            if let Some(ended) = self.is_over(config, most, end, now) {
                break ended;
            }
            progress.show(now, || self.progress_line(now));
            if self.may_dial(config, most) {
                self.dial(now)?;
                // What the dial, or others meanwhile, brought about: a look after each keeps every latency its own.
                self.wait(Some(now))?;
            } else {
                let until =
                    [end, self.next_timeout()].into_iter().flatten().fold(now + GLANCE, Monotonic::min);
                self.wait(Some(until))?;
            }
            if now >= look_for_timeouts {
                self.give_up(Monotonic::now());
                look_for_timeouts = now + GLANCE;
            }
        };
        drop(progress);
        let patience = Monotonic::now() + LAST_ANSWERS;
        while self.report.answered > 0
            && self.unanswered > 0
            && Monotonic::now() < patience
            && !self.interrupted
        {
            self.wait(Some(patience))?;
        }
        Ok(self.finish(ended, most))
    }

    /// Goes on counting connections that close, until a signal comes.
    pub fn watch(&mut self) -> io::Result<()> {
        while !self.interrupted {
            self.wait(None)?;
        }
        Ok(())
    }

    fn prepare(&mut self, config: &StressConfig, most: u64) {
        let interval = config.keepalive;
        self.keepalive = interval.map(|interval| {
            TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(KEEPALIVE_RETRIES)
        });
        self.dials = vec![None; config.concurrency];
        let ports = self.lanes.port_range().map(|range| u64::from(range.ports()) * self.lanes.count());
        let (wanted, lanes) = (config.connections.unwrap_or(u64::MAX), self.lanes.count());
        if let (Some(ports), Some(range)) = (ports, self.lanes.port_range())
            && ports < wanted.min(most)
        {
            tracing::warn!(
                "at most {ports} connections: {lanes} pairs of source address and target with {} ports each \
                 (net.ipv4.ip_local_port_range); --stress-source-addr and --stress-target-addr add pairs",
                range.ports()
            );
        } else if most < wanted {
            tracing::warn!(
                "at most {most} connections: the hard limit on descriptors, less {RESERVED_DESCRIPTORS} in reserve; \
                 raise it before the start (`ulimit -Hn`, as root) for more"
            );
        }
        self.report.concurrency = config.concurrency as u64;
        self.report.lanes = lanes;
        self.report.local_port_range = self.lanes.port_range();
        self.begun = Monotonic::now();
    }

    fn is_over(
        &self,
        config: &StressConfig,
        most: u64,
        end: Option<Monotonic>,
        now: Monotonic,
    ) -> Option<StressEnd> {
        if self.interrupted {
            Some(StressEnd::Interrupted)
        } else if end.is_some_and(|end| now >= end) {
            Some(StressEnd::Duration)
        } else if self.report.failed >= config.max_failed {
            Some(StressEnd::FailedDials)
        } else if self.in_flight > 0 {
            None
        } else if end.is_none() && config.connections.is_some_and(|wanted| self.report.opened >= wanted) {
            Some(StressEnd::Connections)
        } else {
            let full =
                self.open >= most && config.connections.is_none_or(|wanted| self.report.opened < wanted);
            full.then_some(StressEnd::Descriptors)
        }
    }

    fn may_dial(&self, config: &StressConfig, most: u64) -> bool {
        let begun = self.report.opened + self.in_flight;
        !self.interrupted
            && (self.in_flight as usize) < config.concurrency
            && self.report.failed < config.max_failed
            && self.open + self.in_flight < most
            && config.connections.is_none_or(|wanted| begun < wanted)
    }

    fn progress_line(&self, now: Monotonic) -> String {
        let elapsed = now.since(self.begun).as_secs_f64();
        let StressReport { opened, closed, failed, .. } = self.report;
        let rate = opened as f64 / elapsed.max(0.001);
        format!("stress  {elapsed:.1} s  open {}  {rate:.0}/s  closed {closed}  failed {failed}", self.open)
    }

    fn dial(&mut self, now: Monotonic) -> io::Result<()> {
        let (socket, lane) = self.lanes.dial();
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                self.fail(&error, lane, now, now);
                return Ok(());
            }
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() as u32 - 1
        });
        let place = self.dials.iter().position(Option::is_none).unwrap_or_default();
        self.dials[place] = Some(Dial { slot, lane, begun: now });
        self.in_flight += 1;
        let interest = EventFlags::OUT | EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        let added = self.poller.add(&socket, u64::from(slot), interest);
        self.slots[slot as usize] = Slot::Dialling(socket, place as u16);
        added
    }

    /// When the first dial under way runs out of time.
    fn next_timeout(&self) -> Option<Monotonic> {
        self.dials.iter().flatten().map(|dial| dial.begun + DIAL_TIMEOUT).min()
    }

    fn give_up(&mut self, now: Monotonic) {
        for place in 0..self.dials.len() {
            let Some(dial) = self.dials[place] else { continue };
            if now >= dial.begun + DIAL_TIMEOUT {
                self.settle(place as u16);
                self.release(dial.slot);
                let error = io::Error::new(io::ErrorKind::TimedOut, "no answer within 5s");
                self.fail(&error, dial.lane, dial.begun, now);
            }
        }
    }

    fn settle(&mut self, place: u16) -> Option<Dial> {
        let dial = self.dials.get_mut(usize::from(place))?.take()?;
        self.in_flight -= 1;
        Some(dial)
    }

    /// Closes what a slot holds, and makes it free.
    fn release(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::Free;
        self.free.push(slot);
    }

    fn fail(&mut self, error: &io::Error, lane: u16, begun: Monotonic, now: Monotonic) {
        let reason = DialFailure::of(error);
        let elapsed = Monotonic::now().since(begun);
        self.report.failed += 1;
        *self.report.failed_by.entry(reason).or_default() += 1;
        self.series.note(now.since(self.begun), Event::Failed);
        self.metrics.stress.failed[reason as usize].inc();
        let target = self.lanes.target(lane).to_string();
        if let Some(held_back) = self.log.pass(now) {
            let (open, failed) = (self.open, self.report.failed);
            tracing::warn!(%error, reason = reason.name(), target, ?elapsed, open, failed, held_back, "dial failed");
        }
        if self.report.failures.len() < CAP {
            self.report.failures.push(FailedDial {
                at_seconds: now.since(self.begun).as_secs_f64(),
                elapsed_seconds: elapsed.as_secs_f64(),
                open: self.open,
                target,
                reason,
                error: error.to_string(),
            });
        }
    }

    fn wait(&mut self, until: Option<Monotonic>) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(until, &mut ready)?;
        // One reading for a batch: it is taken right after the kernel told of all of them.
        let now = Monotonic::now();
        for event in ready.drain(..) {
            self.handle(event, now);
        }
        self.ready = ready;
        Ok(())
    }

    fn handle(&mut self, Ready { token, flags }: Ready, now: Monotonic) {
        if token == SIGNAL {
            self.interrupted |= self.signals.take();
            return;
        }
        let slot = token as u32;
        let gone = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let Some(place) = self.slots.get_mut(token as usize) else { return };
        if let Slot::Dialling(socket, dial) = place {
            let dial = *dial;
            let error = if gone { socket.take_error().unwrap_or_else(Some) } else { None };
            if error.is_none() && !flags.contains(EventFlags::OUT) {
                return;
            }
            let Some(dial) = self.settle(dial) else { return };
            if let Some(error) = error {
                self.release(slot);
                self.fail(&error, dial.lane, dial.begun, now);
                return;
            }
            self.establish(slot, dial, now);
        }
        self.follow(slot, flags, gone, now);
    }

    fn establish(&mut self, slot: u32, dial: Dial, now: Monotonic) {
        let Slot::Dialling(socket, _) = std::mem::replace(&mut self.slots[slot as usize], Slot::Free) else {
            return;
        };
        if let Some(Err(error)) = self.keepalive.as_ref().map(|keepalive| socket.set_tcp_keepalive(keepalive))
        {
            tracing::debug!(%error, "no keepalive");
        }
        let (elapsed, at) = (now.since(dial.begun), now.since(self.begun));
        self.slots[slot as usize] = Slot::Open {
            socket,
            lane: dial.lane,
            answered: false,
            since_milliseconds: u32::try_from(at.as_millis()).unwrap_or(u32::MAX),
        };
        self.open += 1;
        self.unanswered += 1;
        self.report.opened += 1;
        self.report.peak_open = self.report.peak_open.max(self.open);
        self.report.opening_seconds = at.as_secs_f64();
        self.latency_ns.saturating_record(elapsed.as_nanos() as u64);
        self.series.note(at, Event::Opened(elapsed));
        self.metrics.stress.opened(elapsed);
        if elapsed > SLOW_DIAL
            && let Some(held_back) = self.log.pass(now)
        {
            tracing::warn!(
                ?elapsed,
                opened = self.report.opened,
                held_back,
                "dialling took more than 100 ms"
            );
        }
    }

    /// What happens on an open connection: the target's answer, or the end.
    fn follow(&mut self, slot: u32, flags: EventFlags, gone: bool, now: Monotonic) {
        let place = &mut self.slots[slot as usize];
        let Slot::Open { socket, answered, lane, since_milliseconds } = place else { return };
        // Taken before anything is read: a read would take it away.
        let error = if gone { socket.take_error().ok().flatten() } else { None };
        if flags.contains(EventFlags::IN) && discard(socket) && !*answered {
            *answered = true;
            self.unanswered -= 1;
            self.report.answered += 1;
        }
        if !gone {
            return;
        }
        let at = now.since(self.begun);
        let closing = Closing {
            at_seconds: at.as_secs_f64(),
            open_seconds: at
                .saturating_sub(Duration::from_millis(u64::from(*since_milliseconds)))
                .as_secs_f64(),
            target: self.lanes.target(*lane).to_string(),
            answered: *answered,
            reason: LossReason::of(error.as_ref()),
        };
        self.unanswered -= u64::from(!*answered);
        self.release(slot);
        self.open -= 1;
        self.report.closed += 1;
        *self.report.closed_by.entry(closing.reason).or_default() += 1;
        self.series.note(at, Event::Closed);
        self.metrics.stress.closed(closing.reason);
        if let Some(held_back) = self.log.pass(now) {
            let Closing { reason, open_seconds, .. } = closing;
            let closed = self.report.closed;
            tracing::warn!(reason = reason.name(), open_seconds, closed, held_back, "connection lost");
        }
        if self.report.closings.len() < CAP {
            self.report.closings.push(closing);
        }
    }

    /// What the test came to. Dials under way end here; connections stay open.
    fn finish(&mut self, ended: StressEnd, most: u64) -> StressReport {
        self.report.unsettled = self.in_flight;
        for place in 0..self.dials.len() {
            if let Some(dial) = self.settle(place as u16) {
                self.release(dial.slot);
            }
        }
        let limit = limit::judge(&Evidence {
            ended,
            failed_by: &self.report.failed_by,
            open: self.open,
            unanswered: if self.report.answered > 0 { self.unanswered } else { 0 },
            closed: self.report.closed,
            lanes: self.report.lanes,
            targets: self.lanes.targets(),
            port_range: self.report.local_port_range,
            most,
        });
        let StressReport { opened, closed, failed, .. } = self.report;
        tracing::info!(opened, closed, failed, "stress test over");
        let series = std::mem::take(&mut self.series);
        StressReport {
            latency_seconds: Quantiles::of_ns(&self.latency_ns),
            ended: Some(ended),
            limit,
            series: series.points(Monotonic::now().since(self.begun)),
            ..self.report.clone()
        }
    }
}

/// Reads and throws away what the target sent; whether there was something.
fn discard(socket: &Socket) -> bool {
    let mut scratch = [MaybeUninit::<u8>::uninit(); 512];
    let mut any = false;
    // Edge-triggered: until there is no more.
    while let Ok((_, length)) = recv(socket, &mut scratch, RecvFlags::DONTWAIT) {
        any |= length > 0;
        if length < scratch.len() {
            break;
        }
    }
    any
}
