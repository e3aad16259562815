//! `cargo xtask ebpf [--check]`: the kernel object, its manifest, and the proof that they belong to the sources.
//!
//! The object is committed so that a plain `cargo build` needs no BPF toolchain. What keeps it honest: a unit test
//! compares the sources' hash with the manifest's, and `--check` builds again and compares every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

const OBJECT: &str = "egw-probe/ebpf/egw-probe.bpf.o";
const MANIFEST: &str = "egw-probe/ebpf/egw-probe.bpf.manifest";
const TARGET: &str = "bpfel-unknown-none";
const CRATE: &str = "egw-probe-ebpf";

/// Folders and files the object is made of. The workspace's manifest is not among them: the profile stands below.
const SOURCES: [&str; 4] = [
    "egw-probe-ebpf/Cargo.toml",
    "egw-probe-ebpf/src",
    "egw-probe-common/Cargo.toml",
    "egw-probe-common/src",
];

/// The build profile. Here and not in `Cargo.toml` so that it is hashed with the sources and concerns no other build.
const PROFILE: [&str; 8] = [
    "inherits=\"release\"",
    "opt-level=3",
    "lto=\"fat\"",
    "codegen-units=1",
    "panic=\"abort\"",
    // A surviving panic is a program that the verifier rejects; the packet walk bounds what it adds up.
    "overflow-checks=false",
    // No debug sections, so nothing to strip afterwards; the symbols are needed to relocate calls.
    "debug=0",
    "strip=\"none\"",
];

/// Which of the two ways of building `core` for BPF this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `-Z build-std` from the rust-src component.
    RustSrc,
    /// A precompiled `core` in the sysroot (Debian's libstd-rust-web-dev-bpf).
    Precompiled,
}

/// What built, or builds, the object.
struct Toolchain {
    way: Way,
    rustc: String,
    linker: String,
    sysroot: PathBuf,
}

/// Rebuilds the object and its manifest.
pub(crate) fn build() -> Result<()> {
    let root = root();
    let toolchain = find_toolchain()?;
    let object = compile(&root, &toolchain, "ebpf")?;
    let manifest = manifest(&root, &toolchain, &object)?;
    fs::create_dir_all(root.join(OBJECT).parent().context("the object has no folder")?)?;
    fs::write(root.join(OBJECT), &object)?;
    fs::write(root.join(MANIFEST), manifest)?;
    println!("{OBJECT}: {} bytes, sha256 {}", object.len(), sha256(&object));
    Ok(())
}

/// Rebuilds the object and compares it with the committed one.
pub(crate) fn check() -> Result<()> {
    let root = root();
    verify_committed(&root)?;
    let toolchain = find_toolchain()?;
    let recorded = fs::read_to_string(root.join(MANIFEST)).context(MANIFEST)?;
    let recorded = entries(&recorded);
    for (key, have) in [("rustc", &toolchain.rustc), ("linker", &toolchain.linker)] {
        let want = recorded.get(key).copied().unwrap_or("nothing");
        ensure!(
            want == have,
            "the object was built by {want}, here is {have}: only the same toolchain gives the same bytes"
        );
    }
    // From nothing: what an earlier build left must not vouch for this one.
    let _ = fs::remove_dir_all(root.join("target/ebpf-check"));
    let object = compile(&root, &toolchain, "ebpf-check")?;
    ensure!(
        object == fs::read(root.join(OBJECT))?,
        "{OBJECT} is not what its sources build; run `cargo xtask ebpf` and commit the result"
    );
    println!("{OBJECT}: rebuilt, identical (sha256 {})", sha256(&object));
    Ok(())
}

/// Whether object, manifest and sources belong together, without building anything.
fn verify_committed(root: &Path) -> Result<()> {
    let manifest = fs::read_to_string(root.join(MANIFEST)).context(MANIFEST)?;
    let recorded = entries(&manifest);
    ensure!(
        recorded.get("sources") == Some(&sources_hash(root)?.as_str()),
        "the kernel program's sources have changed and {OBJECT} has not; run `cargo xtask ebpf` and commit the result"
    );
    ensure!(
        recorded.get("object") == Some(&sha256(&fs::read(root.join(OBJECT))?).as_str()),
        "{OBJECT} is not the object that {MANIFEST} describes; run `cargo xtask ebpf` and commit both"
    );
    Ok(())
}

fn compile(root: &Path, toolchain: &Toolchain, folder: &str) -> Result<Vec<u8>> {
    let target_dir = root.join("target").join(folder);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--package", CRATE, "--target", TARGET, "--profile", "bpf"])
        .arg("--target-dir")
        .arg(&target_dir)
        // aya-ebpf uses one unstable feature (BPF assembly), and so do we.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, toolchain).join("\u{1f}"));
    for line in PROFILE {
        cargo.arg("--config").arg(format!("profile.bpf.{line}"));
    }
    if toolchain.way == Way::RustSrc {
        cargo.args(["-Z", "build-std=core"]);
    }
    let status = cargo.status().context("cargo could not be started")?;
    ensure!(status.success(), "building {CRATE} for {TARGET} failed");
    let built = target_dir.join(TARGET).join("bpf").join(CRATE);
    fs::read(&built).with_context(|| built.display().to_string())
}

/// Flags that make the object the same wherever the checkout, the registry and the toolchain lie.
fn rustflags(root: &Path, toolchain: &Toolchain) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    vec![
        remap(root, "/egw-probe"),
        remap(&cargo_home(), "/cargo"),
        remap(&toolchain.sysroot, "/rust"),
        // Without +allows-misaligned-mem-access: it saves a nanosecond per packet where the kernel reads packets in place,
        // but then LLVM reads the stack misaligned too, which the verifier refuses.
        "-Clinker=bpf-linker".to_owned(),
    ]
}

