//! One thread's share of the stress test: it dials, and follows the connections that came of it.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::Socket;

use crate::client::failure::{dial_failure, loss_reason};
use crate::client::stress::heard::Heard;
use crate::client::stress::lanes::Lanes;
use crate::client::stress::plan::Plan;
use crate::client::stress::replies;
use crate::client::stress::series::{Event, Series};
use crate::config::client::FIRST_SYN_RETRANSMISSION;
use crate::document::quantiles::Times;
use crate::document::stress::{CAP, Closing, DialFailure, FailedDial, LostSyn, StressEnd, StressReport};
use crate::sys::clock::Monotonic;
use crate::sys::log::{Pass, RateLimit};
use crate::sys::poller::{EventFlags, Poller, Ready};
use crate::sys::tcp;

/// How long one dial may take, the target's reply included, as in the old program.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A dial slower than this is worth a log line, as in the old program.
const SLOW_DIAL: Duration = Duration::from_millis(100);
/// How often a shard looks for what others did, and for dials that ran out of time.
const GLANCE: Duration = Duration::from_millis(10);
/// How long replies to the last dials are waited for at least; where handshakes took longer, twice as long as the longest.
const LAST_REPLIES: Duration = Duration::from_millis(200);

/// A place in the table of sockets; epoll knows it by its index.
#[derive(Debug)]
enum Slot {
    Free,
    /// Under way until the target has answered; the index of its [`Dial`].
    Dialling(Socket, u16),
    Open {
        socket: Socket,
        lane: u16,
        heard: Heard,
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
    /// Connections open or under way then, besides it.
    open: u64,
    /// How long the handshake took, once it is complete.
    handshake: Option<Duration>,
}

/// A share of the dials and of the connections. These stay open until it is dropped.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    plan: &'a Plan<'a>,
    poller: Poller,
    slots: Vec<Slot>,
    /// Indexes of `slots` that are free again.
    free: Vec<u32>,
    /// Dials under way, as many places as there may be.
    dials: Vec<Option<Dial>>,
    /// Of these, at most so many whose handshake is under way, and how many there are.
    concurrency: usize,
    shaking_hands: usize,
    in_flight: usize,
    lanes: Lanes,
    ready: Vec<Ready>,
    latency: Times,
    series: Series,
    report: StressReport,
    log: RateLimit,
}

/// What a shard counted.
#[derive(Debug)]
pub(crate) struct ShardReport {
    /// Why it ended.
    pub ended: StressEnd,
    /// Its counts and lists; what only all shards together know is left out.
    pub report: StressReport,
    /// How long its dials took.
    pub latency: Times,
    /// How it went over time.
    pub series: Series,
}

