//! For a job of GitHub Actions: the step's summary, and annotations for what failed.

use std::fmt::Write;

use crate::report::data::figures::short;
use crate::report::data::run::{Report, Run};
use crate::report::write::markdown::{escape, gates};
use crate::report::write::words::{self, OF_THESE, bounds, longest, share};

/// Clients named as the worst.
const WORST: usize = 5;

/// Writes the summary: verdict, gates, quantiles, and what leaked or was lost.
pub(crate) fn summary(report: &Report) -> String {
    let Report { run, .. } = report;
    let mut text = String::new();
    let verdict = words::judged(report).map_or(String::new(), |verdict| format!(": {verdict}"));
    let _ = writeln!(text, "## Egress gateway report{verdict}\n");
    gates(&mut text, &report.gates);
    let clients = &run.clients;
    let of = |part| share(part, clients.total);
    let _ = writeln!(
        text,
        "{}: {} masqueraded, {} timed out, {} unfinished.\n",
        words::clients(clients.total),
        of(clients.masqueraded),
        of(clients.timed_out),
        of(clients.unfinished)
    );
    let confidence = words::confidence(run);
    let _ = writeln!(text, "| delay | {OF_THESE} | {confidence} |\n|---|---|---|");
    for quantile in &run.delay.quantiles {
        let [these, confidence] = [quantile.of_this_run, quantile.confidence].map(bounds);
        let _ = writeln!(text, "| {} | {these} | {confidence} |", quantile.name);
    }
    let _ = writeln!(text, "| max | {} | |\n", longest(run));
    findings(&mut text, run);
    if let Some(comparison) = &report.comparison {
        let _ = writeln!(text, "\n**{}**\n", words::verdict(comparison));
        for line in words::findings(comparison) {
            let _ = writeln!(text, "- {line}");
        }
    }
    details(&mut text, run);
    text
}

fn findings(text: &mut String, run: &Run) {
    if run.clients.leaked > 0 || run.leaked_connections.total() > 0 {
        let of = match run.clients.leaked {
            0 => String::new(),
            leaked => format!(" of {}", words::clients(leaked)),
        };
        let _ = writeln!(text, "- Leaked: {}{of}", words::leaked(run));
    }
    for (what, told) in words::happened(run) {
        let _ = writeln!(text, "- {what}: {told}");
    }
}

fn details(text: &mut String, run: &Run) {
    text.push_str("\n<details><summary>Worst clients, and what to keep in mind</summary>\n\n");
    text.push_str("| client | outcome | delay |\n|---|---|---|\n");
    for one in run.worst.iter().take(WORST) {
        let name = escape(&short(&one.client_id, 60));
        let _ = writeln!(text, "| {name} | {} | {} |", one.outcome, bounds(one.delay));
    }
    text.push('\n');
    for document in &run.read.skipped_documents {
        let _ = writeln!(text, "- skipped {}", escape(&words::skipped(document)));
    }
    for note in &run.notes {
        let _ = writeln!(text, "- {note}");
    }
    text.push_str("\n</details>\n");
}

/// A line for each gate that failed, and one if not everything was read, as the runner takes them from a step's output
/// (<https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>).
pub(crate) fn annotations(report: &Report) -> String {
    let line = |level: &str, title: &str, message: &str| {
        let title = data(title).replace(':', "%3A").replace(',', "%2C");
        format!("::{level} title=egw-probe report%3A {title}::{}\n", data(message))
    };
    let failed = report.gates.iter().filter(|gate| !gate.passed);
    let failed = failed.map(|gate| line("error", &gate.gate, &gate.found));
    failed.chain(words::unread(report).map(|why| line("warning", "not everything was read", &why))).collect()
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}
