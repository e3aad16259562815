//! The target's metrics.

use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec, Registry};

use crate::document::clients::Progress;
use crate::document::verdict::Verdict;
use crate::sys::metrics::Registrar;

/// Buckets of masquerade delays, in seconds: the thresholds that scale tests judge by (1 s, 1.25 s) are among them.
const DELAY_BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets of waits for an accept, in seconds: from what the kernel's clock can tell to what a probe waits for at the most.
const WAIT_BUCKETS: [f64; 8] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Every metric of the userspace target. Clones share their values.
#[derive(Debug, Clone)]
pub(crate) struct TargetMetrics {
    /// Connections that allowed sources keep open.
    pub open_connections: IntGauge,
    /// How many clients are how far.
    pub clients: Option<ClientMetrics>,
    /// Connections that the kernel dropped for want of room in an accept queue.
    pub listen_overflows: IntGauge,
    /// How long finished handshakes waited for their accept.
    pub accept_wait: Histogram,
    /// Accepts that failed because no descriptor or memory was left.
    pub accept_exhausted: IntCounter,
    /// Accepts that failed because the peer was gone already.
    pub accept_aborted: IntCounter,
    allowed: IntCounter,
    denied: IntCounter,
}

/// Metrics of the clients whose SYNs are tagged.
#[derive(Debug, Clone)]
pub(crate) struct ClientMetrics {
    by_state: IntGaugeVec,
    foreign: IntGauge,
    /// First SYN to first masqueraded SYN of each client.
    pub delay: Histogram,
}

impl ClientMetrics {
    fn register(new: Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            by_state: new.gauges(
                "egw_probe_target_clients",
                "Tagged clients: expected, seen, masqueraded, leaking (no masqueraded SYN yet), conflicts (shared numbers), uncertain (too \
                 few SYNs to tell them from foreign ones)",
                &["state"],
            )?,
            foreign: new.gauge("egw_probe_target_foreign_syns", "SYNs without a tag of an expected client")?,
            delay: new.histogram(
                "egw_probe_target_masquerade_delay_seconds",
                "From a client's first SYN to its first masqueraded SYN, on the target's clock, once per client",
                &DELAY_BUCKETS,
            )?,
        })
    }

    /// Tells how far the clients are.
    pub(crate) fn set(&self, progress: Progress, foreign: u64) {
        let Progress { expected, seen, masqueraded, leaking, conflicts, uncertain } = progress;
        for (state, value) in [
            ("expected", expected),
            ("seen", seen),
            ("masqueraded", masqueraded),
            ("leaking", leaking),
            ("conflicts", conflicts),
            ("uncertain", uncertain),
        ] {
            self.by_state.with_label_values(&[state]).set(value as i64);
        }
        self.foreign.set(foreign as i64);
    }
}

impl TargetMetrics {
    /// Registers all of them, at 0, with `registry`; those of clients only where tags are read.
    pub(crate) fn register(registry: &Registry, tags: bool) -> prometheus::Result<Self> {
        let new = Registrar(registry);
        let connections = new.counters(
            "egw_probe_target_connections_total",
            "Connections accepted, by the verdict on their source",
            &["verdict"],
        )?;
        let failed = new.counters(
            "egw_probe_target_accept_failures_total",
            "Accepts that failed, by reason",
            &["reason"],
        )?;
        Ok(Self {
            open_connections: new
                .gauge("egw_probe_target_open_connections", "Connections held open for allowed sources")?,
            clients: tags.then(|| ClientMetrics::register(new)).transpose()?,
            listen_overflows: new.gauge(
                "egw_probe_target_listen_overflows",
                "Handshakes dropped because an accept queue was full, since the start; those of other listeners of this \
                 network namespace, too",
            )?,
            accept_wait: new.histogram(
                "egw_probe_target_accept_wait_seconds",
                "From a finished handshake to its accept, of one connection in 10 ms, in ticks of the kernel's clock (1 to \
                 10 ms): what is told by accepts alone is late by so much",
                &WAIT_BUCKETS,
            )?,
            accept_exhausted: failed.with_label_values(&["exhausted"]),
            accept_aborted: failed.with_label_values(&["aborted"]),
            allowed: connections.with_label_values(&[Verdict::Allowed.name()]),
            denied: connections.with_label_values(&[Verdict::Denied.name()]),
        })
    }

    /// The counter of connections with this verdict.
    pub(crate) fn connections(&self, verdict: Verdict) -> &IntCounter {
        match verdict {
            Verdict::Allowed => &self.allowed,
            Verdict::Denied => &self.denied,
        }
    }
}
