//! Why a test got no pong: rules from counts to sentences, each with what to look at next. Pure.
//!
//! docs/troubleshooting.md has every sentence, which a test checks. A test that got a pong gets none: before it, leaks and
//! refusals are what a gateway that comes up looks like.

use std::time::Duration;

use crate::document::egress::{LeakSource, Whose};
use crate::document::go::format_duration;
use crate::document::outcome::Outcome;
use crate::document::result::{Hint, ProbeCounts};
use crate::sys::log;

/// What is noted of the probes beside their outcomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clues {
    /// Probes that ICMP refused: no TCP does that, but a firewall.
    pub refused_by_firewall: u64,
    /// Probes that were prohibited.
    pub prohibited: u64,
    /// Probes that were unreachable, and not prohibited.
    pub unreachable: u64,
    /// Of all these, those that timed out: the kernel had heard it, and kept trying.
    pub in_silence: u64,
    /// Timeouts whose answer was waited for, as long as there was nothing but timeouts.
    pub waited_for: u64,
    /// Of these, those whose answer came.
    pub came_late: u64,
    /// After this time at the earliest, and at the latest.
    pub late_by: Option<(Duration, Duration)>,
}

/// What the rules judge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// Probes by outcome.
    pub probes: &'a ProbeCounts,
    /// The addresses that they leaked from.
    pub leaked_from: &'a [LeakSource],
    /// And what was noted beside.
    pub clues: Clues,
    /// `--probe-timeout`.
    pub probe_timeout: Duration,
    /// `--interval`.
    pub interval: Duration,
}

/// A sentence, and when it is said.
pub(crate) struct Rule {
    /// What is the matter.
    pub what: &'static str,
    /// What to look at next.
    pub next: &'static str,
    /// The figures that it is said by; `None` where it is not.
    evidence: fn(&Facts<'_>) -> Option<String>,
}

/// All there is to say, one rule for each cause.
pub(crate) const RULES: [Rule; 13] = [
    Rule {
        what: "handshakes complete, and replies never come",
        next: "does the target accept? `ss -ltn` on its host shows a queue in Recv-Q if not; else something in between answers \
               handshakes (a proxy, SYNPROXY, a load balancer without a backend): probe the target from another host",
        evidence: |facts| facts.most(facts.probes.silent),
    },
    Rule {
        what: "answers take longer than --probe-timeout",
        next: "lengthen --probe-timeout beyond the path's round-trip; --interval can stay, probes overlap",
        evidence: |facts| facts.late(),
    },
    Rule {
        what: "SYNs are not answered",
        next: "`egw_probe_target_syns_total` of a target with --ebpf: if it grows, SYNs arrive and the way back is broken; if \
               not, they are dropped on the way (a default-deny policy, a gateway that is down, a security group)",
        evidence: |facts| {
            let explained = facts.late().or_else(|| facts.forbidden()).or_else(|| facts.unreachable());
            facts.most(facts.probes.timeout).filter(|_| explained.is_none())
        },
    },
    Rule {
        what: "a policy forbids the probes: ICMP or this host says so",
        next: "`tcpdump -ni any icmp or icmp6` at the client names the host that says it: look there for a reject rule, a \
               network policy or a prohibit route",
        evidence: |facts| facts.forbidden(),
    },
    Rule {
        what: "the target is unreachable, as this host or a router says",
        next: "`ip route get` with the target's address, at the client and at its gateway; `ip neigh` where the last of them \
               has no answer to ARP; to a kernel before 5.8 a reject rule looks the same",
        evidence: |facts| facts.unreachable(),
    },
    Rule {
        what: "the connections are refused: nobody listens on that port, or a firewall rejects them",
        next: "the port in --external-target-addr, and whether the target runs (its log says where it listens); if it \
               does, a reject rule on the way",
        evidence: |facts| facts.most(facts.probes.refused.saturating_sub(facts.clues.refused_by_firewall)),
    },
    Rule {
        what: "connections are reset after the handshake",
        next: "a proxy or load balancer that cannot reach the target, or a firewall in between: the target itself closes by \
               FIN",
        evidence: |facts| facts.most(facts.probes.reset),
    },
    Rule {
        what: "something other than the target closes the connections",
        next: "a proxy, sidecar or load balancer on the way: this target annotates its replies, and would have said `denied`",
        evidence: |facts| facts.most(facts.probes.closed),
    },
    Rule {
        what: "something other than an egw-probe target answers",
        next: "`nc -v` to address and port of --external-target-addr shows what speaks there: another service, or a proxy's \
               error page",
        evidence: |facts| facts.most(facts.probes.garbled),
    },
    Rule {
        what: "the probes leave with the client's own address: nothing translates it",
        next: "does the egress policy select this Pod (labels, namespace) and this destination, and has the gateway an entry \
               for it?",
        evidence: |facts| facts.leaks(|source| source.whose == Some(Whose::Own)),
    },
    Rule {
        what: "the probes leave with the node's address: the node masquerades them, and no gateway",
        next: "the rule order on the node: its own masquerading (kube-proxy, CNI) comes before the egress policy, or instead \
               of it",
        evidence: |facts| facts.leaks(|source| source.whose == Some(Whose::Node)),
    },
    Rule {
        what: "the probes arrive from an address outside --allowed-cidr",
        next: "whose address it is: an egress IP that --allowed-cidr of the target lacks, a node's (--label node-ip= lets the \
               client tell), or one that NAT behind the gateway gives",
        evidence: |facts| facts.leaks(|source| source.whose.is_none()),
    },
    Rule {
        what: "connections are closed without a reply, which a target does to sources outside --allowed-cidr",
        next: "a target with --reply annotated says so, and from which address; its log names new denied sources",
        evidence: |facts| facts.most(facts.probes.leaked.saturating_sub(facts.probes.leaked_proven)),
    },
];

impl Facts<'_> {
    /// The probes that left and were settled.
    fn settled(&self) -> u64 {
        let left = Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Error);
        left.map(|outcome| self.probes.of(outcome)).sum()
    }

    /// So many of them, if they are at least half.
    fn most(&self, count: u64) -> Option<String> {
        let all = self.settled();
        (count > 0 && count * 2 >= all).then(|| format!("{count} of {all} probes"))
    }

    /// Probes that ICMP answered. Hosts send one a second after the first few (`icmp_ratelimit`), so the others time out: it is
    /// the cause if at least half of what was answered, and of the seconds, had it.
    fn by_icmp(&self, count: u64) -> Option<String> {
        let (all, timeouts) = (self.settled(), self.probes.timeout.saturating_sub(self.clues.in_silence));
        let seconds = (self.interval * u32::try_from(all).unwrap_or(u32::MAX)).as_secs();
        let steady = count * 2 >= (all - timeouts).max(all.min(seconds));
        let others = if timeouts > 0 {
            format!(", {timeouts} timed out: ICMP is limited to about one a second")
        } else {
            String::new()
        };
        (count > 0 && steady).then(|| format!("{count} of {all} probes{others}"))
    }

    fn forbidden(&self) -> Option<String> {
        self.by_icmp(self.clues.prohibited + self.clues.refused_by_firewall)
    }

    fn unreachable(&self) -> Option<String> {
        self.by_icmp(self.clues.unreachable)
    }

    /// Probes that leaked from such addresses, if they are at least half.
    fn leaks(&self, such: fn(&LeakSource) -> bool) -> Option<String> {
        let sources: Vec<&LeakSource> = self.leaked_from.iter().filter(|source| such(source)).collect();
        let addresses: Vec<_> = sources.iter().map(|source| source.address).collect();
        let count = self.most(sources.iter().map(|source| source.probes).sum())?;
        Some(format!("{count}, from {}", log::few(&addresses)))
    }

    /// Answers that came after their probes were given up. A single one may have been held up by chance, so most have to.
    fn late(&self) -> Option<String> {
        let Clues { waited_for, came_late, late_by: Some((from, to)), .. } = self.clues else { return None };
        let probes = self.most(self.probes.timeout).filter(|_| came_late * 2 >= waited_for)?;
        let [timeout, from, to] = [self.probe_timeout, from, to].map(format_duration);
        Some(format!(
            "{probes} timed out after {timeout}; of {waited_for} whose answer was waited for, {came_late} got it, after \
             {from} to {to}"
        ))
    }
}

