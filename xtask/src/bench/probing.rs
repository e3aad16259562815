//! Probing itself: over which round-trip times it succeeds, and how many probes a second leave at what cost.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::host::{Hosts, PORT, TARGET, cpu_seconds};
use super::row::{Bench, Spread, Table, ratio};
use crate::lab::wire::{Manner, Wire};

/// Whether a client gets its pong over a wire with a delay, at the default interval of 50 ms.
pub(super) fn round_trips(bench: &Bench) -> Result<Table> {
    let delays: &[u64] = if bench.quick { &[60] } else { &[0, 10, 20, 30, 50, 100, 200, 400] };
    let (rounds, patience) = if bench.quick { (1, 2) } else { (3, 3) };
    let programs = bench.programs();
    let mut lines = vec![];
    for delay in delays {
        let hosts = Hosts::apart(&bench.interrupt)?;
        let wire = Wire::start(
            hosts.wire.as_ref().context("no wire")?,
            Manner { delay: Duration::from_millis(*delay) / 2, ..Manner::default() },
        )?;
        let target = hosts.start(&bench.program, &["--allowed-cidr=0.0.0.0/0"])?;
        let mut line = vec![format!("{delay} ms")];
        for (_, program) in &programs {
            let mut succeeded = 0;
            for _ in 0..rounds {
                succeeded += u32::from(succeeds(&hosts, program, patience)?);
            }
            line.push(format!("{succeeded}/{rounds}"));
        }
        lines.push(line);
        drop(target);
        wire.finish()?;
    }
    Ok(Table {
        title: format!(
            "success by round-trip time: interval 50ms, every source allowed, test timeout {patience}s, target ours"
        ),
        columns: std::iter::once("round trip").chain(programs.iter().map(|(name, _)| *name)).collect(),
        lines,
        remarks: vec!["a forwarder in userspace delays every frame by half the round-trip time".into()],
    })
}

fn succeeds(hosts: &Hosts, program: &Path, patience: u64) -> Result<bool> {
    let flags = [
        "client".to_owned(),
        format!("--external-target-addr={TARGET}:{PORT}"),
        format!("--test-timeout={patience}s"),
    ];
    let client = hosts.start_client(program, &flags)?;
    for _ in 0..(patience * 100 + 100) {
        hosts.pause(Duration::from_millis(10))?;
        let page = hosts.client_page("/metrics").unwrap_or_default();
        let above_0 = |series: &str| {
            let value = page.lines().find_map(|line| line.strip_prefix(series));
            value.and_then(|value| value.trim().parse::<f64>().ok()).is_some_and(|value| value > 0.0)
        };
        if above_0("egw_scale_test_failed_tests_total ") {
            return Ok(false);
        }
        if above_0("egw_scale_test_masquerade_delay_seconds_total ") {
            drop(client);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Probes a second at short intervals, all of them denied, and what one costs the client.
pub(super) fn rate(bench: &Bench) -> Result<Table> {
    let (rounds, length) =
        if bench.quick { (1, Duration::from_millis(300)) } else { (5, Duration::from_secs(2)) };
    let hosts = Hosts::new(&bench.interrupt)?;
    let target = hosts.start(&bench.program, &["--allowed-cidr=203.0.113.0/24"])?;
    let mut lines = vec![];
    for (interval, due) in [("1ms", 1e3), ("100us", 1e4), ("20us", 5e4)] {
        let programs = bench.programs();
        let mut found = vec![(vec![], vec![]); programs.len()];
        for _ in 0..rounds {
            for ((_, program), (rates, cpus)) in programs.iter().zip(&mut found) {
                let (rate, cpu) = probes(&hosts, program, interval, length)?;
                rates.push(rate);
                cpus.push(cpu);
            }
        }
        for ((name, _), (rates, cpus)) in programs.iter().zip(&found) {
            let [min, median, max] = Spread::of(rates.clone()).show(0);
            lines.push(vec![
                (*name).to_owned(),
                interval.to_owned(),
                min,
                median,
                max,
                format!("{:.1} %", Spread::of(rates.clone()).median / due * 100.0),
                ratio(rates, &found[0].0),
                format!("{:.1}", Spread::of(cpus.clone()).median * 1e6),
            ]);
        }
    }
    drop(target);
    Ok(Table {
        title: format!(
            "probes a second as they arrive at the target, all denied, {rounds} interleaved rounds, target ours"
        ),
        columns: vec![
            "program",
            "interval",
            "min",
            "median",
            "max",
            "of those due",
            "to egw-probe",
            "CPU us per probe",
        ],
        lines,
        remarks: vec![
            "client and target share the cores: where fewer arrive than are due, they are the bottleneck"
                .into(),
        ],
    })
}

fn probes(hosts: &Hosts, program: &Path, interval: &str, length: Duration) -> Result<(f64, f64)> {
    let flags = [
        "client".to_owned(),
        format!("--external-target-addr={TARGET}:{PORT}"),
        format!("--interval={interval}"),
    ];
    let client = hosts.start_client(program, &flags)?;
    // Where they arrive: a client may count a probe that never left.
    let counted = || -> Result<(f64, f64, Instant)> {
        let connections = hosts.metric("egw_probe_target_connections_total")?;
        Ok((connections, cpu_seconds(client.id())?, Instant::now()))
    };
    hosts.pause(Duration::from_millis(300))?;
    let (before, cpu_before, begun) = counted()?;
    hosts.pause(length)?;
    let (after, cpu, ended) = counted()?;
    drop(client);
    let seconds = ended.duration_since(begun).as_secs_f64();
    Ok(((after - before) / seconds, (cpu - cpu_before) / (after - before).max(1.0)))
}
