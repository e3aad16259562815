//! Which limit a stress test ran into: a judgement on what was counted, with the evidence for it.

use std::collections::BTreeMap;

use crate::document::stress::{DialFailure, Limit, LimitKind, LostSyn, PortRange, StressEnd};

/// Ranges that gateways choose ports from, per egress IP, remote IP and remote port.
const KNOWN_POOLS: [(u64, &str); 3] = [
    (32_768, "Cilium's NAT range is 32,768 ports"),
    (64_512, "a masquerade over 1024-65535 has 64,512 ports"),
    (28_232, "Linux's default range is 28,232 ports"),
];
/// What moves the limit of a gateway.
const NAT_REMEDY: &str = "add egress IPs, or --stress-target-addr (NAT ports are per egress IP, remote IP and port); if that changes \
                          nothing, the gateway's connection tracking table is full (nf_conntrack_max, Cilium's NAT map)";
/// What to look at where packets are lost at any number of connections, or for a time.
const LOSSY: &str =
    "SYNs are lost at any number of connections, or were for a time: client --watch tells how many and when";
/// SYNs are lost from some number of connections on, and not anywhere, if chance alone would have it in fewer tests than this.
const NOT_BY_CHANCE: f64 = 1e-3;
/// How far from a known pool still counts as its size: others may hold some of its ports.
const POOL_TOLERANCE: f64 = 0.02;

/// What is known when the test is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    /// Why it ended.
    pub ended: StressEnd,
    /// Dials that failed.
    pub failed_by: &'a BTreeMap<DialFailure, u64>,
    /// Connections open.
    pub open: u64,
    /// Connections that were ever open.
    pub opened: u64,
    /// SYNs that were sent again.
    pub lost_syns: u64,
    /// Dials that they were of, and the first and last of these.
    pub lost_dials: u64,
    pub lost: Option<(LostSyn, LostSyn)>,
    /// Connections that closed by themselves.
    pub closed: u64,
    /// Pairs of source address and target.
    pub lanes: u64,
    /// Targets.
    pub targets: u64,
    /// Ports of each pair.
    pub port_range: Option<PortRange>,
    /// Connections that the descriptors allow.
    pub most: u64,
}

impl Evidence<'_> {
    fn failed(&self, reason: DialFailure) -> u64 {
        self.failed_by.get(&reason).copied().unwrap_or(0)
    }

    fn ports(&self) -> String {
        match self.port_range {
            Some(range) => format!(
                "{} pairs of source address and target with {} ports each (net.ipv4.ip_local_port_range = {} {})",
                self.lanes,
                range.ports(),
                range.low,
                range.high
            ),
            None => format!("{} pairs of source address and target", self.lanes),
        }
    }

    /// Whether SYNs were lost only once so many connections were open, and from then on: a path loses them at any number, or for a
    /// time.
    fn loses_when_full(&self) -> bool {
        let Some((first, last)) = self.lost else { return false };
        let before = first.open as f64 / self.opened.max(1) as f64;
        let by_chance = (1.0 - before).powf(self.lost_dials as f64);
        by_chance < NOT_BY_CHANCE && last.open >= u64::midpoint(first.open, self.open)
    }

    /// The SYNs that were lost, as words behind others.
    fn lost(&self) -> String {
        self.lost.map_or(String::new(), |(first, last)| {
            let (syns, dials) = (self.lost_syns, self.lost_dials);
            format!(
                "; SYNs sent again: {syns} of {dials} dials, the first at {} open connections, the last at {}",
                first.open, last.open
            )
        })
    }

    /// What this host would still have had.
    fn spare(&self) -> String {
        let ports = self.port_range.map(|range| u64::from(range.ports()) * self.lanes);
        let ports = ports.map_or("unknown".into(), |all| all.saturating_sub(self.open).to_string());
        format!("this host has {ports} local ports and {} descriptors to spare", self.most - self.open)
    }
}

/// Which limit it was; `None` if the test ended without meeting one.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Option<Limit> {
    let e = evidence;
    if e.ended == StressEnd::Descriptors || e.failed(DialFailure::NoDescriptor) > 0 {
        return Some(Limit {
            kind: LimitKind::Descriptors,
            certain: true,
            evidence: format!("{} connections open of {} that the descriptor limit allows", e.open, e.most),
            remedy: "raise the limit (ulimit -Hn, as root) before the start".to_owned(),
        });
    }
    if e.ended != StressEnd::FailedDials {
        return beyond_the_first_lost_syn(e);
    }
    // The reason that failed most; of equals the one nearest to this host.
    let (reason, count) = e.failed_by.iter().rev().max_by_key(|(_, count)| **count)?;
    let after =
        format!("{count} dials failed ({}) at {} open connections{}", reason.name(), e.open, e.lost());
    of_this_host(*reason, e, &after).or_else(|| Some(beyond_this_host(*reason, e, &after)))
}

