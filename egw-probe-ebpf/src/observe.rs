//! The body: what happens to one packet.

use core::mem::offset_of;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::lpm_trie::Key;
use aya_log_ebpf::trace;
use egw_probe_common::address::Address;
use egw_probe_common::class;
use egw_probe_common::event::{Counters, SourceRecord, SynEvent};
use egw_probe_common::packet::{self, Link, Packet, Pass, Segment, Syn};
use egw_probe_common::seen::{self, Sighting};
use egw_probe_common::tag::{MAX_CLIENT, NO_TIMESTAMP, Tag, TagKey, Waiting};

use crate::maps::{
    ALLOWED_V4, ALLOWED_V6, COUNTERS, EVENTS, LISTEN_PORT, OWN, OWN_FEW, SEEN, SEEN_SEED, SOURCES,
    TAG_CLIENTS, TAG_KEY, TAGS, WAITING,
};

/// Headers went on beyond the bytes that could be read.
pub(crate) struct Truncated;

const BPF_NOEXIST: u64 = 1;
/// `lo`, in every network namespace (include/net/flow.h).
const LOOPBACK_IFINDEX: u32 = 1;

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
pub(crate) fn observe<P: Packet>(
    packet: &P,
    link: Link,
    ifindex: impl FnOnce() -> u32,
) -> Result<(), Truncated> {
    match packet::segment(packet, link, LISTEN_PORT.load()) {
        Ok(Segment::Syn(syn)) => {
            let timestamp = if reads_tags() { packet::timestamp_of_syn(packet, syn.tcp_at) } else { None };
            account(&syn, ifindex(), timestamp.unwrap_or(NO_TIMESTAMP));
            Ok(())
        }
        Ok(Segment::Ack(ack)) => {
            if let Some(tag) = expected_tag(ack.sequence.wrapping_sub(1))
                && let Some(timestamp) = packet::timestamp_of_ack(packet, ack.tcp_at)
            {
                acknowledge(tag, timestamp);
            }
            Ok(())
        }
        Err(Pass::Truncated) => Err(Truncated),
        Err(
            Pass::NotIp
            | Pass::Group
            | Pass::Malformed
            | Pass::Fragment
            | Pass::TooManyExtensions
            | Pass::NotTcp
            | Pass::OtherPort
            | Pass::NotSyn,
        ) => Ok(()),
    }
}

/// Everything that a SYN costs. One copy, called by all entry points.
#[inline(never)]
fn account(syn: &Syn, ifindex: u32, timestamp: u32) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element, and no other program runs on this CPU until this one returns.
    let counters = unsafe { &mut *counters };
    let is_loopback = syn.destination.is_loopback();
    if (is_loopback || syn.source.is_loopback()) && ifindex != LOOPBACK_IFINDEX {
        // A martian: the stack drops it.
        return;
    }
    if !is_loopback && !is_own(syn) {
        counters.forwarded += 1;
        return;
    }
    let signature = seen::signature(syn, SEEN_SEED.load());
    if let Some(bucket) = SEEN.get_ptr_mut(seen::bucket(signature)) {
        // SAFETY: valid for the program's lifetime; a bucket that two CPUs garble only forgets (see `seen`).
        if unsafe { (*bucket).observe(signature, ifindex, now_ns) } == Sighting::Duplicate {
            counters.duplicates += 1;
            return;
        }
    }
    let class = if is_allowed(syn) { class::ALLOWED } else { class::DENIED };
    let of_class = if class == class::ALLOWED { &mut counters.allowed } else { &mut counters.denied };
    of_class.syns += 1;
    if !emit(syn, ifindex, class, now_ns) {
        of_class.lost += 1;
    }
    record_source(syn, class, now_ns, counters);
    record_tag(syn, class, now_ns, timestamp, counters);
    // In this one place, because a log statement is longer than all the rest. The macro does not look at its context.
    trace!((), "SYN from port {} on interface {}, class {}", syn.source_port, ifindex, class);
}

fn is_own(syn: &Syn) -> bool {
    OWN_FEW.get(0).is_some_and(|few| few.contains(syn.destination)) || OWN.get_ptr(syn.destination).is_some()
}

fn is_allowed(syn: &Syn) -> bool {
    if syn.source.is_v4() {
        ALLOWED_V4.get(Key::new(32, syn.source.v4_octets())).is_some()
    } else {
        let key = WholeV6 { _room: 0, prefix_len: 128, data: syn.source };
        // SAFETY: from this field on the bytes are those of a `Key`, which is packed, so that any place is aligned for it.
        let key =
            unsafe { &*(&raw const key).byte_add(offset_of!(WholeV6, prefix_len)).cast::<Key<Address>>() };
        ALLOWED_V6.get(key).is_some()
    }
}

