//! Results and reports go out whole or not at all: a document cut off by a full disk would be taken for a damaged one, or,
//! worse, for a shorter one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, fdatasync, fstat, ftruncate, seek};
use rustix::io::{Errno, write};

use crate::sys::progress;

/// Writes `text` to standard output. If that is a file and has no room for all of it, the part that got there is taken away
/// again. A reader that has gone away is no error of ours.
///
/// # Errors
/// What writing answered.
pub(crate) fn print(text: &str) -> io::Result<()> {
    progress::clear();
    let stdout = io::stdout().lock();
    match append(&stdout, text.as_bytes()) {
        Err(Errno::PIPE) => Ok(()),
        other => Ok(other?),
    }
}

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
fn synced(file: impl AsFd) -> Result<(), Errno> {
    match fdatasync(file) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error),
        _ => Ok(()),
    }
}

/// Writes `file`: what was there stays until the new text is complete, and then its mode does. A link is followed; a pipe or a
/// device is written to as it is.
///
/// # Errors
/// What writing or renaming answered; nothing is left behind.
pub(crate) fn write_file(file: &Path, text: &str) -> io::Result<()> {
    let there = file.metadata().ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return fs::write(file, text);
    }
    let file = followed(file)?;
    // In the same folder, because a rename does not cross file systems. Hidden, so that a report on that folder passes it over.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = tempfile::Builder::new()
        .prefix(".egw-probe-")
        .make_in(folder, |path| File::options().write(true).create_new(true).open(path))?;
    new.as_file().write_all(text.as_bytes())?;
    if let Some(there) = there {
        new.as_file().set_permissions(there.permissions())?;
    }
    synced(new.as_file())?;
    new.persist(file)?;
    Ok(())
}

/// Where links lead to, be there a file or not yet.
fn followed(file: &Path) -> io::Result<PathBuf> {
    // As many as the kernel follows (path_resolution(7)).
    const MOST: usize = 40;
    let mut path = file.to_owned();
    for _ in 0..MOST {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    /// What is in a folder, with the mode of each file.
    fn listed(folder: &Path) -> Vec<(String, u32)> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let mut listed: Vec<(String, u32)> = entries
            .map(|entry| {
                let mode = entry.path().symlink_metadata().unwrap().permissions().mode();
                (entry.file_name().into_string().unwrap(), mode & 0o170_777)
            })
            .collect();
        listed.sort();
        listed
    }

    #[test]
    fn a_file_that_is_there_keeps_its_mode_and_a_new_one_has_that_of_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new, other] = ["old", "new", "other"].map(|name| folder.path().join(name));
        fs::write(&old, "a longer text that was there").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o640)).unwrap();
        write_file(&old, "text").unwrap();
        write_file(&new, "text").unwrap();
        File::create(&other).unwrap();
        assert_eq!(
            (fs::read_to_string(&old).unwrap(), fs::read_to_string(&new).unwrap()),
            ("text".into(), "text".into())
        );
        let usual = other.metadata().unwrap().permissions().mode() & 0o170_777;
        let expected = [("new", usual), ("old", 0o100_640), ("other", usual)];
        assert_eq!(listed(folder.path()), expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn links_are_followed_and_stay_where_they_lead_to_a_file_and_where_to_none_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("deep")).unwrap();
        fs::write(path("deep/file"), "old").unwrap();
        symlink("deep/there", path("first")).unwrap();
        symlink("file", path("deep/there")).unwrap();
        symlink("deep/new", path("not-yet")).unwrap();
        symlink("round", path("round")).unwrap();
        write_file(&path("first"), "one").unwrap();
        write_file(&path("not-yet"), "two").unwrap();
        assert_eq!(
            write_file(&path("round"), "three").unwrap_err().raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!((read("deep/file"), read("deep/new")), ("one".to_owned(), "two".to_owned()));
        for link in ["first", "deep/there", "not-yet"] {
            assert!(path(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_without_the_name_of_a_file_nobody_knows() {
        let told = write_file(Path::new("/no/such/page.html"), "").unwrap_err().to_string();
        assert_eq!(told, "No such file or directory (os error 2)");
    }

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
