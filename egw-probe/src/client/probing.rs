//! The decisions of the probing as one state machine, without a socket, a clock or a log line.
//!
//! In go ticks, events of probes and deadlines, each with the time; out come what to do next and [`Fact`]s. The loop in
//! [`super::prober`] carries them out and decides nothing, so whatever drives this drives exactly what is shipped.

use std::time::Duration;

use ipnet::IpNet;

use crate::client::bracket::Judge;
use crate::client::disruptions::{Event as WatchEvent, Watch};
use crate::client::egress::{Egress, Event as EgressEvent};
use crate::client::inflight::{InFlight, Launch, ProbeId};
use crate::client::outcome::{Probe, ProbeEnd};
use crate::client::pacer::Pacer;
use crate::config::client::WatchConfig;
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// A time without an end.
const FOREVER: Monotonic = Monotonic::from_ns(u64::MAX);

/// What the probing goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The start of the test.
    pub start: Monotonic,
    /// From there to the tick grid.
    pub phase: Duration,
    /// Time between two ticks.
    pub interval: Duration,
    /// No tick at or after start plus this, unless a watch goes on.
    pub test_timeout: Duration,
    /// How long one probe may take.
    pub probe_timeout: Duration,
    /// Whether probing goes on after the winner, and for how long.
    pub watch: Option<WatchConfig>,
    /// Probes that may hold a socket at a time.
    pub most_in_flight: usize,
}

/// What a probe's socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete.
    Established,
    /// Its outcome is decided.
    Ended(ProbeEnd),
}

/// What has become known.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A tick was served so late after it was due; the first one, which waits for the client, is not told.
    Served {
        /// From the instant for which a probe was due, the first skipped one included.
        late: Duration,
    },
    /// No tick was served from `from` to `to` although some were due.
    Stalled {
        /// The first skipped tick.
        from: Monotonic,
        /// The next one served.
        to: Monotonic,
    },
    /// So many ticks passed without a probe.
    Skipped(u64),
    /// A probe is settled, and so are all that were sent before it.
    Settled {
        /// With what became of it by all that is known now.
        probe: Probe,
        /// None before it, nor itself, got a pong.
        before_winner: bool,
    },
    /// A probe got a pong, and none that is still in flight can bound the delay any closer.
    Won {
        /// From the start to the upper end of the bracket.
        delay: Duration,
    },
    /// Something of a watch: a disruption, or loss.
    Watched(WatchEvent),
    /// Something of the addresses that the target saw, and how many egress IPs come now.
    Egress(EgressEvent, usize),
}

/// How the probing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A pong came, the watch is over if there was one, and all that was in flight is settled.
    Masqueraded,
    /// The test timeout passed without a pong.
    TimedOut,
    /// A signal came before either.
    Interrupted,
}

/// How far the probing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No pong yet, or none that anything is to follow.
    Seeking,
    /// A watch has seen a pong.
    Watching,
    /// A signal has ended the watch: what is in flight is settled.
    Ending,
    /// A signal came before a pong, or a second one.
    Interrupted,
}

/// The probing, from the first tick to the last verdict. `S` is what a probe holds while it is open (its socket).
#[derive(Debug)]
pub struct Probing<S> {
    rules: Rules,
    pacer: Pacer,
    in_flight: InFlight<S>,
    judge: Judge,
    watch: Watch,
    egress: Egress,
    facts: Vec<Fact>,
    phase: Phase,
    sending: bool,
    won: bool,
    unsettled: u64,
    descriptor_skips: u64,
}

impl<S> Probing<S> {
    /// Nothing sent yet.
    pub fn new(rules: Rules) -> Self {
        let Rules { start, phase, interval, test_timeout, probe_timeout, .. } = rules;
        Self {
            rules,
            pacer: Pacer::new(start + phase, interval, start + test_timeout),
            in_flight: InFlight::new(probe_timeout),
            judge: Judge::new(start),
            watch: Watch::new(start),
            egress: Egress::new(start),
            facts: Vec::new(),
            phase: Phase::Seeking,
            sending: true,
            won: false,
            unsettled: 0,
            descriptor_skips: 0,
        }
    }

    /// Counts pongs by egress IPs outside of these networks.
    pub fn expect_egress_ips(&mut self, networks: Vec<IpNet>) {
        self.egress.expect(networks);
    }

