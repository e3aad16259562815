//! An earlier run as its own report tells of it (`--output json`): enough of it to compare another run with. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::report::data::brackets::Line;
use crate::report::data::run::Ticks;

/// The form of reports that is understood.
const SCHEMA: u64 = 2;
/// No run has more clients.
const MOST_CLIENTS: u64 = 2_000_000;

/// What a report tells of its run, as far as it is used.
#[derive(Debug, Deserialize)]
pub(crate) struct WireRun {
    clients: WireClients,
    delay: WireDelay,
    #[serde(default)]
    settings: BTreeMap<String, u64>,
    ticks: Option<Ticks>,
}

#[derive(Debug, Deserialize)]
struct WireClients {
    leaked: u64,
}

#[derive(Debug, Deserialize)]
struct WireDelay {
    #[serde(default)]
    brackets: Vec<String>,
}

/// The run of an earlier report.
#[derive(Debug, Default)]
pub struct Baseline {
    /// Its brackets.
    pub lines: Vec<Line>,
    /// Of its clients, those that leaked.
    pub leaked: u64,
    /// Results by their settings.
    pub settings: BTreeMap<String, u64>,
    /// When its ticks were.
    pub ticks: Option<Ticks>,
}

/// Why a report is no baseline.
#[derive(Debug)]
pub(crate) enum Unusable {
    Damaged(String),
    Foreign(&'static str),
}

/// Reads a report of this schema; no time of it is longer than `longest`, seconds.
pub(crate) fn read(schema: &serde_json::Value, run: WireRun, longest: f64) -> Result<Baseline, Unusable> {
    if schema.as_u64().is_none_or(|schema| schema > SCHEMA) {
        return Err(Unusable::Foreign("a report of a newer egw-probe: compare with it by that"));
    }
    let lines: Vec<Line> = run
        .delay
        .brackets
        .iter()
        .map(|line| line.parse().map_err(Unusable::Damaged))
        .collect::<Result<_, _>>()?;
    if lines.is_empty() {
        return Err(Unusable::Foreign(
            "a report without brackets to compare with: write it again with this egw-probe",
        ));
    }
    let possible = |line: &Line| {
        let (lower, upper) = (line.delay.lower, line.delay.upper);
        (0.0..=longest).contains(&lower) && lower <= upper && (upper <= longest || upper.is_infinite())
    };
    let clients = lines.iter().fold(0, |sum: u64, line| sum.saturating_add(line.clients));
    if clients > MOST_CLIENTS || !lines.iter().all(possible) {
        return Err(Unusable::Damaged("brackets of a run that cannot be".to_owned()));
    }
    Ok(Baseline { lines, leaked: run.clients.leaked, settings: run.settings, ticks: run.ticks })
}
