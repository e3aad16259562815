//! How numbers and foreign words are written in every output. Pure.

use std::fmt;

use crate::document::disruption::Share;
use crate::document::outcome::Outcome;
use crate::document::shown::plain;
use crate::report::data::egress::{Addresses, Loss, Seen};
pub(crate) use crate::report::data::figures::clients;
use crate::report::data::figures::{self, count, counted, later_than, range, seconds, up_to};
use crate::report::data::run::{
    Bounds, Comparison, Difference, Disruptions, Found, Gate, GateState, Group, Groups, Report, Run,
    SIGNIFICANCE, SkippedDocument, TrendPoint,
};

/// Writes text between tags or in a quoted attribute, of HTML and XML.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Harmless;

impl askama::filters::Escaper for Harmless {
    fn write_escaped_str<W: fmt::Write>(&self, mut to: W, text: &str) -> fmt::Result {
        to.write_str(&escape(text))
    }
}

/// Text between tags or in a quoted attribute, of HTML and XML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Bounds of a time.
pub(crate) fn bounds(bounds: Bounds) -> String {
    match (bounds.lower_seconds, bounds.upper_seconds) {
        (None, _) => "unknown".to_owned(),
        (Some(lower), None) if lower <= 0.0 => "unknown".to_owned(),
        (Some(lower), None) => later_than(lower),
        (Some(lower), Some(upper)) if lower <= 0.0 => up_to(upper),
        (Some(lower), Some(upper)) => range(lower, upper),
    }
}

/// What stands above the bounds of quantiles.
pub(crate) const OF_THESE: &str = "of these clients, for certain";
/// And above their confidence intervals: no interval without what it assumes.
pub(crate) fn confidence(run: &Run) -> String {
    format!("95 % confidence, where these {}", assumed(run))
}

/// What is taken as an independent sample.
pub(crate) fn assumed(run: &Run) -> String {
    let what = run.nodes.map_or("clients".to_owned(), |nodes| format!("{} nodes", count(nodes as u64)));
    format!("{what} are an independent sample")
}

/// A group's name.
pub(crate) fn group(groups: &Groups, group: &Group) -> String {
    group.value.clone().unwrap_or_else(|| format!("without {}", groups.label))
}

/// Bounds of a difference, which can be negative.
pub(crate) fn difference(bounds: Bounds) -> String {
    match (bounds.lower_seconds, bounds.upper_seconds) {
        (Some(lower), Some(upper)) => range(lower, upper),
        (Some(lower), None) => format!("{} or more", seconds(lower)),
        (None, Some(upper)) => format!("{} or less", seconds(upper)),
        (None, None) => "unknown".to_owned(),
    }
}

/// A share of a whole, with the count.
pub(crate) fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => count(part),
        _ => format!("{} ({:.1} %)", count(part), part as f64 * 100.0 / whole as f64),
    }
}

/// How many disruptions, of how many clients, and how many of each kind.
pub(crate) fn disruptions(run: &Run) -> String {
    let (all, kinds) = (count(run.disruptions.total), kinds(&run.disruptions));
    let open = match run.disruptions.open {
        0 => String::new(),
        open => format!("; {} without an end", count(open)),
    };
    format!("{all} in {}: {kinds}{open}", clients(run.clients.disrupted))
}

/// How many disruptions of each kind.
fn kinds(disruptions: &Disruptions) -> String {
    let kinds = disruptions.by_kind.iter().filter(|(_, number)| **number > 0);
    let kinds: Vec<String> = kinds.map(|(kind, number)| format!("{} {kind}", count(*number))).collect();
    kinds.join(", ")
}

/// The longest delay.
pub(crate) fn longest(run: &Run) -> String {
    let known = run.delay.longest_known.map(|known| format!("; of the others {}", bounds(known)));
    match run.delay.max {
        None => "unknown".to_owned(),
        Some(max) if max.upper_seconds.is_some() => bounds(max),
        Some(max) => {
            format!("{}: {} did not get through{}", bounds(max), failed(run), known.unwrap_or_default())
        }
    }
}

fn failed(run: &Run) -> String {
    clients(run.clients.timed_out + run.clients.unfinished)
}

/// A probability by chance.
fn chance(p_value: f64) -> String {
    match p_value {
        // The least that so many shuffles can find.
        ..0.000_15 => "p ≤ 0.0001".to_owned(),
        ..0.001 => format!("p {p_value:.4}"),
        _ => format!("p {p_value:.3}"),
    }
}

