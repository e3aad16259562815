//! Accepted connections on their way to the join: when each may be joined. Pure.
//!
//! The SYN of a connection is in the ring before the connection is accepted. So whatever had been accepted before a reading of the
//! ring began finds its SYN once that reading has found the ring empty, and not earlier.

use std::net::SocketAddr;

use crate::sys::clock::Monotonic;

/// Accepted connections that may wait: beyond that they are not joined, and counted.
const ROOM: usize = 65_536;

/// An accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Where it came from; a 4-in-6 mapped source is the IPv4 address.
    pub source: SocketAddr,
    /// The sequence number of its SYN, where that is known.
    pub sequence: Option<u32>,
    /// When it was accepted.
    pub at: Monotonic,
}

/// Those that wait.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Vec<Accepted>,
    dropped: u64,
}

impl Queue {
    /// One more.
    pub fn push(&mut self, accepted: Accepted) {
        if self.waiting.len() < ROOM {
            self.waiting.push(accepted);
        } else {
            self.dropped += 1;
        }
    }

    /// All of them, to be taken before the ring is read.
    pub fn take(&mut self) -> Vec<Accepted> {
        std::mem::take(&mut self.waiting)
    }

    /// Those of the `taken` that may be joined, after the ring has been read until it was `empty` or until it was enough. The
    /// others go back in front of those that came meanwhile.
    pub fn ready(&mut self, mut taken: Vec<Accepted>, empty: bool) -> Vec<Accepted> {
        if empty || taken.is_empty() {
            return taken;
        }
        taken.append(&mut self.waiting);
        self.waiting = taken;
        vec![]
    }

    /// Connections that found no room, so far.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(port: u16) -> Accepted {
        let source = SocketAddr::from(([192, 0, 2, 1], port));
        Accepted { source, sequence: None, at: Monotonic::from_ns(u64::from(port)) }
    }

    #[test]
    fn what_was_accepted_is_ready_in_its_order_once_the_ring_is_empty() {
        let mut queue = Queue::default();
        queue.push(accepted(1));
        queue.push(accepted(2));
        let taken = queue.take();
        queue.push(accepted(3));
        assert_eq!(queue.ready(taken, false), []);
        let taken = queue.take();
        assert_eq!(queue.ready(taken, true), [1, 2, 3].map(accepted));
        assert_eq!(queue.take(), []);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut queue = Queue::default();
        (0..ROOM + 3).for_each(|_| queue.push(accepted(1)));
        assert_eq!((queue.take().len(), queue.dropped()), (ROOM, 3));
    }
}
