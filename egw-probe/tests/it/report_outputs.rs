//! What `egw-probe report` writes for other programs: GitHub, benchmark charts, spreadsheets and scrapers.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::files::{Folder, report, report_on};
use crate::common::told::skip;
use crate::synthetic;

/// A result whose bracket and name are these, and some of its keys exchanged.
fn result(name: &str, bracket: (f64, Option<f64>), changes: &[(&str, Value)]) -> String {
    let (_, document) = synthetic::Clients::new(3).find(|(truth, _)| truth.is_some()).unwrap();
    let mut document = serde_json::to_value(document).unwrap();
    document["client_id"] = name.into();
    document["outcome"] = if bracket.1.is_some() { "masqueraded" } else { "timed_out" }.into();
    document["bracket"] = json!({"lower_seconds": bracket.0, "upper_seconds": bracket.1});
    document["masquerade_delay_seconds"] = bracket.1.into();
    document["probes"]["leaked"] = 7.into();
    document["disruptions"] = Value::Null;
    document["disruptions_total"] = 0.into();
    document["timeline"] = json!([{"outcome": "leaked", "from_seconds": 0.0, "to_seconds": 0.25, "probes": 7},
        {"outcome": "pong", "from_seconds": 0.3, "to_seconds": 0.3, "probes": 1}]);
    for (key, value) in changes {
        document[*key] = value.clone();
    }
    format!("{document}\n")
}

/// Two clients that got through, and one that did not.
fn three() -> String {
    let leak = json!([{"address": "10.0.0.7", "whose": "own", "probes": 7, "first_seconds": 0.1, "last_seconds": 0.2}]);
    result("a", (0.25, Some(0.3)), &[("leaked_from", leak)])
        + &result("b,\"quoted\"", (0.35, Some(0.4)), &[("stress", json!({"leaked": 2}))])
        + &result("=never()", (0.5, None), &[])
}

