//! Whether a probe's SYN itself reached the target, or something in between has terminated TCP. Pure.
//!
//! The annotated reply repeats two things of the SYN that the target accepted. The maximum segment size is a number that
//! this client draws for each probe: whatever opens a connection of its own (a proxy, a sidecar, SYNPROXY) sends another
//! one. The timestamp (TSval, RFC 7323) counts milliseconds from a random offset, which depends on both addresses: it
//! gives away a proxy on another host, but not a sidecar. NAT, tunnels and routers leave both alone; some clamp the
//! segment size, and some rewrite timestamps. So both must agree to prove anything, and both must differ to refute it.

use std::time::Duration;

/// Segment sizes that probes are drawn from: below what any path or tunnel clamps to (IPv6's least MTU leaves 1220), above
/// the 536 that SYN cookies fall back to.
pub(crate) const SEGMENT_SIZES: std::ops::RangeInclusive<u16> = 600..=1_200;

/// What this client knows of a SYN that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnSyn {
    /// The segment size that it announces, if one could be set.
    pub segment_size: Option<u16>,
    /// The connection's timestamp, read after the SYN had left; `None` where timestamps are off.
    pub timestamp_ms: Option<u32>,
    /// How long before that reading the SYN can have left.
    pub since_sent: Duration,
}

/// What the target says of the SYN that it accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ToldSyn {
    /// Its segment size.
    pub segment_size: Option<u16>,
    /// Its timestamp.
    pub timestamp_ms: Option<u32>,
}

/// Whether `told` is the SYN that this client sent, after it has waited for `waited`: `None` is unknown.
pub(crate) fn end_to_end(own: &OwnSyn, told: &ToldSyn, waited: Duration) -> Option<bool> {
    let size = own.segment_size? == told.segment_size?;
    let off = told.timestamp_ms?.wrapping_sub(own.timestamp_ms?).cast_signed();
    // The clock ticks between two readings, and the kernel may be a tick ahead of ours; a SYN that it sends again (after a
    // lost one, or a challenge ACK of RFC 5961) has a later timestamp.
    let earliest = -(own.since_sent.as_millis() as i32) - 2;
    let latest = waited.as_millis() as i32 + 2;
    let timestamp = (earliest..=latest).contains(&off);
    (size == timestamp).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: OwnSyn = OwnSyn {
        segment_size: Some(777),
        timestamp_ms: Some(u32::MAX),
        since_sent: Duration::from_millis(2),
    };

    fn told(segment_size: u16, timestamp_ms: u32) -> Option<bool> {
        let told = ToldSyn { segment_size: Some(segment_size), timestamp_ms: Some(timestamp_ms) };
        end_to_end(&OWN, &told, Duration::from_millis(5))
    }

    #[test]
    fn only_what_agrees_in_both_is_the_own_syn_and_only_what_differs_in_both_is_not() {
        // The timestamp wraps: from 4 ms before the reading to 7 ms after it.
        for timestamp in [u32::MAX - 4, u32::MAX, 0, 6] {
            assert_eq!(told(777, timestamp), Some(true), "{timestamp}");
        }
        for timestamp in [u32::MAX - 5, 7, 1 << 31] {
            assert_eq!(told(777, timestamp), None, "{timestamp}: timestamps rewritten");
            assert_eq!(told(1460, timestamp), Some(false), "{timestamp}: a proxy");
        }
        assert_eq!(told(1460, 0), None, "a sidecar, or SYNPROXY");
    }

    #[test]
    fn a_target_that_says_nothing_of_the_syn_leaves_it_unknown() {
        assert_eq!(end_to_end(&OWN, &ToldSyn::default(), Duration::ZERO), None);
        let no_timestamps = OwnSyn { timestamp_ms: None, ..OWN };
        let told = ToldSyn { segment_size: Some(777), timestamp_ms: Some(1) };
        assert_eq!(end_to_end(&no_timestamps, &told, Duration::ZERO), None);
    }
}
