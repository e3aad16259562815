//! Structs that cross the kernel boundary: what the ring carries and what the maps hold.
//!
//! `repr(C)`, explicit padding, no `bool`, no enum; the layout is asserted at compile time, on the host and for BPF.

use crate::address::Address;

/// One observed SYN, as the ring buffer carries it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynEvent {
    /// Arrival, `CLOCK_MONOTONIC` nanoseconds (`bpf_ktime_get_ns`).
    pub stamp_ns: u64,
    /// Source address.
    pub source: Address,
    /// Initial sequence number, host order. A retransmission repeats it; a tag is in it.
    pub sequence: u32,
    /// Index of the interface it was seen on.
    pub ifindex: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// One of [`crate::class`].
    pub class: u8,
    /// Always zero. In two parts, each stored by one instruction; for five bytes the kernel would call a loop.
    pub padding: u8,
    /// Always zero.
    pub padding_word: u32,
}

/// What is known of one source address. Held in an LRU map keyed by the [`Address`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceRecord {
    /// First SYN, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// Latest SYN, `CLOCK_MONOTONIC` nanoseconds. CPUs that see one source at once may write it out of order, by as
    /// much as they overlap.
    pub last_ns: u64,
    /// SYNs so far, retransmissions included.
    pub syns: u64,
    /// One of [`crate::class`]. A whole word, stored by one instruction: beside padding the kernel would call a loop for that.
    pub class: u64,
}

/// Up to four of the host's own addresses, compared before the map of all of them is asked: a host with few pays
/// nanoseconds for the question where a hash lookup costs twenty. Unused places hold `::`, which is nobody's address.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnFew {
    /// The addresses, each of them in the map too.
    pub addresses: [Address; 4],
}

impl OwnFew {
    /// Whether `address` is among them.
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        let [a, b, c, d] = self.addresses;
        a == address || b == address || c == address || d == address
    }
}

/// Exact counters of one class on one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounters {
    /// SYNs counted.
    pub syns: u64,
    /// Of these, how many found the ring full: counted, but without an event.
    pub lost: u64,
}

/// All exact counters of one CPU: the only element of a per-CPU array.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// SYNs from outside the allowed CIDRs.
    pub denied: ClassCounters,
    /// SYNs from inside them.
    pub allowed: ClassCounters,
    /// SYNs seen again on a second observed interface, and therefore not counted above.
    pub duplicates: u64,
    /// SYNs to the listen port of somebody else: forwarded, not for this host.
    pub forwarded: u64,
    /// Records created in the source map. Less those still in it, this is how many were evicted.
    pub sources_created: u64,
    /// SYNs whose sequence number carried a valid tag.
    pub tagged: u64,
}

impl Counters {
    /// Sum of two CPUs.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            denied: self.denied.plus(other.denied),
            allowed: self.allowed.plus(other.allowed),
            duplicates: self.duplicates.wrapping_add(other.duplicates),
            forwarded: self.forwarded.wrapping_add(other.forwarded),
            sources_created: self.sources_created.wrapping_add(other.sources_created),
            tagged: self.tagged.wrapping_add(other.tagged),
        }
    }
}

impl ClassCounters {
    const fn plus(self, other: Self) -> Self {
        Self { syns: self.syns.wrapping_add(other.syns), lost: self.lost.wrapping_add(other.lost) }
    }
}

const _: () = {
    assert!(size_of::<SynEvent>() == 40 && align_of::<SynEvent>() == 8);
    assert!(core::mem::offset_of!(SynEvent, sequence) == 24);
    assert!(core::mem::offset_of!(SynEvent, class) == 34);
    assert!(size_of::<SourceRecord>() == 32 && align_of::<SourceRecord>() == 8);
    assert!(size_of::<OwnFew>() == 64);
    assert!(size_of::<ClassCounters>() == 16);
    assert!(size_of::<Counters>() == 64 && align_of::<Counters>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: repr(C), only integers and arrays of them, explicit padding: every bit pattern is a value.
    unsafe impl aya::Pod for super::SynEvent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SourceRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ClassCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OwnFew {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counters {}
}
