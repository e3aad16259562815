//! What peers do to either end by packets of their own making, each with what was promised of it: a part of the table in
//! docs/robustness.md.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etherparse::PacketBuilder;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::common::told::{as_root, skip};
use crate::common::{Program, wait_for};
use crate::kernel::net;
use crate::kernel::net::{Pair, inside};
use crate::kernel::program::{metric_inside, target_in};

const TARGET: &str = "198.51.100.1:1337";

fn client_outside(pair: &Pair, flags: &[&str]) -> Value {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pair.outside, env!("CARGO_BIN_EXE_egw-probe"), "client"]);
    command.args(["--external-target-addr", TARGET, "--exit", "--output=json"]).args(flags);
    let output = Program::start_command(&mut command).finish();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Sets rules in the target's namespace; says that the test is skipped where that program is missing.
pub(crate) fn nft(pair: &Pair, rules: &str) -> bool {
    if Command::new("nft").arg("--version").output().is_err() {
        skip("needs nft: `cargo xtask test --setup`");
        return false;
    }
    let set = Command::new("ip").args(["netns", "exec", &pair.inside, "nft", rules]).output().unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    true
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
    if !nft(&pair, rules) {
        return;
    }
    let document =
        client_outside(&pair, &["--test-timeout=500ms", "--probe-timeout=200ms", "--interval=20ms"]);
    let probes = &document["probes"];
    assert!(probes["sent"].as_u64() > Some(0) && probes["timeout"] == probes["sent"], "{probes}");
    assert_eq!(document["outcome"], "timed_out");
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
    // What comes out of the device's queue, behind the place where the observer sits.
    let counting = "add table ip seen
        add chain ip seen in { type filter hook prerouting priority raw; }
        add counter ip seen flood
        add rule ip seen in ip saddr 203.0.113.0/24 counter name flood";
    if !nft(&pair, counting) {
        return;
    }
    let target = target_in(&pair, &["--allowed-cidr=198.51.100.9/32", "--ebpf=required"]);
    let before_kib = metric_inside(&pair, "process_resident_memory_bytes").unwrap() / 1024.0;
    let sent = AtomicU64::new(0);
    let document = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            inside(&pair.outside, || {
                let socket = raw_socket();
                for number in 0..SYNS as u32 {
                    send_syn(&socket, Ipv4Addr::new(203, 0, 113, number as u8), (number / 256) as u16 + 1024);
                    if sent.fetch_add(1, Ordering::Relaxed) % 200 == 199 {
                        // The device's queue has room for a thousand.
                        std::thread::sleep(Duration::from_millis(1));
                    }
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
    let mut listed = Command::new("ip");
    listed.args(["netns", "exec", &pair.inside, "nft", "list", "counter", "ip", "seen", "flood"]);
    let listed = String::from_utf8(listed.output().unwrap().stdout).unwrap();
    let arrived = listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let (allowed, denied) = (syns("allowed") as u64, syns("denied") as u64);
    assert_eq!((Some(allowed), Some(denied)), (probes["sent"].as_u64(), arrived));
    assert!(denied > SYNS / 2, "{denied} of {SYNS} arrived");
    let half_open = || metric_inside(&pair, "egw_probe_target_half_open_total{class=\"denied\"}");
    wait_for("every one of them to be half open", || half_open() == Some(denied as f64));
    let grown =
        (metric_inside(&pair, "process_resident_memory_bytes").unwrap() / 1024.0 - before_kib).max(0.0);
    // The join of SYNs and connections has room for as many as it may hold, and no more.
    assert!(grown < 64.0 * 1024.0, "{grown} KiB");
    drop(target);
}

#[test]
fn a_reset_instead_of_the_handshakes_end_is_no_connection() {
    const TIMES: u16 = 200;
    if !as_root() {
        return;
    }
    let pair = Pair::new("reset");
    let _target = target_in(&pair, &["--allowed-cidr=198.51.100.9/32"]);
    inside(&pair.outside, || {
        let socket = raw_socket();
        // The sender's own kernel knows of no connection, and answers the SYN-ACK by RST.
        (0..TIMES).for_each(|number| send_syn(&socket, Ipv4Addr::new(198, 51, 100, 9), number + 1024));
        let mut reply = [0; 5];
        TcpStream::connect(TARGET).unwrap().read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"pong\n");
    });
    let accepted = || metric_inside(&pair, "egw_probe_target_connections_total{verdict=\"allowed\"}");
    // Counted after it is answered.
    wait_for("the one connection to be counted", || accepted() >= Some(1.0));
    assert_eq!(accepted(), Some(1.0));
}
