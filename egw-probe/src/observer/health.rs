//! How good the join of SYNs and accepted connections is.

use std::time::Duration;

use crate::sys::clock::Monotonic;

/// Counts that tell how good the join is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JoinHealth {
    /// Accepted connections whose SYN was not observed, or whose event was lost.
    pub unobserved: u64,
    /// Of the half-open attempts, those given up on early for want of room.
    pub forgotten: u64,
    /// Accepted connections that found the queue to the join full.
    pub not_joined: u64,
    /// Ring records that were not understood: none, unless object and program do not belong together.
    pub unreadable: u64,
}

impl JoinHealth {
    /// What has been added to `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            unobserved: self.unobserved - before.unobserved,
            forgotten: self.forgotten - before.forgotten,
            not_joined: self.not_joined - before.not_joined,
            unreadable: self.unreadable - before.unreadable,
        }
    }
}

/// What to say of accepted connections whose SYN was not observed.
pub(super) const UNOBSERVED: &str = "connections were accepted whose SYN the kernel side did not see, and leaks among them are \
    not counted: they came by an interface that is not observed (name it: --interface), for an address that no interface holds \
    (`ip route add local`), through a redirect from another port, or their events were lost \
    (egw_probe_target_events_lost_total)";

/// When that is said: once for all that come within ten seconds.
#[derive(Debug, Default)]
pub(super) struct Unobserved {
    untold: u64,
    told: Option<Monotonic>,
}

impl Unobserved {
    const PERIOD: Duration = Duration::from_secs(10);

    /// Takes in how many more there are; how many to tell of, if it is time.
    pub(super) fn tell(&mut self, more: u64, now: Monotonic) -> Option<u64> {
        self.untold += more;
        if self.untold == 0 || self.told.is_some_and(|told| now.since(told) < Self::PERIOD) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unobserved_connections_are_told_of_at_once_and_then_every_ten_seconds() {
        let mut unobserved = Unobserved::default();
        let at = |seconds: u64| Monotonic::from_ns(seconds * 1_000_000_000);
        let told = [(0, 0), (0, 1), (5, 2), (3, 4), (2, 11), (0, 12), (0, 60), (1, 61)]
            .map(|(more, seconds)| unobserved.tell(more, at(seconds)));
        assert_eq!(told, [None, None, Some(5), None, None, Some(5), None, Some(1)]);
    }
}
