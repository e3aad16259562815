//! The kernel side's metrics. Built once, on a registry that is handed in.

use std::time::Duration;

use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use crate::document::verdict::Verdict;
use crate::observer::attach::Attachment;
use crate::observer::correlate::{HalfOpen, Joined, SynKind};
use crate::observer::error::KernelError;
use crate::observer::health::JoinHealth;
use crate::observer::shortfall::Shortfall;
use crate::sys::metrics::Registrar;

/// From what one host's handshake takes to what a thrice-sent SYN takes, in seconds.
const BUCKETS: [f64; 17] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];

/// The mode label that says: no kernel stamps are in force.
const USERSPACE: &str = "userspace";

/// All metrics of the kernel side. Clones share their values.
#[derive(Debug, Clone)]
pub struct KernelMetrics {
    syns: IntCounterVec,
    syn_to_accept: HistogramVec,
    half_open: IntCounterVec,
    events_lost: IntCounter,
    join: JoinMetrics,
    ebpf_info: IntGaugeVec,
    degraded: IntGaugeVec,
    clock_error: Gauge,
}

/// What tells how good the join of SYNs and connections is.
#[derive(Debug, Clone)]
struct JoinMetrics {
    unobserved: IntCounter,
    not_joined: IntCounter,
    forgotten: IntCounter,
    unreadable: IntCounter,
}

impl JoinMetrics {
    fn register(new: Registrar<'_>) -> Result<Self, KernelError> {
        Ok(Self {
            unobserved: new.counter(
                "egw_probe_target_unobserved_connections_total",
                "Accepted connections whose SYN the kernel side did not see, or whose event was lost: the log says what to do",
            )?,
            not_joined: new.counter(
                "egw_probe_target_not_joined_total",
                "Accepted connections that came faster than they could be joined with their SYNs",
            )?,
            forgotten: new.counter(
                "egw_probe_target_attempts_forgotten_total",
                "Of the half-open attempts, those given up on early to make room: some may have become connections later",
            )?,
            unreadable: new.counter(
                "egw_probe_target_unreadable_events_total",
                "Events that were not understood: object and program do not belong together",
            )?,
        })
    }
}

impl KernelMetrics {
    /// Creates and registers them, every series of a fixed label set at 0.
    pub fn register(registry: &Registry) -> Result<Self, KernelError> {
        let new = Registrar(registry);
        let metrics = Self {
            syns: new.counters(
                "egw_probe_target_syns_total",
                "SYNs seen in the kernel; kind is unknown where the ring lost the event",
                &["class", "kind"],
            )?,
            syn_to_accept: new.histograms(
                "egw_probe_target_syn_to_accept_seconds",
                "From a connection's first SYN in the kernel to its accept",
                &["class"],
                &BUCKETS,
            )?,
            half_open: new.counters(
                "egw_probe_target_half_open_total",
                "Connection attempts whose connection never came",
                &["class"],
            )?,
            events_lost: new.counter(
                "egw_probe_target_events_lost_total",
                "SYNs that were counted but whose event found the ring full",
            )?,
            join: JoinMetrics::register(new)?,
            ebpf_info: new.gauges(
                "egw_probe_target_ebpf_info",
                "1 for each interface that is observed, by mode",
                &["interface", "mode"],
            )?,
            degraded: new.gauges(
                "egw_probe_target_observer_degraded",
                "1 where the kernel side cannot do what it should, by reason: see the log",
                &["reason"],
            )?,
            clock_error: new.gauge_of_seconds(
                "egw_probe_target_clock_error_seconds",
                "Error bound of the offset from kernel stamps to wall time",
            )?,
        };
        for class in Verdict::ALL {
            for kind in ["first", "retransmit", "unknown"] {
                metrics.syns.with_label_values(&[class.name(), kind]);
            }
            metrics.syn_to_accept.with_label_values(&[class.name()]);
            metrics.half_open.with_label_values(&[class.name()]);
        }
        for shortfall in Shortfall::ALL {
            metrics.degraded(shortfall, false);
        }
        Ok(metrics)
    }

    /// Says whether the kernel side falls short.
    pub(super) fn degraded(&self, shortfall: Shortfall, is: bool) {
        self.degraded.with_label_values(&[shortfall.label()]).set(i64::from(is));
    }

    /// Says that the target runs without the kernel side.
    pub fn userspace_only(&self) {
        self.ebpf_info.reset();
        self.ebpf_info.with_label_values(&["", USERSPACE]).set(1);
    }

    /// Says which interfaces are observed, and how.
    pub(super) fn attachments(&self, attachments: &[Attachment]) {
        self.ebpf_info.reset();
        for attachment in attachments {
            self.ebpf_info
                .with_label_values(&[attachment.interface.as_str(), attachment.mode.label()])
                .set(1);
        }
    }

    pub(super) fn syn(&self, class: Verdict, kind: SynKind) {
        let kind = match kind {
            SynKind::First => "first",
            SynKind::Retransmit => "retransmit",
        };
        self.syns.with_label_values(&[class.name(), kind]).inc();
    }

    pub(super) fn lost(&self, class: Verdict, more: u64) {
        self.syns.with_label_values(&[class.name(), "unknown"]).inc_by(more);
        self.events_lost.inc_by(more);
    }

    pub(super) fn joined(&self, joined: &Joined) {
        self.syn_to_accept
            .with_label_values(&[joined.class.name()])
            .observe(joined.syn_to_accept.as_secs_f64());
    }

    pub(super) fn half_open(&self, more: HalfOpen) {
        self.half_open.with_label_values(&[Verdict::Allowed.name()]).inc_by(more.allowed);
        self.half_open.with_label_values(&[Verdict::Denied.name()]).inc_by(more.denied);
    }

    /// Adds to what tells how good the join is.
    pub(super) fn health(&self, more: JoinHealth) {
        self.join.unobserved.inc_by(more.unobserved);
        self.join.not_joined.inc_by(more.not_joined);
        self.join.forgotten.inc_by(more.forgotten);
        self.join.unreadable.inc_by(more.unreadable);
    }

    pub(super) fn clock_error(&self, error: Duration) {
        self.clock_error.set(error.as_secs_f64());
    }
}
