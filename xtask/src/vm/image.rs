//! The virtual machine's initramfs: a cpio archive (newc, kernel `Documentation/driver-api/early-userspace/buffer-format`)
//! with busybox, the tools of this machine that busybox lacks, the program, and a few modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::package::Kernel;
use crate::setup::find;
use crate::unready::unready;

/// In the order in which they are loaded. One that is missing is built in.
const MODULES: [&str; 4] =
    ["drivers/net/veth.ko", "drivers/net/tun.ko", "net/sched/sch_ingress.ko", "net/sched/cls_bpf.ko"];
/// Busybox has its own of some of them, but these know BPF, network namespaces and capabilities.
const TOOLS: [&str; 3] = ["ip", "tc", "setpriv"];
const APPLETS: [&str; 28] = [
    "sh", "date", "mount", "mkdir", "chmod", "insmod", "echo", "seq", "ping", "ping6", "nc", "wget", "grep",
    "sed", "awk", "tr", "cut", "tail", "head", "sort", "cat", "kill", "sleep", "uname", "ls", "test", "[",
    "true",
];

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Files of the archive by path without the leading slash: mode and content.
#[derive(Default)]
struct Tree(BTreeMap<String, (u32, Vec<u8>)>);

impl Tree {
    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert((FOLDER, vec![]));
        }
        self.0.insert(path.to_owned(), (mode, content));
    }

    fn add_file(&mut self, path: &str, from: &Path) -> Result<()> {
        self.add(path, FILE, fs::read(from).with_context(|| from.display().to_string())?);
        Ok(())
    }

    fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, (mode, content))) in self.0.iter().enumerate() {
            entry(&mut out, number + 1, path, *mode, content);
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[]);
        out
    }
}

fn entry(out: &mut Vec<u8>, inode: usize, path: &str, mode: u32, content: &[u8]) {
    out.extend(b"070701");
    // inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum (unused).
    let fields = [inode, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, path.len() + 1, 0];
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Writes the archive for one kernel.
pub(super) fn write(kernel: &Kernel, program: &Path, to: &Path) -> Result<()> {
    let mut tree = Tree::default();
    tree.add("init", FILE, include_bytes!("guest.sh").to_vec());
    for folder in ["proc", "sys", "dev", "run", "tmp"] {
        tree.add(folder, FOLDER, vec![]);
    }
    tree.add_file("egw-probe", program)?;
    tree.add_file("bin/busybox", &static_busybox()?)?;
    for applet in APPLETS {
        tree.add(&format!("bin/{applet}"), LINK, b"busybox".to_vec());
    }
    for tool in TOOLS {
        let path = find(tool).ok_or_else(|| unready(format!("no `{tool}`: run `cargo xtask setup lab`")))?;
        for library in libraries(&path)? {
            tree.add_file(&library, Path::new(&library))?;
        }
        tree.add_file(&format!("tools/{tool}"), &path)?;
    }
    for (number, module) in MODULES.iter().enumerate() {
        if let Some(content) = read_module(&kernel.modules.join(module))? {
            let name = module.rsplit('/').next().unwrap_or(module);
            tree.add(&format!("modules/{number}-{name}"), FILE, content);
        }
    }
    fs::write(to, tree.archive()).with_context(|| to.display().to_string())
}

fn static_busybox() -> Result<PathBuf> {
    find("busybox")
        .filter(|path| libraries(path).is_ok_and(|libraries| libraries.is_empty()))
        .ok_or_else(|| unready("no static busybox: run `cargo xtask setup vm`"))
}

/// A module's bytes, unpacked; `None` if the kernel has none of this name.
fn read_module(path: &Path) -> Result<Option<Vec<u8>>> {
    if path.is_file() {
        return Ok(Some(fs::read(path)?));
    }
    let packed = path.with_extension("ko.xz");
    if !packed.is_file() {
        return Ok(None);
    }
    let output = Command::new("xz").arg("-dc").arg(&packed).output().context("xz")?;
    ensure!(output.status.success(), "xz could not unpack {}", packed.display());
    Ok(Some(output.stdout))
}

/// Shared libraries of a program, the loader included; none for a static one.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_every_part_begins_at_a_multiple_of_four() {
        let mut tree = Tree::default();
        tree.add("bin/sh", LINK, b"busybox".to_vec());
        let archive = tree.archive();
        // Header of 110 bytes, "bin\0", two bytes to the next multiple of four.
        assert_eq!(&archive[110..114], b"bin\0");
        assert_eq!(&archive[116..122], b"070701");
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[116 + 110..116 + 117], b"bin/sh\0");
    }
}
