//! The rim of the probing: one thread, one epoll, a timer on the tick grid, and the probes' sockets.
//!
//! It carries out what [`super::probing`] decides, and tells it what sockets said.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::client::clues::Clerk;
use crate::client::diagnosis::Clues;
use crate::client::evidence::SEGMENT_SIZES;
use crate::client::inflight::{Launch, ProbeId};
use crate::client::metrics::ClientMetrics;
use crate::client::outcome::of_connect_error;
use crate::client::ports::{PortWalk, SourcePort};
use crate::client::probe::{Destination, ProbeSocket};
use crate::client::probing::{Ended, Fact, Findings, Probing, Rules};
use crate::client::record::Record;
use crate::client::tagging::Tagger;
use crate::client::telling::{Telling, progress};
use crate::config::client::{ClientConfig, FIRST_SYN_RETRANSMISSION};
use crate::document::outcome::Outcome;
use crate::document::stress::PortRange;
use crate::sys::clock::Monotonic;
use crate::sys::net::{RESERVED_DESCRIPTORS, local_port_range};
use crate::sys::poller::{EventFlags, Poller, Ready, timespec};
use crate::sys::progress::Progress;
use crate::sys::signals::Signals;
use crate::sys::tcp;

const TICK: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;
/// Local ports tried for a probe, before the kernel's own search is.
const PORTS_TRIED: u32 = 64;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// How it ended.
    pub ended: Ended,
    /// A signal ended it, a watch that had its winner included.
    pub signalled: bool,
    /// What the probes mean.
    pub found: Findings,
    /// Times and stalls.
    pub record: Record,
    /// The number in the SYNs, if they were tagged.
    pub tag: Option<u16>,
    /// When the first probe was sent, from the start.
    pub first_probe: Option<Duration>,
    /// How long it took to use every local port once, if NAT on the way may remember for longer.
    pub ports_wrapped_within: Option<Duration>,
    /// SYNs that the kernel sent again: counted when one probe may outlive the first retransmission.
    pub syn_retransmissions: Option<u64>,
    /// How much of the bracket this client was itself held up for.
    pub stalled_in_bracket: Duration,
    /// What else may tell why there was no pong.
    pub clues: Clues,
}

/// What the client owns, lent for the time of the probing.
pub(crate) struct Setup<'a> {
    /// What is to be done.
    pub config: &'a ClientConfig,
    /// Where probes go.
    pub destination: &'a Destination,
    /// What is counted.
    pub metrics: &'a ClientMetrics,
    /// What ends it early.
    pub signals: &'a Signals,
    /// Called once a watch has its winner.
    pub on_winner: Box<dyn Fn(bool) + 'a>,
    /// The start of the test.
    pub start: Monotonic,
    /// From there to the tick grid.
    pub phase: Duration,
    /// How many descriptors this process may open.
    pub descriptors: u64,
}

/// The client's probing, from the first tick to the last verdict.
pub(crate) struct Prober<'a> {
    setup: Setup<'a>,
    poller: Poller,
    timer: OwnedFd,
    probing: Probing<ProbeSocket>,
    record: Record,
    telling: Telling<'a>,
    clerk: Clerk,
    tagger: Option<Tagger>,
    random: fastrand::Rng,
    ports: Option<PortWalk>,
    /// The kernel takes the port that it is told (since Linux 6.3).
    names_ports: bool,
    first_sent: Option<Monotonic>,
    syn_retransmissions: Option<u64>,
    stalled_in_bracket: Duration,
    signalled: bool,
}

