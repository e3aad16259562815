//! The client's metrics: the old program's names to the letter, and our own beside them.

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
};

use super::bracket::Bracket;
use super::outcome::Outcome;
use crate::metrics::{CONNECT_BUCKETS, registered};

/// Buckets of the old program's histogram: the defaults of the Go client library.
const STRESS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every metric of the client. Cheap to clone: clones share their values.
#[derive(Debug, Clone)]
pub struct ClientMetrics {
    /// Every miss before the winner.
    pub leaked_requests: IntCounter,
    /// The masquerade delay, added once.
    pub masquerade_delay: Counter,
    /// 1 once the test has failed.
    pub failed_tests: IntCounter,
    /// Connections of the stress test, by operation; no series before it starts.
    pub stress_connections: IntCounterVec,
    /// How long a dial of the stress test took.
    pub stress_latency: Histogram,
    /// Handshakes of probes.
    pub connect_seconds: Histogram,
    /// Time without an answer before the winner.
    pub blackhole_seconds: Gauge,
    /// Ticks without a probe.
    pub skipped_ticks: IntCounter,
    probes: Vec<IntCounter>,
    bracket: GaugeVec,
}

impl ClientMetrics {
    /// Registers all of them, at 0, with `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let by_outcome = registered(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "egw_probe_probes_total",
                    "Probes settled, by outcome, in the order in which they were sent",
                ),
                &["outcome"],
            )?,
        )?;
        Ok(Self {
            leaked_requests: counter(
                "egw_scale_test_leaked_requests_total",
                "Probes without a pong before the first that got one, whatever their outcome",
            )?,
            masquerade_delay: registered(
                registry,
                Counter::new(
                    "egw_scale_test_masquerade_delay_seconds_total",
                    "Seconds from the client's start to the handshake of the first probe that got a pong, added once",
                )?,
            )?,
            failed_tests: counter(
                "egw_scale_test_failed_tests_total",
                "1 once the test timeout has passed without a pong",
            )?,
            stress_connections: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "egw_scale_test_stress_connections_total",
                        "Connections of the stress test that were opened, or closed without our doing",
                    ),
                    &["operation"],
                )?,
            )?,
            stress_latency: registered(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "egw_scale_test_stress_connection_latency_seconds",
                        "Time that a successful dial of the stress test took",
                    )
                    .buckets(STRESS_BUCKETS.to_vec()),
                )?,
            )?,
            connect_seconds: registered(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "egw_probe_probe_connect_seconds",
                        "From just before connect to the handshake known complete, of every established probe",
                    )
                    .buckets(CONNECT_BUCKETS.to_vec()),
                )?,
            )?,
            blackhole_seconds: registered(
                registry,
                Gauge::new(
                    "egw_probe_blackhole_seconds",
                    "Time before the first pong in which probes got no answer at all",
                )?,
            )?,
            skipped_ticks: counter(
                "egw_probe_skipped_ticks_total",
                "Ticks without a probe: the next one was due already, or no descriptor was left",
            )?,
            probes: Outcome::ALL.iter().map(|outcome| by_outcome.with_label_values(&[outcome.name()])).collect(),
            bracket: registered(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "egw_probe_masquerade_delay_seconds",
                        "The policy became effective between these bounds, counted from the client's start",
                    ),
                    &["bound"],
                )?,
            )?,
        })
    }

    /// Counts a settled probe.
    pub fn count(&self, outcome: Outcome) {
        self.probes[outcome as usize].inc();
    }

    /// Tells the bracket, now that it is known.
    pub fn set_bracket(&self, bracket: Bracket) {
        for (bound, value) in [("lower", bracket.lower), ("upper", bracket.upper)] {
            if let Some(value) = value {
                self.bracket.with_label_values(&[bound]).set(value.as_secs_f64());
            }
        }
    }
}
