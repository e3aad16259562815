//! The static program: musl, and the same bytes whoever builds it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::unready::unready;

/// A processor that is built for, by its name in OCI images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be downloaded: with reports.
    Download,
    /// The image's: a Pod needs no report, and 675 KiB less are pulled by each node.
    Image,
}

impl Purpose {
    /// What it can do. Never TLS, which needs a C compiler for each processor and would make the bytes depend on it.
    pub(super) const fn features(self) -> &'static [&'static str] {
        match self {
            Self::Download => &["--no-default-features", "--features", "report"],
            Self::Image => &["--no-default-features"],
        }
    }

    /// Apart from other builds: other flags, so nothing of theirs is of use here.
    const fn folder(self) -> &'static str {
        match self {
            Self::Download => "target/static",
            Self::Image => "target/static-image",
        }
    }
}

/// Builds it, and tells where it is.
pub(crate) fn build(root: &Path, arch: Arch, purpose: Purpose) -> Result<PathBuf> {
    let triple = arch.triple();
    let folder = root.join(purpose.folder());
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["build", "--locked", "--release", "--package", "egw-probe", "--target", triple])
        .args(purpose.features())
        .arg("--target-dir")
        .arg(&folder)
        // A megabyte less in every image; what takes the time is system calls.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root)?.join("\x1f"))
        .status()
        .context("cargo could not be started")?;
    ensure!(
        status.success(),
        unready(format!("no static program; is the target there? `rustup target add {triple}`"))
    );
    Ok(folder.join(triple).join("release/egw-probe"))
}

/// Panic messages name source files: neither where these lie nor who built them belongs into a release.
fn flags(root: &Path) -> Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // Where the component rust-src is, the compiler names the standard library's files by where it lies.
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust");
    let verbose = rustc(&["--version", "--verbose"])?;
    let commit =
        verbose.lines().find_map(|line| line.strip_prefix("commit-hash: ")).context("rustc has no commit")?;
    // The linker that comes with Rust serves every processor, and needs nothing of the host's.
    let standard = format!("/rustc/{commit}");
    Ok(vec![
        "-Clinker=rust-lld".into(),
        map(&home, "/cargo"),
        map(root, "/egw-probe"),
        map(&sysroot, &standard),
    ])
}

fn rustc(args: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(args).output().context("rustc could not be started")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
