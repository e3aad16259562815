//! The duplicate filter: a SYN that crosses two observed interfaces (a bridge and its port, a VLAN device and its
//! parent) counts once; a retransmission counts again.
//!
//! A crossing shows the same SYN on *another* interface within microseconds; a retransmission comes on the *same*
//! interface as the first sighting did, or after at least the initial retransmission timeout (1 s, RFC 6298). So the
//! filter remembers where and when a SYN was first seen.
//!
//! It is a hash table of four-entry buckets without locks or chains, because a lookup in a plain array costs the kernel
//! a few nanoseconds where an LRU map costs a hundred. What it forgets, or two CPUs garble, is counted rather than
//! dropped: a SYN is lost to the count only if two different SYNs share a 64-bit keyed hash within the window.

use crate::packet::Syn;

/// How long a second sighting on another interface is taken for the same packet. Far above what a packet needs through
/// a host, far below the second after which a sender retransmits.
pub const WINDOW_NS: u64 = 200_000_000;

/// Buckets in the table. A power of two; 64 bytes each.
pub const BUCKETS: u32 = 16_384;

const WAYS: usize = 4;
// Stamps are kept in units of 1024 ns so that an entry is 16 bytes and a bucket one cache line.
const STAMP_SHIFT: u32 = 10;
const WINDOW: u32 = (WINDOW_NS >> STAMP_SHIFT) as u32;

/// One remembered sighting.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Keyed hash of the connection's addresses, source port and sequence number; 0 is an empty entry.
    pub signature: u64,
    /// When it was counted last, in units of 1024 ns, modulo 2^32 (73 minutes).
    pub stamp_1024ns: u32,
    /// The interface on which it was counted.
    pub ifindex: u32,
}

/// One bucket: the element of the array map.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Its entries, in no order.
    pub entries: [Seen; WAYS],
}

const _: () = {
    assert!(size_of::<Seen>() == 16);
    assert!(size_of::<Bucket>() == 64);
    assert!(BUCKETS.is_power_of_two());
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: repr(C), only integers, no padding: every bit pattern is a value.
    unsafe impl aya::Pod for super::Seen {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Bucket {}
}

/// Whether a sighting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Not seen before, or a retransmission.
    Counts,
    /// The same packet on its way through another interface.
    Duplicate,
}

/// Keyed hash of what names one SYN. Never 0.
#[inline]
pub fn signature(syn: &Syn, seed: u64) -> u64 {
    let [s0, s1] = syn.source.words();
    let [d0, d1] = syn.destination.words();
    let ports = (u64::from(syn.source_port) << 32) | u64::from(syn.sequence);
    // Two chains side by side: a multiplication takes the processor longer to finish than to start.
    let source = mix(mix(seed ^ s0) ^ s1);
    let rest = mix(mix(seed.rotate_left(32) ^ d0 ^ ports) ^ d1);
    let hash = mix(source ^ rest.rotate_left(17));
    hash | 1
}

/// The bucket that a signature belongs to.
#[inline]
pub const fn bucket(signature: u64) -> u32 {
    (signature >> 40) as u32 & (BUCKETS - 1)
}

impl Bucket {
    /// Decides about one sighting of `signature` on `ifindex` at `now_ns`, and remembers it.
    #[inline]
    pub fn observe(&mut self, signature: u64, ifindex: u32, now_ns: u64) -> Sighting {
        let now = (now_ns >> STAMP_SHIFT) as u32;
        let mut oldest = 0;
        let mut oldest_age = 0;
        for (way, entry) in self.entries.iter_mut().enumerate() {
            let age = if entry.signature == 0 { u32::MAX } else { now.wrapping_sub(entry.stamp_1024ns) };
            if entry.signature == signature {
                if entry.ifindex != ifindex && age <= WINDOW {
                    return Sighting::Duplicate;
                }
                *entry = Seen { signature, stamp_1024ns: now, ifindex };
                return Sighting::Counts;
            }
            if age > oldest_age {
                oldest = way;
                oldest_age = age;
            }
        }
        // Written out per way: an index known only at run time would cost the verifier a bounds check.
        for (way, entry) in self.entries.iter_mut().enumerate() {
            if way == oldest {
                *entry = Seen { signature, stamp_1024ns: now, ifindex };
            }
        }
        Sighting::Counts
    }
}

// One round of a multiply-xorshift hash with an odd constant of no structure (the golden ratio in 64 bits).
#[inline]
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ (word >> 29)
}
