//! Everything a developer runs.

mod ebpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let answer = match args.as_slice() {
        ["ebpf"] => ebpf::build(),
        ["ebpf", "--check"] => ebpf::check(),
        _ => {
            eprintln!("usage: cargo xtask ebpf [--check]");
            return ExitCode::from(2);
        }
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
