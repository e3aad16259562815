//! The client against real sockets: outcomes, overlap, settling, limits, signals, exit codes.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common;
use crate::common::{Program, free_port, measure, peer, target};

#[test]
fn each_way_a_connection_can_go_has_its_outcome() {
    let reset = |stream: std::net::TcpStream| {
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    };
    let address = peer(move |mut stream, number| match number {
        0 => drop(stream),
        1 => reset(stream),
        2 => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap(),
        3 => stream.write_all(b"pong").unwrap(),
        4 => std::thread::sleep(Duration::from_secs(3)),
        _ => stream.write_all(b"pong\n").unwrap(),
    });
    let (code, document, _) =
        measure(&address.to_string(), &["--interval=100ms", "--probe-timeout=80ms", "--test-timeout=10s"]);
    assert_eq!(code, 0);
    let probes = &document["probes"];
    for (outcome, expected) in
        [("leaked", 1), ("reset", 1), ("garbled", 2), ("silent", 1), ("pong", 1), ("error", 0)]
    {
        assert_eq!(probes[outcome], expected, "{outcome} in {document}");
    }
    assert_eq!(probes["sent"], 6);
    assert_eq!(probes["misses_before_winner"], 5);
    let outcomes: Vec<_> =
        document["timeline"].as_array().unwrap().iter().map(|run| &run["outcome"]).collect();
    assert_eq!(outcomes, ["leaked", "reset", "garbled", "silent", "pong"]);
    assert_eq!(document["blackhole_seconds"], 0.0, "every handshake was completed");
}

#[test]
fn a_port_without_a_listener_refuses_and_the_test_times_out() {
    let (code, document, _) =
        measure(&format!("127.0.0.1:{}", free_port()), &["--test-timeout=500ms", "--interval=100ms"]);
    assert_eq!(code, 1);
    assert_eq!(document["outcome"], "timed_out");
    assert_eq!(document["probes"]["refused"], document["probes"]["sent"]);
    assert!(document["probes"]["sent"].as_u64() > Some(1));
    assert!(document["masquerade_delay_seconds"].is_null());
    assert!(document["bracket"]["upper_seconds"].is_null());
}

#[test]
fn probes_overlap_so_an_interval_far_below_the_round_trip_succeeds() {
    let begun = Instant::now();
    // Leaks for 400 ms, then answers; each answer takes 300 ms.
    let address = peer(move |mut stream, _| {
        let leaks = begun.elapsed() < Duration::from_millis(400);
        std::thread::sleep(Duration::from_millis(300));
        if !leaks {
            stream.write_all(b"pong\n").unwrap();
        }
    });
    let (code, document, _) = measure(&address.to_string(), &["--interval=10ms"]);
    assert_eq!(code, 0);
    let bracket = &document["bracket"];
    let width = bracket["upper_seconds"].as_f64().unwrap() - bracket["lower_seconds"].as_f64().unwrap();
    // A plain pong bounds by its arrival, 300 ms after its handshake.
    assert!(width < 0.4, "neighbouring probes, 300 ms until an answer: {width}");
    assert!(document["probes"]["sent"].as_u64().unwrap() > 40, "{document}");
}

#[test]
fn the_winner_is_the_pong_sent_first_even_if_it_comes_last() {
    let address = peer(|mut stream, number| {
        std::thread::sleep(Duration::from_millis(if number == 0 { 400 } else { 0 }));
        stream.write_all(b"pong\n").unwrap();
    });
    let (code, document, _) = measure(&address.to_string(), &["--interval=50ms"]);
    assert_eq!(code, 0);
    let first_sent = document["timeline"][0]["from_seconds"].as_f64().unwrap();
    let delay = document["masquerade_delay_seconds"].as_f64().unwrap();
    // A plain pong bounds by its arrival: the second one's, which came long before the winner's.
    assert!(delay - first_sent < 0.3, "{document}");
    assert_eq!(document["probes"]["misses_before_winner"], 0);
}

