//! The SYN tag: a client's number in the initial sequence number of its SYNs (design section 6).
//!
//! Source NAT rewrites address and port but keeps the sequence number, so the target can tell clients behind one egress
//! IP apart.

/// Highest client number.
pub const MAX_CLIENT: u16 = 4095;
/// Size of a map that holds a record for every client number; slot 0 stays unused.
pub const CLIENTS: u32 = 4096;
/// The SYN counter counts modulo this.
pub const COUNTER_MODULUS: u16 = 4096;

/// What a tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    client: u16,
    counter: u16,
}

/// The byte that a secret adds to the check byte, so that two installations on one network do not read each other's tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagKey(u8);

impl TagKey {
    /// Derives the byte from `--tag-key`; key 0 gives byte 0.
    pub const fn derive(key: u64) -> Self {
        Self(crc8(&key.to_be_bytes()))
    }

    /// The byte as the loader patched it into the kernel program.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte for the kernel program.
    pub const fn byte(self) -> u8 {
        self.0
    }
}

impl Tag {
    /// A tag of client `1..=4095`; `None` for any other number. Of `syns_before`, the SYNs sent before this one, the
    /// tag keeps what fits (modulo 4096).
    pub const fn new(client: u16, syns_before: u64) -> Option<Self> {
        if client == 0 || client > MAX_CLIENT {
            return None;
        }
        Some(Self { client, counter: (syns_before % COUNTER_MODULUS as u64) as u16 })
    }

    /// Client number, `1..=4095`.
    pub const fn client(self) -> u16 {
        self.client
    }

    /// SYNs the client had sent before this one, modulo 4096.
    pub const fn counter(self) -> u16 {
        self.counter
    }

    /// The sequence number that carries this tag. Never 0, which to Linux means "choose one".
    pub const fn encode(self, key: TagKey) -> u32 {
        let upper = ((self.client as u32) << 12) | self.counter as u32;
        (upper << 8) | check(upper, key) as u32
    }

    /// Reads the tag in a sequence number; `None` when the check byte is wrong or the client is 0. One in 256 foreign
    /// sequence numbers passes.
    #[inline]
    pub const fn decode(sequence: u32, key: TagKey) -> Option<Self> {
        let upper = sequence >> 8;
        if check(upper, key) != sequence as u8 {
            return None;
        }
        let client = (upper >> 12) as u16;
        if client == 0 {
            return None;
        }
        Some(Self { client, counter: (upper & 0xfff) as u16 })
    }
}

#[inline]
const fn check(upper: u32, key: TagKey) -> u8 {
    let [_, a, b, c] = upper.to_be_bytes();
    crc8(&[a, b, c]) ^ key.0
}

/// CRC-8: polynomial 0x07, initial value 0, not reflected, no final XOR (as in `SMBus`).
#[inline]
pub const fn crc8(bytes: &[u8]) -> u8 {
    let mut crc = 0u8;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        crc = CRC8[(crc ^ *byte) as usize];
        rest = tail;
    }
    crc
}

// Of every single byte. Bit by bit the kernel would pay some thirty nanoseconds for each SYN.
static CRC8: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x07 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// What the kernel keeps for one client number: the element of an array map indexed by it.
///
/// Counts are exact. Stamps are plain writes: two SYNs of one client handled on two CPUs within the same few hundred
/// nanoseconds may swap theirs, which no client that waits between two probes can bring about.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagRecord {
    /// First SYN of any class, `CLOCK_MONOTONIC` nanoseconds; 0 is none yet, here and below.
    pub first_ns: u64,
    /// Latest SYN of any class.
    pub last_ns: u64,
    /// Latest leaked SYN (from outside the allowed CIDRs).
    pub last_leaked_ns: u64,
    /// Latest leaked SYN before the first masqueraded one. Later leaks (a flap) move only [`Self::last_leaked_ns`].
    pub last_leaked_before_ns: u64,
    /// First masqueraded SYN (from inside the allowed CIDRs): the upper end of the bracket.
    pub first_masqueraded_ns: u64,
    /// Leaked SYNs.
    pub leaked: u64,
    /// Masqueraded SYNs.
    pub masqueraded: u64,
    /// A leaked SYN left the client after this, as [`Waiting`] proves: the lower end of the bracket.
    pub proven_lower_ns: u64,
    /// When that SYN arrived.
    pub proven_by_ns: u64,
}

impl TagRecord {
    /// Takes in a SYN at `now_ns`: everything but the counts, which the kernel adds to atomically.
    #[inline]
    pub fn stamp(&mut self, masqueraded: bool, now_ns: u64) {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        if masqueraded {
            if self.first_masqueraded_ns == 0 {
                self.first_masqueraded_ns = now_ns;
            }
        } else {
            self.last_leaked_ns = now_ns;
            if self.first_masqueraded_ns == 0 {
                self.last_leaked_before_ns = now_ns;
            }
        }
    }

    /// Takes in a SYN, the counts included: for userspace.
    pub fn note(&mut self, masqueraded: bool, now_ns: u64) {
        self.stamp(masqueraded, now_ns);
        if masqueraded { self.masqueraded += 1 } else { self.leaked += 1 }
    }

