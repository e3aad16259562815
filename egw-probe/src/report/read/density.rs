//! What all clients together went through over time, in memory that does not grow: bins that double their width whenever time
//! goes beyond the last. Pure.

use crate::document::bins::joined;
use crate::document::outcome::Outcome;
use crate::document::result::TimelineRun;

/// Bins; when time outgrows them, each two become one.
const BINS: usize = 2_048;
/// Width of a bin at first, seconds.
const FIRST_WIDTH: f64 = 0.001;

/// One bin of time since the clients' starts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Time that clients spent with their probes having each outcome, client-seconds, in the order of [`Outcome::ALL`].
    pub client_seconds: [f64; Outcome::ALL.len()],
    /// Probes that leaked.
    pub leaked: u64,
}

impl std::iter::Sum for Bin {
    fn sum<I: Iterator<Item = Self>>(bins: I) -> Self {
        bins.fold(Self::default(), |mut sum, bin| {
            sum.client_seconds.iter_mut().zip(bin.client_seconds).for_each(|(sum, more)| *sum += more);
            sum.leaked += bin.leaked;
            sum
        })
    }
}

/// Timelines of many clients, added up.
#[derive(Debug, Clone)]
pub struct Density {
    width: f64,
    bins: Vec<Bin>,
    end: f64,
}

impl Default for Density {
    fn default() -> Self {
        Self { width: FIRST_WIDTH, bins: vec![Bin::default(); BINS], end: 0.0 }
    }
}

impl Density {
    /// Adds one client's timeline. A run lasts up to the next one.
    pub fn add(&mut self, timeline: &[TimelineRun]) {
        let ends = timeline.iter().skip(1).map(|next| next.from_seconds);
        let ends = ends.chain(timeline.last().map(|last| last.to_seconds));
        for (run, end) in timeline.iter().zip(ends) {
            self.grow_to(end.max(run.to_seconds));
            self.spread(run.from_seconds, end, |bin, seconds| {
                bin.client_seconds[run.outcome as usize] += seconds;
            });
            if run.outcome == Outcome::Leaked {
                self.count(run);
            }
        }
    }

    /// Counts the probes of a run, each whole, where its tick was. Of more than there are bins, as many stand in each.
    fn count(&mut self, run: &TimelineRun) {
        let marks = run.probes.min(BINS as u64);
        let between = (run.to_seconds - run.from_seconds).max(0.0) / (marks.max(2) - 1) as f64;
        for mark in 0..marks {
            let index = self.index(run.from_seconds + between * mark as f64);
            // The first ones take what does not divide.
            self.bins[index].leaked += run.probes / marks + u64::from(mark < run.probes % marks);
        }
    }

    /// The bins up to the last probe, and their width in seconds.
    pub fn bins(&self) -> (&[Bin], f64) {
        (&self.bins[..if self.end > 0.0 { self.index(self.end) + 1 } else { 0 }], self.width)
    }

    fn index(&self, at: f64) -> usize {
        ((at / self.width) as usize).min(BINS - 1)
    }

    fn grow_to(&mut self, end: f64) {
        self.end = self.end.max(end);
        while self.end >= self.width * BINS as f64 {
            self.width *= 2.0;
            self.bins = joined(&self.bins, |one, other| [one, other].into_iter().sum());
            self.bins.resize(BINS, Bin::default());
        }
    }

    fn spread(&mut self, from: f64, to: f64, mut add: impl FnMut(&mut Bin, f64)) {
        for index in self.index(from)..=self.index(to) {
            let (begin, end) = (index as f64 * self.width, (index + 1) as f64 * self.width);
            add(&mut self.bins[index], (to.min(end) - from.max(begin)).max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outcome: Outcome, from_seconds: f64, to_seconds: f64, probes: u64) -> TimelineRun {
        TimelineRun { outcome, from_seconds, to_seconds, probes }
    }

    #[test]
    fn probes_and_time_are_kept_however_wide_the_bins_become() {
        let mut density = Density::default();
        for last in [0.5, 3.0, 400.0] {
            density.add(&[
                run(Outcome::Leaked, 0.0, 0.2, 5),
                run(Outcome::Timeout, 0.25, 0.4, 4),
                run(Outcome::Pong, last, last, 1),
            ]);
        }
        let (bins, width) = density.bins();
        assert!(bins.len() <= BINS && width * bins.len() as f64 > 400.0, "{} of {width} s", bins.len());
        let sum = |of: fn(&Bin) -> f64| bins.iter().map(of).sum::<f64>();
        assert_eq!(bins.iter().map(|bin| bin.leaked).sum::<u64>(), 15);
        assert!((sum(|bin| bin.client_seconds[Outcome::Leaked as usize]) - 0.75).abs() < 1e-9);
        let timeouts = sum(|bin| bin.client_seconds[Outcome::Timeout as usize]);
        assert!((timeouts - (0.25 + 2.75 + 399.75)).abs() < 1e-9, "{timeouts}");
    }
}