#[test]
fn a_pong_in_flight_at_the_test_timeout_counts() {
    let address = peer(|mut stream, _| {
        std::thread::sleep(Duration::from_millis(400));
        stream.write_all(b"pong\n").unwrap();
    });
    let (code, document, _) = measure(&address.to_string(), &["--interval=50ms", "--test-timeout=100ms"]);
    assert_eq!((code, &document["outcome"]), (0, &"masqueraded".into()));
    assert_eq!(document["probes"]["pong"], document["probes"]["sent"]);
}

#[test]
fn without_descriptors_ticks_are_skipped_and_the_result_says_so() {
    // Accepted by the kernel, answered by nobody: every probe waits for its timeout.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let flags = ["--interval=2ms", "--probe-timeout=4s", "--test-timeout=2s"];
    let http_at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serve = format!("--metrics-addr={http_at}");
    let args = ["client", "--external-target-addr", &address, "--exit", "--output=json", &serve];
    let client = Program::start_with_descriptors(180, &[&args[..], &flags].concat());
    let skipped = || common::metric(http_at, "egw_probe_skipped_ticks_total");
    common::wait_for("ticks that are skipped, told by HTTP from its reserve", || skipped() > Some(100.0));
    let output = client.finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document["probes"]["sent"], 20, "180 descriptors, 160 of them in reserve");
    assert_eq!(document["probes"]["error"], 0);
    assert!(document["probes"]["skipped_ticks"].as_u64().unwrap() > 100);
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(warning.contains("no descriptor left") && warning.contains("ulimit -n"), "{warning}");
}

#[test]
fn a_long_probe_timeout_warns_that_a_probe_may_be_several_syns() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (code, document, stderr) =
        measure(&format!("127.0.0.1:{}", target.port), &["--probe-timeout=1500ms"]);
    assert_eq!(code, 0);
    assert!(
        stderr.contains("--probe-timeout 1.5s reaches the kernel's first SYN retransmission"),
        "{stderr}"
    );
    assert_eq!(document["probes"]["syn_retransmissions"], 0);
}

#[test]
fn gates_fail_a_masqueraded_test_and_say_why() {
    let leak_two = |mut stream: std::net::TcpStream, number| {
        if number >= 2 {
            stream.write_all(b"pong\n").unwrap();
        }
    };
    let (code, document, _) = measure(&peer(leak_two).to_string(), &["--max-leaked=1", "--max-delay=1ns"]);
    assert_eq!(code, 1);
    assert_eq!(document["outcome"], "masqueraded");
    assert_eq!(document["failed_gates"][1], "--max-leaked 1: 2 probes leaked");
    assert_eq!(document["failed_gates"].as_array().unwrap().len(), 2);
    let (code, document, _) = measure(&peer(leak_two).to_string(), &["--max-leaked=2", "--max-delay=10s"]);
    assert_eq!((code, document["failed_gates"].as_array().unwrap().len()), (0, 0));
}

#[test]
fn an_annotated_reply_tells_the_egress_ip() {
    let target = target(&["--allowed-cidr=::1/128", "--reply=annotated"]);
    let (code, document, _) = measure(&format!("[::1]:{}", target.port), &["--source-addr=::1"]);
    assert_eq!(code, 0);
    assert_eq!(document["egress_ip"], "::1");
}

#[test]
fn a_signal_before_a_verdict_prints_an_interrupted_result_and_exits_1() {
    for signal in [Signal::TERM, Signal::INT] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
        let client = Program::start(&[
            "client",
            "--external-target-addr",
            &address,
            "--output=json",
            "--metrics-addr",
            &metrics,
        ]);
        common::wait_for("probing", || common::status(metrics.parse().unwrap(), "/readyz") == 500);
        let signalled = Instant::now();
        client.signal(signal);
        let output = client.finish();
        assert!(signalled.elapsed() < Duration::from_millis(500), "at once, not after the probe timeout");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &document["outcome"]), (Some(1), &"interrupted".into()));
    }
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let port = taken.rsplit(':').next().unwrap();
    for (args, expected) in [
        (
            &["client"][..],
            "error: --external-target-addr is missing: write --external-target-addr=IP:port\n".to_owned(),
        ),
        (
            &["client", "--external-target-addr=127.0.0.1:1", "--metrics-addr", &taken],
            format!(
                "error: --metrics-addr: \"{taken}\": port {port} is in use: stop the other program, or choose another port\n"
            ),
        ),
        (
            &["client", "--external-target-addr=127.0.0.1:1", "--interval=0"],
            "error: --interval: \"0s\": must be above 0, as in 50ms\n".to_owned(),
        ),
    ] {
        let output = Program::start(args).finish();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        assert!(output.stdout.is_empty());
    }
}

