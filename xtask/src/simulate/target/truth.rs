//! What is true of the processes that send under one number, up to an instant.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use egw_probe::document::verdict::Verdict;
use egw_probe_common::tag::{COUNTER_MODULUS, Tag};

use super::super::world::{Ns, SECOND};
use super::drive::Said;
use super::traffic::{Attempt, Traffic};
use super::world::World;

/// Of more SYNs in a row that are lost the window of counters cannot tell that they are not a jump back.
const MOST_LOST: usize = 1_535;
/// Nor, together with these, of more that have overtaken one.
const MOST_OVERTAKING: usize = 1_024;

/// Whose attempts are whose.
pub(super) struct Truth<'history> {
    world: &'history World,
    said: &'history Said,
    attempts: &'history [Attempt],
    /// By number, in sent order.
    numbered: BTreeMap<u16, Vec<usize>>,
    /// Numbers that SYNs of others look like.
    pub(super) spoiled: BTreeSet<u16>,
    /// Numbers under which a counter came around on the same source and port.
    pub(super) came_around: BTreeSet<u16>,
}

/// What is true of one number.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
pub(super) struct OfNumber {
    pub(super) pods: BTreeSet<usize>,
    /// Processes that have sent.
    pub(super) processes: u64,
    /// Two have sent at once.
    pub(super) at_once: bool,
    pub(super) missing: u64,
    pub(super) leaked: u64,
    pub(super) masqueraded: u64,
    /// The first that came of a process came no more than a second after the last of the process before it.
    pub(super) close: bool,
    /// No SYN has come more than a second after one that was sent later.
    pub(super) prompt: bool,
    /// Nor more than 1,024 SYNs after it.
    pub(super) in_order: bool,
    /// Never were too many lost in a row.
    pub(super) few_lost: bool,
}

/// One process, and what has come of it first and last.
#[derive(Debug, Clone, Copy)]
struct Process {
    first: Ns,
    latest: Ns,
    came: (Ns, Ns),
    /// SYNs that have not come since one came.
    lost: usize,
}

impl Process {
    const fn begun(first: Ns) -> Self {
        Self { first, latest: first, came: (Ns::MAX, 0), lost: 0 }
    }
}

impl<'history> Truth<'history> {
    pub(super) fn new(world: &'history World, traffic: &'history Traffic, said: &'history Said) -> Self {
        let mut numbered: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        let mut spoiled = BTreeSet::new();
        for (index, attempt) in traffic.attempts.iter().enumerate() {
            match attempt.pod.and_then(|pod| world.pods[pod].number) {
                Some(number) => numbered.entry(number).or_default().push(index),
                None => spoiled.extend(Tag::decode(attempt.sequence, world.key).map(Tag::client)),
            }
        }
        let mut came_around = BTreeSet::new();
        for (number, attempts) in &mut numbered {
            attempts.sort_by_key(|index| traffic.attempts[*index].sent);
            let all = || attempts.iter().map(|index| &traffic.attempts[*index]);
            let may = attempts.len() > usize::from(COUNTER_MODULUS) || all().any(|attempt| attempt.life > 0);
            let mut names = HashSet::new();
            if may && !all().all(|attempt| names.insert((attempt.source, attempt.sequence))) {
                came_around.insert(*number);
            }
        }
        Self { world, said, attempts: &traffic.attempts, numbered, spoiled, came_around }
    }

    /// What is true of `number` at `now`.
    pub(super) fn of(&self, number: u16, now: Ns) -> OfNumber {
        let mut truth = OfNumber { few_lost: true, ..OfNumber::default() };
        let indices = self.numbered.get(&number).map_or(&[][..], Vec::as_slice);
        let mut processes: BTreeMap<(usize, usize), Process> = BTreeMap::new();
        let mut arrivals = vec![];
        for (sent, &index) in indices.iter().enumerate() {
            let attempt = &self.attempts[index];
            let Some(pod) = attempt.pod.filter(|_| attempt.sent <= now) else { continue };
            truth.pods.insert(pod);
            let process = processes.entry((pod, attempt.life)).or_insert(Process::begun(attempt.sent));
            let came = self.arrivals(attempt, now);
            process.latest = attempt.sent;
            truth.missing += u64::from(came.is_none());
            let taken = came.is_some() && (!self.world.kernel || self.said.seen[index]);
            process.lost = if taken { 0 } else { process.lost + 1 };
            truth.few_lost &= process.lost <= MOST_LOST;
            if let Some((first, last)) = came {
                process.came = (process.came.0.min(first), process.came.1.max(last));
            }
            arrivals.extend(came.map(|(first, last)| {
                // Where one sent again is taken for what it is, only the first one matters.
                let again = self.world.pods[pod].timeout > SECOND && !self.said.lost[index];
                (sent, first, if again { first } else { last })
            }));
            if self.world.kernel && attempt.observed {
                let copies = attempt.arrivals.iter().filter(|arrival| **arrival <= now).count() as u64;
                match attempt.verdict {
                    Verdict::Allowed => truth.masqueraded += copies,
                    Verdict::Denied => truth.leaked += copies,
                }
            }
        }
        truth.prompt = prompt(&arrivals);
        truth.in_order = truth.prompt && in_order(&arrivals);
        truth.processes = processes.len() as u64;
        let mut processes: Vec<Process> = processes.into_values().collect();
        processes.sort_by_key(|process| process.first);
        let pairs = || processes.iter().zip(processes.iter().skip(1));
        truth.at_once = pairs().any(|(before, next)| next.first <= before.latest);
        processes.retain(|process| process.came.1 > 0);
        let pairs = || processes.iter().zip(processes.iter().skip(1));
        truth.close = pairs().any(|(before, next)| next.came.0 <= before.came.1 + SECOND);
        truth
    }

    /// When what the target learns of a SYN came first and last, if it has.
    fn arrivals(&self, attempt: &Attempt, now: Ns) -> Option<(Ns, Ns)> {
        if !self.world.kernel {
            return attempt.accepted.filter(|accepted| *accepted <= now).map(|accepted| (accepted, accepted));
        }
        let first = *attempt.arrivals.first().filter(|first| attempt.observed && **first <= now)?;
        Some((first, *attempt.arrivals.iter().rev().find(|arrival| **arrival <= now)?))
    }
}

/// Whether none of these, each with its place in sent order, its first and its last arrival, came too long after one that was sent
/// later.
fn prompt(arrivals: &[(usize, Ns, Ns)]) -> bool {
    let mut earliest_later = Ns::MAX;
    arrivals.iter().rev().all(|(_, first, last)| {
        let is_prompt = last.saturating_sub(SECOND) <= earliest_later;
        earliest_later = earliest_later.min(*first);
        is_prompt
    })
}

/// Whether none of these came after too many that were sent later.
fn in_order(arrivals: &[(usize, Ns, Ns)]) -> bool {
    if arrivals.last().is_none_or(|(sent, ..)| *sent <= MOST_OVERTAKING) {
        return true;
    }
    let mut arrived = arrivals.to_vec();
    arrived.sort_by_key(|(_, first, _)| *first);
    let mut newest = 0;
    arrived.into_iter().all(|(sent, ..)| {
        newest = newest.max(sent);
        newest - sent <= MOST_OVERTAKING
    })
}
