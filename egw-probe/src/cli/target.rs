//! The raw flags of `egw-probe external-target`, by what they are about.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use egw_probe_common::tag::MAX_CLIENT;
use ipnet::{IpNet, Ipv4Net};

use crate::cli::log::LogArgs;
use crate::cli::rights::RightsArgs;
use crate::config::choice::{AttachMode, Ebpf, Reply};
use crate::document::go;

/// Flags of `egw-probe external-target`.
#[derive(Debug, Args)]
pub struct ExternalTargetArgs {
    /// Who is answered, and how.
    #[command(flatten)]
    pub answer: AnswerArgs,

    /// How SYNs are observed in the kernel.
    #[command(flatten)]
    pub observing: EbpfArgs,

    /// The tags in SYNs.
    #[command(flatten)]
    pub tagging: TagsArgs,

    /// Where /metrics, /healthz and /sources are served [default: [::]:2113, IPv4 too]
    #[arg(long, help_heading = "Result", value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,

    /// What it may still do once it is set up.
    #[command(flatten)]
    pub rights: RightsArgs,

    /// Flags of every command.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Who is answered, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answering")]
pub struct AnswerArgs {
    /// Sources that get a pong; repeatable or comma-separated, IPv4 and IPv6, up to a million of each
    #[arg(long, value_name = "CIDR", required_unless_present = "allowed_cidr_file", value_delimiter = ',',
          action = ArgAction::Append, value_parser = written_cidr)]
    pub allowed_cidr: Vec<IpNet>,

    /// More of them, from a file that is read once, at the start: one a line or comma-separated, # begins a comment;
    /// repeatable
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub allowed_cidr_file: Vec<PathBuf>,

    /// TCP port to listen on, on every address
    #[arg(long, value_name = "PORT", default_value = "1337",
          value_parser = parse_port)]
    pub listen_port: NonZeroU16,

    /// Keep allowed connections open until the client closes them
    #[arg(long, value_name = "BOOL", default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          value_parser = go::parse_bool)]
    pub keep_open: bool,

    /// The reply; annotated adds a line with the source seen, when, and what its SYN said, and answers denied sources too
    #[arg(long, value_name = "FORM", default_value = "pong", ignore_case = true)]
    pub reply: Reply,
}

/// How SYNs are observed in the kernel.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel")]
pub struct EbpfArgs {
    /// Observe SYNs in the kernel; auto goes on without where that is not to be had, required fails
    #[arg(long, value_name = "HOW", default_value = "off", default_missing_value = "auto",
          num_args = 0..=1, require_equals = true, ignore_case = true)]
    pub ebpf: Ebpf,

    /// Where in the kernel SYNs are observed; auto is TC, or generic XDP where there is none. Another mode than the one named takes
    /// its place with a warning, but not with --ebpf=required
    #[arg(long, value_name = "MODE", default_value = "auto", ignore_case = true)]
    pub ebpf_attach: AttachMode,

    /// Observe on this interface; repeatable [default: every one that is up and holds an address, lo included]
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append)]
    pub interface: Vec<String>,
}

/// The tags in SYNs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tags")]
pub struct TagsArgs {
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
}

fn parse_port(text: &str) -> Result<NonZeroU16, &'static str> {
    text.parse().map_err(|_| "not a port: write a number from 1 to 65535")
}

/// Reads `address/length`; host bits are masked, as in Go.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    written_cidr(text).map(network_of)
}

/// Reads `address/length`, and keeps the host bits. A bare address is a mistake, as in Go.
pub(crate) fn written_cidr(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Err(format!("the prefix length is missing: write {address}/{length}"));
    }
    let net = address_and_length(text);
    net.ok_or_else(|| "not a CIDR: write address/length, as in 203.0.113.0/24 or 2001:db8::/64".to_owned())
}

/// The network that a CIDR means: without its host bits.
pub(crate) fn network_of(written: IpNet) -> IpNet {
    match written.trunc() {
        // Sources in 4-in-6 mapped form are IPv4 addresses, so a CIDR of them is one of IPv4.
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new_assert(address, mapped.prefix_len() - 96).into(),
            None => mapped.into(),
        },
        net => net,
    }
}

/// By the standard library's reading of an address, which, as Go's and unlike ipnet's, refuses octets with leading zeros: some
/// programs take those for octal.
fn address_and_length(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok())??;
    IpNet::new(address.parse().ok()?, length).ok()
}
