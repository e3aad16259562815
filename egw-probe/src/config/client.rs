//! What the flags of `egw-probe client` come to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use egw_probe_common::tag::{MAX_CLIENT, TagKey};
use ipnet::IpNet;

use crate::cli::client::{ClientArgs, GateArgs, ProbingArgs, RouteArgs, StressArgs, WatchArgs};
use crate::config::choice::{MetricsAddr, Output, TagNumber, TickPhase, WatchLength};
use crate::config::error::ConfigError;
use crate::config::rights::next_user;
use crate::document::go::format_duration;
use crate::sys::user::NextUser;

/// The kernel retransmits a SYN for the first time after this long (`TCP_TIMEOUT_INIT`, include/net/tcp.h).
pub(crate) const FIRST_SYN_RETRANSMISSION: Duration = Duration::from_secs(1);

/// The longest that TCP_KEEPIDLE takes (`MAX_TCP_KEEPIDLE`, include/net/tcp.h).
const MOST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// Where the target is, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetAddr {
    /// An address that needs no resolving.
    Address(SocketAddr),
    /// A host name (or a scoped IPv6 address) and a port.
    Name {
        /// What the resolver is asked for.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl fmt::Display for TargetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Everything `egw-probe client` is to do.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where probes go.
    pub target: TargetAddr,
    /// Time between two ticks.
    pub interval: Duration,
    /// From the start to the tick grid.
    pub tick_phase: Duration,
    /// No tick at or after start plus this.
    pub test_timeout: Duration,
    /// How long one probe may take.
    pub probe_timeout: Duration,
    /// The stress test after the pong, if wanted.
    pub stress: Option<StressConfig>,
    /// Go on after the winner, if wanted.
    pub watch: Option<WatchConfig>,
    /// Exit when the test is over.
    pub exit: bool,
    /// What fails the test although it was masqueraded.
    pub gates: Gates,
    /// Form of the result on stdout.
    pub output: Output,
    /// How probes leave this host.
    pub route: Route,
    /// How SYNs are tagged, if they are to be.
    pub tag: Option<TagConfig>,
    /// Name of this client in results.
    pub client_id: String,
    /// What a report groups by.
    pub labels: BTreeMap<String, String>,
    /// Where HTTP is served.
    pub metrics_addr: MetricsAddr,
    /// Whom the process becomes once the first SYN has left.
    pub user: NextUser,
}

/// The tag of a client's SYNs.
#[derive(Debug, Clone, Copy)]
pub struct TagConfig {
    /// The client's number.
    pub client: u16,
    /// The secret it shares with the target.
    pub key: TagKey,
    /// Without tags, the client does not run.
    pub required: bool,
}

/// How connections leave this host.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// Local address to connect from.
    pub source_addr: Option<IpAddr>,
    /// Interface to connect through.
    pub bind_device: Option<String>,
}

/// Probing beyond the winner.
#[derive(Debug, Clone, Copy)]
pub struct WatchConfig {
    /// End this long after the winner's handshake; `None` goes on until a signal.
    pub duration: Option<Duration>,
    /// Connections held open meanwhile.
    pub hold: u32,
}

/// The stress test: the old program's, and what goes beyond it.
#[derive(Debug, Clone)]
pub struct StressConfig {
    /// Pause before the first dial.
    pub delay: Duration,
    /// End after this long; `None` is unbounded.
    pub duration: Option<Duration>,
    /// Dials under way at a time.
    pub concurrency: usize,
    /// Connections to open; `None` is as many as there can be.
    pub connections: Option<u64>,
    /// Failed dials that end the test.
    pub max_failed: u64,
    /// Local addresses to leave from in turn; if empty, the route's.
    pub sources: Vec<IpAddr>,
    /// Targets beside the client's own.
    pub targets: Vec<TargetAddr>,
    /// Idle time before and between keepalive checks; `None` makes none.
    pub keepalive: Option<Duration>,
}

/// Limits that `--exit` turns into the exit code.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Longest masquerade delay that passes.
    pub delay: Option<Duration>,
    /// Most leaked probes that pass.
    pub leaked: Option<u64>,
    /// Networks of egress IPs that pass; if empty, all do.
    pub egress_ips: Vec<IpNet>,
    /// Longest that a disruption can have lasted and pass.
    pub disruption: Option<Duration>,
    /// Most disruptions that pass.
    pub disruptions: Option<u64>,
}

