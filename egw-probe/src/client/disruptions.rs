//! Disruptions: runs of misses after a pong, judged in sent order.
//!
//! Pure, like [`super::bracket`]: takes settled probes, returns what began and what ended.
//!
//! The upper end of a length runs from the last pong's SYN to the instant by which the next pong's SYN had got through.
//! The lower end is what the misses prove: a probe that was settled as a miss met the broken path before that, and one sent
//! later met it after it was sent. A refusal or the target's own denial is no chance. All else may have been lost beside the
//! outage: of those as many are left out at the ends as chance explains. A run that chance explains altogether is loss.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::chance::{CAUTION, Chance, IMPROBABLE, Misses, add, take_from};
use crate::client::outcome::Probe;
use crate::client::partial::{Partial, Stretch, Turn};
use crate::client::run::{ENDS, Run};
use crate::document::disruption::{Disruption, Kind, LengthBracket, PartialOutage, ProbeLoss, wilson};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Disruptions kept in the result, and partial outages; what comes after is counted.
const CAP: usize = 1_000;
/// Of the kept disruptions, as many are the latest; the others are the longest.
const LATEST: usize = CAP / 2;

/// What a probe brought about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A disruption has begun.
    Began {
        /// Of this kind so far.
        kind: Kind,
        /// The first miss was sent then.
        start: Duration,
    },
    /// A disruption has ended.
    Ended(Disruption),
    /// So many probes were lost, and chance explains it.
    Lost(u64),
    /// A share of the probes is lost that chance does not explain.
    PartlyBegan,
    /// That is over.
    PartlyEnded(PartialOutage),
}

/// Finds disruptions among probes in sent order.
#[derive(Debug)]
pub struct Watch {
    start: Monotonic,
    last_pong: Option<Probe>,
    open: Option<Run>,
    ended: Vec<Kept>,
    total: u64,
    loss: ProbeLoss,
    /// Misses after the winner, and those of them in disruptions and in partial outages.
    misses: Misses,
    in_disruptions: Misses,
    /// The same when the stretch of [`Partial`] began.
    in_disruptions_before: Misses,
    in_partial_outages: Misses,
    pongs: u64,
    /// Runs of misses, single ones included.
    runs: u64,
    chance: Chance,
    partial: Partial,
    /// How many stretches there were.
    stretches: u64,
    partial_outages: Vec<PartialOutage>,
    /// The longest that one can have lasted, seconds, and the probes in all of them.
    longest_partial: f64,
    partial_probes: u64,
    partial_outages_total: u64,
}

/// A disruption, and whether loss may yet turn out to explain it.
#[derive(Debug)]
struct Kept {
    disruption: Disruption,
    may_be_chance: bool,
    by: Misses,
    /// The stretch of [`Partial`] that it was noted in.
    stretch: Option<u64>,
}

impl Watch {
    /// A watch over a test that began at `start`.
    pub fn new(start: Monotonic) -> Self {
        Self {
            start,
            last_pong: None,
            open: None,
            ended: Vec::new(),
            total: 0,
            loss: ProbeLoss::default(),
            misses: Misses::default(),
            in_disruptions: Misses::default(),
            in_disruptions_before: Misses::default(),
            in_partial_outages: Misses::default(),
            pongs: 0,
            runs: 0,
            chance: Chance::new(),
            partial: Partial::new(start),
            stretches: 0,
            longest_partial: 0.0,
            partial_probes: 0,
            partial_outages: Vec::new(),
            partial_outages_total: 0,
        }
    }

    /// Takes the next probe in sent order, and tells what it brought about.
    pub fn take(&mut self, probe: Probe, tell: &mut impl FnMut(Event)) {
        // An error never left this host: it neither starts, ends nor extends a disruption. Before the first pong there is
        // nothing to disrupt.
        if probe.outcome() == Outcome::Error || (self.last_pong.is_none() && probe.outcome() != Outcome::Pong)
        {
            return;
        }
        if self.last_pong.is_some() {
            self.loss.probes += 1;
        }
        if probe.outcome() == Outcome::Pong {
            self.end(Some(&probe)).map(&mut *tell);
            self.pongs += 1;
            self.last_pong = Some(probe);
        } else {
            self.misses[probe.outcome() as usize] += 1;
            self.runs += u64::from(self.open.is_none());
            self.open.get_or_insert_with(|| Run::new(&probe)).take(&probe);
        }
        self.weigh(&probe, tell);
        self.begin(tell);
    }

