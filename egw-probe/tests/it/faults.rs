//! What goes wrong on the host around a measurement, each with what was promised of it: the table in docs/robustness.md is
//! made of what these tests tell. What peers do is in hostile.rs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::told::{as_root, skip};
use crate::common::{Program, all_threads, free_port, measure, metric, status, target, wait_for};

/// Runs a shell script in a mount namespace of its own, where it may mount what it likes.
fn in_mount_namespace(script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", script])
        .env("PROGRAM", env!("CARGO_BIN_EXE_egw-probe"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Puts a copy in the place of /etc, in the mount namespace of a script, which may then write what it likes there.
const OWN_ETC: &str = "mount -t tmpfs none /mnt; cp -a /etc/. /mnt; mount --bind /mnt /etc";

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
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
}

#[test]
fn a_result_that_a_full_disk_cuts_off_is_taken_away_again() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    // Two pages of disk; the client's name is part of its result. One that has no room at all, one that has, one that has
    // no room behind that.
    let script = format!(
        "mount -t tmpfs -o size=8k none /mnt; cd /mnt
         name=$(head -c 9000 /dev/zero | tr '\\0' x)
         client() {{ $PROGRAM client --external-target-addr 127.0.0.1:{} --exit --metrics-addr 127.0.0.1:0 --output json \"$@\"; }}
         client --client-id $name >alone || echo exit $?
         stat -c %s alone
         client >both; cat both
         client --client-id $name >>both || echo exit $?
         cat both",
        target.port
    );
    let output = in_mount_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let [refused, size, whole, refused_again, still_whole] = &lines[..] else { panic!("{lines:?} {said}") };
    assert_eq!([refused, size, refused_again], ["exit 4", "0", "exit 4"], "{said}");
    assert!(whole == still_whole && serde_json::from_str::<Value>(whole).unwrap()["schema"] == 1, "{whole}");
    assert_eq!(said.matches("No space left on device").count(), 2, "{said}");
}

#[test]
#[cfg(feature = "report")]
fn a_report_on_a_full_disk_leaves_the_old_page_whole() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let (_, document, _) = measure(&format!("127.0.0.1:{}", target.port), &[]);
    let document = document.to_string().replace('\'', "");
    // Room for the old page and not for a second one.
    let script = format!(
        "mount -t tmpfs -o size=16k none /mnt; echo '<!doctype html>old' >/mnt/page.html
         echo '{document}' | $PROGRAM report - --html /mnt/page.html >/dev/null || echo exit $?
         cat /mnt/page.html; ls -A /mnt"
    );
    let output = in_mount_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "exit 4\n<!doctype html>old\npage.html\n", "{said}");
    assert!(said.contains("cannot write /mnt/page.html: No space left on device"), "{said}");
}

#[test]
fn a_name_that_resolves_late_is_measured_from_the_start_all_the_same() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    // No name server answers on that port of loopback; the name comes by /etc/hosts, after a second.
    let script = format!(
        "{OWN_ETC}; echo 'nameserver 127.0.0.1' >/etc/resolv.conf; echo 'hosts: files' >/etc/nsswitch.conf; : >/etc/hosts
         (sleep 1; echo '127.0.0.1 late.test' >/etc/hosts) &
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

/// A name server on port 53 of an address of loopback that answers the `n`th question for an IPv4 address with
/// `answer(n)`, or not at all. Returns the lines that make a resolver ask it, and the count of those questions; `None`, and
/// says that the test is skipped, where somebody has that port on every address.
fn name_server(
    address: Ipv4Addr,
    answer: impl Fn(u32) -> Option<Ipv4Addr> + Send + 'static,
) -> Option<(String, Arc<AtomicU32>)> {
    let Ok(socket) = UdpSocket::bind((address, 53)) else {
        skip("needs port 53 of an address of loopback");
        return None;
    };
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut room = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut room).unwrap();
            // RFC 1035, 4.1: a header of 12 bytes, then the name, its end, the type and the class.
            let name = room[12..length].iter().position(|byte| *byte == 0).unwrap();
            let question_end = 12 + name + 5;
            let for_ipv4 = room[question_end - 3] == 1;
            let address = if for_ipv4 {
                answer(count.fetch_add(1, Ordering::Relaxed))
            } else {
                answer(count.load(Ordering::Relaxed))
            };
            let Some(address) = address else { continue };
            let mut reply = room[..question_end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(for_ipv4), 0, 0, 0, 0]);
            if for_ipv4 {
                // The name as a pointer to the question's, A, IN, not to be kept, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, from).unwrap();
        }
    });
    let resolver = format!(
        "{OWN_ETC}; echo 'hosts: dns' >/etc/nsswitch.conf
         printf 'nameserver {address}\\noptions timeout:1 attempts:5\\n' >/etc/resolv.conf"
    );
    Some((resolver, asked))
}

