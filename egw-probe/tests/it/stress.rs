//! The stress test against real limits: ports, descriptors, a gateway's NAT, a target that goes away.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common;
use crate::common::{Program, measure, peer, target};
use crate::gateway::{Gateway, alone, nft};

fn set_port_range(range: &str) {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
}

/// What the counts say has to agree with each other, whatever happened.
fn check_sums(stress: &Value) {
    let sum =
        |map: &Value| map.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>();
    let over_time = |key: &str| {
        stress["series"].as_array().unwrap().iter().map(|point| point[key].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum(&stress["failed_by"]), stress["failed"].as_u64().unwrap(), "{stress}");
    assert_eq!(sum(&stress["closed_by"]), stress["closed"].as_u64().unwrap(), "{stress}");
    for key in ["opened", "closed", "failed"] {
        assert_eq!(over_time(key), stress[key].as_u64().unwrap(), "{key}: {stress}");
    }
}

#[test]
fn as_many_connections_as_wanted_are_opened_in_parallel_and_every_one_is_answered() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let address = format!("127.0.0.1:{}", target.port);
    let flags = ["--stress", "--stress-concurrency=8", "--stress-connections=500"];
    let (code, document, log) = measure(&address, &flags);
    let stress = &document["stress"];
    assert_eq!(code, 0, "{log}");
    for (key, expected) in [
        ("opened", json!(500)),
        ("answered", json!(500)),
        ("failed", json!(0)),
        ("closed", json!(0)),
        ("peak_open", json!(500)),
        ("ended", json!("connections")),
        ("limit", Value::Null),
        ("concurrency", json!(8)),
    ] {
        assert_eq!(stress[key], expected, "{key}: {stress}");
    }
    assert_eq!(stress["series"].as_array().unwrap().last().unwrap()["open"], 500);
    check_sums(stress);
}

#[test]
fn with_a_duration_the_wanted_connections_are_held_to_its_end() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let address = format!("127.0.0.1:{}", target.port);
    let flags = ["--stress", "--stress-connections=20", "--stress-duration=400ms"];
    let (_, document, _) = measure(&address, &flags);
    let stress = &document["stress"];
    assert_eq!((&stress["opened"], &stress["ended"]), (&json!(20), &json!("duration")));
    assert!(
        stress["series"].as_array().unwrap().last().unwrap()["from_seconds"].as_f64() >= Some(0.35),
        "{stress}"
    );
}

#[test]
fn used_up_local_ports_are_named_with_their_range_and_further_sources_and_targets_have_ports_of_their_own() {
    alone(|| {
        let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
        let address = format!("127.0.0.1:{}", target.port);
        // A listener on a port keeps connections off it, so the client serves its metrics outside of the range.
        set_port_range("20001 20050");
        let further = format!("--stress-target-addr=127.0.0.77:{}", target.port);
        for (flags, lanes) in [
            (vec![], 1),
            (vec!["--stress-source-addr=127.0.0.5-127.0.0.6,127.0.0.9/32"], 3),
            (vec!["--stress-source-addr=127.0.0.20,127.0.0.21", &further], 4),
        ] {
            let flags =
                [&["--stress", "--stress-concurrency=4", "--metrics-addr=127.0.0.1:2112"], flags.as_slice()]
                    .concat();
            let (_, document, log) = measure(&address, &flags);
            let stress = &document["stress"];
            assert_eq!(stress["opened"], 50 * lanes, "{stress}\n{log}");
            // Dials of several threads can fail at the same moment.
            let failed = stress["failed"].as_u64().unwrap();
            assert!((3..=6).contains(&failed), "{stress}");
            assert_eq!(stress["failed_by"], json!({"no_local_port": failed}), "{stress}");
            assert_eq!(stress["local_port_range"], json!({"low": 20001, "high": 20050}));
            let limit = &stress["limit"];
            assert_eq!((&limit["kind"], &limit["certain"]), (&json!("local_ports"), &json!(true)));
            let evidence = limit["evidence"].as_str().unwrap();
            assert!(
                evidence.contains("50 ports each (net.ipv4.ip_local_port_range = 20001 20050)"),
                "{evidence}"
            );
            assert!(log.contains("--stress-source-addr"), "told before the start, too:\n{log}");
            check_sums(stress);
        }
    });
}

#[test]
fn without_the_descriptors_for_the_connections_wanted_it_does_not_start() {
    let args = ["client", "--external-target-addr=192.0.2.1:1", "--stress", "--stress-connections=841"];
    let output = Program::start_with_descriptors(1000, &args).finish();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: --stress-connections: \"841\": needs 1001 descriptors (160 in reserve), and the hard limit is 1000: run \
         `prlimit --pid $$ --nofile=1001:1001` as root in this shell, or set LimitNOFILE=1001 (systemd), --ulimit \
         nofile=1001 (docker)\n"
    );
}