/// What SYNs ran into that were sent again, in a test that came to its end all the same.
fn beyond_the_first_lost_syn(e: &Evidence<'_>) -> Option<Limit> {
    e.lost?;
    let evidence = format!("{} connections were opened{}", e.opened, e.lost());
    let (kind, remedy) =
        if e.loses_when_full() { (LimitKind::NatPorts, NAT_REMEDY) } else { (LimitKind::Path, LOSSY) };
    Some(Limit { kind, certain: false, evidence, remedy: remedy.to_owned() })
}

/// A limit that this host itself has met.
fn of_this_host(reason: DialFailure, e: &Evidence<'_>, after: &str) -> Option<Limit> {
    let (kind, evidence, remedy) = match reason {
        DialFailure::NoLocalPort => (
            LimitKind::LocalPorts,
            format!("no free port on {}; {} open connections", e.ports(), e.open),
            "add --stress-source-addr or --stress-target-addr, or widen net.ipv4.ip_local_port_range",
        ),
        DialFailure::NoMemory => (
            LimitKind::Memory,
            after.to_owned(),
            "raise net.ipv4.tcp_mem, or give this host or its cgroup more memory",
        ),
        DialFailure::Forbidden if e.open > 0 || e.closed > 0 => (
            LimitKind::Path,
            after.to_owned(),
            "a firewall or cgroup program of this host refuses them: change it",
        ),
        _ => return None,
    };
    Some(Limit { kind, certain: true, evidence, remedy: remedy.to_owned() })
}

/// A limit that is concluded from how dials failed.
fn beyond_this_host(reason: DialFailure, e: &Evidence<'_>, after: &str) -> Limit {
    let rejected = matches!(reason, DialFailure::Refused | DialFailure::Reset);
    let (kind, evidence, remedy) = if reason == DialFailure::NoReply {
        (
            LimitKind::Target,
            format!(
                "{after}: their handshakes were complete and they got no pong, it accepts no more or too slowly"
            ),
            "raise the target's descriptor limit (its log and egw_probe_target_accept_failures_total tell), or use \
             several",
        )
    } else if e.open == 0 && e.closed == 0 {
        (LimitKind::Path, after.to_owned(), "see that a client reaches the target at all")
    } else if rejected && e.closed > 0 {
        (
            LimitKind::Target,
            format!("{after}, and {} open ones closed by themselves: it ended or restarted", e.closed),
            "look at the target",
        )
    } else if rejected {
        (
            LimitKind::Target,
            format!("{after}; something on the way or the target answers with RST; {}", e.spare()),
            "look at the target's log, and at what rejects on the gateway",
        )
    } else if e.closed > 0 {
        (
            LimitKind::Path,
            format!("{after}, and {} open ones closed by themselves", e.closed),
            "look for an outage at that time: client --watch --hold follows it",
        )
    } else if reason == DialFailure::Timeout && e.lost.is_some() && !e.loses_when_full() {
        (LimitKind::Path, after.to_owned(), LOSSY)
    } else {
        let pool = known_pool(e.open / e.targets.max(1));
        (
            LimitKind::NatPorts,
            format!("{after}; all of them answered and none lost; {}{pool}", e.spare()),
            NAT_REMEDY,
        )
    };
    Limit { kind, certain: false, evidence, remedy: remedy.to_owned() }
}