fn find_toolchain() -> Result<Toolchain> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot =
        PathBuf::from(first_line(Command::new(&rustc).args(["--print", "sysroot"])).context("rustc")?);
    let version = first_line(Command::new(&rustc).arg("--version")).context("rustc")?;
    let rustlib = sysroot.join("lib/rustlib");
    let way = if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
        Way::RustSrc
    } else if rustlib.join(TARGET).is_dir() {
        Way::Precompiled
    } else {
        bail!(
            "no `core` for BPF: `rustup component add rust-src`, or on Debian `apt install rustc-web cargo-web \
             libstd-rust-web-dev-bpf`"
        );
    };
    let Ok(linker) = first_line(Command::new("bpf-linker").arg("--version")) else {
        bail!(
            "no bpf-linker: `apt install llvm-22-dev && LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker \
             --version 0.13.0 --no-default-features --features llvm-22` (the LLVM major of `rustc -vV`)"
        );
    };
    Ok(Toolchain { way, rustc: version, linker, sysroot })
}

fn manifest(root: &Path, toolchain: &Toolchain, object: &[u8]) -> Result<String> {
    let mut text = String::from("# Written by `cargo xtask ebpf`, beside the object it describes.\n");
    for (key, value) in [
        ("sources", sources_hash(root)?),
        ("object", sha256(object)),
        ("rustc", toolchain.rustc.clone()),
        ("linker", toolchain.linker.clone()),
    ] {
        writeln!(text, "{key} {value}")?;
    }
    Ok(text)
}

fn entries(manifest: &str) -> BTreeMap<&str, &str> {
    manifest.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(' ')).collect()
}

/// One hash over everything that goes into the object: sources, versions of the crates, profile and flags.
fn sources_hash(root: &Path) -> Result<String> {
    let mut files = BTreeSet::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root)?.to_str().context("a file name that is not UTF-8")?;
        let content = fs::read(&file).with_context(|| name.to_owned())?;
        // Lengths keep one file's end apart from the next one's beginning.
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    hash.update(locked_crates(&fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?));
    hash.update(PROFILE.join("\n"));
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.insert(path.to_owned());
    }
    Ok(())
}

/// The lock file's blocks for the crates that are linked into the kernel program, in order.
fn locked_crates(lock: &str) -> String {
    let blocks: BTreeMap<&str, &str> = lock
        .split("[[package]]")
        .skip(1)
        .filter_map(|block| Some((field(block, "name")?, block.trim())))
        .collect();
    let mut wanted = vec![CRATE];
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        // The shared crate has dependencies in userspace and in tests only.
        if seen.insert(name)
            && name != "egw-probe-common"
            && let Some((_, list)) = blocks.get(name).and_then(|block| block.split_once("dependencies = ["))
        {
            wanted.extend(list.split('"').skip(1).step_by(2).filter_map(|entry| entry.split(' ').next()));
        }
    }
    seen.into_iter()
        // What ends up in the object; tools of the build (syn and its like) change too often, and `--check` covers them.
        .filter(|name| name.starts_with("aya-"))
        .filter_map(|name| blocks.get(name).copied())
        .collect::<Vec<_>>()
        .join("\n")
}

fn field<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_was_built_from_the_committed_sources() {
        verify_committed(&root()).unwrap();
    }

    #[test]
    fn a_changed_source_or_a_new_file_changes_the_hash() {
        let copy = std::env::temp_dir().join(format!("egw-probe-xtask-{}", std::process::id()));
        for source in ["egw-probe-ebpf/src", "egw-probe-common/src"] {
            fs::create_dir_all(copy.join(source)).unwrap();
            fs::write(copy.join(source).join("a.rs"), "fn a() {}").unwrap();
        }
        for file in ["egw-probe-ebpf/Cargo.toml", "egw-probe-common/Cargo.toml", "Cargo.lock"] {
            fs::write(copy.join(file), "").unwrap();
        }
        let before = sources_hash(&copy).unwrap();
        assert_eq!(sources_hash(&copy).unwrap(), before);
        fs::write(copy.join("egw-probe-common/src/a.rs"), "fn b() {}").unwrap();
        let changed = sources_hash(&copy).unwrap();
        assert_ne!(changed, before);
        fs::write(copy.join("egw-probe-ebpf/src/b.rs"), "").unwrap();
        assert_ne!(sources_hash(&copy).unwrap(), changed);
        fs::remove_dir_all(&copy).unwrap();
    }

    #[test]
    fn only_the_kernel_programs_crates_are_hashed_from_the_lock_file() {
        let lock = "version = 4\n\
            [[package]]\nname = \"egw-probe-ebpf\"\nversion = \"0.1.0\"\ndependencies = [\n \"aya-ebpf\",\n \"egw-probe-common\",\n]\n\
            [[package]]\nname = \"egw-probe-common\"\nversion = \"0.1.0\"\ndependencies = [\n \"proptest\",\n]\n\
            [[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\ndependencies = [\n \"aya-ebpf-cty 0.3.0\",\n]\n\
            [[package]]\nname = \"aya-ebpf-cty\"\nversion = \"0.3.0\"\n\
            [[package]]\nname = \"proptest\"\nversion = \"1.12.0\"\n";
        let kept = locked_crates(lock);
        assert!(kept.contains("aya-ebpf-cty"));
        assert!(!kept.contains("proptest"));
    }
}