    /// Whether a probe is to be sent now. If so, [`Probing::launched`] follows before anything else.
    pub fn on_tick(&mut self, now: Monotonic) -> bool {
        if !self.sending {
            return false;
        }
        let first = self.in_flight.next_id() == 0;
        let skipped_before = self.pacer.skipped();
        let mut send = false;
        if let Some(tick) = self.pacer.due(now) {
            if tick.skipped > 0 {
                self.facts.push(Fact::Stalled { from: tick.awaited, to: now });
            }
            if !first {
                self.facts.push(Fact::Served { late: now.since(tick.awaited) });
            }
            send = self.in_flight.open() < self.rules.most_in_flight;
            if !send {
                self.pacer.skip();
                self.descriptor_skips += 1;
            }
        }
        let skipped = self.pacer.skipped() - skipped_before;
        if skipped > 0 {
            self.facts.push(Fact::Skipped(skipped));
        }
        send
    }

    /// The name of the probe that is launched next.
    pub fn next_id(&self) -> ProbeId {
        self.in_flight.next_id()
    }

    /// The probe was sent and has left, or failed at once.
    pub fn launched(&mut self, launch: Launch<S>) {
        self.in_flight.launch(launch);
    }

    /// The socket of a probe that is still open.
    pub fn socket(&mut self, id: ProbeId) -> Option<&mut S> {
        self.in_flight.open_mut(id)
    }

    /// Takes in what the socket of a probe said; a socket that is no longer needed comes back.
    pub fn on_event(&mut self, id: ProbeId, event: Event, now: Monotonic) -> Option<(S, Outcome)> {
        match event {
            Event::Established => {
                self.in_flight.establish(id, now);
                None
            }
            Event::Ended(end) => self.settle(id, end, now),
        }
    }

    /// Gives up on the oldest probe if its time was over by `looked`, when what had come was looked for and read. To be
    /// called until nothing comes back.
    pub fn on_deadline(&mut self, looked: Monotonic, now: Monotonic) -> Option<(S, Outcome)> {
        // What is settled goes on first: the oldest left is the first to expire.
        self.judge_settled();
        let id = self.in_flight.expired(looked)?;
        let established = self.in_flight.is_established(id);
        let outcome = if established { Outcome::Silent } else { Outcome::Timeout };
        let socket = self.settle(id, ProbeEnd::plain(outcome), now);
        self.judge_settled();
        socket
    }

    /// A signal ends a watch that has seen a pong as if its time were over; anything else at once.
    pub fn on_signal(&mut self, now: Monotonic) {
        if self.phase == Phase::Watching {
            self.phase = Phase::Ending;
            self.pacer.set_end(now);
        } else {
            self.phase = Phase::Interrupted;
        }
    }

    /// Whether nothing is left to send or to wait for.
    pub fn is_over(&mut self, now: Monotonic) -> bool {
        self.sending &= !self.pacer.is_over(now);
        self.phase == Phase::Interrupted || (!self.sending && self.in_flight.is_empty())
    }

    /// Ends the probing: probes that nobody waits for any more are counted, those settled behind them judged, and a
    /// disruption that is still open has no end.
    pub fn finish(&mut self) -> Ended {
        while self.in_flight.oldest().is_some() {
            // Of what was sent since, answers are known and losses are not: no rate comes of that.
            self.unsettled += u64::from(self.in_flight.abandon_oldest());
            self.judge_settled();
        }
        self.name_winner();
        self.watch.finish(&mut |event| self.facts.push(Fact::Watched(event)));
        if self.judge.has_winner() {
            Ended::Masqueraded
        } else if self.phase == Phase::Interrupted {
            Ended::Interrupted
        } else {
            Ended::TimedOut
        }
    }

