//! The result document: plain data, the contract of `--output json`. `schema` is 1, and grows only by adding keys.

use std::time::Duration;

use ipnet::IpNet;

use crate::client::egress::Egress;
use crate::client::prober::Measurement;
use crate::client::probing::Ended;
use crate::config::client::{ClientConfig, Gates};
use crate::document::SCHEMA;
use crate::document::go::format_duration;
use crate::document::held::HoldReport;
use crate::document::outcome::Outcome;
use crate::document::result::{BracketSeconds, ProbeCounts, ResultDocument, Settings, TestOutcome};
use crate::document::stress::StressReport;
use crate::sys::clock::Start;

/// The document of a measurement.
pub(crate) fn document(
    config: &ClientConfig,
    start: Start,
    target_address: String,
    measured: &Measurement,
    held: Option<HoldReport>,
    stress: Option<StressReport>,
) -> ResultDocument {
    let (judge, watch) = (&measured.found.judge, &measured.found.watch);
    let failed_gates = failed_gates(&config.gates, measured, held.as_ref(), stress.as_ref());
    let seconds = |length: Option<Duration>| length.map(|length| length.as_secs_f64());
    let (timeline, timeline_omitted_probes) = judge.timeline();
    let egress = &measured.found.egress;
    let (egress_ips, egress_ips_omitted_pongs) = egress.ips();
    let (leaked_from, leaked_from_omitted_probes) = egress.leaks();
    ResultDocument {
        tag: measured.tag,
        target_address: Some(target_address),
        outcome: match measured.ended {
            Ended::Masqueraded => TestOutcome::Masqueraded,
            Ended::TimedOut => TestOutcome::TimedOut,
            Ended::Interrupted => TestOutcome::Interrupted,
        },
        first_probe_seconds: seconds(measured.first_probe),
        masquerade_delay_seconds: seconds(judge.delay()),
        bracket: BracketSeconds {
            lower_seconds: seconds(judge.bracket().lower),
            lower_evidence: judge.bracket().lower_evidence,
            upper_seconds: seconds(judge.bracket().upper),
        },
        blackhole_seconds: judge.blackhole().as_secs_f64(),
        probes: probe_counts(measured),
        connect_seconds: measured.record.connect.quantiles(),
        tick_lateness_seconds: measured.record.tick_lateness.quantiles(),
        end_to_end: judge.end_to_end(),
        egress_ip: egress.latest(),
        egress_ips,
        egress_ips_omitted_pongs,
        leaked_from,
        leaked_from_omitted_probes,
        loss: config.watch.map(|_| watch.loss()),
        disruptions: config.watch.map(|_| watch.disruptions().0),
        disruptions_total: watch.disruptions().1,
        partial_outages: config.watch.map(|_| watch.partial_outages().0.to_vec()),
        partial_outages_total: watch.partial_outages().1,
        egress_changes: egress.changes().0.to_vec(),
        egress_changes_total: egress.changes().1,
        egress_stops_total: egress.stops(),
        held,
        stalls: measured.record.stalls.clone(),
        stalls_total: measured.record.stalls_total,
        stress,
        timeline: timeline.to_vec(),
        timeline_omitted_probes,
        failed_gates,
        warnings: warnings(config, measured),
        ..without_probes(config, start, TestOutcome::Interrupted)
    }
}

fn probe_counts(measured: &Measurement) -> ProbeCounts {
    let judge = &measured.found.judge;
    let of = |outcome| judge.counts().of(outcome);
    ProbeCounts {
        pong: of(Outcome::Pong),
        leaked: of(Outcome::Leaked),
        leaked_proven: judge.counts().proven_leaks,
        closed: of(Outcome::Closed),
        reset: of(Outcome::Reset),
        silent: of(Outcome::Silent),
        timeout: of(Outcome::Timeout),
        refused: of(Outcome::Refused),
        unreachable: of(Outcome::Unreachable),
        garbled: of(Outcome::Garbled),
        error: of(Outcome::Error),
        sent: judge.counts().total() + measured.found.unsettled,
        unsettled: measured.found.unsettled,
        misses_before_winner: judge.before_winner().misses(),
        timeouts_before_winner: judge.before_winner().of(Outcome::Timeout),
        skipped_ticks: measured.found.skipped_ticks,
        syn_retransmissions: measured.syn_retransmissions,
    }
}

