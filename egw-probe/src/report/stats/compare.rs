//! Whether two runs differ beyond noise. Pure: the same runs get the same answer every time.
//!
//! The test is the Wilcoxon-Mann-Whitney test for interval-censored data: scores from the pooled estimate (Peto and Peto,
//! J. R. Stat. Soc. A 135, 1972; Fay and Shaw, J. Stat. Softw. 36(2), 2010), judged by permutation (with one added to both
//! counts: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010). Where lower ends are missing because nothing leaked, it is the
//! plain test of the upper ends. The interval of the difference of medians follows from
//! one for each median that is wrong half as often, and so is conservative.

use crate::report::data::interval::Interval;
use crate::report::data::run::{Bounds, Comparison, SIGNIFICANCE};
use crate::report::stats::npmle::Npmle;
use crate::report::stats::ranks::{ALPHA, Ends, lower_ends_are_missing};

/// Shuffles of small runs, and of runs whose size makes each shuffle slow.
const SHUFFLES: [u32; 2] = [9_999, 999];
/// Clients in the smaller run from which it is the fewer.
const LARGE: usize = 5_000;

/// The method for brackets.
const OF_BRACKETS: &str = "Wilcoxon-Mann-Whitney test for interval-censored data, by permutation.";
/// The method where brackets lack their lower ends.
const OF_UPPER_ENDS: &str = "Plain Wilcoxon-Mann-Whitney test of the upper ends (the masquerade delays), by permutation, because more than \
     1 in 20 clients of a run have no lower end: nothing leaked before they were masqueraded. Medians are those of upper ends. Both \
     runs must have probed at the same interval.";

/// Compares `this` run with an `other`, earlier one.
pub(crate) fn compare(this: &[Interval], other: &[Interval]) -> Comparison {
    if lower_ends_are_missing(this) || lower_ends_are_missing(other) {
        let [this, other] =
            [this, other].map(|run| run.iter().map(|one| one.at_its_upper_end()).collect::<Vec<_>>());
        test(&this, &other, OF_UPPER_ENDS)
    } else {
        test(this, other, OF_BRACKETS)
    }
}

fn test(this: &[Interval], other: &[Interval], method: &'static str) -> Comparison {
    let pooled = Npmle::of(&[this, other].concat());
    let score = |one: &Interval| {
        let (before, through) = pooled.around(*one);
        before + through - 1.0
    };
    let scores: Vec<f64> = this.iter().chain(other).map(score).collect();
    let (sum_of_this, sum) = (scores[..this.len()].iter().sum::<f64>(), scores.iter().sum::<f64>());
    let (p_value, shuffles) = permute(scores, this.len(), sum_of_this);
    let enough = !this.is_empty() && !other.is_empty();
    let mean = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
    Comparison {
        method,
        differ: enough.then_some(p_value <= SIGNIFICANCE),
        p_value,
        shuffles,
        later: mean(sum_of_this, this.len()) - mean(sum - sum_of_this, other.len()),
        median_difference: difference(median(this), median(other)),
        median_difference_confidence: difference(
            Some(Ends::of(this).confidence(0.5, ALPHA / 2.0)),
            Some(Ends::of(other).confidence(0.5, ALPHA / 2.0)),
        ),
    }
}

fn median(run: &[Interval]) -> Option<Interval> {
    Npmle::of(run).quantile(0.5)
}

/// Everything that a value of `a` less a value of `b` can be; an end is null where it is unbounded.
fn difference(a: Option<Interval>, b: Option<Interval>) -> Bounds {
    let ends = a.zip(b).filter(|(a, b)| !a.is_never() && !b.is_never());
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    Bounds {
        lower_seconds: ends.and_then(|(a, b)| finite(a.lower - b.upper)),
        upper_seconds: ends.and_then(|(a, b)| finite(a.upper - b.lower)),
    }
}

