//! Every claim that the target makes of SYNs, attempts and clients, as a predicate over what truly happened.

use egw_probe::document::clients::{ClientEntry, PathDelay};
use egw_probe::document::verdict::Verdict;

use super::super::claims::Met;
use super::super::world::{Ns, SECOND};
use super::drive::{Page, START, Said};
use super::traffic::{Attempt, Traffic};
use super::truth::{OfNumber, Truth};
use super::world::{Lack, World};

/// A history and what is known of it.
struct History<'history> {
    world: &'history World,
    traffic: &'history Traffic,
    said: &'history Said,
    /// Attempts of which two have the same source, port and sequence number: a counter that came around too soon.
    namesakes: bool,
    events_lost: bool,
}

/// The first claim that does not hold.
pub(super) fn violated(world: &World, traffic: &Traffic, said: &Said, met: &mut Met) -> Option<String> {
    let truth = Truth::new(world, traffic, said);
    note(world, traffic, said, met);
    let violation = said.pages.iter().find_map(|page| clients(world, &truth, page, met));
    if !world.kernel {
        return violation;
    }
    let namesakes = !truth.came_around.is_empty();
    *met.entry("target: a counter that comes around on its port").or_default() += u64::from(namesakes);
    let history =
        History { world, traffic, said, namesakes, events_lost: said.lost.iter().any(|lost| *lost) };
    violation.or_else(|| half_open(&history)).or_else(|| unobserved(&history)).or_else(|| joined(&history))
}

fn note(world: &World, traffic: &Traffic, said: &Said, met: &mut Met) {
    let mut count = |name: &'static str, times: u64| *met.entry(name).or_default() += times;
    let some = |any: bool| u64::from(any);
    let of = |is: fn(&Attempt) -> bool| traffic.attempts.iter().filter(|attempt| is(attempt)).count() as u64;
    count("target: attempt", traffic.attempts.len() as u64);
    count("target: foreign attempt", of(|attempt| attempt.pod.is_none()));
    count("target: connection", of(|attempt| attempt.accepted.is_some()));
    count("target: SYN lost", of(|attempt| attempt.arrivals.is_empty()));
    count("target: SYN sent again or doubled", of(|attempt| attempt.repeated));
    let refused = |attempt: &&Attempt| attempt.arrivals.first().is_some_and(|first| *first < world.listening);
    count("target: SYN before it listens", traffic.attempts.iter().filter(refused).count() as u64);
    count("target: packet waits for a neighbour", traffic.waited);
    count("target: port used again before the accept", traffic.ports_used_again);
    let lacks = |wanted| world.lacks.iter().filter(|(.., lack)| *lack == wanted).count() as u64;
    count("target: held up", lacks(Lack::Processor));
    count("target: no descriptors", lacks(Lack::Descriptors));
    count("target: policy flaps", world.pods.iter().filter(|pod| pod.policy.len() > 1).count() as u64);
    count("target: without the kernel side", some(!world.kernel));
    if !world.kernel {
        return;
    }
    count("target: event lost", said.lost.iter().filter(|lost| **lost).count() as u64);
    count("target: connection not observed", said.unmatched);
    count("target: half-open, allowed", said.half_open.allowed);
    count("target: half-open, denied", said.half_open.denied);
    count("target: joined", said.joined.len() as u64);
    count("target: joined by its source alone", if world.keeps_syns { 0 } else { said.joined.len() as u64 });
    let again = |(_, joined): &&(usize, _)| {
        let joined: &egw_probe::workbench::observer::Joined = joined;
        joined.retransmits > 0
    };
    count("target: joined after a SYN sent again", said.joined.iter().filter(again).count() as u64);
    count("target: accept before its event is read", said.put_back);
    count("target: way of a SYN proven", said.proofs);
}

/// What `/clients` says.
fn clients(world: &World, truth: &Truth<'_>, page: &Page, met: &mut Met) -> Option<String> {
    let (seen, conflicts) = (page.progress.seen, page.progress.conflicts);
    if seen != page.clients.len() as u64
        || conflicts != page.clients.iter().filter(|entry| entry.conflict).count() as u64
    {
        return Some(format!("{seen} clients and {conflicts} conflicts in the summary of another list"));
    }
    page.clients.iter().find_map(|entry| {
        let of = truth.of(entry.client, page.now);
        let spoiled = truth.spoiled.contains(&entry.client);
        meet(entry, &of, met);
        if of.pods.is_empty() {
            // A number that the user has named exists.
            return (!spoiled || world.expected.is_none()).then(|| format!("nobody is {entry:?}"));
        }
        if spoiled {
            return None;
        }
        counted(world, truth, entry, &of)
            .or_else(|| bracket(world, entry, &of, met))
            .map(|said| format!("{said}: {entry:?} at {} ns, in truth {of:?}", START + page.now))
    })
}

fn meet(entry: &ClientEntry, of: &OfNumber, met: &mut Met) {
    let mut count = |name: &'static str, is: bool| *met.entry(name).or_default() += u64::from(is);
    count("target: client listed", true);
    count("target: client with SYNs missing", entry.missing_syns > 0);
    count("target: client with SYNs sent again", entry.retransmissions > 0);
    count("target: client restarted", entry.restarts > 0);
    count("target: client in conflict", entry.conflict);
    count("target: client flapped", entry.flapped_at_ns.is_some());
    count("target: bracket corrected", entry.bracket.corrected && entry.bracket.lower_ns.is_some());
    let by = |path_delay| entry.bracket.path_delay_from == Some(path_delay);
    count("target: bracket by its own handshake", by(PathDelay::OwnHandshake));
    count("target: bracket by an earlier handshake", by(PathDelay::SameClient));
    count("target: bracket not corrected", !entry.bracket.corrected);
    count("target: bracket without a leak", entry.bracket.lower_ns.is_none());
    count("target: SYN overtaken by more than a second", !of.prompt);
}

