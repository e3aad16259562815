//! What a taken-over process can still do: the table of docs/security.md.

use std::os::unix::process::CommandExt as _;

use crate::common::told::as_root;
use crate::common::{ForEverybody, Program, free_port, metric, status, wait_for};
use crate::inside::{Inside, attempts};

/// Whatever else it tries is forbidden.
const STILL: [&str; 3] = ["read /etc/passwd", "open a TCP socket", "open a UDP socket"];

fn assert_taken_over(program: &Program) {
    let inside = Inside::of(program.id());
    for (what, got) in attempts(&inside, std::process::id()) {
        let expected = match what {
            what if STILL.contains(&what) => None,
            // By its owner's leave, that of the filter it has.
            "read /etc/shadow" => Some(libc::EACCES),
            _ => Some(libc::EPERM),
        };
        assert_eq!(got, expected, "{what}");
    }
}

#[test]
fn a_taken_over_process_of_root_or_of_a_user_gets_sockets_and_what_everybody_may_read() {
    if !as_root() {
        return;
    }
    let program = ForEverybody::new();
    for user in [0, 65_532] {
        let [port, target_http, client_http] = [free_port(), free_port(), free_port()];
        let [listen, to] =
            [format!("--listen-port={port}"), format!("--external-target-addr=127.0.0.1:{port}")];
        let [for_target, for_client] =
            [target_http, client_http].map(|port| format!("--metrics-addr=127.0.0.1:{port}"));
        let [target_http, client_http] = [target_http, client_http].map(|port| ([127, 0, 0, 1], port).into());
        let start = |args: &[&str]| Program::start_command(program.command(args).uid(user).gid(user));
        let mut args =
            vec!["external-target", "--allowed-cidr=127.0.0.0/8", &listen, &for_target, "--keep-open"];
        args.extend(["--ebpf", "--tags"]);
        let target = start(&args);
        wait_for("the target", || status(target_http, "/healthz") == 200);
        let client = start(&["client", &to, &for_client, "--watch", "--hold=2", "--interval=20ms"]);
        wait_for("held connections", || metric(client_http, "egw_probe_held_connections") == Some(2.0));
        assert_taken_over(&target);
        assert_taken_over(&client);
        // Neither has noticed.
        let probes = metric(client_http, "egw_probe_probes_total{outcome=\"pong\"}");
        wait_for("more pongs", || metric(client_http, "egw_probe_probes_total{outcome=\"pong\"}") > probes);
    }
}