/// The document of a test that ended, in this way, before its first probe.
pub(crate) fn without_probes(config: &ClientConfig, start: Start, outcome: TestOutcome) -> ResultDocument {
    ResultDocument {
        schema: SCHEMA,
        client_id: config.client_id.clone(),
        tag: None,
        target: config.target.to_string(),
        target_address: None,
        started_at: humantime::format_rfc3339_nanos(start.wall).to_string(),
        start_monotonic_ns: start.monotonic.as_ns(),
        outcome,
        masquerade_delay_seconds: None,
        labels: config.labels.clone(),
        first_probe_seconds: None,
        bracket: BracketSeconds { lower_seconds: None, lower_evidence: None, upper_seconds: None },
        blackhole_seconds: 0.0,
        probes: ProbeCounts::default(),
        connect_seconds: None,
        tick_lateness_seconds: None,
        end_to_end: None,
        egress_ip: None,
        egress_ips: Vec::new(),
        egress_ips_omitted_pongs: 0,
        leaked_from: Vec::new(),
        leaked_from_omitted_probes: 0,
        loss: None,
        disruptions: None,
        disruptions_total: 0,
        partial_outages: None,
        partial_outages_total: 0,
        egress_changes: Vec::new(),
        egress_changes_total: 0,
        egress_stops_total: 0,
        held: None,
        stalls: Vec::new(),
        stalls_total: 0,
        stress: None,
        timeline: Vec::new(),
        timeline_omitted_probes: 0,
        failed_gates: Vec::new(),
        warnings: Vec::new(),
        diagnosis: Vec::new(),
        settings: Settings {
            interval: format_duration(config.interval),
            tick_phase: Some(format_duration(config.tick_phase)),
            test_timeout: format_duration(config.test_timeout),
            probe_timeout: format_duration(config.probe_timeout),
            stress: config.stress.is_some(),
            watch: config.watch.map(|watch| watch.duration.map_or("unbounded".to_owned(), format_duration)),
            source_addr: config.route.source_addr,
            bind_device: config.route.bind_device.clone(),
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn failed_gates(
    gates: &Gates,
    measured: &Measurement,
    held: Option<&HoldReport>,
    stress: Option<&StressReport>,
) -> Vec<String> {
    let mut failed = Vec::new();
    if let (Some(max), Some(delay)) = (gates.delay, measured.found.judge.delay())
        && delay > max
    {
        let delay = format_duration(delay);
        failed.push(format!("--max-delay {}: the masquerade delay was {delay}", format_duration(max)));
    }
    failed.extend(gates.leaked.and_then(|max| {
        let probes = measured.found.judge.before_winner().of(Outcome::Leaked);
        let (stress, held) = (stress.map_or(0, |stress| stress.leaked), held.map_or(0, |held| held.leaked));
        failed_leak_gate(
            max,
            [(probes, "probes"), (stress, "stress connections"), (held, "attempts to hold a connection")],
        )
    }));
    if measured.ended == Ended::Masqueraded {
        failed.extend(unexpected_egress(&measured.found.egress));
    }
    let (_, total) = measured.found.watch.disruptions();
    let longest = measured.found.watch.longest_upper();
    if let Some(max) = gates.disruption.filter(|max| longest > max.as_secs_f64()) {
        let shown = if longest.is_finite() {
            format!("may have lasted {longest:.6}s")
        } else {
            "was not over when the watch ended, or not shown to be".to_owned()
        };
        failed.push(format!("--max-disruption {}: a disruption {shown}", format_duration(max)));
    }
    let (_, partial) = measured.found.watch.partial_outages();
    if let Some(max) = gates.disruptions.filter(|max| total + partial > *max) {
        let and = if partial > 0 { format!(", and {partial} partial outages") } else { String::new() };
        failed.push(format!("--max-disruptions {max}: there were {total}{and}"));
    }
    if measured.found.watch.ended_inside() {
        failed.push("the watch ended inside a disruption".to_owned());
    }
    failed
}

/// The gate holds for all phases together; those without a leak are left out of the words.
fn failed_leak_gate(max: u64, phases: [(u64, &str); 3]) -> Option<String> {
    let leaked = phases.iter().map(|(count, _)| count).sum::<u64>();
    let words = phases.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let words: Vec<String> = words.collect();
    (leaked > max).then(|| format!("--max-leaked {max}: {} leaked", words.join(" and ")))
}

/// Why the egress IPs are not those that were expected, if they are not.
fn unexpected_egress(egress: &Egress) -> Option<String> {
    let (expected, unexpected) = egress.unexpected();
    let networks: Vec<String> = expected.iter().map(IpNet::to_string).collect();
    let flag = format!("--expect-egress-ip {}", networks.join(","));
    let (ips, _) = egress.ips();
    if !expected.is_empty() && ips.is_empty() {
        return Some(format!(
            "{flag}: no reply named its source; the target tells it with --reply annotated"
        ));
    }
    let others: Vec<_> =
        ips.iter().filter(|ip| !expected.iter().any(|network| network.contains(&ip.address))).collect();
    let named = others.iter().map(|ip| ip.pongs).sum::<u64>();
    let words: Vec<String> = others.iter().map(|ip| format!("{} from {}", ip.pongs, ip.address)).collect();
    let more = match unexpected.saturating_sub(named) {
        0 => String::new(),
        more => format!(", {more} from more"),
    };
    let named = if words.is_empty() { "none of the first 64".to_owned() } else { words.join(", ") };
    (unexpected > 0).then(|| format!("{flag}: pongs came by other addresses: {named}{more}"))
}

/// A share of skipped ticks above which the numbers are called weak: 1 in 100.
const SKIPPED_SHARE: f64 = 0.01;

/// Why the numbers may be weak, and what to do.
fn warnings(config: &ClientConfig, measured: &Measurement) -> Vec<String> {
    let errors = measured.found.judge.counts().of(Outcome::Error);
    let own = [
        descriptors(measured),
        skipped(measured),
        late(config, measured),
        stalled(measured),
        late_start(measured),
        (errors > 0).then(|| {
            format!(
                "{errors} probes failed on this host before they left (ports, descriptors or a local firewall): \
                 --log-level debug says why"
            )
        }),
        measured.ports_wrapped_within.map(|within| {
            format!(
                "every local port was used once within {}, less than NAT remembers a connection: a later probe may be \
                 translated as an earlier one was; lengthen --interval or widen net.ipv4.ip_local_port_range",
                format_duration(within)
            )
        }),
        intercepted(measured),
    ];
    own.into_iter().flatten().collect()
}

fn descriptors(measured: &Measurement) -> Option<String> {
    (measured.found.descriptor_skips > 0).then(|| {
        format!(
            "{} ticks had no descriptor left for a probe: raise the limit (ulimit -n) or lengthen --interval",
            measured.found.descriptor_skips
        )
    })
}

fn skipped(measured: &Measurement) -> Option<String> {
    let late = measured.found.skipped_ticks - measured.found.descriptor_skips;
    let ticks = measured.found.judge.counts().total() + measured.found.skipped_ticks;
    (late as f64 > ticks as f64 * SKIPPED_SHARE).then(|| {
        format!(
            "{late} of {ticks} ticks were skipped because the next one was due: give the client more CPU or lengthen \
             --interval"
        )
    })
}

fn late(config: &ClientConfig, measured: &Measurement) -> Option<String> {
    let lateness = measured.record.tick_lateness.quantile(0.99)?;
    (lateness > config.interval).then(|| {
        format!(
            "one tick in 100 was late by {} or more, longer than the interval: give the client more CPU",
            format_duration(lateness)
        )
    })
}

fn stalled(measured: &Measurement) -> Option<String> {
    let (bracket, own) = (measured.found.judge.bracket(), measured.stalled_in_bracket);
    let width = bracket.upper.unwrap_or_default().saturating_sub(bracket.lower.unwrap_or_default());
    (own > width / 2).then(|| {
        format!(
            "{} of the bracket's {} are this client's own: it was stopped or got no CPU, and probed nothing",
            format_duration(own),
            format_duration(width)
        )
    })
}

fn late_start(measured: &Measurement) -> Option<String> {
    let (first, delay) = (measured.first_probe?, measured.found.judge.delay()?);
    (first > delay / 2).then(|| {
        format!(
            "the first probe left {} after the start, more than half of the delay of {}: this measures the client's own \
             start, not the gateway",
            format_duration(first),
            format_duration(delay)
        )
    })
}

fn intercepted(measured: &Measurement) -> Option<String> {
    (measured.found.judge.end_to_end() == Some(false)).then(|| {
        "something between this client and the target terminates TCP (a proxy, sidecar or load balancer): the target saw \
         its connections, not ours; handshakes prove nothing here, and the bracket ends with the reply"
            .to_owned()
    })
}
