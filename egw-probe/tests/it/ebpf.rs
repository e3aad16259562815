//! `external-target --ebpf` and `--tags` as a user runs them: with rights, and without.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use crate::common::told::as_root;
use crate::common::{
    ForEverybody, PATIENCE, Program, free_port, http, measure, metric, status, target, wait_for,
};
use crate::kernel::net::{Pair, V4, inside, pong_from};
use crate::kernel::program::{metric_inside, target_in};

/// The program without any right: as nobody, where this test itself has rights. From a place that nobody may enter.
fn without_rights(copy: &ForEverybody, args: &[&str]) -> Command {
    let mut command = copy.command(args);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}

const MISSING: &str = "missing CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON";

#[test]
fn without_rights_the_target_warns_once_and_answers_from_userspace() {
    let (port, http_port) = (free_port(), free_port());
    let (listen, metrics) = (format!("--listen-port={port}"), format!("--metrics-addr=[::]:{http_port}"));
    let args = ["external-target", "--allowed-cidr=127.0.0.0/8", "--ebpf", &listen, &metrics];
    let copy = ForEverybody::new();
    let mut command = without_rights(&copy, &args);
    let program = Program::start_command(&mut command);
    let http_at = ([127, 0, 0, 1], http_port).into();
    wait_for("the target", || status(http_at, "/healthz") == 200);
    let (code, _, _) = measure(&format!("127.0.0.1:{port}"), &[]);
    assert_eq!(code, 0);
    let in_userspace = "egw_probe_target_ebpf_info{interface=\"\",mode=\"userspace\"}";
    assert_eq!(metric(http_at, in_userspace), Some(1.0));
    let (_, sources) = http(http_at, "GET /sources").unwrap();
    assert!(sources.contains("\"kernel\":null"), "{sources}");
    program.signal(Signal::TERM);
    let log = String::from_utf8(program.finish().stderr).unwrap();
    // A machine short of CPU may add that accepts come late.
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && !line.contains("weak numbers")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains(MISSING) && warnings[0].contains("setcap"), "{log}");
}

