//! The raw flags, as the user wrote them. What they mean together is decided in [`crate::config`].

mod addresses;
pub mod report;
mod usage;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use egw_probe_common::tag::MAX_CLIENT;
use ipnet::{IpAddrRange, IpNet, Ipv4Net};

use crate::go;

/// Measures how long an egress gateway takes to masquerade a Pod's connections, and how much leaks until then.
#[derive(Debug, Parser)]
#[command(name = "egw-probe", version, args_override_self = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Which of the two ends to run, or a report.
    #[command(subcommand)]
    pub command: Command,
}

/// The two ends of a measurement, and what came of many.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs in the Pod: opens connections to the target on exact ticks until one is answered with pong
    Client(Box<ClientArgs>),
    /// Runs outside the cluster: answers pong to sources inside the allowed CIDRs, and closes all others
    ExternalTarget(ExternalTargetArgs),
    /// Reads many results and gives one answer: percentiles, leaks, gates, a page with plots
    #[command(after_help = report::EXAMPLES)]
    Report(Box<report::ReportArgs>),
}

/// Flags of `egw-probe client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// The external target: IP:port, [IPv6]:port or host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub external_target_addr: String,

    /// Time between two probes; probes overlap, so it can be far below the round-trip time
    #[arg(long, value_name = "DURATION", default_value = "50ms",
          value_parser = go::parse_duration)]
    pub interval: Duration,

    /// How long the client tries before the test counts as failed
    #[arg(long, value_name = "DURATION", default_value = "1m",
          value_parser = go::parse_duration)]
    pub test_timeout: Duration,

    /// How long one probe may take; under 1s one probe is one SYN
    #[arg(long, value_name = "DURATION", default_value = "900ms",
          value_parser = go::parse_duration)]
    pub probe_timeout: Duration,

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

    /// Stress dials under way at a time
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

    /// Exit when the test is over: 0 masqueraded, 1 timed out or a gate failed, 2 bad usage
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = go::parse_bool)]
    pub exit: bool,

    /// Gate for --exit: fail if the masquerade delay is longer
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_delay: Option<Duration>,

    /// Gate for --exit: fail if more probes leaked before the winner
    #[arg(long, value_name = "PROBES")]
    pub max_leaked: Option<u64>,

    /// Go on after the winner and record disruptions, for DURATION or until SIGTERM
    #[arg(long, value_name = "DURATION", default_missing_value = "0", num_args = 0..=1,
          require_equals = true, value_parser = go::parse_duration)]
    pub watch: Option<Duration>,

    /// With --watch: hold this many connections open to a target with --keep-open, and record stalls and losses
    #[arg(long, value_name = "CONNECTIONS", default_value = "0",
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub hold: u32,

    /// Gate for --exit with --watch: fail if a disruption may have lasted longer
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_disruption: Option<Duration>,

    /// Gate for --exit with --watch: fail if there were more disruptions
    #[arg(long, value_name = "COUNT")]
    pub max_disruptions: Option<u64>,

    /// The result on stdout: text for people, json for one result document
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    pub output: Output,

    /// Connect from this local address
    #[arg(long, value_name = "IP")]
    pub source_addr: Option<IpAddr>,

    /// Connect through this interface (SO_BINDTODEVICE)
    #[arg(long, value_name = "INTERFACE")]
    pub bind_device: Option<String>,

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

    /// Name of this client in results [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub client_id: Option<String>,

    /// Where /metrics and /readyz are served [default: [::]:2112, IPv4 too]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,

    /// Flags of both ends.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What `--tag` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagNumber {
    /// This number.
    Number(u16),
    /// A number made from the client's name.
    Auto,
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

