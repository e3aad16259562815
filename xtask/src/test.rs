//! `cargo xtask test`: every test of the workspace by one command, and the names of those that could not run.
//!
//! A test that lacks a right or a program writes one line, `skipped: NAME: REASON`, to standard error (not by `eprintln!`, which
//! the test harness swallows) and returns. These lines are collected here and shown at the end.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup::{self, Purpose};
use crate::vm;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Install what is missing on this machine first (Debian and Ubuntu, as root)
    #[arg(long)]
    setup: bool,
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
    if options.setup {
        setup::install(Purpose::Test)?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([setup::python_programs()].into_iter().chain(env::split_paths(&path)))?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(cargo)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(&options.args)
        .env("PATH", path)
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_test_that_the_page_on_robustness_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = fs::read_to_string(root.join("docs/robustness.md")).unwrap();
        let named: Vec<(&str, &str)> = page
            .split("--test it ")
            .skip(1)
            .filter_map(|rest| rest.split(['`', ' ']).next()?.split_once("::"))
            .collect();
        assert!(named.len() > 25, "{named:?}");
        for (file, test) in named {
            let text = fs::read_to_string(root.join("egw-probe/tests/it").join(file).with_extension("rs"));
            assert!(text.unwrap().contains(&format!("\nfn {test}()")), "{file}::{test}");
        }
    }
}
