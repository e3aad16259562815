//! `cargo xtask test`: every test of the workspace by one command, and the names of those that could not run.
//!
//! A test that lacks a right writes one line, `skipped: NAME: REASON`, to standard error (not by `eprintln!`, which the
//! test harness swallows) and returns. The lines are collected here and shown at the end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::vm;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Further arguments for `cargo test`
    #[arg(last = true, value_name = "CARGO TEST ARGS")]
    args: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Instead {
    /// Boot Debian's kernels in virtual machines, and run the target and the client on each
    Vm(vm::Options),
}

/// Runs all tests. Exit status 1 if one fails.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(Instead::Vm(options)) = &options.instead {
        return vm::run(options);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(cargo)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(&options.args)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut skipped = vec![];
    for line in BufReader::new(tests.stderr.take().expect("stderr is piped")).lines() {
        let line = line?;
        eprintln!("{line}");
        if let Some(at) = line.find("skipped: ") {
            skipped.push(line[at..].to_owned());
        }
    }
    let status = tests.wait()?;
    skipped.sort();
    println!();
    for line in &skipped {
        println!("{line}");
    }
    let verdict = if status.success() { "all tests that ran passed" } else { "tests FAILED, see above" };
    println!("{verdict}; {} skipped", skipped.len());
    Ok(ExitCode::from(u8::from(!status.success())))
}
