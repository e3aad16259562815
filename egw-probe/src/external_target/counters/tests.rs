//! Counters as they come, and what may be said of them.

use super::*;

fn ms(ms: u64) -> Monotonic {
    Monotonic::from_ns(ms * 1_000_000)
}

/// Counters as they arrive, each at so many milliseconds.
fn taken(arrivals: impl IntoIterator<Item = (u64, u64)>) -> Counters {
    let mut counters = Counters::default();
    for (at, number) in arrivals {
        counters.take((number % WINDOW) as u16, ms(at), false);
    }
    counters
}

fn facts(counters: &Counters) -> (u64, u64, bool) {
    (counters.missing(0), counters.restarts(), counters.conflict())
}

/// One SYN of the world below.
struct Sent {
    number: u64,
    arrives_us: u64,
    again: bool,
}

/// SYNs of one process, a millisecond apart: some lost, some doubled, all delayed by up to `jitter_us`.
fn process(random: &mut fastrand::Rng, start_us: u64, count: u64, jitter_us: u64) -> (Vec<Sent>, u64) {
    let (mut sent, mut never) = (vec![], 0);
    let loss = random.f64() * 0.4;
    let outage = random.u64(..count)..random.u64(..=count);
    for number in 0..count {
        if random.f64() < loss || (outage.contains(&number) && outage.end - outage.start < 1_500) {
            never += 1;
            continue;
        }
        let arrives_us = start_us + number * 1_000 + random.u64(..=jitter_us);
        sent.push(Sent { number, arrives_us, again: false });
        if random.u8(..10) == 0 {
            sent.push(Sent { number, arrives_us: arrives_us + 1 + random.u64(..3_000), again: true });
        }
    }
    (sent, never)
}

fn arrive(mut sent: Vec<Sent>, mut look: impl FnMut(&Counters)) -> Counters {
    sent.sort_by_key(|syn| syn.arrives_us);
    let mut counters = Counters::default();
    for syn in sent {
        let at = Monotonic::from_ns(syn.arrives_us * 1_000);
        counters.take((syn.number % WINDOW) as u16, at, syn.again);
        look(&counters);
    }
    counters
}

#[test]
fn one_process_is_one_whatever_the_network_does_and_what_is_missing_was_lost() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let jitter_us = [0, 3_000, 60_000, 900_000][random.usize(..4)];
        let count = [10, 300, 9_000][random.usize(..3)];
        let (sent, lost) = process(&mut random, 0, count, jitter_us);
        let all = sent.iter().filter(|syn| syn.again).count() as u64;
        let counters = arrive(sent, |counters| {
            assert_eq!((counters.restarts(), counters.conflict()), (0, false), "seed {seed}");
        });
        let missing = counters.missing(0);
        assert!(missing <= lost, "seed {seed}: {missing} of {lost}");
        // Lost at either end, or beside a wrap, they leave no gap that proves anything.
        let tight = jitter_us < 60_000 && count > 100;
        assert!(!tight || missing + 1_600 > lost, "seed {seed}: {missing} of {lost}");
        assert_eq!(counters.retransmissions(), all, "seed {seed}");
    }
}

#[test]
fn a_process_that_begins_anew_is_one_restart_at_the_most_and_no_conflict() {
    let mut found = 0;
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let jitter_us = [0, 3_000, 60_000][random.usize(..3)];
        let lives = [random.u64(50..3_000), random.u64(50..3_000)];
        let (mut sent, mut lost) = process(&mut random, 0, lives[0], jitter_us);
        let (then, also) = process(&mut random, (lives[0] + 200) * 1_000, lives[1], jitter_us);
        sent.extend(then);
        lost += also;
        let counters = arrive(sent, |counters| {
            assert!(counters.restarts() <= 1 && !counters.conflict(), "seed {seed}");
        });
        found += counters.restarts();
        assert!(counters.missing(0) <= lost, "seed {seed}: {} of {lost}", counters.missing(0));
    }
    assert!(found > 120, "{found} of 300 restarts found");
}

