//! Everything read of one run, as it comes in. Keeps a few words of every client; of probes, disruptions and timelines only sums
//! and the worst few, so that memory grows with clients and not with what they did. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;
use crate::document::result::TimelineRun;
use crate::report::data::client::{ClientResult, Reading, WatchedDisruption, worse_first};
use crate::report::data::egress;
use crate::report::data::labels::Values;
use crate::report::data::run::{OTHER_SETTINGS, Ticks};
use crate::report::read::baseline::Baseline;
use crate::report::read::density::Density;
use crate::report::read::document::{Found, Refusal, SourcesSeen, TagTimeline};

/// Timelines and disruptions kept: the worst ones.
pub(crate) const KEPT: usize = 200;
/// Runs of one kept timeline; what comes after is not drawn.
const RUNS_KEPT: usize = 400;
/// The label that names a client's node.
pub(crate) const NODE: &str = "node";
/// Settings, refusals and sources kept by name; all are counted.
const NAMED: usize = 100;

/// One client's timeline, to be drawn.
#[derive(Debug, Clone)]
pub struct KeptTimeline {
    /// The client's result once more.
    pub client: ClientResult,
    /// Outcomes in sent order.
    pub runs: Vec<TimelineRun>,
    /// When the policy was switched, if somebody recorded that.
    pub policy_switch: Option<[f64; 2]>,
}

/// Something that was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// File or URL, and which document of it.
    pub place: String,
    /// Why.
    pub refusal: Refusal,
}

/// What was read of one run.
#[derive(Debug, Default)]
pub struct Corpus {
    /// One entry per result.
    pub clients: Vec<ClientResult>,
    /// Probes of all clients, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// All timelines, added up.
    pub density: Density,
    /// Disruptions of all clients, in the order of [`Kind::ALL`].
    pub disruptions_by_kind: [u64; Kind::ALL.len()],
    /// Disruptions without an end.
    pub open_disruptions: u64,
    /// Disruptions that no result lists: nobody knows how long they were.
    pub disruptions_without_length: u64,
    /// From which addresses, and what was lost.
    pub egress: egress::Sum,
    /// How many results were produced by which settings; those beyond the cap are under the last name.
    pub settings: BTreeMap<String, u64>,
    /// When ticks were, over the results that tell.
    pub ticks: Option<Ticks>,
    /// The label by whose values clients are told in groups.
    pub by: Option<String>,
    /// Its values.
    pub groups: Values,
    /// Values of the label that names nodes.
    pub nodes: Values,
    /// First and last start among the results.
    pub started: Option<(String, String)>,
    /// Results that were read before: counted once.
    pub read_again: u64,
    /// Whether earlier reports are read, too, where nothing else is there.
    pub takes_reports: bool,
    /// Clients that only an earlier report tells of.
    pub of_reports: u64,
    /// Lines of our own log among the documents.
    pub log_lines: u64,
    /// Lines of other programs among them.
    pub foreign_lines: u64,
    /// What a report wrote.
    pub reports: u64,
    /// Clients that failed their own gates.
    pub own_gates_failed: u64,
    /// Clients that called their numbers weak.
    pub warned: u64,
    /// Entries of a target for clients whose own results are there: not counted twice.
    pub tags_of_known_clients: u64,
    /// What targets saw of sources.
    pub sources: Option<SourcesSeen>,
    /// What was not read, the first ones by name.
    pub skipped: Vec<Skipped>,
    /// How much was not read, by kind.
    pub skipped_by_kind: BTreeMap<&'static str, u64>,
    timelines: Vec<KeptTimeline>,
    sample: Sample,
    disruptions: Vec<WatchedDisruption>,
    seen: HashSet<u64>,
    tags: HashSet<u16>,
    tag_timelines: Vec<(TagTimeline, String)>,
    baselines: Vec<(Baseline, String)>,
}

/// Some timelines of all, each as likely as another (Vitter 1985, algorithm R). The same input has the same sample.
#[derive(Debug)]
struct Sample {
    kept: Vec<KeptTimeline>,
    offered: usize,
    random: fastrand::Rng,
}

impl Default for Sample {
    fn default() -> Self {
        Self { kept: vec![], offered: 0, random: fastrand::Rng::with_seed(1) }
    }
}

