//! Results and reports go out whole or not at all: a document cut off by a full disk would be taken for a damaged one, or,
//! worse, for a shorter one.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::progress;

/// Writes `text` to standard output. If that is a file and has no room for all of it, the part that got there is taken away
/// again. A reader that has gone away is no error of ours.
///
/// # Errors
/// What writing answered.
pub fn print(text: &str) -> io::Result<()> {
    progress::clear();
    let stdout = io::stdout().lock();
    let written = match File::from(stdout.as_fd().try_clone_to_owned()?) {
        file if file.metadata()?.is_file() => append(&file, text.as_bytes()),
        mut stream => stream.write_all(text.as_bytes()),
    };
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes behind what is there, and waits for the disk: some file systems tell only then that there is no room.
fn append(mut file: &File, text: &[u8]) -> io::Result<()> {
    let mut left = text;
    let written = loop {
        match file.write(left) {
            Ok(0) if !left.is_empty() => break Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
        if left.is_empty() {
            break synced(file);
        }
    };
    if written.is_err() {
        let part = (text.len() - left.len()) as u64;
        let end = file.stream_position()?;
        // Unless somebody else has written behind us: their document is whole.
        if file.metadata()?.len() == end {
            file.set_len(end - part)?;
            file.seek(SeekFrom::Start(end - part))?;
        }
    }
    written
}

/// Only a disk that has no room, or fails, is an error of the result; not every file can be waited for.
fn synced(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Writes `file`: what was there stays until the new text is complete. A pipe or a device is written to as it is.
///
/// # Errors
/// What writing or renaming answered; nothing is left behind.
pub fn write_file(file: &Path, text: &str) -> io::Result<()> {
    if file.metadata().is_ok_and(|there| !there.is_file()) {
        return std::fs::write(file, text);
    }
    // In the same folder, because a rename does not cross file systems.
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let moved = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, file));
    if moved.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    moved
}
