//! The kernel side of the target: loads, attaches and reads the observer in the kernel.

pub mod correlate;
pub mod error;
pub mod event;
pub mod object;
pub mod privilege;
pub mod wall;
