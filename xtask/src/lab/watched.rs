//! Whether what a watching client recorded agrees with the outage that was made. Pure: values in, values out.

use std::net::IpAddr;
use std::time::Duration;

use egw_probe::document::disruption::{Disruption, Kind, LengthBracket};
use egw_probe::document::held::{HeldStall, HoldReport, LossReason, StallEnd};
use egw_probe::document::result::{ResultDocument, TestOutcome};
use serde::Serialize;

use super::clock::Monotonic;
use super::options::{Plan, Scenario};
use super::topology::Nat;

/// How often a client looks at a held connection: each interval, but not more often than this.
const HELD_TICK: Duration = Duration::from_millis(10);
/// A look, and what it sees, may be late by so much on a machine that runs the whole lab.
const LATE_LOOK: Duration = Duration::from_millis(10);

/// An outage as it was made: begin and end each took effect between two instants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) begin: [Monotonic; 2],
    pub(crate) end: [Monotonic; 2],
}

impl Done {
    /// The least and the greatest length that the outage can have had, in seconds.
    pub(crate) fn length(&self) -> [f64; 2] {
        let least = self.end[0].seconds_since(self.begin[1]).max(0.0);
        [least, self.end[1].seconds_since(self.begin[0])]
    }
}

/// Whether the client had its winner, and its held connections, before the outage began.
pub(crate) fn was_up_before(watched: &ResultDocument, begin: Monotonic) -> bool {
    let up = watched.masquerade_delay_seconds.map(|delay| delay + 2.0 * HELD_TICK.as_secs_f64());
    up.is_some_and(|up| up < begin.seconds_since(Monotonic::start_of(watched)))
}

/// Twice the handshake time: how long before an outage a probe can have been sent that it still cuts.
fn exchange_seconds(watched: &ResultDocument) -> f64 {
    2.0 * watched.connect_seconds.map_or(0.0, |quantiles| quantiles.p99)
}

/// How far ticks that came late, or not at all because the client was held up, move and widen a bracket: the client
/// says so itself.
fn late_seconds(watched: &ResultDocument) -> f64 {
    2.0 * watched.tick_lateness_seconds.map_or(0.0, |late| late.max)
        + watched.stalls.iter().map(|stall| stall.length_seconds).sum::<f64>()
}

/// Between which instants the first miss of an outage was sent, in seconds since the client's start.
fn starts_within(watched: &ResultDocument, plan: &Plan, done: &Done) -> [f64; 2] {
    let [earliest, latest] = done.begin.map(|begin| begin.seconds_since(Monotonic::start_of(watched)));
    let late = late_seconds(watched);
    [
        earliest - exchange_seconds(watched) - late,
        latest + plan.interval.as_secs_f64() + LATE_LOOK.as_secs_f64() + late,
    ]
}

/// The disruption that stands for the outage: the longest.
pub(crate) fn longest(watched: &ResultDocument) -> Option<&Disruption> {
    let upper = |disruption: &&Disruption| disruption.length_seconds.upper.unwrap_or(f64::INFINITY);
    watched.disruptions.iter().flatten().max_by(|one, other| upper(one).total_cmp(&upper(other)))
}

/// What the comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Judgement {
    /// The recorded length lies inside the measured bracket.
    pub(crate) inside: bool,
    /// The bracket's width.
    pub(crate) width_seconds: Option<f64>,
    /// Two intervals and two round-trips.
    pub(crate) width_allowed_seconds: f64,
    /// The width is more than that, by no more than the ticks of the client were late.
    pub(crate) wide_by_lateness: bool,
    pub(crate) faults: Vec<String>,
}

impl Judgement {
    fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }
}

/// Judges one outage.
pub(crate) fn judge(plan: &Plan, done: &Done, watched: &ResultDocument) -> Judgement {
    let mut judgement = Judgement::default();
    let outcome = watched.outcome;
    judgement.expect(outcome == TestOutcome::Masqueraded, || format!("the outcome is {}", outcome.name()));
    let errors = watched.probes.error;
    judgement.expect(errors == 0, || format!("{errors} probes failed on the client's own side"));
    let total = watched.disruptions_total;
    // Connection tracking is emptied entry by entry, for milliseconds: of the probes under way some are missed, in as many
    // disruptions as chance makes. Each must have begun within that time.
    if plan.scenario == Scenario::ConntrackLoss {
        let starts: Vec<f64> =
            watched.disruptions.iter().flatten().map(|disruption| disruption.start_seconds).collect();
        let [earliest, latest] = starts_within(watched, plan, done);
        for started in starts.into_iter().filter(|started| !(earliest..=latest).contains(started)) {
            judgement.faults.push(format!("a disruption started at {started:.6} s, outside the flush"));
        }
    } else {
        judgement.expect(total == 1, || format!("{total} disruptions where there was one outage"));
    }
    if let Some(disruption) = longest(watched) {
        judge_disruption(plan, done, watched, disruption, &mut judgement);
    } else {
        judgement.inside = plan.scenario == Scenario::ConntrackLoss;
    }
    judge_egress(plan, watched, &mut judgement);
    judge_held(plan, done, watched, &mut judgement);
    judgement
}

