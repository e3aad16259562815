//! The socket of one probe: what is set on it, how it is connected, how its reply is read.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::client::evidence::{OwnSyn, end_to_end};
use crate::client::outcome::{ProbeEnd, of_connect_error};
use crate::client::probing::Event;
use crate::client::reply::{Reply, annotation};
use crate::client::tagging::Tagger;
use crate::config::client::Route;
use crate::document::outcome::Outcome;
use crate::document::stress::PortRange;
use crate::sys::clock::Monotonic;
use crate::sys::poller::EventFlags;
use crate::sys::sockopt::{set_local_ports, set_option};
use crate::sys::tcp;

/// Where connections go and how they leave: made once, used for every one.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The target.
    pub target: SocketAddr,
    target_raw: SockAddr,
    source: Option<SockAddr>,
    device: Option<Vec<u8>>,
}

impl Destination {
    /// The target by the route that the user chose.
    pub(crate) fn new(target: SocketAddr, route: &Route) -> Self {
        Self {
            target,
            target_raw: target.into(),
            source: route.source_addr.map(|address| SocketAddr::new(address, 0).into()),
            device: route.bind_device.as_ref().map(|name| name.clone().into_bytes()),
        }
    }

    /// A non-blocking socket that is bound as the route says.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(self.target), kind, Some(Protocol::TCP))?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device))?;
        }
        if let Some(source) = &self.source {
            set_bind_address_no_port(&socket)?;
            socket.bind(source)?;
        }
        Ok(socket)
    }

    /// The address of this host that packets to the target leave with.
    pub(crate) fn own_address(&self) -> io::Result<IpAddr> {
        let socket = Socket::new(Domain::for_address(self.target), Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device))?;
        }
        if let Some(source) = &self.source {
            socket.bind(source)?;
        }
        // Of a datagram socket this sends nothing.
        socket.connect(&self.target_raw)?;
        let own = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(own.ip().to_canonical())
    }

    /// Begins the handshake.
    pub(crate) fn connect(&self, socket: &Socket) -> io::Result<()> {
        match socket.connect(&self.target_raw) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            other => other,
        }
    }
}

/// Leaves the choice of the port to connect, which knows the remote end, so that ports do not run out early (ip(7),
/// `IP_BIND_ADDRESS_NO_PORT`; the kernel takes it for IPv6 sockets as well).
fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// One probe's connection.
#[derive(Debug)]
pub(crate) struct ProbeSocket {
    socket: Socket,
    reply: Reply,
    own: OwnSyn,
    /// Read just before `connect`.
    sent: Monotonic,
    port: u16,
    was_reset: bool,
    is_forbidden: bool,
}

impl ProbeSocket {
    /// A socket ready to connect, closed by RST when dropped: so neither end keeps a TIME_WAIT, and ports never run out. Its
    /// SYN will announce `segment_size`.
    pub(crate) fn new(
        destination: &Destination,
        tagger: Option<&Tagger>,
        segment_size: u16,
    ) -> io::Result<Self> {
        let socket = destination.socket()?;
        if let Some(tagger) = tagger {
            tagger.tag(&socket)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        // Without it nothing is proven, and everything else works.
        let announced = tcp::set_segment_size(&socket, segment_size).is_ok();
        Ok(Self {
            socket,
            reply: Reply::default(),
            own: OwnSyn {
                segment_size: announced.then_some(segment_size),
                timestamp_ms: None,
                since_sent: Duration::ZERO,
            },
            sent: Monotonic::from_ns(0),
            port: 0,
            was_reset: false,
            is_forbidden: false,
        })
    }

    /// Begins the handshake from one of these local ports; `None` leaves the choice to the kernel.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if none of them is free.
    pub(crate) fn connect(&mut self, destination: &Destination, ports: Option<PortRange>) -> io::Result<()> {
        if let Some(ports) = ports {
            set_local_ports(&self.socket, ports)?;
        }
        self.sent = Monotonic::now();
        destination.connect(&self.socket)?;
        self.own.timestamp_ms = tcp::timestamp(&self.socket).ok();
        self.own.since_sent = Monotonic::now().since(self.sent);
        self.port = match ports {
            Some(PortRange { low, high }) if low == high => low,
            _ => self.socket.local_addr()?.as_socket().map_or(0, |address| address.port()),
        };
        Ok(())
    }

    /// The instant just before its SYN left.
    pub(crate) fn sent(&self) -> Monotonic {
        self.sent
    }

    /// Whether a policy on the way forbids it, as far as the kernel tells.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.is_forbidden
    }

