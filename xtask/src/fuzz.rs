//! `cargo xtask fuzz`: every fuzz target for a while, over the committed corpus: a seed, and what guards past findings. What a run
//! finds worth keeping stays below `target/`; findings stay in `fuzz/artifacts`, until somebody fixes them and adds them to the
//! corpus as `found-WHAT`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::unready::unready;

/// A single input that takes longer is a finding.
const SLOWEST_SECONDS: u32 = 20;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Targets to run [default: all]
    target: Vec<String>,
}

/// Runs them one after another. Exit status 1 on a finding.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let known = targets(&root.join("fuzz/fuzz_targets"))?;
    if let Some(unknown) = options.target.iter().find(|name| !known.contains(name)) {
        return Err(unready(format!("{unknown}: no such target; there are {}", known.join(", "))));
    }
    let wanted = if options.target.is_empty() { known } else { options.target.clone() };
    let triple = host_triple()?;
    let built = cargo_fuzz(root, "build", &triple).status().context("cargo could not be started")?;
    ensure!(
        built.success(),
        unready(
            "the targets were not built; is all there? `cargo install cargo-fuzz --locked`, and a C++ compiler"
        )
    );
    println!(
        "{:12} {:>8} {:>12} {:>8} {:>8}  result",
        "target", "seconds", "executions", "corpus", "covered"
    );
    let mut findings = 0;
    for name in wanted {
        let tried = one(root, &triple, &name, options.seconds)?;
        println!(
            "{name:12} {:>8} {:>12} {:>8} {:>8}  {}",
            options.seconds,
            tried.executions,
            tried.corpus,
            tried.covered,
            tried.finding.as_deref().map_or("nothing found".into(), |finding| format!("FOUND: {finding}")),
        );
        findings += u8::from(tried.finding.is_some());
    }
    Ok(ExitCode::from(findings.min(1)))
}

/// What came of one target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tried {
    executions: u64,
    /// Inputs that reach something that no other one does.
    corpus: u64,
    /// Edges of the program reached.
    covered: u64,
    finding: Option<String>,
}

/// The committed corpus of a target, and the one that its runs have made.
fn corpora(root: &Path, name: &str) -> Result<[PathBuf; 2]> {
    let folders = ["fuzz/corpus", "target/fuzz-corpus"].map(|folder| root.join(folder).join(name));
    folders.iter().try_for_each(fs::create_dir_all)?;
    Ok(folders)
}

fn one(root: &Path, triple: &str, name: &str, seconds: u32) -> Result<Tried> {
    let [committed, grown] = corpora(root, name)?;
    // libFuzzer writes into the first folder only.
    let output = cargo_fuzz(root, "run", triple)
        .arg(name)
        .args([&grown, &committed])
        .arg("--")
        .args([format!("-max_total_time={seconds}"), format!("-timeout={SLOWEST_SECONDS}")])
        .args(["-print_final_stats=1", "-verbosity=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("cargo could not be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let tried = tried(&said, output.status.success());
    if tried.finding.is_some() {
        eprintln!("{said}");
    }
    Ok(tried)
}

/// Reads what libFuzzer said.
fn tried(said: &str, success: bool) -> Tried {
    let behind = |line: &str, word: &str| -> Option<u64> {
        let rest = line.split_once(word)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let last = |word: &str| said.lines().rev().find_map(|line| behind(line, word)).unwrap_or(0);
    let artifact = said.lines().rev().find_map(|line| line.split_once("Test unit written to "));
    let finding = artifact.map_or("it ended early, see above", |(_, path)| path.trim()).to_owned();
    Tried {
        executions: last("stat::number_of_executed_units:"),
        corpus: last(" corp: "),
        covered: last(" cov: "),
        finding: (!success).then_some(finding),
    }
}

/// With address sanitizer, which stable Rust has, too, when it is told to do what only nightly may.
fn cargo_fuzz(root: &Path, verb: &str, triple: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("RUSTC_BOOTSTRAP", "1");
    // Its programs are linked with glibc: address sanitizer needs it.
    command.args(["fuzz", verb, "--fuzz-dir", "fuzz", "--target", triple]);
    command
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not tell its host")
}

/// Names of all targets, in order.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let stem = |file: &PathBuf| file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let mut names: Vec<String> = files.iter().filter_map(stem).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_read_from_the_last_lines() {
        let said = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #9000\tDONE   cov: 61 ft: 90 corp: 12/345b lim: 4 exec/s: 3000 rss: 31Mb\n\
                    stat::number_of_executed_units: 9000\n";
        assert_eq!(tried(said, true), Tried { executions: 9000, corpus: 12, covered: 61, finding: None });
    }

    #[test]
    fn a_finding_is_told_by_its_file() {
        let said = "artifact_prefix='x/'; Test unit written to fuzz/artifacts/cidrs/crash-1\n";
        assert_eq!(tried(said, false).finding.as_deref(), Some("fuzz/artifacts/cidrs/crash-1"));
        assert_eq!(tried("", false).finding.as_deref(), Some("it ended early, see above"));
    }

    #[test]
    fn every_target_is_named_in_the_manifest() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let targets = targets(&fuzz.join("fuzz_targets")).unwrap();
        assert_eq!(targets.len(), manifest.matches("[[bin]]").count());
        for name in targets {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
