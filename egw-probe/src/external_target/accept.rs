//! The accept loop: four system calls for an allowed connection (accept, send, shutdown, close), two for a denied one; an
//! annotated reply takes four and one for what the SYN said.
//!
//! A loop blocks in accept on a thread of its own, one for two cores. That is fewer calls than any readiness scheme makes,
//! and nothing is allocated for a connection.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::config::choice::Reply;
use crate::document::verdict::Verdict;
use crate::external_target::clients::ClientTable;
use crate::external_target::metrics::TargetMetrics;
use crate::external_target::newcomers::Newcomers;
use crate::external_target::opening::Opening;
use crate::external_target::reply::{self, PONG, Room, Seen};
use crate::external_target::sources::Sources;
use crate::external_target::verdict::AllowedSources;
use crate::observer::shared::ObserverHandle;
use crate::sys::clock::Monotonic;
use crate::sys::log::{Pass, RateLimit};
use crate::sys::poller::{EventFlags, Poller};
use crate::sys::tcp;

/// Above this, instants told by accepts are called weak.
const WEAK_WAIT: Duration = Duration::from_millis(50);
/// Pause after an accept that failed for want of descriptors or memory: others need time to give some back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

/// What all accept loops of a target share.
pub(crate) struct Shared {
    /// Who gets a pong.
    pub allowed: AllowedSources,
    /// The port listened on.
    pub port: u16,
    /// The form of the reply.
    pub reply: Reply,
    /// Where kept connections go; `None` closes them.
    pub held: Option<Held>,
    /// Who has connected.
    pub sources: Sources,
    /// Which denied sources the log has told of.
    pub newcomers: Arc<Newcomers>,
    /// The kernel side, where it is in force: learns of accepted connections, knows when their SYNs came.
    pub kernel: Option<ObserverHandle>,
    /// Where tags in SYNs go, if they are read.
    pub clients: Option<Arc<ClientTable>>,
    /// The counters.
    pub metrics: TargetMetrics,
    /// Set by [`Shared::stop`]; false at first.
    pub stopping: AtomicBool,
    /// Lets a line a second through.
    pub log: Mutex<RateLimit>,
    /// The longest wait for an accept that the log has told of; zero at first.
    pub wait_told: Mutex<Duration>,
}

impl Shared {
    /// Accepts on `listener` until [`Shared::stop`]; `index` is the number of this loop.
    pub(crate) fn accept_loop(&self, listener: &TcpListener, index: usize) {
        let mut waits = Waits::default();
        while !self.stopping.load(Ordering::Relaxed) {
            if let Some(held) = &self.held
                && held.is_full()
            {
                self.exhausted("connections are held up to the descriptor limit: raise it (ulimit -n)");
                continue;
            }
            match listener.accept() {
                Ok((stream, source)) => {
                    let now = Monotonic::now();
                    if let Some(wait) = waits.look(&stream, now) {
                        self.note_wait(wait);
                    }
                    self.serve(stream, source, index, now);
                }
                Err(error) => self.accept_failed(&error),
            }
        }
    }

    /// Ends every accept loop on `listeners`.
    pub(crate) fn stop(&self, listeners: &[TcpListener]) {
        self.stopping.store(true, Ordering::Relaxed);
        for listener in listeners {
            // Wakes the blocked accept with EINVAL (inet_csk_accept, net/ipv4/inet_connection_sock.c).
            let _ = shutdown(listener, Shutdown::Both);
        }
    }

    fn note_wait(&self, wait: Duration) {
        self.metrics.accept_wait.observe(wait.as_secs_f64());
        if wait > WEAK_WAIT {
            let mut told = self.wait_told.lock();
            if let Some(line) = complaint(wait, &mut told) {
                tracing::warn!("{line}");
            }
        }
    }