    /// What the kernel heard while the connection was being begun, and kept to itself: ICMP that comes back at once, from a node
    /// to its Pod, finds the socket in use (tcp_v6_err, net/ipv6/tcp_ipv6.c).
    pub(crate) fn unheard_error(&self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }

    /// Leaves a handshake that completes from now on without its acknowledgement, for as long as one may be delayed: if it is
    /// closed by then, the target accepts nothing, as if it had been closed before.
    pub(crate) fn hold_acknowledgement(&self) -> io::Result<()> {
        tcp::hold_acknowledgement(&self.socket)
    }

    /// Its local port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it says, now that it is ready for `flags`: a handshake, a verdict, in this order.
    pub(crate) fn events(&mut self, flags: EventFlags, now: Monotonic) -> [Option<Event>; 2] {
        if flags.intersects(EventFlags::ERR) {
            // An error of an established connection means that it was reset (tcp_reset, net/ipv4/tcp_input.c); after a FIN,
            // which comes first and decides, it is EPIPE.
            let error = self.socket.take_error().unwrap_or_else(Some);
            match error.as_ref().and_then(io::Error::raw_os_error) {
                Some(libc::ECONNRESET) => self.was_reset = true,
                Some(libc::EPIPE) | None => {}
                Some(errno) => {
                    self.is_forbidden = errno == libc::EACCES || tcp::is_forbidden_by_icmp(&self.socket);
                    let outcome = error.as_ref().map_or(Outcome::Error, of_connect_error);
                    return [Some(Event::Ended(ProbeEnd::plain(outcome))), None];
                }
            }
        }
        let reads = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        let end = if reads { self.read(now) } else { None };
        let established = flags.intersects(EventFlags::OUT | EventFlags::HUP);
        [established.then_some(Event::Established), end.map(Event::Ended)]
    }

    /// Reads what has come; `Some` once it decides, a closed connection included.
    fn read(&mut self, now: Monotonic) -> Option<ProbeEnd> {
        // Longer than an annotated reply, which comes in one segment.
        let mut buffer = [0; 256];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Some(ProbeEnd::plain(closed(self.reply, self.was_reset))),
                Ok(length) => {
                    if let Some(outcome) = self.reply.read(&buffer[..length]) {
                        return Some(self.annotated(outcome, &buffer[..length], now));
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted => {}
                    _ => return Some(ProbeEnd::plain(closed(self.reply, true))),
                },
            }
        }
    }

    fn annotated(&self, outcome: Outcome, reply: &[u8], now: Monotonic) -> ProbeEnd {
        match annotation(reply) {
            Some(told) if outcome != Outcome::Garbled => ProbeEnd {
                outcome,
                source: Some(told.source.ip()),
                end_to_end: end_to_end(&self.own, &told.syn, now.since(self.sent)),
            },
            _ => ProbeEnd::plain(outcome),
        }
    }
}

/// The outcome of a connection that ended before its reply was whole.
fn closed(reply: Reply, by_reset: bool) -> Outcome {
    match (reply.is_empty(), by_reset) {
        (false, _) => Outcome::Garbled,
        (true, true) => Outcome::Reset,
        (true, false) => Outcome::Leaked,
    }
}

impl AsFd for ProbeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
