//! The embedded kernel object: its names, and how it is loaded.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use egw_probe_common::tag::{SLOTS, TagKey};
use ipnet::IpNet;

use crate::observer::error::{KernelError, ebpf_errno, errno, map_errno};
use crate::observer::privilege;

/// The object that `cargo xtask ebpf` built from `egw-probe-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/egw-probe.bpf.o");

/// Own addresses that the program can know: those of a host with as many services in IPVS mode.
pub const MAX_OWN: u32 = 65_536;

/// What is patched into the program before the kernel verifies it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The port the target listens on.
    pub listen_port: NonZeroU16,
    /// CIDRs whose addresses are allowed.
    pub allowed: Vec<IpNet>,
    /// Whether and how SYN tags are read.
    pub tags: Option<TagSettings>,
    /// Whether the program's own log statements stay in it. Costs every SYN a third of a microsecond.
    pub trace: bool,
    /// Size of the event ring in bytes; the loader rounds it up to a power of two of pages.
    pub ring_bytes: u32,
    /// Source addresses remembered at once.
    pub max_sources: u32,
    /// Own addresses that the program can know.
    pub max_own: u32,
}

/// How SYN tags are read (design section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagSettings {
    /// Highest client number that is believed.
    pub clients: u16,
    /// The check byte's key.
    pub key: TagKey,
}

impl Settings {
    /// Settings with the default sizes, without tags or trace.
    pub fn new(listen_port: NonZeroU16, allowed: Vec<IpNet>) -> Self {
        // 4 MiB hold 87,000 events: 0.4 s at 200,000 SYN/s.
        Self {
            listen_port,
            allowed,
            tags: None,
            trace: false,
            ring_bytes: 1 << 22,
            max_sources: 65_536,
            max_own: MAX_OWN,
        }
    }
}

/// The entry points that stand in the kernel after [`load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programs {
    /// XDP on Ethernet devices.
    pub xdp: &'static str,
    /// XDP on layer-3 devices.
    pub xdp_l3: &'static str,
    /// TC on Ethernet devices.
    pub tc: &'static str,
    /// TC on layer-3 devices.
    pub tc_l3: &'static str,
}

/// Loads the object: creates the maps, fills the CIDRs in, has the programs verified. Attaches nothing.
pub fn load(settings: &Settings) -> Result<(Ebpf, Programs), KernelError> {
    load_object(OBJECT, settings)
}

fn load_object(object: &[u8], settings: &Settings) -> Result<(Ebpf, Programs), KernelError> {
    privilege::lift_memory_limit();
    let seed = seed()?;
    let listen_port = settings.listen_port.get();
    let tag_clients = settings.tags.map_or(0, |t| t.clients);
    let tag_key = settings.tags.map_or(0, |t| t.key.byte());
    let log_level = if settings.trace { aya_log::Level::Trace as u8 } else { 0 };
    let mut ebpf = EbpfLoader::new()
        // The object carries no BTF and relocates against none, so reading the kernel's would be wasted.
        .btf(None)
        .override_global("LISTEN_PORT", &listen_port, true)
        .override_global("SEEN_SEED", &seed, true)
        .override_global("TAG_CLIENTS", &tag_clients, true)
        .override_global("TAG_KEY", &tag_key, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries("EVENTS", settings.ring_bytes)
        .map_max_entries("SOURCES", settings.max_sources)
        .map_max_entries("OWN", settings.max_own)
        .map_max_entries("ALLOWED_V4", room(&settings.allowed, IpAddr::is_ipv4))
        .map_max_entries("ALLOWED_V6", room(&settings.allowed, IpAddr::is_ipv6))
        .map_max_entries("WAITING", (u32::from(tag_clients) + 1) * SLOTS)
        .load(object)
        .map_err(|error| load_error(&error))?;
    fill_allowed(&mut ebpf, &settings.allowed)?;
    let programs = Programs {
        xdp: load_xdp(&mut ebpf, "egw_xdp_frags", "egw_xdp")?,
        xdp_l3: load_xdp(&mut ebpf, "egw_xdp_l3_frags", "egw_xdp_l3")?,
        tc: load_tc(&mut ebpf, "egw_tc")?,
        tc_l3: load_tc(&mut ebpf, "egw_tc_l3")?,
    };
    Ok((ebpf, programs))
}

/// Loads the variant for multi-buffer frames, or the plain one where the kernel does not know the flag (before 5.18).
fn load_xdp(ebpf: &mut Ebpf, frags: &'static str, plain: &'static str) -> Result<&'static str, KernelError> {
    match xdp(ebpf, frags)?.load() {
        Ok(()) => return Ok(frags),
        Err(e) if errno(&e) == Some(libc::EINVAL) => {}
        Err(e) => return Err(program_error(frags, e)),
    }
    xdp(ebpf, plain)?.load().map_err(|e| program_error(plain, e))?;
    Ok(plain)
}

