//! The distribution of delays that are known only to their brackets: Turnbull's estimate. Pure.
//!
//! The nonparametric maximum likelihood estimate for interval-censored data (Peto, J. R. Stat. Soc. C 22, 1973; Turnbull,
//! J. R. Stat. Soc. B 38, 1976) puts mass only on innermost intervals, and says nothing of where inside them it lies. It is
//! found by EM steps (Turnbull's self-consistency) alternating with steps of the iterative convex minorant (Wellner and
//! Zhan, J. Am. Stat. Assoc. 92, 1997), each of which takes time linear in observations and innermost intervals.

use crate::report::data::interval::Interval;

/// An innermost interval, and what lies in it and before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    /// Where its mass lies, nobody knows where inside.
    pub within: Interval,
    /// Share of all delays in it.
    pub mass: f64,
    /// Share of all delays in it and before it.
    pub cumulative: f64,
}

/// The estimate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Npmle {
    /// Innermost intervals in order; the last one's cumulative share is 1. Empty without observations.
    pub steps: Vec<Step>,
    /// Double steps (EM and convex minorant) that it took.
    pub iterations: u32,
    /// No distribution is likelier by more than this in log-likelihood (Lindsay, Ann. Stat. 11, 1983): how far it has converged.
    pub gap: f64,
}

/// Converged when no distribution can be likelier by more than this.
const LIKELIHOOD_GAP: f64 = 0.01;
/// Most double steps; what has not converged by then says so by its gap.
const MOST_ITERATIONS: u32 = 5_000;

impl Npmle {
    /// The estimate for these observations.
    pub(crate) fn of(observations: &[Interval]) -> Self {
        let cells = innermost(observations);
        let spans: Vec<Span> = observations.iter().map(|one| Span::of(*one, &cells)).collect();
        let mut fit = Fit::new(&spans, cells.len());
        let (iterations, gap) = fit.converge();
        let mut cumulative = 0.0;
        let mut steps: Vec<Step> = (cells.into_iter().zip(&fit.mass))
            .map(|(within, &mass)| {
                cumulative += mass;
                Step { within, mass, cumulative }
            })
            .collect();
        if let Some(last) = steps.last_mut() {
            last.cumulative = 1.0;
        }
        Self { steps, iterations, gap }
    }

    /// Where the delay lies that a share `q` of all delays does not exceed; `None` without observations.
    pub(crate) fn quantile(&self, q: f64) -> Option<Interval> {
        // Rounding must not push a share that is reached exactly to the next step.
        let at = self.steps.partition_point(|step| step.cumulative < q - 1e-9);
        self.steps.get(at.min(self.steps.len().checked_sub(1)?)).map(|step| step.within)
    }

    /// Shares of delays not later than the lower and than the upper end of an observation.
    pub(crate) fn around(&self, observation: Interval) -> (f64, f64) {
        let before = self.steps.partition_point(|step| step.within.lower < observation.lower);
        let through = self.steps.partition_point(|step| step.within.upper <= observation.upper);
        let share = |steps: usize| steps.checked_sub(1).map_or(0.0, |last| self.steps[last].cumulative);
        (share(before), share(through))
    }
}

/// The innermost intervals: each begins at a lower end and ends at the very next end, which is an upper one.
fn innermost(observations: &[Interval]) -> Vec<Interval> {
    // An upper end belongs to its interval, a lower end does not: at the same instant the upper one comes first.
    let mut ends: Vec<(f64, bool)> =
        observations.iter().flat_map(|one| [(one.lower, true), (one.upper, false)]).collect();
    ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ends.windows(2)
        .filter(|pair| pair[0].1 && !pair[1].1)
        .map(|pair| Interval { lower: pair[0].0, upper: pair[1].0 })
        .collect()
}

/// The innermost intervals inside an observation, as indices, both ends included. There is at least one.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

impl Span {
    fn of(observation: Interval, cells: &[Interval]) -> Self {
        Self {
            first: cells.partition_point(|cell| cell.lower < observation.lower),
            last: cells.partition_point(|cell| cell.upper <= observation.upper) - 1,
        }
    }
}

/// The estimate under way.
struct Fit<'a> {
    spans: &'a [Span],
    mass: Vec<f64>,
    /// Shares before each cell, and 1 at the end: one more than there are cells.
    before: Vec<f64>,
}