#[test]
fn what_is_required_and_not_to_be_had_fails_with_the_same_words_and_code_1() {
    let listen = format!("--listen-port={}", free_port());
    let args =
        ["external-target", "--allowed-cidr=::/0", "--ebpf=required", &listen, "--metrics-addr=127.0.0.1:0"];
    let copy = ForEverybody::new();
    let mut command = without_rights(&copy, &args);
    let output = Program::start_command(&mut command).finish();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.starts_with("error: --ebpf: no kernel timestamps: ") && line.contains(MISSING), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn the_kernel_counts_stamps_and_keeps_no_right() {
    if !as_root() {
        return;
    }
    let target =
        target(&["--allowed-cidr=127.0.0.1/32", "--ebpf=required", "--interface=lo", "--reply=annotated"]);
    let address = format!("127.0.0.1:{}", target.port);
    let (code, document, _) = measure(&address, &["--source-addr=127.0.0.9", "--test-timeout=300ms"]);
    let leaked = document["probes"]["leaked"].as_f64();
    assert!(code == 1 && leaked > Some(1.0), "{document}");
    assert_eq!(measure(&address, &["--tick-phase=0s"]).0, 0);
    let series = |class: &str| format!("egw_probe_target_syns_total{{class=\"{class}\",kind=\"first\"}}");
    wait_for("all SYNs", || metric(target.http, &series("denied")) == leaked);
    assert_eq!(metric(target.http, &series("allowed")), Some(1.0));
    assert_eq!(
        metric(target.http, "egw_probe_target_syn_to_accept_seconds_count{class=\"allowed\"}"),
        Some(1.0)
    );
    let (_, sources) = http(target.http, "GET /sources").unwrap();
    let page: serde_json::Value = serde_json::from_str(&sources).unwrap();
    assert_eq!(page["kernel"]["denied_syns"].as_f64(), leaked);
    let first = &page["kernel"]["sources"][0];
    assert_eq!((&first["address"], &first["class"]), (&"127.0.0.9".into(), &"denied".into()));
    for task in std::fs::read_dir(format!("/proc/{}/task", target.program.id())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for set in ["CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
    }
}

#[test]
fn a_hundred_thousand_cidrs_of_each_family_mean_the_same_to_the_kernel_and_to_userspace() {
    if !as_root() {
        return;
    }
    // Every second address, so that no two can be joined.
    let of_ipv4 = (0..100_000_u32).map(|number| std::net::Ipv4Addr::from_bits(0x7f00_0001 + 2 * number));
    let of_ipv6 = (0..100_000_u128).map(|number| std::net::Ipv6Addr::from_bits(1 + 2 * number));
    let lines: String = of_ipv4
        .map(|address| format!("{address}/32\n"))
        .chain(of_ipv6.map(|address| format!("{address}/128\n")))
        .collect();
    let file = std::env::temp_dir().join(format!("egw-probe-cidrs-{}", std::process::id()));
    std::fs::write(&file, lines).unwrap();
    let allowed = format!("--allowed-cidr-file={}", file.display());
    let target = target(&[&allowed, "--ebpf=required", "--interface=lo"]);
    std::fs::remove_file(&file).unwrap();
    // The last of the IPv4 list and its neighbour, and ::1.
    for (address, source, code) in [
        ("127.0.0.1", "127.3.13.63", 0),
        ("127.0.0.1", "127.3.13.62", 1),
        ("127.0.0.1", "127.3.13.65", 1),
        ("[::1]", "::1", 0),
    ] {
        let source = format!("--source-addr={source}");
        let flags = [&source[..], "--tick-phase=0s", "--interval=1s", "--test-timeout=1s"];
        assert_eq!(measure(&format!("{address}:{}", target.port), &flags).0, code, "{source}");
    }
    let series = |class: &str| format!("egw_probe_target_syns_total{{class=\"{class}\",kind=\"first\"}}");
    for (class, verdict) in [("allowed", "allowed"), ("denied", "denied")] {
        let accepted = format!("egw_probe_target_connections_total{{verdict=\"{verdict}\"}}");
        wait_for("the kernel's count", || {
            metric(target.http, &series(class)) == metric(target.http, &accepted)
        });
    }
    assert_eq!(metric(target.http, &series("allowed")), Some(2.0));
    assert!(metric(target.http, &series("denied")) >= Some(2.0));
    target.program.signal(Signal::TERM);
    let log = String::from_utf8(target.program.finish().stderr).unwrap();
    let longest = log.lines().map(str::len).max();
    assert!(longest < Some(400) && log.contains("127.0.0.1/32") && log.contains("and 199992 more"), "{log}");
}

#[test]
fn whoever_connects_while_the_target_starts_is_observed_from_the_first_connection_on() {
    const SERVED: usize = 100;
    if !as_root() {
        return;
    }
    for time in 0..5 {
        let (port, http_port) = (free_port(), free_port());
        let (listen, serve) = (format!("--listen-port={port}"), format!("--metrics-addr=[::]:{http_port}"));
        let flags = ["external-target", "--allowed-cidr=127.0.0.0/8", "--ebpf=required", "--interface=lo"];
        let _target = Program::start(&[&flags[..], &[&listen, &serve]].concat());
        let mut refused = 0;
        let begun = Instant::now();
        let mut served = 0;
        while served < SERVED {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(mut stream) => {
                    stream.read_exact(&mut [0; 5]).unwrap();
                    served += 1;
                }
                Err(_) => refused += 1,
            }
            assert!(begun.elapsed() < PATIENCE, "{served} served, {refused} refused");
        }
        let address = ([127, 0, 0, 1], http_port).into();
        let value = |series: &str| metric(address, &format!("egw_probe_target_{series}"));
        wait_for("every connection to be joined with its SYN", || {
            value("syn_to_accept_seconds_count{class=\"allowed\"}") == Some(SERVED as f64)
        });
        assert_eq!(value("connections_total{verdict=\"allowed\"}"), Some(SERVED as f64));
        assert_eq!(value("unobserved_connections_total"), Some(0.0));
        assert!(time > 0 || refused > 0, "tried from the start on");
    }
}

#[test]
fn an_interface_that_goes_away_is_observed_again_when_it_is_back_by_a_target_without_any_right() {
    const TIMES: u32 = 3;
    if !as_root() {
        return;
    }
    for (requested, mode) in [("auto", "tcx"), ("xdp-native", "xdp-native"), ("xdp-generic", "xdp-generic")] {
        let pair = Pair::new("again");
        let attach = format!("--ebpf-attach={requested}");
        let target = target_in(&pair, &["--allowed-cidr=198.51.100.0/24", "--ebpf=required", &attach]);
        let observed = || {
            let series = format!("egw_probe_target_ebpf_info{{interface=\"veth0\",mode=\"{mode}\"}}");
            metric_inside(&pair, &series) == Some(1.0)
        };
        for time in 0..=TIMES {
            if time > 0 {
                pair.ip("link del veth0");
                wait_for("veth0 let go", || !observed());
                pair.join();
            }
            wait_for("veth0 observed", observed);
            inside(&pair.outside, || (0..5).for_each(|_| pong_from(V4)));
        }
        let counted = "egw_probe_target_syns_total{class=\"allowed\",kind=\"first\"}";
        assert_eq!(metric_inside(&pair, counted), Some(f64::from(5 * (1 + TIMES))), "{mode}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.id())).unwrap();
        assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
        target.signal(Signal::TERM);
        let said = String::from_utf8(target.finish().stderr).unwrap();
        assert_eq!(said.matches("interface is gone, no longer observed").count(), TIMES as usize, "{said}");
    }
}

#[test]
fn another_mode_than_the_one_named_is_an_error_where_it_is_required_and_a_warning_elsewhere() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("named");
    let native = ["--allowed-cidr=::/0", "--ebpf-attach=xdp-native"];
    // lo has no driver, and is no reason to fail.
    let first = target_in(&pair, &[&native[..], &["--ebpf=required"]].concat());
    let mode = |interface: &str, mode: &str| {
        let series = format!("egw_probe_target_ebpf_info{{interface=\"{interface}\",mode=\"{mode}\"}}");
        metric_inside(&pair, &series)
    };
    assert_eq!((mode("lo", "xdp-generic"), mode("veth0", "xdp-native")), (Some(1.0), Some(1.0)));
    let second = |ebpf: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pair.inside, env!("CARGO_BIN_EXE_egw-probe"), "external-target"]);
        command.args(native).args([ebpf, "--listen-port=1338", "--metrics-addr=127.0.0.1:2114"]);
        Program::start_command(&mut command)
    };
    let output = second("--ebpf=required").finish();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().last().unwrap();
    assert!(
        line.contains("veth0: --ebpf-attach xdp-native is not to be had (Device or resource busy"),
        "{said}"
    );
    let auto = second("--ebpf");
    let serves = || inside(&pair.inside, || status(([127, 0, 0, 1], 2114).into(), "/healthz"));
    wait_for("the second target", || serves() == 200);
    auto.signal(Signal::TERM);
    let said = String::from_utf8(auto.finish().stderr).unwrap();
    let warned =
        |line: &str| line.contains("WARN") && line.contains("tcx in its place") && line.contains("veth0");
    assert_eq!(said.lines().filter(|line| warned(line)).count(), 1, "{said}");
    drop(first);
}

