//! What flags choose from: plain values that every room may know.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;

/// Form of the client's result on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A few lines for people.
    Text,
    /// One result document.
    Json,
}

/// Whether SYNs are observed in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ebpf {
    /// No.
    Off,
    /// If rights and kernel allow it.
    Auto,
    /// Yes, or the target does not run.
    Required,
}

/// Where in the kernel SYNs are observed: what is tried first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AttachMode {
    /// TC: TCX, before Linux 6.6 clsact; where TC is not to be had, generic XDP.
    #[default]
    Auto,
    /// XDP in the driver. Stamps earliest, but can reinitialise a NIC's queues, and switches off GRO on a veth's peer.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

impl AttachMode {
    /// As the user gives it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Which interfaces are to be observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every one that is up and holds an address, `lo` included.
    All,
    /// These, by name (`--interface`).
    Named(Vec<String>),
}

/// Form of the target's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reply {
    /// The five bytes `pong\n` to an allowed source, nothing to any other.
    Pong,
    /// `pong\n` or `denied\n`, and a second line that says what the target saw.
    Annotated,
}

/// What `--tag` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagNumber {
    /// This number.
    Number(u16),
    /// A number made from the client's name.
    Auto,
}

/// What `--watch` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchLength {
    /// Not to watch, as without the flag.
    Off,
    /// Until a signal.
    Unbounded,
    /// So long.
    For(Duration),
}

/// Where the tick grid begins, from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickPhase {
    /// Anywhere within an interval, drawn anew by each process.
    Random,
    /// Here.
    Fixed(Duration),
}

/// Where HTTP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddr {
    /// The address; an unspecified IPv6 one serves IPv4 too.
    pub address: SocketAddr,
    /// The user named it, so it must work.
    pub explicit: bool,
}

impl MetricsAddr {
    /// The address that the user named, or this port of every address.
    pub fn new(named: Option<SocketAddr>, default_port: u16) -> Self {
        let default = SocketAddr::from((Ipv6Addr::UNSPECIFIED, default_port));
        Self { address: named.unwrap_or(default), explicit: named.is_some() }
    }
}
