//! The lab, end to end: real programs, real namespaces. Needs root.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::machine;

fn lab(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("lab").args(args.split_whitespace());
    command
}

/// Runs a lab and returns its document.
fn measure(args: &str, expected_status: i32) -> Value {
    // First: behind ` -- ` in `args` all is for the clients.
    let output = lab(&format!("--json {args}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(expected_status), "lab {args}: {said}{}", faults(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the lab found wrong, for the message of a test that fails.
fn faults(output: &Output) -> String {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let activations = document["activations"].as_array().cloned().unwrap_or_default();
    let wrong: Vec<Value> = activations.into_iter().filter(|one| one["as_expected"] == false).collect();
    format!("{:#}{:#}", Value::Array(wrong), document["observed"]["faults"])
}

/// Asserts that all of `wanted` measurements agree with what was done.
fn assert_all_as_expected(document: &Value, wanted: u64) {
    assert_eq!(document["summary"]["valid"], wanted);
    assert_eq!(document["summary"]["as_expected"], wanted);
}

#[test]
fn at_1ms_every_bracket_holds_the_switch_and_is_narrow() {
    let Some(_machine) = machine() else { return };
    let document = measure("masquerade --interval 1ms --runs 20", 0);
    assert_all_as_expected(&document, 20);
    let median = document["summary"]["width_median_seconds"].as_f64().unwrap();
    // Idle machines show 1.2 ms; a shared runner is allowed some more.
    assert!(median < 0.003, "the median bracket is {median} s wide");
}

#[test]
fn over_ipv6_at_1ms_every_bracket_holds_the_switch() {
    let Some(_machine) = machine() else { return };
    assert_all_as_expected(&measure("masquerade --ipv6 --interval 1ms --runs 10", 0), 10);
}

#[test]
fn at_50ms_every_bracket_holds_the_switch() {
    let Some(_machine) = machine() else { return };
    assert_all_as_expected(&measure("masquerade --runs 5", 0), 5);
    assert_all_as_expected(&measure("masquerade --runs 5 --ipv6", 0), 5);
}

#[test]
fn a_record_shifted_by_one_bracket_width_fails_the_lab() {
    let Some(_machine) = machine() else { return };
    let document = measure("masquerade --interval 1ms --runs 5 --control-shift", 1);
    assert_eq!(document["summary"]["valid"], 5);
    assert_eq!(document["summary"]["as_expected"], 0);
}

#[test]
fn without_a_policy_the_first_probe_is_answered() {
    let Some(_machine) = machine() else { return };
    for family in ["", "--ipv6"] {
        let document = measure(&format!("baseline --runs 2 {family}"), 0);
        assert_all_as_expected(&document, 2);
        assert_eq!(document["target"]["connections"]["denied"], 0);
    }
}

#[test]
fn a_blackhole_is_measured_beside_the_switch() {
    let Some(_machine) = machine() else { return };
    let document = measure("blackhole --interval 5ms --runs 3", 0);
    assert_all_as_expected(&document, 3);
    for activation in document["activations"].as_array().unwrap() {
        assert!(activation["result"]["probes"]["timeout"].as_u64().unwrap() > 5);
    }
}

#[test]
fn every_syn_of_a_blackhole_is_accounted_for() {
    let Some(_machine) = machine() else { return };
    // With a round-trip of 20 ms some probes are in flight whenever packets begin to vanish.
    for args in ["--ipv6", "--delay 20ms"] {
        let document = measure(&format!("blackhole --interval 5ms --runs 2 {args}"), 0);
        assert_all_as_expected(&document, 2);
        for activation in document["activations"].as_array().unwrap() {
            let [account, probes] = [&activation["account"], &activation["result"]["probes"]];
            let count = |of: &Value, name: &str| of[name].as_u64().unwrap();
            let reached = ["inside", "outside", "cut"].map(|part| count(account, part)).iter().sum::<u64>();
            let vanished = count(account, "left") - reached;
            let unanswered = count(probes, "timeout") + count(probes, "silent");
            assert_eq!(vanished + count(account, "cut"), unanswered);
            assert_eq!(count(account, "outside"), count(probes, "leaked"));
            assert!(vanished > 5 && (args == "--ipv6" || count(account, "cut") > 0), "{account}");
        }
    }
}

#[test]
fn a_dual_stack_name_is_measured_like_an_address() {
    let Some(_machine) = machine() else { return };
    let document = measure("masquerade --target-name target.test --interval 5ms --runs 2", 0);
    assert_all_as_expected(&document, 2);
    assert_eq!(document["activations"][0]["result"]["target"], "target.test:1337");
}

/// Asserts what the comparison of the target's kernel side with a capture found.
fn assert_observed(document: &Value, brackets: u64) {
    let observed = &document["observed"];
    assert_eq!(observed["faults"], Value::Array(vec![]));
    assert_eq!(observed["captured_allowed"], observed["counted_allowed"]);
    assert_eq!(observed["captured_denied"], observed["counted_denied"]);
    assert!(observed["counted_denied"].as_u64().unwrap() > 0);
    for held in ["brackets", "brackets_hold", "brackets_overlap"] {
        assert_eq!(observed[held], brackets, "{held}");
    }
    // That they are of the same packets; how exact they are is the lab's to tell, on a machine that has nothing else to do.
    let p50 = observed["stamps"]["error_p50_seconds"].as_f64().unwrap();
    assert!(p50 <= 5e-3, "stamps are {p50} s off");
}

#[test]
fn in_every_attach_mode_each_captured_syn_is_counted_once_and_stamped() {
    let Some(_machine) = machine() else {
        return;
    };
    for (attach, mode) in
        [("auto", "tcx"), ("tc", "tcx"), ("xdp-native", "xdp-native"), ("xdp-generic", "xdp-generic")]
    {
        // The watch brings many annotated replies, each with a stamp to compare.
        let args = format!("masquerade --ebpf={attach} --interval 5ms --runs 3 -- --watch=500ms");
        let document = measure(&args, 0);
        assert_observed(&document, 3);
        assert_eq!(document["observed"]["mode"], mode);
    }
}

#[test]
fn over_a_long_path_the_bracket_of_the_target_holds_the_switch() {
    let Some(_machine) = machine() else {
        return;
    };
    let document = measure("masquerade --ebpf --ipv6 --delay 80ms --interval 20ms --runs 3 -- --watch=1s", 0);
    assert_observed(&document, 3);
}

#[test]
fn fifty_tagged_clients_have_a_timeline_each_through_every_nat() {
    let Some(_machine) = machine() else {
        return;
    };
    for nat in ["masquerade", "fully-random", "port-range"] {
        let args = format!("masquerade --ebpf --clients 50 --interval 100ms --nat {nat} -- --watch=500ms");
        let document = measure(&args, 0);
        assert_observed(&document, document["summary"]["valid"].as_u64().unwrap());
    }
}

#[test]
fn leaked_syns_whose_handshake_never_completes_are_attributed_and_counted_as_half_open() {
    let Some(_machine) = machine() else {
        return;
    };
    let document = measure("masquerade --ebpf --no-return --runs 3 -- --watch=1s", 0);
    assert_observed(&document, 3);
    assert_eq!(document["observed"]["half_open_denied"], document["observed"]["captured_denied"]);
}

/// Runs an outage scenario; the lab itself judges the disruption's bracket and what became of held connections.
fn measure_outages(scenario: &str) -> Value {
    let document = measure(&format!("{scenario} --interval 5ms --runs 3"), 0);
    assert_all_as_expected(&document, 3);
    document
}

#[test]
fn a_failover_is_measured_and_its_new_egress_ip_seen() {
    let Some(_machine) = machine() else { return };
    let document = measure_outages("failover");
    for outage in document["activations"].as_array().unwrap() {
        assert_eq!(outage["result"]["disruptions"][0]["kind"], "blackhole");
        assert_eq!(outage["result"]["egress_changes"][0]["to"], "203.0.113.101");
        assert_eq!(outage["result"]["held"]["lost_total"], 2);
    }
}

#[test]
fn held_connections_survive_a_failover_that_keeps_the_egress_ip() {
    let Some(_machine) = machine() else {
        return;
    };
    let document = measure_outages("failover --same-ip");
    for outage in document["activations"].as_array().unwrap() {
        assert_eq!(outage["result"]["held"]["lost_total"], 0);
        assert_eq!(outage["result"]["held"]["stalls_total"], 2);
    }
}

#[test]
fn a_flap_is_a_leak_as_long_as_the_policy_was_off() {
    let Some(_machine) = machine() else { return };
    let document = measure_outages("flap");
    assert_eq!(document["activations"][0]["result"]["disruptions"][0]["kind"], "leak");
    measure_outages("flap --ipv6 --delay 20ms");
}

#[test]
fn lost_connection_tracking_resets_held_connections_and_spares_new_ones() {
    let Some(_machine) = machine() else {
        return;
    };
    measure_outages("conntrack-loss");
    // Where the port stays, the gateway picks the connection up as it was, unless an answer comes first.
    measure_outages("conntrack-loss --nat masquerade");
}

#[test]
fn a_restart_of_the_target_is_measured_and_closes_what_was_held() {
    let Some(_machine) = machine() else {
        return;
    };
    measure_outages("restart");
}

/// The clients' results of a lab whose own judge found every claim true.
pub(crate) fn disturbed(args: &str, runs: u64) -> Vec<Value> {
    let document = measure(&format!("{args} --interval 5ms --runs {runs}"), 0);
    assert_all_as_expected(&document, runs);
    let results = document["activations"].as_array().unwrap().iter().map(|one| one["result"].clone());
    results.collect()
}

pub(crate) fn sum(results: &[Value], path: &str) -> u64 {
    results.iter().map(|result| result.pointer(path).unwrap().as_u64().unwrap()).sum()
}

#[test]
fn a_policy_that_never_comes_times_out() {
    let Some(_machine) = machine() else { return };
    let document = measure("never --interval 10ms", 0);
    assert_all_as_expected(&document, 1);
    assert_eq!(document["activations"][0]["result"]["outcome"], "timed_out");
}

#[test]
fn a_longer_round_trip_is_added_exactly_and_the_brackets_still_hold() {
    let Some(_machine) = machine() else {
        return;
    };
    let document = measure("masquerade --delay 80ms --runs 3", 0);
    assert_all_as_expected(&document, 3);
    assert_eq!(document["wire"]["dropped"], 0);
    for activation in document["activations"].as_array().unwrap() {
        let fastest = activation["result"]["connect_seconds"]["min"].as_f64().unwrap();
        assert!((0.080..0.090).contains(&fastest), "a handshake took {fastest} s");
    }
}

#[test]
fn twenty_clients_have_a_policy_each() {
    let Some(_machine) = machine() else { return };
    let document = measure("masquerade --clients 20", 0);
    assert_eq!(document["activations"].as_array().unwrap().len(), 20);
    assert_eq!(document["summary"]["as_expected"], document["summary"]["valid"]);
}

#[test]
fn an_interrupted_lab_leaves_nothing_behind() {
    let Some(_machine) = machine() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Running::start();
        running.signal(signal);
        assert_eq!(running.lab.wait().unwrap().code(), Some(130));
        running.assert_processes_end();
        assert_eq!(running.traces(), Vec::<String>::new());
    }
}

#[test]
fn what_a_killed_lab_leaves_behind_the_next_one_removes() {
    let Some(_machine) = machine() else { return };
    let mut running = Running::start();
    running.signal(Signal::SIGKILL);
    running.lab.wait().unwrap();
    running.assert_processes_end();
    assert_ne!(running.traces(), Vec::<String>::new());
    measure("baseline", 0);
    assert_eq!(running.traces(), Vec::<String>::new());
}

#[test]
fn a_lab_that_lacks_a_tool_says_what_to_install() {
    let Some(_machine) = machine() else { return };
    let output = lab("--bin /bin/true").env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("apt-get install -y iproute2 nftables"), "{said}");
}

#[test]
fn a_wrong_flag_is_one_line_and_exit_2() {
    for (args, names) in [
        ("--interval 0s", "--interval"),
        ("--clients 0", "--clients"),
        ("--test-timeout 1ms", "--test-timeout"),
        ("flap --clients 2", "--clients"),
        ("restart --ebpf", "--ebpf"),
        ("flap --same-ip", "--same-ip"),
        ("blackhole --no-return", "--no-return"),
        ("masquerade --disturb proxy --clients 2", "--disturb"),
        ("masquerade --disturb loss --ebpf", "--disturb"),
        ("flap --disturb arp", "--disturb arp"),
        ("masquerade --disturb proxy,sidecar", "--disturb proxy,sidecar"),
        ("failover --plain-reply", "--plain-reply"),
        ("failover --gateways 2", "--gateways"),
        ("gateways --gateways 1", "--gateways"),
        ("gateways --hold 1", "--hold"),
        ("flap --lasts 3s", "--lasts"),
        ("masquerade --leak-from pod", "--leak-from"),
    ] {
        let output = lab(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(names), "{said}");
    }
}

/// A lab whose target and client are running, and the processes it started.
struct Running {
    lab: Child,
    processes: Vec<u32>,
}

impl Running {
    fn start() -> Self {
        let silent = Stdio::null;
        let lab = lab("never --test-timeout 60s").stdout(silent()).stderr(silent()).spawn().unwrap();
        let mut running = Self { lab, processes: vec![] };
        // Building the program may come first.
        let deadline = Instant::now() + Duration::from_mins(5);
        while running.processes.len() < 2 || running.traces().len() < 6 {
            assert!(Instant::now() < deadline, "the lab does not get going");
            thread::sleep(Duration::from_millis(50));
            running.processes = programs_of(running.lab.id());
        }
        running
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.lab.id().cast_signed()), signal).unwrap();
    }

    /// Namespaces and folders of this lab that exist.
    fn traces(&self) -> Vec<String> {
        let name = format!("egwl-{}", self.lab.id());
        let folders = [Path::new("/run/netns").to_owned(), std::env::temp_dir()];
        let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|entry| *entry == name || entry.starts_with(&format!("{name}-"))).collect()
    }

    /// The kernel ends the children of a killed lab; that takes it a moment.
    fn assert_processes_end(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes.iter().any(|pid| is_program(*pid)) {
            assert!(
                Instant::now() < deadline,
                "processes of the lab are still running: {:?}",
                self.processes
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.lab.kill();
        let _ = self.lab.wait();
    }
}

/// The programs under test among the children of `parent`.
fn programs_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).filter(|pid| is_program(*pid)).collect()
}

fn is_program(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "egw-probe")
}
