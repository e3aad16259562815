//! The result document: plain data, the contract of `--output json`. `schema` is 1, and grows only by adding keys.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::bracket::TimelineRun;
use super::disruptions::{Disruption, EgressChange};
use super::hold::HoldReport;
use super::outcome::Outcome;
use super::prober::{Ended, Measurement, Stall};
use super::stress::report::StressReport;
use crate::clock::Monotonic;
use crate::config::{ClientConfig, Gates};
use crate::go::format_duration;

/// What one client measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    /// Version of this document's form: 1.
    pub schema: u32,
    /// Name of the client.
    pub client_id: String,
    /// The number in this client's SYNs; null if they were not tagged.
    pub tag: Option<u16>,
    /// The target as the user named it.
    pub target: String,
    /// The address probed; absent if the name was never resolved.
    pub target_address: Option<String>,
    /// Wall clock of the start, RFC 3339, UTC.
    pub started_at: String,
    /// `CLOCK_MONOTONIC` of the start, in nanoseconds: the zero of every `_seconds` instant here.
    pub start_monotonic_ns: u64,
    /// How the test ended.
    pub outcome: TestOutcome,
    /// `established(winner) - start`, without a winner null.
    pub masquerade_delay_seconds: Option<f64>,
    /// Where the policy became effective.
    pub bracket: BracketSeconds,
    /// Time before the winner in which probes got no answer.
    pub blackhole_seconds: f64,
    /// Probes by outcome.
    pub probes: ProbeCounts,
    /// Handshake times of established probes; null if there was none.
    pub connect_seconds: Option<Quantiles>,
    /// How late ticks were served, from the first one that was due and skipped; null if there was but one.
    pub tick_lateness_seconds: Option<Quantiles>,
    /// The source address that an annotated reply told.
    pub egress_ip: Option<IpAddr>,
    /// Disruptions after the winner, in order; null without a watch.
    pub disruptions: Option<Vec<Disruption>>,
    /// All disruptions, those beyond the list included.
    pub disruptions_total: u64,
    /// Changes of the egress IP, in order.
    pub egress_changes: Vec<EgressChange>,
    /// All changes, those beyond the list included.
    pub egress_changes_total: u64,
    /// What became of held connections; null without them.
    pub held: Option<HoldReport>,
    /// When this client itself was held up, so that it served no tick: in order.
    pub stalls: Vec<Stall>,
    /// All stalls, those beyond the list included.
    pub stalls_total: u64,
    /// The stress test, if there was one.
    pub stress: Option<StressReport>,
    /// Outcomes in sent order, run-length coded.
    pub timeline: Vec<TimelineRun>,
    /// Probes that came after the timeline was full.
    pub timeline_omitted_probes: u64,
    /// Gates that failed, one line each.
    pub failed_gates: Vec<String>,
    /// Why the numbers may be weak, and what to do, one line each.
    pub warnings: Vec<String>,
    /// The settings that produced this.
    pub settings: Settings,
    /// Version of the program.
    pub version: String,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// A probe got its pong.
    Masqueraded,
    /// The test timeout passed without one.
    TimedOut,
    /// A signal came before either.
    Interrupted,
}

/// Bounds of the instant at which the policy became effective, from the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BracketSeconds {
    /// Not before this; null if nothing leaked.
    pub lower_seconds: Option<f64>,
    /// Not after this; null without a pong.
    pub upper_seconds: Option<f64>,
}

/// Probes by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the outcomes are explained at Outcome")]
pub struct ProbeCounts {
    pub pong: u64,
    pub leaked: u64,
    pub timeout: u64,
    pub refused: u64,
    pub unreachable: u64,
    pub garbled: u64,
    pub error: u64,
    /// All of the above, and those unsettled.
    pub sent: u64,
    /// In flight when a signal ended the test: no outcome.
    pub unsettled: u64,
    /// Probes without a pong before the winner.
    pub misses_before_winner: u64,
    /// Ticks without a probe.
    pub skipped_ticks: u64,
    /// SYNs that the kernel sent again; null when the probe timeout rules that out.
    pub syn_retransmissions: Option<u64>,
}