#[test]
fn at_the_descriptor_limit_it_stops_says_so_and_goes_on_serving_http() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let http_at = SocketAddr::from(([127, 0, 0, 1], common::free_port()));
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    let serve = format!("--metrics-addr={http_at}");
    let args = ["client", "--stress", "--output=json", &to, &serve];
    let client = Program::start_with_descriptors(200, &args);
    common::wait_for("the end of the stress test", || common::status(http_at, "/readyz") == 200);
    assert_eq!(common::metric(http_at, "egw_probe_stress_open_connections"), Some(40.0));
    client.signal(Signal::TERM);
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let stress = &document["stress"];
    assert_eq!((&stress["opened"], &stress["ended"]), (&json!(40), &json!("descriptors")));
    assert_eq!(stress["limit"]["kind"], "descriptors");
}

#[test]
fn connections_that_close_are_told_with_when_and_how() {
    let held = Mutex::new(Vec::new());
    // The first is the probe's. Of the others, one is closed and one reset, 300 ms after it came.
    let address = peer(move |mut stream, number| {
        stream.write_all(b"pong\n").unwrap();
        if number == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(300));
        match number {
            1 => drop(stream),
            2 => drop(stream_that_resets(stream)),
            _ => held.lock().unwrap().push(stream),
        }
    });
    // A second probe would take a stress connection's number.
    let flags = ["--stress", "--stress-connections=3", "--stress-duration=800ms", "--interval=10s"];
    let (_, document, _) = measure(&address.to_string(), &flags);
    let stress = &document["stress"];
    assert_eq!((&stress["opened"], &stress["answered"]), (&json!(3), &json!(3)), "{stress}");
    assert_eq!(stress["closed_by"], json!({"reset": 1, "closed": 1}));
    for closing in stress["closings"].as_array().unwrap() {
        let open = closing["open_seconds"].as_f64().unwrap();
        assert!((0.29..0.7).contains(&open), "{closing}");
        assert_eq!((&closing["target"], &closing["answered"]), (&json!(address.to_string()), &json!(true)));
    }
    check_sums(stress);
}

#[test]
fn a_target_whose_accept_queue_is_full_counts_that_and_answers_everyone_once_it_runs_again() {
    alone(|| {
        std::fs::write("/proc/sys/net/core/somaxconn", "8").unwrap();
        // With cookies the kernel forgets handshakes that it had no room for, and the client never learns.
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").unwrap();
        let target = target(&["--allowed-cidr=127.0.0.0/8"]);
        let overflows = || common::metric(target.http, "egw_probe_target_listen_overflows");
        assert_eq!(overflows(), Some(0.0));
        target.program.stop();
        // More than fit into the queues of its two or more listeners.
        let clients: Vec<socket2::Socket> = (0..40)
            .map(|_| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&SocketAddr::from(([127, 0, 0, 1], target.port)).into());
                socket
            })
            .collect();
        target.program.go_on();
        for socket in clients {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
            // The SYNs that found no room are sent again after 1, 2 and 4 s. A read on a socket that is still connecting
            // says so at once.
            common::wait_for("the handshake", || socket.peer_addr().is_ok());
            let mut reply = Vec::new();
            std::io::Read::read_to_end(&mut &socket, &mut reply).unwrap();
            assert_eq!(reply, b"pong\n", "nobody is turned away unanswered");
        }
        assert!(overflows() >= Some(5.0), "{:?}", overflows());
    });
}

fn stream_that_resets(stream: TcpStream) -> socket2::Socket {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket
}

#[test]
fn a_target_that_ends_is_the_limit_not_the_gateway() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let address = format!("127.0.0.1:{}", target.port);
    let (opening, opened) = mpsc::channel::<()>();
    let http = target.http;
    let killer = std::thread::spawn(move || {
        opened.recv().unwrap();
        drop(target);
    });
    std::thread::spawn(move || {
        common::wait_for("connections", || {
            common::metric(http, "egw_probe_target_open_connections") >= Some(100.0)
        });
        opening.send(()).unwrap();
    });
    let (_, document, _) = measure(&address, &["--stress", "--stress-concurrency=2"]);
    killer.join().unwrap();
    let stress = &document["stress"];
    assert_eq!(stress["ended"], "failed_dials");
    assert!(stress["failed"].as_u64() >= Some(3) && stress["closed"].as_u64() >= Some(1), "{stress}");
    assert_eq!(stress["limit"]["kind"], "target", "{}", stress["limit"]);
    check_sums(stress);
}

#[test]
fn a_gateway_without_nat_ports_is_told_from_everything_on_this_host() {
    alone(|| {
        let gateway = Gateway::new("meta l4proto tcp masquerade to :50000-50099;");
        let target = gateway.inside(2, || target(&["--allowed-cidr=192.0.2.1/32", "--keep-open"]));
        let address = format!("192.0.2.2:{}", target.port);
        let begun = Instant::now();
        let flags = ["--stress", "--stress-concurrency=3"];
        let (_, document, log) = gateway.inside(0, || measure(&address, &flags));
        let stress = &document["stress"];
        // The probe's connection may still hold one of the hundred.
        let opened = stress["opened"].as_u64().unwrap();
        assert!((99..=100).contains(&opened), "{stress}\n{log}");
        assert_eq!(stress["failed_by"], json!({"timeout": 3}));
        assert!(
            begun.elapsed() < Duration::from_secs(14),
            "three dials time out at the same time, not in turn"
        );
        let limit = &stress["limit"];
        assert_eq!((&limit["kind"], &limit["certain"]), (&json!("nat_ports"), &json!(false)), "{limit}");
        let evidence = limit["evidence"].as_str().unwrap();
        assert!(evidence.contains("all of them answered and none lost"), "{evidence}");
        for failure in stress["failures"].as_array().unwrap() {
            // The last one may have opened while these waited: once the probe's entry had gone.
            assert!((99..=opened).contains(&failure["open"].as_u64().unwrap()), "{failure}");
            assert!((4.9..6.0).contains(&failure["elapsed_seconds"].as_f64().unwrap()), "{failure}");
        }
        check_sums(stress);
    });
}

