//! `cargo xtask` as its users run it. What needs root says without it that it is skipped.

#[path = "../../src/http.rs"]
mod http;
mod image;
// Of its processor's registers.
#[cfg(target_arch = "x86_64")]
#[path = "../../../egw-probe/tests/it/inside.rs"]
mod inside;
mod lab;
mod lab_disturb;
mod lab_egress;

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Says, past the test harness, that the running test is skipped. The harness names a test's thread after the test.
fn skip(why: &str) {
    let line = format!("skipped: {}: {why}\n", thread::current().name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The machine for a test that needs root and all of it, because it measures time or builds: one runs while no other does. None
/// after having said that the test is skipped.
fn machine() -> Option<MutexGuard<'static, ()>> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // On a thread of its own, which takes the namespace with it when it ends.
    let root = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap();
    if !root {
        skip("needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN)");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}
