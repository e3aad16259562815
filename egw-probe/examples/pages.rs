//! Writes shell completions and man pages into the folder named: `cargo run --example pages -- FOLDER`. `cargo xtask dist`
//! runs it; an example, so that no other build pays for what makes them.

use std::{env, fs, io, path::PathBuf, process::ExitCode};

use clap_complete::{Shell, generate_to};

const PROGRAM: &str = "egw-probe";

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: no folder given: cargo run --example pages -- FOLDER");
        return ExitCode::from(2);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &std::path::Path) -> io::Result<()> {
    let completions = folder.join("completions");
    let man = folder.join("man");
    fs::create_dir_all(&completions)?;
    fs::create_dir_all(&man)?;
    let mut command = egw_probe::program::command().name(PROGRAM);
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, PROGRAM, &completions)?;
    }
    clap_mangen::generate_to(command, &man)
}
