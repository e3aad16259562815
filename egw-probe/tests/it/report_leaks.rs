//! What `egw-probe report` tells of leaks, and by how much it believes what documents say of addresses and losses.

use serde_json::{Value, json};

use crate::common::files::{Folder, report_on};
use crate::synthetic;

/// A result with some of its keys exchanged.
fn result(name: &str, changes: &[(&str, Value)]) -> String {
    let (_, document) = synthetic::Clients::new(3).find(|(truth, _)| truth.is_some()).unwrap();
    let mut document = serde_json::to_value(document).unwrap();
    document["client_id"] = name.into();
    document["probes"]["leaked"] = 9.into();
    for (key, value) in changes {
        document[*key] = value.clone();
    }
    format!("{document}\n")
}

fn json(args: &[&str], stdin: &str) -> (i32, Value) {
    let output = report_on(&[args, &["--output=json"]].concat(), stdin.as_bytes());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Text, Markdown and page, with all white space alike.
fn forms(stdin: &str) -> Vec<String> {
    let folder = Folder::new();
    let page = format!("{}/page.html", folder.path());
    let said = |form: &str| {
        let output = report_on(&["-", "--html", &page, "--output", form], stdin.as_bytes());
        String::from_utf8(output.stdout).unwrap()
    };
    let forms = [said("text"), said("markdown"), std::fs::read_to_string(&page).unwrap()];
    forms.iter().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn leak(address: &str, probes: u64) -> Value {
    json!({"address": address, "whose": null, "probes": probes, "first_seconds": 0.1, "last_seconds": 0.2})
}

fn egress_ip(address: &str, pongs: u64) -> Value {
    json!({"address": address, "pongs": pongs, "share": 1.0, "first_seconds": 0.1, "last_seconds": 0.2,
        "in_force": true, "missed": 0})
}

fn loss(probes: u64, outside: u64, misses: [u64; 3]) -> Value {
    let [isolated, disruptions, partial] =
        misses.map(|misses| json!({"misses": misses, "share": 0.0, "low": 0.0, "high": 0.0}));
    json!({"probes": probes, "outside_outages": outside, "isolated": isolated, "in_disruptions": disruptions,
        "in_partial_outages": partial, "isolated_by": {}})
}

#[test]
fn what_results_do_not_list_by_address_is_told_as_others() {
    let documents = result(
        "one",
        &[
            ("leaked_from", json!([leak("192.0.2.1", 5)])),
            ("leaked_from_omitted_probes", 1_234.into()),
            ("egress_ips", json!([egress_ip("198.51.100.1", 7)])),
            ("egress_ips_omitted_pongs", 77.into()),
        ],
    );
    let (_, report) = json(&["-"], &documents);
    let run = &report["run"];
    assert_eq!((&run["leaked_from"]["more"], &run["leaked_from"]["more_probes"]), (&json!(0), &json!(1_234)));
    assert_eq!(run["egress_ips"]["more_probes"], 77);
    for form in forms(&documents) {
        for said in ["and 1,234 more probes from other addresses", "and 77 more pongs by other addresses"] {
            assert!(form.contains(said), "{said}: {form}");
        }
    }
}

#[test]
fn partial_outages_count_against_the_gate_of_disruptions_as_they_do_for_a_client() {
    let documents =
        result("one", &[("loss", loss(1_000, 700, [0, 0, 100])), ("partial_outages_total", 2.into())]);
    let gate = |max: u64| {
        let (code, report) = json(&["-", &format!("--max-disruptions={max}")], &documents);
        (code, report["gates"][0]["found"].as_str().unwrap().to_owned())
    };
    let found = "0 disruptions and 2 partial outages".to_owned();
    assert_eq!((gate(2), gate(1)), ((0, found.clone()), (1, found)));
}

#[test]
fn a_client_that_lists_an_address_twice_is_one_client() {
    let mut own = leak("192.0.2.1", 4);
    own["whose"] = "own".into();
    let documents = result(
        "one",
        &[
            ("leaked_from", json!([leak("192.0.2.1", 3), leak("192.0.2.2", 1), own])),
            ("egress_ips", json!([egress_ip("198.51.100.1", 7), egress_ip("198.51.100.1", 8)])),
        ],
    );
    let run = json(&["-"], &documents).1["run"].take();
    assert_eq!(
        run["leaked_from"]["addresses"],
        json!([
            {"address": "192.0.2.1", "clients": 1, "probes": 7, "own": 1, "node": 0},
            {"address": "192.0.2.2", "clients": 1, "probes": 1, "own": 0, "node": 0},
        ])
    );
    let ip = &run["egress_ips"]["addresses"][0];
    assert_eq!((&ip["clients"], &ip["probes"]), (&json!(1), &json!(15)));
}

#[test]
fn numbers_of_addresses_and_losses_that_cannot_be_are_damage() {
    let with = |mut value: Value, key: &str, other: Value| {
        value[key] = other;
        json!([value])
    };
    let huge = u64::MAX - 1;
    let damaged = [
        ("leaked_from", json!([leak("192.0.2.1", huge)]), "a count of 18446744073709551614 is none"),
        ("leaked_from_omitted_probes", huge.into(), "a count of"),
        ("leaked_from", with(leak("192.0.2.1", 1), "first_seconds", (-1).into()), "a time of -1.0 s is none"),
        ("leaked_from", with(leak("192.0.2.1", 1), "last_seconds", json!(1e12)), "a time of"),
        ("leaked_from", with(leak("192.0.2.1", 1), "first_seconds", json!(0.3)), "times run backwards"),
        ("egress_ips", json!([egress_ip("192.0.2.1", huge)]), "a count of"),
        ("egress_ips", with(egress_ip("192.0.2.1", 1), "missed", huge.into()), "a count of"),
        ("egress_ips", with(egress_ip("192.0.2.1", 1), "last_seconds", json!(0.05)), "times run backwards"),
        ("egress_ips_omitted_pongs", huge.into(), "a count of"),
        ("loss", loss(huge, 10, [0, 0, 0]), "a count of"),
        ("loss", loss(10, 10, [11, 0, 0]), "of 10 probes 11 were lost"),
        ("loss", loss(10, 4, [5, 0, 0]), "of 4 probes 5 were lost"),
        ("loss", loss(10, 0, [11, 0, 0]), "of 10 probes 11 were lost"),
        ("loss", loss(10, 10, [0, 11, 0]), "of 10 probes 11 were lost"),
        ("loss", loss(10, 10, [0, 0, 11]), "of 10 probes 11 were lost"),
        ("loss", loss(10, 11, [0, 0, 0]), "of 10 probes 11 were outside of outages"),
        ("partial_outages_total", huge.into(), "a count of"),
        ("stress", json!({"leaked": huge}), "a count of"),
        ("held", json!({"leaked": huge}), "a count of"),
    ];
    for (key, value, why) in damaged {
        let (code, report) = json(&["-"], &result("one", &[(key, value.clone())]));
        let reason = report["run"]["read"]["skipped_documents"][0]["reason"].as_str().unwrap_or_default();
        assert!(code == 3 && reason.starts_with(&format!("damaged: {why}")), "{key} {value}: {reason}");
    }
    let good = result(
        "one",
        &[("loss", loss(10, 10, [10, 0, 0])), ("egress_ips_omitted_pongs", (1_u64 << 53).into())],
    );
    assert_eq!(json(&["-"], &good).0, 0);
    // A result of before does not say how many probes were outside of outages.
    let run = json(&["-"], &result("one", &[("loss", loss(10, 0, [4, 0, 0]))])).1["run"].take();
    assert_eq!(run["loss"]["outside_outages"], 10);
}

#[test]
fn the_gate_of_leaks_holds_for_stress_and_held_connections_too() {
    let documents = result("one", &[("stress", json!({"leaked": 44})), ("held", json!({"leaked": 2}))])
        + &result("two", &[("stress", json!({"opened": 3})), ("held", Value::Null)]);
    let gate = |max: u64| {
        let (code, report) = json(&["-", &format!("--max-leaked={max}")], &documents);
        (code, report["gates"][0]["found"].as_str().unwrap().to_owned())
    };
    let found = "18 probes, 44 stress connections and 2 held connections leaked";
    assert_eq!(gate(64), (0, found.to_owned()));
    assert_eq!(gate(63), (1, found.to_owned()));
    let run = json(&["-"], &documents).1["run"].take();
    assert_eq!(run["leaked_connections"], json!({"stress": 44, "held": 2}));
    for form in forms(&documents) {
        let said = "18 probes, 44 stress connections and 2 held connections";
        assert!(form.contains(said), "{said}: {form}");
    }
    let (code, report) = json(&["-", "--max-leaked=0"], &result("one", &[]));
    assert_eq!((code, &report["gates"][0]["found"]), (1, &json!("9 probes leaked")));
}
