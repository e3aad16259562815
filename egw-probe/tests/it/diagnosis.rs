//! What the client says of a test without a pong, each cause provoked for real. The sentences are those of
//! docs/troubleshooting.md.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::told::as_root;
use crate::common::{Program, free_port, measure, peer, target, wait_for};
use crate::gateway::{Gateway, alone, nft, run};
use crate::kernel::net::{Pair, inside};
use crate::kernel::program::{metric_inside, target_in};
use crate::kernel::{Carries, open_tun};

const POLICY: &str = "a policy forbids the probes: ICMP or this host says so";
const REFUSED: &str = "the connections are refused: nobody listens on that port, or a firewall rejects them";
const UNREACHABLE: &str = "the target is unreachable, as this host or a router says";

/// The hints of a test that gets no pong, each also a WARN line in the log.
fn hints(target: &str, flags: &[&str]) -> Vec<String> {
    let short = ["--interval=20ms", "--probe-timeout=200ms", "--test-timeout=500ms"];
    let (code, document, log) = measure(target, &[&short[..], flags].concat());
    assert_eq!((code, &document["outcome"]), (1, &Value::from("timed_out")), "{log}");
    let hints: Vec<String> = document["diagnosis"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hint| {
            let (what, next) = (hint["what"].as_str().unwrap(), hint["next"].as_str().unwrap());
            let line = format!("WARN {what}; look next: {next}");
            assert_eq!(log.lines().filter(|told| told.ends_with(&line)).count(), 1, "{line} in\n{log}");
            what.to_owned()
        })
        .collect();
    hints
}

/// There is one hint, and it begins so.
fn only(hints: &[String], begins: &str) {
    assert!(matches!(hints, [one] if one.starts_with(&format!("{begins} ("))), "{begins}: {hints:?}");
}

