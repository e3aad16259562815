//! What the counters in one client's SYNs tell: SYNs that never came, processes that began anew, two clients under one number.
//! Pure.
//!
//! A counter has twelve bits, and SYNs overtake each other on their way. So each counter is placed beside the newest one, up to
//! 1,535 ahead of it or 2,560 behind, in a window that knows which of the last 4,096 have come: whatever came next to the newest
//! before it went so far ahead, up to 1,024 SYNs late, is still behind it. A counter that comes again from
//! another connection was sent by another process: several of those in a row are one that began anew, and catches up with the
//! first. Once it has, nothing comes again, unless the first goes on too: then two clients share the number.

use std::ops::Range;
use std::time::Duration;

use egw_probe_common::tag::COUNTER_MODULUS;

use crate::sys::clock::Monotonic;

/// No SYN arrives by more than this after one that was sent later: assumed.
pub(crate) const OVERTAKEN: Duration = Duration::from_secs(1);

const WINDOW: u64 = COUNTER_MODULUS as u64;
/// A counter that is nearer ahead than this is taken to be ahead.
const AHEAD: u64 = 1_536;
/// Counters that prove a line of them: fewer may be foreign SYNs that look like tags. Of a hundred times a million foreign SYNs
/// not one made a line, of ten million four did.
const PROOF: u64 = 3;
/// Neighbours in a line that is not proven yet are no further apart.
const NEAR: u64 = 16;
/// Nor are those in a row beside one that is.
const NEAR_IN_A_RUN: u64 = 64;
/// A counter so far ahead may have been taken for one that comes again just before.
const FAR: u64 = 512;
/// A process whose first SYN seen has a counter below this has begun anew.
const BEGINNING: u16 = 16;
/// So many SYNs that come again after everything should have caught up are those of two clients.
const PROOF_OF_A_CONFLICT: u64 = 3;

/// Where a counter belongs in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So far beyond the newest.
    Ahead(u64),
    /// So far behind the newest, and not seen there.
    Late(u64),
    /// Nowhere: it has been seen, or is too far off.
    Elsewhere,
}

/// The counters that have come, unwrapped to numbers that do not wrap.
#[derive(Debug, Clone)]
struct Line {
    seen: [u64; 64],
    lowest: u64,
    newest: u64,
    distinct: u64,
    /// Gaps before a wrap: a process that began anew just then never sent them.
    doubtful: Range<u64>,
    doubtful_gaps: u64,
    /// Gaps of earlier such ranges.
    written_off: u64,
    first: Monotonic,
}

impl Line {
    /// An empty one, to which this counter is the next.
    fn before(counter: u16, at: Monotonic) -> Self {
        // Far enough from zero for whatever comes late.
        let number = WINDOW + u64::from(counter);
        Self {
            seen: [0; 64],
            lowest: number,
            newest: number - 1,
            distinct: 0,
            doubtful: 0..0,
            doubtful_gaps: 0,
            written_off: 0,
            first: at,
        }
    }

    fn place(&self, counter: u16, at: Monotonic) -> Place {
        let ahead = u64::from(counter).wrapping_sub(self.newest) % WINDOW;
        let behind = (WINDOW - ahead) % WINDOW;
        if !self.is_proven() && ahead.min(behind) > NEAR {
            return Place::Elsewhere;
        }
        if (1..AHEAD).contains(&ahead) {
            return Place::Ahead(ahead);
        }
        let number = self.newest - behind;
        let too_late = number < self.lowest && at.since(self.first) > OVERTAKEN;
        if too_late || self.has(number) { Place::Elsewhere } else { Place::Late(behind) }
    }

    fn take(&mut self, place: Place) {
        match place {
            Place::Ahead(ahead) => self.advance(self.newest + ahead),
            Place::Late(behind) => {
                let number = self.newest - behind;
                self.lowest = self.lowest.min(number);
                self.doubtful_gaps -= u64::from(self.doubtful.contains(&number));
                self.mark(number);
            }
            Place::Elsewhere => {}
        }
    }

    fn advance(&mut self, to: u64) {
        for number in self.newest + 1..to {
            self.seen[Self::word(number)] &= !Self::bit(number);
        }
        let wrap = to / WINDOW * WINDOW;
        if self.newest + 1 < wrap {
            self.written_off += self.doubtful_gaps;
            self.doubtful = self.newest + 1..wrap;
            self.doubtful_gaps = wrap - 1 - self.newest;
        }
        self.newest = to;
        self.mark(to);
    }

    fn mark(&mut self, number: u64) {
        self.seen[Self::word(number)] |= Self::bit(number);
        self.distinct += 1;
    }

    fn has(&self, number: u64) -> bool {
        self.seen[Self::word(number)] & Self::bit(number) != 0
    }

    const fn word(number: u64) -> usize {
        (number % WINDOW / 64) as usize
    }

    const fn bit(number: u64) -> u64 {
        1 << (number % 64)
    }

    fn is_proven(&self) -> bool {
        self.distinct >= PROOF
    }

    fn missing(&self) -> u64 {
        let span = self.newest - self.lowest + 1;
        span.saturating_sub(self.distinct + self.doubtful_gaps + self.written_off)
    }
}

/// Counters in a row that have no place in the line.
#[derive(Debug, Clone)]
struct Run {
    first: [u16; PROOF as usize],
    newest: u16,
    length: u64,
    since: Monotonic,
    /// Nothing had come for so long before it that none of it was overtaken.
    alone: bool,
    /// When the line went on, and this cannot be by what a process before this one had sent.
    passed: Option<Monotonic>,
}

