//! Whether two runs measured in the same way: what their settings say, before anything is compared. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::data::figures::seconds;
use crate::report::data::run::{OTHER_SETTINGS, Run, Ticks};

/// Without this alike, brackets of the same delays differ, and so would ranks of them.
const INTERVAL: &str = "interval";
/// Others that can make the same gateway look different.
const OTHERS: [&str; 4] = ["probe-timeout", "test-timeout", "stress", "watch"];
/// By how much shares of clients with a setting can differ.
const SHARE: f64 = 0.1;
/// By how much ticks that no chance moves can differ, seconds.
const TICK: f64 = 0.000_5;

/// What differs.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Unlike {
    /// One line each.
    pub lines: Vec<String>,
    /// Brackets of one run are cut in another way than those of the other.
    pub brackets: bool,
}

/// What differs between this run and the other.
pub(crate) fn unlike(this: &Run, other: &Run) -> Unlike {
    let (of_this, of_other) = (Values::of(&this.settings), Values::of(&other.settings));
    let mut unlike = Unlike::default();
    if of_this.results == 0 || of_other.results == 0 {
        unlike.lines.push("a run does not tell its settings: they could not be compared".to_owned());
        return unlike;
    }
    if [this, other].iter().any(|run| run.settings.contains_key(OTHER_SETTINGS)) {
        unlike.lines.push(
            "a run has too many settings to compare them all: name fewer clients by themselves".to_owned(),
        );
    }
    for name in [INTERVAL].into_iter().chain(OTHERS) {
        if !of_this.alike(&of_other, name) {
            unlike.lines.push(format!("{name} is {} against {}", of_this.told(name), of_other.told(name)));
            unlike.brackets |= name == INTERVAL;
        }
    }
    if let Some(line) = this.ticks.zip(other.ticks).and_then(|(this, other)| ticks(this, other)) {
        unlike.lines.push(line);
        unlike.brackets = true;
    }
    unlike
}

/// Ticks at which brackets end: those that chance moves from client to client are alike, others only if they are the same.
fn ticks(this: Ticks, other: Ticks) -> Option<String> {
    let fixed = |ticks: Ticks| ticks.most_phase_seconds - ticks.least_phase_seconds < TICK;
    let apart = |a: f64, b: f64| (a - b).abs() > TICK;
    match (fixed(this), fixed(other)) {
        (true, true) if apart(this.least_phase_seconds, other.least_phase_seconds) => Some(format!(
            "tick phases are {} against {}, the same for all clients of a run",
            seconds(this.least_phase_seconds),
            seconds(other.least_phase_seconds)
        )),
        (true, true) if apart(this.first_probe_seconds, other.first_probe_seconds) => Some(format!(
            "first probes left at {} against {} on average, and ticks are at a fixed phase",
            seconds(this.first_probe_seconds),
            seconds(other.first_probe_seconds)
        )),
        (true, true) | (false, false) => None,
        _ => {
            Some("the tick phase is random in one run, and the same for all clients of the other".to_owned())
        }
    }
}

/// Shares of results by the values of each setting.
struct Values<'a> {
    results: u64,
    by_name: BTreeMap<&'a str, BTreeMap<&'a str, u64>>,
}

impl<'a> Values<'a> {
    fn of(settings: &'a BTreeMap<String, u64>) -> Self {
        let mut values = Self { results: 0, by_name: BTreeMap::new() };
        for (line, results) in settings {
            // The target alone is what a result without settings has.
            let flags: Vec<(&str, &str)> = line.split(", ").filter_map(|flag| flag.split_once(' ')).collect();
            if !flags.iter().any(|(name, _)| *name == "interval") {
                continue;
            }
            values.results += results;
            for (name, value) in flags {
                *values.by_name.entry(name).or_default().entry(value).or_default() += results;
            }
        }
        values
    }

    fn shares(&self, name: &str) -> BTreeMap<String, f64> {
        let mut shares: BTreeMap<String, f64> = BTreeMap::new();
        let mut rest = self.results;
        for (value, results) in self.by_name.get(name).into_iter().flatten() {
            *shares.entry((*value).to_owned()).or_default() += *results as f64 / self.results as f64;
            rest -= rest.min(*results);
        }
        if rest > 0 {
            shares.insert("unset".to_owned(), rest as f64 / self.results as f64);
        }
        shares
    }

    fn alike(&self, other: &Values<'_>, name: &str) -> bool {
        let (a, b) = (self.shares(name), other.shares(name));
        let values: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let share = |of: &BTreeMap<String, f64>, value: &String| of.get(value).copied().unwrap_or(0.0);
        values.into_iter().all(|value| (share(&a, value) - share(&b, value)).abs() <= SHARE)
    }

    fn told(&self, name: &str) -> String {
        let shares = self.shares(name);
        let alone = shares.len() == 1;
        let one = |(value, share): (String, f64)| {
            if alone { value } else { format!("{value} ({:.0} %)", share * 100.0) }
        };
        shares.into_iter().take(3).map(one).collect::<Vec<_>>().join(" and ")
    }
}