    /// Ends the watch: a disruption that is still open is counted, without an upper bound, unless loss explains it. What the
    /// whole watch shows to be loss is taken back.
    pub fn finish(&mut self, tell: &mut impl FnMut(Event)) {
        self.end(None).map(&mut *tell);
        if let Some(turn) = self.partial.finish() {
            self.turn(turn, tell);
        }
        let from = self.chance.outage_from();
        let (taken_back, misses) = self.chance.take_back();
        self.total -= taken_back;
        take_from(&mut self.in_disruptions, &misses);
        self.ended.retain(|kept| !kept.may_be_chance || kept.disruption.misses >= from);
    }

    /// The disruptions that ended, in order, and how many there were in all.
    pub fn disruptions(&self) -> (Vec<Disruption>, u64) {
        (self.ended.iter().map(|kept| kept.disruption.clone()).collect(), self.total)
    }

    /// The partial outages, in order, and how many there were in all.
    pub fn partial_outages(&self) -> (&[PartialOutage], u64) {
        (&self.partial_outages, self.partial_outages_total)
    }

    /// The largest upper bound of the length of a disruption or a partial outage, in seconds; infinite if one has no end.
    pub fn longest_upper(&self) -> f64 {
        let lengths = self.ended.iter().map(|kept| upper(&kept.disruption.length_seconds));
        lengths.fold(self.longest_partial, f64::max)
    }

    /// Whether the watch ended inside a disruption.
    pub fn ended_inside(&self) -> bool {
        self.ended.last().is_some_and(|kept| kept.disruption.length_seconds.upper.is_none())
    }

    /// What was lost, with its rates, once the watch is over.
    pub fn loss(&self) -> ProbeLoss {
        let mut loss = self.loss.clone();
        let mut by = self.misses;
        take_from(&mut by, &self.in_disruptions);
        take_from(&mut by, &self.in_partial_outages);
        loss.isolated.misses = by.iter().sum();
        loss.in_disruptions.misses = self.in_disruptions.iter().sum();
        loss.in_partial_outages.misses = self.in_partial_outages.iter().sum();
        loss.outside_outages = loss
            .probes
            .saturating_sub(loss.in_disruptions.misses + self.partial_probes)
            .max(loss.isolated.misses);
        let named = Outcome::ALL.into_iter().zip(by).filter(|(_, misses)| *misses > 0);
        loss.isolated_by =
            named.map(|(outcome, misses)| (outcome.name().to_owned(), misses)).collect::<BTreeMap<_, _>>();
        loss.rate();
        loss
    }

    fn weigh(&mut self, probe: &Probe, tell: &mut impl FnMut(Event)) {
        // What NAT remembers of an earlier probe says nothing of the path now.
        if probe.unsafe_port {
            return self.partial.stretch_mut().unwrap_or(&mut self.chance).count_probe();
        }
        let before = self.partial.stretch().is_none().then_some(self.in_disruptions);
        if let Some(turn) = self.partial.take(probe) {
            self.turn(turn, tell);
        } else if self.partial.stretch().is_none() {
            self.chance.count_probe();
        } else if let Some(before) = before {
            self.in_disruptions_before = before;
            self.stretches += 1;
        }
    }

    /// Tells of an open run once it is longer than chance makes.
    fn begin(&mut self, tell: &mut impl FnMut(Event)) {
        let Some(open) = self.open.as_ref().filter(|open| open.misses > 1 && !open.told) else { return };
        if open.may_be_chance() && open.misses < self.chance().outage_from() {
            return;
        }
        if let Some(open) = &mut self.open {
            open.told = true;
            tell(Event::Began { kind: open.kind(), start: open.first_sent.since(self.start) });
        }
    }

