//! What this program prints, serves and reads again, as plain data with its vocabulary.
//!
//! The ground floor: everything may import it, and it imports nothing of the program. Nothing here touches a socket, a
//! clock or a file.

pub(crate) mod bins;
pub mod clients;
pub mod disruption;
pub mod egress;
pub mod go;
pub mod held;
pub mod outcome;
pub mod quantiles;
pub mod result;
pub(crate) mod shown;
pub mod sources;
pub mod stress;
pub mod verdict;

/// Version of the result document's form. It grows only by adding keys.
pub const SCHEMA: u32 = 1;
