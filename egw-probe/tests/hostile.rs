//! What peers do to either end, each with what was promised of it: the table in docs/robustness.md is made of what these
//! tests tell. What goes wrong on the host itself is in faults.rs.

mod common;
#[path = "kernel/net.rs"]
mod net;
#[path = "common/told.rs"]
mod told;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Program, http, measure, measure_and_peak, metric, peer, status, target, wait_for};
use etherparse::PacketBuilder;
use net::{Pair, inside};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use told::{as_root, tried};

/// How much more than with honest peers either end may take under attack, in KiB.
const MOST_MORE_KIB: u64 = 8 * 1024;

/// What hostile targets say, and what a probe makes of it.
#[test]
fn whatever_a_target_answers_a_probe_has_an_outcome_and_memory_stays_bounded() {
    type Serve = fn(&mut TcpStream);
    let behaviours: [(&str, Serve, &str); 8] = [
        ("garbage", |s| drop(s.write_all(&[0xff; 4096])), "garbled"),
        ("a pong without its newline", |s| drop(s.write_all(b"pong")), "garbled"),
        ("an endless line", |s| while s.write_all(&[b'p'; 8192]).is_ok() {}, "garbled"),
        (
            "a pong, and no end of what follows",
            |s| {
                let _ = s.write_all(b"pong\nsource=");
                while s.write_all(&[b'1'; 8192]).is_ok() {}
            },
            "pong",
        ),
        (
            "one byte at a time, and then something else",
            |s| {
                for byte in b"ponk\n" {
                    let _ = s.write_all(&[*byte]);
                    std::thread::sleep(Duration::from_millis(5));
                }
            },
            "garbled",
        ),
        ("nothing, and a close", |_| {}, "leaked"),
        ("nothing at all", |s| drop(s.read(&mut [0])), "timeout"),
        (
            "a pong after the timeout",
            |s| {
                std::thread::sleep(Duration::from_millis(400));
                let _ = s.write_all(b"pong\n");
            },
            "timeout",
        ),
    ];
    let flags = ["--test-timeout=600ms", "--probe-timeout=150ms", "--interval=20ms"];
    let denying = target(&["--allowed-cidr=192.0.2.0/24"]);
    let (.., usual_kib) = measure_and_peak(&format!("127.0.0.1:{}", denying.port), &flags);
    let (mut probes, mut most_kib) = (0, 0);
    for (what, serve, outcome) in behaviours {
        let address = peer(move |mut stream, _| serve(&mut stream)).to_string();
        let (code, document, said, peak_kib) = measure_and_peak(&address, &flags);
        let expected = if outcome == "pong" { (0, &json!("masqueraded")) } else { (1, &json!("timed_out")) };
        assert_eq!((code, &document["outcome"]), expected, "{what}: {said}");
        let sent = document["probes"]["sent"].as_u64().unwrap();
        assert!(sent > 0 && document["probes"][outcome] == sent, "{what}: {}", document["probes"]);
        assert!(peak_kib < usual_kib + MOST_MORE_KIB, "{what}: {peak_kib} KiB, usually {usual_kib}");
        probes += sent;
        most_kib = most_kib.max(peak_kib);
    }
    let address = peer(|mut stream, _| {
        for byte in b"pong\n" {
            let _ = stream.write_all(&[*byte]);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (code, document, _) = measure(&address.to_string(), &[]);
    assert_eq!((code, &document["outcome"]), (0, &json!("masqueraded")), "one byte at a time is a pong");
    tried(
        "a target that answers garbage, an endless line, a pong and no end of what follows, half a pong, one byte at a time, \
         nothing, or a pong after the timeout",
        format!("9 targets, {probes} probes"),
        "each probe has its outcome, nothing counts as a pong that is none, memory bounded",
        format!(
            "every outcome as it should be; {most_kib} KiB resident at the most, {usual_kib} with an honest target"
        ),
    );
}

/// The program in the namespace of the pair that is the target's.
fn target_in(pair: &Pair, flags: &[&str]) -> Program {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &pair.inside, env!("CARGO_BIN_EXE_egw-probe"), "external-target"])
        .args(flags);
    let target = Program::start_command(&mut command);
    wait_for("the target", || status_inside(pair, "/healthz") == 200);
    target
}

const TARGET: &str = "198.51.100.1:1337";
const TARGET_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2113);

fn status_inside(pair: &Pair, path: &str) -> u16 {
    inside(&pair.inside, || status(TARGET_HTTP, path))
}

