//! The rim of the client: one thread, one epoll, a timer on the tick grid, and the probes' sockets.
//!
//! What a probe's verdict means is not decided here: see [`super::outcome`], [`super::inflight`] and
//! [`super::bracket`].

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::client::bracket::{Judge, Winner};
use crate::client::disruptions::{Event, Watch};
use crate::client::inflight::{InFlight, ProbeId};
use crate::client::metrics::ClientMetrics;
use crate::client::outcome::{Probe, of_connect_error};
use crate::client::pacer::{Pacer, Tick};
use crate::client::probe::{Destination, ProbeSocket, Verdict};
use crate::client::tagging::Tagger;
use crate::config::client::{ClientConfig, FIRST_SYN_RETRANSMISSION};
use crate::document::disruption::{Disruption, EgressChange};
use crate::document::outcome::Outcome;
use crate::document::quantiles::Quantiles;
use crate::document::result::Stall;
use crate::sys::clock::Monotonic;
use crate::sys::log::RateLimit;
use crate::sys::net::RESERVED_DESCRIPTORS;
use crate::sys::poller::{EventFlags, Poller, Ready, timespec};
use crate::sys::progress::Progress;
use crate::sys::signals::Signals;
use crate::sys::tcp;

const TICK: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;

/// Stalls kept in the result; what comes after is counted.
const STALL_CAP: usize = 1_000;

/// How the probing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A pong came, the watch is over if there was one, and all that was in flight is settled.
    Masqueraded,
    /// The test timeout passed without a pong.
    TimedOut,
    /// A signal came before either.
    Interrupted,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Measurement {
    /// How it ended.
    pub ended: Ended,
    /// A signal ended it, a watch that had its winner included.
    pub signalled: bool,
    /// Probes in flight that a signal cut off: sent, and never settled.
    pub unsettled: u64,
    /// What the probes mean.
    pub judge: Judge,
    /// Handshake times of established probes, in nanoseconds.
    pub connect_ns: Histogram<u64>,
    /// How late ticks were served, in nanoseconds; the first one, which waits for the client, is not among them.
    pub tick_lateness_ns: Histogram<u64>,
    /// Ticks without a probe.
    pub skipped_ticks: u64,
    /// Ticks without a probe for want of a descriptor; among the skipped ones.
    pub descriptor_skips: u64,
    /// The number in the SYNs, if they were tagged.
    pub tag: Option<u16>,
    /// SYNs that the kernel sent again: counted when one probe may outlive the first retransmission.
    pub syn_retransmissions: Option<u64>,
    /// Disruptions after the winner, and what egress IP was told.
    pub watch: Watch,
    /// When this client itself was held up, the first of them, and how many there were in all.
    pub stalls: (Vec<Stall>, u64),
    /// How much of the bracket they make up, as far as the latest of them tell.
    pub stalled_in_bracket: Duration,
}

/// What the client owns, lent for the time of the probing.
pub struct Setup<'a> {
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
pub struct Prober<'a> {
    setup: Setup<'a>,
    /// The latest stalls, each from its first skipped tick to the next one served.
    latest_stalls: VecDeque<(Monotonic, Monotonic)>,
    poller: Poller,
    timer: OwnedFd,
    pacer: Pacer,
    in_flight: InFlight<ProbeSocket>,
    most_in_flight: usize,
    sending: bool,
    pong_seen: bool,
    told_to_end: bool,
    measured: Measurement,
    tagger: Option<Tagger>,
    last_outcome: Option<Outcome>,
    outcome_log: RateLimit,
    disruption_log: RateLimit,
}

