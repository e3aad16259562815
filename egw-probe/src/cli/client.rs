//! The raw flags of `egw-probe client`, by what they are about.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{ArgAction, Args};
use egw_probe_common::tag::MAX_CLIENT;
use ipnet::{IpAddrRange, IpNet};

use crate::cli::addresses;
use crate::cli::log::LogArgs;
use crate::cli::rights::RightsArgs;
use crate::cli::target::parse_cidr;
use crate::config::choice::{Output, TagNumber, TickPhase, WatchLength};
use crate::document::go::{self, GoError};

/// Flags of `egw-probe client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// What is probed, and how often.
    #[command(flatten)]
    pub probing: ProbingArgs,

    /// How connections leave this host.
    #[command(flatten)]
    pub route: RouteArgs,

    /// Probing beyond the winner.
    #[command(flatten)]
    pub watching: WatchArgs,

    /// The stress test.
    #[command(flatten)]
    pub stressing: StressArgs,

    /// When and how the client exits.
    #[command(flatten)]
    pub gates: GateArgs,

    /// The tags in SYNs.
    #[command(flatten)]
    pub tagging: TagArgs,

    /// What is printed and served.
    #[command(flatten)]
    pub result: ResultArgs,

    /// What it may still do once it is set up.
    #[command(flatten)]
    pub rights: RightsArgs,

    /// Flags of every command.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A network, or a single address.
fn parse_network(text: &str) -> Result<IpNet, String> {
    text.trim()
        .parse::<IpAddr>()
        .map(|address| IpNet::from(address.to_canonical()))
        .or_else(|_| parse_cidr(text))
}

/// What is probed, and how often.
#[derive(Debug, Args)]
#[command(next_help_heading = "Probing")]
pub struct ProbingArgs {
    /// The external target: IP:port, [IPv6]:port or host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub external_target_addr: String,

    /// Time between two probes; probes overlap, so it can be far below the round-trip time
    #[arg(long, value_name = "DURATION", default_value = "50ms",
          value_parser = go::parse_duration)]
    pub interval: Duration,

    /// Where ticks begin, from the start: random draws it for each process, so that clients do not probe in step
    #[arg(long, value_name = "random|DURATION", default_value = "random", value_parser = parse_phase)]
    pub tick_phase: TickPhase,

    /// How long the client tries before the test counts as failed
    #[arg(long, value_name = "DURATION", default_value = "1m",
          value_parser = go::parse_duration)]
    pub test_timeout: Duration,

    /// How long one probe may take; under 1s one probe is one SYN
    #[arg(long, value_name = "DURATION", default_value = "900ms",
          value_parser = go::parse_duration)]
    pub probe_timeout: Duration,
}

/// How connections leave this host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct RouteArgs {
    /// Connect from this local address; one that is not there yet is waited for, up to the test timeout
    #[arg(long, value_name = "IP")]
    pub source_addr: Option<IpAddr>,

    /// Connect through this interface (SO_BINDTODEVICE); one that is not there yet is waited for, too
    #[arg(long, value_name = "INTERFACE")]
    pub bind_device: Option<String>,
}

/// Probing beyond the winner.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watch")]
pub struct WatchArgs {
    /// Go on after the winner and record disruptions, for DURATION or (true, 0) until SIGTERM; false does not
    #[arg(long, value_name = "DURATION", default_missing_value = "0", num_args = 0..=1,
          require_equals = true, value_parser = parse_watch)]
    pub watch: Option<WatchLength>,

    /// With --watch: hold this many connections open to a target with --keep-open, and record stalls and losses
    #[arg(long, value_name = "CONNECTIONS", default_value = "0",
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub hold: u32,
}

/// The stress test.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stress test")]
pub struct StressArgs {
    /// After the pong, open connections and keep them, until 3 dials have failed
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = go::parse_bool)]
    pub stress: bool,

    /// Pause between the pong and the stress test, so that metrics can be scraped
    #[arg(long, value_name = "DURATION", default_value = "0s",
          value_parser = go::parse_duration)]
    pub stress_delay: Duration,

    /// End the stress test after this long; 0 is unbounded
    #[arg(long, value_name = "DURATION", default_value = "0s",
          value_parser = go::parse_duration)]
    pub stress_duration: Duration,

    /// Handshakes of the stress test under way at a time
    #[arg(long, value_name = "DIALS", default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub stress_concurrency: u16,

    /// Open this many stress connections, and no more; with --stress-duration they are held to its end
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub stress_connections: Option<u32>,

    /// Failed dials that end the stress test
    #[arg(long, value_name = "DIALS", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub stress_max_failed: u32,

    /// Local addresses that stress connections leave from in turn, each with a port range of its own: IP, CIDR or
    /// IP-IP; repeatable or comma-separated [default: --source-addr]
    #[arg(long, value_name = "IP|CIDR|IP-IP", value_delimiter = ',', action = ArgAction::Append,
          value_parser = addresses::parse_range)]
    pub stress_source_addr: Vec<IpAddrRange>,

    /// Further targets that stress connections go to in turn, beside --external-target-addr; repeatable or
    /// comma-separated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', action = ArgAction::Append)]
    pub stress_target_addr: Vec<String>,

    /// Idle time after which a held stress connection is checked (TCP keepalive), and between the 15 checks that it may
    /// miss; 0 never checks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = go::parse_duration)]
    pub stress_keepalive: Duration,
}

