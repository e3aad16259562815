//! What the lab and the benches need of this machine.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::namespace;
use crate::unready::unready;

/// Fails, in one line that says what to do, if this machine lacks a right or a tool the lab needs.
pub(crate) fn check() -> Result<()> {
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
