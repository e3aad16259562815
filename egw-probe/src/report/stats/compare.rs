//! Whether two runs differ beyond noise, and by how much. Pure: the same runs get the same answer every time.
//!
//! Three tests look at three things that can become worse: all delays, the slowest of them, and clients that were not masqueraded.
//! They share the significance among them (Bonferroni), and hold only where both runs were measured in the same way: then clients are
//! ranked by the upper ends of their brackets, which are known even where nothing leaked. Differences of quantiles of the delay need
//! no such thing: each end of one is an order statistic of the brackets' ends in one run, against the opposite one of the other run,
//! each wrong half as often. So they hold whatever probing cut, and are conservative.

use std::collections::BTreeMap;

use crate::report::data::client::{ClientResult, Verdict};
use crate::report::data::interval::Interval;
use crate::report::data::run::{
    Bounds, Comparison, Difference, Found, QUANTILES, QuantileDifference, Run, SIGNIFICANCE, Test,
};
use crate::report::read::corpus::Corpus;
use crate::report::stats::permute::{Permuted, SCORES, TESTS, Unit, Units};
use crate::report::stats::positions::positions;
use crate::report::stats::ranks::ALPHA;
use crate::report::stats::sample::{Sample, nodes};
use crate::report::stats::settings::unlike;
use crate::report::stats::{fisher, normal};

/// A p-value of one test that counts.
pub(crate) const EACH: f64 = SIGNIFICANCE / TESTS as f64;
/// How often a shift that is called detectable is seen.
const POWER: f64 = 0.8;
/// Clients by which that is tried.
const TRIED: usize = 1_000;

/// Compares this run with another, earlier one, as they were summed up.
pub fn compare(this: (&Corpus, &Run), other: (&Corpus, &Run)) -> Comparison {
    let unlike = unlike(this.1, other.1);
    let names = [this.0, other.0].map(|corpus| corpus.nodes.names());
    let mut found = judge([&this.0.clients, &other.0.clients], names);
    if unlike.brackets && found.found != Found::NothingToCompare {
        // Ranks of brackets that were cut in two ways differ without any difference of delays.
        found.found = Found::NotComparable;
        found.differ = None;
        (found.detectable_seconds, found.detectable_failures) = (None, None);
        found.tests.retain(|test| test.of == "failures");
        for quantile in &mut found.quantiles {
            quantile.upper_ends = None;
        }
    }
    found.settings = unlike.lines;
    found
}

/// Compares the clients of two runs, whose nodes have these names.
fn judge(runs: [&[ClientResult]; 2], names: [&[String]; 2]) -> Comparison {
    let of_nodes = nodes(runs[0]).zip(nodes(runs[1])).map(|(this, other)| [this, other]);
    let seen: Vec<Interval> = runs.iter().flat_map(|run| run.iter().map(|one| one.delay.seen())).collect();
    let scores = scores(&seen, runs);
    let units = units(&scores, runs, of_nodes.map(|_| names));
    let permuted = units.permute();
    let [this, other] = runs.map(<[ClientResult]>::len);
    let enough = units.least_p_value() <= EACH;
    let tests = tests(&permuted, runs, of_nodes.is_some());
    let least = tests.iter().map(|test| test.p_value).fold(1.0, f64::min);
    let p_value = (least * TESTS as f64).min(1.0);
    let found = match (this.min(other), enough, p_value <= SIGNIFICANCE) {
        (0, ..) => Found::NothingToCompare,
        (_, false, _) => Found::TooFewClients,
        (.., true) => Found::Differ,
        _ => Found::NoDifferenceSeen,
    };
    let mean =
        |scores: &[[f64; SCORES]]| scores.iter().map(|one| one[0]).sum::<f64>() / scores.len().max(1) as f64;
    let apart = mean(&scores[..this]) - mean(&scores[this..]);
    Comparison {
        found,
        differ: matches!(found, Found::Differ | Found::NoDifferenceSeen).then_some(found == Found::Differ),
        p_value,
        tests,
        shuffles: permuted.shuffles,
        // Positions of a run's clients among themselves are a half on average: what is left is between the runs.
        later: if found == Found::NothingToCompare { 0.0 } else { apart * 2.0 },
        settings: vec![],
        nodes: of_nodes,
        quantiles: differences(runs),
        detectable_seconds: enough.then(|| detectable(&seen[this..], permuted.deviation)).flatten(),
        detectable_failures: if of_nodes.is_some() { None } else { detectable_failures([this, other]) },
    }
}