impl<'a> Prober<'a> {
    /// A prober that tags its SYNs if there is a tagger.
    pub(crate) fn new(setup: Setup<'a>, tagger: Option<Tagger>) -> io::Result<Self> {
        let (config, start) = (setup.config, setup.start);
        let poller = Poller::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        poller.add(&timer, TICK, EventFlags::IN)?;
        poller.add(setup.signals, SIGNAL, EventFlags::IN)?;
        let counts_retransmissions = config.probe_timeout >= FIRST_SYN_RETRANSMISSION;
        let mut probing = Probing::new(Rules {
            start,
            phase: setup.phase,
            interval: config.interval,
            test_timeout: config.test_timeout,
            probe_timeout: config.probe_timeout,
            watch: config.watch,
            most_in_flight: setup.descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1) as usize,
        });
        probing.expect_egress_ips(config.gates.egress_ips.clone());
        Ok(Self {
            poller,
            timer,
            probing,
            record: Record::new(start),
            telling: Telling::new(setup.metrics, start),
            clerk: Clerk::default(),
            tagger,
            random: fastrand::Rng::new(),
            ports: None,
            names_ports: true,
            first_sent: None,
            syn_retransmissions: counts_retransmissions.then_some(0),
            stalled_in_bracket: Duration::ZERO,
            signalled: false,
            setup,
        })
    }

    /// Sends the first probe, if its tick has come. Which ports there are is read after that: the kernel chooses this one.
    pub(crate) fn first_tick(&mut self) {
        self.tick(Monotonic::now());
        let port = self.probing.socket(0).map(|first| (first.port(), first.sent()));
        self.ports = local_port_range().map(|range| match port {
            Some((port, sent)) => PortWalk::after(range, port, sent),
            None => PortWalk::new(range, self.random.u32(..)),
        });
    }

    /// Probes until the decisions say that it is over.
    pub(crate) fn run(mut self) -> io::Result<Measurement> {
        self.arm_timer()?;
        let mut ready = Vec::new();
        let mut shown = Progress::default();
        while !self.probing.is_over(Monotonic::now()) {
            self.turn(&mut ready)?;
            let now = Monotonic::now();
            shown.show(now, || {
                let line = progress(&self.probing, self.setup.start, now);
                format!("{}  {line}", self.setup.destination.target)
            });
        }
        let ended = self.probing.finish();
        self.tell(Monotonic::now());
        self.setup.metrics.set_bracket(self.probing.judge().bracket());
        Ok(Measurement {
            ended,
            signalled: self.signalled,
            found: self.probing.into_findings(),
            record: self.record,
            tag: self.tagger.as_ref().map(Tagger::client),
            first_probe: self.first_sent.map(|sent| sent.since(self.setup.start)),
            ports_wrapped_within: self.ports.as_ref().and_then(PortWalk::wrapped_within),
            syn_retransmissions: self.syn_retransmissions,
            stalled_in_bracket: self.stalled_in_bracket,
            clues: self.clerk.clues(),
        })
    }

    /// Waits once, and hands on what has come.
    fn turn(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        // Whoever is held up behind this reading finds answers that came meanwhile when it looks: only what had
        // expired before the look, and shows nothing in it, is a timeout.
        let looked = Monotonic::now();
        let deadlines = [self.probing.next_deadline(), self.clerk.deadline()].into_iter().flatten();
        let wake = deadlines.min().unwrap_or(looked).min(looked + Progress::PERIOD);
        self.poller.wait(Some(wake), ready)?;
        // Before the clock: a tick that falls due in between must ring again.
        if ready.iter().any(|ready| ready.token == TICK) {
            self.clear_timer();
        }
        // One reading serves the whole batch: all of it had happened by now.
        let now = Monotonic::now();
        self.tick(now);
        // After a stall there may be more to read than one batch holds.
        let all_read = ready.len() < Poller::BATCH;
        for Ready { token, flags } in ready.drain(..) {
            match token {
                SIGNAL if self.setup.signals.take() => {
                    self.signalled = true;
                    self.probing.on_signal(now);
                }
                TICK | SIGNAL => {}
                id => self.socket_ready(id, flags, now),
            }
        }
        let looked = if all_read { looked } else { Monotonic::from_ns(0) };
        while let Some((socket, outcome)) = self.probing.on_deadline(looked, now) {
            self.done_with(socket, outcome, now);
        }
        self.clerk.expire(looked);
        self.tell(now);
        Ok(())
    }

    /// Sends a probe if one is to be sent.
    fn tick(&mut self, now: Monotonic) {
        if self.probing.on_tick(now) {
            self.launch();
        }
    }

    fn launch(&mut self) {
        let id = self.probing.next_id();
        let before = Monotonic::now();
        let launched = self.connect().and_then(|(socket, unsafe_port)| {
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            self.poller.add(&socket, id, interest).map_err(|error| (Outcome::Error, error))?;
            Ok((socket, unsafe_port))
        });
        let launch = match launched {
            Ok((socket, unsafe_port)) => {
                self.first_sent.get_or_insert(socket.sent());
                Launch { sent: socket.sent(), left: Monotonic::now(), state: Ok(socket), unsafe_port }
            }
            Err((outcome, error)) => {
                tracing::debug!(%error, outcome = outcome.name(), "probe did not leave");
                self.clerk.failed(&error);
                Launch { sent: before, left: before, state: Err(outcome), unsafe_port: false }
            }
        };
        self.probing.launched(launch);
    }

    /// A probe whose SYN has left, and whether its port may have an old entry in a NAT.
    fn connect(&mut self) -> Result<(ProbeSocket, bool), (Outcome, io::Error)> {
        let failed = |error| (Outcome::Error, error);
        let segment_size = self.random.u16(SEGMENT_SIZES);
        let mut socket =
            ProbeSocket::new(self.setup.destination, self.tagger.as_ref(), segment_size).map_err(failed)?;
        let mut unsafe_port = self.connect_from_named_port(&mut socket)?;
        if unsafe_port.is_none() {
            let all = self.ports.as_ref().filter(|_| self.names_ports).map(PortWalk::range);
            socket.connect(self.setup.destination, all).map_err(|error| (of_connect_error(&error), error))?;
            let chosen = self.ports.as_mut().map(|ports| ports.chosen(socket.port(), socket.sent()));
            unsafe_port = chosen.map(|port| port.is_unsafe);
        }
        if let Some(tagger) = &mut self.tagger {
            tagger.sent();
        }
        Ok((socket, unsafe_port.unwrap_or(false)))
    }

    /// Connects from the next port that is free; `None` if the kernel has to choose.
    fn connect_from_named_port(
        &mut self,
        socket: &mut ProbeSocket,
    ) -> Result<Option<bool>, (Outcome, io::Error)> {
        let Some(ports) = self.ports.as_mut().filter(|_| self.names_ports) else { return Ok(None) };
        for _ in 0..PORTS_TRIED {
            let SourcePort { number, is_unsafe } = ports.next(Monotonic::now());
            let only = PortRange { low: number, high: number };
            match socket.connect(self.setup.destination, Some(only)) {
                Ok(()) => return Ok(Some(is_unsafe)),
                Err(error) => match error.raw_os_error() {
                    // Somebody else's, or reserved.
                    Some(libc::EADDRNOTAVAIL) => {}
                    Some(libc::ENOPROTOOPT | libc::EINVAL) => {
                        tracing::debug!(%error, "the kernel chooses local ports");
                        self.names_ports = false;
                        break;
                    }
                    _ => return Err((of_connect_error(&error), error)),
                },
            }
        }
        Ok(None)
    }

    fn socket_ready(&mut self, id: ProbeId, flags: EventFlags, now: Monotonic) {
        let Some(socket) = self.probing.socket(id) else { return self.clerk.late_event(flags, now) };
        let events = socket.events(flags, now);
        for event in events.into_iter().flatten() {
            if let Some((socket, outcome)) = self.probing.on_event(id, event, now) {
                self.done_with(socket, outcome, now);
            }
        }
    }

    fn done_with(&mut self, socket: ProbeSocket, outcome: Outcome, now: Monotonic) {
        if let Some(ports) = &mut self.ports {
            ports.ended(socket.port(), outcome, now);
        }
        if let Some(total) = &mut self.syn_retransmissions {
            *total += u64::from(tcp::retransmissions(&socket).unwrap_or(0));
        }
        self.clerk.ended(socket, outcome, now);
    }

    /// Hands on what has become known.
    fn tell(&mut self, now: Monotonic) {
        for fact in self.probing.take_facts() {
            self.record.take(&fact);
            self.telling.take(&fact, now);
            if let Fact::Won { .. } = fact {
                let bracket = self.probing.judge().bracket();
                self.setup.metrics.set_bracket(bracket);
                self.stalled_in_bracket = self.record.stalled_in(bracket);
                if self.setup.config.watch.is_some() {
                    (self.setup.on_winner)(self.probing.judge().annotates());
                }
            }
        }
        self.setup.metrics.blackhole_seconds.set(self.probing.judge().blackhole().as_secs_f64());
    }

    fn arm_timer(&self) -> io::Result<()> {
        let spec = Itimerspec {
            it_interval: timespec(self.setup.config.interval),
            it_value: timespec(Duration::from_nanos(self.probing.next_tick().as_ns())),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    fn clear_timer(&self) {
        let mut expirations = [0; 8];
        // Nothing to read means that the kernel has cleared it already; how many ticks passed, the clock tells better.
        let _ = rustix::io::read(&self.timer, &mut expirations);
    }
}