fn metric_inside(pair: &Pair, series: &str) -> Option<f64> {
    inside(&pair.inside, || metric(TARGET_HTTP, series))
}

fn client_outside(pair: &Pair, flags: &[&str]) -> Value {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pair.outside, env!("CARGO_BIN_EXE_egw-probe"), "client"]);
    command.args(["--external-target-addr", TARGET, "--exit", "--output=json"]).args(flags);
    let output = Program::start_command(&mut command).finish();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn an_answer_from_another_port_is_no_answer() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("port");
    let _target = target_in(&pair, &["--allowed-cidr=0.0.0.0/0"]);
    let rules = "add table ip other
        add chain ip other out { type filter hook output priority raw; }
        add rule ip other out tcp sport 1337 tcp flags & (syn | ack) == syn | ack tcp sport set 1338";
    let nft = Command::new("ip").args(["netns", "exec", &pair.inside, "nft", rules]).output().unwrap();
    assert!(nft.status.success(), "{}", String::from_utf8_lossy(&nft.stderr));
    let document =
        client_outside(&pair, &["--test-timeout=500ms", "--probe-timeout=200ms", "--interval=20ms"]);
    let probes = &document["probes"];
    assert!(probes["sent"].as_u64() > Some(0) && probes["timeout"] == probes["sent"], "{probes}");
    assert_eq!(document["outcome"], "timed_out");
    tried(
        "SYN-ACKs that come from another port",
        format!("{} probes", probes["sent"]),
        "no answer: timeouts, never a leak or a pong",
        format!("{} timeouts", probes["timeout"]),
    );
}

/// Sends a bare SYN to the target from an address and a port of the caller's choice.
fn send_syn(socket: &Socket, source: Ipv4Addr, port: u16) {
    let to = [198, 51, 100, 1];
    let mut packet = Vec::new();
    let builder =
        PacketBuilder::ipv4(source.octets(), to, 64).tcp(port, net::PORT, u32::from(port) << 8, 64_000).syn();
    builder.write(&mut packet, &[]).unwrap();
    let to = SockAddr::from(SocketAddr::from((to, 0)));
    // A full queue of the device is not the target's doing.
    while socket.send_to(&packet, &to).is_err() {
        std::thread::yield_now();
    }
}

/// A socket for whole IPv4 packets (raw(7)).
fn raw_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap()
}