impl Run {
    const fn begin(counter: u16, at: Monotonic, alone: bool) -> Self {
        Self { first: [counter; PROOF as usize], newest: counter, length: 1, since: at, alone, passed: None }
    }

    /// Takes in a counter that is near the newest; false if it is not.
    fn take(&mut self, counter: u16, near: u64) -> bool {
        let ahead = u64::from(counter).wrapping_sub(u64::from(self.newest)) % WINDOW;
        if (1..=near).contains(&ahead) {
            if let Some(place) = self.first.get_mut(self.length as usize) {
                *place = counter;
            }
            self.newest = counter;
            self.length += 1;
        }
        ahead <= near || WINDOW - ahead <= near
    }
}

/// A process that began after another one.
#[derive(Debug, Clone, Copy)]
struct BeganAnew {
    at: Monotonic,
    /// When a SYN came that it sent after its beginning.
    beyond: Option<Monotonic>,
}

/// Everything that one client's counters tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    line: Option<Line>,
    run: Option<Run>,
    taken: u64,
    /// SYNs that came before there was a place for them: each may be one that is missing there.
    strays: u64,
    /// SYNs without a place since the line last went far ahead.
    apart: u64,
    retransmissions: u64,
    restarts: u64,
    /// The process that began anew last.
    began_anew: Option<BeganAnew>,
    latest: Option<Monotonic>,
    doubles: u64,
}

impl Counters {
    /// Takes in a SYN with this counter; `again` if the same connection has sent it before, or the network doubled it.
    pub(crate) fn take(&mut self, counter: u16, at: Monotonic, again: bool) {
        self.taken += 1;
        if again {
            self.retransmissions += 1;
            return;
        }
        let alone = self.latest.is_none_or(|latest| at.since(latest) > OVERTAKEN);
        self.latest = Some(at);
        if let Some(process) = &mut self.began_anew
            && counter >= BEGINNING
            // Earlier it may be one of the process before.
            && at.since(process.at) > OVERTAKEN
        {
            process.beyond.get_or_insert(at);
        }
        let line = self.line.get_or_insert_with(|| Line::before(counter, at));
        match line.place(counter, at) {
            Place::Elsewhere => self.take_apart(counter, at, alone),
            place => {
                line.take(place);
                if matches!(place, Place::Ahead(ahead) if ahead > FAR) {
                    self.strays += std::mem::take(&mut self.apart);
                }
                // What had no place before this was a line is no other process.
                self.run.take_if(|_| line.distinct <= PROOF);
                if let Some(run) = &mut self.run
                    && matches!(place, Place::Ahead(_))
                    && at.since(run.since) > OVERTAKEN
                {
                    run.passed.get_or_insert(at);
                }
            }
        }
    }

    fn take_apart(&mut self, counter: u16, at: Monotonic, alone: bool) {
        let is_proven = self.are_proven();
        self.strays += u64::from(!is_proven);
        self.apart += u64::from(is_proven);
        let Some(run) = &mut self.run else {
            self.run = Some(Run::begin(counter, at, alone));
            return;
        };
        let length = run.length;
        // Yet another process: this run was of one before it, whose SYNs have all come.
        let begins = alone && counter < BEGINNING && counter <= run.newest;
        if begins || !run.take(counter, if is_proven { NEAR_IN_A_RUN } else { NEAR }) {
            *run = Run::begin(counter, at, alone);
        } else if length >= PROOF {
            let caught_up = run.passed.is_some_and(|passed| at.since(passed) > OVERTAKEN);
            self.doubles += u64::from(caught_up);
        } else if run.length == PROOF && is_proven {
            // SYNs of its beginning that were overtaken may look like another one.
            let is_over =
                |before: BeganAnew| before.beyond.is_some_and(|beyond| run.since.since(beyond) > OVERTAKEN);
            if run.first[0] < BEGINNING && self.began_anew.is_none_or(|before| run.alone || is_over(before)) {
                self.restarts += 1;
                self.began_anew = Some(BeganAnew { at, beyond: None });
            }
        } else if run.length == PROOF {
            // What there was before were foreign SYNs, or one that was overtaken by far.
            let mut line = Line::before(run.first[0], at);
            run.first.iter().for_each(|counter| line.take(line.place(*counter, at)));
            self.strays += self.line.replace(line).map_or(0, |line| line.distinct);
            self.strays -= PROOF;
            self.run = None;
        }
    }

    /// Whether so many counters came in a row that no foreign SYNs explain them.
    pub(crate) fn are_proven(&self) -> bool {
        self.line.as_ref().is_some_and(Line::is_proven)
    }

    /// SYNs that were sent and have not come, at the least, if `came` came in all: some of those left no event to be taken in.
    pub(crate) fn missing(&self, came: u64) -> u64 {
        let gaps = self.line.as_ref().filter(|line| line.is_proven()).map_or(0, Line::missing);
        gaps.saturating_sub(self.strays + came.saturating_sub(self.taken))
    }

    /// SYNs that came again.
    pub(crate) const fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// Processes that began after another one, at the least.
    pub(crate) const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether two clients share the number.
    pub(crate) const fn conflict(&self) -> bool {
        self.doubles >= PROOF_OF_A_CONFLICT
    }
}

#[cfg(test)]
mod tests {
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
        assert!(found > 150, "{found} of 300 restarts found");
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
        let long = (0..2_500).map(|number| (130 + number, number));
        assert_eq!(facts(&taken(first.clone().chain(long.clone()).chain(third(2_640)))).1, 2);
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
}
