//! The decisions about held connections as one state machine, without a socket, a clock or a log line.
//!
//! In go ticks, events of connections and looks at them, each with the time; out come [`Act`]s and [`HeldFact`]s. The loop
//! in [`super::hold`] carries them out. What a look means is judged in [`super::stall`].

use std::time::Duration;

use crate::client::chance::{CAUTION, IMPROBABLE};
use crate::client::reply::Reply;
use crate::client::stall::{ByChance, Seen, StallJudge};
use crate::document::disruption::wilson;
use crate::document::held::{HeldStall, HoldReport, Loss, LossReason, StallEnd};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Stalls and losses kept in the result; what comes after is counted.
const CAP: usize = 1_000;
/// A handshake or a pong that takes longer is begun anew: its SYN may sit in the kernel's backoff long after the path is back.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Pause before a connection that was lost, or did not come about, is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum Connection {
    Closed { reopen_at: Monotonic },
    Opening { since: Monotonic, reply: Reply },
    Open(StallJudge),
}

/// What is to be done with a connection on a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Begin its handshake; [`Holding::opening`] follows.
    Open,
    /// Give its handshake up.
    GiveUp,
    /// Look at it; [`Holding::on_look`] follows, unless it is gone.
    Look,
}

/// What has become known.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldFact {
    /// A connection is there: the target has answered it.
    Opened,
    /// One that was there has come to its end.
    Closed,
    /// One was lost.
    Lost(Loss),
    /// A stall has ended.
    Stalled(HeldStall),
}

/// The connections to hold.
#[derive(Debug)]
pub struct Holding {
    start: Monotonic,
    /// The target says when it denies; a close without a word means something else then.
    annotates: bool,
    connections: Vec<Connection>,
    report: HoldReport,
    facts: Vec<HeldFact>,
    /// Bytes acknowledged, and of these such as had to be sent again.
    acknowledged: u64,
    sent_again: u64,
}

impl Holding {
    /// To hold `count` connections in a test that began at `start`.
    pub fn new(count: u32, start: Monotonic) -> Self {
        Self {
            start,
            annotates: false,
            connections: (0..count).map(|_| Connection::Closed { reopen_at: start }).collect(),
            report: HoldReport { connections: u64::from(count), ..HoldReport::default() },
            facts: Vec::new(),
            acknowledged: 0,
            sent_again: 0,
        }
    }

    /// Whether this target annotates its replies.
    pub fn set_annotates(&mut self, annotates: bool) {
        self.annotates = annotates;
    }

    /// What is to be done with this connection at `now`. What had happened to it by `looked` has been taken in.
    pub fn on_tick(&mut self, index: usize, looked: Monotonic, now: Monotonic) -> Act {
        match &self.connections[index] {
            Connection::Closed { reopen_at } if now < *reopen_at => Act::Wait,
            Connection::Closed { .. } => Act::Open,
            Connection::Opening { since, .. } if looked.since(*since) > HANDSHAKE => {
                self.connections[index] = Connection::Closed { reopen_at: now };
                Act::GiveUp
            }
            Connection::Opening { .. } => Act::Wait,
            Connection::Open(_) => Act::Look,
        }
    }

    /// Its handshake was begun, or could not be.
    pub fn opening(&mut self, index: usize, begun: bool, now: Monotonic) {
        self.connections[index] = if begun {
            Connection::Opening { since: now, reply: Reply::default() }
        } else {
            Connection::Closed { reopen_at: now + REOPEN_AFTER }
        };
    }

    /// These bytes came before it was there; whether it is kept.
    pub fn on_reply(&mut self, index: usize, bytes: &[u8], now: Monotonic) -> bool {
        let Connection::Opening { since, reply } = &mut self.connections[index] else { return true };
        match reply.read(bytes) {
            None => true,
            Some(Outcome::Pong) => {
                self.report.opened += 1;
                self.facts.push(HeldFact::Opened);
                self.connections[index] = Connection::Open(StallJudge::new(index as u64, self.start, *since));
                true
            }
            Some(outcome) => {
                self.report.leaked += u64::from(outcome == Outcome::Leaked);
                self.close(index, now);
                false
            }
        }
    }