impl TryFrom<ClientArgs> for ClientConfig {
    type Error = ConfigError;

    fn try_from(args: ClientArgs) -> Result<Self, ConfigError> {
        let ClientArgs { probing, route, watching, stressing, gates, tagging, result, rights, log: _ } = args;
        let target = parse_target("--external-target-addr", &probing.external_target_addr)?;
        let stress = stressing.stress.then(|| stress(&stressing, route.source_addr, &target)).transpose()?;
        check_probing(&probing)?;
        let watch = watch(&watching, stress.is_some())?;
        check_gates(&gates, watch.is_some())?;
        let client_id = result.client_id.unwrap_or_else(host_name);
        Ok(Self {
            route: checked_route(route, &target)?,
            target,
            interval: probing.interval,
            tick_phase: match probing.tick_phase {
                TickPhase::Fixed(phase) => phase,
                TickPhase::Random => probing.interval.mul_f64(fastrand::f64()),
            },
            test_timeout: probing.test_timeout,
            probe_timeout: probing.probe_timeout,
            stress,
            watch,
            exit: gates.exit,
            gates: Gates {
                delay: gates.max_delay,
                leaked: gates.max_leaked,
                egress_ips: gates.expect_egress_ip,
                disruption: gates.max_disruption,
                disruptions: gates.max_disruptions,
            },
            output: result.output,
            tag: tagging.tag.map(|tag| TagConfig {
                client: match tag {
                    TagNumber::Number(number) => number,
                    TagNumber::Auto => number_of(&client_id),
                },
                key: TagKey::derive(tagging.tag_key),
                required: tagging.tag_required,
            }),
            client_id,
            labels: result.label.into_iter().collect(),
            metrics_addr: MetricsAddr::new(result.metrics_addr, 2112),
            user: next_user(rights)?,
        })
    }
}

fn check_probing(args: &ProbingArgs) -> Result<(), ConfigError> {
    let interval = || format_duration(args.interval);
    if args.interval.is_zero() {
        return Err(ConfigError::new("--interval", interval(), "must be above 0, as in 50ms"));
    }
    if args.interval > args.test_timeout {
        return Err(ConfigError::new(
            "--interval",
            interval(),
            format!(
                "longer than --test-timeout {}: there would be one probe only; write a shorter one",
                format_duration(args.test_timeout)
            ),
        ));
    }
    if let TickPhase::Fixed(phase) = args.tick_phase
        && phase >= args.interval
    {
        return Err(ConfigError::new(
            "--tick-phase",
            format_duration(phase),
            format!("not shorter than --interval {}: write a shorter one, or random", interval()),
        ));
    }
    if args.probe_timeout.is_zero() {
        return Err(ConfigError::new("--probe-timeout", "0s", "must be above 0, as in 900ms"));
    }
    Ok(())
}

fn check_gates(args: &GateArgs, watches: bool) -> Result<(), ConfigError> {
    let number = |count: Option<u64>| count.map(|count| count.to_string());
    for (flag, value, needs_watch) in [
        ("--max-delay", args.max_delay.map(format_duration), false),
        ("--max-leaked", number(args.max_leaked), false),
        ("--expect-egress-ip", args.expect_egress_ip.first().map(IpNet::to_string), false),
        ("--max-disruption", args.max_disruption.map(format_duration), true),
        ("--max-disruptions", number(args.max_disruptions), true),
    ] {
        let Some(value) = value else { continue };
        if !args.exit {
            return Err(ConfigError::new(flag, value, "a gate sets the exit code: add --exit"));
        }
        if needs_watch && !watches {
            return Err(ConfigError::new(flag, value, "disruptions are seen by a watch: add --watch"));
        }
    }
    Ok(())
}

fn watch(args: &WatchArgs, stress: bool) -> Result<Option<WatchConfig>, ConfigError> {
    let duration = match args.watch {
        Some(WatchLength::For(duration)) => Some(duration),
        Some(WatchLength::Unbounded) => None,
        Some(WatchLength::Off) | None if args.hold > 0 => {
            return Err(ConfigError::new(
                "--hold",
                args.hold,
                "held connections are followed by a watch: add --watch",
            ));
        }
        Some(WatchLength::Off) | None => return Ok(None),
    };
    if stress {
        return Err(ConfigError::new("--watch", "set", "not together with --stress: run two clients"));
    }
    Ok(Some(WatchConfig { duration, hold: args.hold }))
}

