//! The measuring tool for egress gateways, as a library: the binary only parses, runs and exits.
//!
//! [`document`] is what others read: results, pages, reports. [`program`] is what the binary runs. Everything else is private
//! to this crate, so that the compiler finds what nobody uses; benches, fuzzers and tests come in by `workbench`.

mod cli;
mod client;
mod config;
pub mod document;
mod external_target;
mod observer;
#[cfg(feature = "report")]
mod report;
mod sys;
#[doc(hidden)]
pub mod workbench;

/// What the binary parses, runs and prints.
pub mod program {
    pub use crate::cli::{Cli, Command, Stop, command, parse};
    pub use crate::client::run as client;
    pub use crate::config::client::ClientConfig;
    pub use crate::config::error::ConfigError;
    pub use crate::config::target::TargetConfig;
    pub use crate::external_target::run as external_target;
    #[cfg(feature = "report")]
    pub use crate::report::plan::Plan;
    #[cfg(feature = "report")]
    pub use crate::report::run as report;
    pub use crate::sys::clock::Start;
    pub use crate::sys::log::init as start_log;
    pub use crate::sys::signals::Signals;
}
