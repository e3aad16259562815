use std::ops::Range;

use Outcome::{Error, Leaked, Pong, Refused, Reset, Silent, Timeout};

use super::*;
use crate::client::outcome::ProbeEnd;

const START: Monotonic = Monotonic::from_ns(1_000_000_000);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A probe sent at so many milliseconds that took as long as it does on this path: a pong 8, a timeout 90.
fn probe(sent_ms: u64, outcome: Outcome) -> Probe {
    let sent = START + ms(sent_ms);
    let took = if outcome.is_unanswered() { 90 } else { 8 };
    let established = (outcome == Pong).then(|| sent + ms(5));
    Probe { sent, established, settled: sent + ms(took), end: ProbeEnd::plain(outcome), unsafe_port: false }
}

/// A watch that has seen so many pongs at 1 ms before the start, and then these.
fn watch_after(pongs: u64, probes: &[(u64, Outcome)]) -> Watch {
    let mut watch = Watch::new(START);
    let before = (0..pongs).map(|_| Probe { sent: Monotonic::from_ns(0), ..probe(0, Pong) });
    for probe in before.chain(probes.iter().map(|&(sent, outcome)| probe(sent, outcome))) {
        watch.take(probe, &mut drop);
    }
    watch
}

fn watch(probes: &[(u64, Outcome)]) -> Watch {
    watch_after(0, probes)
}

/// Pongs, then timeouts every 10 ms from `from` up to `to`, then a pong.
fn outage(from: u64, to: u64) -> Vec<(u64, Outcome)> {
    let mut probes = vec![(from - 10, Pong)];
    probes.extend((from..=to).step_by(10).map(|sent| (sent, Timeout)));
    probes.push((to + 10, Pong));
    probes
}

fn lengths(watch: &Watch) -> Vec<(f64, Option<f64>)> {
    let (all, _) = watch.disruptions();
    all.iter().map(|one| (one.length_seconds.lower, one.length_seconds.upper)).collect()
}

#[test]
fn misses_before_the_first_pong_are_no_disruption() {
    let watch = watch(&[(0, Leaked), (50, Timeout), (100, Pong), (150, Pong)]);
    assert_eq!(watch.disruptions(), (vec![], 0));
    assert_eq!(watch.loss().probes, 1);
}

#[test]
fn the_upper_end_waits_for_the_next_pong_to_get_through() {
    // Its SYN waited in a queue for 800 ms while the path was down; whether its handshake proves anything decides.
    let mut watch = watch(&[(100, Pong), (150, Timeout), (200, Timeout)]);
    let late = Probe { established: Some(START + ms(1_050)), settled: START + ms(1_060), ..probe(250, Pong) };
    watch.take(late, &mut drop);
    assert_eq!(lengths(&watch), [(0.0, Some(0.96))]);
    let mut watch = self::watch(&[(100, Pong), (150, Timeout), (200, Timeout)]);
    let end = ProbeEnd { end_to_end: Some(true), ..late.end };
    watch.take(Probe { end, ..late }, &mut drop);
    assert_eq!(lengths(&watch), [(0.0, Some(0.95))]);
}

#[test]
fn the_lower_end_leaves_out_what_chance_explains_and_begins_when_the_first_of_the_others_was_settled() {
    // Of 30,000 pongs one was followed by a miss: chance explains 3 in a row.
    let seconds = |length: u64| Some(ms(length).as_secs_f64());
    let watch = watch_after(30_000, &outage(1_000, 1_400));
    assert_eq!(lengths(&watch), [(seconds(1_370 - 1_000 - 90).unwrap(), seconds(1_418 - 990))]);
    // Of 10 none was lost: that says little, and nothing is proven.
    let watch = watch_after(10, &outage(1_000, 1_400));
    assert_eq!(lengths(&watch), [(0.0, seconds(1_418 - 990))]);
}

#[test]
fn what_was_answered_is_no_chance() {
    let lower = |last: Outcome| {
        let outcomes = [Pong, Timeout, Refused, Timeout, last, Timeout, Pong];
        let probes: Vec<_> = outcomes.iter().zip(0..).map(|(outcome, tick)| (tick * 10, *outcome)).collect();
        Duration::from_secs_f64(lengths(&watch(&probes))[0].0)
    };
    assert_eq!(lower(Refused), ms(40 - 28));
    // A proxy that has lost its own packets closes, or resets.
    assert_eq!([lower(Leaked), lower(Reset), lower(Timeout)], [Duration::ZERO; 3]);
}

