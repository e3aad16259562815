//! Every claim that the client prints, as a predicate over what truly happened.

use std::collections::{BTreeMap, BTreeSet};

use egw_probe::document::disruption::{Kind, LengthBracket};
use egw_probe::document::outcome::{Evidence, Outcome};
use egw_probe::workbench::client::{Fact, Probe, WatchEvent};
use egw_probe::workbench::sys::Monotonic;

use super::drive::{History, START, Sent};
use super::path::Fate;
use super::world::{Ns, Place, Proxy, World};

/// How often something was met: a history that never meets it proves nothing of it.
pub(super) type Met = BTreeMap<&'static str, u64>;

/// The first claim that does not hold.
pub(super) fn violated(world: &World, history: &History, met: &mut Met) -> Option<String> {
    note(world, history, met);
    let rules: [fn(&World, &History) -> Option<String>; 7] =
        [account, outcomes, bracket, end_to_end, disruptions, partial_outages, loss];
    rules.iter().find_map(|rule| rule(world, history))
}

fn note(world: &World, history: &History, met: &mut Met) {
    let mut count = |name: &'static str, times: u64| *met.entry(name).or_default() += times;
    for outcome in Outcome::ALL {
        let times = history.settled.iter().filter(|(probe, _)| probe.outcome() == outcome).count();
        count(outcome.name(), times as u64);
    }
    let bracket = history.findings.judge.bracket();
    count("lower end proven", u64::from(bracket.lower_evidence == Some(Evidence::Proven)));
    count("lower end presumed", u64::from(bracket.lower_evidence == Some(Evidence::Presumed)));
    count("upper end", u64::from(bracket.upper.is_some()));
    count("remote proxy", u64::from(world.proxy == Some(Proxy::Remote)));
    count("sidecar", u64::from(world.proxy == Some(Proxy::Sidecar)));
    count("unsafe port", history.unsafe_ports);
    let inherited = |sent: &&Sent| sent.way.inherited;
    count("inherited translation", history.probes.iter().filter(inherited).count() as u64);
    count("stall", history.facts.iter().filter(|fact| matches!(fact, Fact::Stalled { .. })).count() as u64);
    count("skipped tick", history.findings.skipped_ticks);
    count("no descriptor", history.findings.descriptor_skips);
    count("unsettled", history.findings.unsettled);
    let watch = &history.findings.watch;
    for outage in watch.partial_outages().0 {
        count("partial outage", 1);
        count("partial outage with a lower end", u64::from(outage.length_seconds.lower > 0.0));
        count("partial outage without an end", u64::from(outage.ended_seconds.upper.is_none()));
    }
    let ended = |fact: &&Fact| matches!(fact, Fact::Watched(WatchEvent::Ended(_)));
    let told = history.facts.iter().filter(ended).count() as u64;
    count("disruption taken back as loss", told - watch.disruptions().1);
    for disruption in watch.disruptions().0 {
        count("disruption", 1);
        let kind = match disruption.kind {
            Kind::Leak => "disruption by leaks",
            Kind::Blackhole => "disruption by blackholes",
            Kind::Rejected => "disruption by rejections",
        };
        count(kind, 1);
        count("disruption with a lower end", u64::from(disruption.length_seconds.lower > 0.0));
        count("disruption without an end", u64::from(disruption.length_seconds.upper.is_none()));
    }
    let loss = watch.loss();
    count("isolated miss", loss.isolated.misses);
    count("miss in a partial outage", loss.in_partial_outages.misses);
    let by_chance = |fact: &&Fact| matches!(fact, Fact::Watched(WatchEvent::Lost(misses)) if *misses > 1);
    count("run of misses by chance", history.facts.iter().filter(by_chance).count() as u64);
}

/// Every probe sent is settled, or counted as cut off, exactly once; every leak is as sure as it can be.
fn account(_: &World, history: &History) -> Option<String> {
    let counted = history.findings.judge.counts().total() + history.findings.unsettled;
    let (sent, settled) = (history.probes.len() as u64, history.settled.len() as u64);
    if counted != sent || settled + history.findings.unsettled != sent {
        return Some(format!("{sent} probes sent, {settled} settled, {counted} counted"));
    }
    // A target that annotates proves its leaks; what was presumed before that was known is taken back.
    let annotates = history.settled.iter().any(|(probe, _)| probe.end.source.is_some());
    let counts = history.findings.judge.counts();
    let (leaked, proven) = (counts.of(Outcome::Leaked), counts.proven_leaks);
    (annotates && leaked != proven)
        .then(|| format!("{leaked} leaks, {proven} proven, of a target that annotates"))
}

fn truth<'history>(history: &'history History, probe: &Probe) -> &'history Sent {
    let sent = probe.sent.as_ns() - START;
    let index = history.probes.partition_point(|one| one.at < sent);
    &history.probes[index]
}

