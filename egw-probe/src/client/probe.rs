//! The socket of one probe: what is set on it, how it is connected, how its reply is read.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::client::outcome::{Reply, of_connect_error};
use crate::client::probing::{Event, ProbeEnd};
use crate::client::tagging::Tagger;
use crate::config::client::Route;
use crate::document::outcome::Outcome;
use crate::sys::poller::EventFlags;
use crate::sys::sockopt::set_option;

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
}

impl ProbeSocket {
    /// A socket ready to connect, closed by RST when dropped: so neither end keeps a TIME_WAIT, and ports never run out.
    pub(crate) fn new(destination: &Destination, tagger: Option<&Tagger>) -> io::Result<Self> {
        let socket = destination.socket()?;
        if let Some(tagger) = tagger {
            tagger.tag(&socket)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Self { socket, reply: Reply::default() })
    }

    /// Begins the handshake.
    pub(crate) fn connect(&self, destination: &Destination) -> io::Result<()> {
        destination.connect(&self.socket)
    }

    /// What it says, now that it is ready for `flags`: a handshake, a verdict, in this order.
    pub(crate) fn events(&mut self, flags: EventFlags) -> [Option<Event>; 2] {
        if flags.intersects(EventFlags::ERR) {
            // An error of an established connection means that it was reset (tcp_reset, net/ipv4/tcp_input.c).
            let error = self.socket.take_error().unwrap_or_else(Some);
            match error.as_ref().and_then(io::Error::raw_os_error) {
                Some(libc::ECONNRESET | libc::EPIPE) | None => {}
                Some(_) => {
                    let outcome = error.as_ref().map_or(Outcome::Error, of_connect_error);
                    return [Some(Event::Ended(ProbeEnd::plain(outcome))), None];
                }
            }
        }
        let reads = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        let verdict = if reads { self.read() } else { None };
        let established = flags.intersects(EventFlags::OUT | EventFlags::HUP);
        [established.then_some(Event::Established), verdict.map(Event::Ended)]
    }

    /// Reads what has come; `Some` once it decides, a closed connection included.
    fn read(&mut self) -> Option<ProbeEnd> {
        // Longer than an annotated reply, which comes in one segment.
        let mut buffer = [0; 256];
        loop {
            let plain = |outcome| Some(ProbeEnd::plain(outcome));
            match self.socket.read(&mut buffer) {
                Ok(0) => return plain(self.reply.closed()),
                Ok(length) => {
                    if let Some(outcome) = self.reply.read(&buffer[..length]) {
                        return Some(ProbeEnd { outcome, egress_ip: egress_ip(&buffer[..length]) });
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted => {}
                    _ => return plain(self.reply.closed()),
                },
            }
        }
    }
}

impl AsFd for ProbeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The `source=` of an annotated reply's second line, without its port.
pub fn egress_ip(reply: &[u8]) -> Option<IpAddr> {
    let second_line = std::str::from_utf8(reply).ok()?.lines().nth(1)?;
    let source = second_line.split(' ').find_map(|word| word.strip_prefix("source="))?;
    source.parse::<SocketAddr>().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotated_reply_tells_the_egress_ip() {
        let address = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(egress_ip(b"pong\nsource=203.0.113.7:4711 accept_ns=5\n"), address("203.0.113.7"));
        assert_eq!(egress_ip(b"pong\naccept_ns=5 source=[2001:db8::7]:4711\n"), address("2001:db8::7"));
        for other in [&b"pong\n"[..], b"pong\nsource=", b"pong\nsource=x\n", b"pong\n\xff\n", b""] {
            assert_eq!(egress_ip(other), None);
        }
    }
}
