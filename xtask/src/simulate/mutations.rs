//! Faults put back into the decisions, one at a time: a simulator that does not find them proves nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// A fault: where, what stands there, and what it becomes.
struct Mutation {
    what: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const MUTATIONS: [Mutation; 12] = [
    Mutation {
        what: "a handshake bounds the delay whoever made it",
        file: "outcome.rs",
        right: "(Some(true), Some(established)) => established,",
        wrong: "(_, Some(established)) => established,",
    },
    Mutation {
        what: "a disruption ends when the next pong is sent",
        file: "disruptions.rs",
        right: "pong.got_through().since(last_pong.sent)",
        wrong: "pong.sent.since(last_pong.sent)",
    },
    Mutation {
        what: "a disruption begins when the last pong came",
        file: "disruptions.rs",
        right: "pong.got_through().since(last_pong.sent)",
        wrong: "pong.got_through().since(last_pong.settled)",
    },
    Mutation {
        what: "every miss proves an outage, chance or not",
        file: "disruptions.rs",
        right: "let by_chance = self.by_chance();",
        wrong: "let by_chance = 0;",
    },
    Mutation {
        what: "a miss meets the broken path when it is sent",
        file: "disruptions.rs",
        right: "self.first_settled.push(probe.settled);",
        wrong: "self.first_settled.push(probe.sent);",
    },
    Mutation {
        what: "a reset is a leak",
        file: "bracket.rs",
        right: "Outcome::Leaked if !probe.unsafe_port => {",
        wrong: "Outcome::Leaked | Outcome::Reset if !probe.unsafe_port => {",
    },
    Mutation {
        what: "a leak from a port of a lost probe bounds",
        file: "bracket.rs",
        right: "Outcome::Leaked if !probe.unsafe_port => {",
        wrong: "Outcome::Leaked => {",
    },
    Mutation {
        what: "ports of lost probes are used again at once",
        file: "ports.rs",
        right: "self.lost.insert(number, now + ENTRY_LIFETIME);",
        wrong: "self.lost.remove(&number);",
    },
    Mutation {
        what: "what was presumed stays although the target annotates",
        file: "bracket.rs",
        right: "Outcome::Leaked if self.annotates && probe.end.source.is_none() => Outcome::Closed,",
        wrong: "Outcome::Leaked if self.annotates && probe.end.source.is_none() => Outcome::Leaked,",
    },
    Mutation {
        what: "a probe expires by the time after the look",
        file: "probing.rs",
        right: "let id = self.in_flight.expired(looked)?;",
        wrong: "let id = self.in_flight.expired(looked.max(now))?;",
    },
    Mutation {
        what: "the delay is named before all that can bound it have come",
        file: "probing.rs",
        right: "if self.in_flight.oldest_sent().is_none_or(nothing_closer) {",
        wrong: "if self.in_flight.oldest_sent().is_none_or(|oldest| nothing_closer(oldest) || true) {",
    },
    Mutation {
        what: "one pong that something in between answered refutes nothing",
        file: "bracket.rs",
        right: "Pongs { intercepted: 1.., .. } => Some(false),",
        wrong: "Pongs { intercepted: 1.., .. } => Some(true),",
    },
];

/// Builds the simulator with each fault in turn, and expects it to fail within so many histories.
pub(super) fn run(histories: u64) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let copy = root.join("target/mutations");
    let mut missed = 0;
    for Mutation { what, file, right, wrong } in MUTATIONS {
        copy_sources(root, &copy)?;
        let path = copy.join("egw-probe/src/client").join(file);
        let source = fs::read_to_string(&path)?;
        ensure!(source.contains(right), "{file} has no longer: {right}");
        fs::write(&path, source.replacen(right, wrong, 1))?;
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["run", "--quiet", "--package", "xtask", "--", "simulate", "--seed", "1", "--histories"])
            .arg(histories.to_string())
            .current_dir(&copy)
            .env("CARGO_TARGET_DIR", root.join("target/mutations-build"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let found = said.lines().find(|line| line.starts_with("violated: "));
        let lived = said.lines().find(|line| line.contains(" histories in ")).unwrap_or("it did not build");
        println!(
            "{}  {what}\n        {lived}; {}",
            if found.is_some() { "found " } else { "MISSED" },
            found.unwrap_or("")
        );
        missed += u64::from(found.is_none());
    }
    fs::remove_dir_all(&copy)?;
    println!("{missed} of {} missed", MUTATIONS.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that git knows, as they are in the work tree.
fn copy_sources(root: &Path, copy: &Path) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output()?;
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name)?;
        let (from, to) = (root.join(name), copy.join(name));
        if !name.starts_with("fuzz/") && from.is_file() {
            fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
            let text = fs::read(&from)?;
            if fs::read(&to).ok().as_deref() != Some(&text) {
                fs::write(&to, text)?;
            }
        }
    }
    Ok(())
}
