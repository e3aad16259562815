//! From bytes to a corpus: what was found in files, streams and pages, document by document. Only `input` and `fetch` touch files
//! and sockets. Nothing here judges what it has read, but whether it can be.

pub mod corpus;
pub mod density;
pub mod document;
pub mod exposition;
pub mod fetch;
pub mod input;
pub mod split;
#[cfg(feature = "https")]
mod tls;
