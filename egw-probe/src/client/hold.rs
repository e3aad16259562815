//! Held connections: what a failover does to those that are already there.
//!
//! They live on a thread of their own, so that probing keeps its ticks. What is to be done with them, and what it means,
//! is decided in [`super::holding`].

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use socket2::Socket;

use crate::client::failure::loss_reason;
use crate::client::holding::{Act, HeldFact, Holding};
use crate::client::metrics::ClientMetrics;
use crate::client::probe::Destination;
use crate::client::stall::Seen;
use crate::document::held::{HeldStall, HoldReport};
use crate::sys::clock::Monotonic;
use crate::sys::log::{Pass, RateLimit};
use crate::sys::poller::{EventFlags, Poller, Ready};
use crate::sys::tcp;

/// Shortest time between two looks at a connection.
const TICK: Duration = Duration::from_millis(10);
/// Processor time that a look at one connection may take at most: the tick grows with their number.
const LOOK: Duration = Duration::from_micros(20);
/// How often the end of the watch is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// The sockets of held connections.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    destination: &'a Destination,
    metrics: &'a ClientMetrics,
    tick: Duration,
    poller: Poller,
    holding: Holding,
    sockets: Vec<Option<Socket>>,
    log: RateLimit,
}

impl<'a> Hold<'a> {
    /// To hold `count` connections, and look at each as often as probes leave, but not more often than can be afforded.
    pub(crate) fn new(
        destination: &'a Destination,
        metrics: &'a ClientMetrics,
        start: Monotonic,
        count: u32,
        interval: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            destination,
            metrics,
            tick: interval.max(TICK).max(LOOK * count),
            poller: Poller::new()?,
            holding: Holding::new(count, start),
            sockets: (0..count).map(|_| None).collect(),
            log: RateLimit::per_second(10),
        })
    }

    /// Holds them until `stop` is set, at a target that annotates its replies or does not.
    pub(crate) fn run(mut self, annotates: bool, stop: &AtomicBool) -> io::Result<HoldReport> {
        self.holding.set_annotates(annotates);
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
                for index in 0..self.sockets.len() {
                    self.tick(index, looked, now);
                }
                next = now + self.tick;
            }
            self.tell(now);
        }
        let now = Monotonic::now();
        let report = self.holding.finish(now);
        self.tell(now);
        self.metrics.held.connections.set(0);
        Ok(report)
    }

    fn tick(&mut self, index: usize, looked: Monotonic, now: Monotonic) {
        match self.holding.on_tick(index, looked, now) {
            Act::Wait => {}
            Act::Open => {
                let opened = self.open(index);
                if let Err(error) = &opened {
                    tracing::debug!(%error, connection = index, "held connection does not open");
                }
                self.sockets[index] = opened.ok();
                self.holding.opening(index, self.sockets[index].is_some(), now);
            }
            Act::GiveUp => self.sockets[index] = None,
            Act::Look => self.look(index, now),
        }
    }

    fn look(&mut self, index: usize, now: Monotonic) {
        let Some(socket) = &self.sockets[index] else { return };
        // A connection that is gone has an event under way; that says why.
        let (Ok(outstanding), Ok(retransmissions)) =
            (tcp::outstanding_bytes(socket), tcp::retransmissions(socket))
        else {
            return;
        };
        let seen = Seen { outstanding: outstanding > 0, retransmissions };
        if self.holding.on_look(index, seen, now) {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let sent = Monotonic::now();
            if send(socket, b".", flags).is_ok() {
                self.holding.sent(index, sent, retransmissions);
            }
        }
    }

    fn open(&self, index: usize) -> io::Result<Socket> {
        let socket = self.destination.socket()?;
        socket.set_tcp_nodelay(true)?;
        self.destination.connect(&socket)?;
        let interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        self.poller.add(&socket, index as u64, interest)?;
        Ok(socket)
    }

    fn event(&mut self, Ready { token, flags }: Ready, now: Monotonic) {
        let index = token as usize;
        if flags.contains(EventFlags::IN) && !self.holding.is_open(index) {
            self.read_reply(index, now);
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            let Some(socket) = self.sockets[index].take() else { return };
            let error = socket.take_error().ok().flatten();
            self.holding.on_gone(index, loss_reason(error.as_ref()), now);
        }
    }

    /// Reads what the target says to a new connection.
    fn read_reply(&mut self, index: usize, now: Monotonic) {
        let Some(mut socket) = self.sockets[index].as_ref() else { return };
        // Longer than an annotated reply, which comes in one segment.
        let mut buffer = [0; 256];
        let Ok(length) = socket.read(&mut buffer) else { return };
        if !self.holding.on_reply(index, &buffer[..length], now) {
            self.sockets[index] = None;
        }
    }

    /// Hands on what has become known.
    fn tell(&mut self, now: Monotonic) {
        for fact in self.holding.take_facts() {
            match fact {
                HeldFact::Opened => self.metrics.held.connections.inc(),
                HeldFact::Closed => self.metrics.held.connections.dec(),
                HeldFact::Lost(loss) => {
                    self.metrics.held.lost[loss.reason as usize].inc();
                    if let Some(Pass { held_back }) = self.log.pass(now) {
                        let (connection, reason) = (loss.connection, loss.reason.name());
                        tracing::warn!(connection, reason, held_back, "held connection lost");
                    }
                }
                HeldFact::Stalled(stall) => {
                    let length = stall.length_seconds.upper.unwrap_or(stall.length_seconds.lower);
                    self.metrics.held.stall_seconds.observe(length);
                    if let Some(Pass { held_back }) = self.log.pass(now) {
                        let HeldStall { connection, retransmissions, ended, .. } = stall;
                        tracing::warn!(
                            connection,
                            length,
                            retransmissions,
                            ?ended,
                            held_back,
                            "held connection stalled"
                        );
                    }
                }
            }
        }
    }
}
