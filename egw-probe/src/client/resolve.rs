//! From the target's name to one address, before the test starts.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::config::client::TargetAddr;
use crate::config::error::ConfigError;
use crate::sys::clock::Monotonic;
use crate::sys::poller::timespec;
use crate::sys::signals::Signals;
use crate::sys::{net, thread};

/// In a fresh Pod the resolver may come up later than we do.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What came of resolving.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// The address to probe.
    Address(SocketAddr),
    /// A signal came first.
    Interrupted,
    /// The deadline passed; this is why.
    NotInTime(String),
}

/// Resolves `target`; of several addresses takes the resolver's first that has the family of `source`, if one is given.
/// Asks again until `deadline`.
///
/// `flag` is where the user named it.
pub(crate) fn resolve(
    flag: &'static str,
    target: &TargetAddr,
    source: Option<IpAddr>,
    deadline: Monotonic,
    signals: &Signals,
) -> Result<Resolved, ConfigError> {
    let (host, port) = match target {
        TargetAddr::Address(address) => return Ok(Resolved::Address(*address)),
        TargetAddr::Name { host, port } => (host.clone(), *port),
    };
    let answers = ask(host, port)
        .map_err(|error| refuse(flag, target, &format!("no thread to resolve it: {error}")))?;
    let mut last_error = "the resolver does not answer".to_owned();
    loop {
        let left = deadline.since(Monotonic::now());
        if left.is_zero() {
            let reason = format!("cannot be resolved: {last_error}; check the name and the DNS");
            return Ok(Resolved::NotInTime(refuse(flag, target, &reason).to_string()));
        }
        let mut fds = [PollFd::new(&answers.ready, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        // Whatever woke us, both sources are looked at.
        let _ = poll(&mut fds, Some(&timespec(left)));
        if signals.take() {
            return Ok(Resolved::Interrupted);
        }
        match answers.received.try_recv() {
            Ok(Ok(found)) => return choose(flag, target, &found, source).map(Resolved::Address),
            Ok(Err(error)) => {
                if last_error != error {
                    tracing::warn!("{flag}: {target} cannot be resolved yet: {error}");
                }
                last_error = error;
                drain(&answers.ready);
            }
            Err(_) => {}
        }
    }
}

struct Answers {
    received: mpsc::Receiver<Result<Vec<SocketAddr>, String>>,
    ready: UnixStream,
}

/// Asks the resolver again and again, on a thread of its own: it blocks, and knows no deadline.
fn ask(host: String, port: u16) -> io::Result<Answers> {
    let (send, received) = mpsc::channel();
    let (ready, mut wake) = UnixStream::pair()?;
    ready.set_nonblocking(true)?;
    thread::spawn("resolver", move || {
        loop {
            let answer = look_up(&host, port).map_err(|error| error.to_string());
            let done = answer.is_ok();
            // Nobody listens any more once the deadline has passed.
            if send.send(answer).is_err() || wake.write_all(&[0]).is_err() || done {
                return;
            }
            std::thread::sleep(RETRY_AFTER);
        }
    })?;
    Ok(Answers { received, ready })
}

/// By the resolver, or, where it is an address with the name of an interface (RFC 4007), by that: C libraries open AF_UNIX sockets
/// for its number.
fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let Some((Ok(address), interface)) = host.split_once('%').map(|(address, name)| (address.parse(), name))
    else {
        return (host, port).to_socket_addrs().map(Iterator::collect);
    };
    let number = interface.parse().or_else(|_| net::interface_index(interface))?;
    Ok(vec![SocketAddrV6::new(address, port, 0, number).into()])
}

fn drain(mut ready: &UnixStream) {
    let _ = io::Read::read(&mut ready, &mut [0; 16]);
}

fn choose(
    flag: &'static str,
    target: &TargetAddr,
    found: &[SocketAddr],
    source: Option<IpAddr>,
) -> Result<SocketAddr, ConfigError> {
    let fits = |address: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let Some(chosen) = found.iter().find(fits) else {
        let reason = match source {
            Some(other) => format!("has no address of the family of {other}"),
            None => "has no address".to_owned(),
        };
        return Err(refuse(flag, target, &reason));
    };
    let others = found.iter().filter(|address| *address != chosen).map(ToString::to_string);
    let others: Vec<String> = others.collect();
    if others.is_empty() {
        tracing::info!("{target} is {chosen}");
    } else {
        tracing::info!("{target} has several addresses: probing {chosen}, not {}", others.join(", "));
    }
    Ok(*chosen)
}

fn refuse(flag: &'static str, target: &TargetAddr, reason: &str) -> ConfigError {
    ConfigError::new(flag, target, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--external-target-addr";

    fn dual_stack() -> (TargetAddr, Vec<SocketAddr>) {
        let name = TargetAddr::Name { host: "target.example".into(), port: 7 };
        (name, vec!["[2001:db8::1]:7".parse().unwrap(), "192.0.2.1:7".parse().unwrap()])
    }

    #[test]
    fn of_several_addresses_the_resolvers_first_is_taken() {
        let (name, found) = dual_stack();
        assert_eq!(choose(FLAG, &name, &found, None).unwrap(), found[0]);
    }

    #[test]
    fn a_source_address_chooses_the_family() {
        let (name, found) = dual_stack();
        assert_eq!(choose(FLAG, &name, &found, "192.0.2.9".parse().ok()).unwrap(), found[1]);
        let error = choose(FLAG, &name, &found[..1], "192.0.2.9".parse().ok()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--external-target-addr: \"target.example:7\": has no address of the family of 192.0.2.9"
        );
    }

    #[test]
    fn the_interface_of_a_scoped_address_becomes_its_number() {
        for host in ["fe80::1%lo", "fe80::1%1"] {
            assert_eq!(look_up(host, 7).unwrap(), ["[fe80::1%1]:7".parse().unwrap()]);
        }
        assert_eq!(look_up("fe80::1%none", 7).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn localhost_resolves_without_a_network() {
        let signals = Signals::install().unwrap();
        let name = TargetAddr::Name { host: "localhost".into(), port: 7 };
        let deadline = Monotonic::now() + Duration::from_secs(5);
        match resolve(FLAG, &name, None, deadline, &signals).unwrap() {
            Resolved::Address(address) => assert!(address.ip().is_loopback() && address.port() == 7),
            other => panic!("{other:?}"),
        }
    }
}
