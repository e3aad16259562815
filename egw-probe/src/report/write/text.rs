//! The report for a terminal: 80 columns.

use std::fmt::Write;

use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

use crate::document::shown::plain;
use crate::report::data::figures::{count, counted, seconds, short};
use crate::report::data::run::{Clients, Quantile, Report, Run, Times};
use crate::report::write::words::{self, bounds, longest, share, verdict};

/// Columns.
const WIDTH: usize = 80;
/// Documents and settings named.
const NAMED: usize = 10;
/// Clients named as the worst.
const WORST: usize = 5;

/// Groups named.
const GROUPS: usize = 20;

/// Writes a report as text: the verdict first, and the methods only where somebody asked for them.
pub(crate) fn text(report: &Report, explain: bool) -> String {
    let mut text = "egw-probe report".to_owned();
    if let Some(verdict) = words::judged(report) {
        let _ = write!(text, ": {verdict}");
    }
    text.push('\n');
    for gate in &report.gates {
        paragraph(&mut text, "  ", &format!("{}  {}: {}", words::state(gate), gate.gate, gate.found));
    }
    text.push('\n');
    run(&mut text, &report.run, "");
    if let (Some(other), Some(comparison)) = (&report.compared_with, &report.comparison) {
        text.push('\n');
        run(&mut text, other, "compared with ");
        text.push_str("\ncomparison\n");
        paragraph(&mut text, "  ", &verdict(comparison));
        for line in words::findings(comparison) {
            paragraph(&mut text, "  ", &plain(&line));
        }
        if explain {
            paragraph(&mut text, "  ", &words::methods(comparison));
        }
    }
    trend(&mut text, report);
    if explain {
        text.push_str("\nmethods\n");
        for method in report.methods {
            paragraph(&mut text, "  ", method);
        }
    }
    text
}

fn run(text: &mut String, run: &Run, prefix: &str) {
    let clients = &run.clients;
    let _ = writeln!(text, "{prefix}{}", words::clients(clients.total));
    row(text, "masqueraded", &share(clients.masqueraded, clients.total));
    row(text, "timed out", &share(clients.timed_out, clients.total));
    if clients.unfinished > 0 {
        row(text, "unfinished", &share(clients.unfinished, clients.total));
    }
    delays(text, run);
    if !run.of_report {
        happenings(text, run);
    }
    if !run.settings.is_empty() {
        text.push_str("\n  settings\n");
        for (settings, results) in run.settings.iter().take(NAMED) {
            paragraph(text, "    ", &format!("{} × {}", count(*results), plain(settings)));
        }
    }
    skipped(text, run);
    if !run.notes.is_empty() {
        text.push('\n');
    }
    for note in &run.notes {
        paragraph(text, "  ", &format!("note: {note}"));
    }
}

/// What happened to clients, beside their delays.
fn happenings(text: &mut String, run: &Run) {
    text.push('\n');
    leaks(text, run);
    row(text, "blackhole", &times(&run.blackhole));
    if let Some(loss) = &run.loss {
        lines(text, "lost", [words::loss(loss)]);
    }
    disruptions(text, run);
    sources(text, run);
    groups(text, run);
    worst(text, run);
}

fn delays(text: &mut String, run: &Run) {
    let _ = writeln!(text, "\n  {:<6} {:<31} 95 % confidence, where these", "delay", "of these clients,");
    let _ = writeln!(text, "  {:<6} {:<31} {}", "", "for certain", words::assumed(run));
    for quantile in &run.delay.quantiles {
        let (these, confidence) = (bounds(quantile.of_this_run), bounds(quantile.confidence));
        let _ = writeln!(text, "  {:<6} {these:<31} {confidence}", quantile.name);
    }
    paragraph(text, "  ", &format!("max    {}", longest(run)));
}

/// What leaked, for how long, and from which addresses.
fn leaks(text: &mut String, run: &Run) {
    let clients = &run.clients;
    lines(text, "leaked", [format!("{}, {}", share(clients.leaked, clients.total), words::leaked(run))]);
    if let Some(leak) = &run.leak {
        row(text, "leak time", &times(leak));
    }
    lines(text, "leaked from", words::leaks(run));
    lines(text, "egress IPs", words::egress_ips(run));
}

fn skipped(text: &mut String, run: &Run) {
    if run.read.skipped == 0 {
        return;
    }
    let kinds = run.read.skipped_by_kind.iter();
    let kinds: Vec<String> = kinds.map(|(kind, skipped)| format!("{} {kind}", count(*skipped))).collect();
    let _ = writeln!(text, "\n  SKIPPED {}: {}", counted(run.read.skipped, "document"), kinds.join(", "));
    for document in run.read.skipped_documents.iter().take(NAMED) {
        paragraph(text, "    ", &words::skipped(document));
    }
    if run.read.skipped > NAMED as u64 {
        let _ = writeln!(text, "    and {} more", count(run.read.skipped - NAMED as u64));
    }
}