/// What became of a probe is what its target or its path did.
fn outcomes(world: &World, history: &History) -> Option<String> {
    history.settled.iter().find_map(|(probe, _)| {
        let sent = truth(history, probe);
        let wrong = match probe.outcome() {
            Outcome::Pong => sent.way.seen_allowed != Some(true),
            Outcome::Leaked if probe.end.source.is_some() => sent.way.seen_allowed != Some(false),
            Outcome::Leaked => world.proxy.is_none() && sent.way.seen_allowed != Some(false),
            Outcome::Closed => world.proxy.is_none(),
            Outcome::Timeout | Outcome::Silent => {
                // What came in time is no timeout, however late it is read.
                let in_time = |(when, event): &&(Ns, _)| {
                    matches!(event, egw_probe::workbench::client::ProbeEvent::Ended(_))
                        && *when <= sent.at + world.probe_timeout
                };
                sent.way.events.iter().any(|event| in_time(&event))
            }
            _ => false,
        };
        wrong.then(|| format!("the probe of {} ns is {}: {:?}", sent.at, probe.outcome().name(), sent.way))
    })
}

/// The policy became effective inside the bracket, and the delay is its upper end.
fn bracket(world: &World, history: &History) -> Option<String> {
    let bracket = history.findings.judge.bracket();
    let named = history.facts.iter().find_map(|fact| match fact {
        Fact::Won { delay } => Some(*delay),
        _ => None,
    });
    if named != bracket.upper {
        return Some(format!("the delay was said to be {named:?}, and is {:?}", bracket.upper));
    }
    let [lower, upper] = [bracket.lower, bracket.upper].map(|end| end.map(|end| end.as_nanos() as Ns));
    let Some(switch) = world.switch() else {
        return upper.map(|upper| format!("never effective, and said to be by {upper} ns"));
    };
    // Of a policy that comes and goes the first time is measured, if everything up to the winner came in it.
    let first_end = world.policy[0].1;
    let later = |(probe, before_winner): &(Probe, bool)| {
        *before_winner && truth(history, probe).way.passed.is_some_and(|passed| passed >= first_end)
    };
    if upper.is_none_or(|upper| upper >= first_end) || history.settled.iter().any(later) {
        return None;
    }
    // A presumed leak assumes that nothing between client and target closes connections.
    let assumed = bracket.lower_evidence == Some(Evidence::Presumed) && world.proxy.is_some();
    if let Some(lower) = lower.filter(|lower| *lower >= switch && !assumed) {
        return Some(format!("effective from {switch} ns on, and not before {lower} ns as is said"));
    }
    upper
        .filter(|upper| *upper < switch)
        .map(|upper| format!("effective from {switch} ns on, and by {upper} ns as is said"))
}

fn end_to_end(world: &World, history: &History) -> Option<String> {
    let said = history.findings.judge.end_to_end()?;
    (said != world.proxy.is_none()).then(|| format!("end to end: {said}, with {:?}", world.proxy))
}

/// Each disruption's length lies within its bounds.
fn disruptions(world: &World, history: &History) -> Option<String> {
    let mut last_pong: Option<Probe> = None;
    let mut misses: Vec<Probe> = vec![];
    let told = history.facts.iter().filter_map(|fact| match fact {
        Fact::Watched(WatchEvent::Ended(disruption)) => Some(disruption),
        _ => None,
    });
    let mut told = told.peekable();
    world.watch?;
    // What takes longer than the probe timeout by nature is no disruption: docs/claims.md.
    if world.slowest_answer() >= world.probe_timeout {
        return None;
    }
    for (probe, _) in &history.settled {
        match probe.outcome() {
            Outcome::Error => {}
            Outcome::Pong => {
                let first =
                    misses.first().map(|first| first.sent.since(Monotonic::from_ns(START)).as_secs_f64());
                if let Some(disruption) = told.next_if(|told| Some(told.start_seconds) == first) {
                    let (from, to) = (passed(history, &last_pong?), passed(history, probe));
                    let [least, most] = length(world, history, &misses, from, to);
                    let bounds = &disruption.length_seconds;
                    let [lower, upper] = [bounds.lower, bounds.upper.unwrap_or(f64::INFINITY)];
                    if lower * 1e9 > most as f64 + 2.0 || upper * 1e9 + 2.0 < least as f64 {
                        let first = truth(history, &misses[0]);
                        return Some(format!(
                            "a disruption at {:?} of {least} to {most} ns is said to have lasted {lower} to {upper} s; of \
                             {} misses the first is {}: {:?}",
                            disruption.start_seconds,
                            misses.len(),
                            misses[0].outcome().name(),
                            first.way
                        ));
                    }
                }
                misses.clear();
                last_pong = Some(*probe);
            }
            _ if last_pong.is_some() => misses.push(*probe),
            _ => {}
        }
    }
    None
}

