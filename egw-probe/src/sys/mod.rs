//! The rim: sockets, clocks, rings, signals, sandbox, output. Without opinions: what anything means is decided elsewhere.

pub mod clock;
pub mod http;
pub mod log;
pub mod metrics;
pub mod net;
pub mod output;
pub mod poller;
pub mod progress;
pub mod sandbox;
pub mod signals;
pub mod sockopt;
pub mod tcp;
