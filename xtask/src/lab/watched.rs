//! Whether what a watching client recorded agrees with the outage that was made. Pure: values in, values out.

use std::time::Duration;

use egw_probe::document::disruption::{Disruption, Kind, LengthBracket};
use egw_probe::document::held::{HoldReport, LossReason, StallEnd};
use egw_probe::document::result::{ProbeCounts, ResultDocument, TestOutcome};

use super::clock::Monotonic;
use super::disturbance::Disturb;
use super::judgement::{Done, Judgement};
use super::options::{Plan, Scenario};
use super::runs::{self, MissRun};
use super::topology::Nat;
use super::{several, verdict};

/// How often a client looks at a held connection: each interval, but not more often than this.
const HELD_TICK: Duration = Duration::from_millis(10);
/// A look, and what it sees, may be late by so much on a machine that runs the whole lab. For expectations alone: no claim is
/// judged by it.
const LATE_LOOK: Duration = Duration::from_millis(10);

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

/// Judges one outage: first what the client claims, without tolerance, then what is to be expected of it.
pub(crate) fn judge(plan: &Plan, done: &Done, watched: &ResultDocument) -> Judgement {
    let mut judgement = Judgement { inside: true, ..Judgement::default() };
    let outcome = watched.outcome;
    judgement.expect(outcome == TestOutcome::Masqueraded, || format!("the outcome is {}", outcome.name()));
    judgement.faults.extend(verdict::evidence_faults(plan, watched));
    let runs = runs::after_winner(watched);
    judge_list(plan, watched, &runs, &mut judgement);
    judge_lengths(plan, done, watched, &runs, &mut judgement);
    judge_stalls(done, watched, &mut judgement);
    if !plan.has(Disturb::Portreuse) {
        let errors = watched.probes.error;
        judgement.expect(errors == 0, || format!("{errors} probes failed on the client's own side"));
    }
    several::judge_partial(plan, done, watched, &mut judgement);
    several::judge_loss(plan, watched, &mut judgement);
    several::judge_egress(plan, watched, &mut judgement);
    if plan.disturb.is_empty() {
        judge_number(plan, done, watched, &mut judgement);
        judge_held(plan, done, watched, &mut judgement);
    }
    judgement
}

/// A claim: every disruption is a run of misses, every miss is told once, and what is told as loss may be chance.
fn judge_list(plan: &Plan, watched: &ResultDocument, runs: &[MissRun], judgement: &mut Judgement) {
    let omitted = watched.timeline_omitted_probes;
    // Long loss fills a timeline; then what is beyond its end is judged by the counts alone.
    let is_long_loss = plan.scenario == Scenario::Steady && plan.has(Disturb::Loss);
    judgement.expect(omitted == 0 || is_long_loss, || {
        format!("the timeline lacks {omitted} probes: nothing can be judged")
    });
    let told: Vec<&Disruption> = watched.disruptions.iter().flatten().collect();
    let told_until = watched.timeline.last().map_or(0.0, |last| last.to_seconds);
    for disruption in &told {
        let is_beyond = omitted > 0 && disruption.start_seconds >= told_until;
        judgement.expect(is_beyond || runs.iter().any(|run| is_of(disruption, run)), || {
            format!("of {} misses at {} s no run is known", disruption.misses, disruption.start_seconds)
        });
    }
    for run in runs.iter().filter(|run| !told.iter().any(|told| is_of(told, run))) {
        // Without loss, chance explains one miss and no more. A walk through all connections makes many of those.
        let may_be_chance = run.unanswered
            && (!plan.disturb.is_empty()
                || matches!(plan.scenario, Scenario::Gateways | Scenario::ConntrackLoss));
        judgement.expect(run.is_single() || may_be_chance, || format!("{run:?} is told as no disruption"));
    }
    let Some(loss) = &watched.loss else { return judgement.expect(false, || "no loss is told".into()) };
    let ProbeCounts { sent, unsettled, pong, error, misses_before_winner, .. } = watched.probes;
    let happened = if omitted == 0 {
        runs.iter().map(|run| run.misses).sum()
    } else {
        sent - unsettled - pong - error - misses_before_winner
    };
    let parts = [loss.isolated, loss.in_disruptions, loss.in_partial_outages].map(|part| part.misses);
    judgement.expect(parts.iter().sum::<u64>() == happened, || {
        format!("by chance, in disruptions and partial outages {parts:?} misses are told, of {happened}")
    });
    let disrupted: u64 = told.iter().map(|told| told.misses).sum();
    judgement.expect(parts[1] == disrupted, || {
        format!("{} misses in disruptions are told, and these have {disrupted}", parts[1])
    });
}

fn is_of(disruption: &Disruption, run: &MissRun) -> bool {
    disruption.misses == run.misses && disruption.start_seconds.to_bits() == run.first_sent.to_bits()
}

/// A claim: each length is a bracket of the time for which no SYN got through. Where nothing was done, that is none.
fn judge_lengths(
    plan: &Plan,
    done: &Done,
    watched: &ResultDocument,
    runs: &[MissRun],
    judgement: &mut Judgement,
) {
    let start = Monotonic::start_of(watched);
    let [earliest, latest] = done.begin.map(|instant| instant.seconds_since(start));
    for told in watched.disruptions.iter().flatten() {
        let Some(run) = runs.iter().find(|run| is_of(told, run)) else { continue };
        let stands_for_it = plan.scenario.is_full_outage()
            && run.last_pong_sent <= latest
            && run.next_pong_sent.is_none_or(|sent| sent >= earliest);
        if stands_for_it {
            judgement.claim("the outage", told.length_seconds, done.length());
            judge_disruption(plan, done, watched, told, judgement);
        } else {
            judgement.claim("an outage that never was", told.length_seconds, [0.0, 0.0]);
        }
    }
}

