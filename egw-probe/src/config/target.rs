//! What the flags of `egw-probe external-target` come to.

use std::num::NonZeroU16;

use egw_probe_common::tag::TagKey;
use ipnet::IpNet;

use crate::cli::target::{EbpfArgs, ExternalTargetArgs, network_of};
use crate::config::allowed;
use crate::config::choice::{AttachMode, Ebpf, MetricsAddr, Reply, Selection};
use crate::config::error::ConfigError;
use crate::config::rights::next_user;
use crate::sys::user::NextUser;

/// Everything `egw-probe external-target` is to do.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Sources that get a pong.
    pub allowed: Vec<IpNet>,
    /// CIDRs that were written with host bits, each with the network that it means.
    pub with_host_bits: Vec<(IpNet, IpNet)>,
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
    /// Whom the process becomes once it is set up.
    pub user: NextUser,
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
        let ExternalTargetArgs { answer, observing, tagging, metrics_addr, rights, log: _ } = args;
        let reads_tags = tagging.tags || tagging.expect_clients.is_some();
        let written = allowed::written(answer.allowed_cidr, &answer.allowed_cidr_file)?;
        let has_host_bits = written.iter().filter(|written| **written != written.trunc());
        Ok(Self {
            with_host_bits: has_host_bits.map(|written| (*written, network_of(*written))).collect(),
            allowed: written.into_iter().map(network_of).collect(),
            listen_port: answer.listen_port,
            keep_open: answer.keep_open,
            reply: answer.reply,
            ebpf: ebpf(observing)?,
            tags: reads_tags.then(|| TagsConfig {
                key: TagKey::derive(tagging.tag_key),
                expected: tagging.expect_clients,
            }),
            metrics_addr: MetricsAddr::new(metrics_addr, 2113),
            user: next_user(rights)?,
        })
    }
}

fn ebpf(args: EbpfArgs) -> Result<Option<EbpfConfig>, ConfigError> {
    if args.ebpf == Ebpf::Off {
        for (flag, is_set) in [
            ("--interface", !args.interface.is_empty()),
            ("--ebpf-attach", args.ebpf_attach != AttachMode::Auto),
        ] {
            if is_set {
                return Err(ConfigError::new(flag, "set", "says how the kernel observes: add --ebpf"));
            }
        }
        return Ok(None);
    }
    let interfaces =
        if args.interface.is_empty() { Selection::All } else { Selection::Named(args.interface) };
    Ok(Some(EbpfConfig { required: args.ebpf == Ebpf::Required, attach: args.ebpf_attach, interfaces }))
}
