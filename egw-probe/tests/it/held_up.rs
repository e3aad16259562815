//! Either end is held up: stopped, or without CPU. What it then measures is less exact, never wrong, and it says so. A part of
//! the table in docs/robustness.md.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use egw_probe::sys::clock::Monotonic;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::common::told::{as_root, tried};
use crate::common::{Program, Target, free_port, metric, peer, status, target, wait_for};

/// The test that takes every processor has the machine for itself; the others share it.
static MACHINE: RwLock<()> = RwLock::new(());

fn shared_machine() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

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

/// The bracket of a document, in seconds since its start; asserts that the switch lies inside.
fn bracket_that_holds(document: &Value, switch: &Switch) -> (f64, f64) {
    let start_ns = document["start_monotonic_ns"].as_u64().unwrap();
    let seconds = |instant: Monotonic| (instant.as_ns() - start_ns) as f64 / 1e9;
    let end = |name: &str| document["bracket"][name].as_f64().unwrap();
    let (lower, upper) = (end("lower_seconds"), end("upper_seconds"));
    let (ended, began) = (seconds(switch.ended), seconds(switch.began));
    assert!(lower < ended && began < upper, "{ended}, {began}: {}", document["bracket"]);
    (lower, upper)
}

#[test]
fn a_process_that_is_stopped_counts_its_ticks_and_its_bracket_stays_true() {
    let _machine = shared_machine();
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
    let (lower, upper) = bracket_that_holds(&document, &switch);
    let skipped = &document["probes"]["skipped_ticks"];
    assert!(skipped.as_u64() > Some(150), "{}", document["probes"]);
    let stalls = document["stalls"].as_array().unwrap().iter();
    let stall = stalls.map(|stall| stall["length_seconds"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(stall > 1.9, "{}", document["stalls"]);
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("are this client's own: it was stopped or got no CPU"), "{warnings}");
    tried(
        "SIGSTOP for 2 s at an interval of 10 ms, the policy switched meanwhile",
        1,
        "ticks counted as skipped, the stop told, the switch inside the bracket, and the bracket called weak",
        format!(
            "{skipped} ticks skipped, a stall of {stall:.3} s, the switch inside {lower:.3} to {upper:.3} s, called weak"
        ),
    );
}

#[test]
fn a_target_that_is_stopped_for_longer_than_a_syn_may_wait_calls_none_of_them_half_open() {
    let _machine = shared_machine();
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
    tried(
        "the target is stopped for 11 s, longer than a SYN may wait for its connection",
        "200 connections",
        "answered and joined with their SYNs, none called half open",
        "200 joined, 0 half open",
    );
}

#[test]
fn a_target_without_descriptors_calls_none_of_those_that_wait_half_open() {
    let _machine = shared_machine();
    if !as_root() {
        return;
    }
    let (port, http_port) = (free_port(), free_port());
    let address = SocketAddr::from(([127, 0, 0, 1], http_port));
    let (listen, serve) = (format!("--listen-port={port}"), format!("--metrics-addr=[::]:{http_port}"));
    let flags =
        ["external-target", "--allowed-cidr=127.0.0.0/8", "--keep-open", "--ebpf=required", "--interface=lo"];
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_egw-probe")]).args(flags);
    let _target = Program::start_command(shell.args([&listen, &serve]));
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
    tried(
        "no descriptors left at the target for 12 s, longer than a SYN may wait for its connection",
        "60 connections, 40 places",
        "those that wait are answered and joined with their SYNs, none is called half open",
        "60 joined, 0 half open",
    );
}

#[test]
fn an_answer_that_came_while_the_client_was_stopped_is_no_timeout() {
    const STOPS: u32 = 10;
    let _machine = shared_machine();
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
    client.signal("-TERM");
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let probes = &document["probes"];
    assert!(probes["leaked"].as_u64() > Some(100), "{probes}");
    assert_eq!(probes["timeout"], 0, "{probes}");
    tried(
        "SIGSTOP for twice a probe timeout, with probes in flight whose answers come meanwhile",
        STOPS,
        "an answer that came in time is taken for one, however late it is read",
        format!("{} leaked, 0 timeouts", probes["leaked"]),
    );
}

#[test]
fn a_target_that_is_stopped_answers_late_loses_nothing_and_calls_its_instants_weak() {
    let _machine = shared_machine();
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
    let waited = series("sum") / series("count");
    target.program.signal("-TERM");
    let said = String::from_utf8(target.program.finish().stderr).unwrap();
    let weak: Vec<&str> =
        said.lines().filter(|line| line.contains("weak numbers: a connection waited ")).collect();
    assert_eq!(weak.len(), 1, "{said}");
    tried(
        "the target is stopped for 0.5 s",
        "20 connections",
        "all answered, and one warning that instants told by accepts are weak",
        format!("20 pongs, a wait of {waited:.2} s told, one warning"),
    );
}

#[test]
fn a_client_that_gets_no_cpu_keeps_its_bracket_true_and_calls_it_weak() {
    let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let leaking = target(&["--allowed-cidr=192.0.2.0/24"]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (format!("127.0.0.1:{}", leaking.port), format!("--metrics-addr={address}"));
    // At the lowest class of all: it runs when nobody else wants to.
    let mut command = Command::new("chrt");
    command.args(["--idle", "0", env!("CARGO_BIN_EXE_egw-probe"), "client", "--external-target-addr", &to]);
    command.args([&serve, "--interval=1ms", "--exit", "--output=json"]);
    let client = Program::start_command(&mut command);
    wait_for("leaks", || metric(address, "egw_probe_probes_total{outcome=\"leaked\"}") >= Some(10.0));
    let over = AtomicBool::new(false);
    let switch = std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
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
    let (lower, upper) = bracket_that_holds(&document, &switch);
    let (probes, warnings) = (&document["probes"], document["warnings"].to_string());
    assert!(probes["skipped_ticks"].as_u64() > Some(0) && warnings.contains("CPU"), "{probes} {warnings}");
    tried(
        "CPU starved: the client in the idle class beside two busy threads for each processor",
        1,
        "ticks counted as skipped, the switch inside the bracket, the numbers called weak",
        format!(
            "{} of {} ticks skipped, the switch inside {lower:.3} to {upper:.3} s, called weak",
            probes["skipped_ticks"],
            probes["sent"].as_u64().unwrap() + probes["skipped_ticks"].as_u64().unwrap()
        ),
    );
}

#[test]
fn a_dial_that_was_answered_while_the_stress_client_was_stopped_has_not_failed() {
    let _machine = shared_machine();
    // A queue of one or two: the other dials wait for the kernel to send their SYNs again.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let to = listener.local_addr().unwrap().as_socket().unwrap().to_string();
    // The pong of the masquerade test comes first.
    let pongs = std::thread::spawn({
        let listener = listener.try_clone().unwrap();
        move || listener.accept().unwrap().0.send(b"pong\n").unwrap()
    });
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serve = format!("--metrics-addr={address}");
    let dials = ["--stress", "--stress-concurrency=8", "--stress-connections=8", "--exit", "--output=json"];
    let client = Program::start(&[&["client", "--external-target-addr", &to, &serve], &dials[..]].concat());
    pongs.join().unwrap();
    let opened = || metric(address, "egw_scale_test_stress_connections_total{operation=\"open\"}");
    wait_for("the first dials", || opened() >= Some(1.0));
    client.stop();
    let accepting =
        std::thread::spawn(move || (0..8).map(|_| listener.accept().unwrap()).collect::<Vec<_>>());
    // A dial may take five seconds.
    std::thread::sleep(Duration::from_secs(6));
    client.go_on();
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let stress = &document["stress"];
    assert_eq!(
        (stress["opened"].as_u64(), stress["failed"].as_u64()),
        (Some(8), Some(0)),
        "{}",
        stress["failed_by"]
    );
    drop(accepting);
    tried(
        "SIGSTOP of a stress client for 6 s, longer than a dial may take, with dials under way",
        "8 dials",
        "a dial that was answered meanwhile is open",
        "8 opened, 0 failed",
    );
}
