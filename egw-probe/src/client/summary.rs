//! The result for people: a few lines on stdout.

use std::fmt::Write;
use std::time::Duration;

use crate::document::disruption::{Disruption, LengthBracket, PartialOutage, ProbeLoss, Share};
use crate::document::egress::{EgressIp, LeakSource, Whose};
use crate::document::held::HoldReport;
use crate::document::outcome::{Evidence, Outcome};
use crate::document::quantiles::Quantiles;
use crate::document::result::{ResultDocument, TestOutcome};
use crate::document::stress::{Limit, StressReport};

/// Disruptions and changes named in the text; a result document has more of them.
const SHOWN: usize = 10;

/// Writes a document as text, a line for each thing that was measured.
pub(crate) fn text(document: &ResultDocument) -> String {
    let target = match &document.target_address {
        Some(address) if *address != document.target => format!("{} ({address})", document.target),
        _ => document.target.clone(),
    };
    let headline = match (document.outcome, document.masquerade_delay_seconds) {
        (TestOutcome::Masqueraded, Some(delay)) => format!("masqueraded after {}", seconds(delay)),
        (TestOutcome::TimedOut, _) => format!("timed out: no pong within {}", document.settings.test_timeout),
        _ => "interrupted before a verdict".to_owned(),
    };
    let mut text = format!("{target}: {headline}\n");
    let rows = delay_rows(document).into_iter().chain(probe_rows(document)).chain(watch_rows(document));
    let stress = document.stress.iter().flat_map(stress_rows);
    let failed = document.failed_gates.iter().map(|gate| ("FAILED", gate.clone()));
    let warnings = document.warnings.iter().map(|warning| ("warning", warning.clone()));
    let hints =
        document.diagnosis.iter().flat_map(|hint| [("hint", hint.what.clone()), ("", hint.next.clone())]);
    for (name, value) in rows.chain(stress).chain(failed).chain(warnings).chain(hints) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10} {value}");
    }
    text
}

