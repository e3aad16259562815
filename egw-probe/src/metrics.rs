//! What both ends' metrics share. There is no global registry: `main` makes one and hands it down.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGaugeVec, Opts, Registry};

/// Buckets of handshake times, in seconds: from a veth pair to the far side of the world.
pub const CONNECT_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A registry with what every process has: `egw_probe_build_info` and the `process_*` family.
pub fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let info = registered(
        &registry,
        IntGaugeVec::new(
            Opts::new("egw_probe_build_info", "1, with the version of the program"),
            &["version"],
        )?,
    )?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Registers a metric and hands it back.
pub fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
