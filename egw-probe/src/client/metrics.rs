//! The client's metrics: the old program's names to the letter, and our own beside them.

use std::time::Duration;

use prometheus::{Counter, Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::client::bracket::Bracket;
use crate::document::disruption::{Disruption, Kind};
use crate::document::held::LossReason;
use crate::document::outcome::Outcome;
use crate::document::stress::DialFailure;
use crate::sys::metrics::{CONNECT_BUCKETS, Registrar};

/// Buckets of the old program's histogram: the defaults of the Go client library.
const STRESS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets of disruptions: from a lost probe to the minutes in which gateways are given up, closest where failovers are.
const DISRUPTION_BUCKETS: [f64; 23] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0,
    15.0, 20.0, 30.0, 60.0, 300.0,
];

/// Every metric of the client. Cheap to clone: clones share their values.
#[derive(Debug, Clone)]
pub(crate) struct ClientMetrics {
    /// Every miss before the winner.
    pub leaked_requests: IntCounter,
    /// The masquerade delay, added once.
    pub masquerade_delay: Counter,
    /// 1 once the test has failed.
    pub failed_tests: IntCounter,
    /// The stress test.
    pub stress: StressMetrics,
    /// Handshakes of probes.
    pub connect_seconds: Histogram,
    /// Time without an answer before the winner.
    pub blackhole_seconds: Gauge,
    /// A watch.
    pub watch: WatchMetrics,
    /// Egress IPs that come now.
    pub egress_ips: IntGauge,
    /// How often one appeared after another, returned or stopped.
    pub egress_changes: IntCounter,
    /// Held connections.
    pub held: HeldMetrics,
    /// Ticks without a probe.
    pub skipped_ticks: IntCounter,
    probes: Vec<IntCounter>,
    bracket: GaugeVec,
}

/// Metrics of a watch.
#[derive(Debug, Clone)]
pub(crate) struct WatchMetrics {
    /// 1 while it sees a disruption.
    pub disrupted: IntGauge,
    /// Probes that chance explains.
    pub lost: IntCounter,
    /// Partial outages that are over.
    pub partial_outages: IntCounter,
    /// 1 while there is one.
    pub partly_disrupted: IntGauge,
    latest: GaugeVec,
    disruptions: Vec<IntCounter>,
    disruption_seconds: Vec<Histogram>,
}

impl WatchMetrics {
    fn register(new: Registrar<'_>) -> prometheus::Result<Self> {
        let seconds = new.histograms(
            "egw_probe_disruption_seconds",
            "Longest that a disruption can have lasted: from the last pong before to the first after",
            &["kind"],
            &DISRUPTION_BUCKETS,
        )?;
        Ok(Self {
            disrupted: new.gauge("egw_probe_disrupted", "1 while probes miss that used to be answered")?,
            lost: new.counter(
                "egw_probe_lost_probes_total",
                "Probes after the first pong that were missed alone or in a run that chance explains: no part of an outage",
            )?,
            partial_outages: new.counter(
                "egw_probe_partial_outages_total",
                "Times after the first pong in which a share of the probes was lost, once they are over",
            )?,
            partly_disrupted: new.gauge(
                "egw_probe_partly_disrupted",
                "1 while a share of the probes is lost that chance does not explain",
            )?,
            latest: new.gauges_of_seconds(
                "egw_probe_last_disruption_seconds",
                "Bounds of the length of the last disruption that is over",
                &["bound"],
            )?,
            disruptions: new.counter_each(
                "egw_probe_disruptions_total",
                "Runs of misses after a pong, longer than chance makes, by kind, once they are over",
                "kind",
                Kind::ALL.map(Kind::name),
            )?,
            disruption_seconds: Kind::ALL
                .iter()
                .map(|kind| seconds.with_label_values(&[kind.name()]))
                .collect(),
        })
    }

    /// Counts a disruption that is over; one without an end has no length to observe.
    pub(crate) fn count(&self, disruption: &Disruption) {
        self.disruptions[disruption.kind as usize].inc();
        if let Some(upper) = disruption.length_seconds.upper {
            self.disruption_seconds[disruption.kind as usize].observe(upper);
            for (bound, value) in [("lower", disruption.length_seconds.lower), ("upper", upper)] {
                self.latest.with_label_values(&[bound]).set(value);
            }
        }
    }
}

/// Metrics of held connections.
#[derive(Debug, Clone)]
pub(crate) struct HeldMetrics {
    /// Those that are open now.
    pub connections: IntGauge,
    /// Stalls.
    pub stall_seconds: Histogram,
    /// Losses, in the order of [`LossReason::ALL`].
    pub lost: Vec<IntCounter>,
}

impl HeldMetrics {
    fn register(new: Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            connections: new
                .gauge("egw_probe_held_connections", "Connections of --hold that are open now")?,
            stall_seconds: new.histogram(
                "egw_probe_held_stall_seconds",
                "How long a byte on a held connection that had to be sent again took to be acknowledged",
                &DISRUPTION_BUCKETS,
            )?,
            lost: new.counter_each(
                "egw_probe_held_lost_total",
                "Held connections that were lost, by reason",
                "reason",
                LossReason::ALL.map(LossReason::name),
            )?,
        })
    }
}

