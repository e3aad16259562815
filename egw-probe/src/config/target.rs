//! What the flags of `egw-probe external-target` come to.

use std::num::NonZeroU16;

use egw_probe_common::tag::TagKey;
use ipnet::IpNet;

use super::{ConfigError, MetricsAddr};
use crate::cli::{Ebpf, EbpfAttach, ExternalTargetArgs, Reply};
use crate::target::kernel::AttachMode;
use crate::target::kernel::view::Selection;

/// Everything `egw-probe external-target` is to do.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Sources that get a pong.
    pub allowed: Vec<IpNet>,
    /// TCP port to listen on.
    pub listen_port: NonZeroU16,
    /// Keep allowed connections open.
    pub keep_open: bool,
    /// What an allowed source is told.
    pub reply: Reply,
    /// How SYNs are observed in the kernel, if they are to be.
    pub ebpf: Option<EbpfConfig>,
    /// Which clients' tags are read, if they are to be.
    pub tags: Option<TagsConfig>,
    /// Where HTTP is served.
    pub metrics_addr: MetricsAddr,
}

/// Which clients' tags are read.
#[derive(Debug, Clone, Copy)]
pub struct TagsConfig {
    /// The secret they share with the target.
    pub key: TagKey,
    /// Highest client number, if the user knows it.
    pub expected: Option<u16>,
}

/// How SYNs are observed in the kernel.
#[derive(Debug, Clone)]
pub struct EbpfConfig {
    /// Without it, the target does not run.
    pub required: bool,
    /// Where in the kernel.
    pub attach: AttachMode,
    /// On which interfaces.
    pub interfaces: Selection,
}

impl TryFrom<ExternalTargetArgs> for TargetConfig {
    type Error = ConfigError;

    fn try_from(args: ExternalTargetArgs) -> Result<Self, ConfigError> {
        let attach = match args.ebpf_attach {
            EbpfAttach::Auto => AttachMode::Auto,
            EbpfAttach::XdpNative => AttachMode::XdpNative,
            EbpfAttach::XdpGeneric => AttachMode::XdpGeneric,
            EbpfAttach::Tc => AttachMode::Tc,
        };
        if args.ebpf == Ebpf::Off {
            for (flag, is_set) in [
                ("--interface", !args.interface.is_empty()),
                ("--ebpf-attach", args.ebpf_attach != EbpfAttach::Auto),
            ] {
                if is_set {
                    return Err(ConfigError::new(flag, "set", "says how the kernel observes: add --ebpf"));
                }
            }
        }
        let interfaces =
            if args.interface.is_empty() { Selection::All } else { Selection::Named(args.interface) };
        let ebpf = EbpfConfig { required: args.ebpf == Ebpf::Required, attach, interfaces };
        Ok(Self {
            allowed: args.allowed_cidr,
            listen_port: args.listen_port,
            keep_open: args.keep_open,
            reply: args.reply,
            tags: (args.tags || args.expect_clients.is_some())
                .then(|| TagsConfig { key: TagKey::derive(args.tag_key), expected: args.expect_clients }),
            ebpf: (args.ebpf != Ebpf::Off).then_some(ebpf),
            metrics_addr: MetricsAddr::new(args.metrics_addr, 2113),
        })
    }
}
