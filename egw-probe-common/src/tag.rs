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
    /// Latest leaked SYN before the first masqueraded one: the lower end of the bracket. Later leaks (a flap) move only
    /// [`Self::last_leaked_ns`].
    pub last_leaked_before_ns: u64,
    /// First masqueraded SYN (from inside the allowed CIDRs): the upper end of the bracket.
    pub first_masqueraded_ns: u64,
    /// Leaked SYNs.
    pub leaked: u64,
    /// Masqueraded SYNs.
    pub masqueraded: u64,
    /// Source port of the lower end's SYN in the upper half, of the upper end's in the lower: with them userspace finds
    /// these connections' round-trip times.
    pub bracket_ports: u32,
    /// Counter of the first SYN seen, modulo 4096.
    pub first_counter: u16,
    /// Counter of the latest SYN seen, modulo 4096.
    pub last_counter: u16,
}

impl TagRecord {
    /// Takes in a SYN at `now_ns` from source port `port` with this counter: everything but the counts, which the kernel
    /// adds to atomically.
    #[inline]
    pub fn stamp(&mut self, masqueraded: bool, now_ns: u64, port: u16, counter: u16) {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
            self.first_counter = counter;
        }
        self.last_ns = now_ns;
        self.last_counter = counter;
        let port = u32::from(port);
        if masqueraded {
            if self.first_masqueraded_ns == 0 {
                self.first_masqueraded_ns = now_ns;
                self.bracket_ports = (self.bracket_ports & 0xffff_0000) | port;
            }
        } else {
            self.last_leaked_ns = now_ns;
            if self.first_masqueraded_ns == 0 {
                self.last_leaked_before_ns = now_ns;
                self.bracket_ports = (self.bracket_ports & 0xffff) | (port << 16);
            }
        }
    }

    /// Takes in a SYN, the counts included: for userspace.
    pub fn note(&mut self, masqueraded: bool, now_ns: u64, port: u16, counter: u16) {
        self.stamp(masqueraded, now_ns, port, counter);
        if masqueraded { self.masqueraded += 1 } else { self.leaked += 1 }
    }
}

const _: () = assert!(size_of::<TagRecord>() == 64 && align_of::<TagRecord>() == 8);

#[cfg(feature = "user")]
// SAFETY: repr(C), only integers, no padding: every bit pattern is a value.
unsafe impl aya::Pod for TagRecord {}

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
    fn every_single_bit_error_is_noticed() {
        let key = TagKey::derive(7);
        let sequence = Tag::new(1234, 567).unwrap().encode(key);
        for bit in 0..32 {
            assert_eq!(Tag::decode(sequence ^ (1 << bit), key), None, "bit {bit}");
        }
    }
}