fn checked_route(args: RouteArgs, target: &TargetAddr) -> Result<Route, ConfigError> {
    if let (TargetAddr::Address(address), Some(source)) = (target, args.source_addr)
        && address.is_ipv4() != source.is_ipv4()
    {
        return Err(ConfigError::new(
            "--source-addr",
            source,
            format!("not of the target's family: {address} needs an address of the same"),
        ));
    }
    // Whether there is one may change while the client waits for it. IFNAMSIZ is 16, with the end of the text.
    if let Some(device) = &args.bind_device
        && (device.is_empty() || device.len() > 15 || device.contains(['/', ' ']))
    {
        return Err(ConfigError::new(
            "--bind-device",
            device,
            "no name of an interface: `ip link` lists them",
        ));
    }
    Ok(Route { source_addr: args.source_addr, bind_device: args.bind_device })
}

/// The number that `--tag auto` makes of a client's name, 1 to 4095: FNV-1a (RFC 9923) of its bytes, which stays the
/// same from one version to the next. Of 100 names 2 to 3 share
/// their number with another on average, of 1,000 about 220; the target notices and says so.
fn number_of(client_id: &str) -> u16 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = client_id.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    (hash % u64::from(MAX_CLIENT)) as u16 + 1
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The stress test that the flags ask for.
fn stress(
    args: &StressArgs,
    source_addr: Option<IpAddr>,
    target: &TargetAddr,
) -> Result<StressConfig, ConfigError> {
    const SOURCES: &str = "--stress-source-addr";
    const TARGETS: &str = "--stress-target-addr";
    let some = |length: Duration| (!length.is_zero()).then_some(length);
    let sources: Vec<IpAddr> = args.stress_source_addr.iter().flat_map(Clone::clone).collect();
    let targets = args.stress_target_addr.iter().map(|text| parse_target(TARGETS, text));
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    if sources.len().max(1) * (targets.len() + 1) > usize::from(u16::MAX) {
        return Err(ConfigError::new(SOURCES, sources.len(), "times the targets is more than 65,535 pairs"));
    }
    if let (Some(source), false) = (source_addr, sources.is_empty()) {
        return Err(ConfigError::new(
            SOURCES,
            "set",
            format!("--source-addr {source} is set too: choose one"),
        ));
    }
    if let TargetAddr::Address(address) = target {
        let others = targets.iter().filter_map(|other| match other {
            TargetAddr::Address(other) => Some((TARGETS, other.ip())),
            TargetAddr::Name { .. } => None,
        });
        let mut all = sources.iter().map(|source| (SOURCES, *source)).chain(others);
        if let Some((flag, other)) = all.find(|(_, other)| other.is_ipv4() != address.is_ipv4()) {
            let remedy = format!("not of the target's family: {address} needs an address of the same");
            return Err(ConfigError::new(flag, other, remedy));
        }
    }
    if args.stress_keepalive.subsec_nanos() != 0 || args.stress_keepalive > MOST_KEEPALIVE {
        let remedy = "the kernel counts whole seconds, up to 32767s: write 0, 1s or more";
        return Err(ConfigError::new("--stress-keepalive", format_duration(args.stress_keepalive), remedy));
    }
    Ok(StressConfig {
        delay: args.stress_delay,
        duration: some(args.stress_duration),
        concurrency: usize::from(args.stress_concurrency),
        connections: args.stress_connections.map(u64::from),
        max_failed: u64::from(args.stress_max_failed),
        sources,
        targets,
        keepalive: some(args.stress_keepalive),
    })
}