impl<'a> Fit<'a> {
    fn new(spans: &'a [Span], cells: usize) -> Self {
        let mut fit = Self { spans, mass: vec![1.0 / cells as f64; cells], before: vec![0.0; cells + 1] };
        fit.accumulate();
        fit
    }

    fn accumulate(&mut self) {
        let mut sum = 0.0;
        for (before, mass) in self.before[1..].iter_mut().zip(&self.mass) {
            sum += mass;
            *before = sum;
        }
    }

    fn likelihood(&self, span: Span) -> f64 {
        self.before[span.last + 1] - self.before[span.first]
    }

    fn log_likelihood(&self) -> f64 {
        self.spans.iter().map(|&span| self.likelihood(span).max(0.0).ln()).sum()
    }

    fn converge(&mut self) -> (u32, f64) {
        if self.mass.len() < 2 {
            return (0, 0.0);
        }
        let count = self.spans.len() as f64;
        for iteration in 1.. {
            let gap = (self.expect_and_maximize() - 1.0).max(0.0) * count;
            if gap <= LIKELIHOOD_GAP || iteration == MOST_ITERATIONS {
                return (iteration, gap);
            }
            self.convex_minorant();
        }
        unreachable!("the loop ends at the most iterations")
    }

    /// A self-consistency step. Returns the greatest factor by which it raised, or would raise, the mass of a cell: 1 at the
    /// maximum of the likelihood, where no derivative points upward (the Karush-Kuhn-Tucker conditions).
    fn expect_and_maximize(&mut self) -> f64 {
        let mut slope = vec![0.0; self.before.len()];
        for &span in self.spans {
            let weight = 1.0 / self.likelihood(span);
            slope[span.first] += weight;
            slope[span.last + 1] -= weight;
        }
        let (mut sum, mut greatest) = (0.0, 0.0_f64);
        let count = self.spans.len() as f64;
        for (mass, slope) in self.mass.iter_mut().zip(&slope) {
            sum += slope;
            greatest = greatest.max(sum / count);
            *mass = (*mass * sum / count).max(0.0);
        }
        let total: f64 = self.mass.iter().sum();
        for mass in &mut self.mass {
            *mass /= total;
        }
        self.accumulate();
        greatest
    }

    /// A Newton step of the cumulative shares with a diagonal second derivative, made monotonous by weighted isotonic
    /// regression, and shortened until it makes the data likelier.
    fn convex_minorant(&mut self) {
        let free = self.mass.len() - 1;
        let (mut slope, mut curve) = (vec![0.0; free], vec![0.0; free]);
        for &span in self.spans {
            let weight = 1.0 / self.likelihood(span);
            if span.last < free {
                slope[span.last] += weight;
                curve[span.last] += weight * weight;
            }
            if span.first > 0 {
                slope[span.first - 1] -= weight;
                curve[span.first - 1] += weight * weight;
            }
        }
        let goal: Vec<f64> =
            (0..free).map(|cell| self.before[cell + 1] + slope[cell] / curve[cell]).collect();
        let goal = isotonic(&goal, &curve);
        let (old, likelihood) = (self.before.clone(), self.log_likelihood());
        let mut length = 1.0;
        for _ in 0..12 {
            for (cell, goal) in goal.iter().enumerate() {
                self.before[cell + 1] = old[cell + 1] + length * (goal.clamp(0.0, 1.0) - old[cell + 1]);
            }
            if self.log_likelihood() > likelihood {
                for (cell, mass) in self.mass.iter_mut().enumerate() {
                    *mass = (self.before[cell + 1] - self.before[cell]).max(0.0);
                }
                return;
            }
            length /= 2.0;
        }
        self.before = old;
    }
}

