//! What a test tells past the harness, which swallows what `eprintln!` writes: `cargo xtask test` collects these lines.

use std::fmt::Display;
use std::io::Write;

fn tell(line: &str) {
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The harness names a test's thread after the test.
fn test_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// Says that the running test is skipped.
pub(crate) fn skip(why: &str) {
    tell(&format!("skipped: {}: {why}\n", test_name()));
}

/// Whether the running test may do what only root may; says that it is skipped where not.
pub(crate) fn as_root() -> bool {
    use caps::Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
    let may = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    let root = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN].into_iter().all(may);
    if !root {
        skip("needs root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN)");
    }
    root
}

/// Tells a row of docs/robustness.md: fault or input, how often tried, what was promised of it, what happened.
pub(crate) fn tried(fault: &str, times: impl Display, promised: &str, happened: impl Display) {
    let command = format!("--test {} {}", env!("CARGO_CRATE_NAME"), test_name());
    tell(&format!("tried: {fault} | {times} | {promised} | {happened} | {command}\n"));
}
