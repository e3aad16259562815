//! Disruptions: runs of misses after a pong, judged in sent order.
//!
//! Pure, like [`super::bracket`]: takes settled probes, returns what began and what ended.

use std::net::IpAddr;
use std::time::Duration;

use crate::client::outcome::Probe;
use crate::document::disruption::{Disruption, EgressChange, Kind, LengthBracket};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Disruptions and egress changes kept in the result; what comes after is counted.
const CAP: usize = 1_000;

/// What a probe brought about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A disruption has begun.
    Began {
        /// Of this kind so far.
        kind: Kind,
        /// The first miss was sent then.
        start: Duration,
    },
    /// A disruption has ended.
    Ended(Disruption),
    /// The egress IP is another one.
    EgressChanged(EgressChange),
}

#[derive(Debug)]
struct Open {
    first_miss: Monotonic,
    /// The first miss may have been under way when the path broke; by this instant it would have been through.
    broken_by: Monotonic,
    last_miss: Monotonic,
    misses: u64,
    leaked: u64,
    timeouts: u64,
}

impl Open {
    fn kind(&self) -> Kind {
        if self.leaked > 0 {
            Kind::Leak
        } else if self.timeouts == self.misses {
            Kind::Blackhole
        } else {
            Kind::Rejected
        }
    }
}

/// Finds disruptions among probes in sent order.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Monotonic,
    last_pong: Option<Probe>,
    open: Option<Open>,
    ended: Vec<Disruption>,
    total: u64,
    longest_upper: f64,
    egress: Option<IpAddr>,
    egress_changes: Vec<EgressChange>,
    egress_changes_total: u64,
}

impl Watch {
    /// A watch over a test that began at `start`.
    pub(crate) fn new(start: Monotonic) -> Self {
        Self {
            start,
            last_pong: None,
            open: None,
            ended: Vec::new(),
            total: 0,
            longest_upper: 0.0,
            egress: None,
            egress_changes: Vec::new(),
            egress_changes_total: 0,
        }
    }

    /// Takes the next probe in sent order, and tells what it brought about.
    pub(crate) fn take(&mut self, probe: Probe, tell: &mut impl FnMut(Event)) {
        match probe.outcome {
            // It never left this host: it neither starts, ends nor extends a disruption.
            Outcome::Error => {}
            Outcome::Pong => {
                self.end(Some(probe.sent)).map(Event::Ended).map(&mut *tell);
                self.last_pong = Some(probe);
                self.note_egress(probe).map(Event::EgressChanged).map(tell);
            }
            outcome => {
                // Before the first pong there is nothing to disrupt.
                let Some(pong) = self.last_pong else { return };
                let pong_took = pong.settled.since(pong.sent);
                let begins = self.open.is_none();
                let open = self.open.get_or_insert(Open {
                    first_miss: probe.sent,
                    broken_by: probe.settled.min(probe.sent + pong_took),
                    last_miss: probe.sent,
                    misses: 0,
                    leaked: 0,
                    timeouts: 0,
                });
                open.last_miss = probe.sent;
                open.misses += 1;
                open.leaked += u64::from(outcome == Outcome::Leaked);
                open.timeouts += u64::from(outcome == Outcome::Timeout);
                if begins {
                    tell(Event::Began { kind: open.kind(), start: probe.sent.since(self.start) });
                }
            }
        }
    }

    /// Ends the watch: a disruption that is still open is counted, without an upper bound.
    pub(crate) fn finish(&mut self) -> Option<Disruption> {
        self.end(None)
    }

    /// The disruptions that ended, in order, and how many there were in all.
    pub(crate) fn disruptions(&self) -> (&[Disruption], u64) {
        (&self.ended, self.total)
    }

    /// The largest upper bound of a disruption's length, in seconds; infinite if one never ended.
    pub(crate) fn longest_upper(&self) -> f64 {
        self.longest_upper
    }

    /// The changes of the egress IP, in order, and how many there were in all.
    pub(crate) fn egress_changes(&self) -> (&[EgressChange], u64) {
        (&self.egress_changes, self.egress_changes_total)
    }

    /// The egress IP that was told last.
    pub(crate) fn egress_ip(&self) -> Option<IpAddr> {
        self.egress
    }

    fn end(&mut self, next_pong: Option<Monotonic>) -> Option<Disruption> {
        let open = self.open.take()?;
        let last_pong = self.last_pong?;
        let upper = next_pong.map(|pong| pong.since(last_pong.sent).as_secs_f64());
        let disruption = Disruption {
            kind: open.kind(),
            start_seconds: open.first_miss.since(self.start).as_secs_f64(),
            length_seconds: LengthBracket {
                lower: open.last_miss.since(open.broken_by).as_secs_f64(),
                upper,
            },
            misses: open.misses,
        };
        self.total += 1;
        self.longest_upper = self.longest_upper.max(upper.unwrap_or(f64::INFINITY));
        if self.ended.len() < CAP {
            self.ended.push(disruption.clone());
        }
        Some(disruption)
    }

