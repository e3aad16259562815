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

const MUTATIONS: [Mutation; 31] = [
    Mutation {
        what: "a handshake bounds the delay whoever made it",
        file: "egw-probe/src/client/outcome.rs",
        right: "(Some(true), Some(established)) => established,",
        wrong: "(_, Some(established)) => established,",
    },
    Mutation {
        what: "a disruption ends when the next pong is sent",
        file: "egw-probe/src/client/disruptions.rs",
        right: "pong.got_through().since(last_pong.sent)",
        wrong: "pong.sent.since(last_pong.sent)",
    },
    Mutation {
        what: "a disruption begins when the last pong came",
        file: "egw-probe/src/client/disruptions.rs",
        right: "pong.got_through().since(last_pong.sent)",
        wrong: "pong.got_through().since(last_pong.settled)",
    },
    Mutation {
        what: "every miss proves an outage, chance or not",
        file: "egw-probe/src/client/disruptions.rs",
        right: "let by_chance = self.by_chance();",
        wrong: "let by_chance = 0;",
    },
    Mutation {
        what: "a miss meets the broken path when it is sent",
        file: "egw-probe/src/client/run.rs",
        right: "self.first_settled.push(probe.settled);",
        wrong: "self.first_settled.push(probe.sent);",
    },
    Mutation {
        what: "a partial outage begins with its first miss",
        file: "egw-probe/src/client/partial.rs",
        right: "let not_begun_at = self.not_begun_at().map_or(0.0, seconds);",
        wrong: "let not_begun_at = seconds(self.first_sent);",
    },
    Mutation {
        what: "a partial outage is over with the first pong after its last miss",
        file: "egw-probe/src/client/partial.rs",
        right: "            if open.calm < proof() {",
        wrong: "            if open.calm <= 0.0 {",
    },
    Mutation {
        what: "a partial outage was not over when it was last weighed",
        file: "egw-probe/src/client/partial.rs",
        right: "(score >= proof()).then_some(sent)",
        wrong: "(score >= 0.0).then_some(sent)",
    },
    Mutation {
        what: "a reset is a leak",
        file: "egw-probe/src/client/bracket.rs",
        right: "Outcome::Leaked if !probe.unsafe_port => {",
        wrong: "Outcome::Leaked | Outcome::Reset if !probe.unsafe_port => {",
    },
    Mutation {
        what: "a leak from a port of a lost probe bounds",
        file: "egw-probe/src/client/bracket.rs",
        right: "Outcome::Leaked if !probe.unsafe_port => {",
        wrong: "Outcome::Leaked => {",
    },
    Mutation {
        what: "ports of lost probes are used again at once",
        file: "egw-probe/src/client/ports.rs",
        right: "self.lost.insert(number, now + ENTRY_LIFETIME);",
        wrong: "self.lost.remove(&number);",
    },
    Mutation {
        what: "what was presumed stays although the target annotates",
        file: "egw-probe/src/client/bracket.rs",
        right: "Outcome::Leaked if self.annotates && probe.end.source.is_none() => Outcome::Closed,",
        wrong: "Outcome::Leaked if self.annotates && probe.end.source.is_none() => Outcome::Leaked,",
    },
    Mutation {
        what: "a probe expires by the time after the look",
        file: "egw-probe/src/client/probing.rs",
        right: "let id = self.in_flight.expired(looked)?;",
        wrong: "let id = self.in_flight.expired(looked.max(now))?;",
    },
    Mutation {
        what: "the delay is named before all that can bound it have come",
        file: "egw-probe/src/client/probing.rs",
        right: "if self.in_flight.oldest_sent().is_none_or(nothing_closer) {",
        wrong: "if self.in_flight.oldest_sent().is_none_or(|oldest| nothing_closer(oldest) || true) {",
    },
    Mutation {
        what: "one pong that something in between answered refutes nothing",
        file: "egw-probe/src/client/bracket.rs",
        right: "Pongs { intercepted: 1.., .. } => Some(false),",
        wrong: "Pongs { intercepted: 1.., .. } => Some(true),",
    },
    Mutation {
        what: "a SYN's way is half of the client's wait",
        file: "egw-probe-common/src/tag.rs",
        right: "let longest_ns = (u64::from(waited) + 1) * 1_001_000;",
        wrong: "let longest_ns = (u64::from(waited) + 1) * 500_500;",
    },
    Mutation {
        what: "a SYN's way is no longer than from its SYN-ACK to the acknowledgement",
        file: "xtask/src/simulate/target/kernel.rs",
        right: "waiting.acknowledge(tag.counter(), timestamp)",
        wrong: "waiting.acknowledge(tag.counter(), waiting.timestamp + ((_now - waiting.stamp_ns) / 1_000_000) as u32)",
    },
    Mutation {
        what: "a copy of a SYN waits for the acknowledgement anew",
        file: "egw-probe-common/src/tag.rs",
        right: "if !is_copy && !is_older {",
        wrong: "if self.counter != counter || self.port != port {",
    },
    Mutation {
        what: "a bracket is corrected whether that is proven or not",
        file: "egw-probe/src/external_target/clients.rs",
        right: "corrected: last_leaked.is_none() || proven.is_some(),",
        wrong: "corrected: true,",
    },
    Mutation {
        what: "a leak that was overtaken is a flap",
        file: "egw-probe/src/external_target/clients.rs",
        right: ".since(Monotonic::from_ns(first)) > OVERTAKEN",
        wrong: ".since(Monotonic::from_ns(first)) > Duration::ZERO",
    },
    Mutation {
        what: "a client exists from its first SYN on",
        file: "egw-probe/src/external_target/clients.rs",
        right: "self.counters.are_proven() || named && self.record.masqueraded > 0",
        wrong: "self.record.first_ns > 0 || named",
    },
    Mutation {
        what: "counters are looked for eight steps back and ahead",
        file: "egw-probe/src/external_target/counters.rs",
        right: "if !self.is_proven() && ahead.min(behind) > NEAR {",
        wrong: "if ahead.min(behind) > 8 {",
    },
    Mutation {
        what: "counters are looked for half a window ahead",
        file: "egw-probe/src/external_target/counters.rs",
        right: "const AHEAD: u64 = 1_536;",
        wrong: "const AHEAD: u64 = 2_048;",
    },
    Mutation {
        what: "whatever begins at the beginning is a restart",
        file: "egw-probe/src/external_target/counters.rs",
        right: "self.began_anew.is_none_or(|before| run.alone || is_over(before))",
        wrong: "self.began_anew.is_none_or(|before| run.alone || is_over(before) || true)",
    },
    Mutation {
        what: "counters that come again are those of another client",
        file: "egw-probe/src/external_target/counters.rs",
        right: "let caught_up = run.passed.is_some_and(|passed| at.since(passed) > OVERTAKEN);",
        wrong: "let caught_up = true;",
    },
    Mutation {
        what: "SYNs whose events were lost are missing",
        file: "egw-probe/src/external_target/counters.rs",
        right: "self.strays + came.saturating_sub(self.taken)",
        wrong: "self.strays",
    },
    Mutation {
        what: "a port used again gives its older attempt up",
        file: "egw-probe/src/observer/correlate.rs",
        right: "        self.begun += 1;\n",
        wrong: "        self.begun += 1;\n        loop {\n            let older = self.waiting_of(name.source).next();\n            \
                let Some(sequence) = older else { break };\n            \
                self.give_up(Name { source: name.source, sequence });\n        }\n",
    },
    Mutation {
        what: "an accepted connection stays half-open",
        file: "egw-probe/src/observer/correlate.rs",
        right: "attempt.accepted = true;",
        wrong: "attempt.accepted = false;",
    },
    Mutation {
        what: "a connection belongs to the oldest SYN of its source although its own is known",
        file: "egw-probe/src/observer/correlate.rs",
        right: "let sequence = sequence.or_else(|| self.waiting_of(source).next());",
        wrong: "let sequence = self.waiting_of(source).next().or(sequence);",
    },
    Mutation {
        what: "whoever was held up is given no time to accept",
        file: "egw-probe/src/observer/join.rs",
        right: "if now >= self.patient_until {",
        wrong: "if now >= self.last_tick {",
    },
    Mutation {
        what: "connections are joined before the ring has been read",
        file: "egw-probe/src/observer/queue.rs",
        right: "if empty || taken.is_empty() {",
        wrong: "if empty || !taken.is_empty() {",
    },
];

/// Builds the simulator with each fault in turn, and expects it to fail within so many histories.
pub(super) fn run(histories: u64) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let copy = root.join("target/mutations");
    let mut missed = 0;
    for Mutation { what, file, right, wrong } in MUTATIONS {
        copy_sources(root, &copy)?;
        let path = copy.join(file);
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
