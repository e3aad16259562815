//! The addresses and the interface that connections leave by. In a fresh Pod they may come later than we do.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, poll};

use crate::client::probe::Destination;
use crate::config::client::Route;
use crate::config::error::ConfigError;
use crate::sys::clock::Monotonic;
use crate::sys::poller::timespec;
use crate::sys::signals::Signals;

/// How often a socket is tried: a probe that could leave waits no longer.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// How connections are to leave for the target.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    /// Where they go.
    pub target: SocketAddr,
    /// What they leave by.
    pub route: &'a Route,
    /// The flag that names the source address.
    pub source_flag: &'static str,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Connections can leave.
    There,
    /// A signal came first.
    Interrupted,
    /// The deadline passed; the log says why.
    NotInTime,
}

/// Opens and closes a socket by the user's route, until that works or `deadline` has passed; calls `on_wait` before the first
/// wait. A route that waiting does not mend is an error at once.
pub(crate) fn wait_for(
    way: &Way<'_>,
    deadline: Monotonic,
    signals: &Signals,
    on_wait: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Awaited> {
    let (begun, mut on_wait) = (Monotonic::now(), Some(on_wait));
    let destination = Destination::new(way.target, way.route);
    let mut told = None;
    loop {
        let Err(error) = destination.socket() else { break };
        let missing = missing(&error, way).ok_or_else(|| refuse(&error, way))?;
        let left = deadline.since(Monotonic::now());
        if left.is_zero() {
            tracing::error!("the test timeout has passed: {missing}");
            return Ok(Awaited::NotInTime);
        }
        if let Some(on_wait) = on_wait.take() {
            on_wait()?;
        }
        if told.as_ref() != Some(&missing) {
            tracing::warn!("{missing}; waiting for it, up to the test timeout");
            told = Some(missing);
        }
        let mut fds = [PollFd::new(signals, PollFlags::IN)];
        // Woken early is no harm: the loop looks again.
        let _ = poll(&mut fds, Some(&timespec(left.min(RETRY_AFTER))));
        if signals.take() {
            return Ok(Awaited::Interrupted);
        }
    }
    if let Some(missing) = told {
        let after = Monotonic::now().since(begun);
        tracing::info!(?after, "{}: \"{}\": there", missing.flag, missing.name);
    }
    Ok(Awaited::There)
}

/// What is not there yet.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    flag: &'static str,
    name: String,
    why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: \"{}\": {}", self.flag, self.name, self.why)
    }
}

/// What a socket lacks that may still come.
fn missing(error: &io::Error, way: &Way<'_>) -> Option<Missing> {
    match (error.raw_os_error()?, way.route) {
        (libc::ENODEV, Route { bind_device: Some(device), .. }) => Some(Missing {
            flag: "--bind-device",
            name: device.clone(),
            why: "no such interface: `ip link` lists them".to_owned(),
        }),
        (libc::EADDRNOTAVAIL, Route { source_addr: Some(address), .. }) => Some(Missing {
            flag: way.source_flag,
            name: address.to_string(),
            why: unusable(
                *address,
                &std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default(),
            ),
        }),
        _ => None,
    }
}

/// Why an address cannot be connected from, by the kernel's list of IPv6 addresses: address, number, prefix length and scope
/// of each, flags (uapi/linux/if_addr.h), interface.
fn unusable(address: IpAddr, if_inet6: &str) -> String {
    const DAD_FAILED: u8 = 0x08;
    const TENTATIVE: u8 = 0x40;
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [listed, _, _, _, flags, interface] = words[..] else { return None };
        let listed = u128::from_str_radix(listed, 16).ok().map(Ipv6Addr::from_bits)?;
        Some((listed, u8::from_str_radix(flags, 16).ok()?, interface.to_owned()))
    };
    let found = if_inet6.lines().filter_map(entry).find(|(listed, ..)| IpAddr::V6(*listed) == address);
    match found {
        Some((_, flags, interface)) if flags & DAD_FAILED != 0 => {
            format!("another host has it too: duplicate address detection on {interface} has failed")
        }
        Some((_, flags, interface)) if flags & TENTATIVE != 0 => {
            format!("tentative: duplicate address detection on {interface} is under way")
        }
        _ => "not an address of this host: `ip address` lists them".to_owned(),
    }
}

/// What is wrong with a route that will not mend.
fn refuse(error: &io::Error, way: &Way<'_>) -> ConfigError {
    match &way.route.bind_device {
        Some(device) => ConfigError::new(
            "--bind-device",
            device,
            format!("cannot be bound to: {error}; CAP_NET_RAW may be missing"),
        ),
        None => ConfigError::new("--external-target-addr", way.target, format!("no socket for it: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_listed_is_unusable_for_what_its_flags_say() {
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    20010db8000000000000000000000007 1e 40 00 c0     eth0\n\
                    20010db8000000000000000000000008 1e 40 00 c8     eth0\n";
        for (address, expected) in [
            ("2001:db8::7", "tentative: duplicate address detection on eth0 is under way"),
            ("2001:db8::8", "another host has it too: duplicate address detection on eth0 has failed"),
            ("2001:db8::9", "not an address of this host: `ip address` lists them"),
            ("192.0.2.7", "not an address of this host: `ip address` lists them"),
        ] {
            assert_eq!(unusable(address.parse().unwrap(), list), expected);
        }
    }
}
