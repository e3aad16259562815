//! What the target has said on a stress connection so far, in a byte. Pure.

use crate::document::held::LossReason;

const DENIED: &[u8] = b"denied\n";

/// How much of the line `denied` has come, or that it is another reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard(u8);

impl Heard {
    const OTHER: Self = Self(u8::MAX);

    /// Takes the next bytes; whether they make the line whole.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            match DENIED.get(usize::from(self.0)) {
                Some(expected) if *expected == byte => self.0 += 1,
                // The verdict has come; what follows annotates it.
                None if self.is_denied() => return false,
                _ => *self = Self::OTHER,
            }
            if self.is_denied() {
                return true;
            }
        }
        false
    }

    /// Whether anything has come.
    pub(crate) fn anything(self) -> bool {
        self != Self::default()
    }

    /// Whether the target has said that it saw a source outside its CIDRs.
    pub(crate) fn is_denied(self) -> bool {
        usize::from(self.0) == DENIED.len()
    }

    /// Whether a close like this is how a target denies that does not annotate: in order, and without a byte.
    pub(crate) fn is_denied_by_close(self, reason: LossReason, annotates: bool) -> bool {
        !annotates && !self.anything() && reason == LossReason::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_heard_once_whole_or_byte_by_byte() {
        let line = b"denied\nsource=192.0.2.1:5\n";
        let mut heard = Heard::default();
        assert!(heard.read(line) && heard.is_denied());
        assert!(!heard.read(b"denied\n") && heard.is_denied());
        let mut heard = Heard::default();
        assert_eq!(line.iter().filter(|byte| heard.read(&[**byte])).count(), 1);
        assert!(heard.is_denied());
    }

    #[test]
    fn anything_else_is_no_denial_and_nothing_then_a_close_is_one_of_a_plain_target() {
        for text in [&b"pong\n"[..], b"pong\ndenied\n", b"deny", b"denied ", b"\xff"] {
            let mut heard = Heard::default();
            assert!(!heard.read(text) && !heard.is_denied() && heard.anything(), "{text:?}");
            assert!(!heard.is_denied_by_close(LossReason::Closed, false));
        }
        let nothing = Heard::default();
        assert!(nothing.is_denied_by_close(LossReason::Closed, false));
        assert!(!nothing.is_denied_by_close(LossReason::Closed, true), "an annotating target says so");
        assert!(!nothing.is_denied_by_close(LossReason::Reset, false), "a reset is no denial");
    }
}
