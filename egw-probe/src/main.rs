//! `egw-probe`: parses, runs, prints an error once, and exits with a code that means something.

use std::io::Write;
use std::process::ExitCode;

use egw_probe::cli::{self, Command, Stop};
use egw_probe::config::client::ClientConfig;
use egw_probe::config::error::ConfigError;
use egw_probe::config::target::TargetConfig;
use egw_probe::report::plan::Plan;
use egw_probe::sys::clock::Start;
use egw_probe::sys::log;
use egw_probe::sys::signals::Signals;
use egw_probe::{client, external_target, report};

fn main() -> ExitCode {
    let start = Start::now();
    let error = match run(start) {
        Ok(code) => return code,
        Err(error) => error,
    };
    // Where nobody can read, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    if error.is::<ConfigError>() || error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// A command line that says nothing to run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn run(start: Start) -> anyhow::Result<ExitCode> {
    let signals = Signals::install()?;
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Text(text)) => {
            let _ = write!(std::io::stdout(), "{text}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(Stop::Usage(line)) => return Err(Usage(line).into()),
    };
    match cli.command {
        Command::Client(args) => {
            log::init(args.log.log_level, args.log.log_format);
            client::run(&ClientConfig::try_from(*args)?, start, &signals)
        }
        Command::ExternalTarget(args) => {
            log::init(args.log.log_level, args.log.log_format);
            external_target::run(&TargetConfig::try_from(args)?, &signals)
        }
        Command::Report(args) => {
            log::init(args.log.log_level, args.log.log_format);
            report::run(&Plan::try_from(*args)?, &signals)
        }
    }
}