/// Each partial outage began and ended between its bounds: what killed the probes in it did.
fn partial_outages(world: &World, history: &History) -> Option<String> {
    // Where ports of lost probes rest, those of the dead gateway are not asked again: docs/claims.md.
    if world.slowest_answer() >= world.probe_timeout || world.has_few_ports() {
        return None;
    }
    history.findings.watch.partial_outages().0.iter().find_map(|outage| {
        let ns = |seconds: f64| (seconds * 1e9) as Ns;
        let bounds =
            |ends: &LengthBracket| [ns(ends.lower), ends.upper.map_or(Ns::MAX, |upper| ns(upper) + 2)];
        let [from, to] = [bounds(&outage.began_seconds)[0], bounds(&outage.ended_seconds)[1]];
        let inside = history.settled.iter().filter(|(probe, _)| {
            let sent = probe.sent.as_ns() - START;
            from <= sent && sent <= to && probe.outcome() != Outcome::Pong && !probe.unsafe_port
        });
        // Where a gateway was dead, it is that; a full outage beside it is told as such.
        let is_gateway = |(begin, end): &(Ns, Ns)| {
            let gateways = world.windows.iter().filter(|one| matches!(one.place, Place::Gateway(_)));
            gateways.into_iter().any(|one| (one.from, one.to) == (*begin, *end))
        };
        let all: Vec<_> = inside.filter_map(|(probe, _)| broken(world, history, probe)).collect();
        let gateway = all.iter().any(is_gateway);
        let windows = all.into_iter().filter(|window| !gateway || is_gateway(window));
        let (begun, over) =
            windows.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1))).unwrap_or((Ns::MAX, 0));
        let holds = |ends: &LengthBracket, at: Ns| {
            let [lower, upper] = bounds(ends);
            lower <= at + 2 && at <= upper
        };
        let length = over.saturating_sub(begun);
        let wrong = !holds(&outage.began_seconds, begun)
            || !holds(&outage.ended_seconds, over)
            || !holds(&outage.length_seconds, length);
        wrong.then(|| format!("of a partial outage from {begun} to {over} ns is said {outage:?}"))
    })
}

/// The time of trouble that has killed a miss.
fn broken(world: &World, history: &History, miss: &Probe) -> Option<(Ns, Ns)> {
    let sent = truth(history, miss);
    match sent.way.fate {
        Fate::Window(number) => Some(world.trouble_around(number)),
        Fate::Policy if !sent.way.inherited => sent.way.passed.and_then(|passed| off(world, passed)),
        _ => None,
    }
}

/// When the SYN of a pong passed the policy.
fn passed(history: &History, pong: &Probe) -> Ns {
    let sent = truth(history, pong);
    sent.way.passed.unwrap_or(sent.at)
}

/// How long the path was down at least, between the SYNs of two pongs, and at most, over everything that killed a miss.
fn length(world: &World, history: &History, misses: &[Probe], from: Ns, to: Ns) -> [Ns; 2] {
    let mut down: Option<(Ns, Ns)> = None;
    let mut partly = false;
    for miss in misses {
        let sent = truth(history, miss);
        let window = broken(world, history, miss);
        partly |= matches!(sent.way.fate, Fate::Window(number) if matches!(world.windows[number].place, Place::Gateway(_)));
        if let Some((begin, end)) = window {
            let (first, last) = down.unwrap_or((begin, end));
            down = Some((first.min(begin), last.max(end)));
        }
    }
    // A proxy that tries again meets the next trouble: without a pong in between both are one outage.
    let met_again =
        world.full_troubles().filter(|(begin, end)| world.proxy.is_some() && *begin < to && from < *end);
    let down = down.map(|ends| met_again.fold(ends, |ends, more| (ends.0.min(more.0), ends.1.max(more.1))));
    let least = |begin: Ns, end: Ns| if partly { 0 } else { end.min(to).saturating_sub(begin.max(from)) };
    down.map_or([0, 0], |(begin, end)| [least(begin, end), end - begin])
}

/// The time around `at` in which the policy was off.
fn off(world: &World, at: Ns) -> Option<(Ns, Ns)> {
    let from = world.policy.iter().map(|(_, to)| *to).filter(|to| *to <= at).max().unwrap_or(0);
    let to = world.policy.iter().map(|(from, _)| *from).filter(|from| *from > at).min()?;
    (!world.is_effective(at)).then_some((from, to))
}

/// Lost probes are those that were missed after the winner, each once.
fn loss(world: &World, history: &History) -> Option<String> {
    world.watch?;
    // Up to the first probe that a signal cut off.
    let settled: BTreeSet<Ns> = history.settled.iter().map(|(probe, _)| probe.sent.as_ns() - START).collect();
    let cut =
        history.probes.iter().map(|sent| sent.at).find(|sent| !settled.contains(sent)).unwrap_or(Ns::MAX);
    let whole = history.settled.iter().filter(|(probe, _)| probe.sent.as_ns() - START < cut);
    let after = whole.skip_while(|(probe, _)| probe.outcome() != Outcome::Pong).skip(1);
    let left = after.filter(|(probe, _)| probe.outcome() != Outcome::Error);
    let (mut probes, mut misses) = (0, 0);
    for (probe, _) in left {
        probes += 1;
        misses += u64::from(probe.outcome() != Outcome::Pong);
    }
    let loss = history.findings.watch.loss();
    let told = loss.isolated.misses + loss.in_disruptions.misses + loss.in_partial_outages.misses;
    (loss.probes != probes || told != misses)
        .then(|| format!("{misses} of {probes} missed, and {told} of {} are said to be", loss.probes))
}