    /// It is gone. Before a pong there never was a connection to lose: one that is closed in order and without a word then was
    /// denied, unless the target says so when it denies.
    pub fn on_gone(&mut self, index: usize, reason: LossReason, now: Monotonic) {
        match self.close(index, now) {
            Connection::Open(mut judge) => {
                self.facts.push(HeldFact::Closed);
                let stall = judge.end(StallEnd::Lost, now, self.by_chance());
                self.note_stall(stall);
                self.note_loss(index, reason, now);
            }
            Connection::Opening { reply, .. } => {
                let is_denied = !self.annotates && reply.is_empty() && reason == LossReason::Closed;
                self.report.leaked += u64::from(is_denied);
                self.report.leaked_presumed += u64::from(is_denied);
            }
            Connection::Closed { .. } => {}
        }
    }

    fn close(&mut self, index: usize, now: Monotonic) -> Connection {
        let closed = Connection::Closed { reopen_at: now + REOPEN_AFTER };
        std::mem::replace(&mut self.connections[index], closed)
    }

    /// Whether the target has answered it.
    pub fn is_open(&self, index: usize) -> bool {
        matches!(self.connections[index], Connection::Open(_))
    }

    /// Takes in what was seen of it; whether a byte is to be sent, after which [`Holding::sent`] follows.
    pub fn on_look(&mut self, index: usize, seen: Seen, now: Monotonic) -> bool {
        let chance = self.by_chance();
        let Connection::Open(judge) = &mut self.connections[index] else { return false };
        let was_waiting = !judge.may_send();
        let stall = judge.look(now, seen, chance);
        let may_send = judge.may_send();
        self.acknowledged += u64::from(was_waiting && may_send);
        self.sent_again += u64::from(stall.is_some());
        self.note_stall(stall);
        may_send
    }

    /// A byte was sent on it.
    pub fn sent(&mut self, index: usize, at: Monotonic, retransmissions: u32) {
        if let Connection::Open(judge) = &mut self.connections[index] {
            judge.sent(at, retransmissions);
        }
    }

    /// Ends with the watch: stalls that are open have no end.
    pub fn finish(&mut self, now: Monotonic) -> HoldReport {
        for index in 0..self.connections.len() {
            let chance = self.by_chance();
            if let Connection::Open(judge) = &mut self.connections[index] {
                let stall = judge.end(StallEnd::Open, now, chance);
                self.note_stall(stall);
            }
        }
        std::mem::take(&mut self.report)
    }

    /// What has become known since the last call, in order.
    pub fn take_facts(&mut self) -> Vec<HeldFact> {
        std::mem::take(&mut self.facts)
    }

    /// How many transmissions in a row chance may have lost, by what was lost so far.
    fn by_chance(&self) -> ByChance {
        let (_, rate) = wilson(self.sent_again, self.acknowledged, CAUTION);
        ByChance(if rate >= 1.0 { u32::MAX } else { (IMPROBABLE.ln() / rate.ln()).ceil() as u32 })
    }

    fn note_loss(&mut self, connection: usize, reason: LossReason, now: Monotonic) {
        let at_seconds = now.since(self.start).as_secs_f64();
        let loss = Loss { connection: connection as u64, at_seconds, reason };
        self.report.lost_total += 1;
        if self.report.lost.len() < CAP {
            self.report.lost.push(loss.clone());
        }
        self.facts.push(HeldFact::Lost(loss));
    }