fn known_pool(per_target: u64) -> String {
    let near = |size: u64| (per_target as f64 / size as f64 - 1.0).abs() < POOL_TOLERANCE;
    let known = KNOWN_POOLS.iter().find(|(size, _)| near(*size));
    known.map_or(String::new(), |(_, text)| format!("; {per_target} per target: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(ended: StressEnd, failed: &[(DialFailure, u64)], change: fn(&mut Evidence<'_>)) -> Option<Limit> {
        let failed_by = failed.iter().copied().collect();
        let mut evidence = Evidence {
            ended,
            failed_by: &failed_by,
            open: 32_700,
            opened: 32_700,
            lost_syns: 0,
            lost_dials: 0,
            lost: None,
            closed: 0,
            lanes: 2,
            targets: 1,
            port_range: Some(PortRange { low: 32_768, high: 60_999 }),
            most: 100_000,
        };
        change(&mut evidence);
        judge(&evidence)
    }

    #[test]
    fn each_limit_is_told_from_what_failed_and_what_did_not() {
        use DialFailure::{NoLocalPort, NoMemory, NoReply, Refused, Timeout};
        use StressEnd::FailedDials;
        type Case = (&'static [(DialFailure, u64)], fn(&mut Evidence<'_>), LimitKind, bool);
        let cases: [Case; 8] = [
            (&[(NoLocalPort, 3)], |_| {}, LimitKind::LocalPorts, true),
            (&[(NoMemory, 3)], |_| {}, LimitKind::Memory, true),
            (&[(Timeout, 3)], |_| {}, LimitKind::NatPorts, false),
            (&[(NoReply, 3)], |_| {}, LimitKind::Target, false),
            (&[(Timeout, 3)], |e| e.closed = 9, LimitKind::Path, false),
            (&[(Timeout, 3)], |e| e.open = 0, LimitKind::Path, false),
            (&[(Refused, 3)], |e| (e.open, e.closed) = (0, 9), LimitKind::Target, false),
            (&[(Refused, 3)], |_| {}, LimitKind::Target, false),
        ];
        for (failed, change, kind, certain) in cases {
            let limit = met(FailedDials, failed, change).unwrap();
            assert_eq!((limit.kind, limit.certain), (kind, certain), "{failed:?}: {}", limit.evidence);
        }
        assert_eq!(met(StressEnd::Descriptors, &[], |_| {}).unwrap().kind, LimitKind::Descriptors);
        assert_eq!(met(StressEnd::Duration, &[(Timeout, 1)], |_| {}), None);
        assert_eq!(met(StressEnd::Connections, &[], |_| {}), None);
    }

    #[test]
    fn syns_that_were_sent_again_are_a_limit_although_all_dials_succeeded() {
        let at = |open| LostSyn { at_seconds: open as f64, open };
        let judged = |ended, failed: &[(DialFailure, u64)], lost_dials, first, last| {
            let failed_by = failed.iter().copied().collect();
            judge(&Evidence {
                ended,
                failed_by: &failed_by,
                open: 1_000,
                opened: 1_000,
                lost_syns: 3 * lost_dials,
                lost_dials,
                lost: Some((at(first), at(last))),
                closed: 0,
                lanes: 1,
                targets: 1,
                port_range: None,
                most: 100_000,
            })
            .unwrap()
        };
        let timeouts = [(DialFailure::Timeout, 3)];
        for (ended, failed) in [
            (StressEnd::Connections, &[][..]),
            (StressEnd::Duration, &[]),
            (StressEnd::FailedDials, &timeouts),
        ] {
            let kind = |dials, first, last| judged(ended, failed, dials, first, last).kind;
            assert_eq!(kind(40, 260, 990), LimitKind::NatPorts);
            // Of 40 lost anywhere the first comes early; of one alone nothing can be said; an outage is over before the end.
            assert_eq!([kind(40, 30, 990), kind(1, 900, 900), kind(24, 500, 520)], [LimitKind::Path; 3]);
        }
        assert_eq!(
            judged(StressEnd::Connections, &[], 40, 260, 990).evidence,
            "1000 connections were opened; SYNs sent again: 120 of 40 dials, the first at 260 open connections, the last at 990"
        );
    }

    #[test]
    fn the_evidence_names_the_figures() {
        let ports = met(StressEnd::FailedDials, &[(DialFailure::NoLocalPort, 3)], |_| {}).unwrap();
        assert_eq!(
            ports.evidence,
            "no free port on 2 pairs of source address and target with 28232 ports each \
             (net.ipv4.ip_local_port_range = 32768 60999); 32700 open connections"
        );
        let nat = met(StressEnd::FailedDials, &[(DialFailure::Timeout, 3)], |_| {}).unwrap();
        assert_eq!(
            nat.evidence,
            "3 dials failed (timeout) at 32700 open connections; all of them answered and none lost; this host has 23764 \
             local ports and 67300 descriptors to spare; 32700 per target: Cilium's NAT range is 32,768 ports"
        );
    }
}
