//! Held connections: how long they take to open, and what they cost both ends and the kernel.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};

use super::host::{Hosts, PORT, TARGET, cpu_seconds, resident_kib};
use super::row::{Bench, Spread, Table, ratio};
use crate::lab::child::Child;

/// As many as the old program's default descriptor limit of 20,000 leaves room for.
const STANDARD: u64 = 19_800;
/// Local ports of the peer: the kernel's default range.
const PORTS: u64 = 28_232;
/// Pause before the first stress dial, in which both ends are measured idle.
const IDLE: Duration = Duration::from_millis(1500);

/// What one round measured.
struct Cell {
    /// Connections held in the end: a peer may know no number to stop at.
    held: f64,
    open_seconds: f64,
    /// Memory above idle, KiB.
    client_kib: f64,
    target_kib: f64,
    kernel_kib: f64,
    /// Processor seconds while opening.
    client_cpu: f64,
    target_cpu: f64,
    /// Busy cores of the whole machine while the connections were only held.
    holding: f64,
}

/// Opens the standard number: ours one at a time and eight at a time, and the peer.
pub(super) fn held(bench: &Bench) -> Result<Table> {
    let (rounds, count) = if bench.quick { (1, 500) } else { (5, STANDARD) };
    let mut programs: Vec<(&str, &Path, &[&str])> = vec![
        ("egw-probe", &bench.program, &[]),
        ("egw-probe, 8 at a time", &bench.program, &["--stress-concurrency=8"]),
    ];
    programs.extend(bench.peer.as_deref().map(|peer| ("peer", peer, &[][..])));
    let mut cells: Vec<Vec<Cell>> = programs.iter().map(|_| vec![]).collect();
    for _ in 0..rounds {
        for ((_, program, flags), cells) in programs.iter().zip(&mut cells) {
            cells.push(measure(
                bench,
                program,
                flags,
                count.min(connections_per_process()? + 800),
                1,
                Duration::ZERO,
            )?);
        }
    }
    let of = |cells: &[Cell], value: fn(&Cell) -> f64| -> Vec<f64> { cells.iter().map(value).collect() };
    let times = |cells: &[Cell]| of(cells, |cell| cell.open_seconds);
    let lines = programs.iter().zip(&cells).map(|((name, ..), mine)| {
        let median = |value: fn(&Cell) -> f64| Spread::of(of(mine, value)).median;
        let mut line = vec![(*name).to_owned()];
        line.extend(Spread::of(times(mine)).show(3));
        line.push(ratio(&times(mine), &times(&cells[0])));
        line.push(format!("{:.2}", median(|cell| cell.client_kib / 1024.0 / cell.held * 1e4)));
        line.push(format!("{:.2}", median(|cell| cell.target_kib / 1024.0 / cell.held * 1e4)));
        line.push(format!("{:.1}", median(|cell| cell.kernel_kib / cell.held)));
        line.push(format!("{:.2}", median(|cell| cell.client_cpu)));
        line.push(format!("{:.2}", median(|cell| cell.target_cpu)));
        line
    });
    Ok(Table {
        title: format!("opening {count} connections and holding them, {rounds} interleaved rounds, each with its own target"),
        columns: vec![
            "program", "open s: min", "median", "max", "to egw-probe", "client MB/10k", "target MB/10k",
            "kernel KiB each", "client CPU s", "target CPU s",
        ],
        lines: lines.collect(),
        remarks: vec![
            "MB/10k: resident memory above idle, per 10,000 held connections, in MiB".into(),
            "kernel KiB each: growth of the kernel's memory for a connection, both ends; no program can move it".into(),
        ],
    })
}

/// Ours from a thousand connections on, in steps.
pub(super) fn growth(bench: &Bench) -> Result<Table> {
    let counts: &[u64] = if bench.quick { &[200, 400] } else { &[1_000, 3_000, 10_000, 30_000, 100_000] };
    let hold = if bench.quick { Duration::from_millis(200) } else { Duration::from_secs(5) };
    let mut lines = vec![];
    for count in counts {
        let pairs = count.div_ceil(connections_per_process()?);
        let flags = ["--stress-concurrency=8"];
        let cell = measure(bench, &bench.program, &flags, *count, pairs, hold)?;
        let thousands = *count as f64 / 1e3;
        lines.push(vec![
            count.to_string(),
            pairs.to_string(),
            format!("{:.2}", cell.open_seconds),
            format!("{:.1}", (cell.client_cpu + cell.target_cpu) * 1e3 / thousands),
            format!("{:.0}", cell.client_kib),
            format!("{:.0}", cell.target_kib),
            format!("{:.1}", cell.kernel_kib / 1024.0),
            format!("{:.1}", cell.kernel_kib / *count as f64),
            format!(
                "{:.1} %",
                cell.kernel_kib / (cell.kernel_kib + cell.client_kib + cell.target_kib) * 100.0
            ),
            format!("{:.2}", cell.holding),
        ]);
    }
    Ok(Table {
        title: "from 1,000 to 100,000 held connections, both ends ours, 8 dials at a time".into(),
        columns: vec![
            "connections", "pairs", "open s", "CPU ms/1,000", "client KiB", "target KiB", "kernel MiB",
            "kernel KiB each", "kernel's share", "busy cores, holding",
        ],
        lines,
        remarks: vec![
            "pairs of processes, each client with a source address of its own: as many as the descriptor limit asks for".into(),
            "KiB, MiB: above idle. Kernel: what /proc/meminfo calls Slab, and pages of TCP buffers (/proc/net/sockstat)".into(),
            "holding: the whole machine, nearly all of it the kernel's keepalives (each connection every second)".into(),
        ],
    })
}

