//! `cargo xtask test`: every test of the workspace by one command, and the names of those that could not run.
//!
//! A test that lacks a right writes one line, `skipped: NAME: REASON`, to standard error (not by `eprintln!`, which the
//! test harness swallows) and returns. A test that does something bad to the program writes `tried: ` and a row for
//! `docs/robustness.md`. Both kinds of lines are collected here and shown at the end.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::vm;

/// The page whose table is made of what tests tell, and of rows that name other commands, which stay.
const PAGE: &str = "docs/robustness.md";
/// How the last cell of a row begins that a test told.
const TOLD_BY_TEST: &str = "`--test ";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Write what tests tried, and what happened, into docs/robustness.md
    #[arg(long)]
    write: bool,
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
    let (mut skipped, mut tried) = (vec![], vec![]);
    for line in BufReader::new(tests.stderr.take().expect("stderr is piped")).lines() {
        let line = line?;
        eprintln!("{line}");
        if let Some(at) = line.find("skipped: ") {
            skipped.push(line[at..].to_owned());
        }
        tried.extend(line.find("tried: ").and_then(|at| row(&line[at + "tried: ".len()..])));
    }
    let status = tests.wait()?;
    skipped.sort();
    println!();
    for row in &tried {
        println!("{row}");
    }
    if options.write {
        ensure!(status.success(), "tests failed: {PAGE} stays as it is");
        let page =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.join(PAGE);
        let text = fs::read_to_string(&page).context(PAGE)?;
        fs::write(&page, with_rows(&text, &tried)?).context(PAGE)?;
    }
    for line in &skipped {
        println!("{line}");
    }
    let verdict = if status.success() { "all tests that ran passed" } else { "tests FAILED, see above" };
    println!("{verdict}; {} skipped", skipped.len());
    Ok(ExitCode::from(u8::from(!status.success())))
}

/// The row of a table for what a test told: five cells, the last one a command.
fn row(told: &str) -> Option<String> {
    let (cells, command) = told.rsplit_once(" | ")?;
    Some(format!("| {cells} | `{command}` |"))
}

/// The page with these rows in place of those that tests had told before, in front of the others.
fn with_rows(page: &str, rows: &[String]) -> Result<String> {
    let lines: Vec<&str> = page.lines().collect();
    let rule = lines.iter().position(|line| line.starts_with("|---")).context("the page has no table")?;
    let end =
        lines[rule..].iter().position(|line| !line.starts_with('|')).map_or(lines.len(), |rows| rule + rows);
    let told =
        |line: &&str| line.rsplit(" | ").next().is_some_and(|command| command.starts_with(TOLD_BY_TEST));
    let kept = lines[rule + 1..end].iter().copied().filter(|line| !told(line));
    let lines = lines[..=rule].iter().copied().chain(rows.iter().map(String::as_str)).chain(kept);
    let lines: Vec<&str> = lines.chain(page.lines().skip(end)).collect();
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_tests_replace_those_of_earlier_tests_and_leave_the_others() {
        let page = "# T\n\n| what | with |\n|---|---|\n| old | `--test a b` |\n| long | `cargo xtask fuzz` |\n\nEnd.\n";
        let new = row("new | --test a c").unwrap();
        let expected = "# T\n\n| what | with |\n|---|---|\n| new | `--test a c` |\n| long | `cargo xtask fuzz` |\n\nEnd.\n";
        let written = with_rows(page, &[new]).unwrap();
        assert_eq!(written, expected);
        assert_eq!(with_rows(&written, &[row("new | --test a c").unwrap()]).unwrap(), expected);
    }
}
