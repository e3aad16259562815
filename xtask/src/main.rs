//! Everything a developer of egw-probe runs: `cargo xtask COMMAND`.
//!
//! This file only dispatches; each command has its own module.

mod bench;
mod ebpf;
mod fuzz;
mod house;
mod http;
mod lab;
mod release;
mod setup;
mod simulate;
mod test;
mod unready;
mod vm;

use std::process::ExitCode;

use clap::Parser;

use self::unready::Unready;

/// Exit status of a command that could not start: bad usage, or a tool or right that is missing.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of egw-probe runs")]
enum Command {
    /// Run the whole measurement on this machine, in network namespaces
    Lab(lab::Options),
    /// Measure what the program costs, on this machine
    Bench(bench::Options),
    /// Make a release in target/dist: static programs, image context, completions, man pages, SBOM, checksums
    Dist(release::Options),
    /// Rebuild the kernel object and its manifest
    Ebpf {
        /// Rebuild and compare instead of writing
        #[arg(long)]
        check: bool,
    },
    /// Run every fuzz target for a while, over the committed corpus
    Fuzz(fuzz::Options),
    /// Look for import circles, long functions and files, and imports in another style
    House,
    /// Install what commands need of this machine
    Setup(setup::Options),
    /// Live through random worlds with the client's shipped decisions, and hold every claim against the truth
    Simulate(simulate::Options),
    /// Run every test; as root the end-to-end tests, too
    Test(test::Options),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Lab(options) => lab::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Dist(options) => release::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Ebpf { check } => {
            if check { ebpf::check() } else { ebpf::build() }.map(|()| ExitCode::SUCCESS)
        }
        Command::Fuzz(options) => fuzz::run(&options),
        Command::House => house::run(),
        Command::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Simulate(options) => simulate::run(&options),
        Command::Test(options) => test::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(if error.is::<Unready>() { EXIT_USAGE } else { 1 })
    })
}
