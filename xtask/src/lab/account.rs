//! Where each SYN of an activation went, by two captures: one where it left the Pod, one where it reached the target.
//! Source NAT keeps the sequence number, so that a SYN is the same one on both. Pure: values in, values out.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use egw_probe::document::result::ResultDocument;
use serde::Serialize;

use super::capture::{Captured, Segment};

/// The account of one activation's SYNs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    /// SYNs that left the Pod.
    pub(crate) left: u64,
    /// Of these, SYNs that did not reach the target.
    pub(crate) vanished: u64,
    /// SYNs that reached it from outside the CIDR, with the rest of their handshake.
    pub(crate) outside: u64,
    /// The same from inside.
    pub(crate) inside: u64,
    /// SYNs that reached it, and whose handshake was cut: in flight when packets began to vanish.
    pub(crate) cut: u64,
    /// SYNs that the Pod's kernel sent again: its client was held up past its own probe timeout, so that a probe was more
    /// than one SYN, and nothing can be concluded.
    pub(crate) again: u64,
}

impl Account {
    /// Everything that the client's figures say otherwise.
    pub(crate) fn faults(&self, measured: &ResultDocument) -> Vec<String> {
        let Self { left, vanished, outside, inside, cut, again: _ } = *self;
        let probes = &measured.probes;
        [
            ("sent", probes.sent, left, "left the Pod"),
            // One that was cut behind its handshake is silent.
            ("timeout or silent", probes.timeout + probes.silent, vanished + cut, "vanished or were cut"),
            ("leaked", probes.leaked, outside, "reached the target from outside the CIDR"),
            ("pong", probes.pong, inside, "reached it from inside"),
        ]
        .into_iter()
        .filter(|(_, counted, captured, _)| counted != captured)
        .map(|(outcome, counted, captured, what)| {
            format!("{captured} SYNs {what}, and {counted} probes are {outcome}")
        })
        .collect()
    }
}

/// Draws up the account of everything captured at the Pod's wire.
pub(crate) fn draw_up(left: &Captured, arrived: &Captured, allowed: &dyn Fn(IpAddr) -> bool) -> Account {
    let mut account = Account::default();
    let reached: HashMap<u32, &Segment> = arrived.syns().map(|syn| (syn.sequence, syn)).collect();
    // The handshake's last segment has the SYN's sequence number plus one (RFC 9293, 3.5). So has the FIN of a probe that
    // timed out, which may get through once the policy has come.
    let completed: HashSet<(SocketAddr, u32)> = arrived
        .segments
        .iter()
        .filter(|segment| segment.ack)
        .map(|segment| (segment.source, segment.sequence))
        .collect();
    let mut seen = HashSet::new();
    for syn in left.syns() {
        if !seen.insert((syn.source, syn.sequence)) {
            account.again += 1;
            continue;
        }
        account.left += 1;
        match reached.get(&syn.sequence) {
            None => account.vanished += 1,
            Some(there) if !completed.contains(&(there.source, there.sequence.wrapping_add(1))) => {
                account.cut += 1;
            }
            Some(there) if allowed(there.source.ip()) => account.inside += 1,
            Some(_) => account.outside += 1,
        }
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::clock::Monotonic;

    fn segment(source: &str, sequence: u32, syn: bool) -> Segment {
        Segment { at: Monotonic::from_ns(1), source: source.parse().unwrap(), sequence, syn, ack: !syn }
    }

    fn captured(segments: &[Segment]) -> Captured {
        Captured { segments: segments.to_vec(), ..Captured::default() }
    }

    #[test]
    fn every_syn_goes_to_one_account() {
        let left: Vec<Segment> =
            [10, 20, 30, 40, 40].map(|sequence| segment("10.0.0.1:999", sequence, true)).to_vec();
        let arrived = [
            segment("192.0.2.1:5", 10, true),
            segment("192.0.2.1:5", 11, false),
            segment("192.0.2.1:6", 20, true),
            // Of another connection: its sequence number alone proves nothing.
            segment("192.0.2.1:7", 21, false),
            segment("192.0.2.100:8", 40, true),
            segment("192.0.2.100:8", 41, false),
        ];
        let inside = |address: IpAddr| address.to_string() == "192.0.2.100";
        let account = draw_up(&captured(&left), &captured(&arrived), &inside);
        assert_eq!(account, Account { left: 4, vanished: 1, outside: 1, inside: 1, cut: 1, again: 1 });
    }
}
