//! The external target.

pub mod kernel;
