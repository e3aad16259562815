//! The target's metrics.

use prometheus::{IntCounter, IntGauge, Registry};

use super::verdict::Verdict;
use crate::metrics::Registrar;

/// Every metric of the userspace target. Clones share their values.
#[derive(Debug, Clone)]
pub struct TargetMetrics {
    /// Connections that allowed sources keep open.
    pub open_connections: IntGauge,
    /// Accepts that failed because no descriptor or memory was left.
    pub accept_exhausted: IntCounter,
    /// Accepts that failed because the peer was gone already.
    pub accept_aborted: IntCounter,
    allowed: IntCounter,
    denied: IntCounter,
}

impl TargetMetrics {
    /// Registers all of them, at 0, with `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Registrar(registry);
        let connections = new.counters(
            "egw_probe_target_connections_total",
            "Connections accepted, by the verdict on their source",
            "verdict",
        )?;
        let failed = new.counters(
            "egw_probe_target_accept_failures_total",
            "Accepts that failed, by reason",
            "reason",
        )?;
        Ok(Self {
            open_connections: new
                .gauge("egw_probe_target_open_connections", "Connections held open for allowed sources")?,
            accept_exhausted: failed.with_label_values(&["exhausted"]),
            accept_aborted: failed.with_label_values(&["aborted"]),
            allowed: connections.with_label_values(&[Verdict::Allowed.name()]),
            denied: connections.with_label_values(&[Verdict::Denied.name()]),
        })
    }

    /// The counter of connections with this verdict.
    pub fn connections(&self, verdict: Verdict) -> &IntCounter {
        match verdict {
            Verdict::Allowed => &self.allowed,
            Verdict::Denied => &self.denied,
        }
    }
}
