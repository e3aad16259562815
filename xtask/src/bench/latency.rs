//! From the SYN in the kernel to the accept: idle, under load, and where the SYN-ACK cannot get home.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::flood::connect_at;
use super::host::{Hosts, PORT, TARGET};
use super::row::{Bench, Table};

const HISTOGRAM: &str = "egw_probe_target_syn_to_accept_seconds";

/// SYN-to-accept latency, and half-open attempts.
pub(super) fn latency(bench: &Bench) -> Result<Table> {
    let length = Duration::from_secs(if bench.quick { 1 } else { 10 });
    let mut lines = vec![];
    for (name, rate) in [("idle: 20 a second", 20), ("20,000 a second", 20_000)] {
        let hosts = Hosts::new(&bench.interrupt)?;
        let target = hosts.start(&bench.program, &["--allowed-cidr=0.0.0.0/0", "--ebpf=required"])?;
        let end = Instant::now() + length;
        // Several at a time, so that the handshakes of one do not bound the rate of all.
        let openers = if rate > 1_000 { 4 } else { 1 };
        let opened: u64 = std::thread::scope(|scope| {
            let open = || connect_at(&hosts, rate / openers, end);
            let threads: Vec<_> = (0..openers).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("an opener does not panic"))
                .sum::<Result<u64>>()
        })?;
        hosts.pause(Duration::from_millis(600))?;
        let page = hosts.get("/metrics")?;
        let quantiles = [0.5, 0.9, 0.99].map(|share| quantile(&page, share));
        let lost = hosts.metric("egw_probe_target_events_lost_total")?;
        let joined = hosts.metric(&format!("{HISTOGRAM}_count"))?;
        hosts.stop(target)?;
        let [p50, p90, p99] = quantiles;
        let rate = format!("{:.0}", opened as f64 / length.as_secs_f64());
        lines.push(vec![name.into(), rate, p50, p90, p99, format!("{joined}"), format!("{lost}")]);
    }
    let half_open = half_open(bench)?;
    Ok(Table {
        title: "SYN in the kernel to accept, by histogram bucket (upper bound, microseconds)".into(),
        columns: vec!["load", "opened/s", "p50 <=", "p90 <=", "p99 <=", "joined", "events lost"],
        lines,
        remarks: vec![half_open],
    })
}

/// Connects without a way home for the SYN-ACK; what the target says of the attempts.
fn half_open(bench: &Bench) -> Result<String> {
    const ATTEMPTS: usize = 25;
    let hosts = Hosts::new(&bench.interrupt)?;
    // From an address to which the target has no route.
    hosts.peer.ip("addr add 10.9.9.9/32 dev lo\nroute replace 192.0.2.0/24 dev wire src 10.9.9.9\n")?;
    hosts.target.sysctl(&[("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/wire/rp_filter", "0")])?;
    hosts.target.ip("route add blackhole 10.0.0.0/8\n")?;
    let target = hosts.start(&bench.program, &["--allowed-cidr=192.0.2.0/24", "--ebpf=required"])?;
    hosts.peer.run(|| {
        std::thread::scope(|scope| {
            for _ in 0..ATTEMPTS {
                scope.spawn(|| {
                    // Each ends before its first retransmission, so it is one SYN. Threads keep the namespace.
                    let _ = TcpStream::connect_timeout(&(TARGET, PORT).into(), Duration::from_millis(900));
                });
            }
        });
        Ok(())
    })?;
    // Half-open is what has had no connection for ten seconds.
    hosts.pause(Duration::from_secs(11))?;
    let counted = hosts.metric("egw_probe_target_half_open_total{class=\"denied\"}")?;
    let accepted = hosts.metric("egw_probe_target_connections_total")?;
    hosts.stop(target)?;
    Ok(format!(
        "no way home for the SYN-ACK: {ATTEMPTS} attempts, {counted} counted as half-open, {accepted} accepted"
    ))
}

/// The upper bound of the bucket in which this share of the observations lies, in microseconds.
fn quantile(page: &str, share: f64) -> String {
    let prefix = format!("{HISTOGRAM}_bucket{{class=\"allowed\",le=\"");
    let buckets: Vec<(&str, f64)> = page
        .lines()
        .filter_map(|line| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((bound, count.parse().ok()?))
        })
        .collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let found = buckets.iter().find(|(_, count)| *count >= total * share);
    let bound = found.and_then(|(bound, _)| bound.parse::<f64>().ok());
    bound.filter(|bound| bound.is_finite()).map_or("> 10 s".into(), |bound| format!("{:.0}", bound * 1e6))
}