fn judge_disruption(
    plan: &Plan,
    done: &Done,
    watched: &ResultDocument,
    disruption: &Disruption,
    judgement: &mut Judgement,
) {
    let kinds: &[Kind] = match plan.scenario {
        Scenario::Flap => &[Kind::Leak],
        // A connection that the target had not yet accepted when it was killed is reset after its handshake: by
        // definition that is a leak.
        Scenario::Restart => &[Kind::Rejected, Kind::Leak],
        // Probes under way are lost on their way back, or go on from another port, which the target resets.
        Scenario::ConntrackLoss => &[Kind::Blackhole, Kind::Leak],
        _ => &[Kind::Blackhole],
    };
    let kind = disruption.kind;
    judgement.expect(kinds.contains(&kind), || format!("the disruption's kind is {}", kind.name()));
    let LengthBracket { lower, upper: Some(upper) } = disruption.length_seconds else {
        judgement.faults.push("the disruption has no end".into());
        return;
    };
    let [least, greatest] = done.length();
    let round_trip = watched.connect_seconds.map_or(0.0, |quantiles| quantiles.p99);
    let late = late_seconds(watched);
    judgement.inside = lower <= greatest && least <= upper;
    judgement.expect(judgement.inside, || {
        let [lower, upper, least, greatest] = [lower, upper, least, greatest].map(|seconds| seconds * 1e3);
        format!("the outage took {least:.3} to {greatest:.3} ms, not {lower:.3} to {upper:.3}")
    });
    // The disruption is the outage, and not something else of the same length.
    let started = disruption.start_seconds;
    let [earliest, latest] = starts_within(watched, plan, done);
    judgement.expect((earliest..=latest).contains(&started), || {
        format!("the disruption started at {started:.6} s, not {earliest:.6} to {latest:.6}")
    });
    let allowed = 2.0 * (plan.interval.as_secs_f64() + round_trip);
    let width = upper - lower;
    (judgement.width_seconds, judgement.width_allowed_seconds) = (Some(width), allowed);
    judgement.wide_by_lateness = width > allowed && width <= allowed + late;
    judgement.expect(width <= allowed + late, || {
        format!("the bracket is {:.3} ms wide, more than {:.3}", width * 1e3, allowed * 1e3)
    });
}

/// The egress IP is another one after a failover to a gateway that has its own, and never else.
fn judge_egress(plan: &Plan, watched: &ResultDocument, judgement: &mut Judgement) {
    let changes: Vec<[IpAddr; 2]> =
        watched.egress_changes.iter().map(|change| [change.from, change.to]).collect();
    let moved = plan.scenario == Scenario::Failover && !plan.same_ip;
    let expected = if moved { vec![[plan.family.egress(), plan.family.second_egress()]] } else { vec![] };
    judgement.expect(changes == expected, || format!("egress IP changes {changes:?}, not {expected:?}"));
}

/// What has to become of the held connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They stall, and go on when the path is back: the translation of each is what it was.
    Stall,
    /// Each goes on, picked up in the middle by its next segment outward; or is reset, where a segment of the target came
    /// first: the gateway takes that for its own, and has no such connection.
    SurviveOrReset,
    /// They are reset at the first segment that goes another way: it arrives from an address or a port that the target
    /// has no connection with.
    Reset,
    /// The target ends, and its kernel closes them: by an RST where a byte was unread, by a FIN where none was.
    Close,
}

fn fate(plan: &Plan) -> Fate {
    match plan.scenario {
        // Off the policy their segments leave the node as they are, to be answered to an address without a route.
        Scenario::Flap => Fate::Stall,
        // The second gateway picks them up in the middle (`nf_conntrack_tcp_loose`), and keeps the port if it may.
        Scenario::Failover if plan.same_ip && plan.nat == Nat::Masquerade => Fate::Stall,
        Scenario::ConntrackLoss if plan.nat == Nat::Masquerade => Fate::SurviveOrReset,
        Scenario::Restart => Fate::Close,
        _ => Fate::Reset,
    }
}

