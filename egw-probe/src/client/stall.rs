//! Whether a held connection stalls, for how long, and how much of that is the kernel's own waiting.
//!
//! Pure: takes what was seen of a connection and when. On each tick a byte is sent if the one before it has been
//! acknowledged. A stall is a byte that the kernel had to send again: no threshold of ours decides. It ends with the
//! acknowledgement. What a look sees may have happened at any time since the look before it. So the path was interrupted at
//! least from when the first retransmission was seen to the look before the last one that failed was seen, and at most
//! from when the last acknowledged byte was sent to the acknowledgement.

use std::time::Duration;

use crate::document::disruption::LengthBracket;
use crate::document::held::{HeldStall, StallEnd};
use crate::sys::clock::Monotonic;

/// What was seen of a connection on a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether a byte is not yet acknowledged.
    pub outstanding: bool,
    /// Segments sent again since the connection began.
    pub retransmissions: u32,
}

#[derive(Debug, Clone)]
struct Outstanding {
    sent: Monotonic,
    retransmissions_before: u32,
    /// Of each time that it was sent again, the look before and the look that saw it. The kernel gives up after 15
    /// (`net.ipv4.tcp_retries2`).
    again: Vec<[Monotonic; 2]>,
}

impl Outstanding {
    /// How long the path was broken at least, if `failed` transmissions failed, of which chance explains some at the ends.
    fn outage(&self, failed: usize, chance: usize) -> Duration {
        let without = |first: usize| {
            // What was sent before a retransmission was lost by when that was seen.
            let lost_by = self.again.get(first).map(|[_, seen]| *seen);
            let last_failed = failed.checked_sub(chance - first + 2);
            let failed_after = last_failed.and_then(|index| self.again.get(index)).map(|[before, _]| *before);
            lost_by.zip(failed_after).map_or(Duration::ZERO, |(lost, after)| after.since(lost))
        };
        (0..=chance.min(failed)).map(without).min().unwrap_or_default()
    }
}

/// Transmissions of one byte in a row that chance may have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByChance(pub u32);

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct StallJudge {
    connection: u64,
    start: Monotonic,
    /// The last byte that was acknowledged was sent then; before any, the handshake.
    last_good: Monotonic,
    last_look: Monotonic,
    outstanding: Option<Outstanding>,
}

impl StallJudge {
    /// A judge of connection number `connection`, whose SYN was sent at `opened`, in a test begun at `start`.
    pub(crate) fn new(connection: u64, start: Monotonic, opened: Monotonic) -> Self {
        Self { connection, start, last_good: opened, last_look: opened, outstanding: None }
    }

