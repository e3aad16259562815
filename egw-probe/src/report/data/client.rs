//! One client's part of a run: what is kept of it, and what is passed on and forgotten.

use std::collections::BTreeMap;

use crate::document::disruption::{Disruption, Kind};
use crate::document::outcome::Outcome;
use crate::document::result::TimelineRun;
use crate::report::data::egress;
use crate::report::data::interval::Interval;

/// How a client's test ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A probe got its pong.
    #[default]
    Masqueraded,
    /// Interrupted, or still under way when it was read.
    Unfinished,
    /// The test timeout passed without a pong.
    TimedOut,
}

impl Verdict {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masqueraded => "masqueraded",
            Self::Unfinished => "unfinished",
            Self::TimedOut => "timed out",
        }
    }
}

/// What is kept of every client: memory grows by this and the name.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientResult {
    /// `client_id`, or what its series are told apart by. Whatever the client wrote there.
    pub name: String,
    /// How its test ended.
    pub verdict: Verdict,
    /// Where its policy became effective.
    pub delay: Interval,
    /// Probes that leaked, those of disruptions included.
    pub leaked: u64,
    /// How long probes leaked; unknown without a whole timeline.
    pub leak_seconds: Option<f64>,
    /// Time before the winner in which probes got no answer.
    pub blackhole_seconds: f64,
    /// Runs of misses after the winner.
    pub disruptions: u64,
    /// Its node, by its place among [`crate::report::data::labels::Values`], from 1; 0 where no label names one.
    pub node: u32,
    /// The group that it is told in, in the same way.
    pub group: u16,
}

impl Default for ClientResult {
    fn default() -> Self {
        Self {
            name: String::new(),
            verdict: Verdict::default(),
            delay: Interval::later_than(0.0),
            leaked: 0,
            leak_seconds: None,
            blackhole_seconds: 0.0,
            disruptions: 0,
            node: 0,
            group: 0,
        }
    }
}

/// A disruption, and whose it was.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedDisruption {
    /// The client.
    pub name: String,
    /// What it went through.
    pub disruption: Disruption,
}

impl WatchedDisruption {
    /// Those of one client.
    pub fn of(name: &str, disruptions: &[Disruption]) -> Vec<Self> {
        disruptions
            .iter()
            .map(|disruption| Self { name: name.to_owned(), disruption: disruption.clone() })
            .collect()
    }

    /// The longest that it can have lasted, seconds; without an end, without bound.
    pub fn longest(&self) -> f64 {
        self.disruption.length_seconds.upper.unwrap_or(f64::INFINITY)
    }
}

/// Everything that one result tells. Only a part of it outlives the reading.
#[derive(Debug, Default)]
pub struct Reading {
    /// What is kept.
    pub client: ClientResult,
    /// Probes in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Phase of its ticks, and when its first probe left: seconds from the client's start.
    pub ticks: Option<(f64, f64)>,
    /// What it was labelled with.
    pub labels: BTreeMap<String, String>,
    /// Outcomes in sent order, seconds from the client's start.
    pub timeline: Vec<TimelineRun>,
    /// Between which instants the policy was switched, if somebody recorded that.
    pub policy_switch: Option<[f64; 2]>,
    /// Disruptions, as far as the result lists them.
    pub disruptions: Vec<WatchedDisruption>,
    /// From which addresses, and what was lost after the winner.
    pub egress: egress::Part,
    /// Disruptions in the order of [`Kind::ALL`], where only their number is known.
    pub counts_of_kinds: Option<[u64; Kind::ALL.len()]>,
    /// The settings, as one line.
    pub settings: Option<String>,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// The same for the same result, read twice.
    pub identity: Option<u64>,
    /// The number in its SYNs.
    pub tag: Option<u16>,
    /// The client failed its own gates.
    pub own_gates_failed: bool,
    /// The client called its numbers weak.
    pub warned: bool,
}

/// Clients that never got through, then those that may have taken longest, then those that leaked most.
pub(crate) fn worse_first(a: &ClientResult, b: &ClientResult) -> std::cmp::Ordering {
    (b.verdict.cmp(&a.verdict))
        .then(b.delay.upper.total_cmp(&a.delay.upper))
        .then(b.delay.lower.total_cmp(&a.delay.lower))
        .then(b.leaked.cmp(&a.leaked))
        .then_with(|| a.name.cmp(&b.name))
}