/// What a comparison says, in a few sentences.
pub(crate) fn verdict(comparison: &Comparison) -> String {
    let p = chance(comparison.p_value);
    match comparison.found {
        Found::NothingToCompare => "Nothing to compare: a run has no client.".to_owned(),
        Found::TooFewClients => {
            let what = if comparison.nodes.is_some() { "nodes" } else { "clients" };
            format!("Too few {what}: no difference, however large, could be told from noise.")
        }
        Found::NotComparable => {
            "The runs were not measured in the same way: ranks of their brackets would differ without any \
             difference of delays. What brackets prove stands below."
                .to_owned()
        }
        Found::Differ => {
            let seen: Vec<String> = comparison
                .tests
                .iter()
                .filter(|test| test.p_value * comparison.tests.len() as f64 <= SIGNIFICANCE)
                .map(|test| format!("{} ({})", test.of, chance(test.p_value)))
                .collect();
            // Of delays alone is it said which run is the slower one.
            let delays = comparison.tests.iter().find(|test| test.of == "delays");
            let how = delays
                .filter(|test| test.p_value * comparison.tests.len() as f64 <= SIGNIFICANCE)
                .map_or("", |_| {
                    if comparison.later > 0.0 {
                        "; on the whole this run is later"
                    } else {
                        "; on the whole this run is earlier"
                    }
                });
            format!("The runs differ beyond noise in {}{how}.", seen.join(", "))
        }
        Found::NoDifferenceSeen => {
            let failures = comparison.detectable_failures.map_or(String::new(), |share| {
                format!(", and {:.1} % of clients failing in this run alone", share * 100.0)
            });
            let power = match comparison.detectable_seconds {
                Some(shift) if shift < 1e-6 => {
                    format!("any shift would have been seen 4 times in 5{failures}")
                }
                Some(shift) => {
                    format!("a shift of {} would have been seen 4 times in 5{failures}", seconds(shift))
                }
                None => "no shift of these delays would have been seen 4 times in 5".to_owned(),
            };
            format!("No difference beyond noise ({p}; below {SIGNIFICANCE} would be one); {power}.")
        }
    }
}

/// What else a comparison has to say: what was measured in another way, and what its quantiles say, a line each.
pub(crate) fn findings(comparison: &Comparison) -> Vec<String> {
    let settings = comparison.settings.iter().map(|line| format!("settings: {line}"));
    let told = |what: &str, found: Difference| {
        let slower = match found.one_sided.upper_seconds {
            Some(most) if most >= 0.0 => format!("not later by more than {} (one-sided)", seconds(most)),
            Some(most) => format!("earlier by at least {} (one-sided)", seconds(-most)),
            None => "nothing says by how much it may be later".to_owned(),
        };
        let (these, confidence) = (difference(found.of_these_runs), difference(found.confidence));
        format!("{what} differs by {these} in these runs, 95 % confidence {confidence}; {slower}")
    };
    let unit = if comparison.nodes.is_some() { "nodes" } else { "clients" };
    let assumed = format!("95 % confidence is where {unit} of both runs are an independent sample");
    let quantiles = comparison.quantiles.iter().filter(|one| one.name != "p90").flat_map(|one| {
        let ends = one.upper_ends.map(|ends| told(&format!("{} of the upper ends", one.name), ends));
        std::iter::once(told(&format!("{} of the delay", one.name), one.delay)).chain(ends)
    });
    settings.chain(quantiles).chain([assumed]).collect()
}

/// The methods of a comparison.
pub(crate) fn methods(comparison: &Comparison) -> String {
    let tests: Vec<String> = comparison
        .tests
        .iter()
        .map(|test| format!("{} {}: {}", test.of, chance(test.p_value), test.method))
        .collect();
    let unit = match comparison.nodes {
        Some([this, other]) => {
            format!("Nodes ({} and {}) are exchanged", count(this as u64), count(other as u64))
        }
        None => "Clients are exchanged".to_owned(),
    };
    let shuffles = count(u64::from(comparison.shuffles));
    let shared = match tests.len() {
        0 | 1 => String::new(),
        several => format!(" / {several}"),
    };
    format!("{} {unit}, {shuffles} times; one test counts below {SIGNIFICANCE}{shared}.", tests.join(" "))
}

/// What became of a gate.
pub(crate) fn state(gate: &Gate) -> &'static str {
    match gate.state {
        GateState::Kept => "passed",
        GateState::Failed => "FAILED",
        GateState::CannotTell => "CANNOT TELL",
    }
}

/// An earlier run against this one, in a few words.
pub(crate) fn trend(point: &TrendPoint) -> &'static str {
    match point.found {
        Found::Differ => "differs",
        Found::NoDifferenceSeen => "no difference seen",
        Found::TooFewClients => "too few clients",
        Found::NotComparable => "not comparable",
        Found::NothingToCompare => "no client",
    }
}