/// Flags of `egw-probe external-target`.
#[derive(Debug, Args)]
pub struct ExternalTargetArgs {
    /// Sources that get a pong; repeatable or comma-separated, IPv4 and IPv6
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',',
          action = ArgAction::Append, value_parser = parse_cidr)]
    pub allowed_cidr: Vec<IpNet>,

    /// TCP port to listen on, on every address
    #[arg(long, value_name = "PORT", default_value = "1337",
          value_parser = parse_port)]
    pub listen_port: NonZeroU16,

    /// Keep allowed connections open until the client closes them
    #[arg(long, value_name = "BOOL", default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          value_parser = go::parse_bool)]
    pub keep_open: bool,

    /// The reply to allowed sources; annotated adds a second line with the source seen and the time of the accept
    #[arg(long, value_name = "FORM", default_value = "pong", ignore_case = true)]
    pub reply: Reply,

    /// Observe SYNs in the kernel; auto goes on without where that is not to be had, required fails
    #[arg(long, value_name = "HOW", default_value = "off", default_missing_value = "auto",
          num_args = 0..=1, require_equals = true, ignore_case = true)]
    pub ebpf: Ebpf,

    /// Where in the kernel SYNs are observed; auto is TC, or generic XDP where there is none
    #[arg(long, value_name = "MODE", default_value = "auto", ignore_case = true)]
    pub ebpf_attach: EbpfAttach,

    /// Observe on this interface; repeatable [default: every one that is up and holds an address, lo included]
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append)]
    pub interface: Vec<String>,

    /// Read the tags in the SYNs of clients with --tag, and serve a timeline of each at /clients
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = go::parse_bool)]
    pub tags: bool,

    /// Secret shared with the clients
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub tag_key: u64,

    /// Highest client number there is; tells in log and metrics how many are missing. Implies --tags
    #[arg(long, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CLIENT)))]
    pub expect_clients: Option<u16>,

    /// Where /metrics, /healthz and /sources are served [default: [::]:2113, IPv4 too]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,

    /// Flags of both ends.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where log lines go to is fixed (stderr); how many and in which form is not.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Least severe log line that is written: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", ignore_case = true,
          value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
              .map(|level| level.parse::<tracing::Level>().expect("each possible value is a level")))]
    pub log_level: tracing::Level,

    /// Form of the log lines on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    pub log_format: LogFormat,
}

/// Form of the client's result on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A few lines for people.
    Text,
    /// One result document.
    Json,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
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

/// Where in the kernel SYNs are observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EbpfAttach {
    /// TCX, before Linux 6.6 clsact, and generic XDP where TC is not to be had.
    Auto,
    /// In the driver: stamps earliest, but can reset a NIC's queues.
    XdpNative,
    /// Before the network stack, without the driver's help.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

/// Form of the target's reply to an allowed source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reply {
    /// The five bytes `pong\n`.
    Pong,
    /// `pong\n` and a second line that says what the target saw.
    Annotated,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// The user asked for this text (`--help`, `--version`): stdout, exit code 0.
    Text(String),
    /// The user made a mistake: one line for stderr, exit code 2.
    Usage(String),
}

/// Reads the command line and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // The image links the old program's path to this one; nothing else about the first word matters.
    if args.is_empty() {
        args.push(PathBuf::from("egw-probe").into_os_string());
    }
    let matches = command().try_get_matches_from(args);
    matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Text(error.to_string()),
        _ => Stop::Usage(usage::one_line(&error)),
    })
}

/// The command line, in which every flag also comes from the environment: `--interval` from `EGW_PROBE_INTERVAL`.
pub fn command() -> clap::Command {
    let from_environment = |arg: clap::Arg| match arg.get_long() {
        Some(long) => {
            let name = format!("EGW_PROBE_{}", long.replace('-', "_").to_uppercase());
            arg.env(name).hide_env(true)
        }
        None => arg,
    };
    Cli::command().mut_subcommands(|subcommand| {
        let subcommand = subcommand.mut_args(from_environment);
        match subcommand.get_after_help() {
            Some(_) => subcommand,
            None => subcommand.after_help(
                "Every flag also comes from the environment: --log-level debug is EGW_PROBE_LOG_LEVEL=debug.",
            ),
        }
    })
}

fn parse_port(text: &str) -> Result<NonZeroU16, &'static str> {
    text.parse().map_err(|_| "not a port: write a number from 1 to 65535")
}

