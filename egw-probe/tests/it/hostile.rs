//! What peers do to either end over connections, each with what was promised of it: a part of the table in docs/robustness.md.
//! What they do by packets of their own making is in hostile_packets.rs.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::common::{http, measure, measure_and_peak, metric, peer, target, told, wait_for};

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
        ("nothing at all", |s| drop(s.read(&mut [0])), "silent"),
        (
            "a pong after the timeout",
            |s| {
                std::thread::sleep(Duration::from_millis(1500));
                let _ = s.write_all(b"pong\n");
            },
            "silent",
        ),
    ];
    let flags = ["--test-timeout=600ms", "--probe-timeout=150ms", "--interval=20ms"];
    let denying = target(&["--allowed-cidr=192.0.2.0/24"]);
    let (.., usual_kib) = measure_and_peak(&format!("127.0.0.1:{}", denying.port), &flags);
    for (what, serve, outcome) in behaviours {
        let address = peer(move |mut stream, _| serve(&mut stream)).to_string();
        let (code, document, said, peak_kib) = measure_and_peak(&address, &flags);
        let expected = if outcome == "pong" { (0, &json!("masqueraded")) } else { (1, &json!("timed_out")) };
        assert_eq!((code, &document["outcome"]), expected, "{what}: {said}");
        let sent = document["probes"]["sent"].as_u64().unwrap();
        assert!(sent > 0 && document["probes"][outcome] == sent, "{what}: {}", document["probes"]);
        assert!(peak_kib < usual_kib + MOST_MORE_KIB, "{what}: {peak_kib} KiB, usually {usual_kib}");
    }
    let address = peer(|mut stream, _| {
        for byte in b"pong\n" {
            let _ = stream.write_all(&[*byte]);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (code, document, _) = measure(&address.to_string(), &[]);
    assert_eq!((code, &document["outcome"]), (0, &json!("masqueraded")), "one byte at a time is a pong");
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
            target.program.stop();
            let waiting: Vec<_> = (0..EACH).map(|_| connect(to)).collect();
            waiting.into_iter().for_each(reset);
            target.program.go_on();
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
    for (what, abuse) in abuses {
        abuse();
        assert_served(to, what);
        let grown = (resident_bytes(target.http) - before) / 1024.0;
        assert!(grown < MOST_MORE_KIB as f64, "after {what}: {grown} KiB more");
    }
    wait_for("every connection to be let go", || {
        metric(target.http, "egw_probe_target_open_connections").is_some_and(|open| open <= 1.0)
    });
    assert!(poured.load(Ordering::Relaxed) > 1_000_000, "it took what was poured");
}

#[test]
fn thousands_of_http_connections_that_dribble_do_not_keep_prometheus_out() {
    const MANY: usize = 3_000;
    const SCRAPES: usize = 40;
    let (soft, hard) = {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        (limit.current, limit.maximum)
    };
    if hard.is_some_and(|hard| hard < MANY as u64 + 1_500) {
        return told::skip("needs 4,500 descriptors (ulimit -Hn)");
    }
    let raised = rustix::process::Rlimit { current: hard, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let before = resident_bytes(target.http);
    let dribble = || {
        let mut stream = TcpStream::connect(target.http).unwrap();
        let _ = stream.write_all(b"GET /met");
        stream
    };
    let dribbling: Vec<_> = (0..MANY).map(|_| dribble()).collect();
    let scrape = || {
        let (_, body) = http(target.http, "GET /metrics").expect("an answer at the first attempt");
        assert!(body.contains("egw_probe_target_connections_total{verdict=\"allowed\"} "));
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", target.program.id())).unwrap().count();
    // Each is cut off after two seconds: were they served in turn, the first honest request would wait for 47.
    scrape();
    let to = format!("127.0.0.1:{}", target.port);
    assert_eq!(measure(&to, &[]).0, 0, "probes are served all the while");
    // In the middle of a thousand that came while nobody accepted.
    target.program.stop();
    let mut burst: Vec<_> = (0..100).map(|_| dribble()).collect();
    let mut honest = TcpStream::connect(target.http).unwrap();
    honest.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    burst.extend((0..900).map(|_| dribble()));
    target.program.go_on();
    let mut answer = String::new();
    honest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    drop(burst);
    // And while ever new ones come, up to 5,000 in a second.
    let over = AtomicBool::new(false);
    let (stormed, open) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut latest = VecDeque::new();
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    let Ok(mut stream) = TcpStream::connect(target.http) else { continue };
                    let _ = stream.write_all(b"GET /met");
                    latest.push_back(stream);
                    count += 1;
                }
                latest.drain(..latest.len().saturating_sub(300));
                std::thread::sleep(Duration::from_millis(10));
            }
            count
        });
        let mut open = 0;
        for _ in 0..SCRAPES {
            std::thread::sleep(Duration::from_millis(50));
            scrape();
            open = descriptors().max(open);
        }
        over.store(true, Ordering::Relaxed);
        (storm.join().unwrap(), open)
    });
    assert!(stormed > 1_000, "{stormed} connections are no storm");
    assert!(open < 128 + 50, "{open} descriptors");
    let grown_kib = (resident_bytes(target.http) - before).max(0.0) / 1024.0;
    assert!(grown_kib < MOST_MORE_KIB as f64, "{grown_kib} KiB");
    drop(dribbling);
    let restored = rustix::process::Rlimit { current: soft, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, restored).unwrap();
}

#[test]
fn a_reader_that_never_reads_holds_its_answer_for_ten_seconds_and_no_longer() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let ask = |path: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Less than a page has.
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&target.http.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        stream
    };
    let (mut slow, mut never) = (ask("/metrics"), ask("/metrics"));
    std::thread::sleep(Duration::from_secs(3));
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with('\n') && answer.len() > 4_000, "whole, for one who reads late: {answer}");
    std::thread::sleep(Duration::from_secs(9));
    // Closed with all that it held, although the page had fitted into the send buffer and the connection was over for HTTP.
    let mut rest = Vec::new();
    let error = never.read_to_end(&mut rest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(rest.len() < answer.len(), "{} bytes", rest.len());
}

#[test]
fn who_resets_once_it_has_its_answer_holds_no_place() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", target.program.id())).unwrap().count();
    let before = open();
    for _ in 0..100 {
        let socket = connect(target.http);
        (&socket).write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        (&socket).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        reset(socket);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(open() < before + 10, "{} descriptors, {before} before", open());
}
