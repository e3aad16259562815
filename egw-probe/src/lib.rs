//! The measuring tool for egress gateways, as a library: the binary only parses, runs and exits.

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod go;
pub mod http;
pub mod log;
pub mod metrics;
pub mod net;
pub mod output;
pub mod poller;
pub mod progress;
pub mod report;
pub mod sandbox;
pub mod signals;
pub mod target;
pub mod tcp;