/// Quantiles of a set of times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// An empty histogram of nanoseconds, from 1 µs to 100 s at three digits: some kilobytes, whatever it counts.
    pub fn histogram_ns() -> Histogram<u64> {
        Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("the bounds are in order")
    }

    /// The quantiles of a histogram of nanoseconds; `None` if it is empty.
    pub fn of_ns(histogram: &Histogram<u64>) -> Option<Self> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        (!histogram.is_empty()).then(|| Self {
            min: seconds(histogram.min()),
            p50: seconds(histogram.value_at_quantile(0.5)),
            p90: seconds(histogram.value_at_quantile(0.9)),
            p99: seconds(histogram.value_at_quantile(0.99)),
            max: seconds(histogram.max()),
        })
    }
}

/// The settings that produced a result. Durations as Go writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the flag of the same name")]
pub struct Settings {
    pub interval: String,
    pub test_timeout: String,
    pub probe_timeout: String,
    pub stress: bool,
    pub watch: Option<String>,
    pub source_addr: Option<IpAddr>,
    pub bind_device: Option<String>,
}

/// When the client started, on both clocks, read one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// First statement of `main`.
    pub monotonic: Monotonic,
    /// The wall clock then.
    pub wall: SystemTime,
}

impl Start {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { monotonic: Monotonic::now(), wall: SystemTime::now() }
    }
}

impl ResultDocument {
    /// The document of a measurement.
    pub fn new(
        config: &ClientConfig,
        start: Start,
        target_address: String,
        measured: &Measurement,
        held: Option<HoldReport>,
        stress: Option<StressReport>,
    ) -> Self {
        let (judge, watch) = (&measured.judge, &measured.watch);
        let seconds = |length: Option<Duration>| length.map(|length| length.as_secs_f64());
        let of = |outcome| judge.counts().of(outcome);
        let (timeline, timeline_omitted_probes) = judge.timeline();
        let probes = ProbeCounts {
            pong: of(Outcome::Pong),
            leaked: of(Outcome::Leaked),
            timeout: of(Outcome::Timeout),
            refused: of(Outcome::Refused),
            unreachable: of(Outcome::Unreachable),
            garbled: of(Outcome::Garbled),
            error: of(Outcome::Error),
            sent: judge.counts().total() + measured.unsettled,
            unsettled: measured.unsettled,
            misses_before_winner: judge.before_winner().misses(),
            skipped_ticks: measured.skipped_ticks,
            syn_retransmissions: measured.syn_retransmissions,
        };
        Self {
            tag: measured.tag,
            target_address: Some(target_address),
            outcome: match measured.ended {
                Ended::Masqueraded => TestOutcome::Masqueraded,
                Ended::TimedOut => TestOutcome::TimedOut,
                Ended::Interrupted => TestOutcome::Interrupted,
            },
            masquerade_delay_seconds: seconds(judge.winner().map(|winner| winner.masquerade_delay)),
            bracket: BracketSeconds {
                lower_seconds: seconds(judge.bracket().lower),
                upper_seconds: seconds(judge.bracket().upper),
            },
            blackhole_seconds: judge.blackhole().as_secs_f64(),
            probes,
            connect_seconds: Quantiles::of_ns(&measured.connect_ns),
            tick_lateness_seconds: Quantiles::of_ns(&measured.tick_lateness_ns),
            egress_ip: watch.egress_ip(),
            disruptions: config.watch.map(|_| watch.disruptions().0.to_vec()),
            disruptions_total: watch.disruptions().1,
            egress_changes: watch.egress_changes().0.to_vec(),
            egress_changes_total: watch.egress_changes().1,
            held,
            stalls: measured.stalls.0.clone(),
            stalls_total: measured.stalls.1,
            stress,
            timeline: timeline.to_vec(),
            timeline_omitted_probes,
            failed_gates: failed_gates(config.gates, measured),
            warnings: warnings(config, measured),
            ..Self::without_probes(config, start, TestOutcome::Interrupted)
        }
    }

