//! What a test tells past the harness, which swallows what `eprintln!` writes: `cargo xtask test` collects these lines.

use std::io::Write;

/// Says that the running test is skipped. The harness names a test's thread after the test.
pub(crate) fn skip(why: &str) {
    let line = format!("skipped: {}: {why}\n", std::thread::current().name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
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
