//! What the kernel program and userspace both say.
//!
//! Belongs here: structs that cross the kernel boundary, the packet walk, the SYN tag. Does not belong here: anything
//! that allocates, reads a clock, or touches a socket or a map.
#![no_std]
