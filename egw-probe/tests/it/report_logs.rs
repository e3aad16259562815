//! Results as clusters hand them out: in the logs of kubectl, the kubelet and Docker, packed, with a byte order mark, among other programs'
//! lines and beside reports that were written before.

use std::process::Command;

use serde_json::Value;

use crate::common::files::{Folder, report, report_on};
use crate::synthetic;

/// So many results, each a line.
fn results(clients: usize) -> Vec<String> {
    let documents = synthetic::Clients::new(7).take(clients);
    documents.map(|(_, document)| serde_json::to_string(&document).unwrap()).collect()
}

fn json(args: &[&str], stdin: &str) -> (i32, Value) {
    let output = report_on(&[args, &["--output=json"]].concat(), stdin.as_bytes());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Exit code, clients, and lines of our own log, of other programs and reports of ours that were passed over.
fn counts(report: &(i32, Value)) -> (i32, [u64; 4]) {
    let (code, report) = report;
    let read = &report["run"]["read"];
    let counts = [&read["results"], &read["log_lines"], &read["foreign_lines"], &read["reports"]];
    (*code, counts.map(|count| count.as_u64().unwrap()))
}

const AT: &str = "2026-11-27T21:02:46.123456789Z";
const OURS: &str = "2026-01-01T00:00:00.123456Z  WARN weak numbers";
const FOREIGN: &str = "I1127 21:02:46.000000       1 proxy.go:1] {\"a\": {\"b\": 1}}";

#[test]
fn results_are_found_in_every_form_of_log() {
    let results = results(3);
    let wrap = |line: &dyn Fn(&str, usize) -> String| -> String {
        let lines = [OURS, &results[0], FOREIGN, &results[1], &results[2]];
        lines.iter().enumerate().map(|(number, text)| line(text, number)).collect()
    };
    let docker = |text: &str| {
        // Docker cuts at 16 KiB; here after a few bytes.
        let (begun, rest) = text.split_at(60);
        let line = |log: &str| {
            let log = serde_json::to_string(log).unwrap();
            format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{AT}\"}}\n")
        };
        line(begun) + &line(&format!("{rest}\n"))
    };
    let long = |text: &str| format!("{text:<60}");
    for (form, log) in [
        ("--prefix", wrap(&|text, number| format!("[pod/egw-client-{number}/client] {text}\n"))),
        ("--timestamps", wrap(&|text, _| format!("{AT} {text}\n"))),
        ("both", wrap(&|text, number| format!("[pod/egw-client-{number}/client] {AT} {text}\r\n"))),
        (
            "CRI",
            wrap(&|text, _| {
                let text = long(text);
                let (begun, rest) = text.split_at(50);
                format!("{AT} stdout P {begun}\n{AT} stdout F {rest}\n")
            }),
        ),
        ("Docker", wrap(&|text, _| docker(&long(text)))),
        ("a byte order mark", format!("\u{feff}{}", wrap(&|text, _| format!("{text}\n")))),
        ("stern", wrap(&|text, number| format!("egw-client-{number} client {text}\n"))),
    ] {
        // Behind a prefix that is not known a line of our log is one of anybody.
        let passed_over = if form == "stern" { [0, 2] } else { [1, 1] };
        let read = counts(&json(&["-"], &log));
        assert_eq!(read, (0, [3, passed_over[0], passed_over[1], 0]), "{form}: {log}");
    }
}

