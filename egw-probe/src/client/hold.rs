//! Held connections: what a failover does to those that are already there.
//!
//! They live on a thread of their own, so that probing keeps its ticks. What is seen of them is judged in
//! [`super::stall`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use socket2::Socket;

use crate::client::failure::loss_reason;
use crate::client::metrics::ClientMetrics;
use crate::client::probe::Destination;
use crate::client::stall::{Seen, StallJudge};
use crate::document::held::{HeldStall, HoldReport, Loss, LossReason, StallEnd};
use crate::sys::clock::Monotonic;
use crate::sys::log::RateLimit;
use crate::sys::poller::{EventFlags, Poller, Ready};
use crate::sys::tcp;

/// Stalls and losses kept in the result; what comes after is counted.
const CAP: usize = 1_000;
/// Shortest time between two looks at a connection.
const TICK: Duration = Duration::from_millis(10);
/// Processor time that a look at one connection may take at most: the tick grows with their number.
const LOOK: Duration = Duration::from_micros(20);
/// How often the end of the watch is looked for.
const GLANCE: Duration = Duration::from_millis(50);
/// A handshake that takes longer is begun anew: its SYN may sit in the kernel's backoff long after the path is back.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Pause before a connection that was lost, or did not come about, is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum Connection {
    Closed { reopen_at: Monotonic },
    Opening(Socket, Monotonic),
    Open(Socket, StallJudge),
}

/// The connections to hold.
#[derive(Debug)]
pub struct Hold<'a> {
    destination: &'a Destination,
    metrics: &'a ClientMetrics,
    start: Monotonic,
    tick: Duration,
    poller: Poller,
    connections: Vec<Connection>,
    report: HoldReport,
    log: RateLimit,
}

impl<'a> Hold<'a> {
    /// To hold `count` connections, and look at each as often as probes leave, but not more often than can be afforded.
    pub fn new(
        destination: &'a Destination,
        metrics: &'a ClientMetrics,
        start: Monotonic,
        count: u32,
        interval: Duration,
    ) -> io::Result<Self> {
        let closed = |_| Connection::Closed { reopen_at: start };
        Ok(Self {
            destination,
            metrics,
            start,
            tick: interval.max(TICK).max(LOOK * count),
            poller: Poller::new()?,
            connections: (0..count).map(closed).collect(),
            report: HoldReport { connections: u64::from(count), ..HoldReport::default() },
            log: RateLimit::per_second(10),
        })
    }

    /// Holds them until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<HoldReport> {
        let mut ready = Vec::new();
        let mut next = Monotonic::now();
        while !stop.load(Ordering::Relaxed) {
            let looked = Monotonic::now();
            // Not longer than a signal may be kept waiting.
            self.poller.wait(Some(next.min(looked + GLANCE)), &mut ready)?;
            let now = Monotonic::now();
            for event in ready.drain(..) {
                self.event(event, now);
            }
            if now >= next {
                for index in 0..self.connections.len() {
                    self.look(index, looked, now);
                }
                next = now + self.tick;
            }
        }
        let now = Monotonic::now();
        for index in 0..self.connections.len() {
            if let Connection::Open(_, judge) = &mut self.connections[index] {
                let stall = judge.end(StallEnd::Open, now);
                self.note_stall(stall);
            }
        }
        self.metrics.held_connections.set(0);
        Ok(self.report)
    }

    /// Looks after a connection at `now`. What had happened to it by `looked` has been taken in.
    fn look(&mut self, index: usize, looked: Monotonic, now: Monotonic) {
        let stall = match &mut self.connections[index] {
            Connection::Closed { reopen_at } if now < *reopen_at => return,
            Connection::Closed { .. } => {
                self.connections[index] = match self.open(index) {
                    Ok(socket) => Connection::Opening(socket, now),
                    Err(error) => {
                        tracing::debug!(%error, connection = index, "held connection does not open");
                        Connection::Closed { reopen_at: now + REOPEN_AFTER }
                    }
                };
                return;
            }
            Connection::Opening(_, since) => {
                if looked.since(*since) > HANDSHAKE {
                    self.connections[index] = Connection::Closed { reopen_at: now };
                }
                return;
            }
            Connection::Open(socket, judge) => {
                // A connection that is gone has an event under way; that says why.
                let (Ok(outstanding), Ok(retransmissions)) =
                    (tcp::outstanding_bytes(&*socket), tcp::retransmissions(&*socket))
                else {
                    return;
                };
                let stall = judge.look(now, Seen { outstanding: outstanding > 0, retransmissions });
                if judge.may_send() {
                    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let sent = Monotonic::now();
                    if send(&*socket, b".", flags).is_ok() {
                        judge.sent(sent, retransmissions);
                    }
                }
                stall
            }
        };
        self.note_stall(stall);
    }

    fn open(&self, index: usize) -> io::Result<Socket> {
        let socket = self.destination.socket()?;
        socket.set_tcp_nodelay(true)?;
        self.destination.connect(&socket)?;
        let interest = EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.poller.add(&socket, index as u64, interest)?;
        Ok(socket)
    }

    fn event(&mut self, Ready { token, flags }: Ready, now: Monotonic) {
        let index = token as usize;
        let gone = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let closed = Connection::Closed { reopen_at: now + REOPEN_AFTER };
        match std::mem::replace(&mut self.connections[index], closed) {
            Connection::Open(socket, mut judge) if gone => {
                let error = socket.take_error().ok().flatten();
                self.metrics.held_connections.dec();
                self.note_stall(judge.end(StallEnd::Lost, now));
                self.note_loss(index, loss_reason(error.as_ref()), now);
            }
            Connection::Opening(socket, _) if gone => match socket.take_error().ok().flatten() {
                // Established, and closed in the same moment: a target without --keep-open, or a denied source.
                error @ None => {
                    self.report.opened += 1;
                    self.note_loss(index, loss_reason(error.as_ref()), now);
                }
                Some(error) => tracing::debug!(%error, connection = index, "held connection does not open"),
            },
            Connection::Opening(socket, _) if flags.contains(EventFlags::OUT) => {
                self.report.opened += 1;
                self.metrics.held_connections.inc();
                let judge = StallJudge::new(index as u64, self.start, now);
                self.connections[index] = Connection::Open(socket, judge);
            }
            other => self.connections[index] = other,
        }
    }

    fn note_loss(&mut self, connection: usize, reason: LossReason, now: Monotonic) {
        self.report.lost_total += 1;
        self.metrics.held_lost[reason as usize].inc();
        if let Some(held_back) = self.log.pass(now) {
            tracing::warn!(connection, reason = reason.name(), held_back, "held connection lost");
        }
        if self.report.lost.len() < CAP {
            let at_seconds = now.since(self.start).as_secs_f64();
            self.report.lost.push(Loss { connection: connection as u64, at_seconds, reason });
        }
    }

    fn note_stall(&mut self, stall: Option<HeldStall>) {
        let Some(stall) = stall else { return };
        self.report.stalls_total += 1;
        let length = stall.length_seconds.upper.unwrap_or(stall.length_seconds.lower);
        self.metrics.held_stall_seconds.observe(length);
        if let Some(held_back) = self.log.pass(Monotonic::now()) {
            let HeldStall { connection, retransmissions, ended, .. } = stall;
            tracing::warn!(connection, length, retransmissions, ?ended, held_back, "held connection stalled");
        }
        if self.report.stalls.len() < CAP {
            self.report.stalls.push(stall);
        }
    }
}
