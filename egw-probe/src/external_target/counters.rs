//! What the counters in one client's SYNs tell: SYNs that never came, processes that began anew, two clients under one number.
//! Pure.
//!
//! A counter has twelve bits, and SYNs overtake each other on their way. So each counter is placed beside the newest one, up to
//! 1,536 ahead of it or 2,559 behind, in a window that knows which of the last 4,096 have come: whatever came next to the newest
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
/// A counter that is no farther ahead than this is taken to be ahead: 1,535 in a row may be lost.
const AHEAD: u64 = 1_536;
/// No SYN arrives after one that was sent so many later: assumed, too.
const OVERTAKING: u64 = 1_024;
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
    /// When the last one came before it was proven: the others before may be of a time long ago.
    begun: Monotonic,
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
            begun: at,
        }
    }

    fn place(&self, counter: u16, at: Monotonic) -> Place {
        let ahead = u64::from(counter).wrapping_sub(self.newest) % WINDOW;
        let behind = (WINDOW - ahead) % WINDOW;
        if !self.is_proven() && ahead.min(behind) > NEAR {
            return Place::Elsewhere;
        }
        if (1..=AHEAD).contains(&ahead) {
            return Place::Ahead(ahead);
        }
        let number = self.newest - behind;
        let too_late = number < self.lowest && (behind > OVERTAKING || at.since(self.begun) > OVERTAKEN);
        if too_late || self.has(number) { Place::Elsewhere } else { Place::Late(behind) }
    }

    /// Whether a counter that has no place is no SYN of the line's own process: after many that were lost one may come before
    /// the first that was not, and is then farther ahead than is looked for.
    fn is_foreign(&self, counter: u16) -> bool {
        self.newest.wrapping_sub(u64::from(counter)) % WINDOW < WINDOW - AHEAD - OVERTAKING
    }

    /// Takes in a counter at its place; whether that is one of the doubtful gaps.
    fn take(&mut self, place: Place, at: Monotonic) -> bool {
        if !self.is_proven() {
            self.begun = at;
        }
        match place {
            Place::Ahead(ahead) => self.advance(self.newest + ahead),
            Place::Late(behind) => {
                let number = self.newest - behind;
                let is_doubtful = self.doubtful.contains(&number);
                self.lowest = self.lowest.min(number);
                self.doubtful_gaps -= u64::from(is_doubtful);
                self.mark(number);
                return is_doubtful;
            }
            Place::Elsewhere => {}
        }
        false
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
    /// None of its first ones is a SYN of the line's own process.
    foreign: bool,
    /// When the line went on, and this cannot be by what a process before this one had sent.
    passed: Option<Monotonic>,
}

impl Run {
    const fn begin(counter: u16, at: Monotonic, alone: bool, foreign: bool) -> Self {
        let first = [counter; PROOF as usize];
        Self { first, newest: counter, length: 1, since: at, alone, foreign, passed: None }
    }

    /// Takes in a counter that is near the newest; false if it is not.
    fn take(&mut self, counter: u16, near: u64, foreign: bool) -> bool {
        let ahead = u64::from(counter).wrapping_sub(u64::from(self.newest)) % WINDOW;
        if (1..=near).contains(&ahead) {
            if let Some(place) = self.first.get_mut(self.length as usize) {
                *place = counter;
                self.foreign &= foreign;
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
    /// SYNs without a place, or with a doubtful one, since the line last went far ahead.
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
                self.apart += u64::from(line.take(place, at));
                let is_far = matches!(place, Place::Ahead(ahead) if ahead > FAR);
                if is_far {
                    self.strays += std::mem::take(&mut self.apart);
                }
                // What had no place before this was a line, or before it went so far ahead, is no other process.
                self.run.take_if(|_| is_far || line.distinct <= PROOF);
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
        let foreign = self.line.as_ref().is_some_and(|line| line.is_foreign(counter));
        self.strays += u64::from(!is_proven);
        self.apart += u64::from(is_proven);
        let Some(run) = &mut self.run else {
            self.run = Some(Run::begin(counter, at, alone, foreign));
            return;
        };
        let length = run.length;
        // Yet another process: this run was of one before it, whose SYNs have all come.
        let begins = alone && counter < BEGINNING && counter <= run.newest;
        if begins || !run.take(counter, if is_proven { NEAR_IN_A_RUN } else { NEAR }, foreign) {
            *run = Run::begin(counter, at, alone, foreign);
        } else if length >= PROOF {
            let caught_up = run.passed.is_some_and(|passed| at.since(passed) > OVERTAKEN);
            self.doubles += u64::from(caught_up);
        } else if run.length == PROOF && is_proven {
            // SYNs of its beginning that were overtaken may look like another one.
            let is_over =
                |before: BeganAnew| before.beyond.is_some_and(|beyond| run.since.since(beyond) > OVERTAKEN);
            if run.foreign
                && run.first[0] < BEGINNING
                && self.began_anew.is_none_or(|before| run.alone || is_over(before))
            {
                self.restarts += 1;
                self.began_anew = Some(BeganAnew { at, beyond: None });
            }
        } else if run.length == PROOF {
            // What there was before were foreign SYNs, or one that was overtaken by far.
            let mut line = Line::before(run.first[0], at);
            for counter in run.first {
                line.take(line.place(counter, at), at);
            }
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
mod tests;