/// Shares of all clients that are later than the slowest ones, which are looked at alone.
const SLOWEST: [f64; 4] = [0.9, 0.95, 0.98, 0.99];

/// Of each client its position, whether it is among the slowest, and whether it was not masqueraded.
fn scores(seen: &[Interval], runs: [&[ClientResult]; 2]) -> Vec<[f64; SCORES]> {
    let is = |this: bool| f64::from(u8::from(this));
    let score = |(position, client): (f64, &ClientResult)| {
        let [a, b, c, d] = SLOWEST.map(|share| is(position > share));
        [position, a, b, c, d, is(client.verdict != Verdict::Masqueraded)]
    };
    positions(seen).into_iter().zip(runs.into_iter().flatten()).map(score).collect()
}

fn units(scores: &[[f64; SCORES]], runs: [&[ClientResult]; 2], names: Option<[&[String]; 2]>) -> Units {
    let alone = |scores: &[f64; SCORES]| Unit { scores: *scores, clients: 1.0 };
    let Some(names) = names else {
        return Units { pairs: vec![], others: scores.iter().map(alone).collect(), of_this: runs[0].len() };
    };
    let mut by_node: BTreeMap<&str, [Unit; 2]> = BTreeMap::new();
    let clients = runs.iter().enumerate().flat_map(|(side, run)| run.iter().map(move |one| (side, one)));
    for ((side, client), scores) in clients.zip(scores) {
        let name = names[side].get(client.node as usize - 1).map_or("", String::as_str);
        by_node.entry(name).or_default()[side].add(&alone(scores));
    }
    let (pairs, single): (Vec<[Unit; 2]>, Vec<[Unit; 2]>) =
        by_node.into_values().partition(|[this, other]| this.clients > 0.0 && other.clients > 0.0);
    let of = |side: usize| single.iter().map(move |pair| pair[side]).filter(|unit| unit.clients > 0.0);
    Units { pairs, of_this: of(0).count(), others: of(0).chain(of(1)).collect() }
}

fn tests(permuted: &Permuted, runs: [&[ClientResult]; 2], of_nodes: bool) -> Vec<Test> {
    let failed = runs.map(|run| run.iter().filter(|one| one.verdict != Verdict::Masqueraded).count() as u64);
    let [delays, tail, failures] = permuted.p_values;
    let failures = if of_nodes {
        (failures, "Share of clients that were not masqueraded, by permutation of nodes.")
    } else {
        let clients = runs.map(|run| run.len() as u64);
        (fisher::p_value(failed, clients), "Fisher's exact test of clients that were not masqueraded.")
    };
    [
        ("delays", (delays, "Wilcoxon-Mann-Whitney test of upper ends, by permutation.")),
        (
            "tail",
            (tail, "Clients among the slowest 10, 5, 2 and 1 %: the most unequal share, by permutation."),
        ),
        ("failures", failures),
    ]
    .map(|(of, (p_value, method))| Test { of, p_value, method })
    .into()
}