    /// What has become known since the last call, in order.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// When the time of a probe or of the test is over: ticks come on the grid.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let end = self.sending.then(|| self.pacer.end());
        [end, self.in_flight.next_deadline()].into_iter().flatten().min()
    }

    /// The instant of the next tick on the grid.
    pub fn next_tick(&self) -> Monotonic {
        self.pacer.next_tick()
    }

    /// What the probes mean so far.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Probes that hold a socket.
    pub fn open(&self) -> usize {
        self.in_flight.open()
    }

    /// Bracket and disruptions, and the counts of what never came to a verdict, once it is over.
    pub fn into_findings(self) -> Findings {
        Findings {
            judge: self.judge,
            watch: self.watch,
            egress: self.egress,
            unsettled: self.unsettled,
            skipped_ticks: self.pacer.skipped(),
            descriptor_skips: self.descriptor_skips,
        }
    }

    fn settle(&mut self, id: ProbeId, end: ProbeEnd, now: Monotonic) -> Option<(S, Outcome)> {
        let socket = self.in_flight.settle(id, end, now)?;
        if end.source.is_some() {
            self.judge.note_annotated();
        }
        if end.outcome == Outcome::Pong {
            // The winner is in flight already. Only a watch wants what is sent later, and the test timeout is over.
            if self.rules.watch.is_none() {
                self.sending = false;
            } else if self.phase == Phase::Seeking {
                self.phase = Phase::Watching;
                // Also where the test timeout had passed while this probe was in flight.
                self.pacer.set_end(FOREVER);
                self.sending = true;
            }
        }
        Some((socket, end.outcome))
    }

    /// Hands settled probes on, in sent order.
    fn judge_settled(&mut self) {
        while let Some(mut probe) = self.in_flight.take_settled() {
            probe.end.outcome = self.judge.outcome_of(&probe);
            self.judge.take(probe);
            self.facts.push(Fact::Settled { probe, before_winner: !self.judge.has_winner() });
            if self.rules.watch.is_some() && self.unsettled == 0 {
                self.watch.take(probe, &mut |event| self.facts.push(Fact::Watched(event)));
            }
            let mut turns = Vec::new();
            self.egress.take(&probe, &mut |event| turns.push(event));
            let in_force = self.egress.in_force();
            self.facts.extend(turns.into_iter().map(|event| Fact::Egress(event, in_force)));
            let nothing_closer =
                |oldest| self.judge.earliest_through().is_some_and(|through| through <= oldest);
            if self.in_flight.oldest_sent().is_none_or(nothing_closer) {
                self.name_winner();
            }
        }
    }

    /// Names the winner's delay, once.
    fn name_winner(&mut self) {
        let Some(delay) = self.judge.delay().filter(|_| !self.won) else { return };
        self.won = true;
        self.facts.push(Fact::Won { delay });
        if let Some(watch) = self.rules.watch.filter(|_| self.phase == Phase::Watching) {
            let end = |duration| self.rules.start + delay + duration;
            self.pacer.set_end(watch.duration.map_or(FOREVER, end));
        }
    }
}

/// What is left when the probing is over.
#[derive(Debug)]
pub struct Findings {
    /// What the probes mean.
    pub judge: Judge,
    /// Disruptions and loss after the winner.
    pub watch: Watch,
    /// From which addresses the target saw the probes.
    pub egress: Egress,
    /// Probes in flight that a signal cut off: sent, and never settled.
    pub unsettled: u64,
    /// Ticks without a probe.
    pub skipped_ticks: u64,
    /// Ticks without a probe for want of a descriptor; among the skipped ones.
    pub descriptor_skips: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    fn probing(watch: Option<WatchConfig>) -> Probing<u64> {
        Probing::new(Rules {
            start: at(0),
            phase: Duration::ZERO,
            interval: Duration::from_millis(50),
            test_timeout: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(900),
            watch,
            most_in_flight: 3,
        })
    }

    /// Sends a probe at each of these instants.
    fn send(probing: &mut Probing<u64>, ticks: &[u64]) {
        for &ms in ticks {
            assert!(probing.on_tick(at(ms)), "{ms}");
            probing.launched(Launch { sent: at(ms), left: at(ms), state: Ok(ms), unsafe_port: false });
        }
    }

    fn settle(probing: &mut Probing<u64>, id: ProbeId, outcome: Outcome, ms: u64) {
        probing.on_event(id, Event::Ended(ProbeEnd::plain(outcome)), at(ms));
        assert_eq!(probing.on_deadline(at(ms), at(ms)), None);
    }

