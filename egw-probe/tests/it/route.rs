//! A source address or an interface that comes later than the client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::told::as_root;
use crate::common::{Program, free_port, measure, status, wait_for};
use crate::kernel::net::{Pair, inside, ip};
use crate::kernel::program::target_in;

const LATER: Duration = Duration::from_millis(700);

/// Measures from outside with these flags, while `come` brings what is missing.
fn measured(pair: &Pair, to: &str, flags: &[&str], come: impl FnOnce() + Send) -> (i32, Value, String) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(LATER);
            come();
        });
        inside(&pair.outside, || measure(to, &[&["--test-timeout=15s"], flags].concat()))
    })
}

/// The lines at this level.
fn lines<'a>(log: &'a str, level: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(level)).collect()
}

#[test]
fn an_address_or_an_interface_that_comes_later_is_waited_for_and_told_in_one_line() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("late");
    let _target = target_in(&pair, &["--allowed-cidr=198.51.100.0/24,2001:db8:f::/64", "--keep-open"]);
    let add = || ip(&format!("-n {} addr add 198.51.100.50/24 dev veth0", pair.outside));
    let by_address = measured(&pair, "198.51.100.1:1337", &["--source-addr=198.51.100.50"], add);
    let stress = ["--stress", "--stress-connections=4", "--stress-source-addr=198.51.100.51"];
    let add = || ip(&format!("-n {} addr add 198.51.100.51/24 dev veth0", pair.outside));
    let of_stress = measured(&pair, "198.51.100.1:1337", &stress, add);
    pair.ip("link del veth0");
    let by_interface = measured(&pair, "198.51.100.1:1337", &["--bind-device=veth0"], || pair.join());
    for ((code, document, log), missing) in [
        (
            by_address,
            "--source-addr: \"198.51.100.50\": not an address of this host: `ip address` lists them",
        ),
        (
            of_stress,
            "--stress-source-addr: \"198.51.100.51\": not an address of this host: `ip address` lists them",
        ),
        (by_interface, "--bind-device: \"veth0\": no such interface: `ip link` lists them"),
    ] {
        assert_eq!((code, &document["outcome"]), (0, &"masqueraded".into()), "{log}");
        // Sources of a stress test are no business of the masquerade test before it.
        let waits_first = document["stress"].is_null();
        assert_eq!(document["first_probe_seconds"].as_f64() > Some(0.5), waits_first, "{document}");
        assert!(waits_first || document["stress"]["opened"] == 4, "{document}");
        let waits = format!("{missing}; waiting for it, up to the test timeout");
        let told = lines(&log, "WARN").into_iter().filter(|line| !line.contains("weak numbers"));
        assert!(told.clone().count() == 1 && log.contains(&waits), "{log}");
    }
}

#[test]
fn a_tentative_address_is_called_tentative_and_waited_for() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("dad");
    let _target = target_in(&pair, &["--allowed-cidr=2001:db8:f::/64"]);
    inside(&pair.outside, || {
        std::fs::write("/proc/sys/net/ipv6/conf/veth0/dad_transmits", "3").unwrap();
    });
    ip(&format!("-n {} addr add 2001:db8:f::50/64 dev veth0", pair.outside));
    let (code, document, log) =
        measured(&pair, "[2001:db8:f::1]:1337", &["--source-addr=2001:db8:f::50"], || {});
    assert_eq!((code, &document["outcome"]), (0, &"masqueraded".into()), "{log}");
    let expected = "--source-addr: \"2001:db8:f::50\": tentative: duplicate address detection on veth0 is under way; \
                    waiting for it, up to the test timeout";
    assert_eq!(log.matches(expected).count(), 1, "{log}");
    assert!(!log.contains("not an address of this host"), "{log}");
}

#[test]
fn what_never_comes_is_a_test_that_timed_out() {
    for (flag, reason) in [
        (
            "--source-addr=192.0.2.55",
            "--source-addr: \"192.0.2.55\": not an address of this host: `ip address` lists them",
        ),
        ("--bind-device=nosuch0", "--bind-device: \"nosuch0\": no such interface: `ip link` lists them"),
    ] {
        let (code, document, log) = measure("127.0.0.1:9", &[flag, "--test-timeout=300ms"]);
        assert_eq!(
            (code, &document["outcome"], &document["probes"]["sent"]),
            (1, &"timed_out".into(), &0.into())
        );
        let errors = lines(&log, "ERROR");
        assert!(
            errors.len() == 1 && errors[0].ends_with(&format!("the test timeout has passed: {reason}")),
            "{log}"
        );
    }
}

#[test]
fn a_signal_ends_the_wait_and_meanwhile_http_says_that_the_test_is_under_way() {
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serve = format!("--metrics-addr={http}");
    let client = Program::start(&[
        "client",
        "--external-target-addr=127.0.0.1:9",
        "--source-addr=192.0.2.55",
        "--output=json",
        &serve,
    ]);
    wait_for("the page", || status(http, "/readyz") == 500);
    let signalled = Instant::now();
    client.signal(Signal::TERM);
    let output = client.finish();
    assert!(signalled.elapsed() < Duration::from_millis(800), "{:?}", signalled.elapsed());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["outcome"]), (Some(1), &"interrupted".into()));
}
