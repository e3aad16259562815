//! What goes wrong around a measurement, each with what was promised of it: see the table in docs/robustness.md.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Program, free_port, http, measure, metric, peer, status, target, wait_for};
use serde_json::{Value, json};

/// Whether mounts and namespaces can be made; says that the test is skipped where not.
fn may_unshare(test: &str) -> bool {
    let allowed = std::thread::spawn(|| {
        // SAFETY: the thread takes the namespace with it when it ends.
        let answer = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        answer.is_ok()
    });
    let allowed = allowed.join().unwrap();
    if !allowed {
        std::io::stderr().write_all(format!("skipped: {test}: needs root\n").as_bytes()).unwrap();
    }
    allowed
}

/// Runs a shell script in a mount namespace of its own, where it may mount what it likes.
fn in_mount_namespace(script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", script])
        .env("PROGRAM", env!("CARGO_BIN_EXE_egw-probe"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn all_threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_one = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    };
    tasks.map(|task| of_one(task.unwrap().path())).collect()
}

#[test]
fn every_thread_of_both_ends_is_without_rights_and_under_a_seccomp_filter() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open", "--ebpf", "--tags"]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let to = format!("127.0.0.1:{}", target.port);
    let serve = format!("--metrics-addr={address}");
    let client = Program::start(&["client", "--external-target-addr", &to, &serve, "--watch", "--hold=2"]);
    wait_for("held connections", || metric(address, "egw_probe_held_connections") == Some(2.0));
    for pid in [target.program.id(), client.id()] {
        for (field, expected) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
            let found = all_threads(pid, field);
            assert!(found.len() > 2 && found.iter().all(|one| one == expected), "{field}: {found:?}");
        }
    }
}

#[test]
fn a_metrics_port_that_is_taken_is_one_line_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in
        [["client", "--external-target-addr=127.0.0.1:9"], ["external-target", "--allowed-cidr=::/0"]]
    {
        let output = Program::start(&[&command[..], &["--metrics-addr", &address]].concat()).finish();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(
            errors.len() == 1 && errors[0].contains("--metrics-addr") && errors[0].contains(&address),
            "{said}"
        );
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error_and_never_a_success() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let to = format!("127.0.0.1:{}", target.port);
    for form in ["--output=text", "--output=json"] {
        // ENOSPC on every write (null(4)).
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_egw-probe"))
            .args(["client", "--external-target-addr", &to, "--exit", "--metrics-addr=127.0.0.1:0", form])
            .stdout(full)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
}

#[test]
fn a_report_on_a_full_disk_leaves_the_old_page_whole() {
    let test = "a_report_on_a_full_disk_leaves_the_old_page_whole";
    if !may_unshare(test) {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &[]);
    // Room for the old page and not for a second one.
    let script = format!(
        "mount -t tmpfs -o size=16k none /mnt; echo old >/mnt/page.html
         echo '{document}' | $PROGRAM report - --html /mnt/page.html >/dev/null || echo exit $?
         cat /mnt/page.html; ls /mnt"
    );
    let output = in_mount_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "exit 4\nold\npage.html\n", "{said}");
    assert!(said.contains("cannot write /mnt/page.html: No space left on device"), "{said}");
}

#[test]
fn a_name_that_resolves_late_is_measured_from_the_start_all_the_same() {
    let test = "a_name_that_resolves_late_is_measured_from_the_start_all_the_same";
    if !may_unshare(test) {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    // No name server answers on that port of loopback; the name comes by /etc/hosts, after a second.
    let script = format!(
        "mount -t tmpfs none /mnt; echo 'nameserver 127.0.0.1' >/mnt/resolv.conf; echo 'hosts: files' >/mnt/nsswitch.conf
         : >/mnt/hosts; for f in resolv.conf hosts nsswitch.conf; do : >>/etc/$f; mount --bind /mnt/$f /etc/$f; done
         (sleep 1; echo '127.0.0.1 late.test' >/mnt/hosts) &
         $PROGRAM client --external-target-addr late.test:{} --exit --output json --metrics-addr 127.0.0.1:0",
        target.port
    );
    let output = in_mount_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(document["outcome"], "masqueraded", "{said}");
    assert!(document["masquerade_delay_seconds"].as_f64().unwrap() >= 0.9, "the clock runs while names fail");
    assert!(said.contains("cannot be resolved yet"), "{said}");
}

#[test]
fn a_name_that_never_resolves_is_a_test_that_timed_out() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serve = format!("--metrics-addr={address}");
    let args = ["client", "--external-target-addr=nowhere.invalid:7", "--test-timeout=700ms", &serve];
    let client = Program::start(&args);
    wait_for("the end of the test", || status(address, "/readyz") == 200);
    assert_eq!(metric(address, "egw_scale_test_failed_tests_total"), Some(1.0));
    client.signal("-TERM");
    assert_eq!(client.finish().status.code(), Some(0));

    let (code, document, said) = measure("nowhere.invalid:7", &["--test-timeout=300ms"]);
    assert_eq!((code, &document["outcome"]), (1, &json!("timed_out")), "{said}");
    assert_eq!(document["probes"]["sent"], 0);
    assert!(said.contains("\"nowhere.invalid:7\": cannot be resolved"), "{said}");
}

