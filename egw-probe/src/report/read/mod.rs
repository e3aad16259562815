//! From bytes to a corpus: what was found in files, streams and pages, document by document. Only `input` and `fetch` touch files
//! and sockets. Nothing here judges what it has read, but whether it can be.

pub(crate) mod baseline;
pub(crate) mod corpus;
pub(crate) mod density;
pub(crate) mod document;
pub(crate) mod exposition;
pub(crate) mod fetch;
pub(crate) mod input;
pub(crate) mod lines;
pub(crate) mod log_line;
pub(crate) mod split;
pub(crate) mod stream;
#[cfg(feature = "https")]
mod tls;
