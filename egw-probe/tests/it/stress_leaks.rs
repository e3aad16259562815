//! Stress connections that a gateway does not translate: the target denies them, the client counts them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::common::{Program, free_port, measure, metric, peer, status, target, wait_for};
use crate::gateway::{Gateway, alone, nft};

/// Sixty connections from three sources in turn, one of which is denied.
const FLAGS: [&str; 4] = [
    "--stress",
    "--stress-connections=60",
    "--stress-concurrency=4",
    "--stress-source-addr=127.0.0.5,127.0.0.9,127.0.0.6",
];
const ALLOWED: &str = "--allowed-cidr=127.0.0.1/32,127.0.0.5/32,127.0.0.6/32";

#[test]
fn connections_that_the_target_denies_are_leaked_and_the_gate_counts_them() {
    for reply in ["--reply=annotated", "--reply=pong"] {
        let target = target(&[ALLOWED, "--keep-open", reply]);
        let address = format!("127.0.0.1:{}", target.port);
        for (gate, code) in [("--max-leaked=20", 0), ("--max-leaked=19", 1)] {
            let (got, document, log) = measure(&address, &[&FLAGS[..], &[gate]].concat());
            let stress = &document["stress"];
            assert_eq!(got, code, "{reply}: {document}\n{log}");
            let presumed = if reply == "--reply=pong" { 20 } else { 0 };
            for (key, expected) in
                [("opened", 60), ("leaked", 20), ("leaked_presumed", presumed), ("closed", 20), ("failed", 0)]
            {
                assert_eq!(stress[key], expected, "{key} {reply}: {stress}");
            }
            let closings = stress["closings"].as_array().unwrap();
            assert!(
                closings.len() == 20 && closings.iter().all(|closing| closing["leaked"] == true),
                "{stress}"
            );
            let failed = json!(["--max-leaked 19: 20 stress connections leaked"]);
            assert_eq!(document["failed_gates"], if code == 0 { json!([]) } else { failed });
            assert!(
                log.contains("stress connection leaked: the target saw a source outside its CIDRs"),
                "{log}"
            );
            assert!(!log.contains("connection lost"), "{log}");
        }
        let denied = metric(target.http, "egw_probe_target_connections_total{verdict=\"denied\"}");
        assert_eq!(denied, Some(40.0), "as many as the target denied");
    }
}

#[test]
fn leaked_connections_are_a_metric_and_a_line_of_the_summary() {
    let target = target(&[ALLOWED, "--keep-open"]);
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) =
        (format!("--external-target-addr=127.0.0.1:{}", target.port), format!("--metrics-addr={http}"));
    let client = Program::start(&[&["client", &to, &serve], &FLAGS[..]].concat());
    wait_for("the end of the stress test", || status(http, "/readyz") == 200);
    assert_eq!(metric(http, "egw_probe_stress_leaked_total"), Some(20.0));
    assert_eq!(metric(http, "egw_scale_test_stress_connections_total{operation=\"close\"}"), Some(20.0));
    client.signal(Signal::TERM);
    let told = String::from_utf8(client.finish().stdout).unwrap();
    let line = "20 leaked: the target saw a source outside its CIDRs (20 presumed: a target with --reply annotated proves it)";
    assert!(told.contains(line), "{told}");
}

#[test]
fn what_closes_in_order_after_a_pong_or_without_a_byte_on_an_annotating_target_is_no_leak() {
    // Without --keep-open a target closes everything it has answered.
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (code, document, log) =
        measure(&format!("127.0.0.1:{}", target.port), &[&FLAGS[..], &["--max-leaked=0"]].concat());
    let stress = &document["stress"];
    assert_eq!((code, &stress["leaked"], &stress["closed"]), (0, &json!(0), &json!(60)), "{stress}\n{log}");
}

#[test]
fn of_two_thousand_connections_those_that_a_gateway_does_not_translate_are_counted_exactly() {
    // One connection in fifty, by chance.
    let nat = "numgen random mod 50 == 0 counter name passed accept; snat to 192.0.2.1;";
    for reply in ["--reply=annotated", "--reply=pong"] {
        alone(|| {
            let gateway = Gateway::new(nat);
            let target = gateway.inside(2, || target(&["--allowed-cidr=192.0.2.1/32", "--keep-open", reply]));
            let address = format!("192.0.2.2:{}", target.port);
            let flags = ["--stress", "--stress-concurrency=8", "--stress-connections=2000", "--max-leaked=0"];
            let (code, document, log) = gateway.inside(0, || measure(&address, &flags));
            let (stress, probes) = (&document["stress"], &document["probes"]);
            let leaked = stress["leaked"].as_u64().unwrap();
            // Of 2,000 forty on average; ten or less in one run of ten million.
            assert!(stress["opened"] == 2000 && leaked > 10, "{stress}\n{log}");
            assert_eq!((code, &stress["closed"]), (1, &json!(leaked)), "{stress}");
            let gate = document["failed_gates"][0].as_str().unwrap();
            assert!(gate.ends_with(&format!("{leaked} stress connections leaked")), "{gate}");
            let all = leaked + probes["leaked"].as_u64().unwrap();
            assert_eq!(all, gateway.passed(), "as many as left without NAT");
            let denied = "egw_probe_target_connections_total{verdict=\"denied\"}";
            assert_eq!(gateway.inside(2, || metric(target.http, denied)), Some(all as f64));
            println!("{reply}: {leaked} of 2000 leaked, {all} with the probes");
        });
    }
}

#[test]
fn on_a_slow_path_the_last_answers_are_waited_for_as_long_as_its_dials_take() {
    alone(|| {
        // The first is the probe's. The other is denied, as a plain target does it, half a second after it came.
        let address = peer(|mut stream, number| {
            if number == 0 {
                return stream.write_all(b"pong\n").unwrap();
            }
            std::thread::sleep(Duration::from_millis(500));
        });
        // Every second SYN is lost: the stress connection's first one.
        nft(&format!(
            "table ip slow {{ chain out {{ type filter hook output priority 0; tcp dport {} \
             tcp flags & (syn|ack) == syn numgen inc mod 2 == 1 drop; }}; }}",
            address.port()
        ));
        let flags = ["--stress", "--stress-connections=1", "--interval=10s"];
        let (_, document, log) = measure(&address.to_string(), &flags);
        let stress = &document["stress"];
        assert!(stress["latency_seconds"]["max"].as_f64() > Some(0.9), "{stress}\n{log}");
        assert_eq!((&stress["leaked"], &stress["closed"]), (&json!(1), &json!(1)), "{stress}");
    });
}
