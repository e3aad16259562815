//! The program as a library, so that tests and tools reach its rooms.

pub mod clock;
pub mod target;