impl<'a> Prober<'a> {
    /// A prober that tags its SYNs if there is a tagger.
    pub fn new(setup: Setup<'a>, tagger: Option<Tagger>) -> io::Result<Self> {
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
            pacer: Pacer::new(start, config.interval, start + config.test_timeout),
            in_flight: InFlight::new(config.probe_timeout),
            most_in_flight: setup.descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1) as usize,
            sending: true,
            pong_seen: false,
            told_to_end: false,
            measured: Measurement {
                ended: Ended::TimedOut,
                signalled: false,
                unsettled: 0,
                judge: Judge::new(start),
                connect_ns: Quantiles::histogram_ns(),
                tick_lateness_ns: Quantiles::histogram_ns(),
                skipped_ticks: 0,
                descriptor_skips: 0,
                tag: tagger.as_ref().map(Tagger::client),
                syn_retransmissions: counts_retransmissions.then_some(0),
                watch: Watch::new(start),
                stalls: (Vec::new(), 0),
                stalled_in_bracket: Duration::ZERO,
            },
            latest_stalls: VecDeque::new(),
            tagger,
            last_outcome: None,
            outcome_log: RateLimit::per_second(1),
            disruption_log: RateLimit::per_second(20),
            setup,
        })
    }

    /// Probes until a pong has come or the test timeout has passed, or the watch is over, and all that is in flight is
    /// settled.
    pub fn run(mut self) -> io::Result<Measurement> {
        self.tick(Monotonic::now());
        self.arm_timer()?;
        let mut ready = Vec::new();
        let mut progress = Progress::default();
        let mut interrupted = false;
        while !interrupted && (self.sending || !self.in_flight.is_empty()) {
            // Whoever is held up behind this reading finds answers that came meanwhile when it looks: only what had
            // expired before the look, and shows nothing in it, is a timeout.
            let looked = Monotonic::now();
            self.poller.wait(Some(self.next_wake(looked)), &mut ready)?;
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
                        self.measured.signalled = true;
                        interrupted = !self.end_watch(now);
                    }
                    TICK | SIGNAL => {}
                    id => self.socket_ready(id, flags, now),
                }
            }
            self.judge_settled(now);
            while let Some(id) = self.in_flight.expired(looked).filter(|_| all_read) {
                self.settle(id, Outcome::Timeout, None, now);
                self.judge_settled(now);
            }
            self.sending &= !self.pacer.is_over(now);
            progress.show(now, || self.progress_line(now));
        }
        self.abandon_open(Monotonic::now());
        self.measured.ended = if self.measured.judge.winner().is_some() {
            Ended::Masqueraded
        } else if interrupted {
            Ended::Interrupted
        } else {
            Ended::TimedOut
        };
        self.measured.skipped_ticks = self.pacer.skipped();
        self.setup.metrics.set_bracket(self.measured.judge.bracket());
        if let Some(open) = self.measured.watch.finish() {
            self.setup.metrics.count_disruption(&open);
        }
        Ok(self.measured)
    }

    /// A signal ends a watch that has seen a pong as if its time were over; a second one does not wait for probes.
    fn end_watch(&mut self, now: Monotonic) -> bool {
        let ends = self.setup.config.watch.is_some() && self.pong_seen && !self.told_to_end;
        if ends {
            self.told_to_end = true;
            self.pacer.set_end(now);
        }
        ends
    }

    /// Judges what is settled behind probes that nobody waits for any more, and counts those.
    fn abandon_open(&mut self, now: Monotonic) {
        while let Some(id) = self.in_flight.oldest() {
            if self.in_flight.abandon_oldest() {
                self.measured.unsettled += 1;
            }
            debug_assert!(self.in_flight.oldest() != Some(id), "each turn takes a probe");
            self.judge_settled(now);
        }
    }

    /// Sends a probe if a tick is due.
    fn tick(&mut self, now: Monotonic) {
        if !self.sending {
            return;
        }
        let first = self.in_flight.next_id() == 0;
        let skipped_before = self.pacer.skipped();
        if let Some(tick) = self.pacer.due(now) {
            if tick.skipped > 0 {
                self.note_stall(tick, now);
            }
            if !first {
                self.measured.tick_lateness_ns.saturating_record(now.since(tick.awaited).as_nanos() as u64);
            }
            if self.in_flight.open() >= self.most_in_flight {
                self.pacer.skip();
                self.measured.descriptor_skips += 1;
            } else {
                self.launch();
            }
        }
        self.setup.metrics.skipped_ticks.inc_by(self.pacer.skipped() - skipped_before);
    }

    fn note_stall(&mut self, tick: Tick, now: Monotonic) {
        let stall = Stall {
            at_seconds: tick.awaited.since(self.setup.start).as_secs_f64(),
            length_seconds: now.since(tick.awaited).as_secs_f64(),
        };
        let (kept, total) = &mut self.measured.stalls;
        *total += 1;
        if kept.len() < STALL_CAP {
            kept.push(stall);
        }
        if self.latest_stalls.len() == STALL_CAP {
            self.latest_stalls.pop_front();
        }
        self.latest_stalls.push_back((tick.awaited, now));
    }

    fn launch(&mut self) {
        let id = self.in_flight.next_id();
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
        self.in_flight.launch(sent, Monotonic::now(), launched);
    }

    fn socket_ready(&mut self, id: ProbeId, flags: EventFlags, now: Monotonic) {
        let Some(socket) = self.in_flight.open_mut(id) else { return };
        if flags.intersects(EventFlags::ERR) {
            // An error of an established connection means that it was reset (tcp_reset, net/ipv4/tcp_input.c).
            let error = socket.take_error();
            match error.as_ref().and_then(io::Error::raw_os_error) {
                Some(libc::ECONNRESET | libc::EPIPE) | None => {}
                Some(_) => {
                    let outcome = error.as_ref().map_or(Outcome::Error, of_connect_error);
                    self.settle(id, outcome, None, now);
                    return;
                }
            }
        }
        let verdict = if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
            socket.read()
        } else {
            None
        };
        if flags.intersects(EventFlags::OUT | EventFlags::HUP) {
            self.in_flight.establish(id, now);
        }
        if let Some(Verdict { outcome, egress_ip }) = verdict {
            self.settle(id, outcome, egress_ip, now);
        }
    }

    fn settle(&mut self, id: ProbeId, outcome: Outcome, egress_ip: Option<IpAddr>, now: Monotonic) {
        let Some(socket) = self.in_flight.settle(id, outcome, egress_ip, now) else { return };
        if let Some(total) = &mut self.measured.syn_retransmissions {
            *total += u64::from(tcp::retransmissions(&socket).unwrap_or(0));
        }
        if outcome == Outcome::Pong {
            self.pong_seen = true;
            // The winner is in flight already. Only a watch wants what is sent later, and the test timeout is over.
            if self.setup.config.watch.is_none() {
                self.sending = false;
            } else if self.measured.judge.winner().is_none() && !self.told_to_end {
                // Also where the test timeout had passed while this probe was in flight.
                self.pacer.set_end(Monotonic::from_ns(u64::MAX));
                self.sending = true;
            }
        }
    }

    /// Hands settled probes on, in sent order.
    fn judge_settled(&mut self, now: Monotonic) {
        while let Some(probe) = self.in_flight.take_settled() {
            let had_winner = self.measured.judge.winner().is_some();
            self.measured.judge.take(probe);
            self.setup.metrics.count(probe.outcome);
            if let Some(established) = probe.established {
                let connect = established.since(probe.sent);
                self.measured.connect_ns.saturating_record(connect.as_nanos() as u64);
                self.setup.metrics.connect_seconds.observe(connect.as_secs_f64());
            }
            if !had_winner {
                match self.measured.judge.winner() {
                    Some(winner) => self.name_winner(winner),
                    None => self.setup.metrics.leaked_requests.inc(),
                }
            }
            self.watch(probe, now);
            self.setup.metrics.blackhole_seconds.set(self.measured.judge.blackhole().as_secs_f64());
            // A watch tells what matters as disruptions.
            if had_winner {
                continue;
            }
            if self.last_outcome.replace(probe.outcome) != Some(probe.outcome)
                && let Some(held_back) = self.outcome_log.pass(now)
            {
                tracing::info!(
                    sent_at = ?probe.sent.since(self.setup.start),
                    held_back,
                    "probes {}",
                    describe(probe.outcome)
                );
            }
        }
    }

    fn name_winner(&mut self, winner: Winner) {
        self.setup.metrics.masquerade_delay.inc_by(winner.masquerade_delay.as_secs_f64());
        self.setup.metrics.set_bracket(self.measured.judge.bracket());
        self.measured.stalled_in_bracket = self.stalled_in_bracket();
        let misses = self.measured.judge.before_winner().misses();
        tracing::info!(delay = ?winner.masquerade_delay, misses, "masqueraded");
        if let Some(watch) = self.setup.config.watch {
            (self.setup.on_winner)();
            let end = watch.duration.map(|duration| self.setup.start + winner.masquerade_delay + duration);
            if !self.told_to_end {
                self.pacer.set_end(end.unwrap_or(Monotonic::from_ns(u64::MAX)));
            }
        }
    }

    fn stalled_in_bracket(&self) -> Duration {
        let bracket = self.measured.judge.bracket();
        let (Some(lower), Some(upper)) = (bracket.lower, bracket.upper) else { return Duration::ZERO };
        let (lower, upper) = (self.setup.start + lower, self.setup.start + upper);
        // An instant since a later one is zero.
        let inside = |&(begin, end): &(Monotonic, Monotonic)| end.min(upper).since(begin.max(lower));
        self.latest_stalls.iter().map(inside).sum()
    }

    /// One log line when a disruption begins, one when it ends.
    fn watch(&mut self, probe: Probe, now: Monotonic) {
        if self.setup.config.watch.is_none() {
            self.measured.watch.note_egress(probe);
            return;
        }
        let (metrics, log) = (self.setup.metrics, &mut self.disruption_log);
        self.measured.watch.take(probe, &mut |event| {
            if let Event::Ended(disruption) = &event {
                metrics.count_disruption(disruption);
            }
            metrics.disrupted.set(i64::from(matches!(event, Event::Began { .. })));
            let Some(held_back) = log.pass(now) else { return };
            match event {
                Event::Began { kind, start } => {
                    tracing::warn!(kind = kind.name(), at = ?start, held_back, "disruption began");
                }
                Event::Ended(Disruption { kind, length_seconds, misses, .. }) => {
                    let (at_least, at_most) = (length_seconds.lower, length_seconds.upper);
                    tracing::warn!(
                        kind = kind.name(),
                        at_least,
                        at_most,
                        misses,
                        held_back,
                        "disruption ended"
                    );
                }
                Event::EgressChanged(EgressChange { from, to, .. }) => {
                    tracing::warn!(%from, %to, held_back, "the egress IP changed");
                }
            }
        });
    }

    fn arm_timer(&self) -> io::Result<()> {
        let spec = Itimerspec {
            it_interval: timespec(self.setup.config.interval),
            it_value: timespec(Duration::from_nanos(self.pacer.next_tick().as_ns())),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    fn clear_timer(&self) {
        let mut expirations = [0; 8];
        // Nothing to read means that the kernel has cleared it already; how many ticks passed, the clock tells better.
        let _ = rustix::io::read(&self.timer, &mut expirations);
    }

    /// Until the next probe expires, the test ends, or the progress line is due; ticks come from the timer.
    fn next_wake(&self, now: Monotonic) -> Monotonic {
        let end = self.sending.then(|| self.pacer.end());
        let progress = Some(now + Progress::PERIOD);
        [end, self.in_flight.next_deadline(), progress].into_iter().flatten().min().unwrap_or(now)
    }

    fn progress_line(&self, now: Monotonic) -> String {
        let counts = self.measured.judge.counts();
        let mut line = format!(
            "{}  {:.1} s  in flight {}",
            self.setup.destination.target,
            now.since(self.setup.start).as_secs_f64(),
            self.in_flight.open()
        );
        for outcome in Outcome::ALL {
            if counts.of(outcome) > 0 {
                let _ = write!(line, "  {} {}", outcome.name(), counts.of(outcome));
            }
        }
        line
    }
}

/// What the log says when probes begin to end like this.
fn describe(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pong => "are answered with pong: the target sees an allowed source",
        Outcome::Leaked => "leak: the target sees a source outside its allowed CIDRs",
        Outcome::Timeout => "get no verdict within the probe timeout",
        Outcome::Refused => "are refused: nothing listens on the target's port, or a firewall rejects",
        Outcome::Unreachable => "meet no route to the target",
        Outcome::Garbled => "are answered by something that is no external target",
        Outcome::Error => "fail on this host before they leave",
    }
}