    /// The document of a test that ended, in this way, before its first probe.
    pub fn without_probes(config: &ClientConfig, start: Start, outcome: TestOutcome) -> Self {
        Self {
            schema: 1,
            client_id: config.client_id.clone(),
            tag: None,
            target: config.target.to_string(),
            target_address: None,
            started_at: humantime::format_rfc3339_nanos(start.wall).to_string(),
            start_monotonic_ns: start.monotonic.as_ns(),
            outcome,
            masquerade_delay_seconds: None,
            bracket: BracketSeconds { lower_seconds: None, upper_seconds: None },
            blackhole_seconds: 0.0,
            probes: ProbeCounts {
                pong: 0,
                leaked: 0,
                timeout: 0,
                refused: 0,
                unreachable: 0,
                garbled: 0,
                error: 0,
                sent: 0,
                unsettled: 0,
                misses_before_winner: 0,
                skipped_ticks: 0,
                syn_retransmissions: None,
            },
            connect_seconds: None,
            tick_lateness_seconds: None,
            egress_ip: None,
            disruptions: None,
            disruptions_total: 0,
            egress_changes: Vec::new(),
            egress_changes_total: 0,
            held: None,
            stalls: Vec::new(),
            stalls_total: 0,
            stress: None,
            timeline: Vec::new(),
            timeline_omitted_probes: 0,
            failed_gates: Vec::new(),
            warnings: Vec::new(),
            settings: Settings {
                interval: format_duration(config.interval),
                test_timeout: format_duration(config.test_timeout),
                probe_timeout: format_duration(config.probe_timeout),
                stress: config.stress.is_some(),
                watch: config
                    .watch
                    .map(|watch| watch.duration.map_or("unbounded".to_owned(), format_duration)),
                source_addr: config.route.source_addr,
                bind_device: config.route.bind_device.clone(),
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Masqueraded, and within every gate.
    pub fn passed(&self) -> bool {
        self.outcome == TestOutcome::Masqueraded && self.failed_gates.is_empty()
    }
}

fn failed_gates(gates: Gates, measured: &Measurement) -> Vec<String> {
    let mut failed = Vec::new();
    if let (Some(max), Some(winner)) = (gates.max_delay, measured.judge.winner())
        && winner.masquerade_delay > max
    {
        let delay = format_duration(winner.masquerade_delay);
        failed.push(format!("--max-delay {}: the masquerade delay was {delay}", format_duration(max)));
    }
    let leaked = measured.judge.before_winner().of(Outcome::Leaked);
    if let Some(max) = gates.max_leaked.filter(|max| leaked > *max) {
        failed.push(format!("--max-leaked {max}: {leaked} probes leaked"));
    }
    let (_, total) = measured.watch.disruptions();
    let longest = measured.watch.longest_upper();
    if let Some(max) = gates.max_disruption.filter(|max| longest > max.as_secs_f64()) {
        let shown = if longest.is_finite() {
            format!("may have lasted {longest:.6}s")
        } else {
            "has no end".to_owned()
        };
        failed.push(format!("--max-disruption {}: a disruption {shown}", format_duration(max)));
    }
    if let Some(max) = gates.max_disruptions.filter(|max| total > *max) {
        failed.push(format!("--max-disruptions {max}: there were {total}"));
    }
    if longest.is_infinite() {
        failed.push("the watch ended inside a disruption".to_owned());
    }
    failed
}

/// A share of skipped ticks above which the numbers are called weak: 1 in 100.
const SKIPPED_SHARE: f64 = 0.01;

fn warnings(config: &ClientConfig, measured: &Measurement) -> Vec<String> {
    let mut warnings = Vec::new();
    let judged = measured.judge.counts();
    if measured.descriptor_skips > 0 {
        warnings.push(format!(
            "{} ticks had no descriptor left for a probe: raise the limit (ulimit -n) or lengthen --interval",
            measured.descriptor_skips
        ));
    }
    let late_skips = measured.skipped_ticks - measured.descriptor_skips;
    let ticks = judged.total() + measured.skipped_ticks;
    if late_skips as f64 > ticks as f64 * SKIPPED_SHARE {
        warnings.push(format!(
            "{late_skips} of {ticks} ticks were skipped because the next one was due: give the client more CPU or \
             lengthen --interval"
        ));
    }
    let lateness = Duration::from_nanos(measured.tick_lateness_ns.value_at_quantile(0.99));
    if !measured.tick_lateness_ns.is_empty() && lateness > config.interval {
        warnings.push(format!(
            "one tick in 100 was late by {} or more, longer than the interval: give the client more CPU",
            format_duration(lateness)
        ));
    }
    let (bracket, own) = (measured.judge.bracket(), measured.stalled_in_bracket);
    let width = bracket.upper.unwrap_or_default().saturating_sub(bracket.lower.unwrap_or_default());
    if own > width / 2 {
        warnings.push(format!(
            "{} of the bracket's {} are this client's own: it was stopped or got no CPU, and probed nothing",
            format_duration(own),
            format_duration(width)
        ));
    }
    if judged.of(Outcome::Error) > 0 {
        warnings.push(format!(
            "{} probes failed on this host before they left (ports, descriptors or a local firewall): --log-level \
             debug says why",
            judged.of(Outcome::Error)
        ));
    }
    warnings
}
