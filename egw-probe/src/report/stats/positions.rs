//! Where each delay stands among all, as far as brackets tell. Pure.
//!
//! Of two brackets one is certainly earlier, or nobody knows: what no bracket decides counts half. So a rank test of delays becomes
//! one of intervals (Gehan, Biometrika 52, 1965; Schemper, Biometrical Journal 26, 1984), with nothing to fit.

use crate::report::data::interval::Interval;

/// Of each, the share of all that is earlier: 0 to 1, a half on average.
pub(crate) fn positions(all: &[Interval]) -> Vec<f64> {
    let sorted = |end: fn(&Interval) -> f64| {
        let mut ends: Vec<f64> = all.iter().map(end).collect();
        ends.sort_unstable_by(f64::total_cmp);
        ends
    };
    let (lower, upper) = (sorted(|one| one.lower), sorted(|one| one.upper));
    let position = |one: &Interval| {
        let earlier = upper.partition_point(|end| *end <= one.lower);
        let not_later = lower.partition_point(|end| *end < one.upper);
        (earlier + not_later) as f64 / (2 * all.len()) as f64
    };
    all.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_bracket_decides_counts_half() {
        let all = [(0.0, 1.0), (1.0, 2.0), (0.5, 1.5), (2.0, f64::INFINITY)]
            .map(|(lower, upper)| Interval { lower, upper });
        assert_eq!(positions(&all), [0.25, 0.5, 0.375, 0.875]);
    }
}
