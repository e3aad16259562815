//! Other traffic through an observed interface: round trips and throughput, with the program attached and without.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::host::{Hosts, TARGET};
use super::row::{Bench, Spread, Table};

const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 7001;
const FLAGS: [(&str, &[&str]); 4] = [
    ("without", &[]),
    ("TCX", &["--ebpf=required", "--ebpf-attach=tc"]),
    ("XDP generic", &["--ebpf=required", "--ebpf-attach=xdp-generic", "--interface=wire"]),
    ("XDP native", &["--ebpf=required", "--ebpf-attach=xdp-native", "--interface=wire"]),
];

/// Ratios to the run without, interleaved.
pub(super) fn transit(bench: &Bench) -> Result<Table> {
    let (rounds, round_trips, megabytes) = if bench.quick { (1, 200, 20) } else { (9, 20_000, 1_000) };
    let hosts = Hosts::new(&bench.interrupt)?;
    let mut results = vec![(vec![], vec![]); FLAGS.len()];
    for _ in 0..rounds {
        for ((_, flags), (latencies, rates)) in FLAGS.iter().zip(&mut results) {
            let flags = [&["--allowed-cidr=0.0.0.0/0"], *flags].concat();
            let target = hosts.start(&bench.program, &flags)?;
            latencies.push(round_trip_us(&hosts, round_trips)?);
            rates.push(gigabits(&hosts, megabytes)?);
            hosts.stop(target)?;
        }
    }
    let ratios = |values: &[f64], base: &[f64]| {
        let ratios = values.iter().zip(base).map(|(value, base)| value / base).collect();
        let [min, median, max] = Spread::of(ratios).show(3);
        format!("{median} ({min} to {max})")
    };
    let lines = FLAGS.iter().zip(&results).map(|((name, _), (latencies, rates))| {
        let (latency, rate) = (Spread::of(latencies.clone()), Spread::of(rates.clone()));
        vec![
            (*name).into(),
            format!("{:.2}", latency.median),
            ratios(latencies, &results[0].0),
            format!("{:.2}", rate.median),
            ratios(rates, &results[0].1),
        ]
    });
    Ok(Table {
        title: format!(
            "other traffic over veth, {rounds} interleaved rounds: UDP round trips and one TCP stream"
        ),
        columns: vec!["program", "round trip us", "ratio, pairwise", "Gbit/s", "ratio, pairwise"],
        lines: lines.collect(),
        remarks: vec![],
    })
}

fn round_trip_us(hosts: &Hosts, count: u32) -> Result<f64> {
    let server = hosts.target.run(|| Ok(UdpSocket::bind((TARGET, UDP_PORT))?))?;
    let client = hosts.peer.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let patience = Some(Duration::from_secs(2));
    server.set_read_timeout(patience)?;
    client.set_read_timeout(patience)?;
    let to = SocketAddr::from((TARGET, UDP_PORT));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; 64];
            for _ in 0..count {
                let Ok((length, from)) = server.recv_from(&mut buffer) else { return };
                // A reply that is lost shows at the client.
                let _ = server.send_to(&buffer[..length], from);
            }
        });
        let mut buffer = [0; 64];
        let begun = Instant::now();
        for _ in 0..count {
            client.send_to(b"ping", to)?;
            client.recv_from(&mut buffer)?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
    })
}

fn gigabits(hosts: &Hosts, megabytes: usize) -> Result<f64> {
    let listener = hosts.target.run(|| Ok(TcpListener::bind((TARGET, TCP_PORT))?))?;
    let mut stream = hosts.peer.run(|| Ok(TcpStream::connect((TARGET, TCP_PORT))?))?;
    let (mut received, _) = listener.accept()?;
    let block = vec![0u8; 1 << 20];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..megabytes {
                // A stream that breaks shows at the reader.
                if stream.write_all(&block).is_err() {
                    return;
                }
            }
        });
        let mut sink = vec![0u8; 1 << 18];
        let mut total = 0;
        loop {
            match received.read(&mut sink)? {
                0 => break Ok(total as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9),
                length => total += length,
            }
        }
    })
}
