//! `cargo xtask bench`: what the program costs, measured on this machine in namespaces of its own.
//!
//! Benches are no tests: rows print what was measured, with spread, and judge nothing but their own arithmetic.

mod accept;
mod accuracy;
mod flood;
mod held;
mod host;
mod latency;
mod probing;
mod row;
mod siege;
mod start;
mod transit;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use self::row::{Bench, Table};
use crate::lab::interrupt::Interrupt;
use crate::lab::prerequisites;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rows to measure [default: all]
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// A program with the same flags to compare with, where that makes sense
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// Only see that the rows run: short, and without meaning
    #[arg(long)]
    quick: bool,
    /// Print one JSON object a row instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Row {
    /// From exec to the first connection, beside a program that only connects
    Start,
    /// Size of the program's file
    Size,
    /// Resident memory of both ends when idle
    Memory,
    /// How late a client finds out, and how true its report is, at 50, 10 and 1 ms
    Accuracy,
    /// Whether a client gets its pong, by round-trip time
    RoundTrips,
    /// Probes a second at short intervals
    Rate,
    /// Time to open 19,800 connections, and memory per 10,000 held
    Held,
    /// Time, memory and CPU from 1,000 to 100,000 held connections
    Growth,
    /// CPU of the target per connection, and how many it takes
    Accept,
    /// A SYN flood: totals against the interface's own counter, events, memory
    Flood,
    /// A target under everything at once, in the memory that its manifest grants
    Siege,
    /// Random SYNs taken for a tag, and all 4,095 clients at once
    Tags,
    /// SYN to accept, idle and under load, and half-open attempts
    Latency,
    /// Other traffic through the interface, with the kernel program and without
    Transit,
    /// Nanoseconds per packet of the kernel program
    Packet,
}

/// Measures the rows, one after another.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    prerequisites::check()?;
    // Before anything starts a thread.
    let interrupt = Interrupt::install()?;
    let bench = Bench {
        program: build("egw-probe", "egw-probe")?,
        bare: build("xtask", "bare-connect")?,
        plain: build("xtask", "plain-accept")?,
        peer: options.peer.clone(),
        quick: options.quick,
        interrupt,
    };
    let all = Row::value_variants();
    for row in if options.rows.is_empty() { all } else { &options.rows } {
        let table = match row {
            Row::Start => start::start(&bench)?,
            Row::Size => start::size(&bench)?,
            Row::Memory => start::memory(&bench)?,
            Row::Accuracy => accuracy::accuracy(&bench)?,
            Row::RoundTrips => probing::round_trips(&bench)?,
            Row::Rate => probing::rate(&bench)?,
            Row::Held => held::held(&bench)?,
            Row::Growth => held::growth(&bench)?,
            Row::Accept => accept::accept(&bench)?,
            Row::Flood => flood::flood(&bench)?,
            Row::Siege => siege::siege(&bench)?,
            Row::Tags => flood::tags(&bench)?,
            Row::Latency => latency::latency(&bench)?,
            Row::Transit => transit::transit(&bench)?,
            Row::Packet => packet(&bench)?,
        };
        if options.json { println!("{}", serde_json::to_string(&table)?) } else { table.print() }
    }
    Ok(ExitCode::SUCCESS)
}

/// Nanoseconds per packet, by the benchmark that lives with the program.
fn packet(bench: &Bench) -> Result<Table> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--quiet", "--package", "egw-probe", "--bench", "kernel_cost"]);
    if bench.quick {
        command.args(["--profile", "dev", "--", "--quick"]);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the kernel_cost benchmark failed");
    let text = String::from_utf8(output.stdout)?;
    Ok(Table {
        title: "kernel program: cargo bench -p egw-probe --bench kernel_cost".into(),
        columns: vec![""],
        lines: text.lines().map(|line| vec![line.to_owned()]).collect(),
        remarks: vec![],
    })
}

fn build(package: &str, binary: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["build", "--release", "--message-format=json", "--package", package, "--bin", binary];
    let output = Command::new(cargo).args(args).stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cannot build {binary}");
    let text = String::from_utf8(output.stdout)?;
    let mut executables = text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().with_context(|| format!("cargo did not say where {binary} is"))
}