#[test]
fn a_name_server_that_hangs_delays_the_test_and_never_its_end() {
    if !as_root() {
        return;
    }
    let Some((resolver, _)) = name_server(Ipv4Addr::new(127, 9, 9, 1), |_| None) else { return };
    let client = "$PROGRAM client --exit --output json --metrics-addr 127.0.0.1:0";
    let silent = format!("{resolver}\n{client} --external-target-addr silent.test:7 --test-timeout 1s");
    let begun = Instant::now();
    let output = in_mount_namespace(&silent);
    let ended_after = begun.elapsed();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["outcome"]), (Some(1), &json!("timed_out")));
    // The resolver itself goes on for five seconds before it says that it has failed.
    assert!(ended_after < Duration::from_secs(5), "{ended_after:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("\"silent.test:7\": cannot be resolved: the resolver does not answer"), "{said}");

    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let late = name_server(Ipv4Addr::new(127, 9, 9, 2), |n| (n > 0).then_some(Ipv4Addr::LOCALHOST));
    let Some((resolver, _)) = late else { return };
    let output =
        in_mount_namespace(&format!("{resolver}\n{client} --external-target-addr slow.test:{}", target.port));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(document["outcome"], "masqueraded", "{said}");
    let delay = document["masquerade_delay_seconds"].as_f64().unwrap();
    assert!(delay >= 0.9, "the clock runs while the name server hangs: {delay}");
}

#[test]
fn a_name_that_changes_its_address_changes_nothing_for_a_test_under_way() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    // Nothing is at the second address (RFC 5737).
    let moving = name_server(Ipv4Addr::new(127, 9, 9, 3), |n| {
        Some(if n == 0 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(192, 0, 2, 1) })
    });
    let Some((resolver, asked)) = moving else { return };
    let output = in_mount_namespace(&format!(
        "{resolver}\n$PROGRAM client --exit --output json --metrics-addr 127.0.0.1:0 --watch=1s --interval 10ms \\
         --external-target-addr moving.test:{}",
        target.port
    ));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let probes = &document["probes"];
    assert_eq!((&document["disruptions_total"], &probes["pong"]), (&json!(0), &probes["sent"]), "{said}");
    assert_eq!(document["target_address"], format!("127.0.0.1:{}", target.port));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "a name is asked for once");
}

#[test]
fn a_name_that_never_resolves_is_a_test_that_timed_out() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serve = format!("--metrics-addr={address}");
    let args = ["client", "--external-target-addr=nowhere.invalid:7", "--test-timeout=700ms", &serve];
    let client = Program::start(&args);
    wait_for("the end of the test", || status(address, "/readyz") == 200);
    assert_eq!(metric(address, "egw_scale_test_failed_tests_total"), Some(1.0));
    client.signal(Signal::TERM);
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
    client.signal(Signal::TERM);
    let document: Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    assert_eq!(document["disruptions_total"], 1);
    let upper = document["disruptions"][0]["length_seconds"]["upper"].as_f64().unwrap();
    let lower = document["disruptions"][0]["length_seconds"]["lower"].as_f64().unwrap();
    assert!(0.0 < lower && lower < upper, "{lower} to {upper}");
}

#[test]
fn without_local_ports_probes_are_errors_of_this_host_and_prove_nothing_of_the_path() {
    if !as_root() {
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

#[test]
fn what_was_measured_is_printed_though_a_stress_target_has_no_usable_address() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--keep-open"]);
    let script = format!(
        "mount -t tmpfs none /mnt; echo '::1 six' >/mnt/hosts; mount --bind /mnt/hosts /etc/hosts
         $PROGRAM client --external-target-addr 127.0.0.1:{} --exit --metrics-addr 127.0.0.1:0 --output json \
             --stress --stress-target-addr six:9 || echo exit $?",
        target.port
    );
    let output = in_mount_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout).unwrap();
    let [document, exit] = &printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed} {said}") };
    let document: Value = serde_json::from_str(document).unwrap();
    assert_eq!((*exit, &document["outcome"]), ("exit 2", &json!("masqueraded")), "{said}");
    assert!(
        document["stress"].is_null()
            && said.contains("--stress-target-addr: \"six:9\": has no address of the family of 127.0.0.1"),
        "{said}"
    );
}
