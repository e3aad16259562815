//! The tools the lab sets itself up with: `ip` and `nft`, fed with scripts on standard input.

use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Feeds a program with a script, in a network namespace if one is given, and returns what it says.
pub(super) fn feed(netns: Option<BorrowedFd>, program: &str, args: &[&str], script: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if let Some(netns) = netns {
        let netns = netns.as_raw_fd();
        // SAFETY: the hook only makes one system call, on a descriptor that outlives the spawn below.
        unsafe {
            command.pre_exec(move || Ok(setns(BorrowedFd::borrow_raw(netns), CloneFlags::CLONE_NEWNET)?));
        }
    }
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // A tool that gives up early closes its input; what it says on stderr then is the better message.
    let _ = child.stdin.take().expect("stdin is piped").write_all(script.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program}: {}", first_lines(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first_lines(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).lines().take(2).collect::<Vec<_>>().join("; ")
}
