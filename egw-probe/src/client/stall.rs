//! Whether a held connection stalls, for how long, and how much of that is the kernel's own waiting.
//!
//! Pure: takes what was seen of a connection and when. On each tick a byte is sent if the one before it has been
//! acknowledged. A stall is a byte that the kernel had to send again: no threshold of ours decides. It ends with the
//! acknowledgement. The path works again before that: the kernel only notices at its next retransmission, and each
//! takes twice as long as the one before (RFC 6298). So the outage lies between the first loss and the last
//! retransmission, and the rest of the stall is backoff.

use std::time::Duration;

use crate::document::disruption::LengthBracket;
use crate::document::held::{HeldStall, StallEnd};
use crate::sys::clock::Monotonic;

/// What was seen of a connection on a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether a byte is not yet acknowledged.
    pub outstanding: bool,
    /// Segments sent again since the connection began.
    pub retransmissions: u32,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    sent: Monotonic,
    retransmissions_before: u32,
    /// When the latest retransmission was first seen, and the one before it.
    last_again: Option<Monotonic>,
    again_before: Option<Monotonic>,
    retransmissions: u32,
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct StallJudge {
    connection: u64,
    start: Monotonic,
    last_clear: Monotonic,
    last_look: Monotonic,
    outstanding: Option<Outstanding>,
}

impl StallJudge {
    /// A judge of connection number `connection`, established at `now`, in a test begun at `start`.
    pub(crate) fn new(connection: u64, start: Monotonic, now: Monotonic) -> Self {
        Self { connection, start, last_clear: now, last_look: now, outstanding: None }
    }

    /// Whether the next byte may be sent: none is on its way.
    pub(crate) fn may_send(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Notes that a byte was sent.
    pub(crate) fn sent(&mut self, now: Monotonic, retransmissions: u32) {
        self.outstanding = Some(Outstanding {
            sent: now,
            retransmissions_before: retransmissions,
            last_again: None,
            again_before: None,
            retransmissions,
        });
    }

    /// Takes what was seen; a stall that has ended is returned.
    pub(crate) fn look(&mut self, now: Monotonic, seen: Seen) -> Option<HeldStall> {
        let last_look = std::mem::replace(&mut self.last_look, now);
        let byte = self.outstanding.as_mut()?;
        if seen.retransmissions > byte.retransmissions {
            byte.again_before = if seen.retransmissions > byte.retransmissions + 1 {
                // More than one since the last look: all but the last were before now.
                Some(last_look)
            } else {
                byte.last_again
            };
            byte.last_again = Some(now);
            byte.retransmissions = seen.retransmissions;
        }
        if seen.outstanding {
            return None;
        }
        let stall = self.stall(StallEnd::Recovered, last_look, Some(now));
        self.outstanding = None;
        self.last_clear = now;
        stall
    }

    /// Ends with the connection, or with the watch: a stall that is open is returned.
    pub(crate) fn end(&mut self, ended: StallEnd, now: Monotonic) -> Option<HeldStall> {
        let stall = self.stall(ended, now, None);
        self.outstanding = None;
        stall
    }

    fn stall(
        &self,
        ended: StallEnd,
        at_least: Monotonic,
        acknowledged: Option<Monotonic>,
    ) -> Option<HeldStall> {
        let byte = self.outstanding?;
        let again = byte.retransmissions - byte.retransmissions_before;
        let last_again = byte.last_again?;
        let seconds = |length: Duration| length.as_secs_f64();
        // The byte before was acknowledged at `last_clear`; the path may have broken any time after.
        let since = byte.sent.min(self.last_clear);
        let failed_again = if ended == StallEnd::Recovered { byte.again_before } else { Some(last_again) };
        Some(HeldStall {
            connection: self.connection,
            at_seconds: seconds(byte.sent.since(self.start)),
            length_seconds: LengthBracket {
                lower: seconds(at_least.since(byte.sent)),
                upper: acknowledged.map(|acknowledged| seconds(acknowledged.since(byte.sent))),
            },
            outage_seconds: LengthBracket {
                lower: failed_again.map_or(0.0, |failed| seconds(failed.since(byte.sent))),
                upper: acknowledged.map(|_| seconds(last_again.since(since))),
            },
            retransmissions: u64::from(again),
            ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Monotonic = Monotonic::from_ns(0);

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    /// Looks at a connection at (time, outstanding, retransmissions), after a byte sent at 100 ms.
    fn judge(looks: &[(u64, bool, u32)]) -> (StallJudge, Vec<HeldStall>) {
        let mut judge = StallJudge::new(7, START, at(0));
        judge.look(at(90), Seen { outstanding: false, retransmissions: 0 });
        judge.last_clear = at(90);
        judge.sent(at(100), 0);
        let stalls = looks
            .iter()
            .filter_map(|&(ms, outstanding, retransmissions)| {
                judge.look(at(ms), Seen { outstanding, retransmissions })
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
    fn outage_and_backoff_are_told_apart() {
        // Sent at 100; again at 300, 700 and 1500; acknowledged at 1510. The path came back between 700 and 1500.
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
        assert_eq!(stall.outage_seconds, LengthBracket { lower: 0.6, upper: Some(1.41) });
        assert_eq!(stall.ended, StallEnd::Recovered);
    }

    #[test]
    fn a_single_retransmission_that_succeeded_bounds_the_outage_from_above_only() {
        let (_, stalls) = judge(&[(300, false, 1)]);
        assert_eq!(stalls[0].outage_seconds, LengthBracket { lower: 0.0, upper: Some(0.21) });
    }

    #[test]
    fn a_connection_lost_in_a_stall_leaves_it_without_an_end() {
        let (mut judge, stalls) = judge(&[(300, true, 1), (700, true, 2)]);
        assert_eq!(stalls, []);
        assert!(!judge.may_send());
        let stall = judge.end(StallEnd::Lost, at(900)).unwrap();
        assert_eq!(stall.length_seconds, LengthBracket { lower: 0.8, upper: None });
        assert_eq!(stall.outage_seconds, LengthBracket { lower: 0.6, upper: None });
        assert_eq!(judge.end(StallEnd::Open, at(950)), None);
    }
}