impl Sample {
    fn offer(&mut self, timeline: &KeptTimeline) {
        self.offered += 1;
        if self.kept.len() < KEPT {
            self.kept.push(timeline.clone());
        } else if let Some(place) = self.kept.get_mut(self.random.usize(..self.offered)) {
            *place = timeline.clone();
        }
    }
}

impl Corpus {
    /// Takes in a document of the source of this name.
    pub fn take(&mut self, found: Found, source: &str) {
        match found {
            Found::Client(reading) => self.add(*reading),
            Found::Tags(entries) => {
                self.tag_timelines.extend(entries.into_iter().map(|entry| (entry, source.to_owned())));
            }
            Found::LogLine => self.log_lines += 1,
            Found::ForeignLine => self.foreign_lines += 1,
            Found::Baseline(Ok(baseline)) if self.takes_reports => {
                self.baselines.push((*baseline, source.to_owned()));
            }
            Found::Baseline(Err(refusal)) if self.takes_reports => self.skip(source.to_owned(), refusal),
            Found::Report | Found::Baseline(_) => self.reports += 1,
            Found::Sources(seen) => {
                let all = self.sources.get_or_insert_default();
                all.allowed = all.allowed.saturating_add(seen.allowed);
                all.denied = all.denied.saturating_add(seen.denied);
                all.denied_from.extend(seen.denied_from);
                all.denied_from.sort_by_key(|(_, connections)| std::cmp::Reverse(*connections));
                all.denied_from.truncate(NAMED);
                all.syns = match (all.syns, seen.syns) {
                    (Some(a), Some(b)) => Some((a.0.saturating_add(b.0), a.1.saturating_add(b.1))),
                    (a, b) => a.or(b),
                };
            }
        }
    }

    /// Takes in one client's result.
    pub fn add(&mut self, mut reading: Reading) {
        if reading.identity.is_some_and(|identity| !self.seen.insert(identity)) {
            self.read_again += 1;
            return;
        }
        self.tags.extend(reading.tag);
        let labelled = |label: &str| reading.labels.get(label);
        reading.client.node = labelled(NODE).map_or(0, |node| self.nodes.number(node, u32::MAX - 1));
        let group = self.by.as_deref().and_then(labelled);
        reading.client.group = group.map_or(0, |group| self.groups.number(group, u16::MAX.into()) as u16);
        if let Some((phase, first)) = reading.ticks {
            self.ticks.get_or_insert_default().add(phase, first);
        }
        self.outcomes
            .iter_mut()
            .zip(reading.outcomes)
            .for_each(|(sum, more)| *sum = sum.saturating_add(more));
        self.own_gates_failed += u64::from(reading.own_gates_failed);
        self.warned += u64::from(reading.warned);
        if let Some(settings) = reading.settings {
            let known = self.settings.len() < NAMED || self.settings.contains_key(&settings);
            *self.settings.entry(if known { settings } else { OTHER_SETTINGS.to_owned() }).or_default() += 1;
        }
        if let Some(at) = reading.started_at {
            let (first, last) = self.started.get_or_insert_with(|| (at.clone(), at.clone()));
            if at < *first {
                first.clone_from(&at);
            }
            if at > *last {
                *last = at;
            }
        }
        self.add_disruptions(reading.counts_of_kinds, &reading.client, reading.disruptions);
        self.egress.add(reading.egress);
        self.density.add(&reading.timeline);
        if !reading.timeline.is_empty() {
            let mut runs = reading.timeline;
            runs.truncate(RUNS_KEPT);
            runs.shrink_to_fit();
            let client = reading.client.clone();
            let kept = KeptTimeline { client, runs, policy_switch: reading.policy_switch };
            self.sample.offer(&kept);
            self.timelines.push(kept);
            if self.timelines.len() >= 2 * KEPT {
                self.keep_worst_timelines();
            }
        }
        self.clients.push(reading.client);
    }

    /// Earlier reports that were read so far.
    pub fn baselines(&self) -> u64 {
        self.baselines.len() as u64
    }