    /// What is known of chance so far: in a partial outage it has a rate of its own.
    fn chance(&self) -> Cow<'_, Chance> {
        match self.partial.stretch() {
            Some((chance, true)) => Cow::Borrowed(chance),
            Some((chance, false)) => {
                let mut all = self.chance.clone();
                all.take_in(chance);
                Cow::Owned(all)
            }
            None => Cow::Borrowed(&self.chance),
        }
    }

    fn end(&mut self, next_pong: Option<&Probe>) -> Option<Event> {
        let open = self.open.take()?;
        let last_pong = self.last_pong?;
        let lost = match next_pong {
            Some(_) => !open.told,
            None => open.may_be_chance() && self.chance().explains_the_last(open.misses),
        };
        let stretch = self.partial.stretch().map(|_| self.stretches);
        if open.may_be_chance() && next_pong.is_some() {
            self.partial.stretch_mut().unwrap_or(&mut self.chance).note(&open.by, !lost);
        }
        if lost {
            return Some(Event::Lost(open.misses));
        }
        let by_chance = self.by_chance();
        let upper = next_pong.map(|pong| pong.got_through().since(last_pong.sent).as_secs_f64());
        let disruption = Disruption {
            kind: open.kind(),
            start_seconds: open.first_sent.since(self.start).as_secs_f64(),
            length_seconds: LengthBracket { lower: open.at_least(by_chance).as_secs_f64(), upper },
            misses: open.misses,
        };
        add(&mut self.in_disruptions, &open.by);
        self.total += 1;
        self.keep(Kept {
            disruption: disruption.clone(),
            may_be_chance: open.may_be_chance() && next_pong.is_some(),
            by: open.by,
            stretch,
        });
        Some(Event::Ended(disruption))
    }

    fn turn(&mut self, turn: Turn, tell: &mut impl FnMut(Event)) {
        match turn {
            Turn::Began => tell(Event::PartlyBegan),
            Turn::Dissolved(chance) => self.chance.take_in(&chance),
            Turn::Ended(stretch) => {
                tell(Event::PartlyEnded(stretch.outage.clone()));
                self.keep_partial(stretch);
            }
        }
    }

    /// Keeps a partial outage, and takes back what was told as disruptions and is explained by it.
    fn keep_partial(&mut self, Stretch { outage, chance, first_sent, mut misses }: Stretch) {
        let (from, (taken_back, explained)) = (chance.outage_from(), chance.take_back());
        self.total -= taken_back;
        take_from(&mut self.in_disruptions, &explained);
        let first = first_sent.since(self.start).as_secs_f64();
        let noted = |kept: &Kept| kept.stretch == Some(self.stretches);
        // What came before its first miss, and is part of it all the same.
        let early = |kept: &Kept| {
            let starts = kept.disruption.start_seconds;
            !noted(kept) && kept.may_be_chance && (outage.began_seconds.lower..first).contains(&starts)
        };
        let (mut stay, mut explained) = (Vec::new(), Vec::new());
        for mut kept in std::mem::take(&mut self.ended) {
            let (noted, early) = (noted(&kept), early(&kept));
            if (noted || early) && kept.may_be_chance && kept.disruption.misses < from {
                explained.extend(early.then_some(kept.by));
            } else {
                kept.may_be_chance &= !noted;
                stay.push(kept);
            }
        }
        self.ended = stay;
        for by in &explained {
            self.total -= 1;
            take_from(&mut self.in_disruptions, by);
            take_from(&mut self.in_disruptions_before, by);
            add(&mut self.in_partial_outages, by);
            self.chance.take_out(by);
        }
        // All but those in longer disruptions, which may have begun before.
        for ((misses, now), before) in
            misses.iter_mut().zip(self.in_disruptions).zip(self.in_disruptions_before)
        {
            *misses = misses.saturating_sub(now - before);
        }
        add(&mut self.in_partial_outages, &misses);
        let stay: u64 =
            self.in_disruptions.iter().sum::<u64>() - self.in_disruptions_before.iter().sum::<u64>();
        self.partial_probes += outage.probes.saturating_sub(stay);
        self.partial_outages_total += 1;
        self.longest_partial = self.longest_partial.max(upper(&outage.length_seconds));
        if self.partial_outages.len() < CAP {
            self.partial_outages.push(outage);
        }
    }

    /// How many misses in a row chance explains: a miss followed so many of the pongs, whatever followed then.
    fn by_chance(&self) -> usize {
        let (_, rate) = wilson(self.runs, self.pongs, CAUTION);
        if rate >= 1.0 { ENDS } else { (IMPROBABLE.ln() / rate.ln()).ceil() as usize }
    }

    /// Keeps the longest and the latest.
    fn keep(&mut self, kept: Kept) {
        if self.ended.len() == CAP {
            let older = self.ended[..=CAP - LATEST].iter().enumerate();
            // What loss may yet explain goes first.
            let from = self.chance.outage_from();
            let rank = |kept: &Kept| {
                let explained = kept.may_be_chance && kept.disruption.misses < from;
                (!explained, upper(&kept.disruption.length_seconds))
            };
            let least = older.min_by(|(_, one), (_, other)| {
                let ((one_stays, one), (other_stays, other)) = (rank(one), rank(other));
                one_stays.cmp(&other_stays).then(one.total_cmp(&other))
            });
            let index = least.map_or(0, |(index, _)| index);
            self.ended.remove(index);
        }
        self.ended.push(kept);
    }
}

fn upper(length: &LengthBracket) -> f64 {
    length.upper.unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests;