/// Reads `address/length`; host bits are masked, as in Go. A bare address is a mistake there too.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Err(format!("the prefix length is missing: write {address}/{length}"));
    }
    let net = address_and_length(text)
        .ok_or("not a CIDR: write address/length, as in 203.0.113.0/24 or 2001:db8::/64")?;
    Ok(match net.trunc() {
        // Sources in 4-in-6 mapped form are IPv4 addresses, so a CIDR of them is one of IPv4.
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new_assert(address, mapped.prefix_len() - 96).into(),
            None => mapped.into(),
        },
        net => net,
    })
}

/// By the standard library's reading of an address, which, as Go's and unlike ipnet's, refuses octets with leading zeros: some
/// programs take those for octal.
fn address_and_length(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok())??;
    IpNet::new(address.parse().ok()?, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Cli, Stop> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn client(line: &str) -> ClientArgs {
        match run(&format!("egw-probe client {line}")).unwrap().command {
            Command::Client(args) => *args,
            _ => panic!("a client was asked for"),
        }
    }

    fn target(line: &str) -> ExternalTargetArgs {
        match run(&format!("egw-probe external-target {line}")).unwrap().command {
            Command::ExternalTarget(args) => args,
            _ => panic!("a target was asked for"),
        }
    }

    #[test]
    fn the_arguments_of_todays_manifests_mean_what_they_meant() {
        let args = client(
            "--external-target-addr=192.0.2.1:1337 --test-timeout=295s --stress=false --stress-delay=15s",
        );
        assert_eq!(args.external_target_addr, "192.0.2.1:1337");
        assert_eq!(args.interval, Duration::from_millis(50));
        assert_eq!(args.test_timeout, Duration::from_secs(295));
        assert!(!args.stress);
        assert_eq!(args.stress_delay, Duration::from_secs(15));
        assert_eq!(args.stress_duration, Duration::ZERO);
        let args = target("--allowed-cidr=0.0.0.0/0 --listen-port=1338 --keep-open=true");
        assert_eq!(args.allowed_cidr, ["0.0.0.0/0".parse::<IpNet>().unwrap()]);
        assert_eq!(args.listen_port.get(), 1338);
        assert!(args.keep_open);
    }

    #[test]
    fn the_defaults_are_those_of_the_old_program() {
        let args = client("--external-target-addr 192.0.2.1:1337");
        assert_eq!(args.test_timeout, Duration::from_mins(1));
        assert_eq!(args.probe_timeout, Duration::from_millis(900));
        assert!(!args.stress && !args.exit);
        let args = target("--allowed-cidr 192.0.2.0/24");
        assert_eq!(args.listen_port.get(), 1337);
        assert!(!args.keep_open);
    }

    #[test]
    fn booleans_take_every_form_of_go() {
        for (form, expected) in [
            ("--stress", true),
            ("--stress=1", true),
            ("--stress=T", true),
            ("--stress=TRUE", true),
            ("--stress=0", false),
            ("--stress=f", false),
            ("--stress=False", false),
            ("--stress --stress=false", false),
        ] {
            assert_eq!(client(&format!("--external-target-addr=a:1 {form}")).stress, expected, "{form}");
        }
    }

    #[test]
    fn of_a_repeated_flag_the_last_counts_and_cidrs_add_up() {
        let args = client("--external-target-addr=a:1 --interval=5ms --interval=7ms");
        assert_eq!(args.interval, Duration::from_millis(7));
        let args =
            target("--allowed-cidr 192.0.2.77/24,2001:db8::5/64 --allowed-cidr ::ffff:198.51.100.1/128");
        let written: Vec<String> = args.allowed_cidr.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["192.0.2.0/24", "2001:db8::/64", "198.51.100.1/32"]);
    }

    #[test]
    fn an_octet_that_may_be_octal_and_a_length_with_a_sign_are_refused_as_in_go() {
        for text in ["010.0.0.0/8", "10.00.0.0/8", "::ffff:0:10.00.0.0/90", "10.0.0.0/+8", "10.0.0.0/"] {
            assert!(parse_cidr(text).is_err(), "{text}");
        }
    }
}
