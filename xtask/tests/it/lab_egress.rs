//! The lab, end to end: by which addresses probes leave, and what is lost without an outage. Needs root.

use serde_json::{Value, json};

use crate::lab::{disturbed, sum};
use crate::machine;

fn addresses(result: &Value, list: &str) -> Vec<String> {
    let mut all: Vec<String> = result[list]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["address"].as_str().unwrap().to_owned())
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn egress_ips_that_alternate_are_listed_with_their_shares_and_no_warning() {
    let Some(_machine) = machine() else { return };
    // The lab compares the pongs of each address with the connections that the target counted, and looks for warnings in the log.
    for result in disturbed("steady --gateways 2 --lasts 2s", 1) {
        assert_eq!(addresses(&result, "egress_ips"), ["203.0.113.100", "203.0.113.101"]);
        assert_eq!(result["egress_changes_total"], 1);
    }
    for result in disturbed("steady --gateways 3 --lasts 2s --ipv6", 1) {
        let expected = ["2001:db8:113::100", "2001:db8:113::101", "2001:db8:113::102"];
        assert_eq!(addresses(&result, "egress_ips"), expected);
        assert_eq!(result["egress_changes_total"], 2);
    }
}

#[test]
fn a_dead_gateway_of_several_is_one_partial_outage_whose_brackets_hold_it() {
    let Some(_machine) = machine() else { return };
    for gateways in [2, 3] {
        let results = disturbed(&format!("gateways --gateways {gateways}"), 2);
        assert_eq!(sum(&results, "/partial_outages_total"), 2);
        assert!(sum(&results, "/loss/in_partial_outages/misses") > 2 * 100);
    }
}

#[test]
fn a_leak_names_its_address_and_whose_that_is() {
    let Some(_machine) = machine() else { return };
    let named = [
        ("node", "", "203.0.113.1", json!("node")),
        ("pod", "", "10.244.0.1", json!("own")),
        ("pod", "--ipv6", "fd00:244::1", json!("own")),
        ("gateway", "", "203.0.113.100", Value::Null),
    ];
    for (from, family, address, whose) in named {
        // The lab looks into log and summary, too.
        let results = disturbed(&format!("never --leak-from {from} {family}"), 1);
        assert_eq!(results[0]["outcome"], "timed_out");
        assert_eq!(addresses(&results[0], "leaked_from"), [address]);
        assert_eq!(results[0]["leaked_from"][0]["whose"], whose);
        assert_eq!(results[0]["leaked_from"][0]["probes"], results[0]["probes"]["leaked"]);
    }
}

#[test]
fn stress_connections_that_pass_the_gateway_by_are_counted_exactly() {
    let Some(_machine) = machine() else { return };
    // The lab compares the count with a capture at the target, and expects the gate to fail.
    for flags in ["", "--plain-reply", "--ipv6"] {
        let results = disturbed(&format!("stress {flags}"), 1);
        assert!(sum(&results, "/stress/leaked") >= 10);
    }
}

#[test]
fn random_loss_is_no_outage_and_its_rate_is_told() {
    let Some(_machine) = machine() else { return };
    // The lab compares the rate that is told with the one that was made.
    for percent in [1, 5] {
        let results = disturbed(&format!("steady --disturb loss --loss {percent} --lasts 5s"), 2);
        assert!(sum(&results, "/loss/isolated/misses") > 20);
        assert_eq!(sum(&results, "/disruptions_total") + sum(&results, "/partial_outages_total"), 0);
    }
}