#[test]
fn a_flood_of_half_open_connections_spoils_no_honest_measurement_and_no_count() {
    const SYNS: u64 = 50_000;
    if !as_root() {
        return;
    }
    let pair = Pair::new("flood");
    // SYN-ACKs to that network reach a host that has none of its addresses, and vanish: every handshake stays half open.
    pair.ip("route add 203.0.113.0/24 via 198.51.100.9");
    let mut forward = Command::new("ip");
    forward.args(["netns", "exec", &pair.outside, "sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    assert!(forward.status().unwrap().success());
    let target = target_in(&pair, &["--allowed-cidr=198.51.100.9/32", "--ebpf=required"]);
    let before_kib = metric_inside(&pair, "process_resident_memory_bytes").unwrap() / 1024.0;
    let sent = AtomicU64::new(0);
    let document = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            inside(&pair.outside, || {
                let socket = raw_socket();
                for number in 0..SYNS as u32 {
                    send_syn(&socket, Ipv4Addr::new(203, 0, 113, number as u8), (number / 256) as u16 + 1024);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        wait_for("the flood to begin", || sent.load(Ordering::Relaxed) > 1_000);
        let document = client_outside(&pair, &["--interval=10ms", "--watch=1s"]);
        flood.join().unwrap();
        document
    });
    let probes = &document["probes"];
    assert_eq!(
        (&document["outcome"], &document["disruptions_total"]),
        (&json!("masqueraded"), &json!(0)),
        "{document:#}"
    );
    assert_eq!(probes["pong"], probes["sent"]);
    let syns = |class: &str| -> f64 {
        ["first", "retransmit", "unknown"]
            .iter()
            .filter_map(|kind| {
                metric_inside(
                    &pair,
                    &format!("egw_probe_target_syns_total{{class=\"{class}\",kind=\"{kind}\"}}"),
                )
            })
            .sum()
    };
    let (allowed, denied) = (syns("allowed") as u64, syns("denied") as u64);
    assert_eq!((Some(allowed), denied), (probes["sent"].as_u64(), SYNS));
    let grown =
        (metric_inside(&pair, "process_resident_memory_bytes").unwrap() / 1024.0 - before_kib).max(0.0);
    // The join of SYNs and connections has room for as many as it may hold, and no more.
    assert!(grown < 64.0 * 1024.0, "{grown} KiB");
    drop(target);
    tried(
        "half-open connections, with spoofed sources",
        format!("{SYNS} SYNs"),
        "every SYN counted; an honest client beside them is measured without a miss; memory bounded",
        format!(
            "{} denied; {} of {} honest probes got their pong; {grown:.0} KiB more",
            denied, probes["pong"], probes["sent"]
        ),
    );
}

fn resident_bytes(address: SocketAddr) -> f64 {
    metric(address, "process_resident_memory_bytes").unwrap()
}

fn connect(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.connect(&to.into()).unwrap();
    socket
}

/// Closes by RST.
fn reset(socket: Socket) {
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// Asks for a pong as an honest client does.
fn assert_served(to: SocketAddr, after: &str) {
    let mut reply = [0; 5];
    TcpStream::from(connect(to))
        .read_exact(&mut reply)
        .unwrap_or_else(|error| panic!("after {after}: {error}"));
    assert_eq!(&reply, b"pong\n", "after {after}");
}

#[test]
fn a_reset_at_any_step_of_a_connection_stops_nothing_and_leaves_nothing_behind() {
    const EACH: u32 = 200;
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let to = SocketAddr::from(([127, 0, 0, 1], target.port));
    let page = |line: &str| {
        let mut stream = TcpStream::connect(target.http).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream
    };
    let steps: [(&str, &dyn Fn()); 6] = [
        ("before it was accepted", &|| {
            // Nobody accepts meanwhile.
            target.program.signal("-STOP");
            let waiting: Vec<_> = (0..EACH).map(|_| connect(to)).collect();
            waiting.into_iter().for_each(reset);
            target.program.signal("-CONT");
        }),
        ("as soon as it stood", &|| (0..EACH).for_each(|_| reset(connect(to)))),
        ("after half of the pong", &|| {
            for _ in 0..EACH {
                let socket = connect(to);
                (&socket).read_exact(&mut [0; 2]).unwrap();
                reset(socket);
            }
        }),
        ("while it was held", &|| {
            let held: Vec<_> = (0..EACH).map(|_| connect(to)).collect();
            for mut socket in &held {
                socket.read_exact(&mut [0; 5]).unwrap();
            }
            held.into_iter().for_each(reset);
        }),
        ("after the client had closed its half", &|| {
            for _ in 0..EACH {
                let socket = connect(to);
                (&socket).read_exact(&mut [0; 5]).unwrap();
                socket.shutdown(std::net::Shutdown::Write).unwrap();
                reset(socket);
            }
        }),
        ("in the middle of an HTTP request, and of its answer", &|| {
            for _ in 0..EACH / 2 {
                reset(Socket::from(page("GET /metr")));
                let mut asked = page("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
                asked.read_exact(&mut [0; 9]).unwrap();
                reset(Socket::from(asked));
            }
        }),
    ];
    let before = resident_bytes(target.http);
    let open = || fs::read_dir(format!("/proc/{}/fd", target.program.id())).unwrap().count();
    let descriptors = open();
    for (step, at) in steps {
        at();
        assert_served(to, step);
    }
    wait_for("every connection to be let go", || {
        metric(target.http, "egw_probe_target_open_connections").is_some_and(|open| open <= 1.0)
    });
    wait_for("every descriptor to be given back", || open() <= descriptors + 1);
    let grown_kib = (resident_bytes(target.http) - before).max(0.0) / 1024.0;
    assert!(grown_kib < MOST_MORE_KIB as f64, "{grown_kib} KiB");
    let before_handshake = reset_instead_of_the_handshakes_end(EACH);
    tried(
        "RST: instead of the handshake's end, before the accept, after it, in the pong, while held, in the close, in HTTP",
        format!("{EACH} each"),
        "everybody else gets a pong; every descriptor given back; memory bounded",
        format!("so, {grown_kib:.0} KiB more{before_handshake}"),
    );
}

/// A SYN from a raw socket: the sender's own kernel knows of no connection, and answers the SYN-ACK by RST.
fn reset_instead_of_the_handshakes_end(times: u32) -> String {
    if !rustix::process::geteuid().is_root() {
        return " (the first of them not tried without root)".to_owned();
    }
    let pair = Pair::new("reset");
    let target = target_in(&pair, &["--allowed-cidr=198.51.100.9/32"]);
    inside(&pair.outside, || {
        let socket = raw_socket();
        (0..times).for_each(|number| send_syn(&socket, Ipv4Addr::new(198, 51, 100, 9), number as u16 + 1024));
        assert_served(TARGET.parse().unwrap(), "a reset instead of the handshake's end");
    });
    let accepted = metric_inside(&pair, "egw_probe_target_connections_total{verdict=\"allowed\"}");
    assert_eq!(accepted, Some(1.0), "a handshake without an end is no connection");
    drop(target);
    String::new()
}

/// What hostile clients do, one after another, while an honest one is served.
#[test]
fn a_target_under_hostile_peers_stays_small_and_answers_the_honest() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let to = SocketAddr::from(([127, 0, 0, 1], target.port));
    let before = resident_bytes(target.http);
    let poured = AtomicU64::new(0);
    let abuses: [(&str, &dyn Fn()); 3] = [
        ("megabytes, never asked for", &|| {
            let socket = connect(to);
            socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) && (&socket).write_all(&[7; 8192]).is_ok() {
                poured.fetch_add(8192, Ordering::Relaxed);
            }
        }),
        ("readers that never read", &|| {
            let idle: Vec<_> = (0..300).map(|_| connect(to)).collect();
            std::thread::sleep(Duration::from_millis(200));
            drop(idle);
        }),
        ("malformed HTTP", &|| {
            for line in [
                "\0\0\0\0",
                "GET",
                "GET / HTTP/9.9\r\n\r\n",
                "POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            ] {
                let mut stream = TcpStream::connect(target.http).unwrap();
                let _ = stream.write_all(line.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
            let mut stream = TcpStream::connect(target.http).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
            for _ in 0..10_000 {
                if stream.write_all(b"X-Header: and no end of them\r\n").is_err() {
                    break;
                }
            }
        }),
    ];
    let mut most_kib = 0.0_f64;
    for (what, abuse) in abuses {
        abuse();
        assert_served(to, what);
        let grown = (resident_bytes(target.http) - before) / 1024.0;
        assert!(grown < MOST_MORE_KIB as f64, "after {what}: {grown} KiB more");
        most_kib = most_kib.max(grown);
    }
    wait_for("every connection to be let go", || {
        metric(target.http, "egw_probe_target_open_connections").is_some_and(|open| open <= 1.0)
    });
    let megabytes = poured.load(Ordering::Relaxed) / 1_000_000;
    tried(
        "a connection that sends megabytes; readers that never read; malformed HTTP, a header without end",
        format!("{megabytes} MB; 300; 5"),
        "everybody else gets a pong; memory bounded",
        format!("so; {most_kib:.0} KiB more at the most"),
    );
}

#[test]
fn thousands_of_http_connections_that_dribble_do_not_keep_prometheus_out() {
    const MANY: usize = 3_000;
    let (soft, hard) = {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        (limit.current, limit.maximum)
    };
    if hard.is_some_and(|hard| hard < MANY as u64 + 500) {
        return told::skip("needs 3,500 descriptors (ulimit -Hn)");
    }
    let raised = rustix::process::Rlimit { current: hard, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let before = resident_bytes(target.http);
    let dribbling: Vec<_> = (0..MANY)
        .map(|_| {
            let mut stream = TcpStream::connect(target.http).unwrap();
            let _ = stream.write_all(b"GET /met");
            stream
        })
        .collect();
    // Each is cut off after two seconds: were they served in turn, the first honest request would wait for 47.
    let (_, body) = http(target.http, "GET /metrics").expect("an answer at the first attempt");
    assert!(body.contains("egw_probe_target_connections_total{verdict=\"allowed\"} "));
    let to = format!("127.0.0.1:{}", target.port);
    assert_eq!(measure(&to, &[]).0, 0, "probes are served all the while");
    let open = fs::read_dir(format!("/proc/{}/fd", target.program.id())).unwrap().count();
    assert!(open < 128 + 100, "{open} descriptors");
    let grown_kib = (resident_bytes(target.http) - before).max(0.0) / 1024.0;
    assert!(grown_kib < MOST_MORE_KIB as f64, "{grown_kib} KiB");
    drop(dribbling);
    let restored = rustix::process::Rlimit { current: soft, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, restored).unwrap();
    tried(
        "HTTP connections that dribble",
        MANY,
        "`/metrics` answers at the first attempt, probes are served, memory and descriptors bounded",
        format!("so; {open} descriptors, {grown_kib:.0} KiB more"),
    );
}
