//! `egw-probe report`: from many results to one answer.
//!
//! Data goes one way: [`plan`] -> [`read`] -> [`stats`] -> [`write`], in the form of [`data`]. No room imports from one behind it.

pub(crate) mod data;
pub(crate) mod plan;
pub(crate) mod read;
pub(crate) mod stats;
pub(crate) mod write;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::report::ReportOutput;
use crate::document::shown::plain;
use crate::report::data::brackets;
use crate::report::data::run::{Comparison, METHODS, Report, Run, TrendPoint};
use crate::report::plan::Plan;
use crate::report::read::corpus::Corpus;
use crate::report::read::input::{self, Input};
use crate::report::stats::{compare, gates};
use crate::report::write::{benchmark, csv, github, html, junit, markdown, openmetrics, text};
use crate::sys::signals::Signals;
use crate::sys::{file, output, progress};

/// A gate failed.
const EXIT_GATE: u8 = 1;
/// No gate failed, but not everything could be read.
const EXIT_SKIPPED: u8 = 3;

/// The report is not whole: it could not be written, or a signal came first.
const EXIT_BROKEN: u8 = 4;

/// Refusals told one by one on stderr; the report counts all.
const TOLD: usize = 20;

/// Reads, judges and writes. The exit code is 0, 1 if a gate failed, 3 if something was skipped, or 4 if that could not be done to
/// the end: that is no verdict.
pub fn run(plan: &Plan, signals: &Signals) -> anyhow::Result<ExitCode> {
    Ok(judge(plan, signals).unwrap_or_else(|error| {
        progress::clear();
        // Where nobody can read, there is nobody to tell.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::from(EXIT_BROKEN)
    }))
}

fn judge(plan: &Plan, signals: &Signals) -> anyhow::Result<ExitCode> {
    progress::enable();
    let mut corpus = Corpus::default();
    corpus.by.clone_from(&plan.by);
    let corpus = input::read(&plan.inputs, corpus, signals)?;
    tell_skipped(&corpus);
    let earlier = |input| {
        let mut corpus = Corpus::default();
        corpus.takes_reports = true;
        input::read(std::slice::from_ref(input), corpus, signals)
    };
    let others: Vec<Corpus> = plan.compare.iter().map(earlier).collect::<anyhow::Result<_>>()?;
    others.iter().for_each(tell_skipped);
    let report = report(plan, &corpus, &others);
    write_outputs(plan, &report, &corpus)?;
    tell_failed(plan.output, &report);
    let skipped = std::iter::once(&corpus).chain(&others).any(|corpus| {
        // Nothing at all is something that could not be read, too.
        corpus.skipped_total() > 0 || corpus.clients.is_empty()
    });
    Ok(match report.gates.iter().all(|gate| gate.passed) {
        false => ExitCode::from(EXIT_GATE),
        true if skipped => ExitCode::from(EXIT_SKIPPED),
        true => ExitCode::SUCCESS,
    })
}

/// The report of a corpus, compared with others, of which the last one is what it is judged against.
pub(crate) fn report(plan: &Plan, corpus: &Corpus, others: &[Corpus]) -> Report {
    let mut run = stats::run::of(corpus);
    if plan.output == ReportOutput::Json {
        run.delay.brackets = brackets::lines(&corpus.clients, corpus.nodes.names());
    }
    let mut earlier: Vec<(Run, Comparison)> = others
        .iter()
        .map(|other| {
            let summed = stats::run::of(other);
            let comparison = compare::compare((corpus, &run), (other, &summed));
            (summed, comparison)
        })
        .collect();
    let trend = match earlier.len() {
        0 | 1 => vec![],
        _ => {
            plan.compare.iter().zip(&earlier).map(|(input, (run, found))| point(input, run, found)).collect()
        }
    };
    let (compared_with, comparison) = earlier.pop().unzip();
    let leaked = stats::run::leaked_of(&corpus.clients);
    let gates = gates::judge(&plan.limits, (&run, &corpus.clients), leaked, comparison.as_ref());
    Report {
        report_schema: 2,
        version: env!("CARGO_PKG_VERSION"),
        run,
        compared_with,
        comparison,
        trend,
        gates,
        methods: METHODS,
    }
}

/// An earlier run as a row.
fn point(input: &Input, run: &Run, comparison: &Comparison) -> TrendPoint {
    TrendPoint {
        name: input.to_string(),
        clients: run.clients,
        quantiles: run.delay.quantiles.clone(),
        found: comparison.found,
        p_value: comparison.p_value,
        skipped: run.read.skipped,
        differences: comparison.quantiles.clone(),
    }
}

fn tell_skipped(corpus: &Corpus) {
    for skipped in corpus.skipped.iter().take(TOLD) {
        tracing::warn!("skipped {}: {}", plain(&skipped.place), plain(&skipped.refusal.to_string()));
    }
    let more = corpus.skipped_total().saturating_sub(TOLD as u64);
    if more > 0 {
        tracing::warn!("skipped {more} more; --output json names a hundred");
    }
    if corpus.clients.is_empty() {
        tracing::warn!("no result was found");
    }
}

/// On stderr, whatever the output is: a line for each gate that failed. GitHub's runner reads commands there, too.
fn tell_failed(output: ReportOutput, report: &Report) {
    if output == ReportOutput::Github {
        progress::clear();
        // Where nobody can read, there is nobody to tell.
        let _ = io::stderr().write_all(github::annotations(report).as_bytes());
        return;
    }
    for gate in report.gates.iter().filter(|gate| !gate.passed) {
        tracing::error!("gate failed: {}: {}", gate.gate, gate.found);
    }
}

fn write_outputs(plan: &Plan, report: &Report, corpus: &Corpus) -> anyhow::Result<()> {
    let write = |path: &Path, text: &str| {
        file::replace(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &plan.html {
        write(path, &html::page(report, corpus))?;
    }
    if let Some(path) = &plan.junit {
        write(path, &junit::xml(report))?;
    }
    let text = match plan.output {
        ReportOutput::Text => text::text(report, plan.explain),
        ReportOutput::Json => serde_json::to_string_pretty(report)? + "\n",
        ReportOutput::Markdown => markdown::markdown(report),
        ReportOutput::Junit => junit::xml(report),
        ReportOutput::Github => github::summary(report),
        ReportOutput::Benchmark => benchmark::json(report)?,
        ReportOutput::Csv => csv::table(&corpus.clients),
        ReportOutput::Openmetrics => openmetrics::page(report),
    };
    Ok(output::print(&text)?)
}