/// What a client's counters tell.
fn counted(world: &World, truth: &Truth<'_>, entry: &ClientEntry, of: &OfNumber) -> Option<String> {
    if world.kernel && (entry.leaked_syns, entry.masqueraded_syns) != (of.leaked, of.masqueraded) {
        return Some("SYNs are miscounted".to_owned());
    }
    if !of.in_order || truth.came_around.contains(&entry.client) {
        return None;
    }
    if entry.missing_syns > of.missing {
        return Some("more SYNs are missing than have not come".to_owned());
    }
    if !of.few_lost {
        return None;
    }
    if entry.restarts >= of.processes {
        return Some("more processes are told than there were".to_owned());
    }
    (entry.conflict && !of.at_once && !of.close)
        .then(|| "a conflict of processes that did not send at once".to_owned())
}

/// Where a client's policy became effective.
fn bracket(world: &World, entry: &ClientEntry, of: &OfNumber, met: &mut Met) -> Option<String> {
    let one = of.pods.iter().next().filter(|_| of.pods.len() == 1)?;
    let pod = &world.pods[*one];
    let one_syn_each = pod.timeout <= SECOND;
    if let Some(flapped) = entry.flapped_at_ns.filter(|_| one_syn_each && of.prompt)
        && !pod.policy.iter().any(|(_, off)| off + START <= flapped)
    {
        return Some("a flap of a policy that stayed in force".to_owned());
    }
    if pod.policy.len() > 1 {
        return None;
    }
    let switch = pod.policy.first().map_or(Ns::MAX, |(switch, _)| switch + START);
    if entry.bracket.upper_ns.is_some_and(|upper| upper < switch) {
        return Some(format!("the upper end is before the switch at {switch} ns"));
    }
    let excludes = entry.bracket.lower_ns.is_some_and(|lower| lower >= switch);
    *met.entry("target: bracket not corrected that excludes the switch").or_default() +=
        u64::from(excludes && !entry.bracket.corrected);
    (excludes && entry.bracket.corrected && one_syn_each && of.in_order && !of.close)
        .then(|| format!("the lower end is not before the switch at {switch} ns"))
}

/// No connection that was accepted counts as half-open, and, where nothing was lost, every attempt that was not does.
fn half_open(history: &History<'_>) -> Option<String> {
    let never = |verdict| {
        let seen = history.traffic.attempts.iter().enumerate().filter(|(of, _)| history.said.seen[*of]);
        // Where one of its events was lost, what is left may come after its accept.
        let never = |of: usize, attempt: &Attempt| {
            attempt.verdict == verdict && (attempt.accepted.is_none() || history.said.lost[of])
        };
        seen.filter(|(of, attempt)| never(*of, attempt)).count() as u64
    };
    let (allowed, denied) = (never(Verdict::Allowed), never(Verdict::Denied));
    let told = history.said.half_open;
    let too_many = (told.allowed > allowed || told.denied > denied) && !history.namesakes;
    let exact = !history.events_lost
        && !history.namesakes
        && history.world.listening == 0
        && history.traffic.attempts.iter().all(|attempt| attempt.observed);
    let too_few = exact && (told.allowed, told.denied) != (allowed, denied);
    (too_many || too_few || history.said.forgotten > 0).then(|| {
        format!("{told:?}, and {allowed} allowed and {denied} denied attempts never came to a connection")
    })
}

/// Connections whose SYN was not observed are counted.
fn unobserved(history: &History<'_>) -> Option<String> {
    let of = |is: &dyn Fn(usize) -> bool| {
        let attempts = history.traffic.attempts.iter().enumerate();
        attempts.filter(|(of, attempt)| attempt.accepted.is_some() && is(*of)).count() as u64
    };
    let unseen = of(&|of| !history.said.seen[of]);
    // An event may have been lost, and another one of the same attempt have come too late.
    let most = of(&|of| !history.said.seen[of] || history.said.lost[of]);
    let told = history.said.unmatched;
    let too_few = history.world.keeps_syns && told < unseen;
    ((told > most || too_few) && !history.namesakes)
        .then(|| format!("{told} connections not observed, in truth {unseen} to {most}"))
}

/// A connection is joined to its own first SYN, or, where only its source is known, to one that is no later.
fn joined(history: &History<'_>) -> Option<String> {
    let ambiguous =
        history.namesakes || history.events_lost || !history.world.pods.iter().all(|pod| pod.observed);
    history.said.joined.iter().find_map(|(of, joined)| {
        let attempt = &history.traffic.attempts[*of];
        let accepted = attempt.accepted? + START;
        let first = attempt.arrivals.first().map_or(Ns::MAX, |first| first + START);
        let syn_at = joined.syn_at.as_ns();
        let wrong = if history.world.keeps_syns {
            syn_at != first && !history.namesakes && !history.said.lost[*of]
        } else {
            syn_at > first && !ambiguous
        };
        (wrong
            || joined.class != attempt.verdict
            || joined.syn_to_accept.as_nanos() as Ns != accepted.saturating_sub(syn_at))
        .then(|| format!("{joined:?} of {attempt:?}"))
    })
}
