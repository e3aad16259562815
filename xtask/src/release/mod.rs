//! `cargo xtask dist`: what a release consists of, made in `target/dist`: static programs, the image's context, completions,
//! man pages, the bill of materials, checksums.
//!
//! The same sources make the same bytes, in whatever folder they lie: paths are mapped away, and times are those of the
//! commit.

pub(crate) mod program;
mod rootfs;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use self::program::{Arch, Purpose};
use crate::unready::unready;

/// The tool that writes the bill of materials, and its format.
const SBOM_TOOL: &str = "cargo-cyclonedx";
const SBOM: &str = "egw-probe.cdx.json";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Processors to build for
    #[arg(long, value_delimiter = ',', default_value = "amd64,arm64")]
    arch: Vec<Arch>,
    /// Only the image's context: what building an image takes
    #[arg(long)]
    image_only: bool,
    /// Build each program a second time, from a copy of the sources in another folder, and compare every byte
    #[arg(long)]
    check: bool,
}

/// Makes everything anew.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let dist = root.join("target/dist");
    let image = dist.join("image");
    if dist.exists() {
        fs::remove_dir_all(&dist).context("cannot empty target/dist")?;
    }
    fs::create_dir_all(&image)?;
    let time = commit_time(root);
    for &arch in &options.arch {
        if !options.image_only {
            download(root, arch, &dist, options.check)?;
        }
        let built = program::build(root, arch, Purpose::Image)?;
        let archive = image.join(format!("rootfs-{arch}.tar"));
        rootfs::write(&built, time, &archive).with_context(|| archive.display().to_string())?;
    }
    fs::copy(root.join("deploy/image/Containerfile"), image.join("Containerfile"))?;
    if !options.image_only {
        pages(root, &dist)?;
        sbom(root, &dist)?;
    }
    let sums = checksums(&dist)?;
    fs::write(dist.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    Ok(())
}

/// The program that is downloaded; with `check` it is built twice.
fn download(root: &Path, arch: Arch, dist: &Path, check: bool) -> Result<()> {
    let built = program::build(root, arch, Purpose::Download)?;
    fs::copy(&built, dist.join(format!("egw-probe-linux-{arch}")))?;
    if check {
        let again = program::build(&copy_of_sources(root)?, arch, Purpose::Download)?;
        let [first, second] = [&built, &again].map(|file| fs::read(file).map(|bytes| Sha256::digest(&bytes)));
        let (first, second) = (first?, second?);
        ensure!(first == second, "{arch}: built in another folder it is {second:x}, not {first:x}");
        println!("{arch}: built in two folders, both {first:x}");
    }
    Ok(())
}

/// What git tracks or would, as it lies here, in a folder of another name and depth.
fn copy_of_sources(root: &Path) -> Result<PathBuf> {
    let copy = root.join("target/another/folder");
    if copy.exists() {
        fs::remove_dir_all(&copy).context("cannot empty target/another/folder")?;
    }
    let listed = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("git")?;
    ensure!(listed.status.success(), unready("--check copies what git tracks: this is no git repository"));
    for file in
        String::from_utf8(listed.stdout)?.split_terminator('\0').filter(|file| root.join(file).exists())
    {
        let to = copy.join(file);
        fs::create_dir_all(to.parent().expect("it lies below the copy"))?;
        fs::copy(root.join(file), &to).with_context(|| file.to_owned())?;
    }
    Ok(copy)
}

/// Seconds since 1970 of the commit that is built; 0 outside a repository.
fn commit_time(root: &Path) -> u64 {
    let answer = Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct"]).output();
    answer.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok()).unwrap_or(0)
}

/// Shell completions and man pages: an example of `egw-probe` writes them, since only it knows the flags.
fn pages(root: &Path, dist: &Path) -> Result<()> {
    let status = cargo(root)
        .args(["run", "--quiet", "--locked", "--package", "egw-probe", "--example", "pages", "--"])
        .arg(dist)
        .status()
        .context("cargo could not be started")?;
    ensure!(status.success(), "no completions and man pages");
    Ok(())
}

/// CycloneDX, of what the program is linked from.
fn sbom(root: &Path, dist: &Path) -> Result<()> {
    let there =
        cargo(root).args(["cyclonedx", "--version"]).output().is_ok_and(|output| output.status.success());
    ensure!(
        there,
        unready(format!("no tool for the bill of materials: `cargo install {SBOM_TOOL} --locked`"))
    );
    let status = cargo(root)
        .args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"])
        .args(Purpose::Download.features())
        .args(["--target", Arch::Amd64.triple(), "--override-filename", "egw-probe.cdx"])
        .args(["--manifest-path", "egw-probe/Cargo.toml"])
        // Without it the document bears the time at which it was made.
        .env("SOURCE_DATE_EPOCH", commit_time(root).to_string())
        .status()
        .context("cargo could not be started")?;
    ensure!(status.success(), "no bill of materials");
    // It writes beside each manifest of the workspace that it read.
    for member in ["egw-probe", "egw-probe-common", "egw-probe-ebpf", "xtask"] {
        let written = root.join(member).join(SBOM);
        if member == "egw-probe" {
            let text = fs::read_to_string(&written).context("the bill of materials is missing")?;
            // It names members of the workspace by where they lie.
            fs::write(dist.join(SBOM), text.replace(&root.display().to_string(), ""))?;
        }
        if written.exists() {
            fs::remove_file(&written)?;
        }
    }
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// One line a file, as `sha256sum --check` reads them.
fn checksums(dist: &Path) -> Result<String> {
    let mut lines = String::new();
    for path in files(dist)? {
        let name = path.strip_prefix(dist).expect("it lies there").display();
        let _ = writeln!(lines, "{:x}  {name}", Sha256::digest(fs::read(&path)?));
    }
    if lines.is_empty() {
        bail!("nothing was made");
    }
    Ok(lines)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
