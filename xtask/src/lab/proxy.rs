//! A TCP proxy as they stand in clusters: answers at once, then dials the target, more than once, and joins the two. Where
//! it cannot reach it, it closes, or resets; with short patience or long, each in turn.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket, sockopt,
};

use super::addresses::PORT;
use super::namespace::Namespace;
use super::worker::Worker;

/// How often a waiting thread looks whether to stop.
const GLANCE_MS: u16 = 20;
/// Beyond the round-trip, how long one attempt to reach the target may take.
const ATTEMPT: Duration = Duration::from_millis(60);
/// Half of the connections give up after their first attempt, the others much later than a probe.
const LONG_PATIENCE: Duration = Duration::from_secs(3);
const STACK_BYTES: usize = 128 << 10;

/// A running proxy; dropping it ends it.
pub(crate) struct Proxy(#[expect(dead_code, reason = "kept for its drop")] Worker<()>);

impl Proxy {
    /// Starts one in `namespace` that listens on the port of probes, and dials `target` with this packet mark.
    pub(crate) fn start(
        namespace: &Namespace,
        target: SocketAddr,
        mark: Option<u32>,
        round_trip: Duration,
    ) -> Result<Self> {
        let netns = namespace.fd().try_clone_to_owned()?;
        let listener = namespace
            .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("the proxy cannot listen"))?;
        listener.set_nonblocking(true)?;
        let upstream = Upstream { target, mark, attempt: ATTEMPT + 2 * round_trip };
        Worker::start("proxy", move |stop| {
            // Threads that it starts are in the same namespace.
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            accept_all(&listener, upstream, stop)
        })
        .map(Self)
    }
}

/// Where connections go on to.
#[derive(Debug, Clone, Copy)]
struct Upstream {
    target: SocketAddr,
    mark: Option<u32>,
    attempt: Duration,
}

/// How one connection ends that cannot be carried on.
#[derive(Debug, Clone, Copy)]
struct Temper {
    patience: Duration,
    resets: bool,
}

fn accept_all(listener: &TcpListener, upstream: Upstream, stop: &AtomicBool) -> io::Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        wait(&[(listener, PollFlags::POLLIN)], GLANCE_MS)?;
        while let Ok((client, _)) = listener.accept() {
            let patience = if number.is_multiple_of(2) { Duration::ZERO } else { LONG_PATIENCE };
            let temper = Temper { patience, resets: number % 4 < 2 };
            number += 1;
            let over = Arc::clone(&over);
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                // What goes wrong with one connection is its client's to see.
                let _ = carry(&client, upstream, temper, &over);
            })?;
        }
    }
    over.store(true, Ordering::Relaxed);
    Ok(())
}

/// One connection, from its accept to its end.
fn carry(client: &TcpStream, upstream: Upstream, temper: Temper, over: &AtomicBool) -> io::Result<()> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    let deadline = Instant::now() + temper.patience;
    let server = loop {
        match upstream.dial(client, over) {
            Ok(server) => break server,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Ok(()),
            Err(_) if Instant::now() < deadline && !over.load(Ordering::Relaxed) => {}
            Err(_) if temper.resets => return reset(client),
            Err(_) => return Ok(()),
        }
    };
    match join(client, &server, over) {
        Ok(()) => Ok(()),
        Err(_) => reset(client).and(reset(&server)),
    }
}

impl Upstream {
    /// Tries once; gives up at once when the client is gone.
    fn dial(&self, client: &TcpStream, over: &AtomicBool) -> io::Result<TcpStream> {
        let family = if self.target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket =
            socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        if let Some(mark) = self.mark {
            setsockopt(&socket, sockopt::Mark, &mark)?;
        }
        let dialled = match self.target {
            SocketAddr::V4(target) => connect(socket.as_raw_fd(), &SockaddrIn::from(target)),
            SocketAddr::V6(target) => connect(socket.as_raw_fd(), &SockaddrIn6::from(target)),
        };
        match dialled {
            Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let server = TcpStream::from(socket);
        let deadline = Instant::now() + self.attempt;
        loop {
            let ready = wait(&[(&server, PollFlags::POLLOUT), (client, PollFlags::empty())], 5)?;
            if ready[1].intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
                reset(&server)?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !ready[0].is_empty() {
                server.set_nodelay(true)?;
                return server.take_error()?.map_or(Ok(server), Err);
            }
            if Instant::now() > deadline || over.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Carries bytes both ways until either end closes.
fn join(client: &TcpStream, server: &TcpStream, over: &AtomicBool) -> io::Result<()> {
    while !over.load(Ordering::Relaxed) {
        let ready = wait(&[(client, PollFlags::POLLIN), (server, PollFlags::POLLIN)], GLANCE_MS)?;
        for (ready, from, to) in [(ready[1], server, client), (ready[0], client, server)] {
            if !ready.is_empty() && !pass_on(from, to)? {
                // The target closes after its reply: so does the proxy. A client that is gone leaves nothing to keep.
                return if std::ptr::eq(from, client) { reset(server) } else { Ok(()) };
            }
        }
    }
    Ok(())
}

/// Passes on what has come. False at the end.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => to.write_all(&buffer[..length]).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Makes its close an RST.
fn reset(stream: &TcpStream) -> io::Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(stream, sockopt::Linger, &at_once)?)
}

/// What has happened to each, within so many milliseconds.
fn wait<const N: usize>(
    watched: &[(&dyn AsFd, PollFlags); N],
    milliseconds: u16,
) -> io::Result<[PollFlags; N]> {
    let mut polled = watched.map(|(fd, flags)| PollFd::new(fd.as_fd(), flags));
    poll(&mut polled, PollTimeout::from(milliseconds))?;
    Ok(polled.map(|polled| polled.revents().unwrap_or(PollFlags::empty())))
}
