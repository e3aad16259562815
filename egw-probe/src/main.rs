//! `egw-probe`: parses, runs, prints an error once, and exits with a code that means something.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
#[cfg(feature = "report")]
use egw_probe::program::Plan;
use egw_probe::program::{self, ClientConfig, Command, ConfigError, Signals, Start, Stop, TargetConfig};

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
    let signals = Signals::install().context("SIGTERM and SIGINT cannot be taken over")?;
    let cli = match program::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Text(text)) => {
            let _ = write!(std::io::stdout(), "{text}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(Stop::Usage(line)) => return Err(Usage(line).into()),
    };
    let ran = run_command(cli.command, start, &signals);
    ran.map_err(|mut error| {
        if let Some(error) = error.downcast_mut::<ConfigError>() {
            error.name_variable(&cli.from_environment);
        }
        error
    })
}

fn run_command(command: Command, start: Start, signals: &Signals) -> anyhow::Result<ExitCode> {
    match command {
        Command::Client(args) => {
            program::start_log(args.log.log_level, args.log.log_format);
            program::client(&ClientConfig::try_from(*args)?, start, signals)
        }
        Command::ExternalTarget(args) => {
            program::start_log(args.log.log_level, args.log.log_format);
            program::external_target(&TargetConfig::try_from(args)?, signals)
        }
        #[cfg(feature = "report")]
        Command::Report(args) => {
            program::start_log(args.log.log_level, args.log.log_format);
            program::report(&Plan::try_from(*args)?, signals)
        }
    }
}