/// How often a random share of `count` scores is as far from the expected sum as `sum` is, and of how many shuffles.
fn permute(mut scores: Vec<f64>, count: usize, sum: f64) -> (f64, u32) {
    let total: f64 = scores.iter().sum();
    // Either share tells the same: the smaller one is faster to draw.
    let (drawn, sum) =
        if count * 2 <= scores.len() { (count, sum) } else { (scores.len() - count, total - sum) };
    let shuffles = SHUFFLES[usize::from(drawn > LARGE)];
    let expected = total * drawn as f64 / (scores.len().max(1)) as f64;
    let distance = (sum - expected).abs() * (1.0 - 1e-9) - 1e-9;
    let mut random = Random(0x6567_772d_7072_6f62);
    let mut as_far = 0;
    for _ in 0..shuffles {
        let mut drawn_sum = 0.0;
        for place in 0..drawn {
            let from = place + random.below(scores.len() - place);
            scores.swap(place, from);
            drawn_sum += scores[place];
        }
        as_far += u32::from((drawn_sum - expected).abs() >= distance);
    }
    (f64::from(as_far + 1) / f64::from(shuffles + 1), shuffles)
}

/// The same numbers on every machine (`SplitMix64`; Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        // The high half of a product: no bias worth the name at these sizes.
        ((u128::from(word) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Delays spread over 100 ms from `from`, each known to `width`, and in an order of their own.
    fn run(clients: u64, from: f64, width: f64, seed: u64) -> Vec<Interval> {
        let mut random = Random(seed);
        (0..clients)
            .map(|_| {
                let delay = from + random.below(100_000) as f64 / 1e6;
                let lower = (delay / width).floor() * width;
                Interval { lower, upper: lower + width }
            })
            .collect()
    }

    #[test]
    fn twenty_milliseconds_are_seen_and_their_size_is_told() {
        let found = compare(&run(200, 0.32, 0.01, 1), &run(200, 0.30, 0.01, 2));
        assert_eq!(found.differ, Some(true));
        assert!(found.later > 0.1, "{found:?}");
        let Bounds { lower_seconds: Some(lower), upper_seconds: Some(upper) } =
            found.median_difference_confidence
        else {
            panic!("{found:?}")
        };
        assert!(lower < 0.02 && 0.02 < upper && upper - lower < 0.08, "{found:?}");
        let reversed = compare(&run(200, 0.30, 0.01, 2), &run(200, 0.32, 0.01, 1));
        assert!((reversed.later + found.later).abs() < 1e-9);
    }

    #[test]
    fn of_two_hundred_pairs_of_equal_runs_about_one_in_a_hundred_is_called_different() {
        let cried = (0..200).filter(|seed| {
            let (this, other) = (run(40, 0.3, 0.01, 2 * seed + 10), run(60, 0.3, 0.01, 2 * seed + 11));
            compare(&this, &other).differ == Some(true)
        });
        let cried = cried.count();
        assert!(
            cried <= 8,
            "{cried} of 200 at a rate of 1 in 100: chance makes more than 8 once in 4,000 times"
        );
    }

    /// As a baseline has it: nothing leaks, so no client has a lower end.
    fn without_lower_ends(run: Vec<Interval>) -> Vec<Interval> {
        run.into_iter().map(|one| Interval { lower: 0.0, ..one }).collect()
    }

    #[test]
    fn runs_in_which_nothing_leaked_are_compared_by_their_upper_ends() {
        let slow = without_lower_ends(run(400, 9.9, 0.01, 1));
        let fast = without_lower_ends(run(400, 0.01, 0.01, 2));
        let found = compare(&slow, &fast);
        assert_eq!((found.differ, found.method), (Some(true), OF_UPPER_ENDS));
        assert!(found.later > 0.99, "{found:?}");
        assert!(found.median_difference.lower_seconds.unwrap() > 9.8, "{found:?}");
    }

    #[test]
    fn the_same_truth_with_leaks_and_without_is_no_difference() {
        let (seen, blind) = (run(200, 0.3, 0.01, 1), without_lower_ends(run(200, 0.3, 0.01, 2)));
        assert_eq!(compare(&seen, &blind).differ, Some(false));
        assert_eq!(compare(&blind, &seen).differ, Some(false));
    }

    #[test]
    fn clients_that_never_got_through_are_a_difference_too() {
        let mut this = run(100, 0.3, 0.01, 1);
        this[..25].fill(Interval::NEVER);
        assert_eq!(compare(&this, &run(100, 0.3, 0.01, 2)).differ, Some(true));
    }

    #[test]
    fn a_run_without_clients_cannot_be_compared() {
        assert_eq!(compare(&[], &run(9, 0.3, 0.01, 1)).differ, None);
    }
}