    fn serve(&self, stream: TcpStream, source: SocketAddr, index: usize, now: Monotonic) {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let verdict = self.allowed.verdict(source.ip());
        let opening = self.keeps_syns().then(|| self.opening(&stream)).flatten();
        // The kernel side has told of the SYN itself, and stamped it.
        if let (Some(clients), Some(opening), None) = (&self.clients, opening, &self.kernel) {
            clients.syn(opening.sequence, verdict, now, false);
        }
        let mut room = [0; 256];
        if let Some(reply) = self.reply_to(source, verdict, now, opening, &mut room) {
            // MORE leaves the reply to the shutdown that follows: one segment with FIN, instead of two.
            let held = self.held.as_ref().filter(|_| verdict == Verdict::Allowed);
            let more = if held.is_none() { SendFlags::MORE } else { SendFlags::empty() };
            // A peer that has reset already is no fault of ours, and has no use for a reply.
            let _ = send(&stream, reply, SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more);
            match held {
                Some(held) => held.keep(stream, &self.metrics),
                None => {
                    // A close alone would throw the reply away if the peer had sent something that nobody reads.
                    let _ = shutdown(&stream, Shutdown::Write);
                }
            }
        }
        self.metrics.connections(verdict).inc();
        if let Some(kernel) = &self.kernel {
            kernel.accepted(source, opening.map(|opening| opening.sequence), now);
        }
        if self.sources.note(index, source.ip(), verdict, now) && verdict == Verdict::Denied {
            self.newcomers.denied(source.ip(), now);
        }
        tracing::debug!(%source, verdict = verdict.name(), "connection");
    }

    /// Whether listeners keep the SYNs of their connections ([`tcp::save_syns`]).
    fn keeps_syns(&self) -> bool {
        self.clients.is_some() || self.reply == Reply::Annotated
    }

    fn opening(&self, stream: &TcpStream) -> Option<Opening> {
        let mut room = [0; 256];
        Opening::read(tcp::saved_syn(stream, &mut room).ok()?, self.port)
    }

    /// What this connection is told before it is closed or kept, if anything.
    fn reply_to<'a>(
        &self,
        source: SocketAddr,
        verdict: Verdict,
        accepted: Monotonic,
        opening: Option<Opening>,
        room: &'a mut Room,
    ) -> Option<&'a [u8]> {
        match self.reply {
            Reply::Pong => (verdict == Verdict::Allowed).then_some(PONG),
            Reply::Annotated => {
                let sequence = opening.map(|opening| opening.sequence);
                let syn = self.kernel.as_ref().and_then(|kernel| kernel.syn_of(source, sequence));
                Some(reply::annotated(&Seen { source, verdict, accepted, syn, opening }, room))
            }
        }
    }

    fn accept_failed(&self, error: &io::Error) {
        match error.raw_os_error() {
            // shutdown() was called on the listener.
            Some(libc::EINVAL) if self.stopping.load(Ordering::Relaxed) => {}
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.exhausted(&format!("accepting has to wait: {error}; raise the limit (ulimit -n)"));
            }
            // accept(2): errors of the new connection come through here, and the next one may be fine.
            _ => {
                self.metrics.accept_aborted.inc();
                self.warn(&format!("a connection was gone before it was accepted: {error}"));
            }
        }
    }

    /// Waits for descriptors. Connections stay in the kernel's queue: closing them would look like a leak to the client.
    fn exhausted(&self, line: &str) {
        self.metrics.accept_exhausted.inc();
        if let Some(kernel) = &self.kernel {
            kernel.accepting_waits(Monotonic::now());
        }
        self.warn(line);
        std::thread::sleep(EXHAUSTED_PAUSE);
    }

    fn warn(&self, line: &str) {
        let mut log = self.log.lock();
        if let Some(Pass { held_back }) = log.pass(Monotonic::now()) {
            tracing::warn!(held_back, "{line}");
        }
    }
}

/// How long connections wait for their accept: the target's own lateness, looked at now and then by each loop.
#[derive(Debug, Default)]
struct Waits {
    looked: Option<Monotonic>,
}

impl Waits {
    /// A look is a system call; at most one in so long is spent on it.
    const PERIOD: Duration = Duration::from_millis(10);