/// When and how the client exits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Exit code")]
pub struct GateArgs {
    /// Exit when the test is over: 0 masqueraded, 1 timed out or a gate failed, 2 bad usage, 4 the result
    /// could not be written
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = go::parse_bool)]
    pub exit: bool,

    /// Gate for --exit: fail if the masquerade delay is longer
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_delay: Option<Duration>,

    /// Gate for --exit: fail if more leaked: probes before the winner, connections of --stress and --hold
    #[arg(long, value_name = "PROBES")]
    pub max_leaked: Option<u64>,

    /// Gate for --exit: fail if a pong came by an egress IP outside these, or if the target does not tell (its
    /// --reply annotated does); repeatable or comma-separated
    #[arg(long, value_name = "CIDR", value_delimiter = ',', action = ArgAction::Append,
          value_parser = parse_network)]
    pub expect_egress_ip: Vec<IpNet>,

    /// Gate for --exit with --watch: fail if a disruption may have lasted longer
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_disruption: Option<Duration>,

    /// Gate for --exit with --watch: fail if there were more disruptions
    #[arg(long, value_name = "COUNT")]
    pub max_disruptions: Option<u64>,
}

/// The tags in SYNs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tags")]
pub struct TagArgs {
    /// Number of this client, 1 to 4095, written into the sequence number of its SYNs for external-target --tags;
    /// auto makes it from the client's name, job-index is JOB_COMPLETION_INDEX plus 1. Needs CAP_NET_ADMIN
    #[arg(long, value_name = "NUMBER|auto|job-index", value_parser = parse_tag)]
    pub tag: Option<TagNumber>,

    /// Secret shared with the target, so that foreign SYNs are not taken for tagged ones
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub tag_key: u64,

    /// Fail if SYNs cannot be tagged, instead of going on with a warning
    #[arg(long, value_name = "BOOL", default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          value_parser = go::parse_bool)]
    pub tag_required: bool,
}

/// What is printed and served.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub struct ResultArgs {
    /// The result on stdout: text for people, json for one result document
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    pub output: Output,

    /// A label for the result, as node=worker-1, that reports group by; node-ip=ADDRESS names leaks from the client's node;
    /// repeatable
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append, value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// Name of this client in results [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub client_id: Option<String>,

    /// Where /metrics and /readyz are served [default: [::]:2112, IPv4 too]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,
}

fn parse_phase(text: &str) -> Result<TickPhase, String> {
    if text.eq_ignore_ascii_case("random") {
        return Ok(TickPhase::Random);
    }
    go::parse_duration(text).map(TickPhase::Fixed).map_err(|error| format!("{error}, or random"))
}

fn parse_watch(text: &str) -> Result<WatchLength, GoError> {
    // As a duration first: 0 has always been one without an end.
    match (go::parse_duration(text), go::parse_bool(text)) {
        (Ok(Duration::ZERO), _) | (_, Ok(true)) => Ok(WatchLength::Unbounded),
        (Ok(length), _) => Ok(WatchLength::For(length)),
        (Err(_), Ok(false)) => Ok(WatchLength::Off),
        (Err(error), Err(_)) => Err(error),
    }
}

fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not a label: write NAME=VALUE, as in node=worker-1"),
    }
}

fn parse_tag(text: &str) -> Result<TagNumber, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(TagNumber::Auto);
    }
    if text.eq_ignore_ascii_case("job-index") {
        // Kubernetes sets it in the Pods of an indexed Job; it counts from 0.
        let index = std::env::var("JOB_COMPLETION_INDEX").ok().and_then(|index| index.parse::<u16>().ok());
        return match index {
            Some(index) if index < MAX_CLIENT => Ok(TagNumber::Number(index + 1)),
            Some(index) => {
                Err(format!("JOB_COMPLETION_INDEX is {index}; tags go up to {MAX_CLIENT} clients"))
            }
            None => {
                Err("JOB_COMPLETION_INDEX is not set: the Pod's Job needs completionMode: Indexed".into())
            }
        };
    }
    match text.parse() {
        Ok(number @ 1..=MAX_CLIENT) => Ok(TagNumber::Number(number)),
        _ => Err(format!("not a client number: write 1 to {MAX_CLIENT}, auto, or job-index")),
    }
}
