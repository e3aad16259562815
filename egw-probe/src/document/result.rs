//! The result of one client: what `--output json` prints, and what a report reads again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::document::disruption::{Disruption, PartialOutage, ProbeLoss};
use crate::document::egress::{EgressChange, EgressIp, LeakSource};
use crate::document::held::HoldReport;
use crate::document::outcome::{Evidence, Outcome};
use crate::document::quantiles::Quantiles;
use crate::document::stress::StressReport;

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
    /// What the user calls it by: node, zone, version.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When the first probe was sent, from the start; null if none was.
    #[serde(default)]
    pub first_probe_seconds: Option<f64>,
    /// The upper end of the bracket, from the start; without a winner null.
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
    /// Whether every pong shows that nothing in between terminated TCP; false if one shows the contrary, null if that is
    /// not known.
    #[serde(default)]
    pub end_to_end: Option<bool>,
    /// The egress IP that an annotated reply told last.
    pub egress_ip: Option<IpAddr>,
    /// Every egress IP that annotated replies told, in the order in which they appeared: the first 64.
    #[serde(default)]
    pub egress_ips: Vec<EgressIp>,
    /// Pongs that came by others.
    #[serde(default)]
    pub egress_ips_omitted_pongs: u64,
    /// The addresses that probes leaked from, as the target saw them, in the order in which they appeared: the first 64.
    #[serde(default)]
    pub leaked_from: Vec<LeakSource>,
    /// Probes that leaked from others.
    #[serde(default)]
    pub leaked_from_omitted_probes: u64,
    /// Disruptions after the winner, in order; null without a watch.
    pub disruptions: Option<Vec<Disruption>>,
    /// Times after the winner in which a share of the probes was lost, in order; null without a watch.
    #[serde(default)]
    pub partial_outages: Option<Vec<PartialOutage>>,
    /// All of them, those beyond the list included.
    #[serde(default)]
    pub partial_outages_total: u64,
    /// Probes lost after the winner, by chance and in outages; null without a watch.
    #[serde(default)]
    pub loss: Option<ProbeLoss>,
    /// All disruptions, those beyond the list included.
    pub disruptions_total: u64,
    /// Egress IPs that appeared after another one, or returned, in order.
    pub egress_changes: Vec<EgressChange>,
    /// All changes, those beyond the list included.
    pub egress_changes_total: u64,
    /// How many times an egress IP came no more, as far as its share tells.
    #[serde(default)]
    pub egress_stops_total: u64,
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
    /// Why there was no pong, where the evidence says so.
    #[serde(default)]
    pub diagnosis: Vec<Hint>,
    /// The settings that produced this.
    pub settings: Settings,
    /// Version of the program.
    pub version: String,
}

impl ResultDocument {
    /// Masqueraded, and within every gate.
    pub fn passed(&self) -> bool {
        self.outcome == TestOutcome::Masqueraded && self.failed_gates.is_empty()
    }
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

impl TestOutcome {
    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masqueraded => "masqueraded",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Bounds of the instant at which the policy became effective, from the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BracketSeconds {
    /// Not before this; null if nothing leaked.
    pub lower_seconds: Option<f64>,
    /// How the leak at the lower end is known; null if there is none.
    #[serde(default)]
    pub lower_evidence: Option<Evidence>,
    /// Not after this; null without a pong.
    pub upper_seconds: Option<f64>,
}

impl ProbeCounts {
    /// Probes with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Pong => self.pong,
            Outcome::Leaked => self.leaked,
            Outcome::Closed => self.closed,
            Outcome::Reset => self.reset,
            Outcome::Silent => self.silent,
            Outcome::Timeout => self.timeout,
            Outcome::Refused => self.refused,
            Outcome::Unreachable => self.unreachable,
            Outcome::Garbled => self.garbled,
            Outcome::Error => self.error,
        }
    }
}

/// Probes by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the outcomes are explained at Outcome")]
pub struct ProbeCounts {
    pub pong: u64,
    pub leaked: u64,
    /// Of the leaked ones, those whose target said so.
    #[serde(default)]
    pub leaked_proven: u64,
    #[serde(default)]
    pub closed: u64,
    #[serde(default)]
    pub reset: u64,
    #[serde(default)]
    pub silent: u64,
    pub timeout: u64,
    pub refused: u64,
    pub unreachable: u64,
    pub garbled: u64,
    pub error: u64,
    /// All of the above, and those unsettled.
    #[serde(default)]
    pub sent: u64,
    /// In flight when a signal ended the test: no outcome.
    #[serde(default)]
    pub unsettled: u64,
    /// Probes without a pong before the winner.
    #[serde(default)]
    pub misses_before_winner: u64,
    /// Of these, probes without a handshake: only the target can tell whether they leaked.
    #[serde(default)]
    pub timeouts_before_winner: u64,
    /// Ticks without a probe.
    #[serde(default)]
    pub skipped_ticks: u64,
    /// SYNs that the kernel sent again; null when the probe timeout rules that out.
    pub syn_retransmissions: Option<u64>,
}

/// The settings that produced a result. Durations as Go writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the flag of the same name")]
pub struct Settings {
    pub interval: String,
    #[serde(default)]
    pub tick_phase: Option<String>,
    pub test_timeout: String,
    pub probe_timeout: String,
    pub stress: bool,
    pub watch: Option<String>,
    pub source_addr: Option<IpAddr>,
    pub bind_device: Option<String>,
}

/// What is the matter, and where to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// What is the matter, and the figures that show it.
    pub what: String,
    /// What to look at next.
    pub next: String,
}

/// Probes with one outcome, one after another in sent order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineRun {
    /// The outcome they share.
    pub outcome: Outcome,
    /// When the first was sent, from the start.
    pub from_seconds: f64,
    /// When the last was sent, from the start.
    pub to_seconds: f64,
    /// How many there are.
    pub probes: u64,
}

/// A time in which this client served no tick although some were due: it was stopped, or got no CPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// The first skipped tick, from the start.
    pub at_seconds: f64,
    /// Until the next tick was served.
    pub length_seconds: f64,
}
