//! The one line of progress on a terminal. Elsewhere there is none.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::document::shown::escaped;
use crate::sys::clock::Monotonic;

/// Whether a progress line stands on the terminal right now; the lock also keeps it and log lines apart.
static LINE_SHOWN: Mutex<bool> = Mutex::new(false);
/// A terminal is there, and nobody asked to be spared.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Log lines that were lost.
static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// What a pipe that is ready takes at once (`<linux/limits.h>`).
const PIPE_BUF: usize = 4096;

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

/// The log's way to stderr: takes a progress line away before it writes. A line that finds no room is lost and counted: whatever
/// becomes of the log, measuring goes on, and waits for no reader.
pub(crate) fn stderr() -> impl Write {
    struct Stderr;
    impl Write for Stderr {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            clear();
            let line = String::from_utf8_lossy(bytes);
            if write_without_waiting(io::stderr(), escaped(&line).as_bytes()).is_err() {
                LOST_LINES.fetch_add(1, Ordering::Relaxed);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    Stderr
}

/// How many log lines were lost so far: nothing could be written, or it would have taken waiting.
pub(crate) fn lost_log_lines() -> u64 {
    LOST_LINES.load(Ordering::Relaxed)
}

/// Writes `bytes` as long as none of it has to wait for a reader. A pipe that is ready has room for `PIPE_BUF` bytes (pipe(7)).
fn write_without_waiting(file: impl AsFd, bytes: &[u8]) -> rustix::io::Result<()> {
    for part in bytes.chunks(PIPE_BUF) {
        let mut left = part;
        while !left.is_empty() {
            let mut ready = [PollFd::new(&file, PollFlags::OUT)];
            poll(&mut ready, Some(&Timespec::default()))?;
            if !ready[0].revents().contains(PollFlags::OUT) {
                return Err(Errno::AGAIN);
            }
            match rustix::io::write(&file, left) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => left = &left[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Takes the progress line away, before something else is written.
pub(crate) fn clear() {
    let mut shown = LINE_SHOWN.lock();
    if std::mem::take(&mut *shown) {
        // A terminal that is gone, or held (Ctrl-S), takes no line, and needs none.
        let _ = write_without_waiting(io::stderr(), CLEAR.as_bytes());
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
        let _ = write_without_waiting(io::stderr(), format!("{CLEAR}{}", line()).as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_takes_what_has_room_and_is_never_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = [b'x'; 5000];
        let mut taken = 0;
        while write_without_waiting(&writer, &line).is_ok() {
            taken += 1;
            assert!(taken < 1000, "a pipe has an end");
        }
        assert!(taken > 0);
        assert_eq!(write_without_waiting(&writer, &line), Err(Errno::AGAIN));
        reader.read_exact(&mut vec![0; 3 * 5000]).unwrap();
        assert_eq!(write_without_waiting(&writer, &line), Ok(()));
        drop(reader);
        assert_eq!(write_without_waiting(&writer, &line), Err(Errno::PIPE));
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(write_without_waiting(full, b"line"), Err(Errno::NOSPC));
    }
}