#[test]
fn one_leak_makes_it_a_leak_and_one_refusal_spoils_a_blackhole() {
    let watch = watch(&[
        (0, Pong),
        (10, Timeout),
        (20, Leaked),
        (30, Pong),
        (40, Timeout),
        (50, Refused),
        (60, Pong),
        (70, Silent),
        (80, Timeout),
        (90, Pong),
    ]);
    let kinds: Vec<Kind> = watch.disruptions().0.iter().map(|disruption| disruption.kind).collect();
    assert_eq!(kinds, [Kind::Leak, Kind::Rejected, Kind::Blackhole]);
}

#[test]
fn a_local_error_neither_starts_ends_nor_extends() {
    let watch = watch(&[
        (0, Pong),
        (10, Error),
        (20, Timeout),
        (30, Error),
        (40, Timeout),
        (50, Error),
        (60, Pong),
        (70, Error),
    ]);
    let (all, _) = watch.disruptions();
    let [disruption] = &all[..] else { panic!("{all:?}") };
    assert_eq!((disruption.misses, disruption.start_seconds), (2, 0.02));
    assert_eq!(watch.loss().probes, 3);
}

#[test]
fn a_miss_between_two_pongs_is_lost_and_no_disruption() {
    let watch = watch(&[(0, Pong), (10, Timeout), (20, Pong), (30, Leaked), (40, Pong)]);
    assert_eq!(watch.disruptions().1, 0);
    let loss = watch.loss();
    assert_eq!((loss.probes, loss.isolated.misses, loss.in_disruptions.misses), (4, 2, 0));
    assert_eq!(loss.isolated_by, [("leaked".to_owned(), 1), ("timeout".to_owned(), 1)].into());
    assert!((loss.isolated.share - 0.5).abs() < 1e-9);
}

#[test]
fn a_disruption_without_a_next_pong_is_open_and_counted() {
    let mut watch = watch(&[(0, Pong), (10, Refused)]);
    let mut told = vec![];
    watch.finish(&mut |event| told.push(event));
    let [Event::Ended(open)] = &told[..] else { panic!("it is open") };
    assert_eq!((open.kind, open.length_seconds.upper, open.misses), (Kind::Rejected, None, 1));
    assert_eq!(watch.disruptions().1, 1);
    assert!(watch.longest_upper().is_infinite());
}

#[test]
fn each_begin_and_each_end_is_told_once() {
    let mut watch = Watch::new(START);
    let mut told = Vec::new();
    for (sent, outcome) in [(0, Pong), (10, Timeout), (20, Timeout), (30, Pong), (40, Pong)] {
        watch.take(probe(sent, outcome), &mut |event| told.push((sent, event)));
    }
    let [(20, Event::Began { kind: Kind::Blackhole, start }), (30, Event::Ended(ended))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((*start, ended.misses, ended.length_seconds.upper), (ms(10), 2, Some(0.038)));
}

#[test]
fn the_longest_and_the_latest_are_kept_and_the_rest_counted() {
    let mut probes = vec![(0, Pong)];
    for number in 0..3_000 {
        let at = number * 100 + 50;
        // The real outage, in the middle of it all, is 40 ms longer.
        let back = if number == 1_200 { 42 } else { 2 };
        probes.extend([(at, Refused), (at + 1, Refused), (at + back, Pong)]);
    }
    let watch = watch(&probes);
    let (kept, total) = watch.disruptions();
    assert_eq!((kept.len(), total), (1_000, 3_000));
    let longest = |one: &&Disruption| one.length_seconds.upper > Some(0.14);
    assert_eq!(kept.iter().filter(longest).count(), 1);
    assert!(kept.is_sorted_by(|one, other| one.start_seconds < other.start_seconds));
    assert!(kept[500].start_seconds > 249.9, "the latest 500: {}", kept[500].start_seconds);
}

/// Every tick this share of the probes is lost, between two instants in milliseconds, and of the others one in a thousand.
fn partly(seed: u64, share: f64, dead: Range<u64>, end: u64) -> Watch {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut watch = Watch::new(START);
    for at in (0..end).step_by(10) {
        let lost = random.f64() < if dead.contains(&at) { share } else { 0.001 };
        watch.take(probe(at, if lost && at > 0 { Timeout } else { Pong }), &mut drop);
    }
    watch.finish(&mut drop);
    watch
}

#[test]
fn one_dead_gateway_of_several_is_one_partial_outage_between_its_bounds() {
    for seed in 0..200 {
        let gateways = 2 + seed % 4;
        let watch = partly(seed, 1.0 / gateways as f64, 5_000..9_000, 20_000);
        let [outage] = watch.partial_outages().0 else { panic!("seed {seed}: {watch:?}") };
        let holds =
            |ends: &LengthBracket, at: f64| ends.lower <= at && ends.upper.is_some_and(|upper| at <= upper);
        assert!(holds(&outage.began_seconds, 5.0), "seed {seed}: {outage:?}");
        assert!(holds(&outage.ended_seconds, 9.0), "seed {seed}: {outage:?}");
        assert!(holds(&outage.length_seconds, 4.0), "seed {seed}: {outage:?}");
        assert!((outage.lost.share - 1.0 / gateways as f64).abs() < 0.15, "seed {seed}: {outage:?}");
        assert_eq!(watch.disruptions(), (vec![], 0), "seed {seed}");
        let loss = watch.loss();
        let [chance, partial] = [loss.isolated.misses, loss.in_partial_outages.misses];
        assert_eq!(
            (chance + partial, partial >= outage.lost.misses),
            (watch.misses.iter().sum::<u64>(), true)
        );
    }
}

#[test]
fn one_dead_gateway_is_told_soon_after_the_start_of_a_watch() {
    for seed in 0..100 {
        let watch = partly(seed, 1.0 / (2 + seed % 2) as f64, 2_000..5_000, 8_000);
        let [outage] = watch.partial_outages().0 else { panic!("seed {seed}: {watch:?}") };
        let holds =
            |ends: &LengthBracket, at: f64| ends.lower <= at && ends.upper.is_none_or(|upper| at <= upper);
        let both = holds(&outage.began_seconds, 2.0) && holds(&outage.ended_seconds, 5.0);
        assert!(both, "seed {seed}: {outage:?}");
    }
}

#[test]
fn random_loss_is_no_outage_of_any_kind() {
    for seed in 0..200 {
        let watch = partly(seed, [0.01, 0.05, 0.2][seed as usize % 3], 0..60_000, 60_000);
        assert_eq!((watch.disruptions().1, watch.partial_outages().1), (0, 0), "seed {seed}");
        assert_eq!(watch.loss().isolated.misses, watch.misses.iter().sum::<u64>());
    }
}

#[test]
fn a_full_outage_beside_random_loss_is_a_disruption_and_no_partial_outage() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut watch = Watch::new(START);
        for at in (0..60_000).step_by(10) {
            let lost = (30_000..30_300).contains(&at) || random.f64() < 0.02;
            watch.take(probe(at, if lost && at > 0 { Timeout } else { Pong }), &mut drop);
        }
        watch.finish(&mut drop);
        assert_eq!((watch.disruptions().1, watch.partial_outages().1), (1, 0), "seed {seed}");
        assert!(watch.disruptions().0[0].misses >= 30);
    }
}

