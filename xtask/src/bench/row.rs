//! What a row of the benches is given, and what it gives.

use std::path::{Path, PathBuf};

use crate::lab::interrupt::Interrupt;

/// Where the programs are, and how long rows may take.
pub(super) struct Bench {
    pub(super) program: PathBuf,
    pub(super) bare: PathBuf,
    pub(super) plain: PathBuf,
    pub(super) peer: Option<PathBuf>,
    pub(super) quick: bool,
    pub(super) interrupt: Interrupt,
}

impl Bench {
    /// What is compared: ours, and the peer if there is one.
    pub(super) fn programs(&self) -> Vec<(&'static str, &Path)> {
        let peer = self.peer.as_deref().map(|peer| ("peer", peer));
        std::iter::once(("egw-probe", self.program.as_path())).chain(peer).collect()
    }
}

/// What a row measured: a line each, already worded.
#[derive(serde::Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) lines: Vec<Vec<String>>,
    /// What the figures leave open.
    pub(super) remarks: Vec<String>,
}

impl Table {
    pub(super) fn print(&self) {
        let cell =
            |line: &Vec<String>, column: usize| line.get(column).map_or(0, |text| text.chars().count());
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let title = self.columns[column].chars().count();
                self.lines.iter().map(|line| cell(line, column)).max().unwrap_or(0).max(title)
            })
            .collect();
        let row = |texts: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<String> =
                texts.zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
            println!("  {}", cells.join("  ").trim_end());
        };
        println!("{}", self.title);
        row(&mut self.columns.iter().copied());
        for line in &self.lines {
            row(&mut line.iter().map(String::as_str));
        }
        for remark in &self.remarks {
            println!("  {remark}");
        }
        println!();
    }
}

/// Least, median and greatest of some values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get(((values.len().max(1) - 1) as f64 * share) as usize).copied();
        let value = |share| at(share).unwrap_or(f64::NAN);
        Self { min: value(0.0), median: value(0.5), max: value(1.0) }
    }

    pub(super) fn show(self, digits: usize) -> [String; 3] {
        [self.min, self.median, self.max].map(|value| format!("{value:.digits$}"))
    }
}

/// Values over those of the same round of another program: median, least and greatest.
pub(super) fn ratio(values: &[f64], base: &[f64]) -> String {
    let [min, median, max] =
        Spread::of(values.iter().zip(base).map(|(value, base)| value / base).collect()).show(2);
    format!("{median} ({min} to {max})")
}
