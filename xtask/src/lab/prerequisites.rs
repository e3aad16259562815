//! What the lab and the benches need of this machine.

use anyhow::Result;

use super::namespace;
use crate::setup::{self, Purpose};
use crate::unready::unready;

/// Fails, in one line that says what to do, if this machine lacks a right or a tool the lab needs.
pub(crate) fn check() -> Result<()> {
    if !namespace::may_create() {
        let remedy = "put `sudo env \"PATH=$PATH\"` before the command, or give the container --privileged";
        return Err(unready(format!("the lab needs root, to make network namespaces: {remedy}")));
    }
    setup::check(Purpose::Lab)
}
