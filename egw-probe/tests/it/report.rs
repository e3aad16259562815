//! `egw-probe report` as its users run it: what goes in, what comes out, and the exit code.

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::common::files;
use crate::common::files::{Folder, report, report_on};
use crate::synthetic;

/// So many results, one to a line.
fn lines(clients: usize, seed: u64, shift: f64) -> String {
    let documents = synthetic::Clients::new(seed).shifted_by(shift).take(clients);
    documents.map(|(_, document)| serde_json::to_string(&document).unwrap() + "\n").collect()
}

/// One result with some of its keys exchanged.
fn result(changes: &[(&str, Value)]) -> Value {
    let (_, document) = synthetic::Clients::new(3).find(|(truth, _)| truth.is_some()).unwrap();
    let mut document = serde_json::to_value(document).unwrap();
    for (key, value) in changes {
        document[*key] = value.clone();
    }
    document
}

fn json(args: &[&str], stdin: &str) -> (i32, Value) {
    let output = report_on(&[args, &["--output=json"]].concat(), stdin.as_bytes());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn files_folders_and_stdin_add_up_and_the_same_result_counts_once() {
    let folder = Folder::new();
    let all = lines(9, 1, 0.0);
    let each: Vec<&str> = all.lines().collect();
    folder.write("deep/er/one.json", &format!("{:#}", serde_json::from_str::<Value>(each[0]).unwrap()));
    folder.write("lines.jsonl", &each[1..4].join("\n"));
    folder.write("array.json", &format!("[{}]", each[4..6].join(",")));
    folder.write("pod-1.log", &each[6..8].concat());
    folder.write(".hidden", "no result");
    let again = folder.write(".elsewhere", each[1]);
    let (code, report) = json(&[folder.path(), "-", &again], each[8]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["run"]["clients"]["total"], 9);
    assert_eq!(report["run"]["read"]["read_again"], 1);
    assert_eq!(report["run"]["read"]["skipped"], 0);
}

#[test]
fn results_of_one_client_each_count() {
    let one = result(&[]);
    let again = result(&[("started_at", "2026-02-02T00:00:00Z".into())]);
    let (code, report) = json(&["-"], &format!("{one}\n{again}\n"));
    assert_eq!((code, report["run"]["clients"]["total"].as_u64()), (0, Some(2)));
    let note = report["run"]["notes"].as_array().unwrap()[0].as_str().unwrap();
    assert!(note.starts_with("1 client has several results"), "{note}");
}

#[test]
fn what_cannot_be_read_is_named_counted_and_in_the_exit_code_and_the_rest_is_read() {
    let folder = Folder::new();
    let good = result(&[]).to_string();
    folder.write("a-good.json", &good);
    folder.write(
        "b-cut.jsonl",
        &format!("{}\n{}", &good[..good.len() / 2], result(&[("client_id", "behind".into())])),
    );
    folder.write(
        "c-newer.json",
        &result(&[("schema", 2.into()), ("outcome", "sublimated".into())]).to_string(),
    );
    folder.write("d-foreign.json", r#"{"kind":"Pod","apiVersion":"v1"}"#);
    folder.write("e-no-json.json", "{\"schema\":1,}");
    folder.write("f-text.jsonl", "2026 a log line\nand another\n");
    folder.write(
        "g-backwards.json",
        &result(&[("bracket", serde_json::json!({"lower_seconds": 2, "upper_seconds": 1}))]).to_string(),
    );
    folder.write("h-wrong-type.json", &result(&[("probes", "many".into())]).to_string());
    folder.write("i-empty.json", "");
    folder.write("j-end.json", &good[..good.len() - 1]);
    let (code, report) = json(&[folder.path()], "");
    assert_eq!(code, 3);
    assert_eq!(report["run"]["clients"]["total"], 2, "{report:#}");
    let read = &report["run"]["read"];
    assert_eq!(read["skipped"], 9, "{read:#}");
    let kinds = serde_json::json!({"damaged": 3, "foreign": 3, "newer": 1, "truncated": 2});
    assert_eq!(read["skipped_by_kind"], kinds);
    let reasons: Vec<String> = read["skipped_documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let place = one["place"].as_str().unwrap();
            let place = place.strip_prefix(folder.path()).unwrap_or(place);
            format!("{place}: {}", one["reason"].as_str().unwrap())
        })
        .collect();
    for (place, reason) in [
        ("/b-cut.jsonl: document 1", "truncated"),
        (
            "/c-newer.json: document 1",
            "newer: schema 2, and this program knows 1: read it with a newer egw-probe",
        ),
        (
            "/d-foreign.json: document 1",
            "foreign: neither a client's result nor a target's /clients or /sources",
        ),
        ("/e-no-json.json: document 1", "damaged: trailing comma"),
        ("/f-text.jsonl", "foreign: it holds no document"),
        ("/g-backwards.json: document 1", "damaged: its bracket goes from 2 s to 1 s"),
        ("/i-empty.json", "foreign: it holds no document"),
        ("/j-end.json: document 1", "truncated"),
    ] {
        assert!(reasons.contains(&format!("{place}: {reason}")), "{place}: {reason} is not in {reasons:#?}");
    }
    // On stderr, too, whatever the output is.
    let output = files::report(&[folder.path()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().filter(|line| line.contains("skipped ")).count(), 9, "{stderr}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("SKIPPED 9 documents: 3 damaged, 3 foreign, 1 newer, 2 truncated")
    );
}

#[test]
fn keys_of_a_later_version_of_schema_1_are_no_harm_and_missing_ones_neither() {
    let mut lean = result(&[("novel", serde_json::json!({"deep": [1]}))]);
    for key in ["tag", "stalls", "egress_changes", "held", "warnings", "connect_seconds", "disruptions_total"]
    {
        lean.as_object_mut().unwrap().remove(key);
    }
    let (code, report) = json(&["-"], &lean.to_string());
    assert_eq!((code, report["run"]["clients"]["masqueraded"].as_u64()), (0, Some(1)), "{report:#}");
}

#[test]
fn a_client_that_timed_out_is_later_than_its_test_timeout_and_never_0() {
    let timed_out = [
        ("outcome", "timed_out".into()),
        ("client_id", "never".into()),
        ("bracket", serde_json::json!({"lower_seconds": 0.001, "upper_seconds": null})),
    ];
    let documents =
        format!("{}\n{}\n{}", result(&[]), result(&[("client_id", "b".into())]), result(&timed_out));
    let (code, report) = json(&["-", "--max-p99=1h", "--max-failed=0"], &documents);
    assert_eq!(code, 1);
    let quantiles = &report["run"]["delay"]["quantiles"];
    assert!(quantiles[0]["of_this_run"]["upper_seconds"].as_f64().unwrap() < 10.0);
    assert_eq!(
        quantiles[3]["of_this_run"],
        serde_json::json!({"lower_seconds": 10.0, "upper_seconds": null})
    );
    assert_eq!(report["run"]["delay"]["max"]["upper_seconds"], Value::Null);
    assert_eq!(report["run"]["worst"][0]["client_id"], "never");
    let gate = &report["gates"][0];
    assert_eq!(
        (gate["passed"].as_bool(), gate["state"].as_str()),
        (Some(false), Some("cannot_tell")),
        "{gate:#}"
    );
    assert_eq!((gate["limit"].as_f64(), &gate["upper"]), (Some(3_600.0), &Value::Null));
    let (_, report) = json(&["-", "--max-p99=10s"], &documents);
    assert_eq!(
        report["gates"][0]["state"], "failed",
        "later than its test timeout of 10 s is later than 10 s"
    );
}

#[test]
fn gates_set_the_exit_code_and_junit_holds_them() {
    let folder = Folder::new();
    let file = folder.write("run.jsonl", &lines(1_000, 5, 0.0));
    let junit = format!("{}/gates.xml", folder.path());
    assert_eq!(
        report(&[&file, "--max-p99=20s", "--max-leaked=100000000", "--max-failed=1000"]).status.code(),
        Some(0)
    );
    for gate in ["--max-p99=100ms", "--max-leaked=1", "--max-failed=0"] {
        let output = report(&[&file, gate, "--junit", &junit]);
        assert_eq!(output.status.code(), Some(1), "{gate}");
        let text = std::fs::read_to_string(&junit).unwrap();
        let xml = roxmltree::Document::parse(&text).unwrap();
        let cases: Vec<_> = xml.descendants().filter(|node| node.has_tag_name("testcase")).collect();
        assert_eq!(cases[0].attribute("name"), Some(gate.replace('=', " ").as_str()));
        assert!(cases[0].children().any(|node| node.has_tag_name("failure")), "{text}");
        assert_eq!(xml.root_element().attribute("failures"), Some("1"));
        assert_eq!(xml.root_element().attribute("tests"), Some("2"));
    }
    // Of a run without a client nothing is known, so no gate is kept.
    folder.write("empty/nothing.txt", "");
    let nothing = format!("{}/empty", folder.path());
    assert_eq!(report(&[&nothing]).status.code(), Some(3));
    assert_eq!(report(&[&nothing, "--max-failed=0"]).status.code(), Some(1));
}

#[test]
fn the_gate_of_the_p99_is_judged_at_the_upper_end_of_its_bracket() {
    let known = [
        ("bracket", serde_json::json!({"lower_seconds": 0.3, "upper_seconds": 0.35})),
        ("masquerade_delay_seconds", serde_json::json!(0.35)),
    ];
    let document = result(&known).to_string();
    assert_eq!(json(&["-", "--max-p99=350ms"], &document).0, 0);
    assert_eq!(json(&["-", "--max-p99=349ms"], &document).0, 1);
}

#[test]
fn an_input_behind_html_or_junit_is_not_overwritten() {
    let folder = Folder::new();
    let document = result(&[]).to_string();
    let file = folder.write("in.jsonl", &document);
    for flag in ["--html", "--junit"] {
        let output = report_on(&["-", flag, &file], document.as_bytes());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(flag) && told.contains("nothing that a report wrote"), "{told}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), document);
        let page = format!("{}/out", folder.path());
        for _ in 0..2 {
            assert_eq!(report_on(&["-", flag, &page], document.as_bytes()).status.code(), Some(0));
        }
        std::fs::remove_file(page).unwrap();
    }
}

#[test]
fn a_run_does_not_differ_from_its_own_report_and_failures_alone_make_no_run_earlier() {
    let folder = Folder::new();
    // 20 nodes, and ends with digits below a microsecond.
    let run: String = (0..200).map(on_a_node).collect();
    let file = folder.write("run.jsonl", &run);
    let (_, baseline) = json(&[&file], "");
    let baseline = folder.write("baseline.json", &baseline.to_string());
    let (_, compared) = json(&[&file, "--compare", &baseline], "");
    assert_eq!(compared["comparison"]["differ"], false, "{}", compared["comparison"]);
    let nothing_known =
        serde_json::json!({"lower_seconds": null, "lower_evidence": null, "upper_seconds": null});
    let under_way = |n: usize| {
        let changes = [
            ("client_id", format!("u{n}").into()),
            ("outcome", "interrupted".into()),
            ("bracket", nothing_known.clone()),
            ("masquerade_delay_seconds", serde_json::Value::Null),
            ("timeline", serde_json::json!([])),
        ];
        result(&changes).to_string() + "\n"
    };
    let failed: String = (0..50).map(under_way).collect();
    let failed = folder.write("failed.jsonl", &failed);
    let text = String::from_utf8(report(&[&failed, "--compare", &file]).stdout).unwrap();
    assert!(text.contains("differ beyond noise in failures") && !text.contains("this run is"), "{text}");
}

/// A client on one of 20 nodes.
fn on_a_node(n: usize) -> String {
    let upper = 0.3 + (n as f64 * 0.377).fract() / 10.0 + 0.000_000_4;
    let labels = serde_json::json!({"node": format!("n{}", n % 20)});
    let bracket = serde_json::json!({"lower_seconds": upper - 0.05, "lower_evidence": "proven", "upper_seconds": upper});
    result(&[
        ("client_id", format!("c{n}").into()),
        ("labels", labels),
        ("bracket", bracket),
        ("masquerade_delay_seconds", upper.into()),
    ])
    .to_string()
        + "\n"
}

#[test]
fn hostile_names_are_harmless_in_every_output() {
    let folder = Folder::new();
    let hostile = "<script>alert(1)</script>|`&\"'\u{1b}[2J]]>\u{0}";
    let page = format!("{}/page.html", folder.path());
    let document = result(&[("client_id", hostile.into()), ("target", hostile.into())]).to_string();
    for output in ["text", "markdown", "junit", "json"] {
        let output = report_on(&["-", "--html", &page, "--output", output], document.as_bytes());
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains('\u{1b}') && !text.contains('\0'), "{text}");
    }
    let markdown =
        String::from_utf8(report_on(&["-", "--output=markdown"], document.as_bytes()).stdout).unwrap();
    let markdown = markdown.split("<details>").next().unwrap();
    assert!(
        markdown.contains("\\<script\\>alert\\(1\\)") && !markdown.replace("\\<", "").contains('<'),
        "{markdown}"
    );
    let xml = String::from_utf8(report_on(&["-", "--output=junit"], document.as_bytes()).stdout).unwrap();
    assert!(roxmltree::Document::parse(&xml).is_ok(), "{xml}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    // The page's own data and script, and nothing else; no byte of what was read can end or begin one.
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2), "{page}");
    assert!(page.contains("\"\\u003cscript>alert(1)\\u003c/script>"), "{page}");
}

