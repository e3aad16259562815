//! What an accepted connection costs the external target.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Bench, Spread, Table, flood::connect_at, host::Hosts};

/// Processor seconds of the target per 100,000 short connections, allowed and denied, interleaved with the peer's.
pub(super) fn accept(bench: &Bench) -> Result<Table> {
    let (rounds, length) =
        if bench.quick { (1, Duration::from_millis(300)) } else { (7, Duration::from_secs(3)) };
    let verdicts = [("allowed", "--allowed-cidr=0.0.0.0/0"), ("denied", "--allowed-cidr=203.0.113.0/24")];
    let programs = [("egw-probe", Some(&bench.program)), ("peer", bench.peer.as_ref())];
    let hosts = Hosts::new(&bench.interrupt)?;
    let mut cells = vec![];
    for _ in 0..rounds {
        for (name, program) in programs {
            let Some(program) = program else { continue };
            for (verdict, flag) in verdicts {
                let target = hosts.start(program, &[flag])?;
                let before = super::host::cpu_seconds(target.id())?;
                let opened = open(&hosts, Instant::now() + length)?;
                let cpu = super::host::cpu_seconds(target.id())? - before;
                // A peer may know no orderly end.
                drop(target);
                cells.push((name, verdict, cpu / opened as f64 * 1e5, opened as f64 / length.as_secs_f64()));
            }
        }
    }
    let mut lines = vec![];
    for (name, program) in programs {
        for (verdict, _) in verdicts.iter().filter(|_| program.is_some()) {
            let mine = cells.iter().filter(|cell| cell.0 == name && cell.1 == *verdict);
            let cpu = Spread::of(mine.clone().map(|cell| cell.2).collect()).show(3);
            let [_, rate, _] = Spread::of(mine.map(|cell| cell.3).collect()).show(0);
            lines.push([vec![name.to_owned(), (*verdict).to_owned()], cpu.to_vec(), vec![rate]].concat());
        }
    }
    Ok(Table {
        title: format!(
            "external target: CPU seconds per 100,000 short connections, {rounds} interleaved rounds"
        ),
        columns: vec!["program", "verdict", "min", "median", "max", "connections/s"],
        lines,
        remarks: vec![
            "the openers share the cores: the rate is the machine's, the CPU the target's own".into(),
        ],
    })
}

fn open(hosts: &Hosts, end: Instant) -> Result<u64> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| connect_at(hosts, u32::MAX, end))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an opener does not panic")).sum()
    })
}