/// Opens so many connections, shared out among as many pairs of processes: each client has a source address, each target a
/// port of its own.
fn measure(
    bench: &Bench,
    program: &Path,
    flags: &[&str],
    count: u64,
    pairs: u64,
    hold: Duration,
) -> Result<Cell> {
    let hosts = Hosts::new(&bench.interrupt)?;
    let (targets, clients) = start_pairs(bench, &hosts, program, flags, count, pairs)?;
    // All have settled down, and none has begun.
    hosts
        .pause(IDLE.saturating_sub(Duration::from_millis(300) + Duration::from_millis(50) * pairs as u32))?;
    let sum = |children: &[Child], value: fn(u32) -> Result<f64>| -> Result<f64> {
        children.iter().map(|child| value(child.id())).sum()
    };
    let memory = || -> Result<[f64; 3]> {
        Ok([sum(&clients, resident_kib)?, sum(&targets, resident_kib)?, kernel_kib()?])
    };
    let cpu = || -> Result<[f64; 2]> { Ok([sum(&clients, cpu_seconds)?, sum(&targets, cpu_seconds)?]) };
    let (idle, cpu_idle) = (memory()?, cpu()?);
    let before = Hosts::sockets(&hosts.peer)?;
    let (begun, opened) = await_open(&hosts, before, count, &clients)?;
    let cpu = cpu()?;
    // The last answers.
    hosts.pause(Duration::from_millis(300))?;
    let count = (Hosts::sockets(&hosts.peer)? - before) as f64;
    let after = memory()?;
    let (busy, holding) = (busy_seconds()?, Instant::now());
    hosts.pause(hold)?;
    let holding = (busy_seconds()? - busy) / holding.elapsed().as_secs_f64().max(0.001);
    Ok(Cell {
        held: count,
        open_seconds: (opened - begun).as_secs_f64(),
        client_kib: after[0] - idle[0],
        target_kib: after[1] - idle[1],
        kernel_kib: after[2] - idle[2],
        client_cpu: cpu[0] - cpu_idle[0],
        target_cpu: cpu[1] - cpu_idle[1],
        holding,
    })
}

/// Waits until the peer has `count` sockets more than `before`, and returns when the first one came and when the last.
fn await_open(hosts: &Hosts, before: u64, count: u64, clients: &[Child]) -> Result<(Instant, Instant)> {
    let patience = Instant::now() + Duration::from_mins(2);
    let mut begun = None;
    loop {
        let now = Instant::now();
        let open = Hosts::sockets(&hosts.peer)?.saturating_sub(before);
        if open > 0 {
            begun.get_or_insert(now);
        }
        if let Some(begun) = begun.filter(|_| open >= count) {
            return Ok((begun, now));
        }
        if now > patience {
            let complaint = clients.iter().map(Child::complaint).collect::<String>();
            bail!("{count} connections are not open after two minutes{complaint}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts pairs of a target and a client.
fn start_pairs(
    bench: &Bench,
    hosts: &Hosts,
    program: &Path,
    flags: &[&str],
    count: u64,
    pairs: u64,
) -> Result<(Vec<Child>, Vec<Child>)> {
    let (mut targets, mut clients) = (vec![], vec![]);
    for pair in 0..pairs {
        let port = u64::from(PORT) + pair;
        let metrics = format!("--metrics-addr=127.0.0.1:{}", 4000 + pair);
        let listen = format!("--listen-port={port}");
        let mut target = vec!["--allowed-cidr=0.0.0.0/0", "--keep-open"];
        let mut client = vec![
            "client".to_owned(),
            format!("--external-target-addr={TARGET}:{port}"),
            "--stress".to_owned(),
            format!("--stress-delay={}ms", IDLE.as_millis()),
        ];
        client.extend(flags.iter().map(ToString::to_string));
        // A peer knows no number to stop at: its descriptors stop it.
        if program == bench.program {
            let share = count * (pair + 1) / pairs - count * pair / pairs;
            client.push(format!("--stress-connections={share}"));
        }
        if pairs > 1 {
            let source = format!("192.0.2.{}", 100 + pair);
            hosts.peer.ip(&format!("addr add {source}/24 dev wire\n"))?;
            target.extend([listen.as_str(), metrics.as_str()]);
            client.extend([format!("--stress-source-addr={source}"), metrics.clone()]);
        }
        targets.push(hosts.start(program, &target)?);
        clients.push(hosts.start_client(program, &client)?);
    }
    Ok((targets, clients))
}

/// Connections that a program started from here can hold, with some descriptors to spare.
fn connections_per_process() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard > 2_000, "the hard limit on descriptors is {hard}: raise it (ulimit -Hn, as root)");
    Ok((hard - 1_000).min(PORTS * 9 / 10))
}

/// Memory that the kernel has in use for its objects and TCP buffers, in KiB.
fn kernel_kib() -> Result<f64> {
    let number = |path: &str, key: &str, after: &str| -> Result<f64> {
        let text = fs::read_to_string(path)?;
        let line =
            text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key} in {path}"))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != after).skip(1);
        words.next().and_then(|word| word.parse().ok()).with_context(|| format!("no number in {path}"))
    };
    let pages = number("/proc/net/sockstat", "TCP:", "mem")?;
    Ok(number("/proc/meminfo", "Slab:", "Slab:")? + pages * 4.0)
}

/// Processor time that the machine has spent on anything, in seconds.
fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
    let busy = ticks.iter().take(7).enumerate().filter(|(column, _)| ![3, 4].contains(column));
    Ok(busy.map(|(_, ticks)| ticks).sum::<f64>() / 100.0)
}