/// What can be said of a test, and what to look at next; nothing if it got a pong.
pub(crate) fn hints(facts: &Facts<'_>) -> Vec<Hint> {
    let rules = RULES.iter().filter(|_| facts.probes.pong == 0);
    let said = rules.filter_map(|rule| {
        let evidence = (rule.evidence)(facts)?;
        Some(Hint { what: format!("{} ({evidence})", rule.what), next: rule.next.to_owned() })
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn leak(whose: Option<Whose>, last: u8, probes: u64) -> LeakSource {
        LeakSource { address: [192, 0, 2, last].into(), whose, probes, first_seconds: 0.0, last_seconds: 1.0 }
    }

    fn said(probes: ProbeCounts, leaked_from: &[LeakSource], clues: Clues) -> Vec<String> {
        let facts = Facts { probes: &probes, leaked_from, clues, probe_timeout: MS(20), interval: MS(50) };
        hints(&facts).into_iter().map(|hint| hint.what).collect()
    }

    /// What probes came to, and what is said of it.
    type Case = (ProbeCounts, Vec<LeakSource>, Clues, &'static str);

    fn not_answered_by_the_target() -> Vec<Case> {
        let (none, clues) = (ProbeCounts::default(), Clues::default());
        let late = Clues { waited_for: 4, came_late: 3, late_by: Some((MS(61), MS(64))), ..clues };
        let by_chance = Clues { came_late: 1, ..late };
        let cases: Vec<(ProbeCounts, Clues, &str)> = vec![
            (
                ProbeCounts { silent: 3, timeout: 1, ..none },
                clues,
                "handshakes complete, and replies never come (3 of 4",
            ),
            (
                ProbeCounts { timeout: 9, error: 5, ..none },
                late,
                "answers take longer than --probe-timeout (9 of 9 probes timed out after 20ms; of 4 whose answer was waited \
                 for, 3 got it, after 61ms to 64ms)",
            ),
            (ProbeCounts { timeout: 9, ..none }, clues, "SYNs are not answered (9 of 9 probes)"),
            (ProbeCounts { timeout: 9, ..none }, by_chance, "SYNs are not answered (9"),
            (
                ProbeCounts { unreachable: 3, ..none },
                Clues { prohibited: 3, ..clues },
                "a policy forbids the probes: ICMP or this host says so (3 of 3",
            ),
            (
                ProbeCounts { unreachable: 7, timeout: 193, ..none },
                Clues { prohibited: 7, ..clues },
                "a policy forbids the probes: ICMP or this host says so (7 of 200 probes, 193 timed out: ICMP is limited to about one a \
                 second)",
            ),
            // Once, and for nine seconds no more.
            (
                ProbeCounts { unreachable: 1, timeout: 199, ..none },
                Clues { prohibited: 1, ..clues },
                "SYNs are not answered (199 of 200 probes)",
            ),
            (
                ProbeCounts { refused: 2, ..none },
                Clues { refused_by_firewall: 2, ..clues },
                "a policy forbids the probes: ICMP or this host says so (2 of 2",
            ),
            (
                ProbeCounts { timeout: 3, ..none },
                Clues { prohibited: 3, in_silence: 3, ..clues },
                "a policy forbids the probes: ICMP or this host says so (3 of 3 probes)",
            ),
            (
                ProbeCounts { unreachable: 3, ..none },
                Clues { unreachable: 3, ..clues },
                "the target is unreachable, as this host or a router says (3 of 3",
            ),
            (ProbeCounts { refused: 3, ..none }, clues, "the connections are refused: nobody listens"),
            (ProbeCounts { reset: 3, ..none }, clues, "connections are reset after the handshake (3"),
            (
                ProbeCounts { closed: 3, ..none },
                clues,
                "something other than the target closes the connections (3",
            ),
            (
                ProbeCounts { garbled: 3, ..none },
                clues,
                "something other than an egw-probe target answers (3",
            ),
        ];
        cases.into_iter().map(|(probes, clues, expected)| (probes, vec![], clues, expected)).collect()
    }

    fn leaked() -> Vec<Case> {
        let (none, clues) = (ProbeCounts::default(), Clues::default());
        let leaked = ProbeCounts { leaked: 4, leaked_proven: 4, ..none };
        vec![
            (
                leaked,
                vec![leak(Some(Whose::Own), 7, 3), leak(None, 8, 1)],
                clues,
                "the probes leave with the client's own address: nothing translates it (3 of 4 probes, from 192.0.2.7)",
            ),
            (
                leaked,
                vec![leak(Some(Whose::Node), 7, 4)],
                clues,
                "the probes leave with the node's address: the node masq",
            ),
            (
                leaked,
                vec![leak(None, 7, 2), leak(None, 8, 2)],
                clues,
                "the probes arrive from an address outside --allowed-cidr (4 of 4 probes, from 192.0.2.7,192.0.2.8)",
            ),
            (
                ProbeCounts { leaked: 4, ..none },
                vec![],
                clues,
                "connections are closed without a reply, which a target does",
            ),
        ]
    }

    #[test]
    fn each_cause_has_its_sentence_and_no_other() {
        let mut unsaid: Vec<&str> = RULES.iter().map(|rule| rule.what).collect();
        for (probes, leaked_from, clues, expected) in not_answered_by_the_target().into_iter().chain(leaked())
        {
            let all = said(probes, &leaked_from, clues);
            assert!(matches!(&all[..], [one] if one.starts_with(expected)), "{expected}: {all:?}");
            unsaid.retain(|what| !all[0].starts_with(&format!("{what} (")));
        }
        assert_eq!(unsaid, [""; 0], "each rule has a case");
    }

    #[test]
    fn a_test_that_got_a_pong_or_sent_nothing_or_shows_no_one_cause_gets_no_hint() {
        let none = ProbeCounts::default();
        for probes in [
            none,
            ProbeCounts { error: 9, ..none },
            ProbeCounts { pong: 1, leaked: 500, refused: 20, silent: 900, ..none },
            ProbeCounts { silent: 1, timeout: 1, refused: 1, ..none },
        ] {
            assert_eq!(said(probes, &[], Clues::default()), [""; 0], "{probes:?}");
        }
    }

    #[test]
    fn the_troubleshooting_page_has_every_sentence_and_what_to_look_at_next() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `hint` ")).collect();
        assert_eq!(rows.len(), RULES.len(), "one row for each rule");
        for (Rule { what, next, .. }, row) in RULES.iter().zip(rows) {
            assert_eq!(row, format!("| `hint` {what} | {next} |"));
        }
    }
}
