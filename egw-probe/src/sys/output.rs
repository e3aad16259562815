//! Results and reports go out whole or not at all: a document cut off by a full disk would be taken for a damaged one, or,
//! worse, for a shorter one.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{SeekFrom, fdatasync, fstat, ftruncate, seek};
use rustix::io::{Errno, write};

use crate::document::shown::escaped;
use crate::sys::progress;

/// The result could not be written, and is lost.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("standard output took no whole result: {}", io::Error::from(*.0))]
pub(crate) struct Lost(Errno);

/// Writes `text` to standard output. If that is a file and has no room for all of it, the part that got there is taken away
/// again. What would act on a terminal is escaped, in text and JSON alike.
///
/// # Errors
/// What writing answered: also where the reader has gone away, or standard output was closed from the start.
pub(crate) fn print(text: &str) -> Result<(), Lost> {
    progress::clear();
    if STDOUT_WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Lost(Errno::BADF));
    }
    let stdout = io::stdout().lock();
    append(&stdout, escaped(text).as_bytes()).map_err(Lost)
}

/// Whether the program was started without a standard output.
static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Before `main`, where Rust puts /dev/null in the place of what is closed, and nothing tells the two apart any more.
#[used]
// SAFETY: this section holds functions of this type; the C library calls them once, on the only thread there is.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: a call that reads a number, whatever the descriptor is.
        let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } < 0;
        STDOUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
    }
    look
};

/// Writes all of `text` behind what is there, or nothing.
fn append(file: impl AsFd, text: &[u8]) -> Result<(), Errno> {
    let is_file = rustix::fs::FileType::from_raw_mode(fstat(&file)?.st_mode).is_file();
    let mut done = 0;
    let mut begun = None;
    let written = loop {
        match write(&file, &text[done..]) {
            Ok(0) => break Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => break Err(error),
        }
        if is_file && begun.is_none() {
            // Only now: in a file that is appended to, a write goes to wherever the end is then.
            begun = seek(&file, SeekFrom::Current(0)).ok().map(|position| position - done as u64);
        }
        if done == text.len() {
            break if is_file { synced(&file) } else { Ok(()) };
        }
    };
    if let (Err(_), Some(begun)) = (written, begun) {
        // Unless somebody else has written behind us: what is theirs stays.
        if fstat(&file).is_ok_and(|now| now.st_size.cast_unsigned() == begun + done as u64) {
            let _ = ftruncate(&file, begun).and_then(|()| seek(&file, SeekFrom::Start(begun)));
        }
    }
    written
}

/// Waits for the disk: some file systems tell only then that there is no room. Not every file can be waited for, and only a
/// disk that is full, or fails, is an error of the result.
pub(super) fn synced(file: impl AsFd) -> Result<(), Errno> {
    match fdatasync(file) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};
    use std::process::Command;

    use super::*;

    /// The file-size limit of a process makes its writes fall short as a full disk does, and needs no right: this test runs
    /// itself again as a process that has one.
    const LIMITED: &str = "EGW_PROBE_TEST_LIMITED_FILE";

    #[test]
    fn what_is_cut_off_is_taken_away_and_what_others_wrote_stays() {
        if let Some(path) = std::env::var_os(LIMITED) {
            let open = || File::options().append(true).read(true).open(&path).unwrap();
            let mut file = open();
            assert_eq!(append(&file, &[b'x'; 900]), Err(Errno::FBIG));
            assert_eq!(file.metadata().unwrap().len(), 200);
            // Through the same description of the file, as `>file 2>&1` has it.
            file.write_all(b"a line").unwrap();
            assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 206);
            assert_eq!(append(open(), b"whole"), Ok(()));
            return;
        }
        let path = std::env::temp_dir().join(format!("egw-probe-output-{}", std::process::id()));
        std::fs::write(&path, [b'0'; 200]).unwrap();
        let test = "sys::output::tests::what_is_cut_off_is_taken_away_and_what_others_wrote_stays";
        // One block of 1,024 bytes; the signal that goes with the limit is to be ignored.
        let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact \"$1\"";
        let again = Command::new("bash")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env(LIMITED, &path)
            .output()
            .unwrap();
        let found = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        assert_eq!(&found[200..], b"a linewhole");
    }
}