fn parse_target(flag: &'static str, text: &str) -> Result<TargetAddr, ConfigError> {
    let refuse = |remedy: &str| Err(ConfigError::new(flag, text, remedy));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => refuse("port 0 cannot be connected to: write 1 to 65535"),
            _ => Ok(TargetAddr::Address(address)),
        };
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return refuse("an IPv6 address stands in brackets before its port: write [address]:port");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return refuse("the port is missing: write host:port, as in 192.0.2.1:1337");
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => return refuse("the port is no number from 1 to 65535"),
    };
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(plausible) {
        return refuse("no host name or address before the port: write IP:port, [IPv6]:port or host:port");
    }
    // "1.2.3" and "10.0.0.256" would go to the resolver, which reads the first as 1.2.0.3.
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return refuse("not an IPv4 address: write four numbers from 0 to 255");
    }
    Ok(TargetAddr::Name { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn configure(flags: &str) -> Result<ClientConfig, String> {
        let line = format!("egw-probe client {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Client(args) = cli.command else { panic!("a client was asked for") };
        ClientConfig::try_from(*args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_target_is_an_address_or_a_name() {
        for (text, expected) in [
            ("192.0.2.1:1337", TargetAddr::Address("192.0.2.1:1337".parse().unwrap())),
            ("[2001:db8::1]:80", TargetAddr::Address("[2001:db8::1]:80".parse().unwrap())),
            ("target.example:1337", TargetAddr::Name { host: "target.example".into(), port: 1337 }),
            ("[fe80::1%eth0]:80", TargetAddr::Name { host: "fe80::1%eth0".into(), port: 80 }),
        ] {
            assert_eq!(parse_target("--external-target-addr", text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        for (flags, expected) in [
            (
                "--external-target-addr=192.0.2.1",
                "--external-target-addr: \"192.0.2.1\": the port is missing: write host:port, as in 192.0.2.1:1337",
            ),
            (
                "--external-target-addr=2001:db8::1",
                "--external-target-addr: \"2001:db8::1\": an IPv6 address stands in brackets before its port: write [address]:port",
            ),
            (
                "--external-target-addr=192.0.2.256:1",
                "--external-target-addr: \"192.0.2.256:1\": not an IPv4 address: write four numbers from 0 to 255",
            ),
            (
                "--external-target-addr=a:99999",
                "--external-target-addr: \"a:99999\": the port is no number from 1 to 65535",
            ),
            ("--external-target-addr=a:1 --interval=0", "--interval: \"0s\": must be above 0, as in 50ms"),
            (
                "--external-target-addr=a:1 --interval=2m",
                "--interval: \"2m0s\": longer than --test-timeout 1m0s: there would be one probe only; write a shorter one",
            ),
            (
                "--external-target-addr=a:1 --max-leaked=3",
                "--max-leaked: \"3\": a gate sets the exit code: add --exit",
            ),
            (
                "--external-target-addr=a:1 --exit --max-disruptions=0",
                "--max-disruptions: \"0\": disruptions are seen by a watch: add --watch",
            ),
            (
                "--external-target-addr=192.0.2.1:1 --source-addr=::1",
                "--source-addr: \"::1\": not of the target's family: 192.0.2.1:1 needs an address of the same",
            ),
            (
                "--external-target-addr=192.0.2.1:1 --bind-device=longer-than-it-may",
                "--bind-device: \"longer-than-it-may\": no name of an interface: `ip link` lists them",
            ),
            (
                "--external-target-addr=192.0.2.1:1 --stress --stress-source-addr=192.0.2.8/31,::1",
                "--stress-source-addr: \"::1\": not of the target's family: 192.0.2.1:1 needs an address of the same",
            ),
            (
                "--external-target-addr=192.0.2.1:1 --stress --stress-target-addr=192.0.2.2",
                "--stress-target-addr: \"192.0.2.2\": the port is missing: write host:port, as in 192.0.2.1:1337",
            ),
            (
                "--external-target-addr=192.0.2.1:1 --stress --stress-keepalive=100ms",
                "--stress-keepalive: \"100ms\": the kernel counts whole seconds, up to 32767s: write 0, 1s or more",
            ),
        ] {
            assert_eq!(configure(flags).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_name_has_one_number_in_range() {
        for name in ["", "pod-0", "pod-1", "a-very-long-pod-name-7f9c6d5b4-x2x4z"] {
            assert!((1..=MAX_CLIENT).contains(&number_of(name)));
            assert_eq!(number_of(name), number_of(name));
        }
        // The published hash of "a" is 0xaf63dc4c8601ec8c.
        assert_eq!(u64::from(number_of("a")), 0xaf63_dc4c_8601_ec8c % 4095 + 1);
        assert_ne!(number_of("pod-0"), number_of("pod-1"));
    }
}
