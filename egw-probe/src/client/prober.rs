//! The rim of the probing: one thread, one epoll, a timer on the tick grid, and the probes' sockets.
//!
//! It carries out what [`super::probing`] decides, and tells it what sockets said.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::client::inflight::ProbeId;
use crate::client::metrics::ClientMetrics;
use crate::client::outcome::of_connect_error;
use crate::client::probe::{Destination, ProbeSocket};
use crate::client::probing::{Ended, Fact, Findings, Probing, Rules};
use crate::client::record::Record;
use crate::client::tagging::Tagger;
use crate::client::telling::{Telling, progress};
use crate::config::client::{ClientConfig, FIRST_SYN_RETRANSMISSION};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;
use crate::sys::net::RESERVED_DESCRIPTORS;
use crate::sys::poller::{EventFlags, Poller, Ready, timespec};
use crate::sys::progress::Progress;
use crate::sys::signals::Signals;
use crate::sys::tcp;

const TICK: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;

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
    /// SYNs that the kernel sent again: counted when one probe may outlive the first retransmission.
    pub syn_retransmissions: Option<u64>,
    /// How much of the bracket this client was itself held up for.
    pub stalled_in_bracket: Duration,
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
    pub on_winner: &'a dyn Fn(),
    /// Where the tick grid begins.
    pub start: Monotonic,
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
    tagger: Option<Tagger>,
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
        Ok(Self {
            poller,
            timer,
            probing: Probing::new(Rules {
                start,
                interval: config.interval,
                test_timeout: config.test_timeout,
                probe_timeout: config.probe_timeout,
                watch: config.watch,
                most_in_flight: setup.descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1) as usize,
            }),
            record: Record::new(start),
            telling: Telling::new(setup.metrics, start),
            tagger,
            syn_retransmissions: counts_retransmissions.then_some(0),
            stalled_in_bracket: Duration::ZERO,
            signalled: false,
            setup,
        })
    }

    /// Probes until the decisions say that it is over.
    pub(crate) fn run(mut self) -> io::Result<Measurement> {
        self.tick(Monotonic::now());
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
            syn_retransmissions: self.syn_retransmissions,
            stalled_in_bracket: self.stalled_in_bracket,
        })
    }

    /// Waits once, and hands on what has come.
    fn turn(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        // Whoever is held up behind this reading finds answers that came meanwhile when it looks: only what had
        // expired before the look, and shows nothing in it, is a timeout.
        let looked = Monotonic::now();
        let wake = self.probing.next_deadline().unwrap_or(looked).min(looked + Progress::PERIOD);
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
        while let Some(socket) = self.probing.on_deadline(looked, now) {
            self.done_with(&socket);
        }
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
        let socket = ProbeSocket::new(self.setup.destination, self.tagger.as_ref());
        let sent = Monotonic::now();
        let launched = socket.map_err(|error| (Outcome::Error, error)).and_then(|socket| {
            match socket.connect(self.setup.destination) {
                Ok(()) => {
                    if let Some(tagger) = &mut self.tagger {
                        tagger.sent();
                    }
                    Ok(socket)
                }
                Err(error) => Err((of_connect_error(&error), error)),
            }
        });
        let launched = launched.and_then(|socket| {
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            self.poller.add(&socket, id, interest).map(|()| socket).map_err(|error| (Outcome::Error, error))
        });
        let launched = launched.map_err(|(outcome, error)| {
            tracing::debug!(%error, outcome = outcome.name(), "probe did not leave");
            outcome
        });
        self.probing.launched(sent, Monotonic::now(), launched);
    }

    fn socket_ready(&mut self, id: ProbeId, flags: EventFlags, now: Monotonic) {
        let Some(socket) = self.probing.socket(id) else { return };
        let events = socket.events(flags);
        for event in events.into_iter().flatten() {
            if let Some(socket) = self.probing.on_event(id, event, now) {
                self.done_with(&socket);
            }
        }
    }

    fn done_with(&mut self, socket: &ProbeSocket) {
        if let Some(total) = &mut self.syn_retransmissions {
            *total += u64::from(tcp::retransmissions(socket).unwrap_or(0));
        }
    }

    /// Hands on what has become known.
    fn tell(&mut self, now: Monotonic) {
        for fact in self.probing.take_facts() {
            self.record.take(&fact);
            self.telling.take(&fact, now);
            if let Fact::Won(_) = fact {
                let bracket = self.probing.judge().bracket();
                self.setup.metrics.set_bracket(bracket);
                self.stalled_in_bracket = self.record.stalled_in(bracket);
                if self.setup.config.watch.is_some() {
                    (self.setup.on_winner)();
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