/// A claim: a held connection puts the outage into the bracket that it prints. One whose byte was not under way meanwhile
/// was held up by nothing that was done.
fn judge_stalls(done: &Done, watched: &ResultDocument, judgement: &mut Judgement) {
    let start = Monotonic::start_of(watched);
    let [earliest, latest] = done.begin.map(|instant| instant.seconds_since(start));
    let end = done.end[0].seconds_since(start);
    for stall in watched.held.iter().flat_map(|held| &held.stalls) {
        let acknowledged = stall.length_seconds.upper.map(|length| stall.at_seconds + length);
        // What was seen after the outage may have happened before: only a stall that surely met it stands for it.
        let met_it = stall.at_seconds < end && acknowledged.is_none_or(|at| at > latest);
        let surely = met_it && stall.at_seconds + stall.length_seconds.lower > earliest;
        let [least, greatest] = done.length();
        let truth = match (met_it, surely) {
            (true, true) => [least, greatest],
            (true, false) => [0.0, greatest],
            (false, _) => [0.0, 0.0],
        };
        judgement.claim("by a held connection, the outage", stall.outage_seconds, truth);
    }
}

/// What is to be expected of an undisturbed outage: it is told once.
fn judge_number(plan: &Plan, done: &Done, watched: &ResultDocument, judgement: &mut Judgement) {
    let total = watched.disruptions_total;
    let wanted = u64::from(plan.scenario.is_full_outage());
    // Connection tracking is emptied entry by entry, for milliseconds: of the probes under way some are missed, in as many
    // disruptions as chance makes. Each must have begun within that time.
    if plan.scenario != Scenario::ConntrackLoss {
        return judgement
            .expect(total == wanted, || format!("{total} disruptions where there was one outage"));
    }
    let [earliest, latest] = starts_within(watched, plan, done);
    for disruption in watched.disruptions.iter().flatten() {
        let started = disruption.start_seconds;
        judgement.expect((earliest..=latest).contains(&started), || {
            format!("a disruption started at {started:.6} s, outside the flush")
        });
    }
}

/// What is to be expected of the disruption that stands for the outage: its kind, its begin, and bounds no wider than probes
/// are apart. None of that is claimed, and so each has a tolerance.
fn judge_disruption(
    plan: &Plan,
    done: &Done,
    watched: &ResultDocument,
    disruption: &Disruption,
    judgement: &mut Judgement,
) {
    let LengthBracket { lower, upper: Some(upper) } = disruption.length_seconds else {
        return judgement.expect(!plan.disturb.is_empty(), || "the disruption has no end".into());
    };
    let [least, greatest] = done.length();
    let over = upper - greatest;
    (judgement.width_seconds, judgement.over_seconds) = (Some(upper - lower), Some(over));
    if !plan.disturb.is_empty() {
        return;
    }
    let kinds: &[Kind] = match plan.scenario {
        Scenario::Flap => &[Kind::Leak],
        Scenario::Restart => &[Kind::Rejected],
        // Probes under way are lost on their way back, or go on from another port, which the target resets.
        Scenario::ConntrackLoss => &[Kind::Blackhole, Kind::Rejected],
        _ => &[Kind::Blackhole],
    };
    let kind = disruption.kind;
    judgement.expect(kinds.contains(&kind), || format!("the disruption's kind is {}", kind.name()));
    // The disruption is the outage, and not something else of the same length.
    let started = disruption.start_seconds;
    let [earliest, latest] = starts_within(watched, plan, done);
    judgement.expect((earliest..=latest).contains(&started), || {
        format!("the disruption started at {started:.6} s, not {earliest:.6} to {latest:.6}")
    });
    let round_trip = watched.connect_seconds.map_or(0.0, |quantiles| quantiles.p99);
    let late = late_seconds(watched);
    let allowed = 2.0 * (plan.interval.as_secs_f64() + round_trip);
    judgement.wide_by_lateness = over > allowed && over <= allowed + late;
    judgement.expect(over <= allowed + late, || {
        format!("the bracket ends {:.3} ms above the outage, more than {:.3}", over * 1e3, allowed * 1e3)
    });
    // An answer is no chance. What got none may have been lost beside the outage, of which the client says how much.
    if matches!(plan.scenario, Scenario::Flap) {
        // The first and the last of them took two round-trips each, and those between two paths got no answer.
        judgement.expect(lower >= least - allowed - 2.0 * round_trip - late, || {
            format!("the bracket begins {:.3} ms below the outage", (least - lower) * 1e3)
        });
    }
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
    Nothing,
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
        Scenario::Gateways | Scenario::Steady => Fate::Nothing,
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
        Fate::Stall | Fate::Nothing => (0..=0, &[]),
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
    judge_recoveries(plan, held, fate, judgement);
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

/// Connections that only stalled recover.
fn judge_recoveries(plan: &Plan, held: &HoldReport, fate: Fate, judgement: &mut Judgement) {
    let wanted = u64::from(plan.hold);
    let may_recover = match fate {
        Fate::Stall => wanted..=wanted,
        // A byte whose acknowledgement was lost with the translation is sent again.
        Fate::SurviveOrReset => 0..=wanted,
        Fate::Reset | Fate::Close | Fate::Nothing => 0..=0,
    };
    let count = held.stalls.iter().filter(|stall| stall.ended == StallEnd::Recovered).count() as u64;
    judgement.expect(may_recover.contains(&count), || {
        format!(
            "{count} stalls of held connections recovered, not {} to {}",
            may_recover.start(),
            may_recover.end()
        )
    });
}
