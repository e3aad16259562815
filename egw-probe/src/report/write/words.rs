//! How numbers and foreign words are written in every output. Pure.

use std::fmt;

use crate::document::disruption::Share;
use crate::document::outcome::Outcome;
use crate::document::shown::plain;
use crate::report::data::egress::{Addresses, Loss, Seen};
use crate::report::data::figures::{self, count, counted, range, seconds};
use crate::report::data::run::{Basis, Bounds, Comparison, Delay, Disruptions, Run, SIGNIFICANCE};

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
        (None, _) => "never".to_owned(),
        (Some(lower), None) if lower <= 0.0 => "unknown".to_owned(),
        (Some(lower), None) => format!("later than {}", seconds(lower)),
        (Some(lower), Some(upper)) if lower <= 0.0 => format!("up to {}", seconds(upper)),
        (Some(lower), Some(upper)) => range(lower, upper),
    }
}

/// The latest that a time can be, for certain.
pub(crate) fn at_most(bounds: Bounds) -> String {
    match (bounds.lower_seconds, bounds.upper_seconds) {
        (_, Some(upper)) => seconds(upper),
        (None, None) => "never".to_owned(),
        (Some(_), None) => "unknown".to_owned(),
    }
}

/// What stands above the estimates and their confidence.
pub(crate) fn columns(delay: &Delay) -> [&'static str; 2] {
    match delay.basis {
        Basis::Brackets => ["estimate (a bracket)", "95 % confidence"],
        Basis::UpperEnds => ["upper ends", "their 95 % confidence"],
    }
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

/// So many clients.
pub(crate) fn clients(number: u64) -> String {
    counted(number, "client")
}

/// A share of a whole, with the count.
pub(crate) fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => count(part),
        _ => format!("{} ({:.1} %)", count(part), part as f64 * 100.0 / whole as f64),
    }
}

/// How many disruptions of each kind.
pub(crate) fn kinds(disruptions: &Disruptions) -> String {
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
        Some(_) => format!("unknown: {} never got through{}", failed(run), known.unwrap_or_default()),
    }
}

fn failed(run: &Run) -> String {
    clients(run.clients.timed_out + run.clients.unfinished)
}

/// What a comparison says, in one sentence.
pub(crate) fn verdict(comparison: &Comparison) -> String {
    let p = if comparison.p_value < 0.001 {
        format!("p {:.4}", comparison.p_value)
    } else {
        format!("p {:.3}", comparison.p_value)
    };
    match comparison.differ {
        None => "Nothing to compare: a run has no client.".to_owned(),
        Some(true) => {
            let how = if comparison.later > 0.0 { "later" } else { "earlier" };
            format!(
                "The runs differ beyond noise ({p}): clients of this run are {how} than those of the other."
            )
        }
        Some(false) => format!("No difference beyond noise ({p}; below {SIGNIFICANCE} would be one)."),
    }
}

/// Probes that leaked, and connections.
pub(crate) fn leaked(run: &Run) -> String {
    figures::leaked(run.probes_of(Outcome::Leaked), run.leaked_connections)
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

/// What watches lost.
pub(crate) fn loss(loss: &Loss) -> String {
    let percent = |share: f64| format!("{:.3} %", share * 100.0);
    let Share { misses, share, low, high } = loss.by_chance;
    let (missed, probes) = (count(misses), count(loss.outside_outages));
    let rate = format!("{missed} of {probes} probes by chance, {}", percent(share));
    let interval = format!("95 % between {} and {}", percent(low), percent(high));
    let partial = match loss.partial_outages {
        0 => String::new(),
        outages => {
            format!("; {} in {} partial outages", count(loss.in_partial_outages.misses), count(outages))
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
        assert_eq!(told(Some(0.300_142), Some(0.350_276)), "300.142 to 350.276 ms");
        assert_eq!(told(Some(0.9), Some(1.1)), "0.9000 to 1.1000 s");
        assert_eq!(told(Some(0.0), Some(0.05)), "up to 50.000 ms");
        assert_eq!(told(Some(0.3), Some(0.300_000_1)), "300.000 ms");
        assert_eq!(told(Some(2.0), None), "later than 2.0000 s");
        assert_eq!(told(None, None), "never");
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