fn load_tc(ebpf: &mut Ebpf, name: &'static str) -> Result<&'static str, KernelError> {
    tc(ebpf, name)?.load().map_err(|e| program_error(name, e))?;
    Ok(name)
}

/// The XDP program of this name.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, KernelError> {
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or_else(|| missing("XDP program", name))
}

/// The TC program of this name.
pub fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, KernelError> {
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or_else(|| missing("TC program", name))
}

/// Takes a map out of the loaded object.
pub fn take_map<M: TryFrom<aya::maps::Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError> {
    ebpf.take_map(name).and_then(|m| m.try_into().ok()).ok_or_else(|| missing("map", name))
}

fn missing(kind: &str, name: &str) -> KernelError {
    KernelError::Object { what: format!("it has no {kind} {name}") }
}

/// Entries that the trie of a family needs; the kernel makes none without any.
fn room(allowed: &[IpNet], family: fn(&IpAddr) -> bool) -> u32 {
    let count = allowed.iter().filter(|net| family(&net.addr())).count();
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

fn fill_allowed(ebpf: &mut Ebpf, allowed: &[IpNet]) -> Result<(), KernelError> {
    let mut trie: LpmTrie<&mut MapData, [u8; 4], u32> = ebpf
        .map_mut("ALLOWED_V4")
        .and_then(|m| m.try_into().ok())
        .ok_or_else(|| missing("map", "ALLOWED_V4"))?;
    for net in allowed {
        if let IpAddr::V4(address) = net.network() {
            let key = Key::new(u32::from(net.prefix_len()), address.octets());
            trie.insert(&key, 1, 0).map_err(|source| KernelError::Map { map: "ALLOWED_V4", source })?;
        }
    }
    let mut trie: LpmTrie<&mut MapData, [u8; 16], u32> = ebpf
        .map_mut("ALLOWED_V6")
        .and_then(|m| m.try_into().ok())
        .ok_or_else(|| missing("map", "ALLOWED_V6"))?;
    for net in allowed {
        if let IpAddr::V6(address) = net.network() {
            let key = Key::new(u32::from(net.prefix_len()), address.octets());
            trie.insert(&key, 1, 0).map_err(|source| KernelError::Map { map: "ALLOWED_V6", source })?;
        }
    }
    Ok(())
}

fn load_error(error: &aya::EbpfError) -> KernelError {
    let source = |n| io::Error::from_raw_os_error(n);
    match ebpf_errno(error) {
        Some(n @ (libc::EPERM | libc::EACCES)) => privilege::refused("creating BPF maps", source(n)),
        Some(n @ libc::ENOSYS) => {
            KernelError::Unsupported { feature: "bpf(2)", since: "3.18", source: source(n) }
        }
        Some(n @ libc::EINVAL) => KernelError::Unsupported {
            feature: "a BPF map type (the ring buffer)",
            since: "5.8",
            source: source(n),
        },
        Some(n) => KernelError::System { doing: "creating BPF maps", source: source(n) },
        None => KernelError::Object { what: chain(error) },
    }
}

fn program_error(program: &'static str, error: ProgramError) -> KernelError {
    match errno(&error) {
        // Without CAP_PERFMON the verifier itself answers EACCES; so does it to a bug of ours, with all rights there.
        Some(n @ (libc::EPERM | libc::EACCES)) => {
            match privilege::refused("loading BPF programs", io::Error::from_raw_os_error(n)) {
                KernelError::Forbidden { .. } => KernelError::Rejected { program, source: Box::new(error) },
                named => named,
            }
        }
        _ => KernelError::Rejected { program, source: Box::new(error) },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

/// A number nobody outside can guess, for the duplicate filter.
fn seed() -> Result<u64, KernelError> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is live and as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got.unsigned_abs() == bytes.len() {
        return Ok(u64::from_ne_bytes(bytes));
    }
    Err(KernelError::System { doing: "getrandom", source: io::Error::last_os_error() })
}

/// The error for a map call.
pub(super) fn map_error(map: &'static str, source: aya::maps::MapError) -> KernelError {
    match map_errno(&source) {
        Some(n @ (libc::EPERM | libc::EACCES)) => {
            privilege::refused("reading BPF maps", io::Error::from_raw_os_error(n))
        }
        _ => KernelError::Map { map, source },
    }
}
