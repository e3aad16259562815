//! What an accepted connection costs the external target.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::flood::connect_at;
use super::host::Hosts;
use super::row::{Bench, Spread, Table, ratio};

const VERDICTS: [(&str, &str); 2] =
    [("allowed", "--allowed-cidr=0.0.0.0/0"), ("denied", "--allowed-cidr=203.0.113.0/24")];
/// A target that is busy for a smaller share of the time on each of its threads' cores waits for the openers.
const SATURATED: f64 = 0.9;

/// What one round measured.
struct Cell {
    cpu_per_100k: f64,
    rate: f64,
    /// Cores' worth of time that the target was busy.
    busy: f64,
}

/// Processor seconds of the target per 100,000 short connections, allowed and denied, interleaved with a plain accept
/// loop, with one that does nothing, and with the peer.
pub(super) fn accept(bench: &Bench) -> Result<Table> {
    let (rounds, length) =
        if bench.quick { (1, Duration::from_millis(300)) } else { (7, Duration::from_secs(3)) };
    let floor: &[&str] = &["--floor"];
    let mut programs: Vec<(&str, &Path, &[&str])> = vec![
        ("egw-probe", &bench.program, &[]),
        ("plain accept loop", &bench.plain, &[]),
        ("accept, shutdown, close", &bench.plain, floor),
    ];
    programs.extend(bench.peer.as_deref().map(|peer| ("peer", peer, &[][..])));
    let hosts = Hosts::new(&bench.interrupt)?;
    let mut cells: Vec<[Vec<Cell>; 2]> = programs.iter().map(|_| [vec![], vec![]]).collect();
    for _ in 0..rounds {
        for ((_, program, flags), cells) in programs.iter().zip(&mut cells) {
            for ((_, verdict), cells) in VERDICTS.iter().zip(cells) {
                cells.push(measure(&hosts, program, &[&[*verdict], *flags].concat(), length)?);
            }
        }
    }
    let mut lines = vec![];
    for (number, (verdict, _)) in VERDICTS.iter().enumerate() {
        let of = |cells: &[Vec<Cell>; 2], value: fn(&Cell) -> f64| -> Vec<f64> {
            cells[number].iter().map(value).collect()
        };
        let plain = of(&cells[1], |cell| cell.cpu_per_100k);
        for ((name, ..), cells) in programs.iter().zip(&cells) {
            let cpu = of(cells, |cell| cell.cpu_per_100k);
            let spread = Spread::of(cpu.clone());
            let busy = Spread::of(of(cells, |cell| cell.busy)).median;
            let mut line = vec![(*name).to_owned(), (*verdict).to_owned()];
            line.extend(spread.show(3));
            line.push(ratio(&cpu, &plain));
            line.push(format!("{:.0}", 1e5 / spread.median));
            line.push(Spread::of(of(cells, |cell| cell.rate)).show(0)[1].clone());
            line.push(format!("{busy:.2}{}", if busy < SATURATED { " *" } else { "" }));
            lines.push(line);
        }
    }
    Ok(Table {
        title: format!(
            "external target: CPU seconds per 100,000 short connections, {rounds} interleaved rounds"
        ),
        columns: vec![
            "program", "verdict", "min", "median", "max", "to plain, pairwise", "per core", "opened/s", "busy cores",
        ],
        lines,
        remarks: vec![
            "per core: connections that one core's time pays for; the floor's is what the kernel allows".into(),
            "* the openers share the cores and are the bottleneck: opened/s is theirs, the CPU the target's own".into(),
        ],
    })
}

fn measure(hosts: &Hosts, program: &Path, flags: &[&str], length: Duration) -> Result<Cell> {
    let target = hosts.start(program, flags)?;
    let before = super::host::cpu_seconds(target.id())?;
    let begun = Instant::now();
    let opened = open(hosts, begun + length)? as f64;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = super::host::cpu_seconds(target.id())? - before;
    // A peer may know no orderly end, so it is only dropped.
    drop(target);
    Ok(Cell { cpu_per_100k: cpu / opened * 1e5, rate: opened / seconds, busy: cpu / seconds })
}

fn open(hosts: &Hosts, end: Instant) -> Result<u64> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| connect_at(hosts, u32::MAX, end))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an opener does not panic")).sum()
    })
}
