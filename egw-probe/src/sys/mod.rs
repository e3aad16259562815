//! The rim: sockets, clocks, rings, signals, sandbox, output. Without opinions: what anything means is decided elsewhere.

pub(crate) mod bell;
pub(crate) mod clock;
#[cfg(feature = "report")]
pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod net;
pub(crate) mod output;
pub(crate) mod page;
pub(crate) mod poller;
pub(crate) mod progress;
pub(crate) mod sandbox;
mod seccomp;
pub(crate) mod signals;
pub(crate) mod sockopt;
pub(crate) mod tcp;
pub(crate) mod thread;
pub(crate) mod user;
