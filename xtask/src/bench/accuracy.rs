//! How late a client finds out, and how true what it reports is: against a target whose verdict changes at a known instant.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::host::{Hosts, PORT, TARGET};
use super::row::{Bench, Spread, Table};
use crate::lab::clock::Monotonic;

/// What one client did, in milliseconds.
struct Found {
    /// From the change to the first connection of that client that came after it.
    late: f64,
    /// The delay it reported, less the time from its exec to the change.
    wrong: f64,
}

/// At several intervals, ours and the peer in turn.
pub(super) fn accuracy(bench: &Bench) -> Result<Table> {
    let rounds = if bench.quick { 1 } else { 25 };
    let hosts = Hosts::new(&bench.interrupt)?;
    let mut random = fastrand::Rng::with_seed(6);
    let mut lines = vec![];
    for interval in ["50ms", "10ms", "1ms"] {
        let programs = bench.programs();
        let mut found: Vec<Vec<Found>> = programs.iter().map(|_| vec![]).collect();
        for _ in 0..rounds {
            let lead = Duration::from_micros(150_000 + random.u64(..50_000));
            for ((_, program), found) in programs.iter().zip(&mut found) {
                found.push(measure(&hosts, program, interval, lead)?);
            }
        }
        let of =
            |found: &[Found], value: fn(&Found) -> f64| -> Vec<f64> { found.iter().map(value).collect() };
        for ((name, _), mine) in programs.iter().zip(&found) {
            let [late, wrong] = [of(mine, |found| found.late), of(mine, |found| found.wrong)];
            let (late, wrong) = (Spread::of(late).show(2), Spread::of(wrong).show(2));
            let line = [vec![(*name).to_owned(), interval.to_owned()], late.to_vec(), wrong.to_vec()];
            lines.push(line.concat());
        }
    }
    Ok(Table {
        title: format!("accuracy: a target that begins to answer at a known instant, milliseconds, {rounds} rounds"),
        columns: vec![
            "program", "interval", "late min", "median", "max", "reported: min", "median", "max",
        ],
        lines,
        remarks: vec![
            "late: from the change to the first connection after it; on a perfect grid 0 to one interval".into(),
            "reported: the delay reported, less the time from exec to the change; a program counts from its main, some ms after exec".into(),
        ],
    })
}

fn measure(hosts: &Hosts, program: &Path, interval: &str, lead: Duration) -> Result<Found> {
    let listener = hosts.target.run(|| Ok(TcpListener::bind((TARGET, PORT))?))?;
    let answers = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let (change, first, exec, reported) = thread::scope(|scope| -> Result<_> {
        // Answers until the client has reported: it may miss an answer that comes too late for it.
        let accepting = scope.spawn(|| -> Result<Option<Monotonic>> {
            let mut first = None;
            while !over.load(Ordering::SeqCst) {
                let (mut stream, _) = listener.accept()?;
                let now = Monotonic::now();
                if answers.load(Ordering::SeqCst) {
                    // A client that is gone needs none.
                    let _ = stream.write_all(b"pong\n");
                    first.get_or_insert(now);
                }
            }
            Ok(first)
        });
        let ran = run_client(hosts, program, interval, lead, &answers);
        over.store(true, Ordering::SeqCst);
        hosts.target.run(|| Ok(TcpStream::connect((TARGET, PORT))?))?;
        let first = match accepting.join() {
            Ok(first) => first?.context("no connection came after the change")?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let (exec, change, reported) = ran?;
        Ok((change, first, exec, reported))
    })?;
    let ms = |from: Monotonic, to: Monotonic| to.ns().saturating_sub(from.ns()) as f64 / 1e6;
    Ok(Found { late: ms(change, first), wrong: reported * 1e3 - ms(exec, change) })
}

/// When the client was started, when the verdict changed, and the delay that it reported, in seconds.
fn run_client(
    hosts: &Hosts,
    program: &Path,
    interval: &str,
    lead: Duration,
    answers: &AtomicBool,
) -> Result<(Monotonic, Monotonic, f64)> {
    let exec = Monotonic::now();
    let flags = [
        "client".to_owned(),
        format!("--external-target-addr={TARGET}:{PORT}"),
        format!("--interval={interval}"),
    ];
    let client = hosts.start_client(program, &flags)?;
    hosts.pause(lead)?;
    let change = Monotonic::now();
    answers.store(true, Ordering::SeqCst);
    let reported = reported_delay(hosts)?;
    drop(client);
    Ok((exec, change, reported))
}

fn reported_delay(hosts: &Hosts) -> Result<f64> {
    for _ in 0..200 {
        hosts.pause(Duration::from_millis(10))?;
        let page = hosts.client_page("/metrics").unwrap_or_default();
        let series = "egw_scale_test_masquerade_delay_seconds_total ";
        let value = page.lines().find_map(|line| line.strip_prefix(series));
        let delay = value.map(|value| value.parse::<f64>().context("no number")).transpose()?;
        if let Some(delay) = delay.filter(|delay| *delay > 0.0) {
            return Ok(delay);
        }
    }
    bail!("the client reports no delay")
}
