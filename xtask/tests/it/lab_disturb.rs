//! The lab, end to end, with what a clean one withholds: proxies, SYNPROXY, unanswered ARP, loss, jitter, ports used again. Needs
//! root.

use serde_json::Value;

use crate::lab::{disturbed, sum};
use crate::machine;

#[test]
fn nothing_in_between_is_told_to_clients_without_rights_through_every_nat() {
    let Some(_machine) = machine() else { return };
    for args in
        ["masquerade", "masquerade --ipv6", "masquerade --nat fully-random", "masquerade --nat port-range"]
    {
        for result in disturbed(args, 3) {
            assert_eq!(result["end_to_end"], true, "{args}");
            assert_eq!(result["bracket"]["lower_evidence"], "proven");
        }
    }
}

#[test]
fn a_bare_pong_tells_nothing_of_what_is_in_between() {
    let Some(_machine) = machine() else { return };
    for result in disturbed("masquerade --plain-reply", 2) {
        assert_eq!(result["end_to_end"], Value::Null);
        assert_eq!(result["bracket"]["lower_evidence"], "presumed");
    }
}

#[test]
fn a_proxy_in_the_path_is_told_and_moves_no_bracket() {
    let Some(_machine) = machine() else { return };
    for args in ["masquerade", "blackhole", "masquerade --ipv6", "masquerade --plain-reply"] {
        let expected = if args.contains("plain") { Value::Null } else { false.into() };
        for result in disturbed(&format!("{args} --disturb proxy"), 3) {
            assert_eq!(result["end_to_end"], expected, "{args}");
        }
    }
    // What it closes or resets on its own account is no leak.
    let results = disturbed("failover --disturb proxy", 3);
    assert_eq!(sum(&results, "/probes/leaked"), 0);
    assert!(sum(&results, "/probes/closed") > 0 && sum(&results, "/probes/reset") > 0);
    assert!(disturbed("flap --disturb proxy", 2).iter().all(|result| result["end_to_end"] == false));
}

#[test]
fn a_proxy_in_the_pod_is_never_taken_for_the_target() {
    let Some(_machine) = machine() else { return };
    assert!(disturbed("masquerade --disturb sidecar", 3).iter().all(|result| result["end_to_end"] != true));
}

#[test]
fn synproxy_at_the_target_is_never_taken_for_it_and_moves_no_bracket() {
    let Some(_machine) = machine() else { return };
    for args in ["masquerade", "masquerade --ipv6", "blackhole", "failover", "flap", "restart"] {
        for result in disturbed(&format!("{args} --disturb synproxy"), 3) {
            assert_eq!(result["end_to_end"], Value::Null, "{args}");
        }
    }
}

#[test]
fn syns_that_wait_for_a_mac_address_are_inside_every_bracket() {
    let Some(_machine) = machine() else { return };
    disturbed("masquerade --disturb arp", 3);
    disturbed("masquerade --disturb arp --ipv6", 2);
    for result in disturbed("failover --disturb arp", 3) {
        assert_eq!(result["disruptions"][0]["kind"], "blackhole");
    }
}

#[test]
fn chance_losses_are_isolated_misses_and_no_outage() {
    let Some(_machine) = machine() else { return };
    disturbed("masquerade --disturb loss --loss 20", 3);
    disturbed("failover --disturb loss", 3);
    disturbed("flap --disturb loss --loss 20", 3);
}

#[test]
fn jitter_duplicates_and_reordering_move_no_bracket() {
    let Some(_machine) = machine() else { return };
    for what in ["jitter", "duplicate", "reorder", "jitter,duplicate,reorder"] {
        disturbed(&format!("masquerade --disturb {what}"), 3);
    }
    let results = disturbed("failover --disturb jitter --disturb duplicate --disturb reorder", 3);
    assert_eq!(sum(&results, "/disruptions_total"), 3);
}

#[test]
fn a_port_whose_probe_was_lost_moves_no_bracket_when_it_is_used_again() {
    let Some(_machine) = machine() else { return };
    disturbed("masquerade --disturb portreuse", 3);
    disturbed("masquerade --disturb portreuse,loss --loss 20", 3);
}

#[test]
fn an_undisturbed_watch_has_no_misses() {
    let Some(_machine) = machine() else { return };
    assert_eq!(sum(&disturbed("steady", 2), "/loss/isolated/misses"), 0);
}