#[test]
fn two_clients_that_go_on_side_by_side_share_a_number() {
    let mut found = 0;
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let jitter_us = [0, 3_000, 60_000][random.usize(..3)];
        let (mut sent, _) = process(&mut random, 0, 6_000, jitter_us);
        let later = random.u64(..2_000_000);
        sent.extend(process(&mut random, later, 6_000, jitter_us).0);
        found += u64::from(arrive(sent, |_| {}).conflict());
    }
    assert!(found > 95, "{found} of 100");
}

#[test]
fn gaps_are_missing_until_they_are_filled_also_across_the_wrap() {
    assert_eq!(facts(&taken([(0, 0), (1, 1), (2, 5)])), (3, 0, false));
    assert_eq!(facts(&taken([(0, 0), (1, 1), (2, 5), (3, 3), (4, 2)])), (1, 0, false));
    let wrapped = [(0, 4_094), (1, 4_095), (2, 4_096), (3, 4_098)];
    assert_eq!(facts(&taken(wrapped)), (1, 0, false));
    // A process that began anew would not have sent those before the wrap.
    assert_eq!(facts(&taken([(0, 4_090), (1, 4_091), (2, 4_092), (3, 4_098)])), (2, 0, false));
}

#[test]
fn syns_whose_events_were_lost_are_not_missing() {
    let counters = taken([(0, 0), (1, 1), (2, 5)]);
    assert_eq!([3, 4, 5, 6, 9].map(|came| counters.missing(came)), [3, 2, 1, 0, 0]);
}

#[test]
fn a_restart_is_told_once_three_of_its_counters_came() {
    let first = || (0..100).map(|number| (number * 50, number));
    let then = |count| (0..count).map(|number| (6_000 + number * 50, number));
    assert_eq!(facts(&taken(first().chain(then(2)))), (0, 0, false));
    assert_eq!(facts(&taken(first().chain(then(3)))), (0, 1, false));
    assert_eq!(facts(&taken(first().chain(then(400)))), (0, 1, false));
}

#[test]
fn syns_of_a_beginning_that_are_sent_again_are_no_second_restart() {
    let lost = |number: &u64| [5, 9, 12].contains(number);
    let first = (0..100).map(|number| (number, number));
    let second = (0..80).filter(|number| !lost(number)).map(|number| (130 + number, number));
    let again = [5, 9, 12].map(|number| (1_130 + number, number));
    assert_eq!(facts(&taken(first.clone().chain(second.clone()).chain(again))).1, 1);
    // A third process is one, after a pause or after what the second has sent beyond its beginning.
    let third = |at| (0..3).map(move |number| (at + number, number));
    assert_eq!(facts(&taken(first.clone().chain(second).chain(third(1_300)))).1, 2);
    let long = (0..4_200).map(|number| (130 + number, number));
    assert_eq!(facts(&taken(first.clone().chain(long.clone()).chain(third(4_340)))).1, 2);
    assert_eq!(facts(&taken(first.chain(long.take(1_500)).chain(third(1_640)))).1, 1);
}

#[test]
fn short_processes_one_after_another_are_restarts_and_no_conflict() {
    // Each gets a little further than the one before.
    let run = |at: u64, length: u64| (0..length).map(move |number| (at + 100 * number, number));
    let mut at = 0;
    let mut all = vec![];
    for length in [3, 4, 5, 7, 20, 22, 25] {
        all.extend(run(at, length));
        at += 100 * length + 1_500;
    }
    let (_, restarts, conflict) = facts(&taken(all));
    assert_eq!((restarts, conflict), (6, false));
}

#[test]
fn a_process_that_begins_half_a_window_behind_does_not_drive_the_line_on() {
    let first = (0..2_053).filter(|number| *number != 2_049).map(|number| (number, number));
    // Its SYNs and the last of the first process overtake each other.
    let mixed = [(2_100, 2), (2_101, 2_049), (2_102, 3), (2_103, 0), (2_104, 1), (2_105, 4)];
    assert_eq!(facts(&taken(first.chain(mixed))).0, 0);
}

