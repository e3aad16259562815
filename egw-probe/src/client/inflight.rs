//! Probes on their way, in the order in which they were sent.
//!
//! Verdicts come in any order; everything behind this door (bracket, timeline) is judged in sent order. So settled
//! probes wait here until all that were sent before them are settled too, at most one probe timeout.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::outcome::{Probe, ProbeEnd};
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;

/// Names a probe in flight. Counts up from 0 in sent order.
pub type ProbeId = u64;

#[derive(Debug)]
struct Flight<S> {
    sent: Monotonic,
    deadline: Monotonic,
    established: Option<Monotonic>,
    unsafe_port: bool,
    /// The socket of an open probe, or how it ended and when that was known.
    state: Result<S, (ProbeEnd, Monotonic)>,
}

/// A probe that was sent.
#[derive(Debug)]
pub struct Launch<S> {
    /// Read just before `connect`; not before that of any other.
    pub sent: Monotonic,
    /// It had left by then, and has its time from then on.
    pub left: Monotonic,
    /// Its socket, or how it failed at once.
    pub state: Result<S, Outcome>,
    /// Its source port may have an old entry in a NAT on the way.
    pub unsafe_port: bool,
}

/// The probes in flight. `S` is what a probe holds while it is open (its socket).
#[derive(Debug)]
pub(crate) struct InFlight<S> {
    timeout: Duration,
    probes: VecDeque<Flight<S>>,
    first: ProbeId,
    open: usize,
}

