//! What both ends' metrics share. There is no global registry: `main` makes one and hands it down.

use std::sync::Once;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::sys::page::Page;
use crate::sys::progress;

/// Buckets of handshake times, in seconds: from a veth pair to the far side of the world.
pub(crate) const CONNECT_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A registry with `egw_probe_build_info`.
pub(crate) fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let info = Registrar(&registry).gauges(
        "egw_probe_build_info",
        "1, with the version of the program",
        &["version"],
    )?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(registry)
}

/// What `/metrics` shows: everything in a registry, and the `process_*` family.
#[derive(Debug)]
pub(crate) struct Exposition {
    registry: Registry,
    process: Once,
    lost_log_lines: IntCounter,
}

impl Exposition {
    /// Of this registry.
    pub(crate) fn new(registry: Registry) -> prometheus::Result<Self> {
        let lost_log_lines = Registrar(&registry).counter(
            "egw_probe_lost_log_lines_total",
            "Log lines that could not be written, or would have had to wait for their reader",
        )?;
        Ok(Self { registry, process: Once::new(), lost_log_lines })
    }

    /// The page. The first call sets the process metrics up: that reads files for longer than anything else that the
    /// client does before its first probe.
    pub(crate) fn page(&self) -> Page {
        self.process.call_once(|| {
            if let Err(error) = self.registry.register(Box::new(ProcessCollector::for_self())) {
                tracing::warn!(%error, "no process metrics");
            }
        });
        self.lost_log_lines.inc_by(progress::lost_log_lines() - self.lost_log_lines.get());
        Page::metrics(&self.registry)
    }
}

/// Makes metrics that are registered from the start, a line each. `labels` are those of a family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registrar<'a>(pub &'a Registry);

impl Registrar<'_> {
    fn register<C: Collector + Clone + 'static>(self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(crate) fn counter(self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    pub(crate) fn counter_of_seconds(self, name: &str, help: &str) -> prometheus::Result<Counter> {
        self.register(Counter::new(name, help)?)
    }

    pub(crate) fn counters(
        self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A counter for each value of the label, all there from the start.
    pub(crate) fn counter_each(
        self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> prometheus::Result<Vec<IntCounter>> {
        let family = self.counters(name, help, &[label])?;
        Ok(values.into_iter().map(|value| family.with_label_values(&[value])).collect())
    }

    pub(crate) fn gauge(self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    pub(crate) fn gauge_of_seconds(self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::new(name, help)?)
    }

    pub(crate) fn gauges(self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn gauges_of_seconds(
        self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn histogram(self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    pub(crate) fn histograms(
        self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels)?)
    }
}
