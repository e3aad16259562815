//! Files are replaced whole, or stay as they were.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::sys::output::synced;

/// Writes `file`: what was there stays until the new text is complete, and then its mode does. A link is followed; a pipe or a
/// device is written to as it is.
///
/// # Errors
/// What writing or renaming answered; nothing is left behind.
pub(crate) fn replace(file: &Path, text: &str) -> io::Result<()> {
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
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        replace(&old, "text").unwrap();
        replace(&new, "text").unwrap();
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
        replace(&path("first"), "one").unwrap();
        replace(&path("not-yet"), "two").unwrap();
        assert_eq!(
            replace(&path("round"), "three").unwrap_err().raw_os_error(),
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
        let told = replace(Path::new("/no/such/page.html"), "").unwrap_err().to_string();
        assert_eq!(told, "No such file or directory (os error 2)");
    }
}