#[test]
fn syns_that_a_crowded_nat_range_loses_are_counted_and_told_as_its_limit() {
    alone(|| {
        // Linux tries some ports of a range, and drops the SYN if none of them is free.
        let gateway = Gateway::new("meta l4proto tcp masquerade to :50000-50999 fully-random;");
        let target = gateway.inside(2, || target(&["--allowed-cidr=192.0.2.1/32", "--keep-open"]));
        let address = format!("192.0.2.2:{}", target.port);
        let flags = ["--stress", "--stress-concurrency=8", "--stress-duration=4s"];
        let (code, document, log) = gateway.inside(0, || measure(&address, &flags));
        let stress = &document["stress"];
        assert_eq!(
            (code, &stress["ended"], &stress["failed"]),
            (0, &json!("duration"), &json!(0)),
            "{stress}\n{log}"
        );
        assert!(stress["opened"].as_u64() > Some(900), "{stress}");
        let (again, first) = (&stress["syn_retransmissions"], &stress["first_lost_syn"]["open"]);
        // Below a third of the range a tried port is hardly ever taken.
        assert!(again.as_u64() >= Some(8) && first.as_u64() > Some(333), "{stress}");
        assert_eq!(stress["limit"]["kind"], "nat_ports", "{stress}");
        let (dials, last) = (&stress["lost_syn_dials"], &stress["last_lost_syn"]["open"]);
        let told = format!(
            "{} connections were opened; SYNs sent again: {again} of {dials} dials, the first at {first} open connections, \
             the last at {last}",
            stress["opened"]
        );
        assert_eq!(stress["limit"]["evidence"], told);
    });
}

#[test]
fn syns_that_are_lost_until_the_time_is_over_are_counted_too() {
    alone(|| {
        let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
        let address = format!("127.0.0.1:{}", target.port);
        // No SYN gets through once 50 connections are there.
        nft(&format!(
            "table ip full {{ chain out {{ type filter hook output priority 0; tcp dport {} tcp flags & (syn|ack) == syn \
             ct count over 50 drop; }}; }}",
            target.port
        ));
        let flags = ["--stress", "--stress-duration=2500ms", "--stress-concurrency=4"];
        let (_, document, _) = measure(&address, &flags);
        let stress = &document["stress"];
        assert_eq!(
            (&stress["ended"], &stress["lost_syn_dials"]),
            (&json!("duration"), &json!(4)),
            "{stress}"
        );
        assert!(stress["syn_retransmissions"].as_u64() >= Some(4), "{stress}");
        assert_eq!(stress["limit"]["kind"], "nat_ports", "{}", stress["limit"]);
        check_sums(stress);
    });
}

#[test]
fn a_target_that_resets_before_any_reply_fails_the_dials() {
    let address = peer(|mut stream, number| {
        if number == 0 {
            return stream.write_all(b"pong\n").unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
        drop(stream_that_resets(stream));
    });
    let (_, document, _) =
        measure(&address.to_string(), &["--stress", "--stress-connections=500", "--interval=10s"]);
    let stress = &document["stress"];
    assert_eq!((&stress["opened"], &stress["closed"]), (&json!(0), &json!(0)), "{stress}");
    assert!(
        stress["failed"].as_u64() >= Some(3) && stress["failed"] == stress["failed_by"]["reset"],
        "{stress}"
    );
    check_sums(stress);
}

#[test]
fn a_target_that_stops_accepting_is_told_from_a_gateway_without_ports() {
    alone(|| {
        std::fs::write("/proc/sys/net/core/somaxconn", "16").unwrap();
        let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
        let address = format!("127.0.0.1:{}", target.port);
        let http = target.http;
        // Stopped once it has some connections, it completes no more than its queues hold.
        let stopper = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                common::wait_for("connections", || {
                    common::metric(http, "egw_probe_target_open_connections") >= Some(50.0)
                });
                target.program.stop();
            });
            let measured = measure(&address, &["--stress", "--stress-concurrency=3"]);
            watch.join().unwrap();
            measured
        });
        target.program.go_on();
        let (_, document, log) = stopper;
        let stress = &document["stress"];
        assert_eq!(stress["failed_by"], json!({"no_reply": 3}), "{stress}\n{log}");
        assert_eq!(stress["limit"]["kind"], "target", "{}", stress["limit"]);
        assert!(stress["limit"]["evidence"].as_str().unwrap().contains("got no pong"), "{}", stress["limit"]);
    });
}
