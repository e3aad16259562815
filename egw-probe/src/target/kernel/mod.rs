//! The kernel side of the target: loads, attaches and reads the observer in the kernel.

pub mod error;
pub mod object;
pub mod privilege;
