//! Flags that come from the environment.

use crate::common::{Program, target};

#[test]
fn flags_come_from_the_environment_too() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    command
        .arg("client")
        .env("EGW_PROBE_EXTERNAL_TARGET_ADDR", format!("127.0.0.1:{}", target.port))
        .env("EGW_PROBE_EXIT", "true")
        .env("EGW_PROBE_OUTPUT", "json")
        .env("EGW_PROBE_CLIENT_ID", "from-env")
        .env("EGW_PROBE_METRICS_ADDR", "127.0.0.1:0");
    let output = Program::start_command(&mut command).finish();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["client_id"]), (Some(0), &"from-env".into()));
}

#[test]
fn an_empty_variable_is_as_good_as_unset_and_one_that_is_wrong_is_named() {
    // The flags of the client and of the target, as their help lists them.
    for (command, needed) in
        [("client", "--external-target-addr=127.0.0.1:9"), ("external-target", "--allowed-cidr=::/0")]
    {
        let help = Program::start(&[command, "--help"]).finish();
        let help = String::from_utf8(help.stdout).unwrap();
        let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
        let names =
            flags.map(|flag| flag.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap());
        let empty: Vec<(String, &str)> = names
            .filter(|name| !["help", "version"].contains(name))
            .map(|name| (format!("EGW_PROBE_{}", name.replace('-', "_").to_uppercase()), ""))
            .collect();
        assert!(empty.len() > 10, "{help}");
        let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_egw-probe"));
        // An error that is none of the variables'.
        run.args([command, needed, "--metrics-addr=192.0.2.1:1"]).envs(empty);
        let said = String::from_utf8(Program::start_command(&mut run).finish().stderr).unwrap();
        assert!(said.contains("not an address of this host"), "{command}: {said}");
    }
    for (variable, value, flag, expected) in [
        (
            "INTERVAL",
            "5",
            "--test-timeout=1s",
            "--interval (from EGW_PROBE_INTERVAL): \"5\": a number needs a unit",
        ),
        ("INTERVAL", "5", "--interval=0", "--interval: \"0s\": must be above 0"),
        (
            "INTERVAL",
            "0",
            "--test-timeout=1s",
            "--interval (from EGW_PROBE_INTERVAL): \"0s\": must be above 0",
        ),
        ("OUTPUT", "xml", "--exit", "--output (from EGW_PROBE_OUTPUT): \"xml\" is none of its values"),
        ("WATCH", "maybe", "--exit", "--watch (from EGW_PROBE_WATCH): \"maybe\": not a duration"),
        ("WATCH", "false", "--hold=1", "--hold: \"1\": held connections are followed by a watch"),
        ("WATCH", "true", "--stress", "--watch (from EGW_PROBE_WATCH): \"set\": not together with --stress"),
        ("WATCH", "0", "--stress", "--watch (from EGW_PROBE_WATCH): \"set\": not together with --stress"),
    ] {
        let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_egw-probe"));
        run.args(["client", "--external-target-addr=127.0.0.1:9", flag]);
        run.env(format!("EGW_PROBE_{variable}"), value);
        let output = Program::start_command(&mut run).finish();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("error: {expected}")), "{variable}={value} {flag}: {said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1));
    }
}
