//! What scrapers and readers of the log are told, fact by fact.

use std::fmt::Write;

use crate::client::disruptions::Event as WatchEvent;
use crate::client::metrics::ClientMetrics;
use crate::client::outcome::Probe;
use crate::client::probing::{Fact, Probing};
use crate::document::disruption::{Disruption, EgressChange};
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

    /// One log line when a disruption begins, one when it ends.
    fn watched(&mut self, event: &WatchEvent, now: Monotonic) {
        match event {
            WatchEvent::Began { .. } => self.metrics.watch.disrupted.set(1),
            WatchEvent::Ended(disruption) => {
                self.metrics.watch.count(disruption);
                self.metrics.watch.disrupted.set(i64::from(disruption.length_seconds.upper.is_none()));
            }
            WatchEvent::Isolated(_) | WatchEvent::EgressChanged(_) => {}
        }
        if matches!(event, WatchEvent::Isolated(_)) {
            return;
        }
        let Some(Pass { held_back }) = self.disruption_log.pass(now) else { return };
        match event {
            WatchEvent::Isolated(_) => {}
            WatchEvent::Began { kind, start } => {
                tracing::warn!(kind = kind.name(), at = ?start, held_back, "disruption began");
            }
            WatchEvent::Ended(Disruption { kind, length_seconds, misses, .. }) => {
                let (at_least, at_most) = (length_seconds.lower, length_seconds.upper);
                tracing::warn!(kind = kind.name(), at_least, at_most, misses, held_back, "disruption ended");
            }
            WatchEvent::EgressChanged(EgressChange { from, to, .. }) => {
                tracing::warn!(%from, %to, held_back, "the egress IP changed");
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