/// Whether every gate was kept, and whether everything was read; nothing if no gate was set and everything was.
pub(crate) fn judged(report: &Report) -> Option<String> {
    let all = counted(report.gates.len() as u64, "gate");
    let of_state = |wanted| report.gates.iter().filter(|gate| gate.state == wanted).count() as u64;
    let gates = match (of_state(GateState::Failed), of_state(GateState::CannotTell)) {
        _ if report.gates.is_empty() => None,
        (0, 0) => Some(format!("passed, {all}")),
        (0, unknown) => Some(format!("CANNOT TELL, {} of {all}", count(unknown))),
        (failed, _) => Some(format!("FAILED, {} of {all}", count(failed))),
    };
    let differ = report.comparison.as_ref().is_some_and(|comparison| comparison.found == Found::Differ);
    let differ = differ.then(|| "the runs differ beyond noise".to_owned());
    let said: Vec<String> = [gates, differ, unread(report)].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Why not everything was read, of all runs, if not.
pub(crate) fn unread(report: &Report) -> Option<String> {
    let runs = || [Some(&report.run), report.compared_with.as_ref()].into_iter().flatten();
    let earlier = report.trend.iter().rev().skip(1).map(|point| point.skipped);
    match runs().map(|run| run.read.skipped).chain(earlier).sum() {
        0 => runs().any(|run| run.clients.total == 0).then(|| "no result was found".to_owned()),
        1 => Some("1 document was skipped".to_owned()),
        skipped => Some(format!("{} documents were skipped", count(skipped))),
    }
}

/// A document that was not read.
pub(crate) fn skipped(document: &SkippedDocument) -> String {
    plain(&format!("{}: {}", document.place, document.reason)).into_owned()
}

/// Probes that leaked.
pub(crate) fn leaked_probes(run: &Run) -> u64 {
    run.probes_of(Outcome::Leaked)
}

/// Probes that leaked, and connections.
pub(crate) fn leaked(run: &Run) -> String {
    figures::leaked(leaked_probes(run), run.leaked_connections)
}

/// Addresses that probes leaked from, a line each.
pub(crate) fn leaks(run: &Run) -> Vec<String> {
    let whose = |count: u64, of: &str| (count > 0).then(|| format!("{of} of {}", clients(count)));
    let line = |seen: &Seen| {
        let known: Vec<String> =
            [whose(seen.own, "own address"), whose(seen.node, "node")].into_iter().flatten().collect();
        let known = if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) };
        format!("{}, {} of {}{known}", seen.address, counted(seen.probes, "probe"), clients(seen.clients))
    };
    lines(&run.leaked_from, line, "probes from")
}

/// Egress IPs, a line each.
pub(crate) fn egress_ips(run: &Run) -> Vec<String> {
    let line = |seen: &Seen| {
        format!("{}, {} of {}", seen.address, counted(seen.probes, "pong"), clients(seen.clients))
    };
    lines(&run.egress_ips, line, "pongs by")
}

/// A line for each of the first addresses, and one for what came `probes_from` all others. How many those are nobody knows: a result
/// lists its first 64.
fn lines(told: &Addresses, line: impl Fn(&Seen) -> String, probes_from: &str) -> Vec<String> {
    const SHOWN: usize = 5;
    let hidden = told.addresses.iter().skip(SHOWN);
    let probes = hidden.fold(told.more_probes, |sum, seen| sum.saturating_add(seen.probes));
    let rest = (probes > 0).then(|| format!("and {} more {probes_from} other addresses", count(probes)));
    told.addresses.iter().take(SHOWN).map(line).chain(rest).collect()
}

/// What happened to clients beside their delays, by name: from and by which addresses, losses, disruptions.
pub(crate) fn happened(run: &Run) -> Vec<(&'static str, String)> {
    let joined = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("; "));
    let disruptions = (run.disruptions.total > 0).then(|| disruptions(run));
    [
        ("Leaked from", joined(leaks(run))),
        ("Egress IPs", joined(egress_ips(run))),
        ("Lost", run.loss.as_ref().map(loss)),
        ("Disruptions", disruptions),
    ]
    .into_iter()
    .filter_map(|(what, told)| Some((what, told?)))
    .collect()
}

/// What watches lost.
pub(crate) fn loss(loss: &Loss) -> String {
    let percent = |share: f64| format!("{:.3} %", share * 100.0);
    let Share { misses, share, low, high } = loss.by_chance;
    let probes = counted(loss.outside_outages, "probe");
    let rate = format!("{} of {probes} by chance, {}", count(misses), percent(share));
    let interval = format!("95 % between {} and {}", percent(low), percent(high));
    let partial = match loss.partial_outages {
        0 => String::new(),
        outages => {
            format!("; {} in {}", count(loss.in_partial_outages.misses), counted(outages, "partial outage"))
        }
    };
    format!("{rate} ({interval}){partial}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well_in_every_size() {
        let told = |lower, upper| bounds(Bounds { lower_seconds: lower, upper_seconds: upper });
        assert_eq!(told(Some(0.300_142), Some(0.350_276)), "300 to 351 ms");
        assert_eq!(told(Some(0.9), Some(1.1)), "0.900 to 1.100 s");
        assert_eq!(told(Some(0.0), Some(0.05)), "up to 50 ms");
        assert_eq!(told(Some(2.0), None), "later than 2.00 s");
        assert_eq!(told(Some(0.0), None), "unknown");
    }

    #[test]
    fn hostile_names_are_harmless_everywhere() {
        let hostile = "<script>alert(\"1\")</script>\u{1b}[2J\u{202e}'&";
        assert_eq!(
            escape(hostile),
            "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;\\u001b[2J\\u202e&#39;&amp;"
        );
    }
}