impl<S> InFlight<S> {
    /// None in flight; each will have `timeout` to settle.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, probes: VecDeque::new(), first: 0, open: 0 }
    }

    /// The id that the next probe will have.
    pub(crate) fn next_id(&self) -> ProbeId {
        self.first + self.probes.len() as u64
    }

    /// Takes in a probe.
    pub(crate) fn launch(&mut self, launch: Launch<S>) {
        let Launch { sent, left, state, unsafe_port } = launch;
        self.open += usize::from(state.is_ok());
        let state = state.map_err(|outcome| (ProbeEnd::plain(outcome), sent));
        let deadline = left + self.timeout;
        self.probes.push_back(Flight { sent, deadline, established: None, unsafe_port, state });
    }

    /// The socket of a probe that is still open.
    pub(crate) fn open_mut(&mut self, id: ProbeId) -> Option<&mut S> {
        self.flight(id).and_then(|flight| flight.state.as_mut().ok())
    }

    /// Notes that the handshake of an open probe was complete at `now`; only the first note counts.
    pub(crate) fn establish(&mut self, id: ProbeId, now: Monotonic) {
        if let Some(flight) = self.flight(id).filter(|flight| flight.state.is_ok()) {
            flight.established.get_or_insert(now);
        }
    }

    /// Whether the handshake of this probe is known to be complete.
    pub(crate) fn is_established(&mut self, id: ProbeId) -> bool {
        self.flight(id).is_some_and(|flight| flight.established.is_some())
    }

    /// Settles an open probe at `now`, and gives its socket back.
    pub(crate) fn settle(&mut self, id: ProbeId, end: ProbeEnd, now: Monotonic) -> Option<S> {
        let flight = self.flight(id).filter(|flight| flight.state.is_ok())?;
        let socket = std::mem::replace(&mut flight.state, Err((end, now)));
        self.open -= 1;
        socket.ok()
    }

    /// The oldest probe that has not been taken.
    pub(crate) fn oldest(&self) -> Option<ProbeId> {
        (!self.probes.is_empty()).then_some(self.first)
    }

    /// When that one was sent.
    pub(crate) fn oldest_sent(&self) -> Option<Monotonic> {
        self.probes.front().map(|flight| flight.sent)
    }

    /// Drops the oldest probe if it is open, without an outcome; false if it is settled and can be taken.
    pub(crate) fn abandon_oldest(&mut self) -> bool {
        let open = self.probes.front().is_some_and(|flight| flight.state.is_ok());
        if open {
            self.probes.pop_front();
            self.first += 1;
            self.open -= 1;
        }
        open
    }

    /// The oldest probe, if it is open and its time is up.
    pub(crate) fn expired(&self, now: Monotonic) -> Option<ProbeId> {
        // Settled probes at the front have been taken already, so the front is the first to expire.
        (self.next_deadline()? <= now).then_some(self.first)
    }

    /// When the time of the oldest open probe is up.
    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        let front = self.probes.front().filter(|flight| flight.state.is_ok())?;
        Some(front.deadline)
    }

    /// Takes the next probe in sent order, if it is settled.
    pub(crate) fn take_settled(&mut self) -> Option<Probe> {
        let &Flight { sent, established, unsafe_port, state: Err((end, settled)), .. } =
            self.probes.front()?
        else {
            return None;
        };
        let probe = Probe { sent, established, settled, end, unsafe_port };
        self.probes.pop_front();
        self.first += 1;
        Some(probe)
    }

    /// Probes that hold a socket.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Every probe has been settled and taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    fn flight(&mut self, id: ProbeId) -> Option<&mut Flight<S>> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.probes.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_ns(ms * 1_000_000)
    }

    fn three_in_flight() -> InFlight<&'static str> {
        let mut flight = InFlight::new(Duration::from_millis(900));
        for (sent, socket) in [(0, "a"), (50, "b"), (100, "c")] {
            flight.launch(Launch { sent: at(sent), left: at(sent), state: Ok(socket), unsafe_port: false });
        }
        flight
    }

    #[test]
    fn probes_leave_in_sent_order_whatever_the_order_of_their_verdicts() {
        let mut flight = three_in_flight();
        flight.establish(2, at(130));
        flight.establish(2, at(140));
        assert_eq!(flight.settle(2, ProbeEnd::plain(Outcome::Pong), at(150)), Some("c"));
        assert_eq!(flight.take_settled(), None, "two sent before are still open");
        assert_eq!(flight.settle(0, ProbeEnd::plain(Outcome::Leaked), at(150)), Some("a"));
        let taken = flight.take_settled().unwrap();
        assert_eq!((taken.sent, taken.settled, taken.outcome()), (at(0), at(150), Outcome::Leaked));
        assert_eq!(flight.take_settled(), None);
        flight.settle(1, ProbeEnd::plain(Outcome::Timeout), at(150));
        assert_eq!(flight.take_settled().unwrap().outcome(), Outcome::Timeout);
        let last = flight.take_settled().unwrap();
        assert_eq!((last.outcome(), last.established), (Outcome::Pong, Some(at(130))));
        assert!(flight.is_empty());
    }

    #[test]
    fn the_oldest_open_probe_expires_first() {
        let mut flight = three_in_flight();
        assert_eq!(flight.next_deadline(), Some(at(900)));
        assert_eq!(flight.expired(at(899)), None);
        assert_eq!(flight.expired(at(900)), Some(0));
        flight.settle(0, ProbeEnd::plain(Outcome::Timeout), at(150));
        flight.take_settled();
        assert_eq!(flight.next_deadline(), Some(at(950)));
    }

    #[test]
    fn an_abandoned_probe_lets_those_settled_behind_it_through() {
        let mut flight = three_in_flight();
        flight.settle(1, ProbeEnd::plain(Outcome::Leaked), at(150));
        assert!(flight.abandon_oldest());
        assert!(!flight.abandon_oldest(), "the second is settled");
        assert_eq!(flight.take_settled().unwrap().sent, at(50));
        assert!(flight.abandon_oldest());
        assert!(flight.is_empty() && flight.oldest().is_none() && flight.open() == 0);
    }

    #[test]
    fn a_settled_probe_keeps_its_first_outcome_and_gives_its_socket_once() {
        let mut flight = three_in_flight();
        assert_eq!(flight.open(), 3);
        assert_eq!(flight.settle(1, ProbeEnd::plain(Outcome::Refused), at(150)), Some("b"));
        assert_eq!(flight.settle(1, ProbeEnd::plain(Outcome::Pong), at(150)), None);
        assert_eq!(flight.open(), 2);
        assert!(flight.open_mut(1).is_none());
        flight.settle(0, ProbeEnd::plain(Outcome::Leaked), at(150));
        flight.take_settled();
        assert_eq!(flight.take_settled().unwrap().outcome(), Outcome::Refused);
        assert_eq!(flight.settle(0, ProbeEnd::plain(Outcome::Pong), at(150)), None, "gone");
    }
}
