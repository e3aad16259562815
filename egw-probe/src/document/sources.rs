//! Who connected to a target: the page `/sources`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::document::verdict::Verdict;

/// What `/sources` tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct SourcesPage {
    /// `CLOCK_MONOTONIC` when this was read, in nanoseconds.
    pub now_monotonic_ns: u64,
    /// Records that had to make room for newer ones.
    pub evicted: u64,
    /// The sources with the most connections, up to 500 of each verdict, most first.
    pub sources: Vec<SourceEntry>,
    /// The others.
    #[serde(default)]
    pub unlisted: Unlisted,
    /// What the kernel saw of SYNs, connections that never came about included; null without `--ebpf`.
    pub kernel: Option<KernelSources>,
}

/// The SYNs that the kernel saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct KernelSources {
    /// SYNs from inside the allowed CIDRs.
    pub allowed_syns: u64,
    /// SYNs from outside them.
    pub denied_syns: u64,
    /// Of both, SYNs that left no event: counted, but neither joined nor known as first or retransmission.
    pub events_lost: u64,
    /// SYNs that crossed a second observed interface; not counted above.
    pub duplicates: u64,
    /// SYNs to the port of another host, passing through; not counted above.
    pub forwarded: u64,
    /// SYNs with a valid tag, foreign ones that look like it included; 0 without `--tags`.
    pub tagged_syns: u64,
    /// Sources that had to make room for newer ones.
    pub evicted: u64,
    /// Why the figures could not be read, if so.
    pub error: Option<String>,
    /// The sources with the most SYNs, up to 500 of each class, most first.
    pub sources: Vec<KernelSource>,
    /// The others.
    #[serde(default)]
    pub unlisted: Unlisted,
}

/// Sources that a list has no room for, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisted {
    /// Those inside the allowed CIDRs.
    pub allowed: Rest,
    /// Those outside them.
    pub denied: Rest,
}

/// What a list does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// How many sources.
    pub sources: u64,
    /// Connections of all of them; below `kernel`, SYNs.
    pub total: u64,
}

/// One source of SYNs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSource {
    /// Its address.
    pub address: IpAddr,
    /// `allowed` or `denied`.
    pub class: Verdict,
    /// SYNs from it, retransmissions included.
    pub syns: u64,
    /// `CLOCK_MONOTONIC` of its first SYN, in nanoseconds.
    pub first_syn_ns: u64,
    /// `CLOCK_MONOTONIC` of its last SYN, in nanoseconds.
    pub last_syn_ns: u64,
}

/// One source.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// Its address.
    pub address: IpAddr,
    /// `allowed` or `denied`.
    pub verdict: Verdict,
    /// Connections accepted from it.
    pub connections: u64,
    /// `CLOCK_MONOTONIC` of its first accept, in nanoseconds.
    pub first_accept_ns: u64,
    /// `CLOCK_MONOTONIC` of its last accept, in nanoseconds.
    pub last_accept_ns: u64,
}
