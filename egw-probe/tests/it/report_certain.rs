//! What `egw-probe report` says first is certain: runs of which it once said what was not so.

use serde_json::{Value, json};

use crate::common::files::{Folder, report_on};

/// A result with this outcome and bracket.
fn result(outcome: &str, lower: Option<f64>, upper: Option<f64>, more: &Value) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut document = json!({
        "schema": 1, "client_id": format!("client-{number}"), "outcome": outcome,
        "bracket": {"lower_seconds": lower, "upper_seconds": upper},
        "probes": {"pong": u8::from(upper.is_some()), "leaked": u8::from(lower.is_some()), "timeout": 0, "refused": 0, "unreachable": 0, "garbled": 0, "error": 0},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    format!("{document}\n")
}

fn masqueraded(lower: f64, upper: f64) -> String {
    result("masqueraded", Some(lower), Some(upper), &Value::Null)
}

fn run(args: &[&str], documents: &str) -> Value {
    let output = report_on(&[&["-", "--output=json"], args].concat(), documents.as_bytes());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn quantile(report: &Value, name: &str, what: &str) -> (f64, f64) {
    let all = report["run"]["delay"]["quantiles"].as_array().unwrap();
    let bounds = &all.iter().find(|one| one["name"] == name).unwrap()[what];
    let end = |key: &str| bounds[key].as_f64().unwrap_or(f64::INFINITY);
    (end("lower_seconds"), end("upper_seconds"))
}

/// The median was told as 18 to 20 ms, an estimate that had not converged; of the likeliest distribution it is 13 to 17 ms.
#[test]
fn of_four_brackets_that_overlap_the_median_is_the_second_of_either_end() {
    let documents: String = [(0.004, 0.02), (0.032, 0.039), (0.013, 0.017), (0.018, 0.033)]
        .map(|(a, b)| masqueraded(a, b))
        .concat();
    let report = run(&[], &documents);
    assert_eq!(quantile(&report, "p50", "of_this_run"), (0.013, 0.020));
    assert_eq!(quantile(&report, "p99", "of_this_run"), (0.032, 0.039));
    assert_eq!(quantile(&report, "p50", "confidence"), (0.0, f64::INFINITY), "four bound nothing");
}

/// One client without a lower end among 19 once made all delays "up to", with a confidence interval of 350.000 ms to 350.000 ms.
#[test]
fn a_first_probe_that_wins_takes_nothing_from_the_others() {
    let blind = result("masqueraded", None, Some(0.02), &Value::Null);
    let documents = blind + &masqueraded(0.3, 0.35).repeat(18);
    let report = run(&[], &documents);
    for name in ["p50", "p90", "p95", "p99"] {
        assert_eq!(quantile(&report, name, "of_this_run"), (0.3, 0.35), "{name}");
    }
    assert_eq!(quantile(&report, "p50", "confidence"), (0.3, 0.35));
    assert_eq!(quantile(&report, "p99", "confidence"), (0.3, f64::INFINITY));
}

/// One that gave up after 2 s once ranked behind nine that took 3 s, so that the p95 was "never".
#[test]
fn a_client_that_gave_up_early_is_later_than_its_own_test_timeout_and_no_more() {
    let slow: String =
        (0..9).map(|n| masqueraded(3.0 + f64::from(n) / 100.0, 3.05 + f64::from(n) / 100.0)).collect();
    let settings = json!({"settings": {"interval": "50ms", "test_timeout": "2s"}});
    let gave_up = result("timed_out", Some(1.9), None, &settings);
    let report = run(&["--max-p99=2s"], &(gave_up.clone() + &slow));
    assert_eq!(quantile(&report, "p50", "of_this_run"), (3.03, 3.09));
    assert_eq!(quantile(&report, "p95", "of_this_run"), (3.08, f64::INFINITY));
    assert_eq!(report["gates"][0]["state"], "failed");
    let alone = run(&[], &gave_up);
    assert_eq!(quantile(&alone, "p50", "of_this_run"), (2.0, f64::INFINITY));
}

/// One that timed out among 50 under way once made the median "never".
#[test]
fn clients_under_way_are_later_than_their_last_probe() {
    let timeline = json!({"timeline": [{"outcome": "leaked", "from_seconds": 0.0, "to_seconds": 1.5, "probes": 31},
        {"outcome": "timeout", "from_seconds": 1.55, "to_seconds": 1.6, "probes": 2}]});
    let under_way: String = (0..50).map(|_| result("interrupted", Some(1.5), None, &timeline)).collect();
    let timed_out = result("timed_out", Some(9.9), None, &Value::Null);
    let report = run(&[], &(under_way + &timed_out + &masqueraded(0.3, 0.35).repeat(49)));
    assert_eq!(quantile(&report, "p50", "of_this_run"), (1.6, f64::INFINITY));
    assert_eq!(report["run"]["delay"]["max"], json!({"lower_seconds": 9.9, "upper_seconds": null}));
}

#[test]
fn a_gate_says_whether_its_limit_is_kept_broken_or_straddled_by_a_bracket() {
    let documents = masqueraded(0.275, 0.413_385).repeat(20);
    let gate = |limit: &str| run(&[limit], &documents)["gates"][0].clone();
    for (limit, state, found) in [
        ("--max-p99=414ms", "kept", "the p99 of these clients is 413.385 ms at most"),
        ("--max-p99=275ms", "failed", "the p99 of these clients is later than 275.000 ms"),
        (
            "--max-p99=300ms",
            "cannot_tell",
            "cannot tell: the p99 of these clients lies in 275 to 414 ms; probe faster",
        ),
    ] {
        let gate = gate(limit);
        let said = gate["found"].as_str().unwrap();
        assert_eq!(
            (gate["state"].as_str(), gate["passed"].as_bool()),
            (Some(state), Some(state == "kept")),
            "{gate:#}"
        );
        assert!(said.starts_with(&format!("{found} (of 20 clients it is the slowest one)")), "{said}");
        assert_eq!(gate["upper"], 0.413_385);
    }
    // 0.05^(1/20) = 0.861.
    assert!(gate("--max-p99=1s")["found"].as_str().unwrap().contains(
        "Up to 1s is met by 20 of 20 clients for certain, and by at least 86.0 % of clients like these (95 % confidence"
    ));
    let output = report_on(&["-", "--max-p99=300ms"], documents.as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said.lines().filter(|line| line.contains("gate failed: --max-p99 300ms: cannot tell")).count(),
        1,
        "{said}"
    );
}

/// Brackets of 50 ms on random ticks around a delay of 300 ms and more.
fn spread(clients: usize, later: f64, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut one = |_| {
        let (delay, phase) = (0.3 + later + 0.1 * random.f64(), 0.05 * random.f64());
        let lower = ((delay - phase) / 0.05).floor() * 0.05 + phase;
        let timeline = json!([{"outcome": "leaked", "from_seconds": 0.01 * random.f64(), "to_seconds": lower, "probes": 9},
            {"outcome": "pong", "from_seconds": lower + 0.05, "to_seconds": lower + 0.05, "probes": 1}]);
        let phase = format!("{}us", (phase * 1e6) as u64);
        let settings = json!({"interval": "50ms", "tick_phase": phase, "test_timeout": "10s"});
        result(
            "masqueraded",
            Some(lower),
            Some(lower + 0.05),
            &json!({"timeline": timeline, "settings": settings}),
        )
    };
    (0..clients).map(&mut one).collect()
}

#[test]
fn a_regression_and_an_equivalence_are_gates() {
    let folder = Folder::new();
    let earlier = folder.write("earlier.jsonl", &spread(1_000, 0.0, 1));
    let state = |later: f64, gate: &str| {
        let report = run(&["--compare", &earlier, gate], &spread(1_000, later, 2));
        report["gates"][0]["state"].as_str().unwrap().to_owned()
    };
    for (later, gate, expected) in [
        (0.0, "--max-regression=p95=50ms", "kept"),
        (0.1, "--max-regression=p95=50ms", "failed"),
        (0.0, "--max-regression=p50=1ms", "cannot_tell"),
        (0.0, "--equivalent-within=30ms", "kept"),
        (0.1, "--equivalent-within=30ms", "failed"),
        (0.0, "--equivalent-within=1ms", "cannot_tell"),
    ] {
        assert_eq!(state(later, gate), expected, "{gate}, later by {later} s");
    }
}

#[test]
fn runs_that_were_not_measured_alike_are_not_ranked() {
    let folder = Folder::new();
    let slower = spread(200, 0.0, 1).replace("\"50ms\"", "\"100ms\"");
    let slower = folder.write("slower.jsonl", &slower);
    let comparison = &run(&["--compare", &slower], &spread(200, 0.0, 2))["comparison"];
    assert_eq!((comparison["found"].as_str(), &comparison["differ"]), (Some("not_comparable"), &Value::Null));
    assert_eq!(comparison["settings"], json!(["interval is 50ms against 100ms"]));
    assert_eq!(comparison["quantiles"][0]["upper_ends"], Value::Null);
    // One phase for all clients, and first probes 5 ms apart.
    let fixed = |first: f64| {
        let lines = spread(200, 0.0, 3);
        let of = |line: &str| {
            let mut document: Value = serde_json::from_str(line).unwrap();
            document["settings"]["tick_phase"] = "0s".into();
            document["timeline"][0]["from_seconds"] = first.into();
            format!("{document}\n")
        };
        lines.lines().map(of).collect::<String>()
    };
    let other = folder.write("other.jsonl", &fixed(0.002));
    let comparison = &run(&["--compare", &other], &fixed(0.007))["comparison"];
    assert_eq!(comparison["found"], "not_comparable");
    let said = comparison["settings"][0].as_str().unwrap();
    assert!(said.starts_with("first probes left at 7.000 ms against 2.000 ms"), "{said}");
}

#[test]
fn several_earlier_runs_are_a_row_each_and_the_last_one_is_judged_against() {
    let folder = Folder::new();
    let [early, late] = [(0.2, 1), (0.0, 2)]
        .map(|(later, seed)| folder.write(&format!("{seed}.jsonl"), &spread(300, later, seed)));
    let report = run(&["--compare", &early, "--compare", &late], &spread(300, 0.0, 3));
    let trend = report["trend"].as_array().unwrap();
    let told: Vec<_> =
        trend.iter().map(|one| (one["name"].as_str().unwrap(), one["found"].as_str().unwrap())).collect();
    assert_eq!(told, [(early.as_str(), "differ"), (late.as_str(), "no_difference_seen")]);
    assert_eq!(report["comparison"]["found"], "no_difference_seen");
    assert_eq!(report["compared_with"]["clients"]["total"], 300);
}

#[test]
fn a_report_as_json_is_a_baseline_that_says_what_its_results_said() {
    let folder = Folder::new();
    let never = result("timed_out", Some(9.9), None, &json!({"labels": {"node": "a b"}}));
    let documents = spread(300, 0.0, 1) + &never;
    let results = folder.write("results.jsonl", &documents);
    let baseline = folder.write("baseline.json", &format!("{:#}", run(&[], &documents)));
    let today = spread(300, 0.02, 2);
    let [of_results, of_baseline] = [&results, &baseline].map(|earlier| {
        let mut report = run(&["--compare", earlier], &today);
        assert_eq!(report["compared_with"]["read"]["skipped"], 0, "{:#}", report["compared_with"]["read"]);
        (report["comparison"].take(), report["compared_with"]["clients"].take())
    });
    assert_eq!(of_results.1["timed_out"], of_baseline.1["timed_out"]);
    assert_eq!(of_results.1["total"], of_baseline.1["total"]);
    for key in ["found", "nodes", "settings"] {
        assert_eq!(of_results.0[key], of_baseline.0[key], "{key}");
    }
    let p50 =
        |comparison: &Value| comparison["quantiles"][0]["upper_ends"]["one_sided"]["upper_seconds"].as_f64();
    let (results_p50, baseline_p50) = (p50(&of_results.0).unwrap(), p50(&of_baseline.0).unwrap());
    assert!((results_p50 - baseline_p50).abs() < 3e-6, "{results_p50} {baseline_p50}");
    // Among results it would count clients twice.
    let report = run(&[&baseline], &today);
    assert_eq!(report["run"]["clients"]["total"], 300);
    assert_eq!(report["run"]["read"]["reports"], 1);
    let report = run(&["--compare", folder.path()], &today);
    assert_eq!(report["compared_with"]["clients"]["total"], 301, "those of the results alone");
}

/// Ten clients on each node, of which all are late on every other one.
fn on_nodes(nodes: u32, late: impl Fn(u32) -> bool, seed: u64) -> String {
    let lines = spread(nodes as usize * 10, 0.0, seed);
    let of = |(place, line): (usize, &str)| {
        let mut document: Value = serde_json::from_str(line).unwrap();
        let node = place as u32 / 10;
        document["labels"] =
            json!({"node": format!("node-{node:02}"), "zone": if node % 2 == 1 { "b" } else { "a" }});
        if late(node) {
            for key in ["lower_seconds", "upper_seconds"] {
                document["bracket"][key] = (document["bracket"][key].as_f64().unwrap() + 0.2).into();
            }
        }
        format!("{document}\n")
    };
    lines.lines().enumerate().map(of).collect()
}

#[test]
fn clients_are_told_in_groups_and_nodes_make_confidence_wider() {
    let documents = on_nodes(20, |node| node % 2 == 1, 1) + &spread(1, 0.0, 9);
    let report = run(&["--by", "zone"], &documents);
    let by = &report["run"]["by"];
    let groups: Vec<_> = by["groups"].as_array().unwrap().iter().collect();
    let told: Vec<_> =
        groups.iter().map(|one| (one["value"].as_str(), one["clients"]["total"].as_u64())).collect();
    assert_eq!((by["label"].as_str(), by["total"].as_u64()), (Some("zone"), Some(3)));
    assert_eq!(told, [(Some("b"), Some(100)), (Some("a"), Some(100)), (None, Some(1))]);
    assert!(groups[0]["quantiles"][0]["of_this_run"]["lower_seconds"].as_f64().unwrap() > 0.45);
    assert_eq!(report["run"]["nodes"], Value::Null, "one names no node");
    let note = |report: &Value| report["run"]["notes"].to_string();
    assert!(note(&report).contains("not every client names its node"), "{}", note(&report));
    // All name theirs: half of the nodes are late, and with ten of each the median may be of either half.
    let report = run(&[], &on_nodes(20, |node| node % 2 == 1, 1));
    assert_eq!(report["run"]["nodes"], 20);
    let (lower, upper) = quantile(&report, "p50", "confidence");
    assert!(lower < 0.35 && upper > 0.55, "{lower} {upper}");
    assert!(!note(&report).contains("node"), "{}", note(&report));
    let few = run(&[], &on_nodes(4, |_| false, 1));
    assert_eq!(quantile(&few, "p50", "confidence"), (0.0, f64::INFINITY));
    assert!(note(&few).contains("4 nodes are too few"), "{}", note(&few));
    for output in ["text", "markdown"] {
        let output = report_on(&["-", "--by=zone", "--output", output], documents.as_bytes());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("without zone"), "{text}");
        assert!(output.status.success());
    }
}