    /// Whether a SYN that has just been taken in is to wait for its acknowledgement: a leaked one, before the policy was known to be
    /// effective.
    #[inline]
    pub const fn lets_wait(&self, masqueraded: bool, timestamp: u32) -> bool {
        !masqueraded && self.first_masqueraded_ns == 0 && timestamp != NO_TIMESTAMP
    }

    /// Takes in what an answered SYN proves.
    #[inline]
    pub fn prove(&mut self, proof: Proof) {
        if proof.lower_ns > self.proven_lower_ns {
            self.proven_lower_ns = proof.lower_ns;
            self.proven_by_ns = proof.by_ns;
        }
    }
}

/// Of a SYN without a timestamp: not an `Option`, half of which the verifier would find uninitialised.
pub const NO_TIMESTAMP: u32 = 0;

/// Leaked SYNs of one client that wait for their acknowledgement at a time: as many as it sends within a round-trip.
pub const SLOTS: u32 = 64;

/// A leaked SYN that waits for the acknowledgement of its handshake: an element of an array map, [`SLOTS`] for each client.
///
/// Both carry the client's clock (TSval, RFC 7323; milliseconds since Linux 4.13). The client sends the acknowledgement after the
/// SYN has arrived here. So the difference of the two, and one millisecond for what they cut off, is longer than the SYN was
/// under way: it left after its arrival less that, and leaked after it had left.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Its arrival; 0 if none waits.
    pub stamp_ns: u64,
    /// Its timestamp value.
    pub timestamp: u32,
    /// Its counter; beyond all counters by [`Self::ACKNOWLEDGED`] once that is the case.
    pub counter: u16,
    /// Its source port, host order.
    pub port: u16,
}

/// What an acknowledged SYN proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// It left after this, and leaked.
    pub lower_ns: u64,
    /// When it arrived.
    pub by_ns: u64,
}

impl Waiting {
    /// A difference above this is none of one connection.
    const LONGEST_MS: u32 = 60_000;
    /// Nor is a copy so much later than the first one.
    const LONGEST_NS: u64 = Self::LONGEST_MS as u64 * 1_000_000;
    /// No SYN arrives by more than this after one that was sent later: assumed.
    const OVERTAKEN_NS: u64 = 1_000_000_000;
    const ACKNOWLEDGED: u16 = 1 << 15;

    /// Where the SYN with this tag waits.
    #[inline]
    pub const fn slot(tag: Tag) -> u32 {
        tag.client as u32 * SLOTS + tag.counter as u32 % SLOTS
    }

    /// Lets a SYN wait here. It is the first to arrive that is answered. So a copy of the one that waits, or has waited, changes
    /// nothing; nor does one that its process sent before it, and may be a copy of one that has waited before. Timestamps do not
    /// tell which was sent before: each connection's may begin anywhere.
    #[inline]
    pub fn wait(&mut self, counter: u16, port: u16, stamp_ns: u64, timestamp: u32) {
        let age_ns = stamp_ns.saturating_sub(self.stamp_ns);
        let behind = (self.counter & !Self::ACKNOWLEDGED).wrapping_sub(counter) % COUNTER_MODULUS;
        let is_copy = behind == 0 && self.port == port && age_ns <= Self::LONGEST_NS;
        let is_older = behind > 0 && behind < COUNTER_MODULUS / 2 && age_ns <= Self::OVERTAKEN_NS;
        if !is_copy && !is_older {
            *self = Self { stamp_ns, timestamp, counter, port };
        }
    }

    /// Takes in an acknowledgement with this timestamp of the SYN with this counter. Only the first one proves anything.
    #[inline]
    pub fn acknowledge(&mut self, counter: u16, timestamp: u32) -> Option<Proof> {
        let by_ns = self.stamp_ns;
        let waited = timestamp.wrapping_sub(self.timestamp);
        if by_ns == 0 || self.counter != counter || waited > Self::LONGEST_MS {
            return None;
        }
        self.counter |= Self::ACKNOWLEDGED;
        // A thousandth for a clock that runs slow.
        let longest_ns = (u64::from(waited) + 1) * 1_001_000;
        Some(Proof { lower_ns: by_ns.saturating_sub(longest_ns), by_ns })
    }
}