/// A trie's key whose address is aligned. aya's is packed: its bytes would be stored one by one, and the kernel, which loads
/// eight at a time, would wait for each of them to arrive in the cache.
#[repr(C)]
struct WholeV6 {
    _room: u32,
    prefix_len: u32,
    data: Address,
}

/// Whether the ring had room.
fn emit(syn: &Syn, ifindex: u32, class: u8, stamp_ns: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve::<SynEvent>(0) else { return false };
    entry.write(SynEvent {
        stamp_ns,
        source: syn.source,
        sequence: syn.sequence,
        ifindex,
        source_port: syn.source_port,
        class,
        padding: 0,
        padding_word: 0,
    });
    entry.submit(0);
    true
}

fn record_source(syn: &Syn, class: u8, now_ns: u64, counters: &mut Counters) {
    if let Some(record) = SOURCES.get_ptr_mut(syn.source) {
        // SAFETY: valid until the program ends; what other CPUs do to it meanwhile is an atomic add or a whole word.
        unsafe {
            increment(&raw mut (*record).syns);
            (*record).last_ns = now_ns;
        }
        return;
    }
    let fresh = SourceRecord { first_ns: now_ns, last_ns: now_ns, syns: 1, class: u64::from(class) };
    if SOURCES.insert(syn.source, fresh, BPF_NOEXIST).is_ok() {
        counters.sources_created += 1;
    } else if let Some(record) = SOURCES.get_ptr_mut(syn.source) {
        // Another CPU was faster.
        // SAFETY: as above.
        unsafe { increment(&raw mut (*record).syns) };
    }
}

fn reads_tags() -> bool {
    TAG_CLIENTS.load() != 0
}

/// The tag in a sequence number, if it is one of a client that is expected.
#[inline(always)]
#[expect(clippy::inline_always, reason = "once for each kind of segment, on the way of every packet")]
fn expected_tag(sequence: u32) -> Option<Tag> {
    let clients = TAG_CLIENTS.load();
    if clients == 0 {
        return None;
    }
    Tag::decode(sequence, TagKey::from_byte(TAG_KEY.load()))
        .filter(|tag| tag.client() <= clients && tag.client() <= MAX_CLIENT)
}

fn record_tag(syn: &Syn, class: u8, now_ns: u64, timestamp: u32, counters: &mut Counters) {
    let Some(tag) = expected_tag(syn.sequence) else { return };
    let Some(record) = TAGS.get_ptr_mut(u32::from(tag.client())) else { return };
    counters.tagged += 1;
    // SAFETY: array elements live as long as the map; other CPUs add atomically or write whole words.
    let record = unsafe { &mut *record };
    let masqueraded = class == class::ALLOWED;
    record.stamp(masqueraded, now_ns);
    // SAFETY: a field of a live map value.
    unsafe { increment(if masqueraded { &raw mut record.masqueraded } else { &raw mut record.leaked }) };
    if record.lets_wait(masqueraded, timestamp)
        && let Some(waiting) = WAITING.get_ptr_mut(Waiting::slot(tag))
    {
        // SAFETY: as above.
        unsafe { (*waiting).wait(tag.counter(), syn.source_port, now_ns, timestamp) };
    }
}

/// What the acknowledgement of a tagged SYN proves.
#[inline(never)]
fn acknowledge(tag: Tag, timestamp: u32) {
    let Some(waiting) = WAITING.get_ptr_mut(Waiting::slot(tag)) else { return };
    // SAFETY: array elements live as long as the map.
    let Some(proof) = (unsafe { (*waiting).acknowledge(tag.counter(), timestamp) }) else { return };
    if let Some(record) = TAGS.get_ptr_mut(u32::from(tag.client())) {
        // SAFETY: as above.
        unsafe { (*record).prove(proof) };
    }
}

/// Adds one, atomically: BPF's `lock xadd`, whose result cannot be used. Written as the instruction because Rust holds this
/// target to have no atomic arithmetic at all.
///
/// # Safety
///
/// `count` points into a live map value.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn increment(count: *mut u64) {
    // SAFETY: map values are 8-byte aligned and live as long as the program runs (the caller's promise).
    unsafe {
        core::arch::asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1u64);
    }
}

/// The same for the host, where the crate is only linted.
///
/// # Safety
///
/// `count` is valid for writes.
#[cfg(not(target_arch = "bpf"))]
unsafe fn increment(count: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { *count += 1 };
}