#[test]
fn the_text_fits_80_columns() {
    let folder = Folder::new();
    let long = result(&[("client_id", "ä".repeat(300).into()), ("target", "x".repeat(300).into())]);
    let file = folder.write(
        "a-file-with-a-rather-long-name-that-is-named.jsonl",
        &format!("{}{long}\n{{\n", lines(500, 2, 0.0)),
    );
    let output = report(&[&file, "--compare", &file, "--max-p99=1s"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    assert!(text.contains("No difference beyond noise"), "{text}");
}

#[test]
fn two_runs_that_differ_by_20_ms_are_told_apart_and_two_alike_are_not() {
    let folder = Folder::new();
    let earlier = folder.write("earlier.jsonl", &lines(1_000, 1, 0.0));
    let alike = folder.write("alike.jsonl", &lines(1_000, 2, 0.0));
    let later = folder.write("later.jsonl", &lines(1_000, 3, 0.02));
    let differ = |file: &str| json(&[file, "--compare", &earlier], "").1["comparison"]["differ"].as_bool();
    assert_eq!(differ(&alike), Some(false));
    assert_eq!(differ(&later), Some(true));
}

#[test]
fn a_pipe_that_stays_silent_does_not_keep_ctrl_c_from_working() {
    let mut program = files::start(&["-"]);
    let stdin = program.stdin.take();
    std::thread::sleep(std::time::Duration::from_millis(300));
    rustix::process::kill_process(Pid::from_child(&program), Signal::INT).unwrap();
    let output = program.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "error: interrupted before everything was read\n");
    drop(stdin);
}
