//! Lanes: pairs of a source address and a target. Each has the whole local port range to itself.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;

use crate::client::probe::Destination;
use crate::config::client::Route;
use crate::document::stress::PortRange;
use crate::sys::sockopt::set_local_ports;

impl PortRange {
    /// Share `number` of `count`, from `start` steps in.
    pub fn part(self, number: usize, count: usize, start: u32) -> Ports {
        let (number, count, all) = (number as u32, count as u32, self.ports());
        let first = all * number / count;
        let left = all * (number + 1) / count - first;
        Ports { range: self, next: (start % all + first) % all, left }
    }
}

/// Where stress connections leave from and go to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways<'a> {
    /// Targets, the client's own first.
    pub targets: &'a [SocketAddr],
    /// Local addresses; if empty, the route's.
    pub sources: &'a [IpAddr],
    /// What else the user chose.
    pub route: &'a Route,
}

/// Which port to try next. The kernel's own search (`__inet_hash_connect`) starts anywhere and walks over what is taken,
/// the longer the fuller the range is; to name the port is one step.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    range: PortRange,
    /// Steps from the lowest.
    next: u32,
    left: u32,
}

impl Ports {
    /// The next one; `None` once each has been named.
    fn take(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        let port = self.range.low + self.next as u16;
        self.next = (self.next + 1) % self.range.ports();
        Some(port)
    }
}

/// A source address and a target.
#[derive(Debug)]
struct Lane {
    destination: Destination,
    /// `None` leaves the choice to the kernel.
    ports: Option<Ports>,
}

impl Lane {
    /// A socket whose handshake has begun.
    fn dial(&mut self) -> io::Result<Socket> {
        let socket = self.destination.socket()?;
        while let Some(port) = self.ports.as_mut().and_then(Ports::take) {
            if let Err(error) = set_local_ports(&socket, PortRange { low: port, high: port }) {
                // A kernel before 6.3 does not know the option.
                tracing::debug!(%error, "the kernel chooses local ports");
                self.ports = None;
                break;
            }
            match self.destination.connect(&socket) {
                // Somebody else's, or reserved.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                other => return other.map(|()| socket),
            }
        }
        if let Some(ports) = self.ports {
            // Each has been named once. What has become free since is found by the kernel's search.
            set_local_ports(&socket, ports.range)?;
        }
        self.destination.connect(&socket).map(|()| socket)
    }
}

/// All lanes, taken in turn.
#[derive(Debug)]
pub(crate) struct Lanes {
    all: Vec<Lane>,
    next: usize,
}

impl Lanes {
    /// Every source with every target, each with these ports; without them the kernel chooses.
    pub(crate) fn new(ways: Ways<'_>, ports: Option<Ports>) -> Self {
        let sources: Vec<Option<IpAddr>> = match ways.sources {
            [] => vec![ways.route.source_addr],
            some => some.iter().copied().map(Some).collect(),
        };
        // Sources turn fastest, so that a target is not flooded from one of them.
        let pairs =
            ways.targets.iter().flat_map(|target| sources.iter().map(move |source| (*target, *source)));
        let lane = |(target, source_addr)| Lane {
            destination: Destination::new(target, &Route { source_addr, ..ways.route.clone() }),
            ports,
        };
        Self { all: pairs.map(lane).collect(), next: 0 }
    }

    /// Begins a handshake on the next lane that has a port; also says which lane that is.
    pub(crate) fn dial(&mut self) -> (io::Result<Socket>, u16) {
        let first = self.next;
        loop {
            let number = self.next;
            self.next = (self.next + 1) % self.all.len();
            let dialled = self.all[number].dial();
            let exhausted =
                matches!(&dialled, Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL));
            if !exhausted || self.next == first {
                return (dialled, number as u16);
            }
        }
    }

    /// Target of a lane.
    pub(crate) fn target(&self, lane: u16) -> SocketAddr {
        self.all[usize::from(lane)].destination.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::local_port_range;

    #[test]
    fn each_port_is_named_once_by_all_shares_together() {
        let range = PortRange { low: 100, high: 104 };
        let taken = |count: usize| -> Vec<Vec<u16>> {
            let share = |number| {
                let mut ports = range.part(number, count, 7);
                std::iter::from_fn(|| ports.take()).collect()
            };
            (0..count).map(share).collect()
        };
        assert_eq!(taken(1), [[102, 103, 104, 100, 101]]);
        assert_eq!(taken(2), [vec![102, 103], vec![104, 100, 101]]);
    }

    #[test]
    fn named_ports_are_the_ones_that_connect() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (targets, sources) = ([listener.local_addr().unwrap()], ["127.0.0.7".parse().unwrap()]);
        let ways = Ways { targets: &targets, sources: &sources, route: &Route::default() };
        let range = local_port_range().unwrap();
        let mut lanes = Lanes::new(ways, Some(range.part(0, 1, 1_000)));
        let mut sockets = Vec::new();
        for step in 0..5 {
            let (socket, lane) = lanes.dial();
            let local = socket.as_ref().unwrap().local_addr().unwrap().as_socket().unwrap();
            sockets.push(socket.unwrap());
            assert_eq!((lane, local.ip().to_string().as_str()), (0, "127.0.0.7"));
            assert_eq!(u32::from(local.port()), u32::from(range.low) + 1_000 + step);
        }
    }
}
