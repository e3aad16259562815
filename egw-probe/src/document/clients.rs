//! What a target with `--tags` knows of its clients: the page `/clients`.

use serde::{Deserialize, Serialize};

/// What `/clients` tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientsPage {
    /// `CLOCK_MONOTONIC` when this was read, in nanoseconds.
    pub now_monotonic_ns: u64,
    /// How many clients are how far.
    pub progress: Progress,
    /// SYNs without a tag of an expected client.
    pub foreign_syns: u64,
    /// Every client of which so many SYNs came, with rising counters, that no foreign ones explain them, by number; with
    /// `--expect-clients` one from inside the CIDRs is enough.
    pub clients: Vec<ClientEntry>,
}

/// One client, as `/clients` tells it. Instants are `CLOCK_MONOTONIC` nanoseconds of the target's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientEntry {
    /// The client's number.
    pub client: u16,
    /// SYNs from outside the allowed CIDRs.
    pub leaked_syns: u64,
    /// SYNs from inside them.
    pub masqueraded_syns: u64,
    /// Its first SYN.
    pub first_syn_ns: u64,
    /// Its last SYN.
    pub last_syn_ns: u64,
    /// Its last leaked SYN before the first masqueraded one; null if none leaked.
    pub last_leaked_ns: Option<u64>,
    /// Its first masqueraded SYN; null until there is one.
    pub first_masqueraded_ns: Option<u64>,
    /// Its last leaked SYN, if that came more than a second after the first masqueraded one; null without such a flap. One that
    /// came earlier may have left before, and been overtaken.
    pub flapped_at_ns: Option<u64>,
    /// Where its policy became effective.
    pub bracket: ClientBracket,
    /// SYNs that it sent and that have not come so far: gaps in its counter, a lower bound (modulo 4096).
    pub missing_syns: u64,
    /// SYNs that its kernel sent again, or the network doubled.
    pub retransmissions: u64,
    /// Processes that sent under this number after another one had, at the least.
    pub restarts: u64,
    /// Two processes go on at once: two clients share this number, and this record mixes both.
    pub conflict: bool,
}

/// Bounds of the instant at which a client's policy became effective, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClientBracket {
    /// Not before this: a leaked SYN had not yet left the client. Where that is not proven, the last leaked SYN's arrival, and the
    /// policy may have become effective up to one path delay earlier. Null if none leaked.
    pub lower_ns: Option<u64>,
    /// Not after this: the first masqueraded SYN. Null until there is one.
    pub upper_ns: Option<u64>,
    /// Upper less lower end.
    pub width_seconds: Option<f64>,
    /// The lower end is proven, or none leaked. What proves it: how long the client waited from a leaked SYN to its
    /// acknowledgement, by the timestamps in both (RFC 7323); the SYN was under way for less. Only with `--ebpf`.
    pub corrected: bool,
    /// Whose handshake proves it: that of the last leaked SYN, or, as a handshake often does not survive the switch, that of an
    /// earlier one. Null if it is not proven.
    pub path_delay_from: Option<PathDelay>,
}

/// Whose handshake bounds a path delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathDelay {
    /// The last leaked SYN's.
    OwnHandshake,
    /// An earlier leaked SYN's of the same client.
    SameClient,
}

/// How many clients are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Clients expected (`--expect-clients`), or 4095.
    pub expected: u64,
    /// Clients that are known to exist.
    pub seen: u64,
    /// Of these, clients with a masqueraded SYN.
    pub masqueraded: u64,
    /// Of these, clients of which every SYN leaked so far.
    pub leaking: u64,
    /// Clients whose number another one uses too, as far as their counters tell.
    pub conflicts: u64,
    /// Numbers of which too few SYNs came to tell a client from foreign SYNs that look like tags.
    #[serde(default)]
    pub uncertain: u64,
}
