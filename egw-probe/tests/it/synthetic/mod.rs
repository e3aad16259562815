//! Clients that never were: delays drawn from a distribution that is known, and the result documents that probing on ticks makes of
//! them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the example and each test use a part of it")]

use std::collections::BTreeMap;

use egw_probe::document::disruption::{Disruption, Kind, LengthBracket};
use egw_probe::document::outcome::{Evidence, Outcome};
use egw_probe::document::quantiles::Quantiles;
use egw_probe::document::result::{
    BracketSeconds, ProbeCounts, ResultDocument, Settings, TestOutcome, TimelineRun,
};

/// No delay is shorter.
pub const SHORTEST: f64 = 0.2;
/// Mean of what comes on top, which is exponential.
pub const MEAN: f64 = 0.15;
/// One client in so many never gets through.
pub const NEVER: u64 = 200;
/// When those give up.
pub const TEST_TIMEOUT: f64 = 10.0;

/// The delay that a share `q` of all clients does not exceed; infinite for those that never get through.
pub fn true_quantile(q: f64) -> f64 {
    let through = 1.0 - 1.0 / NEVER as f64;
    if q < through { SHORTEST - MEAN * (1.0 - q / through).ln() } else { f64::INFINITY }
}

/// The same clients on every machine.
pub struct Clients {
    random: fastrand::Rng,
    number: u64,
    shift: f64,
}

impl Clients {
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), number: 0, shift: 0.0 }
    }

    /// Every delay is longer by this.
    pub fn shifted_by(self, shift: f64) -> Self {
        Self { shift, ..self }
    }
}

fn settings(interval: f64) -> Settings {
    Settings {
        interval: format!("{}ms", interval * 1e3),
        tick_phase: None,
        test_timeout: "10s".to_owned(),
        probe_timeout: "900ms".to_owned(),
        stress: false,
        watch: None,
        source_addr: None,
        bind_device: None,
    }
}

impl Iterator for Clients {
    type Item = (Option<f64>, ResultDocument);

    /// A client: its delay, if it gets through, and its result.
    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let never = self.random.f64() < 1.0 / NEVER as f64;
        let truth = (!never).then(|| SHORTEST + self.shift - MEAN * (1.0 - self.random.f64()).ln());
        let interval = [0.001, 0.01, 0.05, 0.1][(self.random.f64() * 4.0) as usize];
        let first = 0.002 + 0.003 * self.random.f64();
        let jitter = 0.000_2 * self.random.f64();
        // One client in fifty sees nothing of what leaks: its SYN-ACKs get lost, so that its bracket has no lower end.
        let blind = self.random.f64() < 0.02;
        let sent = |tick: f64| first + tick * interval + jitter;
        let end = truth.unwrap_or(TEST_TIMEOUT);
        // Ticks whose SYN passes before the policy; the next one gets the pong.
        let leaked = (((end - first - jitter) / interval).ceil().max(0.0)) as u64;
        let last = sent(leaked as f64 - 1.0);
        let rtt = 0.000_4 + 0.000_6 * self.random.f64();
        let outcome = if blind { Outcome::Timeout } else { Outcome::Leaked };
        let run = |outcome, from_seconds, to_seconds, probes| TimelineRun {
            outcome,
            from_seconds,
            to_seconds,
            probes,
        };
        let mut timeline = vec![run(outcome, sent(0.0), last, leaked)];
        if truth.is_some() {
            timeline.push(run(Outcome::Pong, sent(leaked as f64), sent(leaked as f64), 1));
        }
        let upper = truth.map(|_| sent(leaked as f64) + rtt);
        let disrupted = self.random.f64() < 0.05 && !never;
        let disruption = Disruption {
            kind: if self.random.f64() < 0.5 { Kind::Leak } else { Kind::Blackhole },
            start_seconds: 20.0 + 10.0 * self.random.f64(),
            length_seconds: LengthBracket { lower: 4.0 * interval, upper: Some(6.0 * interval) },
            misses: 5,
        };
        let quantiles = Quantiles { min: rtt, p50: rtt, p90: rtt, p99: rtt, max: rtt };
        let document = ResultDocument {
            schema: 1,
            client_id: format!("egw-client-{:06}", self.number),
            tag: None,
            target: "192.0.2.9:1337".to_owned(),
            target_address: Some("192.0.2.9:1337".to_owned()),
            started_at: format!(
                "2026-01-01T00:{:02}:{:02}.{:09}Z",
                self.number / 60 % 60,
                self.number % 60,
                self.number
            ),
            start_monotonic_ns: 1_000_000_000 + self.number,
            outcome: if never { TestOutcome::TimedOut } else { TestOutcome::Masqueraded },
            masquerade_delay_seconds: upper,
            bracket: BracketSeconds {
                lower_seconds: (leaked > 0 && !blind).then_some(last),
                lower_evidence: (leaked > 0 && !blind).then_some(Evidence::Proven),
                upper_seconds: upper,
            },
            blackhole_seconds: if blind { upper.unwrap_or(end) - sent(0.0) } else { 0.0 },
            probes: ProbeCounts {
                pong: u64::from(!never),
                leaked: if blind { 0 } else { leaked },
                timeout: if blind { leaked } else { 0 },
                leaked_proven: if blind { 0 } else { leaked },
                timeouts_before_winner: if blind { leaked } else { 0 },
                sent: leaked + u64::from(!never),
                misses_before_winner: leaked,
                ..ProbeCounts::default()
            },
            connect_seconds: Some(quantiles),
            tick_lateness_seconds: Some(quantiles),
            labels: BTreeMap::new(),
            first_probe_seconds: Some(sent(0.0)),
            end_to_end: upper.map(|_| true),
            egress_ip: None,
            egress_ips: vec![],
            egress_ips_omitted_pongs: 0,
            leaked_from: vec![],
            leaked_from_omitted_probes: 0,
            partial_outages: None,
            partial_outages_total: 0,
            loss: None,
            disruptions: disrupted.then(|| vec![disruption]),
            disruptions_total: u64::from(disrupted),
            egress_changes: vec![],
            egress_changes_total: 0,
            egress_stops_total: 0,
            held: None,
            stalls: vec![],
            stalls_total: 0,
            stress: None,
            timeline,
            timeline_omitted_probes: 0,
            failed_gates: vec![],
            warnings: vec![],
            diagnosis: vec![],
            settings: settings(interval),
            version: "0.1.0".to_owned(),
        };
        Some((truth, document))
    }
}
