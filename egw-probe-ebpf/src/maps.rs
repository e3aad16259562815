//! The maps, and the configuration that the loader patches in. Names are part of the contract with the loader; the kernel
//! cuts them at 15 bytes.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use egw_probe_common::address::Address;
use egw_probe_common::event::{Counters, OwnFew, SourceRecord};
use egw_probe_common::seen::{BUCKETS, Bucket};
use egw_probe_common::tag::{CLIENTS, SLOTS, TagRecord, Waiting};

// The globals below are set by the loader before the program is verified: to the verifier they are constants, and what they
// switch off is dead code.

/// Listen port, host order.
#[unsafe(no_mangle)]
pub(crate) static LISTEN_PORT: Global<u16> = Global::new(1337);

/// Seed of the duplicate filter's hash, so that nobody outside can aim at one of its buckets.
#[unsafe(no_mangle)]
pub(crate) static SEEN_SEED: Global<u64> = Global::new(0);

/// Highest client number a tag may carry; 0 switches tags off.
#[unsafe(no_mangle)]
pub(crate) static TAG_CLIENTS: Global<u16> = Global::new(0);

/// `egw_probe_common::tag::TagKey` as a byte.
#[unsafe(no_mangle)]
pub(crate) static TAG_KEY: Global<u8> = Global::new(0);

/// Allowed IPv4 CIDRs: network order, longest prefix wins; the value is unused.
#[map]
pub(crate) static ALLOWED_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, 0);

/// Allowed IPv6 CIDRs.
#[map]
pub(crate) static ALLOWED_V6: LpmTrie<Address, u32> = LpmTrie::with_max_entries(4096, 0);

/// The host's own addresses, kept by userspace; the value is unused. Memory for those that are there, and no others.
#[map]
pub(crate) static OWN: HashMap<Address, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// A few of them, for a quick answer; the only element.
#[map]
pub(crate) static OWN_FEW: Array<OwnFew> = Array::with_max_entries(1, 0);

/// Exact counters.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// One record per source address, least recently used evicted first.
#[map]
pub(crate) static SOURCES: LruHashMap<Address, SourceRecord> = LruHashMap::with_max_entries(65_536, 0);

/// The duplicate filter.
#[map]
pub(crate) static SEEN: Array<Bucket> = Array::with_max_entries(BUCKETS, 0);

/// One record per client number.
#[map]
pub(crate) static TAGS: Array<TagRecord> = Array::with_max_entries(CLIENTS, 0);

/// Leaked SYNs that wait for their acknowledgement, some for each client number.
#[map]
pub(crate) static WAITING: Array<Waiting> = Array::with_max_entries(CLIENTS * SLOTS, 0);

/// One event per counted SYN.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);
