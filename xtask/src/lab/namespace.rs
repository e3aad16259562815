//! Named network namespaces that belong to one lab, and what a killed lab left behind.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{io, thread};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::tool;

/// Arguments with which `ip` reads commands from standard input.
const IP: &[&str] = &["-batch", "-"];
const NETNS_DIR: &str = "/run/netns";
/// Every name of a lab starts so, then the lab's pid: that is how a later lab knows whose leftovers it sees.
const PREFIX: &str = "egwl-";

/// A network namespace of this lab; dropping it removes it.
pub(crate) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Creates one namespace for each role, named `egwl-<pid>-<role>`.
    pub(crate) fn create(roles: &[String]) -> Result<Vec<Self>> {
        let names: Vec<String> =
            roles.iter().map(|role| format!("{PREFIX}{}-{role}", std::process::id())).collect();
        let batch = format!("netns add {}\n", names.join("\nnetns add "));
        let created = tool::feed(None, "ip", IP, &batch).context("cannot make network namespaces");
        if created.is_err() {
            for name in &names {
                remove(&Path::new(NETNS_DIR).join(name));
            }
        }
        created?;
        let open = |name: String| {
            let file =
                File::open(Path::new(NETNS_DIR).join(&name)).with_context(|| format!("open {name}"))?;
            Ok(Self { name, file })
        };
        names.into_iter().map(open).collect()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs a batch of `ip` commands in it.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.feed("ip", IP, batch)
    }

    /// The same for lines that don't tell their family: IPv6.
    pub(crate) fn ip6(&self, batch: &str) -> Result<()> {
        self.feed("ip", &["-6", "-batch", "-"], batch)
    }

    /// Loads an nftables ruleset in it.
    pub(crate) fn nft(&self, ruleset: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], ruleset)
    }

    fn feed(&self, program: &str, args: &[&str], script: &str) -> Result<()> {
        tool::feed(Some(self.fd()), program, args, script)
            .map(drop)
            .with_context(|| format!("in {}", self.name))
    }

    /// What a program says in it.
    pub(crate) fn ask(&self, program: &str, args: &[&str]) -> Result<String> {
        tool::feed(Some(self.fd()), program, args, "").with_context(|| format!("in {}", self.name))
    }

    /// Moves the calling thread into this namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(self.fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` on a thread of its own inside this namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().with_context(|| format!("cannot enter namespace {}", self.name))?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes sysctls of this namespace, given by path under `/proc/sys`. One the kernel doesn't have is an error.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("cannot set sysctl {key} to {value}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&Path::new(NETNS_DIR).join(&self.name));
    }
}

/// Whether this process has the rights to make network namespaces.
pub(crate) fn may_create() -> bool {
    // On a thread of its own, which takes the namespace with it when it ends.
    thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or(false)
}

/// Removes a name; the kernel frees the namespace with its last process and descriptor.
fn remove(path: &Path) {
    // Errors mean that it's gone, or that nothing can be done about it: either way the rest has to be removed.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// The folder where this lab's processes write their output.
pub(crate) fn scratch_dir() -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()))
}

/// Removes namespaces and folders of labs that were killed before they could. Returns how many.
pub(crate) fn remove_leftovers() -> usize {
    let stale = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_leftover)).map(|entry| entry.path())
    };
    let namespaces: Vec<PathBuf> = stale(NETNS_DIR.into()).collect();
    for path in &namespaces {
        remove(path);
    }
    let folders: Vec<PathBuf> = stale(std::env::temp_dir()).collect();
    for path in &folders {
        let _ = fs::remove_dir_all(path);
    }
    namespaces.len() + folders.len()
}

/// Whether `name` belongs to a lab that no longer runs. A pid taken over by another program doesn't count as the lab.
fn is_leftover(name: &str) -> bool {
    let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
    else {
        return false;
    };
    let program = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    pid == std::process::id() || program(&pid.to_string()) != program("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_dead_lab_is_a_leftover_and_other_names_are_not() {
        // Above the largest pid the kernel gives out.
        assert!(is_leftover("egwl-4194305-pod1"));
        assert!(is_leftover("egwl-4194305"));
        assert!(!is_leftover("cni-1234"));
        assert!(!is_leftover("egwl-x-pod1"));
    }
}