    fn note_stall(&mut self, stall: Option<HeldStall>) {
        let Some(stall) = stall else { return };
        self.report.stalls_total += 1;
        if self.report.stalls.len() < CAP {
            self.report.stalls.push(stall.clone());
        }
        self.facts.push(HeldFact::Stalled(stall));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    #[test]
    fn a_connection_is_opened_looked_at_lost_and_opened_again_after_a_pause() {
        let mut holding = Holding::new(1, at(0));
        assert_eq!(holding.on_tick(0, at(10), at(10)), Act::Open);
        holding.opening(0, true, at(10));
        assert_eq!(holding.on_tick(0, at(20), at(20)), Act::Wait);
        assert!(holding.on_reply(0, b"pong\n", at(20)));
        assert_eq!(holding.on_tick(0, at(30), at(30)), Act::Look);
        assert!(holding.on_look(0, Seen { outstanding: false, retransmissions: 0 }, at(30)));
        holding.sent(0, at(30), 0);
        assert!(!holding.on_look(0, Seen { outstanding: true, retransmissions: 1 }, at(240)));
        holding.on_gone(0, LossReason::Reset, at(300));
        let facts = holding.take_facts();
        assert!(
            matches!(
                &facts[..],
                [HeldFact::Opened, HeldFact::Closed, HeldFact::Stalled(_), HeldFact::Lost(_)]
            ),
            "{facts:?}"
        );
        assert_eq!(holding.on_tick(0, at(499), at(499)), Act::Wait);
        assert_eq!(holding.on_tick(0, at(500), at(500)), Act::Open);
        let report = holding.finish(at(600));
        assert_eq!((report.opened, report.lost_total, report.stalls_total), (1, 1, 1));
    }

    #[test]
    fn a_handshake_is_given_up_only_when_it_was_over_by_the_look() {
        let mut holding = Holding::new(1, at(0));
        holding.opening(0, true, at(0));
        assert_eq!(holding.on_tick(0, at(1_000), at(9_000)), Act::Wait);
        assert_eq!(holding.on_tick(0, at(1_001), at(9_000)), Act::GiveUp);
        assert_eq!(holding.on_tick(0, at(9_000), at(9_000)), Act::Open);
        holding.opening(0, true, at(9_000));
        holding.on_gone(0, LossReason::Unreachable, at(9_001));
        assert_eq!(holding.finish(at(9_002)), HoldReport { connections: 1, ..HoldReport::default() });
    }

    /// Opens a connection three times, which hears this and is closed like that: how often it was denied, and presumed to be.
    fn denied(annotates: bool, heard: &[&[u8]], reason: LossReason) -> (u64, u64) {
        let mut holding = Holding::new(1, at(0));
        holding.set_annotates(annotates);
        for attempt in 0..3 {
            assert_eq!(holding.on_tick(0, at(attempt * 300), at(attempt * 300)), Act::Open);
            holding.opening(0, true, at(attempt * 300));
            if heard.iter().all(|bytes| holding.on_reply(0, bytes, at(attempt * 300 + 1))) {
                holding.on_gone(0, reason, at(attempt * 300 + 1));
            }
        }
        assert_eq!(holding.take_facts(), []);
        let report = holding.finish(at(1_000));
        assert_eq!((report.opened, report.lost_total), (0, 0));
        (report.leaked, report.leaked_presumed)
    }

    #[test]
    fn what_the_target_denies_was_never_there_to_be_lost() {
        assert_eq!(denied(true, &[b"denied\nsource=192.0.2.1:5\n"], LossReason::Closed), (3, 0));
        assert_eq!(denied(true, &[b"den", b"ied\n"], LossReason::Closed), (3, 0));
        assert_eq!(denied(false, &[], LossReason::Closed), (3, 3));
    }

    #[test]
    fn a_close_that_is_no_denial_is_not_counted_as_one() {
        assert_eq!(denied(true, &[], LossReason::Closed), (0, 0), "this target says so when it denies");
        assert_eq!(denied(false, &[], LossReason::Reset), (0, 0));
        assert_eq!(denied(false, &[b"po"], LossReason::Closed), (0, 0), "cut off");
        assert_eq!(denied(false, &[b"HTTP/1.1 400"], LossReason::Closed), (0, 0), "no external target");
    }

    #[test]
    fn losses_and_stalls_beyond_the_list_are_counted() {
        let mut holding = Holding::new(1, at(0));
        for _ in 0..1_500 {
            holding.opening(0, true, at(0));
            assert!(holding.on_reply(0, b"pong\n", at(0)));
            holding.on_gone(0, LossReason::Closed, at(1));
        }
        let report = holding.finish(at(2));
        assert_eq!((report.lost.len(), report.lost_total, report.opened), (1_000, 1_500, 1_500));
    }
}
