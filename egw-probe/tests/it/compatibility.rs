//! What existing manifests and dashboards of egw-scale-utils rely on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::common;
use crate::common::{Program, free_port, http, metric, peer, status, target, wait_for};

fn reply_of(port: u16, from: &str) -> Vec<u8> {
    let host = if from == "v6" { "[::1]" } else { "127.0.0.1" };
    let mut stream = TcpStream::connect(format!("{host}:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    reply
}

#[test]
fn an_allowed_source_gets_exactly_pong_and_a_close_and_any_other_no_byte() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    assert_eq!(reply_of(target.port, "v4"), b"pong\n");
    assert_eq!(reply_of(target.port, "v6"), b"");
    assert_eq!(metric(target.http, "egw_probe_target_connections_total{verdict=\"allowed\"}"), Some(1.0));
    assert_eq!(metric(target.http, "egw_probe_target_connections_total{verdict=\"denied\"}"), Some(1.0));
}

#[test]
fn cidrs_of_both_families_add_up() {
    let target = target(&["--allowed-cidr=192.0.2.0/24,127.0.0.1/32", "--allowed-cidr=::1/128"]);
    assert_eq!(reply_of(target.port, "v4"), b"pong\n");
    assert_eq!(reply_of(target.port, "v6"), b"pong\n");
}

#[test]
fn keep_open_holds_an_allowed_connection_until_the_client_closes_it() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open=true"]);
    let mut stream = TcpStream::connect(("127.0.0.1", target.port)).unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"pong\n");
    stream.write_all(b"whatever a client may send").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut reply).is_err(), "still open, and silent");
    assert_eq!(metric(target.http, "egw_probe_target_open_connections"), Some(1.0));
    drop(stream);
    wait_for("the target to let go", || {
        metric(target.http, "egw_probe_target_open_connections") == Some(0.0)
    });
    assert_eq!(reply_of(target.port, "v6"), b"", "a denied source is closed all the same");
}

/// A client without `--exit`, as manifests run it, on a metrics port of its own.
fn client(target: SocketAddr, flags: &[&str]) -> (Program, SocketAddr) {
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (target, metrics) = (target.to_string(), http.to_string());
    let args = ["client", "--external-target-addr", &target, "--metrics-addr", &metrics];
    (Program::start(&[&args, flags].concat()), http)
}

#[test]
fn readyz_is_500_until_the_pong_and_every_old_metric_is_there_at_0_from_the_start() {
    let (open, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    // Leaks until the test has looked, answers then.
    let answering = std::sync::atomic::AtomicBool::new(false);
    let address = peer(move |mut stream, _| {
        use std::sync::atomic::Ordering::SeqCst;
        if answering.load(SeqCst) || wait.lock().unwrap().try_recv().is_ok() {
            answering.store(true, SeqCst);
            stream.write_all(b"pong\n").unwrap();
        }
    });
    let (_client, http_at) = client(address, &["--interval=300ms"]);
    wait_for("HTTP", || status(http_at, "/readyz") == 500);
    let (_, page) = http(http_at, "GET /metrics").unwrap();
    for series in [
        "egw_scale_test_masquerade_delay_seconds_total 0",
        "egw_scale_test_failed_tests_total 0",
        "egw_scale_test_stress_connection_latency_seconds_count 0",
        "egw_probe_probes_total{outcome=\"pong\"} 0",
        "egw_probe_probes_total{outcome=\"timeout\"} 0",
        "egw_probe_blackhole_seconds 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is missing in\n{page}");
    }
    assert!(page.contains("\negw_scale_test_leaked_requests_total "));
    assert!(!page.contains("egw_scale_test_stress_connections_total{"), "these start with the stress test");
    assert!(!page.contains("egw_probe_masquerade_delay_seconds{"), "absent until known");
    let bounds: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("egw_scale_test_stress_connection_latency_seconds_bucket{le=\""))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(
        bounds,
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    );
    wait_for("a leak", || metric(http_at, "egw_scale_test_leaked_requests_total") >= Some(1.0));
    assert_eq!(status(http_at, "/readyz"), 500);
    open.send(()).unwrap();
    wait_for("the pong", || status(http_at, "/readyz") == 200);
    let delay = metric(http_at, "egw_scale_test_masquerade_delay_seconds_total").unwrap();
    assert_eq!(metric(http_at, "egw_probe_masquerade_delay_seconds{bound=\"upper\"}"), Some(delay));
    assert!(metric(http_at, "egw_probe_masquerade_delay_seconds{bound=\"lower\"}").unwrap() < delay);
    assert_eq!(metric(http_at, "egw_scale_test_failed_tests_total"), Some(0.0));
}

#[test]
fn a_failed_test_turns_readyz_to_200_and_goes_on_serving() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (mut client, http_at) = client(nobody, &["--test-timeout=600ms", "--interval=100ms"]);
    wait_for("500", || status(http_at, "/readyz") == 500);
    wait_for("200", || status(http_at, "/readyz") == 200);
    assert_eq!(metric(http_at, "egw_scale_test_failed_tests_total"), Some(1.0));
    assert_eq!(metric(http_at, "egw_scale_test_masquerade_delay_seconds_total"), Some(0.0));
    let misses = metric(http_at, "egw_scale_test_leaked_requests_total");
    assert!(misses > Some(1.0), "every miss counts, whatever its outcome: {misses:?}");
    assert_eq!(metric(http_at, "egw_probe_probes_total{outcome=\"refused\"}"), misses);
    assert!(client.is_running());
}

#[test]
fn stress_opens_connections_one_after_another_and_ends_after_three_failed_dials() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let address = SocketAddr::from(([127, 0, 0, 1], target.port));
    let (client, http_at) = client(address, &["--stress", "--stress-delay=300ms"]);
    wait_for("the two series, from the start of the stress test", || {
        metric(http_at, "egw_scale_test_stress_connections_total{operation=\"open\"}").is_some()
    });
    assert_eq!(metric(http_at, "egw_scale_test_stress_connections_total{operation=\"close\"}"), Some(0.0));
    assert_eq!(status(http_at, "/readyz"), 500);
    wait_for("a hundred connections", || {
        metric(http_at, "egw_scale_test_stress_connections_total{operation=\"open\"}") >= Some(100.0)
    });
    drop(target);
    wait_for("three refused dials", || status(http_at, "/readyz") == 200);
    let opened = metric(http_at, "egw_scale_test_stress_connections_total{operation=\"open\"}").unwrap();
    assert_eq!(metric(http_at, "egw_scale_test_stress_connection_latency_seconds_count"), Some(opened));
    wait_for("every connection counted as closed", || {
        metric(http_at, "egw_scale_test_stress_connections_total{operation=\"close\"}") == Some(opened)
    });
    client.signal(Signal::TERM);
    assert_eq!(client.finish().status.code(), Some(0));
}

#[test]
fn stress_duration_ends_the_stress_test() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let address = format!("127.0.0.1:{}", target.port);
    let (code, document, _) = common::measure(&address, &["--stress=true", "--stress-duration=300ms"]);
    assert_eq!(code, 0);
    assert!(document["stress"]["opened"].as_u64().unwrap() > 10);
    assert_eq!(document["stress"]["failed"], 0);
    assert!(document["stress"]["latency_seconds"]["p50"].as_f64().unwrap() > 0.0);
}
