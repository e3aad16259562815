//! What the kernel program and userspace both say.
//!
//! Belongs here: structs that cross the kernel boundary, the packet walk, the SYN tag. Does not belong here: anything
//! that allocates, reads a clock, or touches a socket or a map.
//!
//! Everything here is compiled twice, for the host and for the BPF virtual machine, so that unit tests, property tests
//! and fuzzing on the host exercise the very code the kernel runs.
#![no_std]

pub mod address;
pub mod event;
pub mod packet;
pub mod seen;
pub mod tag;

/// Classes of a source address: whether it lies inside the allowed CIDRs.
///
/// A `u8` and not an enum because it crosses the kernel boundary, where an unexpected value must not be undefined
/// behaviour.
pub mod class {
    /// The source is outside every allowed CIDR: a leaked SYN.
    pub const DENIED: u8 = 0;
    /// The source is inside an allowed CIDR: a masqueraded SYN.
    pub const ALLOWED: u8 = 1;
}
