//! Listening sockets and the descriptor limit: what both ends need from the kernel before they start.

use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::document::stress::PortRange;

/// Connections that the kernel completes before the program accepts them; cut to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Descriptors that neither probes nor held connections may use: HTTP, logs, the resolver.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 160;

/// A system call on the way to a listening socket that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub(crate) struct Refused {
    /// Its name.
    pub call: &'static str,
    /// What it answered.
    pub source: io::Error,
}

fn refused(call: &'static str) -> impl Fn(io::Error) -> Refused {
    move |source| Refused { call, source }
}

/// Listens on `address`. An unspecified IPv6 address takes IPv4 connections too, and becomes the unspecified IPv4
/// address on a kernel without IPv6. A second listener on the same port fails, in this process or another.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, Refused> {
    let socket = bind(address, false)?;
    socket.listen(BACKLOG).map_err(refused("listen"))?;
    Ok(socket.into())
}

/// Sockets bound to one port, among which the kernel will spread its connections (`SO_REUSEPORT`). Until they listen it
/// refuses them all.
#[derive(Debug)]
pub(crate) struct Bound {
    first: Socket,
    siblings: Vec<Socket>,
}

/// Binds `count` sockets to `address`. A listener of any other process makes this fail with `AddrInUse`.
pub(crate) fn bind_group(address: SocketAddr, count: usize) -> Result<Bound, Refused> {
    let first = bind(address, false)?;
    let bound = first.local_addr().map_err(refused("getsockname"))?.as_socket().unwrap_or(address);
    let siblings = (1..count).map(|_| bind(bound, true)).collect::<Result<_, _>>()?;
    Ok(Bound { first, siblings })
}

impl Bound {
    /// All of the sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Socket> {
        std::iter::once(&self.first).chain(&self.siblings)
    }

    /// Listens with all of them.
    ///
    /// The first one is without the option until it listens: so a process that listens on the port since it was bound makes
    /// this fail with `AddrInUse`, instead of sharing its connections with us in silence; from then on nobody else can.
    pub(crate) fn listen(self) -> Result<Vec<TcpListener>, Refused> {
        self.first.listen(BACKLOG).map_err(refused("listen"))?;
        self.first.set_reuse_port(true).map_err(refused("setsockopt"))?;
        for sibling in &self.siblings {
            sibling.listen(BACKLOG).map_err(refused("listen"))?;
        }
        Ok(std::iter::once(self.first).chain(self.siblings).map(TcpListener::from).collect())
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> Result<Socket, Refused> {
    let dual_stack = address.is_ipv6() && address.ip().is_unspecified();
    let socket = match Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)) {
        Err(error) if dual_stack && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            return bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), reuse_port);
        }
        other => other.map_err(refused("socket"))?,
    };
    let set = refused("setsockopt");
    if dual_stack {
        socket.set_only_v6(false).map_err(&set)?;
    }
    // Connections of a predecessor that still wait out their time must not keep the port.
    socket.set_reuse_address(true).map_err(&set)?;
    if reuse_port {
        socket.set_reuse_port(true).map_err(&set)?;
    }
    socket.bind(&address.into()).map_err(refused("bind"))?;
    Ok(socket)
}

/// The number of an interface in this network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)
        .or_else(|_| Socket::new(Domain::IPV4, Type::DGRAM, None))?;
    Ok(name_to_index(socket, name)?)
}

/// In the place of the C library's (if_nametoindex(3)), for what calls it: musl's asks by a Unix socket, which the seccomp filter
/// forbids, when aya attaches to an interface that has come back.
///
/// # Safety
/// As of the C library's: a pointer to a name with its end.
// SAFETY: the name and the type are those of the C library, and so is what it does.
#[unsafe(no_mangle)]
unsafe extern "C" fn if_nametoindex(name: *const libc::c_char) -> libc::c_uint {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let index = name.to_str().map_err(|_| Errno::NODEV.into()).and_then(interface_index);
    index.unwrap_or_else(|error| {
        // SAFETY: the address is that of this thread's errno, which the caller reads.
        unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::ENODEV) };
        0
    })
}

/// SYNs and handshakes that the kernel of this network namespace dropped because a listener's accept queue was full
/// (`ListenOverflows` of `TcpExt`, /proc/net/netstat); every listener counts, not only ours. `None` where it is not told.
pub(crate) fn listen_overflows() -> Option<u64> {
    // The counters of the thread's namespace: the process may have been moved since it started.
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    columns.find(|(name, _)| *name == "ListenOverflows")?.1.parse().ok()
}

/// The ports that the kernel chooses from in this network namespace; `None` where that cannot be read.
pub(crate) fn local_port_range() -> Option<PortRange> {
    parse_range(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn parse_range(text: &str) -> Option<PortRange> {
    let mut words = text.split_whitespace();
    let (low, high) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (low > 0 && low <= high).then_some(PortRange { low, high })
}

/// Raises the soft limit on open descriptors to the hard one, and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, wanted).is_ok() { limit.maximum } else { limit.current };
    // No number stands for no limit; the kernel has one per process all the same (fs.nr_open).
    current.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_is_two_numbers_in_order() {
        assert_eq!(parse_range("100\t104\n"), Some(PortRange { low: 100, high: 104 }));
        for text in ["5 4", "0 9", "7", "a b"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_second_listener_group_on_a_port_fails() {
        let first = bind_group("[::]:0".parse().unwrap(), 3).unwrap();
        let address = first.first.local_addr().unwrap().as_socket().unwrap();
        // Bound as soon as the first one, which has not listened yet.
        let late = bind_group(address, 3).unwrap();
        let first = first.listen().unwrap();
        assert!(first.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert_eq!(late.listen().unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
        let second = bind_group(address, 3).unwrap_err();
        assert_eq!(second.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_are_refused_until_the_group_listens_and_then_spread_over_it() {
        let bound = bind_group("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = bound.first.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect(address);
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listeners = bound.listen().unwrap();
        let _streams: Vec<_> = (0..200).map(|_| connect().unwrap()).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
            let waiting = listener.incoming().take_while(Result::is_ok).count();
            assert!((50..150).contains(&waiting), "{waiting} of 200");
        }
    }

    #[test]
    fn the_c_librarys_name_of_it_is_ours() {
        // SAFETY: two names with their ends.
        let [lo, none] = [c"lo", c"none"].map(|name| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_eq!((lo, none), (1, 0));
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENODEV));
        let ours = if_nametoindex as unsafe extern "C" fn(_) -> _;
        assert_eq!(ours as usize, libc::if_nametoindex as *const () as usize);
    }

    #[test]
    fn an_unspecified_ipv6_listener_takes_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in ["127.0.0.1", "::1"] {
            std::net::TcpStream::connect((address, port)).unwrap();
        }
    }
}
