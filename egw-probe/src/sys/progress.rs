//! The one line of progress on a terminal. Elsewhere there is none.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::sys::clock::Monotonic;

/// Whether a progress line stands on the terminal right now; the lock also keeps it and log lines apart.
static LINE_SHOWN: Mutex<bool> = Mutex::new(false);
/// A terminal is there, and nobody asked to be spared.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Goes to the line's start and clears it (ECMA-48 EL).
const CLEAR: &str = "\r\x1b[K";

/// Whether stderr is a terminal that understands control sequences.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Turns progress on, where there is a terminal.
pub(crate) fn enable() {
    ENABLED.store(is_terminal(), Ordering::Relaxed);
}

/// The log's way to stderr: takes a progress line away before it writes.
pub(crate) fn stderr() -> impl Write {
    struct Stderr;
    impl Write for Stderr {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            clear();
            io::stderr().write_all(bytes).map(|()| bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            io::stderr().flush()
        }
    }
    Stderr
}

/// Takes the progress line away, before something else is written.
pub(crate) fn clear() {
    let mut shown = LINE_SHOWN.lock();
    if std::mem::take(&mut *shown) {
        // A terminal that is gone takes no line, and needs none.
        let _ = io::stderr().write_all(CLEAR.as_bytes());
    }
}

/// Shows a line a few times a second.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    last: Option<Monotonic>,
}

impl Progress {
    /// Time between two lines.
    pub(crate) const PERIOD: Duration = Duration::from_millis(200);

    /// Shows `line` if it is time for one; calls nothing otherwise.
    pub(crate) fn show(&mut self, now: Monotonic, line: impl FnOnce() -> String) {
        if !ENABLED.load(Ordering::Relaxed) || self.last.is_some_and(|last| now.since(last) < Self::PERIOD) {
            return;
        }
        self.last = Some(now);
        let mut shown = LINE_SHOWN.lock();
        *shown = true;
        let _ = write!(io::stderr(), "{CLEAR}{}", line());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear();
    }
}