impl<'a> Shard<'a> {
    /// A shard with so many handshakes under way at a time, and so many dials that only wait for the target's reply.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        concurrency: usize,
        unanswered: usize,
        lanes: Lanes,
    ) -> io::Result<Self> {
        Ok(Self {
            plan,
            poller: Poller::new()?,
            slots: Vec::new(),
            free: Vec::new(),
            dials: vec![None; concurrency + unanswered],
            concurrency,
            shaking_hands: 0,
            in_flight: 0,
            lanes,
            ready: Vec::new(),
            latency: Times::default(),
            series: Series::default(),
            report: StressReport::default(),
            log: RateLimit::per_second(1),
        })
    }

    /// What becomes readable when there is something to [`look`](Self::look) at.
    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Dials until the plan is over. Dials still under way then end; connections stay open.
    pub(crate) fn run(&mut self) -> io::Result<ShardReport> {
        let mut look_for_timeouts = self.plan.begun + GLANCE;
        let ended = loop {
            let now = Monotonic::now();
            if let Some(ended) = self.is_over(now) {
                break ended;
            }
            let has_room = self.shaking_hands < self.concurrency && self.in_flight < self.dials.len();
            let all_read = if has_room && self.plan.claim() {
                self.dial(now);
                // What the dial, or others meanwhile, brought about: a look after each keeps every latency its own.
                self.wait(now)?
            } else {
                let until =
                    self.next_timeout().into_iter().chain(self.plan.end).fold(now + GLANCE, Monotonic::min);
                self.wait(until)?
            };
            // What had run out of time before the look, and shows nothing in it. A peer that keeps all looks full does not
            // keep a dial for ever.
            if now >= look_for_timeouts {
                self.give_up(now, if all_read { DIAL_TIMEOUT } else { 2 * DIAL_TIMEOUT });
                look_for_timeouts = now + GLANCE;
            }
        };
        // What happened while nobody looked.
        self.wait(Monotonic::now())?;
        let longest = self.latency.quantile(1.0).unwrap_or_default();
        let patience = Monotonic::now() + LAST_REPLIES.max(2 * longest).min(DIAL_TIMEOUT);
        while self.in_flight > self.shaking_hands && Monotonic::now() < patience {
            self.wait(patience)?;
        }
        self.report.unsettled = self.in_flight as u64;
        for place in 0..self.dials.len() {
            if let Some(dial) = self.dials[place].filter(|dial| dial.handshake.is_none()) {
                self.count_lost_syns(dial);
            }
            if let Some(dial) = self.settle(place as u16) {
                self.release(dial.slot);
                self.plan.give_back();
            }
        }
        Ok(ShardReport {
            ended,
            report: self.report.clone(),
            latency: self.latency.clone(),
            series: std::mem::take(&mut self.series),
        })
    }

    /// Takes in what has happened to open connections, without waiting.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        self.wait(Monotonic::now()).map(drop)
    }

    fn is_over(&self, now: Monotonic) -> Option<StressEnd> {
        let Plan { end, wanted, most, max_failed, total, .. } = self.plan;
        if total.interrupted.load(Relaxed) {
            Some(StressEnd::Interrupted)
        } else if end.is_some_and(|end| now >= end) {
            Some(StressEnd::Duration)
        } else if total.failed.load(Relaxed) >= *max_failed {
            Some(StressEnd::FailedDials)
        } else if self.in_flight > 0 {
            None
        } else if total.opened.load(Relaxed) >= *wanted {
            end.is_none().then_some(StressEnd::Connections)
        } else {
            (total.open.load(Relaxed) >= *most).then_some(StressEnd::Descriptors)
        }
    }

    fn dial(&mut self, now: Monotonic) {
        let (socket, lane) = self.lanes.dial();
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                self.fail(&error, dial_failure(&error), lane, now);
                return;
            }
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() as u32 - 1
        });
        let interest = EventFlags::OUT | EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = self.poller.add(&socket, u64::from(slot), interest) {
            self.free.push(slot);
            self.fail(&error, dial_failure(&error), lane, now);
            return;
        }
        let place = self.dials.iter().position(Option::is_none).unwrap_or_default();
        self.dials[place] = Some(Dial {
            slot,
            lane,
            begun: now,
            open: self.plan.total.taken.load(Relaxed).saturating_sub(1),
            handshake: None,
        });
        self.in_flight += 1;
        self.shaking_hands += 1;
        self.slots[slot as usize] = Slot::Dialling(socket, place as u16);
    }

    /// When the first dial under way runs out of time.
    fn next_timeout(&self) -> Option<Monotonic> {
        self.dials.iter().flatten().map(|dial| dial.begun + DIAL_TIMEOUT).min()
    }

    fn give_up(&mut self, now: Monotonic, after: Duration) {
        for place in 0..self.dials.len() {
            let Some(dial) = self.dials[place] else { continue };
            // Those that failed are enough: the others have no outcome.
            if now < dial.begun + after || self.plan.total.failed.load(Relaxed) >= self.plan.max_failed {
                continue;
            }
            let (reason, error) = match dial.handshake {
                None => (DialFailure::Timeout, "no answer within 5s"),
                Some(_) => (DialFailure::NoReply, "a complete handshake, and no reply within 5s"),
            };
            if dial.handshake.is_none() {
                self.count_lost_syns(dial);
            }
            self.settle(place as u16);
            self.release(dial.slot);
            self.fail(&io::Error::new(io::ErrorKind::TimedOut, error), reason, dial.lane, dial.begun);
        }
    }

    /// Counts the SYNs of this dial that were sent again.
    fn count_lost_syns(&mut self, dial: Dial) {
        let Slot::Dialling(socket, _) = &self.slots[dial.slot as usize] else { return };
        let again = tcp::retransmissions(socket).unwrap_or_default();
        if again > 0 {
            self.report.syn_retransmissions += u64::from(again);
            let at_seconds = dial.begun.since(self.plan.begun).as_secs_f64();
            let lost = Some(LostSyn { at_seconds, open: dial.open });
            self.report.lost_syn_dials += 1;
            self.report.first_lost_syn = LostSyn::first(self.report.first_lost_syn, lost);
            self.report.last_lost_syn = LostSyn::last(self.report.last_lost_syn, lost);
        }
    }

    fn settle(&mut self, place: u16) -> Option<Dial> {
        let dial = self.dials.get_mut(usize::from(place))?.take()?;
        self.in_flight -= 1;
        self.shaking_hands -= usize::from(dial.handshake.is_none());
        Some(dial)
    }

    /// Closes what a slot holds, and makes it free.
    fn release(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::Free;
        self.free.push(slot);
    }

    fn fail(&mut self, error: &io::Error, reason: DialFailure, lane: u16, begun: Monotonic) {
        let now = Monotonic::now();
        let elapsed = now.since(begun);
        let open = self.plan.total.open.load(Relaxed);
        self.plan.give_back();
        self.report.failed += 1;
        let failed = self.plan.total.failed.fetch_add(1, Relaxed) + 1;
        *self.report.failed_by.entry(reason).or_default() += 1;
        self.series.note(now.since(self.plan.begun), Event::Failed);
        self.plan.metrics.stress.failed[reason as usize].inc();
        let target = self.lanes.target(lane).to_string();
        if let Some(Pass { held_back }) = self.log.pass(now) {
            tracing::warn!(%error, reason = reason.name(), target, ?elapsed, open, failed, held_back, "dial failed");
        }
        if self.report.failures.len() < CAP {
            self.report.failures.push(FailedDial {
                at_seconds: now.since(self.plan.begun).as_secs_f64(),
                elapsed_seconds: elapsed.as_secs_f64(),
                open,
                target,
                reason,
                error: error.to_string(),
            });
        }
    }

    /// Takes in what happens until then; whether that was all that had happened.
    fn wait(&mut self, until: Monotonic) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(Some(until), &mut ready)?;
        // One reading for a batch: it is taken right after the kernel told of all of them.
        let now = Monotonic::now();
        let all_read = ready.len() < Poller::BATCH;
        for event in ready.drain(..) {
            self.handle(event, now);
        }
        self.ready = ready;
        Ok(all_read)
    }

    fn handle(&mut self, Ready { token, flags }: Ready, now: Monotonic) {
        let slot = token as u32;
        let gone = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let Some(place) = self.slots.get_mut(token as usize) else { return };
        if let Slot::Dialling(socket, dial) = place {
            let dial = *dial;
            let Some(Dial { handshake, .. }) = self.dials[usize::from(dial)] else { return };
            if handshake.is_none() {
                let error = if gone { socket.take_error().unwrap_or_else(Some) } else { None };
                if error.is_none() && !flags.contains(EventFlags::OUT) {
                    return;
                }
                self.end_handshake(dial, error.as_ref(), now);
                if let Some(error) = error {
                    let Some(dial) = self.settle(dial) else { return };
                    self.release(slot);
                    self.fail(&error, dial_failure(&error), dial.lane, dial.begun);
                    return;
                }
            }
            // Done once the target has answered, by a reply or an orderly close.
            if !gone && !flags.contains(EventFlags::IN) {
                return;
            }
            let Some(dial) = self.settle(dial) else { return };
            if let Some(error) = self.reset_without_a_reply(slot, flags) {
                self.release(slot);
                self.fail(&error, dial_failure(&error), dial.lane, dial.begun);
                return;
            }
            self.establish(slot, dial, now);
        }
        self.follow(slot, flags, gone, now);
    }

    /// The handshake of this dial is complete, or has failed.
    fn end_handshake(&mut self, place: u16, error: Option<&io::Error>, now: Monotonic) {
        let Some(dial) = &mut self.dials[usize::from(place)] else { return };
        let elapsed = now.since(dial.begun);
        if error.is_none() {
            dial.handshake = Some(elapsed);
            self.shaking_hands -= 1;
        }
        let dial = *dial;
        // The kernel waits so long before it sends a SYN again; asking costs a system call.
        if elapsed >= FIRST_SYN_RETRANSMISSION {
            self.count_lost_syns(dial);
        }
    }

    /// The error that ended a dial before the target said anything.
    fn reset_without_a_reply(&self, slot: u32, flags: EventFlags) -> Option<io::Error> {
        match &self.slots[slot as usize] {
            Slot::Dialling(socket, _) if flags.contains(EventFlags::ERR) => {
                replies::reset_without_one(socket)
            }
            _ => None,
        }
    }

    fn establish(&mut self, slot: u32, dial: Dial, now: Monotonic) {
        let Slot::Dialling(socket, _) = std::mem::replace(&mut self.slots[slot as usize], Slot::Free) else {
            return;
        };
        if let Some(Err(error)) =
            self.plan.keepalive.as_ref().map(|keepalive| socket.set_tcp_keepalive(keepalive))
        {
            tracing::debug!(%error, "no keepalive");
        }
        let (elapsed, at) = (dial.handshake.unwrap_or_default(), now.since(self.plan.begun));
        self.slots[slot as usize] = Slot::Open {
            socket,
            lane: dial.lane,
            heard: Heard::default(),
            since_milliseconds: u32::try_from(at.as_millis()).unwrap_or(u32::MAX),
        };
        let opened = self.plan.total.opened.fetch_add(1, Relaxed) + 1;
        let open = self.plan.total.open.fetch_add(1, Relaxed) + 1;
        self.report.opened += 1;
        self.report.peak_open = self.report.peak_open.max(open);
        self.report.opening_seconds = at.as_secs_f64();
        self.latency.record(elapsed);
        self.series.note(at, Event::Opened(elapsed));
        self.plan.metrics.stress.opened(elapsed);
        if elapsed > SLOW_DIAL
            && let Some(Pass { held_back }) = self.log.pass(now)
        {
            tracing::warn!(?elapsed, opened, held_back, "dialling took more than 100 ms");
        }
    }

    /// What happens on an open connection: the target's answer, or the end.
    fn follow(&mut self, slot: u32, flags: EventFlags, gone: bool, now: Monotonic) {
        let place = &mut self.slots[slot as usize];
        let Slot::Open { socket, heard, lane, since_milliseconds } = place else { return };
        // Taken before anything is read: a read would take it away.
        let error = if gone { socket.take_error().ok().flatten() } else { None };
        let mut denied = false;
        if flags.contains(EventFlags::IN) {
            let had_answered = heard.anything();
            denied = replies::read(socket, heard);
            if !had_answered && heard.anything() {
                self.report.answered += 1;
            }
        }
        let reason = loss_reason(error.as_ref());
        let (heard, lane, since) = (*heard, *lane, Duration::from_millis(u64::from(*since_milliseconds)));
        let by_close = gone && heard.is_denied_by_close(reason, self.plan.annotates);
        if denied || by_close {
            self.leak(by_close, now);
        }
        if !gone {
            return;
        }
        let at = now.since(self.plan.begun);
        self.release(slot);
        self.close(
            Closing {
                at_seconds: at.as_secs_f64(),
                open_seconds: at.saturating_sub(since).as_secs_f64(),
                target: self.lanes.target(lane).to_string(),
                answered: heard.anything(),
                leaked: heard.is_denied() || by_close,
                reason,
            },
            now,
        );
    }

    /// The target has denied a connection, or is presumed to have.
    fn leak(&mut self, presumed: bool, now: Monotonic) {
        self.report.leaked += 1;
        self.report.leaked_presumed += u64::from(presumed);
        self.plan.metrics.stress.leaked.inc();
        let leaked = self.plan.total.leaked.fetch_add(1, Relaxed) + 1;
        if let Some(Pass { held_back }) = self.log.pass(now) {
            let what = "the target saw a source outside its CIDRs";
            tracing::warn!(leaked, presumed, held_back, "stress connection leaked: {what}");
        }
    }

    /// Counts a connection that has closed by itself.
    fn close(&mut self, closing: Closing, now: Monotonic) {
        let total = &self.plan.total;
        total.open.fetch_sub(1, Relaxed);
        total.taken.fetch_sub(1, Relaxed);
        let closed = total.closed.fetch_add(1, Relaxed) + 1;
        self.report.closed += 1;
        *self.report.closed_by.entry(closing.reason).or_default() += 1;
        self.series.note(now.since(self.plan.begun), Event::Closed);
        self.plan.metrics.stress.closed(closing.reason);
        // A leak has been told of.
        if !closing.leaked
            && let Some(Pass { held_back }) = self.log.pass(now)
        {
            let Closing { reason, open_seconds, .. } = closing;
            tracing::warn!(reason = reason.name(), open_seconds, closed, held_back, "connection lost");
        }
        if self.report.closings.len() < CAP {
            self.report.closings.push(closing);
        }
    }
}