fn judge_held(plan: &Plan, done: &Done, watched: &ResultDocument, judgement: &mut Judgement) {
    let wanted = u64::from(plan.hold);
    let Some(held) = &watched.held else {
        judgement.expect(wanted == 0, || "the client held no connection".into());
        return;
    };
    let fate = fate(plan);
    let lost = held.lost.len() as u64;
    // The random port that a connection goes on from may be one that the target still has another connection with, of an
    // earlier run: that answers for itself (RFC 5961 section 3.2), and never with an RST.
    let unanswered = if plan.scenario == Scenario::ConntrackLoss {
        held.stalls.iter().filter(|stall| stall.ended == StallEnd::Open).count() as u64
    } else {
        0
    };
    let (may_be_lost, reasons): (_, &[LossReason]) = match fate {
        Fate::Stall => (0..=0, &[]),
        Fate::SurviveOrReset => (0..=wanted, &[LossReason::Reset]),
        Fate::Reset => (wanted - unanswered.min(wanted)..=wanted, &[LossReason::Reset]),
        Fate::Close => (wanted..=wanted, &[LossReason::Reset, LossReason::Closed]),
    };
    judge_losses(plan, done, watched, held, reasons, judgement);
    let opened = held.opened;
    judgement.expect(may_be_lost.contains(&lost), || {
        format!("{lost} held connections lost, not {} to {}", may_be_lost.start(), may_be_lost.end())
    });
    judgement.expect(opened == wanted + lost, || {
        format!("held connections were opened {opened} times, not {}", wanted + lost)
    });
    judge_recoveries(plan, done, watched, held, fate, judgement);
}

/// How long after an outage the client may take to see what became of a held connection, in seconds.
fn look(plan: &Plan, watched: &ResultDocument) -> f64 {
    let round_trip = watched.connect_seconds.map_or(0.0, |quantiles| quantiles.max);
    plan.interval.max(HELD_TICK).as_secs_f64() + LATE_LOOK.as_secs_f64() + 2.0 * round_trip
}

/// Each loss has a reason that its outage can have, and an instant at which it can be seen.
fn judge_losses(
    plan: &Plan,
    done: &Done,
    watched: &ResultDocument,
    held: &HoldReport,
    reasons: &[LossReason],
    judgement: &mut Judgement,
) {
    let start = Monotonic::start_of(watched);
    let begin = done.begin[0].seconds_since(start);
    let end = done.end[1].seconds_since(start);
    let look = look(plan, watched);
    for loss in &held.lost {
        let reason = loss.reason;
        judgement
            .expect(reasons.contains(&reason), || format!("a held connection was lost as {}", reason.name()));
        // A reset over the second gateway comes with the next segment that is sent again, the other ones at once.
        let latest = match plan.scenario {
            Scenario::Failover => f64::INFINITY,
            Scenario::Restart => done.begin[1].seconds_since(start) + look,
            // A byte whose acknowledgement was under way is sent again first, which takes the kernel 200 ms and more.
            _ => end + look + plan.recovery(Duration::ZERO).as_secs_f64(),
        };
        let earliest =
            if plan.scenario == Scenario::Failover { done.end[0].seconds_since(start) } else { begin };
        judgement.expect((earliest..=latest).contains(&loss.at_seconds), || {
            format!(
                "a held connection was lost at {:.6} s, not {earliest:.6} to {latest:.6}",
                loss.at_seconds
            )
        });
    }
}

/// Connections that only stalled recover, and each puts the outage where it was.
fn judge_recoveries(
    plan: &Plan,
    done: &Done,
    watched: &ResultDocument,
    held: &HoldReport,
    fate: Fate,
    judgement: &mut Judgement,
) {
    let (wanted, look) = (u64::from(plan.hold), look(plan, watched));
    let recovered: Vec<&HeldStall> =
        held.stalls.iter().filter(|stall| stall.ended == StallEnd::Recovered).collect();
    let may_recover = match fate {
        Fate::Stall => wanted..=wanted,
        // A byte whose acknowledgement was lost with the translation is sent again.
        Fate::SurviveOrReset => 0..=wanted,
        Fate::Reset | Fate::Close => 0..=0,
    };
    let count = recovered.len() as u64;
    judgement.expect(may_recover.contains(&count), || {
        format!(
            "{count} stalls of held connections recovered, not {} to {}",
            may_recover.start(),
            may_recover.end()
        )
    });
    let [least, greatest] = done.length();
    for stall in recovered {
        let LengthBracket { lower, upper } = stall.outage_seconds;
        let holds = lower <= greatest + look && upper.is_some_and(|upper| least <= upper + look);
        judgement.expect(holds, || {
            format!("a held connection puts the outage at {lower:.3} to {upper:?} s, not {least:.3}")
        });
    }
}
