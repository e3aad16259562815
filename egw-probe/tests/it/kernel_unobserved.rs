//! Connections whose SYN the kernel side does not see, and stamps of a clock that is not the process's.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Signal;

use crate::common::told::as_root;
use crate::common::{Program, http, status, wait_for};
use crate::hostile_packets::nft;
use crate::kernel::net::{PORT, Pair, V4, inside, ip, pong_from};
use crate::kernel::program::{HTTP, metric_inside, target_in};

const FLAGS: [&str; 2] = ["--allowed-cidr=198.51.100.0/24", "--ebpf=required"];
const UNOBSERVED: &str = "egw_probe_target_unobserved_connections_total";
const COUNTED: &str = "egw_probe_target_syns_total{class=\"allowed\",kind=\"first\"}";

/// The target tells of exactly the connections that `connect` makes, in a metric and in one line.
fn assert_told(pair: &Pair, connections: u32, connect: impl FnOnce() + Send) {
    let target = target_in(pair, &FLAGS);
    inside(&pair.outside, || pong_from(V4));
    wait_for("one that is observed", || metric_inside(pair, COUNTED) == Some(1.0));
    assert_eq!(metric_inside(pair, UNOBSERVED), Some(0.0));
    inside(&pair.outside, connect);
    wait_for("those that are not", || metric_inside(pair, UNOBSERVED) == Some(f64::from(connections)));
    assert_eq!(metric_inside(pair, COUNTED), Some(1.0));
    target.signal(Signal::TERM);
    let said = String::from_utf8(target.finish().stderr).unwrap();
    let lines: Vec<&str> =
        said.lines().filter(|line| line.contains("whose SYN the kernel side did not see")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("WARN") && lines[0].contains("--interface"), "{said}");
}

#[test]
fn a_connection_to_an_address_that_no_interface_holds_is_told_of() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("anyip");
    pair.ip("route add local 192.0.2.0/24 dev lo");
    ip(&format!("-n {} route add 192.0.2.0/24 via 198.51.100.1", pair.outside));
    assert_told(&pair, 1, || pong_from(IpAddr::from([192, 0, 2, 77])));
}

#[test]
fn a_connection_by_an_interface_without_an_address_is_told_of() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("unnumbered");
    pair.ip(&format!("link add bare type veth peer name bare netns {}", pair.outside));
    for namespace in [&pair.inside, &pair.outside] {
        ip(&format!("-n {namespace} link set bare addrgenmode none"));
        ip(&format!("-n {namespace} link set bare up"));
        // Answers leave by the other interface.
        for interface in ["all", "bare", "veth0"] {
            let setting = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
            inside(namespace, || std::fs::write(&setting, "0").unwrap());
        }
    }
    assert_told(&pair, 1, || {
        ip(&format!("-n {} route add 198.51.100.1/32 dev bare src 198.51.100.9", pair.outside));
        pong_from(V4);
    });
}

#[test]
fn a_connection_that_is_redirected_from_another_port_is_told_of() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("redirect");
    let redirect = format!(
        "add table ip away
        add chain ip away in {{ type nat hook prerouting priority dstnat; }}
        add rule ip away in tcp dport 1400 redirect to :{PORT}"
    );
    if !nft(&pair, &redirect) {
        return;
    }
    assert_told(&pair, 1, || {
        let mut reply = String::new();
        let mut stream = TcpStream::connect(SocketAddr::new(V4, 1400)).unwrap();
        stream.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "pong\n");
    });
}

#[test]
fn in_a_time_namespace_kernel_stamps_are_the_processs_own() {
    if !as_root() {
        return;
    }
    for offset in [86_400, -60] {
        let pair = Pair::new("time");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pair.inside, "unshare", "--time", "--fork", "--kill-child"]);
        command.arg(format!("--monotonic={offset}"));
        command.args([env!("CARGO_BIN_EXE_egw-probe"), "external-target", "--reply=annotated", "--tags"]);
        let _target = Program::start_command(command.args(FLAGS));
        wait_for("the target", || inside(&pair.inside, || status(HTTP, "/healthz")) == 200);
        let reply = inside(&pair.outside, || {
            let mut reply = String::new();
            let mut stream = TcpStream::connect(SocketAddr::new(V4, PORT)).unwrap();
            stream.read_to_string(&mut reply).unwrap();
            reply
        });
        let word = |name: &str| -> u64 {
            reply.split(' ').find_map(|word| word.strip_prefix(name)).unwrap().parse().unwrap()
        };
        let waited = word("accept_ns=").checked_sub(word("syn_ns=")).unwrap();
        assert!(waited < 1_000_000_000, "{offset}: {reply}");
        let series =
            |name: &str| format!("egw_probe_target_syn_to_accept_seconds_{name}{{class=\"allowed\"}}");
        wait_for("the connection", || metric_inside(&pair, &series("count")) == Some(1.0));
        let sum = metric_inside(&pair, &series("sum"));
        assert!(Some(0.0) < sum && sum < Some(1.0), "{offset}: {sum:?}");
        let (_, sources) = inside(&pair.inside, || http(HTTP, "GET /sources")).unwrap();
        let page: serde_json::Value = serde_json::from_str(&sources).unwrap();
        assert_eq!(page["kernel"]["sources"][0]["first_syn_ns"], word("syn_ns="), "{offset}: {page}");
    }
}
