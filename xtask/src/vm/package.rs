//! Debian's kernels: found with apt, unpacked below `target/`, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Debian's own keys, as the package debian-archive-keyring installs them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The series that stands for the newest kernel that Debian has released at all.
const NEWEST: &str = "newest";
/// Where that one is: backports of the stable release can be ahead of the unstable one.
const NEWEST_IN: [&str; 2] = ["sid", "trixie-backports"];

/// A kernel unpacked from its package.
pub(super) struct Kernel {
    /// Version as the package names it, such as `6.1.0-56-cloud-amd64`.
    pub(super) release: String,
    /// The bootable image.
    pub(super) image: PathBuf,
    /// Folder with its modules.
    pub(super) modules: PathBuf,
}

/// A way to call apt: with the machine's own sources, or with those of another Debian release and state of its own, so that
/// the machine's lists stay as they are.
struct Apt(Vec<String>);

impl Apt {
    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.args(&self.0).stderr(Stdio::null());
        command
    }

    /// The newest package of a kernel series, by Debian's own order.
    fn newest(&self, series: &str) -> Result<Option<String>> {
        let series = if series == NEWEST { "[0-9]+".to_owned() } else { series.replace('.', "\\.") };
        let pattern = format!("^linux-image-{series}[.][.0-9+deb-]*-cloud-amd64$");
        let output = self.command("apt-cache").args(["search", "--names-only", &pattern]).output()?;
        let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split(' ').next())
            // Meta-packages have no number of their own.
            .filter(|name| name.matches(['.', '-']).count() > 5)
            .map(str::to_owned)
            .collect();
        names.sort_by_key(|name| numbers(name));
        Ok(names.pop())
    }

    /// Whether there is a package of this name.
    fn offers(&self, name: &str) -> Result<bool> {
        let output = self.command("apt-cache").args(["show", "--no-all-versions", name]).output()?;
        Ok(output.status.success() && !output.stdout.is_empty())
    }

    /// Downloads a package and unpacks it into `to`.
    fn unpack(&self, name: &str, folder: &Path, to: &Path) -> Result<()> {
        let parts = folder.join("packages");
        fs::create_dir_all(&parts)?;
        let status = self.command("apt-get").current_dir(&parts).args(["-q", "download", name]).status()?;
        ensure!(status.success(), "apt-get download {name} failed");
        let package = entries(&parts)?
            .into_iter()
            .find(|path| file_name(path).starts_with(&format!("{name}_")))
            .with_context(|| format!("{name} was downloaded and is not there"))?;
        let status = Command::new("dpkg-deb").arg("-x").args([&package, to]).status()?;
        ensure!(status.success(), "dpkg-deb -x {name} failed");
        Ok(())
    }
}

/// The numbers in a name, for sorting.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Fetches and unpacks the newest kernel of a series, such as `6.1`; `None` where no source offers it.
pub(super) fn fetch(series: &str, folder: &Path) -> Result<Option<Kernel>> {
    let own = Apt(vec![]);
    let mut offers = Vec::new();
    if series != NEWEST {
        offers.extend(own.newest(series)?.map(|name| (name, own)));
    }
    let elsewhere: &[&str] = match series {
        NEWEST => &NEWEST_IN,
        "5.10" if offers.is_empty() => &["bullseye"],
        "6.1" if offers.is_empty() => &["bookworm"],
        "6.12" if offers.is_empty() => &["trixie"],
        _ => &[],
    };
    for codename in elsewhere {
        let apt = other_release(codename, folder)?;
        offers.extend(apt.newest(series)?.map(|name| (name, apt)));
    }
    let Some((name, apt)) = offers.into_iter().max_by_key(|(name, _)| numbers(name)) else { return Ok(None) };
    let release = name.trim_start_matches("linux-image-").to_owned();
    let root = folder.join(&name);
    if !root.is_dir() {
        let half = folder.join(format!("{name}.unpacking"));
        apt.unpack(&name, folder, &half)?;
        // Since 7.x the image's package only depends on those that hold it and its modules.
        for part in ["linux-binary", "linux-modules"] {
            let part = format!("{part}-{release}");
            if apt.offers(&part)? {
                apt.unpack(&part, folder, &half)?;
            }
        }
        fs::rename(&half, &root)?;
    }
    let modules = ["lib", "usr/lib"].map(|lib| root.join(lib).join("modules").join(&release));
    let modules = modules.into_iter().find(|folder| folder.is_dir());
    let modules = modules.with_context(|| format!("{name} has no modules"))?;
    let images = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file());
    let image = image.with_context(|| format!("{name} has no image"))?;
    Ok(Some(Kernel { image, modules: modules.join("kernel"), release }))
}

/// The machine's own Debian sources, read for another release.
fn other_release(codename: &str, folder: &Path) -> Result<Apt> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"])
        .output()
        .context("apt-get")?;
    let state = folder.join(format!("apt-{codename}"));
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(part))?;
    }
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (uri, own) = line.split_once(' ')?;
            let suffix = own.split_once('-').map_or(String::new(), |(_, s)| format!("-{s}"));
            uri.contains("debian")
                .then(|| format!("deb [signed-by={KEYRING}] {uri} {codename}{suffix} main\n"))
        })
        .collect();
    lines.sort();
    lines.dedup();
    let list = state.join("sources.list");
    fs::write(&list, lines.concat())?;
    let apt = Apt(vec![
        format!("-oDir::Etc::sourcelist={}", list.display()),
        "-oDir::Etc::sourceparts=/dev/null".to_owned(),
        format!("-oDir::State::Lists={}", state.join("lists").display()),
        format!("-oDir::Cache={}", state.join("cache").display()),
    ]);
    // Its failure shows as a kernel that is not offered.
    apt.command("apt-get").args(["-q", "update"]).stdout(Stdio::null()).status()?;
    Ok(apt)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_ordered_by_their_numbers_and_not_by_their_digits() {
        assert!(numbers("linux-image-6.1.0-100-cloud-amd64") > numbers("linux-image-6.1.0-56-cloud-amd64"));
        assert!(
            numbers("linux-image-6.12.117+deb12-cloud-amd64")
                > numbers("linux-image-6.12.9+deb12-cloud-amd64")
        );
    }
}
