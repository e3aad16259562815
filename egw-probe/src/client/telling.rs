//! What scrapers and readers of the log are told, fact by fact.

use std::fmt::Write;

use crate::client::disruptions::Event as WatchEvent;
use crate::client::egress::Event as EgressEvent;
use crate::client::metrics::ClientMetrics;
use crate::client::outcome::Probe;
use crate::client::probing::{Fact, Probing};
use crate::document::disruption::{Disruption, PartialOutage};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;
use crate::sys::log::{Pass, RateLimit};

/// Tells, and keeps repeated lines apart.
#[derive(Debug)]
pub(crate) struct Telling<'a> {
    metrics: &'a ClientMetrics,
    start: Monotonic,
    misses: u64,
    ponged: bool,
    last_outcome: Option<Outcome>,
    outcome_log: RateLimit,
    disruption_log: RateLimit,
    egress_log: RateLimit,
    egress_known: bool,
}

impl<'a> Telling<'a> {
    /// Of a test that began at `start`.
    pub(crate) fn new(metrics: &'a ClientMetrics, start: Monotonic) -> Self {
        Self {
            metrics,
            start,
            misses: 0,
            ponged: false,
            last_outcome: None,
            outcome_log: RateLimit::per_second(1),
            disruption_log: RateLimit::per_second(20),
            egress_log: RateLimit::per_second(20),
            egress_known: false,
        }
    }

    /// Tells of the next fact.
    pub(crate) fn take(&mut self, fact: &Fact, now: Monotonic) {
        match fact {
            Fact::Skipped(ticks) => self.metrics.skipped_ticks.inc_by(*ticks),
            Fact::Settled { probe, before_winner } => self.settled(probe, *before_winner, now),
            Fact::Won { delay } => {
                self.metrics.masquerade_delay.inc_by(delay.as_secs_f64());
                tracing::info!(?delay, misses = self.misses, "masqueraded");
            }
            Fact::Watched(event) => self.watched(event, now),
            Fact::Egress(event, in_force) => self.egress(event, *in_force, now),
            Fact::Served { .. } | Fact::Stalled { .. } => {}
        }
    }

    fn settled(&mut self, probe: &Probe, before_winner: bool, now: Monotonic) {
        let outcome = probe.outcome();
        self.metrics.count(outcome);
        if let Some(established) = probe.established {
            self.metrics.connect_seconds.observe(established.since(probe.sent).as_secs_f64());
        }
        if before_winner {
            self.misses += 1;
            self.metrics.leaked_requests.inc();
        }
        // What a watch sees after the winner matters as disruptions.
        let turns = self.last_outcome.replace(outcome) != Some(outcome);
        if (before_winner || !std::mem::replace(&mut self.ponged, true))
            && turns
            && let Some(Pass { held_back }) = self.outcome_log.pass(now)
        {
            tracing::info!(
                sent_at = ?probe.sent.since(self.start),
                held_back,
                "probes {}",
                describe(outcome)
            );
        }
    }

    /// One log line when an outage begins, one when it ends.
    fn watched(&mut self, event: &WatchEvent, now: Monotonic) {
        let watch = &self.metrics.watch;
        match event {
            WatchEvent::Began { .. } => watch.disrupted.set(1),
            WatchEvent::Ended(disruption) => {
                watch.count(disruption);
                watch.disrupted.set(i64::from(disruption.length_seconds.upper.is_none()));
            }
            WatchEvent::Lost(misses) => watch.lost.inc_by(*misses),
            WatchEvent::PartlyBegan => watch.partly_disrupted.set(1),
            WatchEvent::PartlyEnded(outage) => {
                watch.partial_outages.inc();
                watch.partly_disrupted.set(i64::from(outage.ended_seconds.upper.is_none()));
            }
        }
        if matches!(event, WatchEvent::Lost(_)) {
            return;
        }
        let Some(Pass { held_back }) = self.disruption_log.pass(now) else { return };
        match event {
            WatchEvent::Lost(_) => {}
            WatchEvent::Began { kind, start } => {
                tracing::warn!(kind = kind.name(), at = ?start, held_back, "disruption began");
            }
            WatchEvent::Ended(Disruption { kind, length_seconds, misses, .. }) => {
                let (at_least, at_most) = (length_seconds.lower, length_seconds.upper);
                tracing::warn!(kind = kind.name(), at_least, at_most, misses, held_back, "disruption ended");
            }
            WatchEvent::PartlyBegan => {
                tracing::warn!(held_back, "a share of the probes is lost: a gateway of several may be dead");
            }
            WatchEvent::PartlyEnded(PartialOutage { length_seconds, lost, .. }) => {
                let (at_least, at_most) = (length_seconds.lower, length_seconds.upper);
                let share = lost.share;
                tracing::warn!(share, at_least, at_most, held_back, "partial outage ended");
            }
        }
    }

    /// One log line when an address comes for the first time, or comes no more.
    fn egress(&mut self, event: &EgressEvent, in_force: usize, now: Monotonic) {
        self.metrics.egress_ips.set(in_force as i64);
        let is_first =
            matches!(event, EgressEvent::Appeared { .. }) && !std::mem::replace(&mut self.egress_known, true);
        if !is_first && !matches!(event, EgressEvent::LeakedFrom(_)) {
            self.metrics.egress_changes.inc();
        }
        let Some(Pass { held_back }) = self.egress_log.pass(now) else { return };
        match event {
            EgressEvent::Appeared { address, again: false } => {
                tracing::info!(%address, held_back, "pongs come by a new egress IP");
            }
            EgressEvent::Appeared { address, again: true } => {
                tracing::info!(%address, held_back, "pongs come by this egress IP again");
            }
            EgressEvent::Stopped(address) => {
                tracing::warn!(%address, held_back, "pongs come by this egress IP no more");
            }
            EgressEvent::LeakedFrom(address) => {
                tracing::warn!(%address, held_back, "probes leak from this address");
            }
        }
    }
}

/// The line of progress, without the target.
pub(crate) fn progress<S>(probing: &Probing<S>, start: Monotonic, now: Monotonic) -> String {
    let counts = probing.judge().counts();
    let mut line = format!("{:.1} s  in flight {}", now.since(start).as_secs_f64(), probing.open());
    for outcome in Outcome::ALL.into_iter().filter(|outcome| counts.of(*outcome) > 0) {
        let _ = write!(line, "  {} {}", outcome.name(), counts.of(outcome));
    }
    line
}

/// What the log says when probes begin to end like this.
fn describe(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pong => "are answered with pong: the target sees an allowed source",
        Outcome::Leaked => "leak: the target sees a source outside its allowed CIDRs",
        Outcome::Closed => {
            "are closed by something other than the target: a proxy or load balancer is on the way"
        }
        Outcome::Reset => {
            "are reset after their handshake: the target or something on the way has given up on them"
        }
        Outcome::Silent => "are established and get no reply within the probe timeout",
        Outcome::Timeout => "get no handshake within the probe timeout",
        Outcome::Refused => "are refused: nothing listens on the target's port, or a firewall rejects",
        Outcome::Unreachable => "meet no route to the target",
        Outcome::Garbled => "are answered by something that is no external target",
        Outcome::Error => "fail on this host before they leave",
    }
}
