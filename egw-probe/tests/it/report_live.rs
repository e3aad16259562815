//! `egw-probe report` on endpoints that are alive: a client's and a target's pages, and a Prometheus server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::common;
use crate::common::files::{Folder, report};
use crate::common::told::{as_root, skip};
use crate::common::{Program, free_port, metric, peer, status, target, wait_for};

fn client(target: &str, flags: &[&str]) -> (Program, SocketAddr) {
    let http_at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let metrics = http_at.to_string();
    let args = ["client", "--external-target-addr", target, "--metrics-addr", &metrics];
    let client = Program::start(&[&args, flags].concat());
    wait_for("the test to be over", || status(http_at, "/readyz") == 200);
    (client, http_at)
}

fn json(args: &[&str]) -> (i32, Value) {
    let output = report(&[args, &["--output=json"]].concat());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn pages_of_clients_and_of_a_target_make_one_report() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (_masqueraded, one) = client(&format!("127.0.0.1:{}", target.port), &[]);
    let nobody = free_port();
    let (_failed, two) =
        client(&format!("127.0.0.1:{nobody}"), &["--test-timeout=300ms", "--interval=100ms"]);
    let (one, two) = (format!("http://{one}/metrics"), format!("http://{two}/metrics"));
    let sources = format!("http://{}/sources", target.http);
    let (code, report) = json(&[&one, &two, &sources]);
    assert_eq!(code, 0, "{report:#}");
    let clients = &report["run"]["clients"];
    assert_eq!(
        (clients["total"].as_u64(), clients["masqueraded"].as_u64()),
        (Some(2), Some(1)),
        "{report:#}"
    );
    assert_eq!(clients["timed_out"], 1);
    assert_eq!(report["run"]["worst"][0]["client_id"], two.as_str());
    let page_at: SocketAddr = one.split('/').nth(2).unwrap().parse().unwrap();
    let upper = metric(page_at, "egw_probe_masquerade_delay_seconds{bound=\"upper\"}").unwrap();
    assert_eq!(report["run"]["delay"]["longest_known"]["upper_seconds"].as_f64(), Some(upper));
    assert!(report["run"]["sources"]["allowed_connections"].as_u64() >= Some(1));
    assert_eq!(report["run"]["sources"]["denied_connections"], 0);
}

#[test]
fn what_does_not_answer_or_is_no_client_is_named_and_skipped() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (of_target, missing) =
        (format!("http://{}/metrics", target.http), format!("http://{}/no", target.http));
    let nobody = format!("http://127.0.0.1:{}/metrics", free_port());
    let (code, report) = json(&[&of_target, &missing, &nobody]);
    assert_eq!(code, 3);
    let reasons: Vec<&str> = (report["run"]["read"]["skipped_documents"].as_array().unwrap().iter())
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert!(reasons[0].starts_with("foreign: no metrics of a client"), "{reasons:?}");
    assert_eq!(reasons[1], "unreadable: HTTP status 404");
    assert!(reasons[2].starts_with("unreadable: cannot connect: Connection refused"), "{reasons:?}");
}

#[test]
fn a_page_longer_than_any_of_ours_is_refused_and_takes_no_memory() {
    // 200 MB of series that are all different, as far as they are read.
    let endless = peer(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        for number in 0..4_000_000 {
            let line = format!("egw_scale_test_failed_tests_total{{pod=\"probe-{number}\"}} 0\n");
            if stream.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
    });
    let page = format!("http://{endless}/metrics");
    let (output, peak) = Program::start(&["report", &page, "--output=json"]).finish_and_peak();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    let reason = &report["run"]["read"]["skipped_documents"][0]["reason"];
    assert!(reason.as_str().unwrap().contains("longer than 8 MiB"), "{reason}");
    assert!(peak < 64 << 20, "{peak} bytes");
}

