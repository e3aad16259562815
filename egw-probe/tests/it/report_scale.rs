//! A hundred thousand results whose delays are known: what `egw-probe report` says of them, in how much memory.

use std::io::Write;

use serde_json::Value;

use crate::common::files;
use crate::synthetic;

/// Feeds results to a report, and returns it and the most memory that it took, in MiB.
fn measure(documents: impl Iterator<Item = String>) -> (Value, u64) {
    let mut child = files::start(&["-", "--output=json"]);
    let mut pipe = std::io::BufWriter::new(child.stdin.take().unwrap());
    let id = child.id();
    let watcher = std::thread::spawn(move || peak(id));
    for document in documents {
        writeln!(pipe, "{document}").unwrap();
    }
    drop(pipe);
    let answer = child.wait_with_output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    (serde_json::from_slice(&answer.stdout).unwrap(), watcher.join().unwrap())
}

/// The high-water mark of a process's memory in MiB, looked at until it has ended.
fn peak(id: u32) -> u64 {
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) else {
            return most / 1024;
        };
        most = most.max(line.split_whitespace().next().unwrap().parse().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn bounds(value: &Value) -> (f64, f64) {
    let end = |key: &str, none| value[key].as_f64().unwrap_or(none);
    (end("lower_seconds", f64::MAX), end("upper_seconds", f64::INFINITY))
}

#[test]
fn of_a_hundred_thousand_clients_the_truth_lies_in_every_interval_and_they_fit_in_little_memory() {
    const CLIENTS: usize = 100_000;
    let mut truths = Vec::with_capacity(CLIENTS);
    let documents = synthetic::Clients::new(1).take(CLIENTS).map(|(truth, document)| {
        truths.push(truth.unwrap_or(f64::INFINITY));
        serde_json::to_string(&document).unwrap()
    });
    let (report, peak_mib) = measure(documents);
    assert!(peak_mib < 100, "{peak_mib} MiB for {CLIENTS} clients");
    truths.sort_by(f64::total_cmp);
    let never = truths.iter().filter(|truth| truth.is_infinite()).count();
    assert_eq!(report["run"]["clients"]["total"], CLIENTS);
    assert_eq!(report["run"]["clients"]["timed_out"], never);
    let quantiles = report["run"]["delay"]["quantiles"].as_array().unwrap();
    assert_eq!(quantiles.len(), 4);
    for (quantile, q) in quantiles.iter().zip([0.5, 0.9, 0.95, 0.99]) {
        let of_sample = truths[(q * CLIENTS as f64).round() as usize - 1];
        let (lower, upper) = bounds(&quantile["of_this_run"]);
        assert!(lower < of_sample && of_sample <= upper, "{q}: {of_sample} not in ({lower}, {upper}]");
        let truth = synthetic::true_quantile(q);
        let (lower, upper) = bounds(&quantile["confidence"]);
        assert!(lower < truth && truth <= upper, "{q}: {truth} not in ({lower}, {upper}]");
    }
    let (lower, upper) = bounds(&report["run"]["delay"]["longest_known"]);
    let longest = truths[CLIENTS - never - 1];
    assert!(lower < longest && longest <= upper);
}

#[test]
fn memory_does_not_grow_with_probes() {
    let of_timelines = |runs: usize| {
        let documents = synthetic::Clients::new(1).take(3_000).map(move |(_, mut document)| {
            let run = document.timeline[0].clone();
            document.timeline = vec![run; runs];
            serde_json::to_string(&document).unwrap()
        });
        measure(documents).1
    };
    let (few, many) = (of_timelines(2), of_timelines(1_000));
    // All timelines are 120 MB in memory; those that are kept are less than a tenth of it.
    assert!(many < few + 20, "{few} MiB with short timelines, {many} MiB with long ones");
}

/// 400 runs of 60 clients: an interval of 95 % that holds less often than it says would be found out by this.
#[test]
fn confidence_intervals_hold_as_often_as_they_say() {
    use egw_probe::workbench::report::{ALPHA, Ends, Interval};
    let missed = (0..400).filter(|seed| {
        let delays: Vec<Interval> = synthetic::Clients::new(1_000 + seed)
            .take(60)
            .map(|(_, document)| {
                let lower = document.bracket.lower_seconds.unwrap_or(0.0);
                document
                    .bracket
                    .upper_seconds
                    .map_or(Interval::later_than(synthetic::TEST_TIMEOUT), |upper| Interval { lower, upper })
            })
            .collect();
        let found = Ends::of(&delays).confidence(0.5, ALPHA);
        let truth = synthetic::true_quantile(0.5);
        !(found.lower < truth && truth <= found.upper)
    });
    let missed = missed.count();
    assert!(missed <= 30, "{missed} of 400 miss the truth; 20 would be 5 %");
}