    #[test]
    fn a_pong_ends_the_sending_and_the_winner_is_named_once_all_before_it_are_settled() {
        let mut probing = probing(None);
        send(&mut probing, &[0, 50]);
        probing.on_event(1, Event::Established, at(60));
        settle(&mut probing, 1, Outcome::Pong, 61);
        assert!(!probing.on_tick(at(100)), "nothing is sent after a pong");
        assert!(!probing.is_over(at(100)), "the first probe is in flight");
        assert_eq!(probing.take_facts(), [Fact::Served { late: Duration::ZERO }]);
        settle(&mut probing, 0, Outcome::Leaked, 110);
        let facts = probing.take_facts();
        assert!(
            matches!(facts[..], [Fact::Settled { .. }, Fact::Settled { .. }, Fact::Won { .. }]),
            "{facts:?}"
        );
        assert!(probing.is_over(at(111)));
        assert_eq!(probing.finish(), Ended::Masqueraded);
    }

    #[test]
    fn a_probe_expires_only_when_its_time_was_over_by_the_look() {
        let mut probing = probing(None);
        send(&mut probing, &[0]);
        assert_eq!(probing.on_deadline(at(899), at(2_000)), None);
        assert_eq!(probing.on_deadline(at(900), at(2_000)), Some((0, Outcome::Timeout)));
        assert!(probing.is_over(at(2_000)));
        assert_eq!(probing.finish(), Ended::TimedOut);
    }

    #[test]
    fn without_a_descriptor_a_tick_is_skipped_and_counted() {
        let mut probing = probing(None);
        send(&mut probing, &[0, 50, 100]);
        assert!(!probing.on_tick(at(150)));
        assert!(probing.take_facts().contains(&Fact::Skipped(1)));
        let findings = probing.into_findings();
        assert_eq!((findings.skipped_ticks, findings.descriptor_skips), (1, 1));
    }

    #[test]
    fn a_signal_ends_a_watch_that_has_its_pong_in_order_and_anything_else_at_once() {
        let mut watching = probing(Some(WatchConfig { duration: None, hold: 0 }));
        send(&mut watching, &[0]);
        settle(&mut watching, 0, Outcome::Pong, 1);
        send(&mut watching, &[50]);
        watching.on_signal(at(60));
        assert!(!watching.is_over(at(60)), "one is in flight");
        assert!(!watching.on_tick(at(100)));
        settle(&mut watching, 1, Outcome::Pong, 101);
        assert!(watching.is_over(at(102)));
        assert_eq!(watching.finish(), Ended::Masqueraded);

        let mut probing = probing(None);
        send(&mut probing, &[0]);
        probing.on_signal(at(10));
        assert!(probing.is_over(at(10)));
        assert_eq!(probing.finish(), Ended::Interrupted);
        assert_eq!(probing.into_findings().unsettled, 1);
    }

    #[test]
    fn a_watch_goes_on_for_its_time_after_the_winner_beyond_the_test_timeout() {
        let duration = Some(Duration::from_secs(2));
        let mut probing = probing(Some(WatchConfig { duration, hold: 0 }));
        send(&mut probing, &[0]);
        probing.on_event(0, Event::Established, at(1));
        settle(&mut probing, 0, Outcome::Pong, 2);
        assert!(probing.on_tick(at(2_000)));
        probing.launched(Launch {
            sent: at(2_000),
            left: at(2_000),
            state: Err(Outcome::Error),
            unsafe_port: false,
        });
        assert!(!probing.on_tick(at(2_002)), "the winner's pong came at 2 ms");
        assert_eq!(probing.on_deadline(at(2_002), at(2_002)), None);
        assert!(probing.is_over(at(2_002)));
    }

    #[test]
    fn what_was_sent_after_a_probe_that_a_signal_cut_off_tells_of_no_rate() {
        let mut watching = probing(Some(WatchConfig { duration: None, hold: 0 }));
        send(&mut watching, &[0]);
        settle(&mut watching, 0, Outcome::Pong, 1);
        send(&mut watching, &[50, 100, 150]);
        settle(&mut watching, 1, Outcome::Pong, 51);
        settle(&mut watching, 3, Outcome::Pong, 151);
        watching.on_signal(at(160));
        watching.on_signal(at(160));
        assert_eq!(watching.finish(), Ended::Masqueraded);
        let findings = watching.into_findings();
        assert_eq!((findings.unsettled, findings.judge.counts().of(Outcome::Pong)), (1, 3));
        assert_eq!(findings.watch.loss().probes, 1);
    }
}
