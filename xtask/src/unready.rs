//! Why a command could not start at all.

use std::fmt;

/// What is wrong with the flags or this machine, and what to do about it.
#[derive(Debug)]
pub(crate) struct Unready(pub(crate) String);

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unready {}

/// Shorthand for an [`Unready`] error.
pub(crate) fn unready(why: impl Into<String>) -> anyhow::Error {
    Unready(why.into()).into()
}