/// A row for each group.
fn groups(text: &mut String, run: &Run) {
    let Some(by) = &run.by else { return };
    let heading = short(&format!("by {}", by.label), 19);
    let _ = writeln!(
        text,
        "\n  {heading:<19} {:>7} {:>6} {:>6}  {:<17} p95",
        "clients", "failed", "leaked", "p50"
    );
    for group in by.groups.iter().take(GROUPS) {
        let (name, clients) = (short(&words::group(by, group), 19), group.clients);
        let counts = [clients.total, clients.timed_out + clients.unfinished, clients.leaked].map(count);
        let of = |name: &str| {
            group.quantiles.iter().find(|one| one.name == name).map(|one| bounds(one.of_this_run))
        };
        let [p50, p95] = ["p50", "p95"].map(|name| short(&of(name).unwrap_or_default(), 24));
        let [total, failed, leaked] = counts;
        let _ = writeln!(text, "  {name:<19} {total:>7} {failed:>6} {leaked:>6}  {p50}, {p95}");
    }
    if by.total > GROUPS {
        let _ = writeln!(text, "  and {} more", count((by.total - GROUPS) as u64));
    }
}

/// A row for each earlier run, and one for this.
fn trend(text: &mut String, report: &Report) {
    if report.trend.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n  {:<19} {:>7} {:>7}  {:<22} against this run",
        "trend", "clients", "failed", "p50"
    );
    let mut row = |name: &str, clients: &Clients, quantiles: &[Quantile], found: &str| {
        let p50 = quantiles.first().map_or("unknown".to_owned(), |p50| bounds(p50.of_this_run));
        let failed = count(clients.timed_out + clients.unfinished);
        let (name, total) = (short(name, 19), count(clients.total));
        let _ = writeln!(text, "  {name:<19} {total:>7} {failed:>7}  {:<22} {found}", short(&p50, 22));
    };
    for point in &report.trend {
        row(&point.name, &point.clients, &point.quantiles, words::trend(point));
    }
    row("this run", &report.run.clients, &report.run.delay.quantiles, "");
}

/// Lines that may be long, behind one name.
fn lines(text: &mut String, name: &str, lines: impl IntoIterator<Item = String>) {
    for (name, line) in std::iter::once(name).chain(std::iter::repeat("")).zip(lines) {
        paragraph(text, "  ", &format!("{name:<18} {line}"));
    }
}

fn row(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<18} {value}");
}

fn times(times: &Times) -> String {
    let [p50, p99, max, total] =
        [times.p50_seconds, times.p99_seconds, times.max_seconds, times.total_seconds].map(seconds);
    format!("p50 {p50}, p99 {p99}, max {max}\n{:21}{total} over all clients", "")
}

fn disruptions(text: &mut String, run: &Run) {
    let disruptions = &run.disruptions;
    if disruptions.total == 0 {
        return;
    }
    row(text, "disruptions", &words::disruptions(run));
    for one in disruptions.longest.iter().take(3) {
        let length = match one.length.upper_seconds {
            Some(_) => bounds(one.length),
            None => "has no end".to_owned(),
        };
        row(text, "", &format!("{} {}: {length}", short(&one.client_id, 24), one.kind));
    }
}

fn sources(text: &mut String, run: &Run) {
    let Some(sources) = &run.sources else { return };
    let (denied, allowed) =
        (count(sources.denied_connections), counted(sources.allowed_connections, "connection"));
    row(text, "target saw", &format!("{allowed} from inside, {denied} from outside"));
    if let (Some(allowed), Some(denied)) = (sources.allowed_syns, sources.denied_syns) {
        row(text, "", &format!("{} from inside, {} from outside", counted(allowed, "SYN"), count(denied)));
    }
    for (address, connections) in sources.denied_from.iter().take(3) {
        let connections = counted(*connections, "connection");
        row(text, "", &format!("outside: {} ({connections})", short(address, 40)));
    }
}

fn worst(text: &mut String, run: &Run) {
    if run.worst.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n  {:<28} {:<11} {:<26} {:>8}", "worst clients", "outcome", "delay", "leaked");
    for one in run.worst.iter().take(WORST) {
        let name = short(&one.client_id, 28);
        let (delay, leaked) = (short(&bounds(one.delay), 26), count(one.leaked_probes));
        let _ = writeln!(text, "  {name:<28} {:<11} {delay:<26} {leaked:>8}", one.outcome);
    }
}

/// Words in lines of the width, behind an indent that grows by two from the second line on. A word without end, as a long path may
/// be one, is broken.
fn paragraph(text: &mut String, indent: &str, words: &str) {
    let behind = format!("{indent}  ");
    let options = Options::new(WIDTH)
        .initial_indent(indent)
        .subsequent_indent(&behind)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    let _ = writeln!(text, "{}", textwrap::fill(words, options));
}