const _: () = {
    assert!(size_of::<TagRecord>() == 72 && align_of::<TagRecord>() == 8);
    assert!(size_of::<Waiting>() == 16 && align_of::<Waiting>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: repr(C), only integers, no padding: every bit pattern is a value.
    unsafe impl aya::Pod for super::TagRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Waiting {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn crc8_matches_the_published_check_value() {
        assert_eq!(crc8(b"123456789"), 0xf4);
    }

    #[test]
    fn known_tags_have_known_sequence_numbers() {
        let plain = TagKey::derive(0);
        let keyed = TagKey::derive(0x0123_4567_89ab_cdef);
        assert_eq!(plain.byte(), 0);
        let tag = |client, sent| Tag::new(client, sent).unwrap();
        assert_eq!(tag(1, 0).encode(plain), 0x0010_0000 | u32::from(crc8(&[0x00, 0x10, 0x00])));
        assert_eq!(tag(1, 0).encode(plain) & 0xff, 0x57);
        assert_eq!(tag(4095, 4095).encode(plain) >> 8, 0x00ff_ffff);
        assert_eq!(tag(7, 3).encode(keyed) ^ tag(7, 3).encode(plain), u32::from(keyed.byte()));
    }

    #[test]
    fn every_tag_survives_its_sequence_number() {
        for key in [0, 1, u64::MAX].map(TagKey::derive) {
            for client in 1..=MAX_CLIENT {
                for counter in [0, 1, 2, 2047, 2048, 4095] {
                    let tag = Tag::new(client, counter).unwrap();
                    assert_ne!(tag.encode(key), 0);
                    assert_eq!(Tag::decode(tag.encode(key), key), Some(tag));
                }
            }
        }
    }

    #[test]
    fn the_counter_wraps_after_4095() {
        assert_eq!(Tag::new(9, 4095).unwrap().counter(), 4095);
        assert_eq!(Tag::new(9, 4096), Tag::new(9, 0));
    }

    #[test]
    fn numbers_outside_1_to_4095_make_no_tag() {
        assert_eq!(Tag::new(0, 0), None);
        assert_eq!(Tag::new(4096, 0), None);
        assert_eq!(Tag::decode(0, TagKey::default()), None);
    }

    #[test]
    fn one_in_256_foreign_sequence_numbers_is_taken_for_a_tag() {
        let key = TagKey::derive(42);
        // An odd stride visits the sequence numbers without favouring any bit.
        let taken =
            (0..1_000_000u32).filter(|i| Tag::decode(i.wrapping_mul(0x9e37_79b1), key).is_some()).count();
        assert!((3_600..4_200).contains(&taken), "{taken} of 1,000,000, expected about 3,905");
    }

    #[test]
    fn an_acknowledged_syn_left_after_its_arrival_less_what_the_client_waited() {
        const SECOND: u64 = 1_000_000_000;
        let mut waiting = Waiting::default();
        assert_eq!(waiting.acknowledge(0, 5), None, "nobody waits");
        waiting.wait(7, 4000, 9 * SECOND, u32::MAX - 1);
        // The same SYN again, and an acknowledgement of another one.
        waiting.wait(7, 4000, 10 * SECOND, 998);
        assert_eq!(waiting.acknowledge(8, 3), None);
        assert_eq!(waiting.acknowledge(7, u32::MAX - 2), None, "before it was sent");
        let proof = Proof { lower_ns: 9 * SECOND - 6 * 1_001_000, by_ns: 9 * SECOND };
        assert_eq!(waiting.acknowledge(7, 3), Some(proof));
        assert_eq!(waiting.acknowledge(7, 3), None, "once");
        waiting.wait(7, 4000, 11 * SECOND, 998);
        assert_eq!(waiting.acknowledge(7, 999), None, "a copy is not answered again");
        waiting.wait(7, 4001, 11 * SECOND, 998);
        assert_eq!(waiting.acknowledge(7, 998 + 60_001), None, "another connection");
        assert_eq!(waiting.acknowledge(7, 998).map(|proof| proof.by_ns), Some(11 * SECOND));
        // Of one that was here before, a copy that comes late, and its acknowledgement that had been sent before that.
        waiting.wait(71, 4002, 12 * SECOND, 5);
        waiting.wait(7, 4001, 12 * SECOND + 1, 998);
        assert_eq!(waiting.acknowledge(7, 999), None);
        assert_eq!(waiting.acknowledge(71, 6).map(|proof| proof.by_ns), Some(12 * SECOND));
        // Another process.
        waiting.wait(71, 4003, 13 * SECOND, 4);
        waiting.wait(7, 4004, 15 * SECOND, 997);
        assert_eq!(waiting.acknowledge(7, 998).map(|proof| proof.by_ns), Some(15 * SECOND));
        let mut record = TagRecord::default();
        record.prove(proof);
        record.prove(Proof { lower_ns: 5, by_ns: 10 * SECOND });
        assert_eq!((record.proven_lower_ns, record.proven_by_ns), (proof.lower_ns, proof.by_ns));
    }

    #[test]
    fn every_slot_is_one_clients_alone() {
        let slot = |client, counter| Waiting::slot(Tag::new(client, counter).unwrap());
        assert_eq!([slot(1, 0), slot(1, 63), slot(1, 64), slot(2, 0)], [64, 127, 64, 128]);
        assert_eq!(slot(4095, 4095), CLIENTS * SLOTS - 1);
    }

    #[test]
    fn every_single_bit_error_is_noticed() {
        let key = TagKey::derive(7);
        let sequence = Tag::new(1234, 567).unwrap().encode(key);
        for bit in 0..32 {
            assert_eq!(Tag::decode(sequence ^ (1 << bit), key), None, "bit {bit}");
        }
    }
}
