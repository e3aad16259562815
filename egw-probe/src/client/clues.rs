//! What is noted of probes for the diagnosis, beside their outcomes; and the one given up last, whose answer may yet come.

use std::io;
use std::time::Duration;

use crate::client::diagnosis::Clues;
use crate::client::outcome::of_connect_error;
use crate::client::probe::ProbeSocket;
use crate::document::outcome::Outcome;
use crate::sys::clock::Monotonic;
use crate::sys::poller::EventFlags;

/// A late answer is waited for until so long after its SYN: before the kernel sends another (1 s), so that nothing leaves
/// that would not have left anyway.
const PATIENCE: Duration = Duration::from_millis(950);

/// Notes clues.
#[derive(Debug, Default)]
pub(crate) struct Clerk {
    clues: Clues,
    /// A probe that was given up, one at a time.
    kept: Option<ProbeSocket>,
    /// Another outcome than a timeout has been seen: how long an answer takes is known.
    answered: bool,
}

impl Clerk {
    /// A probe has ended.
    pub(crate) fn ended(&mut self, socket: ProbeSocket, outcome: Outcome, now: Monotonic) {
        match outcome {
            Outcome::Refused => self.clues.refused_by_firewall += u64::from(socket.is_forbidden()),
            Outcome::Unreachable => self.unreachable(socket.is_forbidden()),
            Outcome::Timeout => {
                if let Some(error) = socket.unheard_error() {
                    // An RST would not have been kept back.
                    let refused = of_connect_error(&error) == Outcome::Refused;
                    self.clues.refused_by_firewall += u64::from(refused);
                    self.failed(&error);
                    self.clues.in_silence += 1;
                    self.answered = true;
                }
            }
            _ => {}
        }
        if outcome != Outcome::Timeout {
            self.answered = true;
            self.kept = None;
        } else if !self.answered && self.kept.is_none() && now < socket.sent() + PATIENCE {
            self.kept = socket.hold_acknowledgement().ok().map(|()| socket);
        }
    }

    /// A probe failed with this error, on this host or by what this host heard.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        if of_connect_error(error) == Outcome::Unreachable {
            self.unreachable(error.raw_os_error() == Some(libc::EACCES));
        }
    }

    fn unreachable(&mut self, prohibited: bool) {
        let count = if prohibited { &mut self.clues.prohibited } else { &mut self.clues.unreachable };
        *count += 1;
    }

    /// The kept probe speaks.
    pub(crate) fn late_event(&mut self, flags: EventFlags, now: Monotonic) {
        let Some(socket) = self.kept.take() else { return };
        self.clues.waited_for += 1;
        if flags.contains(EventFlags::OUT) && !flags.intersects(EventFlags::ERR) {
            let took = now.since(socket.sent());
            let (from, to) = self.clues.late_by.unwrap_or((took, took));
            self.clues.late_by = Some((from.min(took), to.max(took)));
            self.clues.came_late += 1;
        }
    }

    /// When no answer to the kept probe is waited for any longer.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.kept.as_ref().map(|socket| socket.sent() + PATIENCE)
    }

    /// Lets go of the kept probe if its time was over by the look that found nothing.
    pub(crate) fn expire(&mut self, looked: Monotonic) {
        if self.deadline().is_some_and(|deadline| deadline <= looked) {
            self.kept = None;
            self.clues.waited_for += 1;
        }
    }

    /// What was noted.
    pub(crate) fn clues(&self) -> Clues {
        self.clues
    }
}