    /// Notes what a probe's reply told of the egress IP; a change is returned.
    pub(crate) fn note_egress(&mut self, probe: Probe) -> Option<EgressChange> {
        let to = probe.egress_ip?;
        let from = self.egress.replace(to).filter(|from| *from != to)?;
        let change = EgressChange { at_seconds: probe.sent.since(self.start).as_secs_f64(), from, to };
        self.egress_changes_total += 1;
        if self.egress_changes.len() < CAP {
            self.egress_changes.push(change.clone());
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Error, Leaked, Pong, Refused, Timeout};

    use super::*;

    const START: Monotonic = Monotonic::from_ns(1_000_000_000);

    fn probe(sent_ms: u64, outcome: Outcome) -> Probe {
        let sent = START + Duration::from_millis(sent_ms);
        Probe { sent, established: None, settled: sent, outcome, egress_ip: None }
    }

    fn watch(probes: &[(u64, Outcome)]) -> Watch {
        let mut watch = Watch::new(START);
        for &(sent, outcome) in probes {
            watch.take(probe(sent, outcome), &mut drop);
        }
        watch
    }

    fn disruption(kind: Kind, start: f64, lower: f64, upper: f64, misses: u64) -> Disruption {
        let length_seconds = LengthBracket { lower, upper: Some(upper) };
        Disruption { kind, start_seconds: start, length_seconds, misses }
    }

    #[test]
    fn misses_before_the_first_pong_are_no_disruption() {
        let watch = watch(&[(0, Leaked), (50, Timeout), (100, Pong), (150, Pong)]);
        assert_eq!(watch.disruptions(), (&[][..], 0));
    }

    #[test]
    fn the_length_is_bracketed_by_the_misses_inside_and_the_pongs_around() {
        let watch = watch(&[(0, Pong), (50, Timeout), (100, Timeout), (150, Timeout), (200, Pong)]);
        assert_eq!(watch.disruptions(), (&[disruption(Kind::Blackhole, 0.05, 0.1, 0.2, 3)][..], 1));
    }

    #[test]
    fn a_first_miss_that_was_under_way_when_the_path_broke_does_not_make_the_outage_longer() {
        let mut watch = Watch::new(START);
        let took = |sent, ms, outcome| {
            let probe = probe(sent, outcome);
            Probe { settled: probe.sent + Duration::from_millis(ms), ..probe }
        };
        for probe in [
            took(0, 80, Pong),
            // A timeout: it would have had its pong after 80 ms.
            took(10, 900, Timeout),
            took(110, 900, Timeout),
            took(120, 90, Pong),
            // Its verdict came before a pong would have.
            took(130, 40, Refused),
            took(200, 40, Refused),
            took(210, 80, Pong),
            // A single miss proves no length.
            took(220, 900, Timeout),
            took(230, 80, Pong),
        ] {
            watch.take(probe, &mut drop);
        }
        let lengths: Vec<LengthBracket> =
            watch.disruptions().0.iter().map(|one| one.length_seconds).collect();
        let expected = [(0.02, Some(0.12)), (0.03, Some(0.09)), (0.0, Some(0.02))];
        assert_eq!(lengths, expected.map(|(lower, upper)| LengthBracket { lower, upper }));
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
        ]);
        let kinds: Vec<Kind> = watch.disruptions().0.iter().map(|disruption| disruption.kind).collect();
        assert_eq!(kinds, [Kind::Leak, Kind::Rejected]);
    }

    #[test]
    fn a_local_error_neither_starts_ends_nor_extends() {
        let watch =
            watch(&[(0, Pong), (10, Error), (20, Timeout), (30, Error), (40, Pong), (50, Error), (60, Pong)]);
        assert_eq!(watch.disruptions(), (&[disruption(Kind::Blackhole, 0.02, 0.0, 0.04, 1)][..], 1));
    }

    #[test]
    fn a_disruption_without_a_next_pong_is_open_and_counted() {
        let mut watch = watch(&[(0, Pong), (10, Refused), (20, Refused)]);
        let open = watch.finish().unwrap();
        assert_eq!((open.kind, open.length_seconds.upper, open.misses), (Kind::Rejected, None, 2));
        assert_eq!(watch.disruptions().1, 1);
        assert!(watch.longest_upper().is_infinite());
        assert_eq!(watch.finish(), None);
    }

    #[test]
    fn each_begin_and_each_end_is_told_once() {
        let mut watch = Watch::new(START);
        let mut told = Vec::new();
        for (sent, outcome) in [(0, Pong), (10, Timeout), (20, Timeout), (30, Pong), (40, Pong)] {
            watch.take(probe(sent, outcome), &mut |event| told.push((sent, event)));
        }
        let begun = Event::Began { kind: Kind::Blackhole, start: Duration::from_millis(10) };
        let ended = Event::Ended(disruption(Kind::Blackhole, 0.01, 0.01, 0.03, 2));
        assert_eq!(told, [(10, begun), (30, ended)]);
    }

    #[test]
    fn the_list_is_capped_and_the_rest_counted() {
        let flapping: Vec<_> = (0..3_001).map(|i| (i, if i % 2 == 0 { Pong } else { Timeout })).collect();
        let watch = watch(&flapping);
        assert_eq!((watch.disruptions().0.len(), watch.disruptions().1), (1_000, 1_500));
    }

    #[test]
    fn another_egress_ip_is_an_event() {
        let mut watch = Watch::new(START);
        let from = |sent, last: u8| Probe { egress_ip: Some([192, 0, 2, last].into()), ..probe(sent, Pong) };
        let mut told = Vec::new();
        // The second reply tells nothing, and so changes nothing; the last ends a disruption as well.
        for probe in [from(0, 1), probe(5, Pong), from(10, 1), probe(15, Timeout), from(20, 2)] {
            watch.take(probe, &mut |event| told.push(event));
        }
        let change =
            EgressChange { at_seconds: 0.02, from: [192, 0, 2, 1].into(), to: [192, 0, 2, 2].into() };
        assert_eq!(told.len(), 3);
        assert_eq!(told[2], Event::EgressChanged(change));
        assert_eq!(watch.egress_ip(), Some([192, 0, 2, 2].into()));
    }
}
