//! The kernel side of the target: loads, attaches and reads the observer in the kernel.
//!
//! Data flows one way: ring -> [`event`] -> [`correlate`] -> [`metrics`]; netlink -> [`view`] -> [`attach`]. The decisions
//! (`event`, `correlate`, `view`, `wall`, `way_back`, the order of `attach::ways`) are pure; [`task`] holds the descriptors.

pub(crate) mod attach;
mod clsact;
pub(crate) mod correlate;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod health;
pub(crate) mod join;
pub(crate) mod maps;
pub(crate) mod metrics;
pub(crate) mod netlink;
pub(crate) mod object;
pub(crate) mod privilege;
pub(crate) mod queue;
pub(crate) mod shared;
pub(crate) mod shortfall;
pub(crate) mod task;
pub(crate) mod thread;
mod timens;
mod trace;
pub(crate) mod view;
pub(crate) mod wall;
pub(crate) mod way_back;