#[test]
fn two_misses_in_a_row_are_an_outage_where_nothing_else_is_lost() {
    let mut watch = watch_after(400, &[(10, Timeout), (20, Timeout), (30, Pong)]);
    watch.finish(&mut drop);
    assert_eq!((watch.disruptions().1, watch.loss().in_disruptions.misses), (1, 2));
}

#[test]
fn a_long_blackhole_stays_in_the_list_whatever_else_there_is() {
    let mut probes = vec![(0, Pong)];
    // Before the blackhole there is no pong for twice as long as before the others.
    for number in (0..3_000).filter(|number| *number != 99) {
        let at = number * 100 + 50;
        if number == 100 {
            probes.extend((0..40).map(|miss| (at + miss, Timeout)));
        } else {
            probes.extend([(at, Refused), (at + 1, Refused)]);
        }
        probes.push((at + 42, Pong));
    }
    let mut watch = watch(&probes);
    watch.finish(&mut drop);
    assert!(watch.disruptions().0.iter().any(|one| one.misses == 40));
}

#[test]
fn a_run_that_begins_on_an_unsafe_port_is_counted_once() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut watch = Watch::new(START);
        for at in (0..12_000).step_by(10) {
            let lost = (4_000..8_000).contains(&at) && random.bool();
            let unsafe_port = random.u8(..3) == 0;
            watch.take(Probe { unsafe_port, ..probe(at, if lost { Timeout } else { Pong }) }, &mut drop);
        }
        watch.finish(&mut drop);
        let (all, total) = watch.disruptions();
        assert_eq!(total, all.len() as u64, "seed {seed}");
        let loss = watch.loss();
        let told = loss.isolated.misses + loss.in_disruptions.misses + loss.in_partial_outages.misses;
        assert_eq!(told, watch.misses.iter().sum::<u64>(), "seed {seed}");
        assert_eq!(loss.in_disruptions.misses, all.iter().map(|one| one.misses).sum::<u64>(), "seed {seed}");
        assert!(loss.isolated.high <= 1.0 && loss.isolated.low.is_finite());
    }
}

#[test]
fn the_rate_of_loss_is_that_outside_of_outages() {
    let mut watch = watch_after(1_000, &outage(1_000, 10_990));
    watch.finish(&mut drop);
    let loss = watch.loss();
    assert_eq!((loss.probes, loss.outside_outages, loss.in_disruptions.misses), (2_001, 1_001, 1_000));
}
