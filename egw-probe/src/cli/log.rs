//! The raw flags of the log.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::sys::log::Format;

/// Where log lines go to is fixed (stderr); how many and in which form is not.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Least severe log line that is written: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", ignore_case = true,
          value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
              .map(|level| level.parse::<tracing::Level>().expect("each possible value is a level")))]
    pub log_level: tracing::Level,

    /// Form of the log lines on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    pub log_format: Format,
}
