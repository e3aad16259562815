//! `cargo xtask test`: every test of the workspace by one command, and the names of those that could not run.
//!
//! A test that lacks a right writes one line, `skipped: NAME: REASON`, to standard error (not by `eprintln!`, which the
//! test harness swallows) and returns. A test that does something bad to the program writes `tried: ` and a row for
//! `docs/robustness.md`. Both kinds of lines are collected here and shown at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::vm;

/// The page whose table is made of what tests tell, and of rows that name other commands, which stay.
const PAGE: &str = "docs/robustness.md";
/// How the last cell of a row begins that a test told.
const TOLD_BY_TEST: &str = "`--test ";
/// Fault or input, how often tried, what was promised, what happened, the command.
const CELLS: usize = 5;

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
        tried.extend(line.strip_prefix("tried: ").map(str::to_owned));
    }
    let status = tests.wait()?;
    let tried = tried.iter().map(|told| row(told)).collect::<Result<Vec<_>>>()?;
    skipped.sort();
    println!();
    for row in &tried {
        println!("{row}");
    }
    if options.write {
        ensure!(
            status.success() && options.args.is_empty(),
            "{PAGE} is only written by a whole run that passed"
        );
        let page =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.join(PAGE);
        let text = fs::read_to_string(&page).context(PAGE)?;
        fs::write(&page, with_rows(&text, &tried, &skipped)?).context(PAGE)?;
    }
    for line in &skipped {
        println!("{line}");
    }
    let verdict = if status.success() { "all tests that ran passed" } else { "tests FAILED, see above" };
    println!("{verdict}; {} skipped", skipped.len());
    Ok(ExitCode::from(u8::from(!status.success())))
}

/// The row of the table for what a test told.
fn row(told: &str) -> Result<String> {
    let cells: Vec<&str> = told.split(" | ").collect();
    ensure!(cells.len() == CELLS, "{} cells and not {CELLS}: {told}", cells.len());
    Ok(format!("| {} | `{}` |", cells[..CELLS - 1].join(" | "), cells[CELLS - 1]))
}

/// The page with these rows in place of those that tests had told before, in front of the others. What a test that was
/// skipped had told stays.
fn with_rows(page: &str, rows: &[String], skipped: &[String]) -> Result<String> {
    let lines: Vec<&str> = page.lines().collect();
    let rule = format!("{}|", "|---".repeat(CELLS));
    let rule = lines.iter().position(|line| *line == rule).context("the page has no such table")?;
    let end =
        lines[rule..].iter().position(|line| !line.starts_with('|')).map_or(lines.len(), |rows| rule + rows);
    let command = |line: &str| line.rsplit(" | ").next().unwrap_or_default().to_owned();
    let told = |line: &str| command(line).starts_with(TOLD_BY_TEST);
    let is_skipped = |line: &str| {
        let test = command(line).trim_end_matches("` |").rsplit(' ').next().unwrap_or_default().to_owned();
        skipped.iter().any(|skipped| skipped.starts_with(&format!("skipped: {test}: ")))
    };
    let (before, others): (Vec<&str>, Vec<&str>) = lines[rule + 1..end].iter().partition(|line| told(line));
    let mut by_tests: Vec<&str> = before.into_iter().filter(|line| is_skipped(line)).collect();
    by_tests.extend(rows.iter().map(String::as_str));
    by_tests.sort_by_key(|line| command(line));
    let lines: Vec<&str> =
        lines[..=rule].iter().chain(&by_tests).chain(&others).chain(&lines[end..]).copied().collect();
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_five_cells() {
        assert_eq!(row("a | 1 | b | c | --test x y").unwrap(), "| a | 1 | b | c | `--test x y` |");
        assert!(row("a | 1 | b | --test x y").is_err());
    }

    #[test]
    fn rows_of_tests_replace_those_of_earlier_tests_and_leave_the_others() {
        let head = "# T\n\n| what | n | promised | happened | with |\n|---|---|---|---|---|\n";
        let tail = "| long | 1 | p | h | `cargo xtask fuzz` |\n\nEnd.\n";
        let told = |what: &str, test: &str| row(&format!("{what} | 1 | p | h | --test t {test}")).unwrap();
        let page = format!("{head}{}\n{}\n{tail}", told("gone", "a"), told("skipped", "b"));
        let rows = [told("new", "d"), told("new", "c")];
        let written = with_rows(&page, &rows, &["skipped: b: needs root".to_owned()]).unwrap();
        assert_eq!(written, format!("{head}{}\n{}\n{}\n{tail}", told("skipped", "b"), rows[1], rows[0]));
        assert!(with_rows("no table", &rows, &[]).is_err());
    }
}