/// Answers pong, but between `from` and `to` after its first connection does what `disrupt` says.
fn disrupted_peer(from: Duration, to: Duration, disrupt: fn(std::net::TcpStream)) -> SocketAddr {
    let begun = std::sync::OnceLock::new();
    peer(move |mut stream, _| {
        let age = begun.get_or_init(Instant::now).elapsed();
        if (from..to).contains(&age) { disrupt(stream) } else { stream.write_all(b"pong\n").unwrap() }
    })
}

#[test]
fn a_watch_brackets_a_disruption_and_tells_its_kind() {
    let ms = Duration::from_millis;
    let silent: fn(std::net::TcpStream) = |stream| {
        std::thread::sleep(Duration::from_millis(600));
        drop(stream);
    };
    for (kind, disrupt) in [("leak", drop as fn(std::net::TcpStream)), ("blackhole", silent)] {
        let address = disrupted_peer(ms(200), ms(500), disrupt);
        let flags = ["--watch=900ms", "--interval=10ms", "--probe-timeout=200ms"];
        let (code, document, stderr) = measure(&address.to_string(), &flags);
        assert_eq!(code, 0, "{stderr}");
        let disruptions = document["disruptions"].as_array().unwrap();
        assert_eq!(disruptions.len(), 1, "{document}");
        assert_eq!(disruptions[0]["kind"], kind);
        let length = &disruptions[0]["length_seconds"];
        let (lower, upper) = (length["lower"].as_f64().unwrap(), length["upper"].as_f64().unwrap());
        assert!(lower <= 0.3 && 0.3 <= upper + 0.002 && upper < 0.36, "{kind}: {length}");
        assert!(stderr.contains("disruption began") && stderr.contains("disruption ended"), "{stderr}");
        assert_eq!(document["outcome"], "masqueraded");
        assert_eq!(
            document["probes"]["misses_before_winner"], 0,
            "after the winner it is no part of the delay"
        );
    }
}

#[test]
fn a_signal_ends_a_watch_normally() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, metrics_addr) = (format!("127.0.0.1:{}", target.port), metrics.to_string());
    let args = ["client", "--external-target-addr", &address, "--metrics-addr", &metrics_addr];
    let client =
        Program::start(&[&args[..], &["--watch", "--exit", "--output=json", "--interval=5ms"]].concat());
    common::wait_for("the winner", || common::status(metrics, "/readyz") == 200);
    common::wait_for("more probes", || {
        common::metric(metrics, "egw_probe_probes_total{outcome=\"pong\"}") > Some(20.0)
    });
    assert_eq!(common::metric(metrics, "egw_probe_disrupted"), Some(0.0));
    client.signal(Signal::TERM);
    let output = client.finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["outcome"]), (Some(0), &"masqueraded".into()));
    assert_eq!(
        (&document["disruptions_total"], &document["settings"]["watch"]),
        (&0.into(), &"unbounded".into())
    );
    assert_eq!(document["probes"]["sent"], document["probes"]["pong"], "all in flight were settled");
}