#[test]
fn what_another_peer_does_in_place_of_the_target_is_told_by_name() {
    // Accepted by the kernel, answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    only(&hints(&silent, &[]), "handshakes complete, and replies never come");
    let refusing = format!("127.0.0.1:{}", free_port());
    only(&hints(&refusing, &[]), REFUSED);
    let answers = |reply: fn(TcpStream, usize)| hints(&peer(reply).to_string(), &[]);
    let http = |mut stream: TcpStream, _| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
    only(&answers(http), "something other than an egw-probe target answers");
    let reset = |stream: TcpStream, _| {
        socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    only(&answers(reset), "connections are reset after the handshake");
    let close = |stream: TcpStream, _| drop(stream);
    let unsaid =
        "connections are closed without a reply, which a target does to sources outside --allowed-cidr";
    only(&answers(close), unsaid);
    let denied_once = |mut stream: TcpStream, number| {
        if number == 0 {
            stream.write_all(b"denied\nsource=127.0.0.1:9 accept_ns=1 new=1\n").unwrap();
        }
    };
    only(&answers(denied_once), "something other than the target closes the connections");
}

#[test]
fn whose_address_the_probes_leak_from_is_told_by_name() {
    let denying = target(&["--allowed-cidr=192.0.2.0/24", "--reply=annotated"]);
    let to = format!("127.0.0.1:{}", denying.port);
    let own = hints(&to, &[]);
    only(&own, "the probes leave with the client's own address: nothing translates it");
    assert!(own[0].ends_with("probes, from 127.0.0.1)"), "{own:?}");
    let node = hints(&to, &["--label=node-ip=127.0.0.1"]);
    only(&node, "the probes leave with the node's address: the node masquerades them, and no gateway");
    if !as_root() {
        return;
    }
    let gateway = Gateway::new("masquerade;");
    let denying = gateway.inside(2, || target(&["--allowed-cidr=203.0.113.7/32", "--reply=annotated"]));
    let other = gateway.inside(0, || hints(&format!("192.0.2.2:{}", denying.port), &[]));
    only(&other, "the probes arrive from an address outside --allowed-cidr");
    assert!(other[0].ends_with("probes, from 192.0.2.1)"), "{other:?}");
}

#[test]
fn what_icmp_prohibits_is_a_policy_and_no_missing_way() {
    if !as_root() {
        return;
    }
    for (reject, expected) in [
        ("reject with icmp type admin-prohibited", POLICY),
        ("reject with icmp type host-prohibited", POLICY),
        ("reject with icmp type net-prohibited", POLICY),
        ("reject", POLICY),
        ("reject with icmp type host-unreachable", UNREACHABLE),
        ("reject with icmp type net-unreachable", UNREACHABLE),
        ("reject with tcp reset", REFUSED),
        ("drop", "SYNs are not answered"),
    ] {
        let gateway = Gateway::new("accept;");
        let protocol = if reject.ends_with("reset") { "meta l4proto tcp " } else { "" };
        let rules = format!(
            "table ip refusing {{ chain f {{ type filter hook forward priority 0; iifname \"pod0\" {protocol}{reject}; }}; }}"
        );
        gateway.inside(1, || nft(&rules));
        only(&gateway.inside(0, || hints("192.0.2.2:1337", &[])), expected);
    }
    alone(|| {
        nft("table ip6 refusing { chain i { type filter hook input priority 0; \
             tcp dport 8 reject; tcp dport 9 reject with icmpv6 type admin-prohibited; }; }");
        for to in ["[::1]:8", "[::1]:9"] {
            only(&hints(to, &[]), POLICY);
        }
        run("ip addr add 198.51.100.9/24 dev lo");
        for (kind, expected) in [("prohibit", POLICY), ("unreachable", UNREACHABLE)] {
            run(&format!("ip route replace {kind} 192.0.2.0/24"));
            only(&hints("192.0.2.2:9", &[]), expected);
            run(&format!("ip route del {kind} 192.0.2.0/24"));
        }
    });
}

/// The way between the two hosts of a pair is by a wire of this length: 10.93.0.9 outside, 10.93.0.1 at the target.
fn long_wire(pair: &Pair, one_way: Duration) {
    let ends = [(&pair.outside, 9), (&pair.inside, 1)].map(|(namespace, host)| {
        inside(namespace, || {
            let tun = open_tun("wire0", Carries::Packets);
            run(&format!("ip addr add 10.93.0.{host}/24 dev wire0"));
            run("ip link set wire0 up");
            tun
        })
    });
    for (from, to) in [(0, 1), (1, 0)] {
        let (mut from, mut to) = (ends[from].try_clone().unwrap(), ends[to].try_clone().unwrap());
        let (put, take) = mpsc::channel::<(Instant, Vec<u8>)>();
        // They end with the process of the test.
        std::thread::spawn(move || {
            let mut packet = [0; 2_048];
            while let Ok(length) = from.read(&mut packet) {
                if put.send((Instant::now() + one_way, packet[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            for (due, packet) in take {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write(&packet).is_err() {
                    return;
                }
            }
        });
    }
}

#[test]
fn a_probe_timeout_below_the_round_trip_is_told_with_the_flag_and_the_round_trip() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("slow");
    long_wire(&pair, Duration::from_millis(40));
    let _target = target_in(&pair, &["--allowed-cidr=0.0.0.0/0"]);
    let flags = ["--probe-timeout=20ms", "--interval=10ms", "--test-timeout=1s"];
    let hints = inside(&pair.outside, || hints("10.93.0.1:1337", &flags));
    only(&hints, "answers take longer than --probe-timeout");
    let (_, figures) = hints[0].split_once("got it, after ").unwrap();
    let ms: f64 = figures.split_once("ms to ").unwrap().0.parse().unwrap();
    assert!((80.0..120.0).contains(&ms), "{hints:?}");
    // Listening for the late answers has changed nothing for the target.
    let accepted = |verdict| {
        metric_inside(&pair, &format!("egw_probe_target_connections_total{{verdict=\"{verdict}\"}}"))
    };
    assert_eq!((accepted("allowed"), accepted("denied")), (Some(0.0), Some(0.0)));
    let found = inside(&pair.outside, || measure("10.93.0.1:1337", &["--probe-timeout=200ms"]));
    assert_eq!((found.0, &found.1["diagnosis"]), (0, &Value::Array(vec![])), "no hint where all is well");
}

#[test]
fn a_way_back_that_is_broken_is_said_once_by_the_target_with_a_source() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("back");
    let target = target_in(&pair, &["--allowed-cidr=198.51.100.0/24", "--ebpf=required"]);
    inside(&pair.inside, || {
        nft(
            "table ip back { chain o { type filter hook output priority 0; tcp sport 1337 tcp flags & (syn | ack) == syn | \
             ack drop; }; }",
        );
    });
    let told = inside(&pair.outside, || hints("198.51.100.1:1337", &["--test-timeout=2s"]));
    only(&told, "SYNs are not answered");
    let half_open = || metric_inside(&pair, "egw_probe_target_half_open_total{class=\"allowed\"}");
    wait_for("attempts to be given up on", || half_open() >= Some(90.0));
    // The period in which they were.
    std::thread::sleep(Duration::from_secs(6));
    target.signal(Signal::TERM);
    let log = String::from_utf8(target.finish().stderr).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("attempts stay half open")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains(" WARN ") && line.contains("class=\"allowed\""), "{line}");
    assert!(line.contains("source=198.51.100.9") && line.contains("; look next: `ip route get`"), "{line}");
}

#[test]
fn the_summary_has_a_row_for_the_hint_and_one_for_what_to_look_at_next() {
    let to = format!("127.0.0.1:{}", free_port());
    let args = [
        "client",
        "--external-target-addr",
        &to,
        "--exit",
        "--metrics-addr=127.0.0.1:0",
        "--test-timeout=200ms",
    ];
    let output = Program::start(&args).finish();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = text.lines().skip_while(|row| !row.starts_with("  hint ")).collect();
    let [what, next] = rows[..] else { panic!("{text}") };
    assert!(what.starts_with("  hint       the connections are refused: nobody listens"), "{text}");
    assert!(next.starts_with("             the port in --external-target-addr"), "{text}");
}