#[test]
fn a_result_is_damaged_in_a_log_as_well_and_lines_of_others_are_no_error() {
    let results = results(2);
    let (begun, rest) = results[0].split_at(results[0].len() / 2);
    let istio = r#"{"level":"info","time":"2026-11-27T21:02:46Z","scope":"sds","msg":"caching"}"#;
    let log = |lines: &[&str]| format!("[pod/egw/client] {}\n", lines.join("\n[pod/egw/client] "));
    let told = |lines: &[&str]| {
        let (code, report) = json(&["-"], &log(lines));
        let reasons = report["run"]["read"]["skipped_documents"].as_array().unwrap();
        let reasons = reasons.iter().map(|one| one["reason"].as_str().unwrap().to_owned());
        (code, report["run"]["read"]["foreign_lines"].as_u64().unwrap(), reasons.collect::<Vec<_>>())
    };
    assert_eq!(told(&[istio, FOREIGN, &results[1], istio, "", "Traceback:", "  File x"]), (0, 5, vec![]));
    // The log was rotated away above it, or the disk was full below.
    assert_eq!(told(&[rest, &results[1]]), (3, 0, vec!["truncated".to_owned()]));
    assert_eq!(told(&[begun, &results[1]]), (3, 0, vec!["truncated".to_owned()]));
    assert_eq!(told(&[&results[1], &rest[..rest.len() - 30]]), (3, 0, vec!["truncated".to_owned()]));
    let wrong = results[0].replace("\"probes\":{", "\"probes\":3,\"others\":{");
    let (code, _, reasons) = told(&[&wrong, &results[1]]);
    assert!(code == 3 && reasons[0].starts_with("damaged: invalid type: integer `3`"), "{reasons:?}");
    // Nothing but lines of others is no result.
    assert_eq!(told(&[FOREIGN, "x"]), (3, 2, vec!["foreign: it holds no document".to_owned()]));
    let text = String::from_utf8(report_on(&["-"], log(&[FOREIGN, &results[1]]).as_bytes()).stdout).unwrap();
    assert!(text.contains("1 line of another program was passed over"), "{text}");
}

#[test]
fn packed_logs_are_read_and_broken_ones_told() {
    let folder = Folder::new();
    let results = results(4);
    for (name, lines) in [("one.log", &results[..2]), ("two.log", &results[2..])] {
        let file = folder.write(name, &(lines.join("\n") + "\n"));
        assert!(Command::new("gzip").arg(&file).status().unwrap().success());
    }
    assert_eq!(counts(&json(&[folder.path()], "")), (0, [4, 0, 0, 0]));
    let path = format!("{}/one.log.gz", folder.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let read = json(&[folder.path()], "");
    assert_eq!(counts(&read), (3, [4, 0, 0, 0]));
    let reason = &read.1["run"]["read"]["skipped_documents"][0]["reason"];
    assert_eq!(reason, "damaged: gzip: corrupt gzip stream does not have a matching checksum");
    let utf16 = results[0].encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let output = report_on(&["-"], &utf16);
    let told = String::from_utf8(output.stderr).unwrap();
    let lines = told.lines().filter(|line| line.contains("skipped")).collect::<Vec<_>>();
    assert!(
        lines.len() == 1 && lines[0].contains("skipped stdin: foreign: UTF-16: save it as UTF-8"),
        "{told}"
    );
}

#[test]
fn a_report_into_the_folder_that_it_reads_can_be_run_again() {
    let folder = Folder::new();
    folder.write("run.jsonl", &results(3).join("\n"));
    let [page, gates, document] =
        ["page.html", "gates.xml", "report.json"].map(|name| format!("{}/{name}", folder.path()));
    for passed_over in [0, 3, 3] {
        let args = [folder.path(), "--html", &page, "--junit", &gates, "--max-failed=0"];
        let read = json(&args, "");
        assert_eq!(counts(&read), (0, [3, 0, 0, passed_over]), "{:#}", read.1);
        std::fs::write(&document, serde_json::to_string_pretty(&read.1).unwrap()).unwrap();
    }
    let text = String::from_utf8(report(&[folder.path()]).stdout).unwrap();
    assert!(text.contains("3 reports of ours were passed over"), "{text}");
    // Alone they are nothing to report on.
    let alone = Folder::new();
    alone.write("page.html", &std::fs::read_to_string(&page).unwrap());
    assert_eq!(report(&[alone.path()]).status.code(), Some(3));
}