fn said(args: &[&str], stdin: &str) -> (i32, String, String) {
    let output = report_on(args, stdin.as_bytes());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_text_goes_from_the_verdict_to_the_notes_and_names_methods_when_asked() {
    let documents = (4..10).map(|n| result(&format!("c{n}"), (0.1, Some(0.2)), &[])).collect::<String>()
        + &three()
        + "x\n";
    let (code, text, _) = said(&["-", "--max-failed=0"], &documents);
    assert_eq!(code, 1);
    assert!(text.starts_with("egw-probe report: FAILED, 1 of 1 gate\n  FAILED  --max-failed 0: "), "{text}");
    let places: Vec<usize> = [
        "9 clients\n",
        "  delay ",
        "  leaked  ",
        "leaked from",
        "blackhole",
        "worst clients",
        "settings",
        "note: ",
    ]
    .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
    .into();
    assert!(places.is_sorted(), "{places:?} {text}");
    let worst = text.lines().skip_while(|line| !line.contains("worst clients")).skip(1);
    assert_eq!(worst.take_while(|line| !line.is_empty()).count(), 5, "{text}");
    assert!(!text.contains("methods"), "{text}");
    let (_, explained, _) = said(&["-", "--max-failed=0", "--explain"], &documents);
    assert!(
        explained.starts_with(&text) && explained[text.len()..].starts_with("\nmethods\n  Of these"),
        "{explained}"
    );
    let (_, plain, _) = said(&["-"], &result("one", (0.1, Some(0.2)), &[]));
    assert!(plain.starts_with("egw-probe report\n\n1 client\n"), "{plain}");
}

#[test]
fn one_of_a_kind_is_no_plural() {
    let one = json!([{"kind": "leak", "start_seconds": 1, "length_seconds": {"lower": 0.1, "upper": 0.5}, "misses": 2}]);
    let document = result(
        "a",
        (0.1, Some(0.2)),
        &[
            ("disruptions", one),
            ("disruptions_total", 1.into()),
            (
                "probes",
                json!({"pong": 1, "leaked": 1, "timeout": 0, "refused": 0, "unreachable": 0, "garbled": 0, "error": 0}),
            ),
        ],
    );
    let gates = ["--max-disruptions=0", "--max-failed=0", "--min-clients=2", "--max-leaked=0"];
    for form in ["text", "markdown", "github", "junit"] {
        let (_, said, _) = said(&[&["-", "--output", form], &gates[..]].concat(), &(document.clone() + "{"));
        for wrong in ["1 clients", "1 disruptions", "1 probes", "1 documents", "1 gates"] {
            assert!(!said.contains(wrong), "{wrong}: {said}");
        }
        assert!(said.contains("1 disruption") && said.contains("1 client"), "{said}");
    }
}

#[test]
fn a_step_summary_has_the_verdict_first_and_failed_gates_are_annotations() {
    let gates = ["-", "--output=github", "--max-failed=0", "--max-leaked=100%", "--min-clients=3"];
    assert_eq!(said(&gates, "").0, 2);
    let gates = ["-", "--output=github", "--max-failed=0", "--max-leaked=100", "--min-clients=3"];
    let (code, summary, told) = said(&gates, &three());
    assert_eq!(code, 1);
    let mut lines = summary.lines();
    assert_eq!(lines.next(), Some("## Egress gateway report: FAILED, 1 of 3 gates"));
    let rows: Vec<&str> = summary.lines().filter(|line| line.starts_with("| ")).take(4).collect();
    assert_eq!(
        rows,
        [
            "| gate | | found |",
            "| `--max-leaked 100` | passed | 21 probes and 2 stress connections leaked |",
            "| `--max-failed 0` | **FAILED** | 1 client not masqueraded |",
            "| `--min-clients 3` | passed | 3 clients by name |",
        ]
    );
    assert!(summary.contains("| p50 | 350 to 400 ms |"), "{summary}");
    assert!(summary.contains("10.0.0.7, 7 probes of 1 client: own address of 1 client"), "{summary}");
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("::")).collect();
    assert_eq!(errors, ["::error title=egw-probe report%3A --max-failed 0::1 client not masqueraded"]);
    // Everywhere else a failed gate is a line of the log.
    let (_, _, told) = said(&["-", "--max-failed=0", "--max-leaked=20"], &three());
    let told: Vec<&str> = told.lines().map(|line| line.split(" ERROR ").nth(1).unwrap_or(line)).collect();
    assert_eq!(
        told,
        [
            "gate failed: --max-leaked 20: 21 probes and 2 stress connections leaked",
            "gate failed: --max-failed 0: 1 client not masqueraded"
        ]
    );
    let first = |args: &[&str], stdin: &str| said(args, stdin).1.lines().next().unwrap().to_owned();
    let passed = ["-", "--output=github", "--max-failed=1"];
    assert_eq!(first(&passed, &three()), "## Egress gateway report: passed, 1 gate");
    assert_eq!(first(&passed[..2], &three()), "## Egress gateway report");
    assert_eq!(
        first(&passed, &(three() + "{")),
        "## Egress gateway report: passed, 1 gate; 1 document was skipped"
    );
    assert_eq!(
        first(&passed, ""),
        "## Egress gateway report: CANNOT TELL, 1 of 1 gate; 1 document was skipped"
    );
}

#[test]
fn names_do_nothing_to_a_summary_or_to_the_runner() {
    let hostile = "x\n::error::<b>|`";
    let (_, summary, told) = said(&["-", "--output=github"], &result(hostile, (0.1, Some(0.2)), &[]));
    assert!(!summary.contains("<b>") && !summary.contains("\n::") && !told.contains("\n::"), "{summary}");
    assert!(summary.contains("\\<b\\>\\|\\`"), "{summary}");
}

#[test]
fn a_benchmark_has_names_units_values_and_ranges_and_only_values_that_are_known() {
    let watch = json!({"probes": 1000, "outside_outages": 1000, "isolated": {"misses": 10, "share": 0, "low": 0, "high": 0},
        "in_disruptions": {"misses": 0, "share": 0, "low": 0, "high": 0}, "isolated_by": {}});
    let documents = three() + &result("d", (0.1, Some(0.2)), &[("loss", watch)]);
    let (code, text, _) = said(&["-", "--output=benchmark"], &documents);
    assert_eq!(code, 0);
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry["name"] == name);
    for entry in &entries {
        let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
        assert!(
            keys == ["extra", "name", "range", "unit", "value"] || keys == ["extra", "name", "unit", "value"]
        );
        assert!(entry["value"].is_number() && entry["unit"].is_string(), "{entry}");
        assert_eq!(entry["extra"], concat!("egw-probe report ", env!("CARGO_PKG_VERSION"), ", 4 clients"));
    }
    let p50 = entry("delay p50").unwrap();
    assert_eq!(
        (&p50["value"], &p50["unit"], &p50["range"]),
        (&json!(0.3), &json!("s"), &json!("0.25 to 0.3"))
    );
    // One of four never got through: later than everything is no number.
    assert_eq!((entry("delay p99"), entry("delay max")), (None, None));
    for (name, unit, value) in [
        ("clients not masqueraded", "clients", 1.0),
        ("leaked probes", "probes", 28.0),
        ("leaked connections", "connections", 2.0),
        ("disruptions", "disruptions", 0.0),
        ("probes lost by chance", "%", 1.0),
    ] {
        let found = entry(name).unwrap_or_else(|| panic!("{name}: {text}"));
        assert_eq!((&found["unit"], found["value"].as_f64()), (&json!(unit), Some(value)), "{name}");
    }
    // Wilson's interval of 10 in 1,000, by hand.
    assert_eq!(entry("probes lost by chance").unwrap()["range"], "0.544 to 1.831");
}