    /// How long this connection has waited, if it is time for a look.
    fn look(&mut self, stream: &TcpStream, now: Monotonic) -> Option<Duration> {
        if self.looked.is_some_and(|looked| now.since(looked) < Self::PERIOD) {
            return None;
        }
        self.looked = Some(now);
        tcp::since_handshake(stream).ok()
    }
}

/// What to say of a wait above [`WEAK_WAIT`]: of the first, and of each that is twice as long as the longest one told.
fn complaint(wait: Duration, told: &mut Duration) -> Option<String> {
    if wait <= *told * 2 {
        return None;
    }
    *told = wait;
    Some(format!(
        "weak numbers: a connection waited {wait:?} for its accept, more than {WEAK_WAIT:?}: instants told by accepts (first \
         and last of /sources, tags without --ebpf) are late by so much; give the target more CPU, or more descriptors if it \
         lacks them"
    ))
}

/// Connections kept open for `--keep-open`: a descriptor and a registration with epoll each, no task and no buffer.
#[derive(Debug)]
pub(crate) struct Held {
    registrations: Poller,
    /// By descriptor number.
    streams: Mutex<Streams>,
    most: usize,
}

#[derive(Debug, Default)]
struct Streams {
    by_descriptor: Vec<Option<OwnedFd>>,
    open: usize,
}

impl Held {
    /// Room for `most` connections.
    pub(crate) fn new(most: usize) -> io::Result<Self> {
        Ok(Self { registrations: Poller::new()?, streams: Mutex::default(), most })
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock()
    }

    fn is_full(&self) -> bool {
        self.streams().open >= self.most
    }

    fn keep(&self, stream: TcpStream, metrics: &TargetMetrics) {
        let stream = OwnedFd::from(stream);
        let descriptor = stream.as_raw_fd() as usize;
        let mut streams = self.streams();
        let interest = EventFlags::IN | EventFlags::RDHUP;
        if self.registrations.add(stream.as_fd(), descriptor as u64, interest).is_err() {
            return;
        }
        if streams.by_descriptor.len() <= descriptor {
            streams.by_descriptor.resize_with(descriptor + 1, || None);
        }
        streams.by_descriptor[descriptor] = Some(stream);
        streams.open += 1;
        metrics.open_connections.inc();
    }

    /// Closes connections whose client has closed them, until `stop` becomes readable.
    pub(crate) fn close_loop(&self, stop: impl AsFd, metrics: &TargetMetrics) -> io::Result<()> {
        const STOP: u64 = u64::MAX;
        self.registrations.add(stop, STOP, EventFlags::IN)?;
        let mut ready = Vec::new();
        loop {
            self.registrations.wait(None, &mut ready)?;
            let mut streams = self.streams();
            for event in ready.drain(..) {
                if event.token == STOP {
                    return Ok(());
                }
                let Some(slot) = streams.by_descriptor.get_mut(event.token as usize) else { continue };
                let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                if !event.flags.intersects(gone) {
                    slot.as_ref().map(discard);
                    continue;
                }
                if slot.take().is_some() {
                    streams.open -= 1;
                    metrics.open_connections.dec();
                }
            }
        }
    }
}

/// Throws away what a client sent (keepalive bytes of --hold), without copying it (MSG_TRUNC, tcp(7)); whatever goes on
/// being sent comes again as an event.
fn discard(stream: &OwnedFd) {
    let mut scratch = [MaybeUninit::<u8>::uninit(); 4096];
    let _ = recv(stream, &mut scratch, RecvFlags::DONTWAIT | RecvFlags::TRUNC);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_once_and_then_only_those_twice_as_long() {
        let mut told = Duration::ZERO;
        let waits = [51, 90, 102, 103, 150, 2000].map(Duration::from_millis);
        let lines = waits.map(|wait| complaint(wait, &mut told).is_some());
        assert_eq!(lines, [true, false, false, true, false, true]);
    }
}