fn differences(runs: [&[ClientResult]; 2]) -> Vec<QuantileDifference> {
    let of_delays = runs.map(|run| Sample::of(run, |delay| delay));
    let of_ends = runs.map(|run| Sample::of(run, Interval::seen));
    let of = |[this, other]: &[Sample; 2], place: usize| {
        let q = QUANTILES[place].1;
        // Each of the two is wrong half as often as both together may be.
        let with = |alpha: f64| difference(this.confidence(place, alpha), other.confidence(place, alpha));
        Some(Difference {
            of_these_runs: difference(this.ends.of_sample(q)?, other.ends.of_sample(q)?),
            confidence: with(ALPHA / 2.0),
            one_sided: with(ALPHA),
        })
    };
    let both = |(place, (name, _)): (usize, (&'static str, f64))| {
        Some(QuantileDifference { name, delay: of(&of_delays, place)?, upper_ends: of(&of_ends, place) })
    };
    QUANTILES.into_iter().enumerate().filter_map(both).collect()
}

/// Everything that a value of `a` less a value of `b` can be.
fn difference(a: Interval, b: Interval) -> Bounds {
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    Bounds { lower_seconds: finite(a.lower - b.upper), upper_seconds: finite(a.upper - b.lower) }
}

/// The least shift of upper ends like these that would be seen as often as [`POWER`] says, if chance makes means of positions differ by
/// this standard deviation.
fn detectable(delays: &[Interval], deviation: f64) -> Option<f64> {
    let mut delays = delays.to_vec();
    delays.sort_unstable_by(|a, b| a.lower.total_cmp(&b.lower));
    let each = delays.len().div_ceil(TRIED).max(1);
    let few: Vec<Interval> = delays.into_iter().step_by(each).collect();
    let needed = (normal::quantile(1.0 - EACH / 2.0) + normal::quantile(POWER)) * deviation;
    let seen = |shift: f64| {
        let shifted = few.iter().map(|one| Interval { lower: one.lower + shift, upper: one.upper + shift });
        let places = positions(&few.iter().copied().chain(shifted).collect::<Vec<_>>());
        let mean = |places: &[f64]| places.iter().sum::<f64>() / few.len() as f64;
        mean(&places[few.len()..]) - mean(&places[..few.len()]) >= needed
    };
    let ends = few.iter().flat_map(|one| [one.lower, one.upper]).filter(|end| end.is_finite());
    let (mut low, mut high) = (0.0, ends.fold(0.0, f64::max) * 2.0);
    if !seen(high) {
        return None;
    }
    for _ in 0..24 {
        let middle = f64::midpoint(low, high);
        if seen(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The least share of this run's clients whose failing would be seen as often as [`POWER`] says, if none of the other's failed.
fn detectable_failures([this, other]: [usize; 2]) -> Option<f64> {
    let clients = [this, other].map(|count| count as u64);
    let seen = |failed: &u64| fisher::p_value([*failed, 0], clients) <= EACH;
    let failed = (1..=clients[0].min(100)).find(seen)? as f64 - 0.5;
    // So many or more: a Poisson number whose mean lies above them by what is seldom missing.
    let z = normal::quantile(POWER);
    let share = (failed + z * (failed + z * z / 4.0).sqrt() + z * z / 2.0) / this as f64;
    Some(share).filter(|share| *share < 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::stats::random::Random;

    /// Delays spread over 100 ms from `from`, each known to `width`, on ticks of their own.
    fn run(clients: u32, from: f64, width: f64, seed: u64) -> Vec<ClientResult> {
        let mut random = Random(seed);
        let mut drawn = || random.below(100_000) as f64 / 1e5;
        let client = |_| {
            let (delay, phase) = (from + drawn() / 10.0, drawn() * width);
            let lower = ((delay - phase) / width).floor() * width + phase;
            ClientResult { delay: Interval { lower, upper: lower + width }, ..ClientResult::default() }
        };
        (0..clients).map(client).collect()
    }

    fn compare(this: &[ClientResult], other: &[ClientResult]) -> Comparison {
        judge([this, other], [&[], &[]])
    }

    /// The last `count` of them gave up after 10 s.
    fn given_up(mut run: Vec<ClientResult>, count: usize) -> Vec<ClientResult> {
        for one in run.iter_mut().rev().take(count) {
            one.verdict = Verdict::TimedOut;
            one.delay = Interval::later_than(10.0);
        }
        run
    }

    #[test]
    fn twenty_milliseconds_are_seen_and_their_size_is_told() {
        let found = compare(&run(200, 0.32, 0.01, 1), &run(200, 0.30, 0.01, 2));
        assert_eq!(found.found, Found::Differ);
        assert!(found.later > 0.1, "{found:?}");
        let Bounds { lower_seconds: Some(lower), upper_seconds: Some(upper) } =
            found.quantiles[0].delay.confidence
        else {
            panic!("{found:?}")
        };
        assert!(lower < 0.02 && 0.02 < upper && upper - lower < 0.08, "{found:?}");
        let shift = found.detectable_seconds.unwrap();
        assert!((0.008..0.02).contains(&shift), "{shift}");
        // 10 of 200 against none have p 0.0017, and 9 have 0.0036; of 12.5 on average 10 or more are seen four times in five.
        let failures = found.detectable_failures.unwrap();
        assert!((failures - 0.062_5).abs() < 0.001, "{failures}");
        let reversed = compare(&run(200, 0.30, 0.01, 2), &run(200, 0.32, 0.01, 1));
        assert!((reversed.later + found.later).abs() < 1e-9);
    }

    #[test]
    fn of_two_hundred_pairs_of_equal_runs_about_one_in_a_hundred_is_called_different() {
        let cried = (0..200).filter(|seed| {
            let (this, other) = (run(40, 0.3, 0.05, 2 * seed + 10), run(60, 0.3, 0.05, 2 * seed + 11));
            compare(&this, &other).differ == Some(true)
        });
        let cried = cried.count();
        assert!(
            cried <= 8,
            "{cried} of 200 at a rate of 1 in 100: chance makes more than 8 once in 4,000 times"
        );
    }

    #[test]
    fn the_same_truth_with_leaks_and_without_is_no_difference() {
        let (seen, mut blind) = (run(200, 0.3, 0.01, 1), run(200, 0.3, 0.01, 2));
        for one in &mut blind {
            one.delay.lower = 0.0;
        }
        let found = compare(&seen, &blind);
        assert_eq!((found.differ, compare(&blind, &seen).differ), (Some(false), Some(false)));
        let Bounds { lower_seconds: Some(lower), upper_seconds: Some(upper) } =
            found.quantiles[0].delay.of_these_runs
        else {
            panic!("{found:?}")
        };
        assert!(lower < 0.0 && upper > 0.3, "nothing says when the blind ones were masqueraded: {found:?}");
    }

    #[test]
    fn clients_that_never_got_through_are_a_difference_by_fishers_test() {
        let found = compare(&given_up(run(100, 0.3, 0.01, 1), 12), &run(100, 0.3, 0.01, 2));
        assert_eq!(found.differ, Some(true));
        assert!(found.tests[2].p_value < EACH, "{found:?}");
        assert!(found.tests[0].p_value > EACH, "delays alone do not show it: {found:?}");
    }

    #[test]
    fn a_slow_tail_is_a_difference_that_the_middle_does_not_show() {
        let mut this = run(750, 0.3, 0.01, 1);
        for one in &mut this[..15] {
            one.delay = Interval { lower: one.delay.lower + 10.0, upper: one.delay.upper + 10.0 };
        }
        let found = compare(&this, &run(750, 0.3, 0.01, 2));
        assert!(found.tests[0].p_value > 0.05 && found.tests[1].p_value < EACH, "{found:?}");
        assert_eq!(found.differ, Some(true));
    }

    #[test]
    fn three_clients_against_three_are_too_few_however_far_apart() {
        let found = compare(&run(3, 9.0, 0.01, 1), &run(3, 0.3, 0.01, 2));
        assert_eq!((found.found, found.differ, found.detectable_seconds), (Found::TooFewClients, None, None));
        assert_eq!(compare(&[], &run(9, 0.3, 0.01, 1)).found, Found::NothingToCompare);
    }

    #[test]
    fn clients_of_one_node_count_together() {
        let node = |mut run: Vec<ClientResult>, first: u32| {
            for (place, one) in run.iter_mut().enumerate() {
                one.node = place as u32 / 10 + 1;
                let late = if (one.node + first).is_multiple_of(2) { 0.2 } else { 0.0 };
                one.delay = Interval { lower: one.delay.lower + late, upper: one.delay.upper + late };
            }
            run
        };
        // Of 5 nodes 3 are slow in one run, and 2 in the other.
        let (this, other) = (node(run(50, 0.3, 0.01, 1), 1), node(run(50, 0.3, 0.01, 2), 0));
        let names: Vec<String> = (1..=10).map(|node| node.to_string()).collect();
        let found = judge([&this, &other], [&names[..5], &names[5..]]);
        assert_eq!((found.nodes, found.differ), (Some([5, 5]), None), "{found:?}");
        assert!(found.tests[0].p_value > 0.3, "{found:?}");
    }
}
