//! From raw flags to one validated configuration, before any socket opens.

pub mod choice;
pub mod client;
pub mod error;
pub mod target;
