//! What becomes of a measurement whose log or result cannot be written.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _, pipe};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{free_port, metric, status, target, wait_for};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn full() -> File {
    fs::OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// Logs that take no line, each by its name: a full disk, a pipe that nobody has open any more, one that nobody reads. What it
/// takes to keep that so is the last.
fn logs() -> Vec<(&'static str, Stdio, Option<PipeReader>)> {
    let (_, closed) = pipe().unwrap();
    let (unread, mut stuffed) = pipe().unwrap();
    // A pipe has 64 KiB (pipe(7)); what is left is less than a line.
    stuffed.write_all(&vec![b'x'; 65_536]).unwrap();
    vec![
        ("a full disk", full().into(), None),
        ("a closed pipe", closed.into(), None),
        ("a pipe that nobody reads", stuffed.into(), Some(unread)),
    ]
}

#[test]
fn a_client_whose_log_takes_nothing_measures_and_says_how_much_was_lost() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    for (name, log, _kept) in logs() {
        let args = ["client", &to, "--exit", "--metrics-addr=127.0.0.1:0", "--output=json"];
        let output = program(&args).stderr(log).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["outcome"], "masqueraded", "{name}");
        let told = document["warnings"].as_array().unwrap().iter();
        assert_eq!(told.filter(|line| line.as_str().unwrap().contains("log lines")).count(), 1, "{name}");
    }
}

#[test]
fn a_target_whose_log_takes_nothing_goes_on_and_counts() {
    for (name, log, _kept) in logs() {
        let (port, serve) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let args = [
            "external-target".to_owned(),
            "--allowed-cidr=127.0.0.0/8".into(),
            format!("--listen-port={port}"),
            format!("--metrics-addr={serve}"),
        ];
        let args = args.each_ref().map(String::as_str);
        let mut target = program(&args).stderr(log).spawn().unwrap();
        wait_for("a target that serves", || metric(serve, "egw_probe_lost_log_lines_total") >= Some(1.0));
        let mut reply = String::new();
        TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "pong\n", "{name}");
        kill_process(Pid::from_child(&target), Signal::TERM).unwrap();
        assert_eq!(target.wait().unwrap().code(), Some(0), "{name}");
    }
}

#[test]
fn a_result_that_nobody_can_read_is_exit_code_4() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    let args = ["client", &to, "--exit", "--metrics-addr=127.0.0.1:0"];
    let (_, closed) = pipe().unwrap();
    let no_stdout = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" >&-", env!("CARGO_BIN_EXE_egw-probe")]).args(args);
        shell.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ways: [(&str, Child); 3] = [
        ("Broken pipe", program(&args).stdout(closed).spawn().unwrap()),
        ("No space left on device", program(&args).stdout(full()).spawn().unwrap()),
        ("Bad file descriptor", no_stdout(&args)),
    ];
    for (reason, client) in ways {
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{reason}: {said}");
        assert!(said.contains("the result is lost") && said.contains(reason), "{said}");
    }
}

#[test]
fn a_client_that_stays_for_its_scrapers_stays_though_its_result_is_lost() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let serve = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let to = format!("--external-target-addr=127.0.0.1:{}", target.port);
    let mut client =
        program(&["client", &to, &format!("--metrics-addr={serve}")]).stdout(full()).spawn().unwrap();
    let pongs = r#"egw_probe_probes_total{outcome="pong"}"#;
    // What it says of the loss is its last line.
    let mut said = BufReader::new(client.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("the result is lost")));
    // A second tick may have come before the first pong.
    assert!(status(serve, "/readyz") == 200 && metric(serve, pongs) >= Some(1.0));
    kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(4));
}