#[test]
fn a_target_that_is_killed_and_started_again_is_one_disruption_and_measuring_goes_on() {
    let first = target(&["--allowed-cidr=127.0.0.0/8"]);
    let port = first.port;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (format!("127.0.0.1:{port}"), format!("--metrics-addr={address}"));
    let args =
        ["client", "--external-target-addr", &to, &serve, "--watch", "--interval=5ms", "--output=json"];
    let client = Program::start(&args);
    wait_for("the winner", || status(address, "/readyz") == 200);
    drop(first);
    wait_for("the disruption", || metric(address, "egw_probe_disrupted") == Some(1.0));
    // Long enough for more misses than the first.
    std::thread::sleep(Duration::from_millis(100));
    let (listen, serve) =
        (format!("--listen-port={port}"), format!("--metrics-addr=127.0.0.1:{}", free_port()));
    let _second = Program::start(&["external-target", "--allowed-cidr=127.0.0.0/8", &listen, &serve]);
    wait_for("its end", || metric(address, "egw_probe_disrupted") == Some(0.0));
    client.signal("-TERM");
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    assert_eq!(document["disruptions_total"], 1);
    let upper = document["disruptions"][0]["length_seconds"]["upper"].as_f64().unwrap();
    let lower = document["disruptions"][0]["length_seconds"]["lower"].as_f64().unwrap();
    assert!(0.0 < lower && lower < upper, "{lower} to {upper}");
}

#[test]
fn a_process_that_is_stopped_counts_its_ticks_and_its_bracket_stays_true() {
    // The policy comes while the client is stopped: the bracket must hold that instant.
    let leaking = target(&["--allowed-cidr=192.0.2.0/24"]);
    let port = leaking.port;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, serve) = (format!("127.0.0.1:{port}"), format!("--metrics-addr={address}"));
    let args =
        ["client", "--external-target-addr", &to, &serve, "--interval=10ms", "--exit", "--output=json"];
    let client = Program::start(&args);
    wait_for("leaks", || metric(address, "egw_probe_probes_total{outcome=\"leaked\"}") >= Some(10.0));
    client.signal("-STOP");
    std::thread::sleep(Duration::from_secs(1));
    drop(leaking);
    let (listen, serve) = (format!("--listen-port={port}"), "--metrics-addr=127.0.0.1:0".to_owned());
    let _allowing = Program::start(&["external-target", "--allowed-cidr=127.0.0.0/8", &listen, &serve]);
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("the second target", || std::net::TcpStream::connect(to).is_ok());
    let switched_ns = egw_probe::clock::Monotonic::now().as_ns();
    std::thread::sleep(Duration::from_secs(1));
    client.signal("-CONT");
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let start_ns = document["start_monotonic_ns"].as_u64().unwrap();
    let switched = (switched_ns - start_ns) as f64 / 1e9;
    let end = |name: &str| document["bracket"][name].as_f64().unwrap();
    assert!(
        end("lower_seconds") < switched && switched <= end("upper_seconds"),
        "{switched}: {}",
        document["bracket"]
    );
    assert!(document["probes"]["skipped_ticks"].as_u64() > Some(150), "{}", document["probes"]);
    assert!(document["stalls"][0]["length_seconds"].as_f64() > Some(1.9), "{}", document["stalls"]);
}

