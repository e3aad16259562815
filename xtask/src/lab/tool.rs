//! The tools the lab sets itself up with: `ip` and `nft`, fed with scripts on standard input.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::namespace::{self, Namespace};
use crate::unready;

/// Fails, in one line that says what to do, if this machine lacks a right or a tool the lab needs.
pub(crate) fn check_prerequisites() -> Result<()> {
    if !namespace::may_create() {
        let remedy = "put `sudo env \"PATH=$PATH\"` before the command, or give the container --privileged";
        return Err(unready(format!("the lab needs root, to make network namespaces: {remedy}")));
    }
    let missing: Vec<&str> = [("ip", "iproute2"), ("nft", "nftables")]
        .into_iter()
        .filter(|(tool, _)| Command::new(tool).arg("-V").stdout(Stdio::null()).status().is_err())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    Err(unready(format!(
        "the lab needs packages that are not installed: run `apt-get install -y {packages}`"
    )))
}

/// Runs a batch of `ip` commands, inside `namespace` if one is given.
pub(crate) fn ip(namespace: Option<&Namespace>, batch: &str) -> Result<()> {
    feed(namespace, "ip", &["-batch", "-"], batch)
}

/// The same for lines that don't tell their family: IPv6.
pub(crate) fn ip6(namespace: &Namespace, batch: &str) -> Result<()> {
    feed(Some(namespace), "ip", &["-6", "-batch", "-"], batch)
}

/// Loads an nftables ruleset inside `namespace`.
pub(crate) fn nft(namespace: &Namespace, ruleset: &str) -> Result<()> {
    feed(Some(namespace), "nft", &["-f", "-"], ruleset)
}

fn feed(namespace: Option<&Namespace>, program: &str, args: &[&str], script: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    if let Some(namespace) = namespace {
        let netns = namespace.fd().as_raw_fd();
        // SAFETY: the hook only makes one system call, on a descriptor that outlives the spawn below.
        unsafe {
            command.pre_exec(move || {
                Ok(setns(std::os::fd::BorrowedFd::borrow_raw(netns), CloneFlags::CLONE_NEWNET)?)
            });
        }
    }
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // A tool that gives up early closes its input; what it says on stderr then is the better message.
    let _ = child.stdin.take().expect("stdin is piped").write_all(script.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let place = namespace.map_or(String::new(), |namespace| format!(" in {}", namespace.name()));
        bail!("{program}{place}: {}", first_lines(&output.stderr));
    }
    Ok(())
}

fn first_lines(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).lines().take(2).collect::<Vec<_>>().join("; ")
}
