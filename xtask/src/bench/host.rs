//! Two hosts on a wire: the external target's and a peer's, in namespaces of their own.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http;
use crate::lab::child::{Child, Rights};
use crate::lab::interrupt::Interrupt;
use crate::lab::namespace::{Namespace, scratch_dir};

/// The target's address on the wire.
pub(super) const TARGET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The peer's.
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The port probes go to.
pub(super) const PORT: u16 = 1337;
/// The wire's device, on either side.
pub(super) const DEVICE: &str = "wire";
const TARGET_HTTP: u16 = 2113;
const CLIENT_HTTP: u16 = 2112;

/// The two hosts.
pub(super) struct Hosts {
    pub(super) target: Namespace,
    pub(super) peer: Namespace,
    /// Between the two, if they are apart: a forwarder has to join its devices `near` and `far`.
    pub(super) wire: Option<Namespace>,
    interrupt: Interrupt,
}

impl Hosts {
    /// Makes them, and the wire.
    pub(super) fn new(interrupt: &Interrupt) -> Result<Self> {
        let [target, peer] = namespaces(["bench-target", "bench-peer"])?;
        let link = format!("link add {DEVICE} type veth peer name {DEVICE} netns {}\n", peer.name());
        target.ip(&link)?;
        Self::set_up(target, peer, None, interrupt)
    }

    /// Makes them, with the wire cut in two: the ends are the devices `near` and `far` in a third namespace.
    pub(super) fn apart(interrupt: &Interrupt) -> Result<Self> {
        let [target, peer, wire] = namespaces(["bench-target", "bench-peer", "bench-wire"])?;
        for (namespace, end) in [(&peer, "near"), (&target, "far")] {
            let link = format!("link add {DEVICE} type veth peer name {end} netns {}\n", wire.name());
            namespace.ip(&link)?;
            wire.ip(&format!("link set {end} up\n"))?;
        }
        wire.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1")])?;
        Self::set_up(target, peer, Some(wire), interrupt)
    }

    fn set_up(
        target: Namespace,
        peer: Namespace,
        wire: Option<Namespace>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        for (namespace, address) in [(&target, TARGET), (&peer, PEER)] {
            let setup = format!("addr add {address}/24 dev {DEVICE}\nlink set lo up\nlink set {DEVICE} up\n");
            namespace.ip(&setup)?;
            namespace.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1")])?;
        }
        fs::create_dir_all(scratch_dir())?;
        Ok(Self { target, peer, wire, interrupt: interrupt.clone() })
    }

    /// Starts an external target, and waits until it listens.
    pub(super) fn start(&self, program: &Path, flags: &[&str]) -> Result<Child> {
        let mut args: Vec<String> = vec!["external-target".into(), format!("--listen-port={PORT}")];
        args.extend(flags.iter().map(ToString::to_string));
        let mut child = Child::start(
            "bench-target".into(),
            &self.target,
            program,
            &args,
            &scratch_dir(),
            None,
            Rights::All,
        )?;
        let deadline = Instant::now() + Duration::from_secs(5);
        // It listens before it observes, and says so only when both hold. A peer may serve no HTTP: that it listens is enough.
        let observes = flags.iter().any(|flag| flag.starts_with("--ebpf"));
        let listens = || self.target.run(|| Ok(TcpStream::connect((TARGET, PORT))?)).is_ok();
        while !(listens() && (!observes || self.get("/healthz").is_ok())) {
            if let Some(status) = child.ended()? {
                bail!("the external target ended with {status}{}", child.complaint());
            }
            if Instant::now() > deadline {
                bail!("the external target does not answer{}", child.complaint());
            }
            self.pause(Duration::from_millis(10))?;
        }
        Ok(child)
    }

    /// Starts a client at the peer's.
    pub(super) fn start_client(&self, program: &Path, args: &[String]) -> Result<Child> {
        Child::start("bench-client".into(), &self.peer, program, args, &scratch_dir(), None, Rights::All)
    }

    /// Ends what was started.
    pub(super) fn stop(&self, child: Child) -> Result<()> {
        child.terminate(&self.interrupt)
    }

    /// Waits, unless the bench is interrupted.
    pub(super) fn pause(&self, length: Duration) -> Result<()> {
        self.interrupt.sleep(length)
    }

    /// A page of the target.
    pub(super) fn get(&self, path: &str) -> Result<String> {
        self.target.run(|| http::get(TARGET_HTTP, path))
    }

    /// A page of the client.
    pub(super) fn client_page(&self, path: &str) -> Result<String> {
        self.peer.run(|| http::get(CLIENT_HTTP, path))
    }

    /// TCP sockets of a host that are neither closed nor only waiting for late segments.
    pub(super) fn sockets(host: &Namespace) -> Result<u64> {
        let text = host.run(|| Ok(fs::read_to_string("/proc/thread-self/net/sockstat")?))?;
        let line = text.lines().find_map(|line| line.strip_prefix("TCP: inuse "));
        let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        count.context("sockstat has no TCP sockets")
    }

    /// The kernel's part of `/sources`.
    pub(super) fn kernel_sources(&self) -> Result<Value> {
        let page: Value = serde_json::from_str(&self.get("/sources")?)?;
        Ok(page["kernel"].clone())
    }

    /// The sum of all series of a metric, by name.
    pub(super) fn metric(&self, series: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        let values = page
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Packets that the target's end of the wire has handed to the kernel's receive path, and those that it dropped for
    /// want of room in the queue before it (`net.core.netdev_max_backlog`), by the interface's own counters. A veth
    /// counts both as received.
    pub(super) fn received(&self) -> Result<[u64; 2]> {
        // The counters of /proc/net/dev are those of the reader's namespace, unlike those of /sys.
        let table = self.target.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{DEVICE}:")));
        let column = |number| line.and_then(|line| line.split_whitespace().nth(number)?.parse::<u64>().ok());
        let (packets, dropped) = column(1).zip(column(3)).context("the wire has no counters")?;
        Ok([packets - dropped, dropped])
    }
}

fn namespaces<const N: usize>(roles: [&str; N]) -> Result<[Namespace; N]> {
    let made = Namespace::create(&roles.map(Into::into))?;
    made.try_into().map_err(|_| anyhow::anyhow!("not all namespaces were made"))
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Best effort: what is left goes with the next start.
        let _ = fs::remove_dir_all(scratch_dir());
    }
}

/// Processor time that a process has used, user and system, in seconds; threads that have ended count.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    // To the nanosecond, unlike the ticks of /proc/PID/stat.
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Resident memory of a process, in KiB.
pub(super) fn resident_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.context("the process has no resident memory")
}