/// Metrics of the stress test.
#[derive(Debug, Clone)]
pub(crate) struct StressMetrics {
    /// Connections that the target denied.
    pub leaked: IntCounter,
    /// By operation; no series before the test starts.
    connections: IntCounterVec,
    latency: Histogram,
    open: IntGauge,
    /// Dials that failed, in the order of [`DialFailure::ALL`].
    pub failed: Vec<IntCounter>,
    lost: Vec<IntCounter>,
}

impl StressMetrics {
    fn register(new: Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            connections: new.counters(
                "egw_scale_test_stress_connections_total",
                "Connections of the stress test that were opened, or closed without our doing",
                &["operation"],
            )?,
            latency: new.histogram(
                "egw_scale_test_stress_connection_latency_seconds",
                "Time that a successful dial of the stress test took",
                &STRESS_BUCKETS,
            )?,
            open: new.gauge("egw_probe_stress_open_connections", "Stress connections that are open now")?,
            failed: new.counter_each(
                "egw_probe_stress_failed_total",
                "Stress dials that failed, by reason",
                "reason",
                DialFailure::ALL.map(DialFailure::name),
            )?,
            leaked: new.counter(
                "egw_probe_stress_leaked_total",
                "Stress connections that the target denied: it saw a source outside its CIDRs",
            )?,
            lost: new.counter_each(
                "egw_probe_stress_lost_total",
                "Stress connections that closed without our doing, by how",
                "reason",
                LossReason::ALL.map(LossReason::name),
            )?,
        })
    }

    /// The stress test starts: its two series are there from now on.
    pub(crate) fn begin(&self) {
        for operation in ["open", "close"] {
            self.connections.with_label_values(&[operation]);
        }
    }

    /// A dial succeeded, and took this long.
    pub(crate) fn opened(&self, elapsed: Duration) {
        self.connections.with_label_values(&["open"]).inc();
        self.latency.observe(elapsed.as_secs_f64());
        self.open.inc();
    }

    /// A connection closed without our doing.
    pub(crate) fn closed(&self, reason: LossReason) {
        self.connections.with_label_values(&["close"]).inc();
        self.lost[reason as usize].inc();
        self.open.dec();
    }
}

impl ClientMetrics {
    /// Registers all of them, at 0, with `registry`.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Registrar(registry);
        Ok(Self {
            leaked_requests: new.counter(
                "egw_scale_test_leaked_requests_total",
                "Probes without a pong before the first that got one, whatever their outcome",
            )?,
            masquerade_delay: new.counter_of_seconds(
                "egw_scale_test_masquerade_delay_seconds_total",
                "Seconds from the client's start to the handshake of the first probe that got a pong, added once",
            )?,
            failed_tests: new.counter(
                "egw_scale_test_failed_tests_total",
                "1 once the test timeout has passed without a pong",
            )?,
            stress: StressMetrics::register(new)?,
            connect_seconds: new.histogram(
                "egw_probe_probe_connect_seconds",
                "From just before connect to the handshake known complete, of every established probe",
                &CONNECT_BUCKETS,
            )?,
            blackhole_seconds: new.gauge_of_seconds(
                "egw_probe_blackhole_seconds",
                "Time before the first pong in which probes got no answer at all",
            )?,
            watch: WatchMetrics::register(new)?,
            egress_ips: new.gauge(
                "egw_probe_egress_ips",
                "Egress IPs that pongs come by now, as annotated replies tell them",
            )?,
            egress_changes: new.counter(
                "egw_probe_egress_ip_changes_total",
                "How often an egress IP appeared after another one or returned (egress_changes_total of the result), or stopped \
                 (egress_stops_total)",
            )?,
            held: HeldMetrics::register(new)?,
            skipped_ticks: new.counter(
                "egw_probe_skipped_ticks_total",
                "Ticks without a probe: the next one was due already, or no descriptor was left",
            )?,
            probes: new.counter_each(
                "egw_probe_probes_total",
                "Probes settled, by outcome, in the order in which they were sent",
                "outcome",
                Outcome::ALL.map(Outcome::name),
            )?,
            bracket: new.gauges_of_seconds(
                "egw_probe_masquerade_delay_seconds",
                "The policy became effective between these bounds, counted from the client's start",
                &["bound"],
            )?,
        })
    }

    /// Counts a settled probe.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.probes[outcome as usize].inc();
    }

    /// Tells the bracket, now that it is known.
    pub(crate) fn set_bracket(&self, bracket: Bracket) {
        for (bound, value) in [("lower", bracket.lower), ("upper", bracket.upper)] {
            if let Some(value) = value {
                self.bracket.with_label_values(&[bound]).set(value.as_secs_f64());
            }
        }
    }
}