#[test]
fn a_line_that_is_proven_a_wrap_after_its_first_counters_takes_what_was_overtaken() {
    let first = [(0, 54), (3, 57)];
    let far_apart = (1..31).map(|number| (130 * number, 130 * number));
    let proof = (4_120, 4_158);
    let overtaken = [(4_130, 4_103), (4_140, 4_132), (4_150, 4_136)];
    let counters = taken(first.into_iter().chain(far_apart).chain([proof]).chain(overtaken));
    assert!(counters.are_proven());
    // Of the 56 from the lowest to the newest six came, and 30 before this was a line.
    assert_eq!(facts(&counters), (20, 0, false));
}

#[test]
fn what_is_half_a_window_behind_a_new_line_is_not_its_beginning() {
    // Of a first process too few came near each other, and of a second one the third that proves a line.
    let first = [(0, 17), (3, 33)].into_iter().chain((1..17).map(|number| (120 * number, 120 * number)));
    let mixed = [(2_000, 28), (2_010, 40), (2_020, 1_678)];
    assert!(taken(first.chain(mixed)).missing(0) < 40);
}

#[test]
fn one_that_overtakes_the_first_after_an_outage_by_far_begins_nothing() {
    let before = (0..=2_000).map(|number| (number, number));
    // 1,535 were lost, and the next one is overtaken by 560 others: the counters of those have come once.
    let after = (4_096..4_110).map(|number| (number, number));
    let overtaken = [(4_200, 3_536), (4_201, 4_110)];
    let counters = taken(before.clone().chain(after.clone()).chain(overtaken));
    assert_eq!((counters.restarts(), counters.conflict()), (0, false));
    assert!(counters.missing(0) <= 1_535 + 559, "{}", counters.missing(0));
    // The next ones after as many lost ones have a place.
    assert_eq!(facts(&taken(before.chain((3_536..3_600).map(|number| (number, number))))).0, 1_535);
}

#[test]
fn what_comes_first_after_an_outage_is_not_missing_where_a_process_before_never_came() {
    let first = (0..3_212).map(|number| (number, number));
    let second = |numbers: Range<u64>| numbers.map(|number| (3_278 + number, number));
    // 1,529 were lost, and the next ones are overtaken: of those the first process never sent any.
    let overtaking = (3_600..3_608).map(|number| (6_880, number));
    let before = first.chain(second(0..1_987)).chain(overtaking);
    let counters = taken(before.chain(second(3_516..3_600)).chain(second(3_608..3_700)));
    assert_eq!(counters.missing(0), 1_529);
}

#[test]
fn two_outages_some_wraps_apart_are_no_conflict() {
    let sent = |numbers: Range<u64>| numbers.map(|number| (number * 2 / 5, number));
    let overtaken = |number| [((number + 600) * 2 / 5, number)];
    let once = sent(0..2_001).chain(sent(4_096..4_110)).chain(overtaken(3_536));
    let twice = once.chain(sent(4_140..10_193)).chain(sent(12_288..12_302)).chain(overtaken(11_728));
    let counters = taken(twice);
    assert_eq!((counters.restarts(), counters.conflict()), (0, false));
}

#[test]
fn a_foreign_syn_that_looks_like_a_tag_begins_nothing() {
    let mut counters = taken([(0, 3_000)]);
    assert!(!counters.are_proven());
    for number in 0..2 {
        counters.take(number, ms(1), false);
        assert!(!counters.are_proven());
    }
    counters.take(2, ms(2), false);
    assert!(counters.are_proven());
    assert_eq!(facts(&counters), (0, 0, false));
    // Nor do several that are far apart.
    assert!(!taken((0..20).map(|n| (n, n * 1_000))).are_proven());
}
