//! The result for people: a few lines on stdout.

use std::fmt::Write;
use std::time::Duration;

use super::outcome::Outcome;
use super::result::{ResultDocument, TestOutcome};

/// Writes a document as text, a line for each thing that was measured.
pub fn text(document: &ResultDocument) -> String {
    let mut text = String::new();
    let target = match &document.target_address {
        Some(address) if *address != document.target => format!("{} ({address})", document.target),
        _ => document.target.clone(),
    };
    let headline = match (document.outcome, document.masquerade_delay_seconds) {
        (TestOutcome::Masqueraded, Some(delay)) => format!("masqueraded after {}", seconds(delay)),
        (TestOutcome::TimedOut, _) => {
            format!("timed out: no pong within {}", document.settings.test_timeout)
        }
        _ => "interrupted before a verdict".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{target}: {headline}");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let bracket = document.bracket;
    match (bracket.lower_seconds, bracket.upper_seconds) {
        (Some(lower), Some(upper)) => row(
            "bracket",
            format!(
                "policy effective between {} and {} (width {})",
                seconds(lower),
                seconds(upper),
                seconds(upper - lower)
            ),
        ),
        (None, Some(upper)) => {
            row(
                "bracket",
                format!("policy effective before {}; nothing leaked, so no lower end", seconds(upper)),
            );
        }
        (Some(lower), None) => row("bracket", format!("policy not yet effective at {}", seconds(lower))),
        (None, None) => {}
    }
    if document.blackhole_seconds > 0.0 {
        row("blackhole", format!("{} without an answer", seconds(document.blackhole_seconds)));
    }
    let probes = &document.probes;
    let by_outcome = Outcome::ALL.map(|outcome| match outcome {
        Outcome::Pong => probes.pong,
        Outcome::Leaked => probes.leaked,
        Outcome::Timeout => probes.timeout,
        Outcome::Refused => probes.refused,
        Outcome::Unreachable => probes.unreachable,
        Outcome::Garbled => probes.garbled,
        Outcome::Error => probes.error,
    });
    let named = Outcome::ALL.iter().zip(by_outcome).filter(|(_, count)| *count > 0);
    let named: Vec<String> = named.map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
    row("probes", format!("{} sent: {}", probes.sent, named.join(", ")));
    if probes.skipped_ticks > 0 {
        row("skipped", format!("{} ticks without a probe", probes.skipped_ticks));
    }
    if let Some(connect) = document.connect_seconds {
        row(
            "connect",
            format!(
                "min {}, p50 {}, p99 {}, max {}",
                seconds(connect.min),
                seconds(connect.p50),
                seconds(connect.p99),
                seconds(connect.max)
            ),
        );
    }
    if let Some(egress_ip) = document.egress_ip {
        row("egress IP", egress_ip.to_string());
    }
    if let Some(stress) = &document.stress {
        row(
            "stress",
            format!(
                "{} opened, {} closed by the other end, {} failed",
                stress.opened, stress.closed, stress.failed
            ),
        );
    }
    for gate in &document.failed_gates {
        row("FAILED", gate.clone());
    }
    for warning in &document.warnings {
        row("warning", warning.clone());
    }
    text
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
