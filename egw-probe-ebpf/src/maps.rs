//! The maps, and the configuration that the loader patches in. Names are part of the contract with the loader; the kernel
//! cuts them at 15 bytes.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use egw_probe_common::{
    event::{Config, Counters, SourceRecord},
    seen::{BUCKETS, Bucket},
    tag::{CLIENTS, TagRecord},
};

/// Set by the loader before the program is verified, so that what is switched off is dead code to the kernel.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Global<Config> =
    Global::new(Config { seed: 0, listen_port: 1337, tag_clients: 0, tag_key: 0, padding: [0; 3] });

/// Allowed IPv4 CIDRs: network order, longest prefix wins; the value is unused.
#[map]
pub(crate) static ALLOWED_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, 0);

/// Allowed IPv6 CIDRs.
#[map]
pub(crate) static ALLOWED_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(4096, 0);

/// The host's own addresses in 4-in-6 mapped form, kept by userspace; the value is unused.
#[map]
pub(crate) static OWN: HashMap<[u8; 16], u32> = HashMap::with_max_entries(8192, 0);

/// Exact counters.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// One record per source address, least recently used evicted first.
#[map]
pub(crate) static SOURCES: LruHashMap<[u8; 16], SourceRecord> = LruHashMap::with_max_entries(65_536, 0);

/// The duplicate filter.
#[map]
pub(crate) static SEEN: Array<Bucket> = Array::with_max_entries(BUCKETS, 0);

/// One record per client number.
#[map]
pub(crate) static TAGS: Array<TagRecord> = Array::with_max_entries(CLIENTS, 0);

/// One event per counted SYN.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);
