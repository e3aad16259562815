//! From raw flags to one validated configuration, before any socket opens.

mod allowed;
pub(crate) mod choice;
pub(crate) mod client;
pub(crate) mod error;
mod rights;
pub(crate) mod target;
