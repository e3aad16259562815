//! Either end is held up: stopped, or without CPU. What it then measures is less exact, never wrong, and it says so. A part of
//! the table in docs/robustness.md.

use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use egw_probe::workbench::sys::Monotonic;
use rustix::process::Signal;
use rustix::thread::CpuSet;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::common::told::as_root;
use crate::common::{Program, Target, free_port, metric, peer, status, target, wait_for};

/// A target that allows everybody in the place of one that allowed nobody here.
struct Switch {
    /// No probe sent later leaked.
    ended: Monotonic,
    /// No probe answered earlier got a pong.
    began: Monotonic,
    _allowing: Program,
}

fn switch(leaking: Target) -> Switch {
    let port = leaking.port;
    drop(leaking);
    let ended = Monotonic::now();
    let (listen, serve) = (format!("--listen-port={port}"), "--metrics-addr=127.0.0.1:0");
    let began = Monotonic::now();
    let allowing = Program::start(&["external-target", "--allowed-cidr=127.0.0.0/8", &listen, serve]);
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("the second target", || TcpStream::connect(to).is_ok());
    Switch { ended, began, _allowing: allowing }
}

/// The switch lies inside the bracket of a document.
fn assert_bracket_holds(document: &Value, switch: &Switch) {
    let start_ns = document["start_monotonic_ns"].as_u64().unwrap();
    let seconds = |instant: Monotonic| (instant.as_ns() - start_ns) as f64 / 1e9;
    let end = |name: &str| document["bracket"][name].as_f64().unwrap();
    let (lower, upper) = (end("lower_seconds"), end("upper_seconds"));
    let (ended, began) = (seconds(switch.ended), seconds(switch.began));
    assert!(lower < ended && began < upper, "{ended}, {began}: {}", document["bracket"]);
}

#[test]
fn a_process_that_is_stopped_counts_its_ticks_and_its_bracket_stays_true() {
    let leaking = target(&["--allowed-cidr=192.0.2.0/24"]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (format!("127.0.0.1:{}", leaking.port), format!("--metrics-addr={address}"));
    let args =
        ["client", "--external-target-addr", &to, &serve, "--interval=10ms", "--exit", "--output=json"];
    let client = Program::start(&args);
    wait_for("leaks", || metric(address, "egw_probe_probes_total{outcome=\"leaked\"}") >= Some(10.0));
    client.stop();
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    let switch = switch(leaking);
    std::thread::sleep(Duration::from_secs(2).saturating_sub(stopped.elapsed()));
    client.go_on();
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    assert_bracket_holds(&document, &switch);
    let skipped = &document["probes"]["skipped_ticks"];
    assert!(skipped.as_u64() > Some(150), "{}", document["probes"]);
    let stalls = document["stalls"].as_array().unwrap().iter();
    let stall = stalls.map(|stall| stall["length_seconds"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(stall > 1.9, "{}", document["stalls"]);
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("are this client's own: it was stopped or got no CPU"), "{warnings}");
}

#[test]
fn a_target_that_is_stopped_for_longer_than_a_syn_may_wait_calls_none_of_them_half_open() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--ebpf=required", "--interface=lo"]);
    target.program.stop();
    let waiting: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(("127.0.0.1", target.port)).unwrap()).collect();
    // Ten seconds after its last SYN an attempt without a connection is half open.
    std::thread::sleep(Duration::from_secs(11));
    target.program.go_on();
    for mut stream in waiting {
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    let joined = || metric(target.http, "egw_probe_target_syn_to_accept_seconds_count{class=\"allowed\"}");
    wait_for("every connection to be joined with its SYN", || joined() == Some(200.0));
    assert_eq!(metric(target.http, "egw_probe_target_half_open_total{class=\"allowed\"}"), Some(0.0));
}

#[test]
fn a_port_used_again_before_its_accept_is_joined_with_each_of_its_syns() {
    const TIMES: usize = 10;
    if !as_root() {
        return;
    }
    for reply in ["pong", "annotated"] {
        let reply = format!("--reply={reply}");
        let target = target(&["--allowed-cidr=127.0.0.0/8", "--ebpf=required", "--interface=lo", &reply]);
        target.program.stop();
        let (from, to) = (free_port(), SocketAddr::from(([127, 0, 0, 1], target.port)));
        for _ in 0..TIMES {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], from)).into()).unwrap();
            socket.connect(&to.into()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        target.program.go_on();
        let value = |series: &str| metric(target.http, &format!("egw_probe_target_{series}"));
        wait_for("every connection to be joined with its SYN", || {
            value("syn_to_accept_seconds_count{class=\"allowed\"}") == Some(TIMES as f64)
        });
        // Ten seconds after its last SYN an attempt without a connection is half open.
        std::thread::sleep(Duration::from_secs(11));
        assert_eq!(value("half_open_total{class=\"allowed\"}"), Some(0.0), "{reply}");
        assert_eq!(value("unobserved_connections_total"), Some(0.0), "{reply}");
    }
}