#[test]
fn without_local_ports_probes_are_errors_of_this_host_and_prove_nothing_of_the_path() {
    let test = "without_local_ports_probes_are_errors_of_this_host_and_prove_nothing_of_the_path";
    if !may_unshare(test) {
        return;
    }
    // Three ports; halfway through the watch, connections that stay take them all.
    let script = r"ip link set lo up; echo 40000 40002 >/proc/sys/net/ipv4/ip_local_port_range
        $PROGRAM external-target --allowed-cidr 127.0.0.0/8 --listen-port 9 --keep-open --metrics-addr 127.0.0.1:10 2>/dev/null &
        T=$!; sleep 0.5
        $PROGRAM client --external-target-addr 127.0.0.1:9 --exit --watch=3s --interval 20ms --output json --metrics-addr 127.0.0.1:12 2>/dev/null &
        W=$!; sleep 1
        $PROGRAM client --external-target-addr 127.0.0.1:9 --stress --metrics-addr 127.0.0.1:11 >/dev/null 2>&1 &
        S=$!; wait $W; kill $T $S";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-uc", script])
        .env("PROGRAM", env!("CARGO_BIN_EXE_egw-probe"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let probes = &document["probes"];
    assert!(probes["error"].as_u64() > Some(20) && probes["pong"].as_u64() > Some(20), "{said}");
    assert_eq!((&probes["leaked"], &probes["timeout"]), (&json!(0), &json!(0)), "{said}");
    assert_eq!(document["disruptions_total"], 0, "{said}");
}

/// What hostile targets say, and what a probe makes of it.
#[test]
fn whatever_a_target_answers_a_probe_has_an_outcome_and_memory_stays_bounded() {
    type Serve = fn(&mut std::net::TcpStream);
    let behaviours: [(&str, Serve, &str); 7] = [
        ("garbage", |s| drop(s.write_all(&[0xff; 4096])), "garbled"),
        ("a pong without its newline", |s| drop(s.write_all(b"pong")), "garbled"),
        ("an endless line", |s| while s.write_all(&[b'p'; 8192]).is_ok() {}, "garbled"),
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
    for (what, serve, outcome) in behaviours {
        let address = peer(move |mut stream, _| serve(&mut stream)).to_string();
        let (code, document, said) =
            measure(&address, &["--test-timeout=600ms", "--probe-timeout=150ms", "--interval=20ms"]);
        assert_eq!((code, &document["outcome"]), (1, &json!("timed_out")), "{what}: {said}");
        let sent = document["probes"]["sent"].as_u64().unwrap();
        assert!(sent > 0 && document["probes"][outcome] == sent, "{what}: {}", document["probes"]);
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

/// What hostile clients do, one after another, while an honest one is served.
#[test]
fn a_target_under_hostile_peers_stays_small_and_answers_the_honest() {
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let to = SocketAddr::from(([127, 0, 0, 1], target.port));
    let connect = |to| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.connect(&SocketAddr::into(to)).map(|()| socket)
    };
    let before = resident_bytes(target.http);
    let abuses: [(&str, &dyn Fn()); 5] = [
        ("connections reset as soon as they stand", &|| {
            for _ in 0..500 {
                let socket = connect(to).unwrap();
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        }),
        ("connections reset after the pong", &|| {
            for _ in 0..200 {
                let socket = connect(to).unwrap();
                let _ = (&socket).read(&mut [0; 5]);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        }),
        ("megabytes, never asked for", &|| {
            let socket = connect(to).unwrap();
            socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) && (&socket).write_all(&[7; 8192]).is_ok() {}
        }),
        ("readers that never read", &|| {
            let idle: Vec<_> = (0..300).map(|_| connect(to).unwrap()).collect();
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
                let mut stream = std::net::TcpStream::connect(target.http).unwrap();
                let _ = stream.write_all(line.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
            let mut stream = std::net::TcpStream::connect(target.http).unwrap();
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
        let mut reply = [0; 5];
        connect(to).unwrap().read_exact(&mut reply).unwrap_or_else(|error| panic!("after {what}: {error}"));
        assert_eq!(&reply, b"pong\n", "after {what}");
        let grown = resident_bytes(target.http) - before;
        assert!(grown < 8e6, "after {what}: {grown} bytes more");
    }
    wait_for("every connection to be let go", || {
        metric(target.http, "egw_probe_target_open_connections").is_some_and(|open| open <= 1.0)
    });
}

#[test]
fn a_thousand_http_connections_that_dribble_do_not_keep_prometheus_out_for_long() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let dribbling: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(target.http).unwrap();
            let _ = stream.write_all(b"GET /met");
            stream
        })
        .collect();
    let to = format!("127.0.0.1:{}", target.port);
    assert_eq!(measure(&to, &[]).0, 0, "probes are served all the while");
    // They are cut off after two seconds, 128 at a time; those behind them wait in the kernel's queue.
    let mut answer = None;
    wait_for("an answer", || {
        answer = http(target.http, "GET /metrics");
        answer.is_some()
    });
    assert!(answer.unwrap().1.contains("egw_probe_target_connections_total{verdict=\"allowed\"} "));
    let open = fs::read_dir(format!("/proc/{}/fd", target.program.id())).unwrap().count();
    assert!(open < 128 + 100, "{open} descriptors");
    drop(dribbling);
}