#[test]
fn a_watch_that_ends_inside_a_disruption_fails_and_gates_judge_the_upper_bound() {
    let ms = Duration::from_millis;
    let address = disrupted_peer(ms(100), ms(60_000), drop);
    let (code, document, _) = measure(&address.to_string(), &["--watch=300ms", "--interval=10ms"]);
    assert_eq!((code, &document["failed_gates"][0]), (1, &"the watch ended inside a disruption".into()));
    assert!(document["disruptions"][0]["length_seconds"]["upper"].is_null());
    let flags = ["--watch=500ms", "--interval=10ms", "--max-disruption=50ms", "--max-disruptions=0"];
    let (code, document, _) = measure(&disrupted_peer(ms(100), ms(200), drop).to_string(), &flags);
    let failed = document["failed_gates"].as_array().unwrap();
    assert_eq!((code, failed.len()), (1, 2), "{document}");
    assert!(
        failed[0].as_str().unwrap().starts_with("--max-disruption 50ms: a disruption may have lasted 0.1")
    );
    assert_eq!(failed[1], "--max-disruptions 0: there were 1");
}

#[test]
fn a_stopped_client_counts_its_skipped_ticks_and_says_when_it_was_stopped() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, metrics_addr) = (format!("127.0.0.1:{}", target.port), metrics.to_string());
    let args = ["client", "--external-target-addr", &address, "--metrics-addr", &metrics_addr];
    let client = Program::start(&[&args[..], &["--watch", "--output=json", "--interval=10ms"]].concat());
    common::wait_for("the winner", || common::status(metrics, "/readyz") == 200);
    client.stop();
    std::thread::sleep(Duration::from_secs(2));
    client.go_on();
    common::wait_for("the skipped ticks", || {
        common::metric(metrics, "egw_probe_skipped_ticks_total") >= Some(195.0)
    });
    client.signal(Signal::INT);
    let output = client.finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let stalls = document["stalls"].as_array().unwrap();
    let longest = stalls.iter().map(|stall| stall["length_seconds"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((1.9..2.3).contains(&longest), "{stalls:?}");
    assert_eq!(document["disruptions_total"], 0, "a client that slept saw no disruption: {document}");
}

#[test]
fn held_connections_survive_a_healthy_path_and_their_loss_is_told() {
    let first = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, metrics_addr) = (format!("127.0.0.1:{}", first.port), metrics.to_string());
    let args = ["client", "--external-target-addr", &address, "--metrics-addr", &metrics_addr];
    let client = Program::start(&[&args[..], &["--watch", "--hold=3", "--output=json"]].concat());
    let held = || common::metric(metrics, "egw_probe_held_connections");
    common::wait_for("three held connections", || held() == Some(3.0));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(common::metric(metrics, "egw_probe_held_stall_seconds_count"), Some(0.0));
    let listen = format!("--listen-port={}", first.port);
    drop(first);
    let lost = |reason: &str| {
        common::metric(metrics, &format!("egw_probe_held_lost_total{{reason=\"{reason}\"}}")).unwrap()
    };
    // The kernel resets those whose latest byte the target had not come to read.
    common::wait_for("three losses", || lost("closed") + lost("reset") >= 3.0);
    common::wait_for("a refused probe", || {
        common::metric(metrics, "egw_probe_probes_total{outcome=\"refused\"}") > Some(0.0)
    });
    let _second = Program::start(&[
        "external-target",
        "--allowed-cidr=127.0.0.0/8",
        "--keep-open",
        &listen,
        "--metrics-addr=127.0.0.1:0",
    ]);
    common::wait_for("three held connections again", || held() == Some(3.0));
    client.signal(Signal::TERM);
    let output = client.finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = &document["held"];
    assert_eq!((&report["opened"], &report["lost_total"]), (&6.into(), &3.into()), "{report}");
    assert_eq!(report["stalls_total"], 0);
    let refused = document["probes"]["refused"].as_u64().unwrap();
    let missed = &document["loss"];
    assert_eq!(
        missed["isolated"]["misses"].as_u64().unwrap() + missed["in_disruptions"]["misses"].as_u64().unwrap(),
        refused,
        "the probes were refused meanwhile: {document}"
    );
    assert!(refused > 0);
}

