//! Which runs of misses chance explains. Pure.
//!
//! Packets that are lost independently of each other are lost in runs, too: of `n` probes at a loss rate of `p`, about `n * p^m` runs are
//! `m` probes long or longer. A run that chance may have made is loss; a longer one is an outage. The rate is that of the shorter runs:
//! so an outage does not explain itself.

use crate::document::outcome::Outcome;

/// How improbable it must be that chance alone explains what is put down to something else.
pub(crate) const IMPROBABLE: f64 = 1e-7;
/// Standard deviations by which a rate is taken higher, or lower, than it was seen.
pub(crate) const CAUTION: f64 = 4.0;
/// How many runs of a length chance must be expected to make, in all of a watch, before one is put down to it.
const EXPECTED: f64 = 1e-3;
/// No longer run is put down to chance.
const LONGEST: usize = 64;

/// Misses by outcome, in the order of [`Outcome::ALL`].
pub(crate) type Misses = [u64; Outcome::ALL.len()];

/// Runs of one length.
#[derive(Debug, Clone, Copy, Default)]
struct Runs {
    all: u64,
    /// Those that were told as disruptions, and what their misses were.
    told: u64,
    misses: Misses,
}

/// Runs that chance may have made, by length, and the probes among which they are.
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    probes: u64,
    runs: [Runs; LONGEST],
}

impl Chance {
    pub(crate) const fn new() -> Self {
        Self { probes: 0, runs: [Runs { all: 0, told: 0, misses: [0; Outcome::ALL.len()] }; LONGEST] }
    }

    /// One more probe, whatever became of it.
    pub(crate) const fn count_probe(&mut self) {
        self.probes += 1;
    }

    /// A run is over that chance may have made; it was told as a disruption, or not.
    pub(crate) fn note(&mut self, misses: &Misses, told: bool) {
        let length: u64 = misses.iter().sum();
        if let Some(runs) = self.runs.get_mut(length as usize) {
            runs.all += 1;
            if told {
                runs.told += 1;
                add(&mut runs.misses, misses);
            }
        }
    }

    /// A run that was told is part of something else.
    pub(crate) fn take_out(&mut self, misses: &Misses) {
        let length: u64 = misses.iter().sum();
        if let Some(runs) = self.runs.get_mut(length as usize) {
            runs.all = runs.all.saturating_sub(1);
            runs.told = runs.told.saturating_sub(1);
            take_from(&mut runs.misses, misses);
        }
    }

    /// Takes in those of another stretch of the same watch.
    pub(crate) fn take_in(&mut self, other: &Self) {
        self.probes += other.probes;
        for (runs, others) in self.runs.iter_mut().zip(&other.runs) {
            runs.all += others.all;
            runs.told += others.told;
            add(&mut runs.misses, &others.misses);
        }
    }

    /// The least length of a run that is an outage.
    pub(crate) fn outage_from(&self) -> u64 {
        let mut misses = 0;
        for length in 2..LONGEST {
            misses += self.runs[length - 1].all * (length as u64 - 1);
            if self.probes as f64 * self.rate(misses).powi(length as i32) < EXPECTED {
                return length as u64;
            }
        }
        LONGEST as u64
    }

    /// Whether chance explains that the last probes of a watch, so many, were missed.
    pub(crate) fn explains_the_last(&self, length: u64) -> bool {
        let shorter = (1_u64..).zip(&self.runs[1..]).take_while(|(length, _)| *length < self.outage_from());
        let misses = shorter.map(|(length, runs)| length * runs.all).sum();
        self.rate(misses).powi(length as i32) >= EXPECTED
    }

    /// Takes back the disruptions among runs that are no outages after all: how many, and what their misses were.
    pub(crate) fn take_back(&self) -> (u64, Misses) {
        let (mut told, mut misses) = (0, Misses::default());
        for runs in &self.runs[..self.outage_from() as usize] {
            told += runs.told;
            add(&mut misses, &runs.misses);
        }
        (told, misses)
    }

    fn rate(&self, misses: u64) -> f64 {
        misses as f64 / self.probes.max(1) as f64
    }
}

pub(crate) fn add(to: &mut Misses, more: &Misses) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

pub(crate) fn take_from(from: &mut Misses, misses: &Misses) {
    from.iter_mut().zip(misses).for_each(|(from, misses)| *from = from.saturating_sub(*misses));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many probes, runs of each length that were told as disruptions.
    fn chance(probes: u64, runs: &[(u64, u64)]) -> Chance {
        let mut chance = Chance { probes, ..Chance::new() };
        for &(length, count) in runs {
            let mut misses = Misses::default();
            misses[Outcome::Timeout as usize] = length;
            (0..count).for_each(|_| chance.note(&misses, length > 1));
        }
        chance
    }

    #[test]
    fn what_random_loss_makes_is_no_outage_and_what_it_cannot_make_is() {
        // 5 % of 6,000: n * p^m is 15, 0.75, 0.04, 0.002, 0.0001.
        let heavy = chance(6_000, &[(1, 271), (2, 14), (3, 1), (9, 1)]);
        assert_eq!(heavy.outage_from(), 6);
        assert_eq!(heavy.take_back().0, 15);
        assert_eq!(heavy.take_back().1[Outcome::Timeout as usize], 2 * 14 + 3);
        // Nothing else was lost, or hardly anything: two in a row are an outage.
        assert_eq!(chance(200, &[(2, 1)]).outage_from(), 2);
        assert_eq!(chance(1_200, &[(1, 1), (2, 1)]).outage_from(), 2);
        // One loss in 100 makes two in a row, now and then.
        assert_eq!(chance(6_000, &[(1, 60)]).outage_from(), 4);
        assert_eq!(Chance::new().outage_from(), 2);
    }

    #[test]
    fn the_last_probe_may_be_lost_like_any_other() {
        assert!(chance(6_000, &[(1, 271), (2, 14)]).explains_the_last(2));
        assert!(!chance(6_000, &[(1, 271), (2, 14)]).explains_the_last(3));
        assert!(!chance(6_000, &[(1, 2)]).explains_the_last(1));
        assert!(!Chance::new().explains_the_last(1));
    }
}