#[test]
fn tags_tell_clients_apart_in_the_kernel_and_in_userspace() {
    if !as_root() {
        return;
    }
    for mode in ["--ebpf=required", "--ebpf=off"] {
        let target = target(&["--allowed-cidr=127.0.0.1/32", "--expect-clients=9", "--tag-key=5", mode]);
        let address = format!("127.0.0.1:{}", target.port);
        let mut leaked = vec![];
        for client in [3, 7] {
            let number = client.to_string();
            let tag = ["--tag", &number, "--tag-key=5", "--tag-required"];
            let leaking = ["--source-addr=127.0.0.9", "--test-timeout=200ms", "--tick-phase=0s"];
            let leak = [&tag[..], &leaking].concat();
            let mut leaked_twice = 0;
            for _ in 0..2 {
                let (_, document, _) = measure(&address, &leak);
                assert_eq!(document["tag"], client);
                leaked_twice += document["probes"]["leaked"].as_u64().unwrap();
            }
            leaked.push(leaked_twice);
            assert_eq!(measure(&address, &[&tag[..], &["--tick-phase=0s"]].concat()).0, 0);
        }
        // Another key, a number above those expected, no tag at all: nobody's.
        for foreign in [&["--tag=4", "--tag-key=6"][..], &["--tag=10", "--tag-key=5"], &[]] {
            assert_eq!(measure(&address, &[foreign, &["--tick-phase=0s"]].concat()).0, 0);
        }
        wait_for("every SYN to be told", || {
            metric(target.http, "egw_probe_target_foreign_syns") == Some(3.0)
                && metric(target.http, "egw_probe_target_masquerade_delay_seconds_count") == Some(2.0)
        });
        let (_, body) = http(target.http, "GET /clients").unwrap();
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        let clients = page["clients"].as_array().unwrap();
        assert_eq!(clients.iter().map(|entry| entry["client"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 7]);
        for (entry, leaked) in clients.iter().zip(leaked) {
            assert_eq!(
                (&entry["leaked_syns"], &entry["masqueraded_syns"]),
                (&leaked.into(), &1.into()),
                "{mode} {entry}"
            );
            // The second process began to count anew; a single SYN of the third proves nothing.
            assert_eq!(
                (&entry["restarts"], &entry["missing_syns"]),
                (&1.into(), &0.into()),
                "{mode} {entry}"
            );
            let bracket = &entry["bracket"];
            let ns = |value: &serde_json::Value| value.as_u64().unwrap();
            let (lower, leaked) = (ns(&bracket["lower_ns"]), ns(&entry["last_leaked_ns"]));
            if mode == "--ebpf=required" {
                assert_eq!(bracket["path_delay_from"], "own_handshake", "{entry}");
                // A handshake on loopback is over within a millisecond or two of the client's clock.
                assert!(
                    bracket["corrected"] == true && (1..20_000_000).contains(&(leaked - lower)),
                    "{entry}"
                );
            } else {
                // The stamp is the accept's, later than the SYN by nobody knows how much.
                assert!(bracket["corrected"] == false && lower == leaked, "{entry}");
            }
            assert!(ns(&entry["last_leaked_ns"]) < ns(&bracket["upper_ns"]));
        }
    }
}
