//! Partial outages: one gateway of several is dead, and of the probes a share is lost, pongs in between. Pure.
//!
//! A cumulative sum of log-likelihood ratios (Page 1954) weighs the usual loss against twice as much, and a tenth of the probes at the
//! least. Each end lies between two instants: misses before the one, or pongs after the other, are more than chance explains.

use std::collections::VecDeque;

use crate::client::chance::{CAUTION, Chance, IMPROBABLE, Misses};
use crate::client::outcome::Probe;
use crate::document::disruption::{LengthBracket, PartialOutage, Share, wilson};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Probes remembered around each end.
const REACH: usize = 1_024;
/// A longer run of misses is a full outage, which is another thing. A shorter one counts as a single miss.
const LONGEST_RUN: u64 = 8;
/// The least share that is looked for.
const LEAST: f64 = 0.1;
/// How much more than usual is lost.
const TIMES: f64 = 2.0;

/// What a probe brought about.
#[derive(Debug)]
pub(crate) enum Turn {
    /// More is lost than chance explains, since the first miss of this stretch.
    Began,
    /// It is over.
    Ended(Stretch),
    /// The misses of late were chance.
    Dissolved(Box<Chance>),
}

/// A partial outage, and the runs in it.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) outage: PartialOutage,
    pub(crate) chance: Box<Chance>,
    pub(crate) first_sent: Monotonic,
    pub(crate) misses: Misses,
}

/// Looks for them among probes in sent order.
#[derive(Debug)]
pub(crate) struct Partial {
    start: Monotonic,
    probes: u64,
    misses: u64,
    run: RunBefore,
    latest: VecDeque<Weighed>,
    stretch: Option<Box<Open>>,
}

/// When a pong was sent, or a run of misses began.
type Weighed = (Monotonic, bool);

/// The misses since the last pong.
#[derive(Debug)]
struct RunBefore {
    length: u64,
    first_sent: Monotonic,
    settled: Monotonic,
}

impl RunBefore {
    fn is_short(&self) -> bool {
        (1..=LONGEST_RUN).contains(&self.length)
    }
}

/// A stretch in which misses are dense.
#[derive(Debug)]
struct Open {
    usual: f64,
    sought: f64,
    score: f64,
    /// What came before the first miss.
    before: VecDeque<Weighed>,
    first_sent: Monotonic,
    /// The latest instant at which one of its misses was settled.
    settled: Monotonic,
    /// By then it had begun, for certain.
    begun_by: Option<Monotonic>,
    /// How much speaks for its end.
    calm: f64,
    /// By when the pongs that speak for it had got through.
    through: Monotonic,
    latest: VecDeque<Weighed>,
    /// Up to the last run, each run as one miss.
    probes: u64,
    misses: u64,
    since_last_miss: u64,
    /// All misses.
    by: Misses,
    chance: Box<Chance>,
}

fn remember<T>(latest: &mut VecDeque<T>, one: T) {
    if latest.len() == REACH {
        latest.pop_front();
    }
    latest.push_back(one);
}

/// How much a miss and a pong speak for `sought` against `usual`.
fn weights(usual: f64, sought: f64) -> (f64, f64) {
    ((sought / usual).ln(), ((1.0 - sought) / (1.0 - usual)).ln())
}

fn proof() -> f64 {
    -IMPROBABLE.ln()
}

impl Open {
    fn new(usual: f64, before: VecDeque<Weighed>, first_sent: Monotonic) -> Self {
        Self {
            usual,
            sought: (TIMES * usual).max(LEAST),
            score: 0.0,
            before,
            first_sent,
            settled: first_sent,
            begun_by: None,
            calm: 0.0,
            through: first_sent,
            latest: VecDeque::new(),
            probes: 0,
            misses: 0,
            since_last_miss: 0,
            by: Misses::default(),
            chance: Box::new(Chance::new()),
        }
    }

    fn miss(&mut self, probe: &Probe) {
        self.chance.count_probe();
        self.by[probe.outcome() as usize] += 1;
    }

    /// Takes a pong, and the run of misses before it.
    fn pong(&mut self, pong: &Probe, run: &RunBefore) {
        self.chance.count_probe();
        if run.is_short() {
            self.weigh(run.first_sent, true);
            self.settled = self.settled.max(run.settled);
            if self.score >= proof() {
                self.begun_by.get_or_insert(self.settled);
            }
        }
        self.weigh(pong.sent, false);
        if self.begun_by.is_some() {
            self.through = self.through.max(pong.got_through());
        }
    }

    fn weigh(&mut self, sent: Monotonic, missed: bool) {
        remember(&mut self.latest, (sent, missed));
        self.since_last_miss += 1;
        if missed {
            self.probes += std::mem::take(&mut self.since_last_miss);
            self.misses += 1;
        }
        let (miss, pong) = weights(self.usual, self.sought);
        self.score += if missed { miss } else { pong };
        if self.begun_by.is_some() {
            let (miss, pong) = weights(self.usual, self.share());
            self.calm = (self.calm - if missed { miss } else { pong }).max(0.0);
        }
    }