#[test]
fn names_that_act_on_a_terminal_are_escaped_in_text_and_in_json_alike() {
    let hostile = peer(|mut stream, _| {
        let series = "egw_scale_test_failed_tests_total{pod=\"a\u{202e}b\u{9b}31m\"} 1\n";
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{series}");
    });
    let page = format!("http://{hostile}/metrics");
    for form in ["text", "json"] {
        let output = report(&[&page, "--output", form]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("a\\u202eb\\u009b31m"), "{form}: {said}");
        assert!(!said.contains(['\u{202e}', '\u{9b}']), "{form}: {said}");
    }
    let (_, document) = json(&[&page]);
    assert_eq!(document["run"]["worst"][0]["client_id"], "a\u{202e}b\u{9b}31m", "the same name to a program");
}

/// Tags need `CAP_NET_ADMIN`.
#[test]
fn a_targets_clients_count_unless_their_own_results_are_there() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--expect-clients=8"]);
    let address = format!("127.0.0.1:{}", target.port);
    let folder = Folder::new();
    for tag in ["--tag=7", "--tag=8"] {
        let (code, document, stderr) = common::measure(&address, &[tag, "--tag-required"]);
        assert_eq!(code, 0, "{stderr}");
        folder.write(&format!("{tag}.json"), &document.to_string());
    }
    let clients = format!("http://{}/clients", target.http);
    let (code, alone) = json(&[&clients]);
    assert_eq!((code, alone["run"]["clients"]["masqueraded"].as_u64()), (0, Some(2)), "{alone:#}");
    let seven = format!("{}/--tag=7.json", folder.path());
    let (code, both) = json(&[&seven, &clients]);
    assert_eq!((code, both["run"]["clients"]["total"].as_u64()), (0, Some(2)), "{both:#}");
    let notes = both["run"]["notes"].as_array().unwrap();
    let says = "1 entry of a target's /clients is of a client with a result of its own";
    assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with(says)), "{notes:?}");
}

#[test]
fn a_prometheus_server_tells_of_the_clients_with_a_label() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        return skip("needs prometheus: `cargo xtask test --setup`");
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let clients: Vec<(Program, SocketAddr)> =
        (0..3).map(|_| client(&format!("127.0.0.1:{}", target.port), &[])).collect();
    let folder = Folder::new();
    let job = |(index, (_, at)): (usize, &(Program, SocketAddr))| {
        // The third one belongs to another installation.
        let instance = if index < 2 { "egw-7" } else { "egw-8" };
        format!("  - targets: ['{at}']\n    labels: {{k8s_instance: {instance}, pod: probe-{index}}}\n")
    };
    let jobs: String = clients.iter().enumerate().map(job).collect::<Vec<_>>().concat();
    let config = folder.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: probes\n  static_configs:\n{jobs}"
        ),
    );
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _server = Program::start_command(
        Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!("--storage.tsdb.path={}/data", folder.path()))
            .arg(format!("--web.listen-address={at}")),
    );
    let url = format!("http://{at}");
    wait_for("three clients to be scraped", || {
        json(&["--prometheus", &url]).1["run"]["clients"]["total"] == 3
    });
    let (code, all) = json(&["--prometheus", &url]);
    assert_eq!((code, all["run"]["clients"]["total"].as_u64()), (0, Some(3)), "{all:#}");
    let (code, some) = json(&["--prometheus", &url, "--query-label", "k8s_instance=egw-7"]);
    assert_eq!((code, some["run"]["clients"]["masqueraded"].as_u64()), (0, Some(2)), "{some:#}");
    let mut names: Vec<&str> = some["run"]["worst"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["client_id"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["probe-0", "probe-1"]);
    let longest = clients[..2]
        .iter()
        .map(|(_, at)| metric(*at, "egw_probe_masquerade_delay_seconds{bound=\"upper\"}").unwrap())
        .fold(0.0, f64::max);
    assert_eq!(some["run"]["delay"]["max"]["upper_seconds"].as_f64(), Some(longest));
    let (code, none) = json(&["--prometheus", &url, "--query-label", "k8s_instance=egw-9"]);
    assert_eq!((code, none["run"]["clients"]["total"].as_u64()), (3, Some(0)));
}