#[test]
fn a_watch_begins_also_when_the_winner_comes_after_the_test_timeout() {
    let address = peer(|mut stream, number| {
        std::thread::sleep(Duration::from_millis(if number < 3 { 400 } else { 0 }));
        stream.write_all(b"pong\n").unwrap();
    });
    let flags = ["--test-timeout=100ms", "--interval=50ms", "--watch=600ms"];
    let (code, document, _) = measure(&address.to_string(), &flags);
    assert_eq!(code, 0);
    assert!(document["probes"]["sent"].as_u64() > Some(5), "it goes on for 600 ms: {document}");
}

#[test]
fn what_was_settled_before_a_signal_is_told_and_what_was_not_is_counted() {
    // The first is never answered, so that all others wait behind it.
    let address = peer(|stream, number| {
        if number == 0 {
            std::thread::sleep(Duration::from_secs(5));
        }
        drop(stream);
    });
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, metrics_addr) = (address.to_string(), metrics.to_string());
    let args =
        ["client", "--external-target-addr", &address, "--metrics-addr", &metrics_addr, "--output=json"];
    let client = Program::start(&[&args[..], &["--interval=20ms", "--probe-timeout=10s"]].concat());
    std::thread::sleep(Duration::from_millis(400));
    client.signal(Signal::TERM);
    let output = client.finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let probes = &document["probes"];
    let count = |key: &str| probes[key].as_u64().unwrap();
    assert_eq!(document["outcome"], "interrupted");
    assert!(count("leaked") > 3 && count("unsettled") >= 1, "{probes}");
    assert_eq!(count("sent"), count("leaked") + count("unsettled"), "{probes}");
}

#[test]
fn a_signal_ends_a_watch_that_holds_connections_at_once() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, metrics_addr) = (format!("127.0.0.1:{}", target.port), metrics.to_string());
    let args = ["client", "--external-target-addr", &address, "--metrics-addr", &metrics_addr];
    let client = Program::start(&[&args[..], &["--watch", "--hold=1", "--interval=9s"]].concat());
    common::wait_for("the winner", || common::status(metrics, "/readyz") == 200);
    let signalled = Instant::now();
    client.signal(Signal::TERM);
    assert_eq!(client.finish().status.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_millis(800), "{:?}", signalled.elapsed());
}

#[test]
fn held_connections_that_are_closed_at_once_are_told() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let flags = ["--watch=700ms", "--hold=2"];
    let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &flags);
    let held = &document["held"];
    assert!(held["lost_total"].as_u64() > Some(2), "{held}");
    assert_eq!(held["lost_total"], held["opened"]);
    // Where a byte crossed the close, the kernel says that it was reset.
    let closed = |lost: &serde_json::Value| lost["reason"] == "closed";
    assert!(held["lost"].as_array().unwrap().iter().any(closed), "{held}");
}

#[test]
fn a_delay_that_is_mostly_the_clients_own_start_is_called_weak() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &[]);
    let seconds = |name: &str| document[name].as_f64().unwrap();
    let mostly = seconds("first_probe_seconds") > seconds("masquerade_delay_seconds") / 2.0;
    let warned = document["warnings"].to_string().contains("the first probe left");
    assert_eq!(warned, mostly, "{document}");
    // A target that takes its time makes up most of the delay itself.
    let address = peer(|mut stream, _| {
        std::thread::sleep(Duration::from_millis(400));
        stream.write_all(b"pong\n").unwrap();
    });
    let (_, document, _) = measure(&address.to_string(), &[]);
    assert!(!document["warnings"].to_string().contains("the first probe left"), "{document}");
}

#[test]
fn two_clients_do_not_probe_in_step() {
    let target = target(&["--allowed-cidr=192.0.2.0/24"]);
    let phases = [(); 2].map(|()| {
        let flags = ["--interval=10ms", "--test-timeout=100ms"];
        let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &flags);
        let phase = document["settings"]["tick_phase"].as_str().unwrap().to_owned();
        assert!(document["probes"]["sent"].as_u64() > Some(5), "{document}");
        phase
    });
    assert_ne!(phases[0], phases[1]);
    let flags = ["--interval=10ms", "--test-timeout=100ms", "--tick-phase=3ms"];
    let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &flags);
    assert_eq!(document["settings"]["tick_phase"], "3ms");
}
