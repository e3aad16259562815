//! What `egw-probe report` must not be sure of: missing ends, impossible numbers, missing clients, and outputs that broke.

use serde_json::{Value, json};

use crate::common::files::{Folder, report_on};
use crate::synthetic;

/// A result with this bracket and a name of its own, and some of its keys exchanged.
fn result(name: &str, lower: Option<f64>, upper: f64, changes: &[(&str, Value)]) -> String {
    let (_, document) = synthetic::Clients::new(3).find(|(truth, _)| truth.is_some()).unwrap();
    let mut document = serde_json::to_value(document).unwrap();
    document["client_id"] = name.into();
    document["bracket"] = json!({"lower_seconds": lower, "upper_seconds": upper});
    document["masquerade_delay_seconds"] = upper.into();
    document["disruptions"] = Value::Null;
    document["disruptions_total"] = 0.into();
    for (key, value) in changes {
        document[*key] = value.clone();
    }
    format!("{document}\n")
}

fn run(args: &[&str], stdin: &str) -> (i32, Value) {
    let output = report_on(&[args, &["--output=json"]].concat(), stdin.as_bytes());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn where_nothing_leaked_delays_are_told_as_at_most_and_slow_runs_differ_from_fast_ones() {
    let folder = Folder::new();
    let clients = |longest: f64| -> String {
        (1..=400).map(|n| result(&format!("c{n}"), None, longest * f64::from(n) / 400.0, &[])).collect()
    };
    let (slow, fast) = (clients(10.0), folder.write("fast.jsonl", &clients(0.11)));
    let (code, report) = run(&["-", "--compare", &fast], &slow);
    assert_eq!(code, 0);
    let comparison = &report["comparison"];
    assert_eq!(comparison["differ"].as_bool(), Some(true), "{comparison:#}");
    // All of them may have been there from the start, as far as anybody knows, but some were seen later.
    let median = &comparison["quantiles"][0];
    assert_eq!(median["of_these_runs"], json!({"lower_seconds": -0.055, "upper_seconds": 5.0}));
    assert!((median["upper_ends"]["of_these_runs"]["upper_seconds"].as_f64().unwrap() - 4.945).abs() < 1e-9);
    let delay = &report["run"]["delay"];
    assert_eq!(delay["without_lower_end"], 400);
    let median = &delay["quantiles"][0];
    assert_eq!(median["of_this_run"], json!({"lower_seconds": 0.0, "upper_seconds": 5.0}));
    assert_eq!(median["confidence"]["lower_seconds"], 0.0, "nothing bounds it from below: {median:#}");
    for format in ["text", "markdown"] {
        let output = report_on(&["-", "--compare", &fast, "--output", format], slow.as_bytes());
        let text = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        for said in ["up to 5.0 s", "400 clients have no lower end"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}

#[test]
fn numbers_that_cannot_be_are_damaged_and_sum_to_nothing() {
    let probes = |leaked: u64| json!({"pong": 1, "leaked": leaked, "timeout": 0, "refused": 0, "unreachable": 0, "garbled": 0, "error": 0});
    let open =
        |length: Value| json!([{"kind": "leak", "start_seconds": 1, "length_seconds": length, "misses": 2}]);
    let documents = [
        result("count", Some(0.1), 0.2, &[("probes", probes(u64::MAX))]),
        result("good", Some(0.1), 0.2, &[("probes", probes(1))]),
        result("upper", Some(0.1), 1e300, &[]),
        result("lower", Some(-1.0), 0.2, &[]),
        result("blackhole", Some(0.1), 0.2, &[("blackhole_seconds", (-1).into())]),
        result("length", Some(0.1), 0.2, &[("disruptions", open(json!({"lower": 1, "upper": 1e12})))]),
        result("total", Some(0.1), 0.2, &[("disruptions_total", u64::MAX.into())]),
    ];
    let (code, report) = run(&["-", "--max-leaked=0"], &documents.concat());
    assert_eq!(code, 1);
    assert_eq!(report["gates"][0]["found"], "1 probe leaked");
    assert_eq!(report["run"]["clients"]["total"], 1);
    assert_eq!(report["run"]["read"]["skipped_by_kind"], json!({"damaged": 6}), "{report:#}");
}

#[test]
fn an_open_disruption_and_a_missing_client_fail_their_gates() {
    let of = |upper: Value| {
        let one = json!({"kind": "leak", "start_seconds": 1, "length_seconds": {"lower": 0.1, "upper": upper}, "misses": 2});
        let changes = [("disruptions", json!([one])), ("disruptions_total", 1.into())];
        result("c", Some(0.1), 0.2, &changes)
    };
    let (ended, open) = (of(0.5.into()), of(Value::Null));
    let code = |gate: &str, documents: &str| run(&["-", gate], documents).0;
    assert_eq!((code("--max-disruption=500ms", &ended), code("--max-disruption=499ms", &ended)), (0, 1));
    assert_eq!((code("--max-disruptions=1", &ended), code("--max-disruptions=0", &ended)), (0, 1));
    assert_eq!((code("--max-disruption=1h", &open), code("--max-disruptions=9", &open)), (1, 1));
    let unlisted = result("c", Some(0.1), 0.2, &[("disruptions_total", 3.into())]);
    assert_eq!(code("--max-disruption=1h", &unlisted), 1, "nobody knows how long they were");
    assert_eq!((code("--min-clients=1", &ended), code("--min-clients=2", &ended)), (0, 1));
    let again = result("c", Some(0.1), 0.2, &[("started_at", "2026-02-02T00:00:00Z".into())]);
    assert_eq!(code("--min-clients=2", &(ended + &again)), 1, "a Pod that ran twice is one");
    let own = result("c", Some(0.1), 0.2, &[("failed_gates", json!(["--max-delay 1ms"]))]);
    let notes = run(&["-"], &own).1["run"]["notes"].to_string();
    assert!(notes.contains("1 client failed gates of its own"), "{notes}");
}

#[test]
fn what_could_not_be_written_is_no_failed_gate() {
    let document = result("c", Some(0.1), 0.2, &[]);
    let output = report_on(&["-", "--html", "/dev/full"], document.as_bytes());
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: cannot write /dev/full: No space left on device"), "{said}");
}

#[test]
fn lines_of_our_own_log_and_of_others_are_passed_over_and_counted_apart() {
    let (document, ours) = (
        result("c", Some(0.1), 0.2, &[]),
        "2026-01-01T00:00:00.123456Z  WARN weak numbers\n\
         {\"timestamp\":\"2026-01-01T00:00:00.123456Z\",\"level\":\"INFO\",\"message\":\"x\",\"clients\":3}\n",
    );
    let (code, report) = run(&["-"], &format!("{ours}{document}{ours}"));
    assert_eq!((code, report["run"]["read"]["log_lines"].as_u64()), (0, Some(4)), "{report:#}");
    assert!(report["run"]["notes"].to_string().contains("4 log lines were passed over"));
    let (code, report) = run(&["-"], &format!("{document}E0101 another log\n"));
    assert_eq!((code, report["run"]["read"]["foreign_lines"].as_u64()), (0, Some(1)), "{report:#}");
}