    /// Takes in the clients of an earlier report.
    fn add_report(&mut self, baseline: &Baseline, source: &str) {
        let before = self.clients.len();
        for line in &baseline.lines {
            let node = line.node.as_deref().map_or(0, |node| self.nodes.number(node, u32::MAX - 1));
            for _ in 0..line.clients {
                let number = self.clients.len() - before;
                self.clients.push(ClientResult {
                    name: format!("{source}: client {}", number + 1),
                    verdict: line.verdict,
                    delay: line.delay,
                    // A report does not tell which of its clients leaked.
                    leaked: u64::from((number as u64) < baseline.leaked),
                    node,
                    ..ClientResult::default()
                });
            }
        }
        self.of_reports += (self.clients.len() - before) as u64;
        for (settings, results) in &baseline.settings {
            let sum = self.settings.entry(settings.clone()).or_default();
            *sum = sum.saturating_add(*results);
        }
        self.ticks = self.ticks.or(baseline.ticks);
    }

    fn add_disruptions(
        &mut self,
        counts: Option<[u64; Kind::ALL.len()]>,
        client: &ClientResult,
        listed: Vec<WatchedDisruption>,
    ) {
        let unlisted = client.disruptions.saturating_sub(listed.len() as u64);
        self.disruptions_without_length = self.disruptions_without_length.saturating_add(unlisted);
        let mut by_kind = counts.unwrap_or_default();
        if counts.is_none() {
            for one in &listed {
                by_kind[one.disruption.kind as usize] += 1;
                self.open_disruptions += u64::from(one.disruption.length_seconds.upper.is_none());
            }
            // A result lists the first thousand; the kind of the others is not known, so they go with the last one listed.
            if let Some(last) = listed.last() {
                by_kind[last.disruption.kind as usize] += unlisted;
            }
        }
        let sums = self.disruptions_by_kind.iter_mut().zip(by_kind);
        sums.for_each(|(sum, more)| *sum = sum.saturating_add(more));
        self.disruptions.extend(listed);
        if self.disruptions.len() >= 2 * KEPT {
            self.keep_longest_disruptions();
        }
    }

    /// Notes something that was not read.
    pub fn skip(&mut self, place: String, refusal: Refusal) {
        *self.skipped_by_kind.entry(refusal.kind()).or_default() += 1;
        if self.skipped.len() < NAMED {
            self.skipped.push(Skipped { place, refusal });
        }
    }

    /// How much was not read.
    pub fn skipped_total(&self) -> u64 {
        self.skipped_by_kind.values().sum()
    }

    /// Everything is read: what a target knows of clients without a result of their own counts now.
    pub fn finish(&mut self) {
        for (entry, source) in std::mem::take(&mut self.tag_timelines) {
            if self.tags.contains(&entry.client) {
                self.tags_of_known_clients += 1;
            } else {
                self.add(entry.reading(&source));
            }
        }
        for (baseline, source) in std::mem::take(&mut self.baselines) {
            // Beside the results that it tells of, it would count them twice.
            if self.clients.len() as u64 == self.of_reports {
                self.add_report(&baseline, &source);
            } else {
                self.reports += 1;
            }
        }
        self.keep_worst_timelines();
        self.keep_longest_disruptions();
    }

    /// Timelines of the worst clients, the worst first; of all, if there are no more than [`KEPT`].
    pub fn timelines(&self) -> &[KeptTimeline] {
        &self.timelines
    }

    /// Timelines of some clients, drawn at random, by their delays: as many of the early as of the late ones.
    pub fn sample(&self, most: usize) -> Vec<&KeptTimeline> {
        let mut drawn: Vec<&KeptTimeline> = self.sample.kept.iter().collect();
        drawn.sort_by(|a, b| worse_first(&a.client, &b.client));
        let each = drawn.len().div_ceil(most.max(1)).max(1);
        drawn.into_iter().skip(each / 2).step_by(each).collect()
    }

    /// The longest disruptions, the longest first; all, if there are no more than [`KEPT`].
    pub fn disruptions(&self) -> &[WatchedDisruption] {
        &self.disruptions
    }

    fn keep_worst_timelines(&mut self) {
        self.timelines.sort_by(|a, b| worse_first(&a.client, &b.client));
        self.timelines.truncate(KEPT);
    }

    fn keep_longest_disruptions(&mut self) {
        self.disruptions.sort_by(|a, b| {
            let known = |one: &WatchedDisruption| one.disruption.length_seconds.lower;
            (b.longest().total_cmp(&a.longest()))
                .then(known(b).total_cmp(&known(a)))
                .then_with(|| a.name.cmp(&b.name))
        });
        self.disruptions.truncate(KEPT);
    }
}