    /// Of the probes so many are lost, at the least.
    fn share(&self) -> f64 {
        wilson(self.misses, self.probes, CAUTION).0.max(self.usual)
    }

    /// Before this it had not begun: the pongs from there to its first miss are more than chance makes meanwhile. `None` if there
    /// were fewer.
    fn not_begun_at(&self) -> Option<Monotonic> {
        let (miss, pong) = weights(self.usual, self.share());
        let mut calm = 0.0_f64;
        self.before.iter().rev().find_map(|&(sent, missed)| {
            calm = (calm - if missed { miss } else { pong }).max(0.0);
            (calm >= proof()).then_some(sent)
        })
    }

    /// Then it was not over: the misses from there on are more than chance makes.
    fn not_over_at(&self) -> Option<Monotonic> {
        let (miss, pong) = weights(self.usual, self.share());
        let mut score = 0.0_f64;
        self.latest.iter().rev().find_map(|&(sent, missed)| {
            score = (score + if missed { miss } else { pong }).max(0.0);
            (score >= proof()).then_some(sent)
        })
    }

    fn close(self, start: Monotonic, over_by: Option<Monotonic>) -> Stretch {
        let seconds = |at: Monotonic| at.since(start).as_secs_f64();
        let begun_by = self.begun_by.unwrap_or(self.first_sent);
        let not_begun_at = self.not_begun_at().map_or(0.0, seconds);
        let not_over_at = self.not_over_at().unwrap_or(self.first_sent);
        let misses: u64 = self.by.iter().sum();
        let probes = self.probes - self.misses + misses;
        let outage = PartialOutage {
            began_seconds: LengthBracket { lower: not_begun_at, upper: Some(seconds(begun_by)) },
            ended_seconds: LengthBracket { lower: seconds(not_over_at), upper: over_by.map(seconds) },
            length_seconds: LengthBracket {
                lower: not_over_at.since(begun_by).as_secs_f64(),
                upper: over_by.map(|over| seconds(over) - not_begun_at),
            },
            probes,
            lost: Share::of(misses, probes),
        };
        Stretch { outage, chance: self.chance, first_sent: self.first_sent, misses: self.by }
    }
}

impl Partial {
    /// Of a test that began at `start`.
    pub(crate) const fn new(start: Monotonic) -> Self {
        let run = RunBefore { length: 0, first_sent: start, settled: start };
        Self { start, probes: 0, misses: 0, run, latest: VecDeque::new(), stretch: None }
    }

    /// Takes the next probe after the winner that left this host.
    pub(crate) fn take(&mut self, probe: &Probe) -> Option<Turn> {
        if probe.outcome() == Outcome::Pong {
            let turn = self.pong(probe);
            if self.run.is_short() {
                remember(&mut self.latest, (self.run.first_sent, true));
            }
            self.run.length = 0;
            remember(&mut self.latest, (probe.sent, false));
            turn
        } else {
            self.miss(probe);
            None
        }
    }

    fn miss(&mut self, probe: &Probe) {
        let run = &mut self.run;
        if run.length == 0 {
            *run = RunBefore { length: 0, first_sent: probe.sent, settled: probe.settled };
        }
        run.length += 1;
        run.settled = run.settled.max(probe.settled);
        if self.stretch.is_none() {
            let (_, usual) = wilson(self.misses, self.probes, CAUTION);
            // Where so much is lost anyway, nothing is looked for.
            if TIMES * usual < 1.0 {
                self.stretch = Some(Box::new(Open::new(usual, self.latest.clone(), probe.sent)));
            }
        }
        if let Some(open) = &mut self.stretch {
            open.miss(probe);
        }
    }

    fn pong(&mut self, pong: &Probe) -> Option<Turn> {
        let Some(open) = &mut self.stretch else {
            self.probes += 1;
            self.misses += u64::from(self.run.is_short());
            return None;
        };
        let had_begun = open.begun_by.is_some();
        open.pong(pong, &self.run);
        if open.begun_by.is_some() {
            if open.calm < proof() {
                return (!had_begun).then_some(Turn::Began);
            }
            let open = self.stretch.take()?;
            let over_by = open.through;
            return Some(Turn::Ended(open.close(self.start, Some(over_by))));
        }
        if open.score > 0.0 {
            return None;
        }
        let open = self.stretch.take()?;
        self.probes += open.probes + open.since_last_miss;
        self.misses += open.misses;
        Some(Turn::Dissolved(open.chance))
    }

    /// The runs of the stretch that is open, and whether it is an outage.
    pub(crate) fn stretch(&self) -> Option<(&Chance, bool)> {
        self.stretch.as_ref().map(|open| (&*open.chance, open.begun_by.is_some()))
    }

    /// The same, to add to.
    pub(crate) fn stretch_mut(&mut self) -> Option<&mut Chance> {
        self.stretch.as_mut().map(|open| &mut *open.chance)
    }

    /// Ends the watch.
    pub(crate) fn finish(&mut self) -> Option<Turn> {
        let open = self.stretch.take()?;
        Some(match open.begun_by {
            Some(_) => Turn::Ended(open.close(self.start, None)),
            None => Turn::Dissolved(open.chance),
        })
    }
}
