//! Who both ends are once they are set up.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use caps::{CapSet, Capability};
use rustix::process::Signal;

use crate::common::told::as_root;
use crate::common::{
    ForEverybody, Program, all_threads, free_port, http, measure, metric, status, target, wait_for,
};

/// Real, effective, saved, and that of the file system.
fn four(id: u32) -> String {
    [id; 4].map(|id| id.to_string()).join("\t")
}

fn assert_every_thread_is(pid: u32, user: u32, group: u32, capabilities: &str) {
    for (field, expected) in [
        ("Uid", four(user).as_str()),
        ("Gid", &four(group)),
        ("Groups", ""),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let found = all_threads(pid, field);
        assert!(found.len() > 1 && found.iter().all(|one| one == expected), "{field}: {found:?}");
    }
}

/// A port that takes root.
fn low_port() -> u16 {
    (700..1024).find(|port| TcpListener::bind(("::", *port)).is_ok()).unwrap()
}

/// The program with two supplementary groups, as a login has them.
fn in_groups(args: &[&str]) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    let groups = [4, 27].map(rustix::process::Gid::from_raw);
    // SAFETY: the hook makes one system call, and touches no memory of others.
    unsafe { command.pre_exec(move || Ok(rustix::thread::set_thread_groups(&groups)?)) };
    Program::start_command(command.args(args))
}

#[test]
fn both_ends_of_root_go_on_as_nobody_and_serve_all_that_they_did() {
    if !as_root() {
        return;
    }
    let (port, [target_http, client_http]) =
        (low_port(), [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    let (listen, serve) = (format!("--listen-port={port}"), format!("--metrics-addr={target_http}"));
    let mut args = vec!["external-target", "--allowed-cidr=127.0.0.0/8", "--keep-open", &listen, &serve];
    args.extend(["--ebpf=required", "--tags", "--reply=annotated"]);
    let target = in_groups(&args);
    wait_for("the target", || status(target_http, "/healthz") == 200);

    // A name, so that the resolver's files are read as nobody too.
    let (to, serve) = (format!("localhost:{port}"), format!("--metrics-addr={client_http}"));
    let mut args = vec!["client", "--external-target-addr", &to, &serve, "--watch", "--hold=2", "--tag=7"];
    args.extend(["--tag-required", "--interval=10ms", "--source-addr=127.0.0.1", "--output=json"]);
    let client = in_groups(&args);
    wait_for("held connections", || metric(client_http, "egw_probe_held_connections") == Some(2.0));

    assert_every_thread_is(target.id(), 65_534, 65_534, "0000000000000000");
    // For each tag.
    assert_every_thread_is(client.id(), 65_534, 65_534, "0000000000001000");
    for (program, address) in [(&target, target_http), (&client, client_http)] {
        let owner = fs::metadata(format!("/proc/{}/mem", program.id())).unwrap().uid();
        assert_eq!(owner, 0, "nobody's other processes may not trace it");
        for name in ["open_fds", "max_fds", "resident_memory_bytes", "start_time_seconds", "threads"] {
            assert!(metric(address, &format!("process_{name}")) > Some(1.0), "{name}");
        }
    }
    let (_, clients) = http(target_http, "GET /clients").unwrap();
    assert!(clients.contains("\"client\":7"), "{clients}");
    let (_, sources) = http(target_http, "GET /sources").unwrap();
    assert!(!sources.contains("\"kernel\":null"), "{sources}");
    client.signal(Signal::TERM);
    let document: serde_json::Value = serde_json::from_slice(&client.finish().stdout).unwrap();
    let probes = &document["probes"];
    assert!(probes["sent"].as_u64() > Some(1) && probes["sent"] == probes["pong"], "{document}");
    target.signal(Signal::TERM);
    assert_eq!(target.finish().status.code(), Some(0));
}

#[test]
fn root_becomes_whom_it_names_and_stays_if_it_names_itself() {
    if !as_root() {
        return;
    }
    for (user, [uid, gid]) in [("--user=4321", [4321, 4321]), ("--user=4321:99", [4321, 99])] {
        let target = target(&["--allowed-cidr=127.0.0.0/8", user]);
        assert_every_thread_is(target.program.id(), uid, gid, "0000000000000000");
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8", "--user=0"]);
    assert!(all_threads(target.program.id(), "Uid").iter().all(|ids| *ids == four(0)));
    let (code, document, said) = measure(&format!("127.0.0.1:{}", target.port), &["--user=0:0"]);
    assert_eq!((code, &document["outcome"]), (0, &"masqueraded".into()), "{said}");
}

/// Runs the client to its end after `before` in the child.
fn client_after(
    command: &mut Command,
    args: &[&str],
    before: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) -> (Option<i32>, String) {
    command.args(["client", "--exit", "--metrics-addr=127.0.0.1:0", "--test-timeout=2s"]).args(args);
    // SAFETY: the hooks of these tests make system calls, and allocate nothing.
    unsafe { command.pre_exec(before) };
    let output = Program::start_command(command).finish();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_user_that_is_not_to_be_had_is_a_warning_unless_it_was_named() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    // As in a container of root's whose capabilities were dropped.
    let without = || {
        let drop = |one| caps::drop(None, CapSet::Bounding, one).map_err(std::io::Error::other);
        drop(Capability::CAP_SETUID).and_then(|()| drop(Capability::CAP_SETGID))
    };
    let program = || Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    let (code, said) = client_after(&mut program(), &[&to], without);
    assert_eq!(code, Some(0), "{said}");
    let told = "still root: cannot become user 65534:65534: Operation not permitted";
    assert!(said.matches("WARN").count() >= 1 && said.matches(told).count() == 1, "{said}");

    let (code, said) = client_after(&mut program(), &[&to, "--user=4321"], without);
    let line = "error: cannot drop rights: cannot become user 4321:4321: Operation not permitted";
    assert!(code == Some(1) && said.contains(line), "{said}");
}

#[test]
fn who_is_not_root_stays_and_becomes_nobody_else() {
    if !as_root() {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    let program = ForEverybody::new();
    let as_other = |args: &[&str]| client_after(program.command(&[]).uid(4321).gid(99), args, || Ok(()));
    for args in [&[to.as_str()][..], &[&to, "--user=4321:99"]] {
        let (code, said) = as_other(args);
        assert!(code == Some(0) && !said.contains("still root"), "{said}");
    }
    for user in ["65534", "0"] {
        let line = format!(
            "error: --user: \"{user}:{user}\": only root becomes somebody else, and this is 4321:99\n"
        );
        assert_eq!(as_other(&[&to, &format!("--user={user}")]), (Some(2), line));
    }
}