/// The nondecreasing sequence nearest to `values` in weighted squares (pool adjacent violators).
fn isotonic(values: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(values.len());
    for (&value, &weight) in values.iter().zip(weights) {
        let mut block = (value, weight, 1);
        while let Some(&(before, its_weight, its_length)) = blocks.last()
            && before >= block.0
        {
            let weight = its_weight + block.1;
            block = ((before * its_weight + block.0 * block.1) / weight, weight, its_length + block.2);
            blocks.pop();
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(value, _, length)| std::iter::repeat_n(value, length)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intervals(ends: &[(f64, f64)]) -> Vec<Interval> {
        ends.iter().map(|&(lower, upper)| Interval { lower, upper }).collect()
    }

    fn masses(estimate: &Npmle) -> Vec<(f64, f64, f64)> {
        let round = |mass: f64| (mass * 1e3).round() / 1e3;
        let steps = estimate.steps.iter().filter(|step| step.mass > 1e-6);
        steps.map(|step| (step.within.lower, step.within.upper, round(step.mass))).collect()
    }

    #[test]
    fn disjoint_brackets_are_an_empirical_distribution() {
        let estimate = Npmle::of(&intervals(&[(3.0, 4.0), (0.0, 1.0), (1.0, 2.0), (1.0, 2.0)]));
        assert_eq!(masses(&estimate), [(0.0, 1.0, 0.25), (1.0, 2.0, 0.5), (3.0, 4.0, 0.25)]);
        assert_eq!(estimate.quantile(0.25), Some(Interval { lower: 0.0, upper: 1.0 }));
        assert_eq!(estimate.quantile(0.26), Some(Interval { lower: 1.0, upper: 2.0 }));
        assert_eq!(estimate.quantile(1.0), Some(Interval { lower: 3.0, upper: 4.0 }));
    }

    /// Checked by hand: of (0,2], (1,3], (2,4] the innermost are (1,2] and (2,3]; the likelihood a·1·(1-a) is greatest at 1/2.
    #[test]
    fn overlapping_brackets_share_their_mass_by_likelihood() {
        let estimate = Npmle::of(&intervals(&[(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]));
        assert_eq!(masses(&estimate), [(1.0, 2.0, 0.5), (2.0, 3.0, 0.5)]);
    }

    #[test]
    fn clients_that_never_got_through_are_later_than_everything_and_the_unfinished_only_later_than_known() {
        let never = Interval::NEVER;
        let unfinished = Interval { lower: 1.5, upper: f64::INFINITY };
        let known = intervals(&[(0.0, 1.0), (1.0, 2.0)]);
        let estimate = Npmle::of(&[known.as_slice(), &[never, unfinished]].concat());
        // By hand: b·c·(b + c) with b + c = 3/4 is greatest at b = c.
        assert_eq!(
            masses(&estimate),
            [(0.0, 1.0, 0.25), (1.5, 2.0, 0.375), (f64::MAX, f64::INFINITY, 0.375)]
        );
        assert!(estimate.quantile(0.63).unwrap().is_never());
    }

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!(Npmle::of(&[]).quantile(0.5), None);
    }

    /// Plain EM in quadratic time, from the definition, run for long: shares nothing with the above but the innermost intervals.
    fn by_plain_em(observations: &[Interval], cells: &[Interval]) -> f64 {
        let inside = |one: &Interval, cell: &Interval| cell.lower >= one.lower && cell.upper <= one.upper;
        let mut mass = vec![1.0 / cells.len() as f64; cells.len()];
        let mut likelihood = 0.0;
        for _ in 0..4_000 {
            let mut next = vec![0.0; cells.len()];
            likelihood = 0.0;
            for one in observations {
                let sum: f64 =
                    cells.iter().zip(&mass).filter(|(cell, _)| inside(one, cell)).map(|(_, m)| m).sum();
                likelihood += sum.ln();
                for (index, cell) in cells.iter().enumerate().filter(|(_, cell)| inside(one, cell)) {
                    let _ = cell;
                    next[index] += mass[index] / sum / observations.len() as f64;
                }
            }
            mass = next;
        }
        likelihood
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn no_other_way_finds_a_likelier_distribution(
            ends in proptest::collection::vec((0_u32..60, 1_u32..25), 1..40)
        ) {
            let ends: Vec<(f64, f64)> =
                ends.into_iter().map(|(lower, width)| (f64::from(lower), f64::from(lower + width))).collect();
            let observations = intervals(&ends);
            let estimate = Npmle::of(&observations);
            prop_assert!(estimate.gap <= LIKELIHOOD_GAP, "gap {}", estimate.gap);
            prop_assert!((estimate.steps.iter().map(|step| step.mass).sum::<f64>() - 1.0).abs() < 1e-9);
            let ours: f64 = observations.iter().map(|one| {
                let (before, through) = estimate.around(*one);
                (through - before).ln()
            }).sum();
            let cells: Vec<Interval> = estimate.steps.iter().map(|step| step.within).collect();
            let plain = by_plain_em(&observations, &cells);
            prop_assert!(ours > plain - 0.02, "{ours} against {plain}");
        }
    }
}