type Row = (&'static str, String);

fn delay_rows(document: &ResultDocument) -> Vec<Row> {
    let presumed = match document.bracket.lower_evidence {
        Some(Evidence::Presumed) => "; the leak is presumed: a target with --reply annotated proves it",
        _ => "",
    };
    let bracket = match (document.bracket.lower_seconds, document.bracket.upper_seconds) {
        (Some(lower), Some(upper)) => Some(format!(
            "policy effective between {} and {} (width {}){presumed}",
            seconds(lower),
            seconds(upper),
            seconds(upper - lower)
        )),
        (None, Some(upper)) => {
            let unknown = match document.probes.timeouts_before_winner {
                0 => String::new(),
                timeouts => format!(" ({timeouts} timed out: only the target can tell whether those leaked)"),
            };
            Some(format!(
                "policy effective before {}; no leak seen, so no lower end{unknown}",
                seconds(upper)
            ))
        }
        (Some(lower), None) => Some(format!("policy not yet effective at {}{presumed}", seconds(lower))),
        (None, None) => None,
    };
    let blackhole = (document.blackhole_seconds > 0.0)
        .then(|| format!("{} without an answer", seconds(document.blackhole_seconds)));
    [("bracket", bracket), ("blackhole", blackhole)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn probe_rows(document: &ResultDocument) -> Vec<Row> {
    let probes = &document.probes;
    let named = Outcome::ALL.into_iter().map(|outcome| (outcome, probes.of(outcome)));
    let named = named.filter(|(_, count)| *count > 0);
    let named: Vec<String> = named.map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
    let mut rows = vec![("probes", format!("{} sent: {}", probes.sent, named.join(", ")))];
    if probes.skipped_ticks > 0 {
        rows.push(("skipped", format!("{} ticks without a probe", probes.skipped_ticks)));
    }
    if let Some(Quantiles { min, p50, p99, max, .. }) = document.connect_seconds {
        let [min, p50, p99, max] = [min, p50, p99, max].map(seconds);
        rows.push(("connect", format!("min {min}, p50 {p50}, p99 {p99}, max {max}")));
    }
    if document.end_to_end == Some(false) {
        rows.push(("path", "something between this client and the target terminates TCP".to_owned()));
    }
    rows.extend(egress_rows(document));
    rows
}

fn watch_rows(document: &ResultDocument) -> Vec<Row> {
    let Some(disruptions) = &document.disruptions else { return Vec::new() };
    let partial = match document.partial_outages_total {
        0 => String::new(),
        count => format!(", {}", counted(count, "partial outage", "partial outages")),
    };
    let mut rows = vec![(
        "watch",
        format!("{}{partial}", counted(document.disruptions_total, "disruption", "disruptions")),
    )];
    rows.extend(document.partial_outages.iter().flatten().take(SHOWN).map(partial_row));
    for Disruption { kind, start_seconds, length_seconds, misses } in disruptions.iter().take(SHOWN) {
        let (start, lower) = (seconds(*start_seconds), seconds(length_seconds.lower));
        let upper = length_seconds
            .upper
            .map_or("and no end yet".to_owned(), |upper| format!("to {}", seconds(upper)));
        let misses = counted(*misses, "miss", "misses");
        rows.push((kind.name(), format!("at {start}, for {lower} {upper}, {misses}")));
    }
    rows.extend(document.loss.as_ref().filter(|loss| loss.isolated.misses > 0).map(loss_row));
    if document.disruptions_total > SHOWN as u64 {
        let more = document.disruptions_total - SHOWN as u64;
        rows.push(("", format!("and {more} more: --output json has them")));
    }
    if let Some(held) = &document.held {
        let HoldReport {
            connections, opened, leaked, leaked_presumed, lost_total, stalls, stalls_total, ..
        } = held;
        let denied = match leaked {
            0 => String::new(),
            denied => format!(", denied {denied} times on opening{}", presumed(*leaked_presumed)),
        };
        rows.push((
            "held",
            format!(
                "{connections} connections: {}{stalls_total} stalls, {lost_total} lost{denied}",
                if *opened == 0 { "none was ever answered, " } else { "" }
            ),
        ));
        for stall in stalls.iter().take(SHOWN) {
            let length = stall.length_seconds.upper.unwrap_or(stall.length_seconds.lower);
            let (connection, at) = (stall.connection, seconds(stall.at_seconds));
            let (length, again) = (seconds(length), stall.retransmissions);
            rows.push((
                "",
                format!("number {connection} stalled at {at} for {length}, sent again {again} times"),
            ));
        }
    }
    rows
}

/// From which addresses the target saw the probes.
fn egress_rows(document: &ResultDocument) -> Vec<Row> {
    let more = |shown: usize, all: usize, probes: u64| {
        let more = all.saturating_sub(shown);
        (more > 0 || probes > 0).then(|| ("", format!("and {more} more: --output json has them")))
    };
    let mut rows = Vec::new();
    for LeakSource { address, whose, probes, first_seconds, last_seconds } in
        document.leaked_from.iter().take(SHOWN)
    {
        let whose = match whose {
            Some(Whose::Own) => ", the client's own address: nothing has translated it",
            Some(Whose::Node) => ", the node's address: the node has translated it, and no gateway",
            None => "",
        };
        let (first, last) = (seconds(*first_seconds), seconds(*last_seconds));
        rows.push(("leaked", format!("{probes} probes from {address}{whose}; from {first} to {last}")));
    }
    rows.extend(more(SHOWN, document.leaked_from.len(), document.leaked_from_omitted_probes));
    if let [EgressIp { address, .. }] = document.egress_ips.as_slice() {
        rows.push(("egress IP", address.to_string()));
        return rows;
    }
    for ip in document.egress_ips.iter().take(SHOWN) {
        let EgressIp { address, pongs, share, first_seconds, last_seconds, in_force, missed } = ip;
        let (first, last) = (seconds(*first_seconds), seconds(*last_seconds));
        let end = if *in_force { "on" } else { "to" };
        let until = if *in_force { String::new() } else { format!(" {last}") };
        let share = share * 100.0;
        rows.push((
            "egress IP",
            format!(
                "{address}: {pongs} pongs ({share:.1} %) from {first} {end}{until}, {missed} misses meanwhile"
            ),
        ));
    }
    rows.extend(more(SHOWN, document.egress_ips.len(), document.egress_ips_omitted_pongs));
    rows
}

fn partial_row(outage: &PartialOutage) -> Row {
    let PartialOutage { began_seconds, ended_seconds, length_seconds, probes, lost } = outage;
    let between = |ends: &LengthBracket| match ends.upper {
        Some(upper) => format!("between {} and {}", seconds(ends.lower), seconds(upper)),
        None => format!("not before {}", seconds(ends.lower)),
    };
    let length = length_seconds.upper.map_or("no end yet".to_owned(), |upper| {
        format!("for {} to {}", seconds(length_seconds.lower), seconds(upper))
    });
    let (began, ended) = (between(began_seconds), between(ended_seconds));
    let share = format!("{} of {probes} probes ({:.0} %)", lost.misses, lost.share * 100.0);
    ("partial", format!("{share} were lost {length}: began {began}, ended {ended}"))
}

fn loss_row(loss: &ProbeLoss) -> Row {
    let Share { misses, share, low, high } = loss.isolated;
    let by: Vec<String> =
        loss.isolated_by.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let percent = |share: f64| format!("{:.3} %", share * 100.0);
    let rate = format!(
        "{} of {} probes, 95 % between {} and {}",
        percent(share),
        loss.outside_outages,
        percent(low),
        percent(high)
    );
    ("lost", format!("{misses} probes outside of outages ({}): {rate}", by.join(", ")))
}

fn stress_rows(stress: &StressReport) -> Vec<Row> {
    let StressReport { opened, closed, failed, opening_seconds, peak_open, .. } = stress;
    let by = |counts: Vec<(&str, u64)>| match counts.as_slice() {
        [] => String::new(),
        some => {
            let words: Vec<String> = some.iter().map(|(name, count)| format!("{count} {name}")).collect();
            format!(" ({})", words.join(", "))
        }
    };
    let closed_by = by(stress.closed_by.iter().map(|(reason, count)| (reason.name(), *count)).collect());
    let failed_by = by(stress.failed_by.iter().map(|(reason, count)| (reason.name(), *count)).collect());
    let lost = format!("{closed} closed by themselves{closed_by}, {failed} failed{failed_by}");
    let mut rows = vec![("stress", format!("{opened} opened in {}, {lost}", seconds(*opening_seconds)))];
    if stress.leaked > 0 {
        rows.push((
            "",
            format!(
                "{} leaked: the target saw a source outside its CIDRs{}",
                stress.leaked,
                presumed(stress.leaked_presumed)
            ),
        ));
    }
    rows.push(("", format!("most open at a time {peak_open}, answered {}", stress.answered)));
    if let Some(Quantiles { min, p50, p99, max, .. }) = stress.latency_seconds {
        let [min, p50, p99, max] = [min, p50, p99, max].map(seconds);
        rows.push(("", format!("dials: min {min}, p50 {p50}, p99 {p99}, max {max}")));
    }
    if let Some(Limit { kind, certain, evidence, remedy }) = &stress.limit {
        let sure = if *certain { "" } else { "likely " };
        rows.push(("limit", format!("{sure}{}: {evidence}", kind.name())));
        rows.push(("", remedy.clone()));
    }
    rows
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What follows where leaks are known by a close alone.
fn presumed(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" ({count} presumed: a target with --reply annotated proves it)"),
    }
}

/// A time at microsecond resolution, in the unit that reads best.
fn seconds(value: f64) -> String {
    let length = Duration::from_secs_f64(value.max(0.0));
    if length < Duration::from_secs(1) {
        format!("{:.3} ms", length.as_secs_f64() * 1e3)
    } else {
        format!("{:.6} s", length.as_secs_f64())
    }
}
