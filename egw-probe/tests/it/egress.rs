//! From which address: leaks and egress IPs in the result, the text, the log and the exit code.

use std::io::Write as _;

use serde_json::json;

#[cfg(feature = "report")]
use crate::common::files::{Folder, report};
use crate::common::{Program, measure, peer, target};

#[test]
fn a_leak_is_named_with_its_address_and_whose_that_is() {
    let target = target(&["--allowed-cidr=127.0.0.9/32", "--reply=annotated"]);
    let address = format!("127.0.0.1:{}", target.port);
    let flags = ["--source-addr=127.0.0.1", "--test-timeout=300ms", "--interval=20ms"];
    let (code, document, log) = measure(&address, &flags);
    assert_eq!(code, 1);
    let leak = &document["leaked_from"][0];
    assert_eq!((&leak["address"], &leak["whose"]), (&json!("127.0.0.1"), &json!("own")));
    assert_eq!(leak["probes"], document["probes"]["leaked"]);
    let [first, last] = ["first_seconds", "last_seconds"].map(|key| leak[key].as_f64().unwrap());
    assert!(first < 0.1 && last > 0.2 && last < 0.32, "{leak}");
    assert_eq!(document["leaked_from"].as_array().unwrap().len(), 1);
    assert_eq!(log.matches("probes leak from this address").count(), 1, "{log}");
    let (_, document, _) = measure(&address, &[&flags[..], &["--label=node-ip=127.0.0.1"]].concat());
    assert_eq!(document["leaked_from"][0]["whose"], "node");
    let (_, document, _) = measure(&address, &["--source-addr=127.0.0.9"]);
    assert_eq!((&document["leaked_from"], &document["egress_ips"][0]["share"]), (&json!([]), &json!(1.0)));
}

#[test]
fn the_text_says_what_a_leaks_address_is() {
    let target = target(&["--allowed-cidr=127.0.0.9/32", "--reply=annotated"]);
    let address = format!("127.0.0.1:{}", target.port);
    let client = ["client", "--exit", "--metrics-addr=127.0.0.1:0", "--test-timeout=200ms"];
    let output = Program::start(
        &[&client[..], &["--external-target-addr", &address, "--source-addr=127.0.0.1"]].concat(),
    );
    let text = String::from_utf8(output.finish().stdout).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("leaked")).unwrap_or_default();
    assert!(line.contains("from 127.0.0.1, the client's own address: nothing has translated it"), "{text}");
}

#[test]
fn an_egress_ip_that_was_not_expected_fails_the_gate() {
    let annotating = target(&["--allowed-cidr=127.0.0.0/8", "--reply=annotated"]);
    let plain = target(&["--allowed-cidr=127.0.0.0/8"]);
    let gate = |port: u16, expected: &str| {
        let flags = ["--source-addr=127.0.0.1", &format!("--expect-egress-ip={expected}")];
        let (code, document, _) = measure(&format!("127.0.0.1:{port}"), &flags);
        (code, document["failed_gates"][0].as_str().map(str::to_owned))
    };
    assert_eq!(gate(annotating.port, "10.0.0.0/8,127.0.0.1"), (0, None));
    let (code, why) = gate(annotating.port, "127.0.0.8/30");
    let why = why.unwrap_or_default();
    assert_eq!(code, 1);
    assert!(why.starts_with("--expect-egress-ip 127.0.0.8/30: pongs came by other addresses: "), "{why}");
    assert!(why.ends_with(" from 127.0.0.1"), "{why}");
    let (code, why) = gate(plain.port, "127.0.0.1/32");
    assert_eq!(code, 1);
    assert!(
        why.as_ref().is_some_and(|why| why.contains("the target tells it with --reply annotated")),
        "{why:?}"
    );
}

#[test]
fn a_held_connection_that_closes_without_a_word_was_not_denied_by_a_target_that_says_so() {
    for (reply, denied) in [("pong\nsource=192.0.2.7:5\n", false), ("pong\n", true)] {
        // Answers the winner, and closes what comes after.
        let address = peer(move |mut stream, number| {
            if number == 0 {
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        let flags = ["--watch=700ms", "--hold=2", "--interval=100ms", "--max-leaked=0"];
        let (code, document, _) = measure(&address.to_string(), &flags);
        let held = &document["held"];
        assert_eq!(held["leaked"].as_u64() > Some(2), denied, "{held}");
        assert_eq!((held["leaked"] == held["leaked_presumed"], code), (true, 1), "{held}");
        let gate = document["failed_gates"][0].as_str().unwrap();
        assert_eq!(gate.contains("attempts to hold a connection leaked"), denied, "{gate}");
    }
}

#[test]
fn more_addresses_than_are_kept_pass_the_gate_if_they_were_expected() {
    let address = peer(|mut stream, number| {
        stream.write_all(format!("pong\nsource=192.0.2.{}:5\n", number % 100).as_bytes()).unwrap();
    });
    let gate = |expected: &str| {
        let flags = ["--watch=1s", "--interval=5ms", &format!("--expect-egress-ip={expected}")];
        let (code, document, _) = measure(&address.to_string(), &flags);
        assert_eq!(document["egress_ips"].as_array().unwrap().len(), 64);
        assert!(document["egress_ips_omitted_pongs"].as_u64() > Some(30), "{document}");
        (code, document["failed_gates"].to_string())
    };
    assert_eq!(gate("192.0.2.0/24"), (0, "[]".to_owned()));
    let (code, why) = gate("192.0.2.0/26");
    // Beyond 192.0.2.63 no address is kept.
    assert!(
        code == 1 && why.contains("pongs came by other addresses: ") && why.contains(" from more"),
        "{why}"
    );
}

#[cfg(feature = "report")]
#[test]
fn a_report_adds_the_addresses_up_in_every_form() {
    let target = target(&["--allowed-cidr=127.0.0.9/32", "--reply=annotated"]);
    let address = format!("127.0.0.1:{}", target.port);
    let folder = Folder::new();
    let mut leaked = 0;
    for (name, source) in [("one", "127.0.0.1"), ("two", "127.0.0.1"), ("three", "127.0.0.9")] {
        let flags =
            [&format!("--source-addr={source}"), "--test-timeout=200ms", "--interval=20ms", "--watch=100ms"];
        let (_, document, _) = measure(&address, &flags);
        leaked += document["probes"]["leaked"].as_u64().unwrap();
        folder.write(name, &document.to_string());
    }
    let page = format!("{}/page.html", folder.path());
    let said =
        |flags: &[&str]| String::from_utf8(report(&[&[folder.path()], flags].concat()).stdout).unwrap();
    let json: serde_json::Value = serde_json::from_str(&said(&["--output=json"])).unwrap();
    let seen = &json["run"]["leaked_from"]["addresses"][0];
    assert_eq!(
        (&seen["address"], &seen["clients"], &seen["own"]),
        (&json!("127.0.0.1"), &json!(2), &json!(2))
    );
    assert_eq!((seen["probes"].as_u64(), leaked > 10), (Some(leaked), true));
    assert_eq!(json["run"]["egress_ips"]["addresses"][0]["address"], "127.0.0.9");
    assert_eq!(json["run"]["loss"]["by_chance"]["misses"], 0);
    let line = format!("127.0.0.1, {leaked} probes of 2 clients: own address of 2 clients");
    let text = said(&["--html", &page]);
    assert!(text.contains(&line) && text.contains("127.0.0.9, ") && text.contains("lost "), "{text}");
    assert!(std::fs::read_to_string(page).unwrap().contains(&line));
}
