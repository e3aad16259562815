//! `cargo xtask house`: whether the house is in order. No file imports from another that, by way of others, imports from it; no
//! function is longer than a page, no file than a few; imports are written in one style. Tests are left out.

mod circles;
mod style;
mod tree;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use self::tree::Tree;

/// Folders with sources: every crate of the workspace.
const ROOMS: [&str; 4] = ["egw-probe", "egw-probe-common", "egw-probe-ebpf", "xtask"];
/// The longest function, in lines.
const LONGEST_FUNCTION: usize = 60;
/// The longest file, in lines.
const LONGEST_FILE: usize = 500;
/// So many of the longest files are told.
const TOLD: usize = 10;

/// What was found.
#[derive(Debug, Default)]
struct Findings {
    circles: Vec<String>,
    functions: Vec<String>,
    files: Vec<(usize, String)>,
    style: Vec<String>,
}

/// Tells all that is found. Exit status 1 if anything is not as it has to be.
pub(crate) fn run() -> Result<ExitCode> {
    let findings = Findings::of(&ROOMS)?;
    print!("{}", findings.told());
    Ok(ExitCode::from(u8::from(!findings.faults().is_empty())))
}

impl Findings {
    fn of(rooms: &[&str]) -> Result<Self> {
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
        let mut findings = Self::default();
        for room in rooms {
            for root in roots(&workspace.join(room).join("src"))? {
                findings.add(workspace, &Tree::read(&root)?);
            }
        }
        findings.files.sort_by(|a, b| b.cmp(a));
        Ok(findings)
    }

    fn add(&mut self, workspace: &Path, tree: &Tree) {
        let name = |file: usize| {
            let path = &tree.files[file].path;
            path.strip_prefix(workspace).unwrap_or(path).display().to_string()
        };
        let arrows = circles::arrows(tree);
        for circle in circles::circles(tree.files.len(), &arrows) {
            let mut told = format!("{} files import from each other:", circle.len());
            for ((from, to), names) in &arrows {
                if circle.contains(from) && circle.contains(to) {
                    let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    let _ = write!(told, "\n    {} <- {}: {names}", name(*to), name(*from));
                }
            }
            self.circles.push(told);
        }
        for (number, file) in tree.files.iter().enumerate() {
            let place = name(number);
            self.files.push((file.lines, place.clone()));
            for function in file.functions.iter().filter(|function| function.lines > LONGEST_FUNCTION) {
                self.functions.push(format!(
                    "{place}:{}: {} has {} lines",
                    function.line, function.name, function.lines
                ));
            }
            self.style
                .extend(file.derives.iter().map(|line| format!("{place}:{line}: derive `Debug` first")));
        }
        for module in &tree.modules {
            let place = name(module.file);
            self.style
                .extend(style::faults(module).iter().map(|(line, why)| format!("{place}:{line}: {why}")));
        }
    }

    /// Everything that must not be.
    fn faults(&self) -> Vec<String> {
        let long = self.files.iter().filter(|(lines, _)| *lines > LONGEST_FILE);
        let long = long.map(|(lines, file)| format!("{file} has {lines} lines"));
        [&self.circles, &self.functions, &self.style].into_iter().flatten().cloned().chain(long).collect()
    }

    fn told(&self) -> String {
        let mut text = String::new();
        let kinds = [
            ("import circles".to_owned(), &self.circles),
            (format!("functions of more than {LONGEST_FUNCTION} lines"), &self.functions),
            ("imports and derives in another style".to_owned(), &self.style),
        ];
        for (kind, faults) in kinds {
            let _ = writeln!(text, "{kind}: {}", faults.len());
            for fault in faults {
                let _ = writeln!(text, "  {fault}");
            }
        }
        let _ = writeln!(text, "longest files, of {} with at most {LONGEST_FILE} lines:", self.files.len());
        for (lines, file) in self.files.iter().take(TOLD) {
            let _ = writeln!(text, "  {lines:4} {file}");
        }
        text
    }
}

/// The roots of the crates in a folder of sources: library, program, further programs.
fn roots(sources: &Path) -> Result<Vec<PathBuf>> {
    let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs"]
        .map(|name| sources.join(name))
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    let bin = sources.join("bin");
    if bin.is_dir() {
        for entry in fs::read_dir(&bin)? {
            roots.push(entry?.path());
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rooms that are in order, and have to stay so.
    const IN_ORDER: [&str; 4] = ["egw-probe", "egw-probe-common", "egw-probe-ebpf", "xtask"];

    #[test]
    fn the_house_is_in_order() {
        assert_eq!(Findings::of(&IN_ORDER).unwrap().faults(), [""; 0]);
    }
}