    /// Whether the next byte may be sent: none is on its way.
    pub(crate) fn may_send(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Notes that a byte was sent.
    pub(crate) fn sent(&mut self, now: Monotonic, retransmissions: u32) {
        self.outstanding =
            Some(Outstanding { sent: now, retransmissions_before: retransmissions, again: Vec::new() });
    }

    /// Takes what was seen; a stall that has ended is returned.
    pub(crate) fn look(&mut self, now: Monotonic, seen: Seen, chance: ByChance) -> Option<HeldStall> {
        let last_look = std::mem::replace(&mut self.last_look, now);
        let byte = self.outstanding.as_mut()?;
        let again = (seen.retransmissions - byte.retransmissions_before) as usize;
        byte.again.resize(again.max(byte.again.len()), [last_look.max(byte.sent), now]);
        if seen.outstanding {
            return None;
        }
        let sent = byte.sent;
        let stall = self.stall(StallEnd::Recovered, last_look, Some(now), chance);
        self.outstanding = None;
        self.last_good = sent;
        stall
    }

    /// Ends with the connection, or with the watch: a stall that is open is returned.
    pub(crate) fn end(&mut self, ended: StallEnd, now: Monotonic, chance: ByChance) -> Option<HeldStall> {
        let stall = self.stall(ended, now, None, chance);
        self.outstanding = None;
        stall
    }

    fn stall(
        &self,
        ended: StallEnd,
        at_least: Monotonic,
        acknowledged: Option<Monotonic>,
        ByChance(chance): ByChance,
    ) -> Option<HeldStall> {
        let byte = self.outstanding.as_ref().filter(|byte| !byte.again.is_empty())?;
        let seconds = |length: Duration| length.as_secs_f64();
        // The last retransmission is the one that got through.
        let failed = byte.again.len() + usize::from(ended != StallEnd::Recovered);
        Some(HeldStall {
            connection: self.connection,
            at_seconds: seconds(byte.sent.since(self.start)),
            length_seconds: LengthBracket {
                lower: seconds(at_least.since(byte.sent)),
                upper: acknowledged.map(|acknowledged| seconds(acknowledged.since(byte.sent))),
            },
            outage_seconds: LengthBracket {
                lower: seconds(byte.outage(failed, chance as usize)),
                upper: acknowledged.map(|acknowledged| seconds(acknowledged.since(self.last_good))),
            },
            retransmissions: byte.again.len() as u64,
            ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: ByChance = ByChance(0);
    const START: Monotonic = Monotonic::from_ns(0);

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    /// Looks at a connection at (time, outstanding, retransmissions), after bytes sent at 90 and at 100 ms.
    fn judge(looks: &[(u64, bool, u32)]) -> (StallJudge, Vec<HeldStall>) {
        let mut judge = StallJudge::new(7, START, at(0));
        judge.sent(at(90), 0);
        judge.look(at(99), Seen { outstanding: false, retransmissions: 0 }, NONE);
        judge.sent(at(100), 0);
        let stalls = looks
            .iter()
            .filter_map(|&(ms, outstanding, retransmissions)| {
                judge.look(at(ms), Seen { outstanding, retransmissions }, NONE)
            })
            .collect();
        (judge, stalls)
    }

    #[test]
    fn a_byte_acknowledged_without_a_retransmission_is_no_stall_however_long_it_took() {
        let (judge, stalls) = judge(&[(110, true, 0), (400, true, 0), (410, false, 0)]);
        assert_eq!(stalls, []);
        assert!(judge.may_send());
    }

    #[test]
    fn outage_and_backoff_are_told_apart_by_what_looks_prove() {
        // Again at 300, 700 and 1500 at the latest, and acknowledged by 1510. The second was sent after 310, the look before.
        let looks = [
            (300, true, 1),
            (310, true, 1),
            (700, true, 2),
            (1490, true, 2),
            (1500, true, 3),
            (1510, false, 3),
        ];
        let (_, stalls) = judge(&looks);
        let [stall] = &stalls[..] else { panic!("one stall: {stalls:?}") };
        assert_eq!((stall.connection, stall.at_seconds, stall.retransmissions), (7, 0.1, 3));
        assert_eq!(stall.length_seconds, LengthBracket { lower: 1.4, upper: Some(1.41) });
        assert_eq!(stall.outage_seconds, LengthBracket { lower: 0.01, upper: Some(1.42) });
        assert_eq!(stall.ended, StallEnd::Recovered);
    }

    #[test]
    fn what_is_seen_first_may_have_happened_just_after_the_look_before() {
        // With a look every 200 ms: again at 301 and 701, say; both failed and the third got through.
        let looks = [
            (300, true, 0),
            (500, true, 1),
            (700, true, 1),
            (900, true, 2),
            (1_500, true, 2),
            (1_700, false, 3),
        ];
        let (_, stalls) = judge(&looks);
        assert_eq!(
            stalls[0].outage_seconds,
            LengthBracket { lower: 0.2, upper: Some(at(1_700).since(at(90)).as_secs_f64()) }
        );
    }

    #[test]
    fn what_chance_explains_proves_nothing_at_the_ends() {
        let mut judge = StallJudge::new(7, START, at(0));
        let lower = [0, 1, 2].map(|chance| {
            judge.sent(at(100), 0);
            // Seen on every look from 200 ms on: five retransmissions, of which the last got through.
            for again in 1..=5 {
                let seen = Seen { outstanding: true, retransmissions: again };
                assert_eq!(judge.look(at(100 + u64::from(again) * 100), seen, ByChance(chance)), None);
            }
            let seen = Seen { outstanding: false, retransmissions: 5 };
            let stall = judge.look(at(700), seen, ByChance(chance)).unwrap();
            Duration::from_secs_f64(stall.outage_seconds.lower)
        });
        assert_eq!(lower, [500 - 300, 100, 0].map(Duration::from_millis));
    }

    #[test]
    fn a_single_retransmission_that_succeeded_bounds_the_outage_from_above_only() {
        let (_, stalls) = judge(&[(300, false, 1)]);
        assert_eq!(stalls[0].outage_seconds, LengthBracket { lower: 0.0, upper: Some(0.21) });
    }

    #[test]
    fn a_connection_lost_in_a_stall_leaves_it_without_an_end() {
        let (mut judge, stalls) = judge(&[(300, true, 1), (690, true, 1), (700, true, 2)]);
        assert_eq!(stalls, []);
        assert!(!judge.may_send());
        let stall = judge.end(StallEnd::Lost, at(900), NONE).unwrap();
        assert_eq!(stall.length_seconds, LengthBracket { lower: 0.8, upper: None });
        assert_eq!(stall.outage_seconds, LengthBracket { lower: 0.39, upper: None });
        assert_eq!(judge.end(StallEnd::Open, at(950), NONE), None);
    }
}
