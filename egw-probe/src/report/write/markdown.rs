//! The report for a pull request or an issue.

use std::fmt::Write;

use crate::document::shown::plain;
use crate::report::data::figures::{count, counted, seconds, short};
use crate::report::data::run::{Clients, Gate, Quantile, Report, Run};
use crate::report::write::words::{self, OF_THESE, bounds, longest, share, verdict};

/// Groups named.
const GROUPS: usize = 50;

/// Writes a report as Markdown (GitHub's tables).
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    run(&mut text, &report.run, "Egress gateway report");
    if let (Some(other), Some(comparison)) = (&report.compared_with, &report.comparison) {
        run(&mut text, other, "Compared with");
        let _ = writeln!(text, "**{}**\n", verdict(comparison));
        for line in words::findings(comparison) {
            let _ = writeln!(text, "- {}", escape(&plain(&line)));
        }
        let _ = writeln!(text, "\n{}\n", words::methods(comparison));
    }
    trend(&mut text, report);
    gates(&mut text, &report.gates);
    text.push_str("<details><summary>Methods</summary>\n\n");
    for method in report.methods {
        let _ = writeln!(text, "- {method}");
    }
    text.push_str("\n</details>\n");
    text
}

/// A row for each gate.
pub(super) fn gates(text: &mut String, gates: &[Gate]) {
    if gates.is_empty() {
        return;
    }
    text.push_str("| gate | | found |\n|---|---|---|\n");
    for gate in gates {
        let mark = if gate.passed { "" } else { "**" };
        let state = words::state(gate);
        let _ = writeln!(text, "| `{}` | {mark}{state}{mark} | {} |", gate.gate, gate.found);
    }
    text.push('\n');
}

fn run(text: &mut String, run: &Run, title: &str) {
    let clients = &run.clients;
    let of = |part| share(part, clients.total);
    let _ = writeln!(text, "## {title}\n");
    let _ = writeln!(
        text,
        "{}: {} masqueraded, {} timed out, {} unfinished{}.\n",
        words::clients(clients.total),
        of(clients.masqueraded),
        of(clients.timed_out),
        of(clients.unfinished),
        if run.of_report {
            String::new()
        } else {
            format!("; {} leaked, {}", of(clients.leaked), words::leaked(run))
        }
    );
    delays(text, run);
    if !run.of_report {
        happenings(text, run);
    }
    for (settings, results) in &run.settings {
        let _ = writeln!(text, "- {} × {}", count(*results), escape(&plain(settings)));
    }
    skipped(text, run);
    for note in &run.notes {
        let _ = writeln!(text, "- {note}");
    }
    text.push('\n');
}

/// What happened to clients, beside their delays.
fn happenings(text: &mut String, run: &Run) {
    for (what, times) in [("Leak time", run.leak.as_ref()), ("Blackhole", Some(&run.blackhole))] {
        let Some(times) = times else { continue };
        let [p50, p99, max] = [times.p50_seconds, times.p99_seconds, times.max_seconds].map(seconds);
        let _ = writeln!(text, "{what}: p50 {p50}, p99 {p99}, max {max}.  ");
    }
    for (what, told) in words::happened(run) {
        let _ = writeln!(text, "{what}: {told}.  ");
    }
    groups(text, run);
    worst(text, run);
}

fn trend(text: &mut String, report: &Report) {
    if report.trend.is_empty() {
        return;
    }
    text.push_str(
        "| run | clients | not masqueraded | p50 | p95 | against this run |\n|---|---|---|---|---|---|\n",
    );
    let mut row = |name: &str, clients: &Clients, quantiles: &[Quantile], found: &str| {
        let failed = share(clients.timed_out + clients.unfinished, clients.total);
        let of =
            |name: &str| quantiles.iter().find(|one| one.name == name).map(|one| bounds(one.of_this_run));
        let [p50, p95] = ["p50", "p95"].map(|name| of(name).unwrap_or_default());
        let (name, total) = (escape(&short(name, 60)), count(clients.total));
        let _ = writeln!(text, "| {name} | {total} | {failed} | {p50} | {p95} | {found} |");
    };
    for point in &report.trend {
        row(&point.name, &point.clients, &point.quantiles, words::trend(point));
    }
    row("this run", &report.run.clients, &report.run.delay.quantiles, "");
    text.push('\n');
}

fn delays(text: &mut String, run: &Run) {
    let _ = writeln!(text, "| delay | {OF_THESE} | {} |\n|---|---|---|", words::confidence(run));
    for quantile in &run.delay.quantiles {
        let (these, confidence) = (bounds(quantile.of_this_run), bounds(quantile.confidence));
        let _ = writeln!(text, "| {} | {these} | {confidence} |", quantile.name);
    }
    let _ = writeln!(text, "| max | {} | |\n", longest(run));
}

fn groups(text: &mut String, run: &Run) {
    let Some(by) = &run.by else { return };
    let label = escape(&short(&by.label, 60));
    let _ = writeln!(
        text,
        "\n| {label} | clients | not masqueraded | leaked | p50 | p95 |\n|---|---|---|---|---|---|"
    );
    for group in by.groups.iter().take(GROUPS) {
        let (name, clients) = (escape(&short(&words::group(by, group), 60)), group.clients);
        let of = |name: &str| {
            group.quantiles.iter().find(|one| one.name == name).map(|one| bounds(one.of_this_run))
        };
        let [p50, p95] = ["p50", "p95"].map(|name| of(name).unwrap_or_default());
        let failed = share(clients.timed_out + clients.unfinished, clients.total);
        let (total, leaked) = (count(clients.total), share(clients.leaked, clients.total));
        let _ = writeln!(text, "| {name} | {total} | {failed} | {leaked} | {p50} | {p95} |");
    }
    if by.total > GROUPS {
        let _ = writeln!(text, "\nAnd {} more.", count((by.total - GROUPS) as u64));
    }
}

fn worst(text: &mut String, run: &Run) {
    text.push_str("\n| worst clients | outcome | delay | leaked | blackhole |\n|---|---|---|---|---|\n");
    for one in &run.worst {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            escape(&short(&one.client_id, 60)),
            one.outcome,
            bounds(one.delay),
            count(one.leaked_probes),
            seconds(one.blackhole_seconds)
        );
    }
    text.push('\n');
}

fn skipped(text: &mut String, run: &Run) {
    if run.read.skipped == 0 {
        return;
    }
    let _ = writeln!(text, "- **Skipped {}**", counted(run.read.skipped, "document"));
    for document in &run.read.skipped_documents {
        let _ = writeln!(text, "  - {}", escape(&words::skipped(document)));
    }
}

/// Text that is nothing but text in Markdown.
pub(super) fn escape(text: &str) -> String {
    text.chars().flat_map(|c| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c])).collect()
}
