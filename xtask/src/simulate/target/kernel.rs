//! The kernel program's part, with plain collections for its maps: what `egw-probe-ebpf/src/observe.rs` does to a SYN that is
//! the host's own, and to an acknowledgement.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use egw_probe::document::verdict::Verdict;
use egw_probe::workbench::observer::SynSeen;
use egw_probe_common::tag::{MAX_CLIENT, NO_TIMESTAMP, Tag, TagKey, TagRecord, Waiting};

use super::super::world::Ns;

/// SYNs of two sources that are nearer to each other are handled at once, by two processors, and may hand in their events in
/// either order.
const AT_ONCE: Duration = Duration::from_micros(2);

/// The maps.
pub(super) struct Kernel {
    key: TagKey,
    clients: u16,
    room: usize,
    ring: VecDeque<SynSeen>,
    pub(super) tags: HashMap<u16, TagRecord>,
    waiting: HashMap<u32, Waiting>,
    pub(super) proofs: u64,
}

impl Kernel {
    /// Room for so many events.
    pub(super) fn new(key: TagKey, expected: Option<u16>, room: usize) -> Self {
        Self {
            key,
            clients: expected.unwrap_or(MAX_CLIENT),
            room,
            ring: VecDeque::new(),
            tags: HashMap::new(),
            waiting: HashMap::new(),
            proofs: 0,
        }
    }

    /// A SYN comes; whether the ring had room for its event. `swaps` if another processor was faster to hand in its own.
    pub(super) fn syn(&mut self, syn: SynSeen, timestamp: u32, swaps: bool) -> bool {
        self.record_tag(&syn, timestamp);
        let emitted = self.ring.len() < self.room;
        if emitted {
            let at_once = |before: &SynSeen| before.source != syn.source && syn.at.since(before.at) < AT_ONCE;
            let behind = usize::from(swaps && self.ring.back().is_some_and(at_once));
            self.ring.insert(self.ring.len() - behind, syn);
        }
        emitted
    }

    fn record_tag(&mut self, syn: &SynSeen, timestamp: u32) {
        let Some(tag) = self.expected_tag(syn.sequence) else { return };
        let record = self.tags.entry(tag.client()).or_default();
        let now_ns = syn.at.as_ns();
        let masqueraded = syn.class == Verdict::Allowed;
        record.note(masqueraded, now_ns);
        if record.lets_wait(masqueraded, timestamp) {
            let waiting = self.waiting.entry(Waiting::slot(tag)).or_default();
            waiting.wait(tag.counter(), syn.source.port(), now_ns, timestamp);
        }
    }

    /// An acknowledgement of the SYN with this sequence number comes at `_now`, which only a fault of `--mutations` goes by.
    pub(super) fn acknowledge(&mut self, sequence: u32, timestamp: u32, _now: Ns) {
        let Some(tag) = self.expected_tag(sequence).filter(|_| timestamp != NO_TIMESTAMP) else { return };
        let Some(waiting) = self.waiting.get_mut(&Waiting::slot(tag)) else { return };
        let Some(proof) = waiting.acknowledge(tag.counter(), timestamp) else { return };
        self.proofs += 1;
        self.tags.entry(tag.client()).or_default().prove(proof);
    }

    fn expected_tag(&self, sequence: u32) -> Option<Tag> {
        Tag::decode(sequence, self.key).filter(|tag| tag.client() <= self.clients)
    }

    /// The oldest event that has not been read.
    pub(super) fn read(&mut self) -> Option<SynSeen> {
        self.ring.pop_front()
    }

    pub(super) fn has_events(&self) -> bool {
        !self.ring.is_empty()
    }
}
