//! The measuring tool for egress gateways, as a library: the binary only parses, runs and exits.

pub mod cli;
pub mod client;
pub mod config;
pub mod document;
pub mod external_target;
pub mod observer;
pub mod report;
pub mod sys;
