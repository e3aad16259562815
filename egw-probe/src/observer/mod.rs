//! The kernel side of the target: loads, attaches and reads the observer in the kernel.
//!
//! Data flows one way: ring -> [`event`] -> [`correlate`] -> [`metrics`]; netlink -> [`view`] -> [`attach`]. The decisions
//! (`event`, `correlate`, `view`, `wall`, the order of `attach::ways`) are pure; [`task`] holds the descriptors.

pub mod attach;
mod clsact;
pub mod correlate;
pub mod error;
pub mod event;
pub mod join;
pub mod maps;
pub mod metrics;
pub mod netlink;
pub mod object;

pub mod privilege;
pub mod shared;
pub mod task;
pub mod thread;
mod trace;
pub mod view;
pub mod wall;