#[test]
fn a_target_without_descriptors_calls_none_of_those_that_wait_half_open() {
    if !as_root() {
        return;
    }
    let (port, http_port) = (free_port(), free_port());
    let address = SocketAddr::from(([127, 0, 0, 1], http_port));
    let (listen, serve) = (format!("--listen-port={port}"), format!("--metrics-addr=[::]:{http_port}"));
    let flags =
        ["external-target", "--allowed-cidr=127.0.0.0/8", "--keep-open", "--ebpf=required", "--interface=lo"];
    let args = [&flags[..], &[&listen, &serve]].concat();
    let _target = Program::start_with_descriptors(200, &args);
    wait_for("the target", || status(address, "/healthz") == 200);
    let mut clients: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    // Ten seconds after its last SYN an attempt without a connection is half open.
    std::thread::sleep(Duration::from_secs(12));
    let half_open = || metric(address, "egw_probe_target_half_open_total{class=\"allowed\"}");
    assert_eq!(half_open(), Some(0.0));
    let waiting = clients.split_off(40);
    drop(clients);
    for mut stream in waiting {
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    let joined = || metric(address, "egw_probe_target_syn_to_accept_seconds_count{class=\"allowed\"}");
    wait_for("every connection to be joined with its SYN", || joined() == Some(60.0));
    assert_eq!(half_open(), Some(0.0));
}

#[test]
fn an_answer_that_came_while_the_client_was_stopped_is_no_timeout() {
    const STOPS: u32 = 10;
    // Every probe is answered by a close after 50 ms, well within its timeout of 400 ms.
    let leaks = peer(|stream, _| {
        std::thread::sleep(Duration::from_millis(50));
        drop(stream);
    });
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (leaks.to_string(), format!("--metrics-addr={address}"));
    let paces = ["--interval=5ms", "--probe-timeout=400ms", "--output=json", "--exit"];
    let client = Program::start(&[&["client", "--external-target-addr", &to, &serve], &paces[..]].concat());
    wait_for("leaks", || metric(address, "egw_probe_probes_total{outcome=\"leaked\"}") >= Some(10.0));
    for _ in 0..STOPS {
        client.stop();
        std::thread::sleep(Duration::from_millis(800));
        client.go_on();
        std::thread::sleep(Duration::from_millis(100));
    }
    client.signal(Signal::TERM);
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let probes = &document["probes"];
    assert!(probes["leaked"].as_u64() > Some(100), "{probes}");
    assert_eq!(probes["timeout"], 0, "{probes}");
}

#[test]
fn a_target_that_is_stopped_answers_late_loses_nothing_and_calls_its_instants_weak() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    target.program.stop();
    let mut waiting: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", target.port)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    target.program.go_on();
    for stream in &mut waiting {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "pong\n");
    }
    let series =
        |name: &str| metric(target.http, &format!("egw_probe_target_accept_wait_seconds_{name}")).unwrap();
    assert!(series("count") >= 1.0 && series("sum") >= 0.4, "{} in {}", series("sum"), series("count"));
    target.program.signal(Signal::TERM);
    let said = String::from_utf8(target.program.finish().stderr).unwrap();
    let weak: Vec<&str> =
        said.lines().filter(|line| line.contains("weak numbers: a connection waited ")).collect();
    assert_eq!(weak.len(), 1, "{said}");
}

/// Keeps the calling thread on the first processor; the others are left to other tests.
fn stay_on_one_processor() -> io::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    Ok(rustix::thread::sched_setaffinity(None, &first)?)
}

/// Puts the calling thread into the lowest class of all.
fn run_when_nobody_else_does() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live value, and 0 is the calling thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_client_that_gets_no_cpu_keeps_its_bracket_true_and_calls_it_weak() {
    let leaking = target(&["--allowed-cidr=192.0.2.0/24"]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (format!("127.0.0.1:{}", leaking.port), format!("--metrics-addr={address}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    command.args([
        "client",
        "--external-target-addr",
        &to,
        &serve,
        "--interval=1ms",
        "--exit",
        "--output=json",
    ]);
    // SAFETY: the hook makes nothing but system calls.
    unsafe { command.pre_exec(|| stay_on_one_processor().and_then(|()| run_when_nobody_else_does())) };
    let client = Program::start_command(&mut command);
    wait_for("leaks", || metric(address, "egw_probe_probes_total{outcome=\"leaked\"}") >= Some(10.0));
    let over = AtomicBool::new(false);
    let switch = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                stay_on_one_processor().unwrap();
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let switch = switch(leaking);
        std::thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::Relaxed);
        switch
    });
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    assert_bracket_holds(&document, &switch);
    let (probes, warnings) = (&document["probes"], document["warnings"].to_string());
    assert!(probes["skipped_ticks"].as_u64() > Some(0) && warnings.contains("CPU"), "{probes} {warnings}");
}

#[test]
fn a_dial_that_was_answered_while_the_stress_client_was_stopped_has_not_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let dials = ["--stress", "--stress-concurrency=8", "--stress-connections=8", "--exit", "--output=json"];
    let client = ["client", "--external-target-addr", &to, "--metrics-addr=127.0.0.1:0"];
    let client = Program::start(&[&client[..], &dials].concat());
    let accept = || listener.accept().unwrap().0;
    // The pong of the masquerade test comes first.
    let answer = |mut stream: &TcpStream| stream.write_all(b"pong\n").unwrap();
    answer(&accept());
    let dialled: Vec<TcpStream> = std::iter::repeat_with(accept).take(8).collect();
    client.stop();
    dialled.iter().for_each(answer);
    // A dial may take five seconds.
    std::thread::sleep(Duration::from_secs(6));
    client.go_on();
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let stress = &document["stress"];
    let counts = ["opened", "answered", "failed"].map(|count| stress[count].as_u64());
    assert_eq!(counts, [Some(8), Some(8), Some(0)], "{}", stress["failures"]);
}