#[test]
fn a_table_has_a_row_for_each_client() {
    let (code, table, _) = said(&["-", "--output=csv"], &three());
    assert_eq!(code, 0);
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some(
            "client_id,outcome,delay_lower_seconds,delay_upper_seconds,leaked_probes,leak_seconds,blackhole_seconds,disruptions"
        )
    );
    assert_eq!(lines.next(), Some("a,masqueraded,0.25,0.3,7,0.3,0,0"));
    assert_eq!(lines.next(), Some("\"b,\"\"quoted\"\"\",masqueraded,0.35,0.4,7,0.3,0,0"));
    let last = lines.next().unwrap();
    // A spreadsheet computes what begins with an equals sign.
    assert!(last.starts_with("'=never(),timed out,") && last.ends_with(",,7,0.3,0,0"), "{last}");
    assert_eq!(lines.next(), None);
}

#[test]
fn open_metrics_are_read_by_the_parsers_that_others_use() {
    let (code, page, _) = said(&["-", "--output=openmetrics", "--max-failed=0", "--max-p99=1h"], &three());
    assert_eq!(code, 1);
    for line in [
        "# TYPE egw_probe_report_delay_seconds gauge",
        "# UNIT egw_probe_report_delay_seconds seconds",
        "egw_probe_report_delay_seconds{q=\"0.5\",bound=\"lower\"} 0.35",
        "egw_probe_report_delay_seconds{q=\"0.5\",bound=\"upper\"} 0.4",
        "egw_probe_report_delay_seconds{q=\"0.99\",bound=\"upper\"} +Inf",
        "egw_probe_report_clients{outcome=\"timed_out\"} 1",
        "egw_probe_report_leaked_probes 21",
        "egw_probe_report_leaked_connections{phase=\"stress\"} 2",
        "egw_probe_report_leaked_from_probes{address=\"10.0.0.7\"} 7",
        "egw_probe_report_gate_passed{gate=\"--max-failed 0\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}: {page}");
    }
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    let parse = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                 print(sum(len(family.samples) for family in read(sys.stdin.read())))";
    let samples = page.lines().filter(|line| !line.starts_with('#')).count();
    for (tool, args, expected) in [
        ("promtool", ["check", "metrics"], String::new()),
        ("python3", ["-c", parse], format!("{samples}\n")),
    ] {
        let there = match tool {
            "python3" => Command::new(tool).args(["-c", "import prometheus_client"]).output(),
            _ => Command::new(tool).arg("--version").output(),
        };
        if !there.is_ok_and(|output| output.status.success()) {
            skip(&format!("needs {tool} with its packages: `cargo xtask test --setup`"));
            continue;
        }
        let mut command = Command::new(tool);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let found = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && found == expected, "{tool}: {found}");
    }
}

#[test]
fn what_was_written_before_is_passed_over_in_every_form() {
    let folder = Folder::new();
    folder.write("run.jsonl", &three());
    for form in ["text", "github", "markdown", "benchmark", "csv", "openmetrics", "junit", "json"] {
        folder.write(form, &said(&["-", "--output", form], &three()).1);
    }
    let output = report(&[folder.path(), "--output=json"]);
    let run = serde_json::from_slice::<Value>(&output.stdout).unwrap()["run"].take();
    assert_eq!(
        (&run["read"]["results"], &run["read"]["reports"]),
        (&json!(3), &json!(8)),
        "{:#}",
        run["read"]
    );
    assert_eq!((output.status.code(), &run["read"]["skipped"]), (Some(0), &json!(0)));
}
