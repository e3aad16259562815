//! A long wire: every frame between two devices comes out a constant time after it went in, or, where that is asked for,
//! later, twice, or out of order. Stands in for `sch_netem`, which many kernels lack, and says how exact it was.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::clock::{Monotonic, nanoseconds};
use super::namespace::Namespace;
use super::packet::{LARGEST_FRAME, PacketSocket};
use super::policy::become_realtime;
use super::worker::Worker;

/// How often the thread looks whether to stop.
const GLANCE: Duration = Duration::from_millis(20);
/// Frames taken from one side before the other gets its turn.
const BURST: usize = 64;

/// How exactly the wire kept its delay. Errors are from the instant a frame was due to the instant it was sent on.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Exactness {
    pub(crate) frames: usize,
    /// Frames lost for want of room.
    pub(crate) dropped: u64,
    pub(crate) error_p50_seconds: f64,
    pub(crate) error_p99_seconds: f64,
    pub(crate) error_max_seconds: f64,
}

/// What a wire does to frames. The shares are of all frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// In each direction.
    pub(crate) delay: Duration,
    /// Up to so much later, in order.
    pub(crate) jitter: Duration,
    /// So many come once more, up to `late` later.
    pub(crate) duplicated: f64,
    /// So many come up to `late` later, and others overtake them.
    pub(crate) overtaken: f64,
    pub(crate) late: Duration,
    pub(crate) seed: u64,
}

/// A running forwarder. Dropping it ends its thread.
pub(crate) struct Wire(Worker<Exactness>);

impl Wire {
    /// Joins the devices `near` and `far` of a namespace by a wire.
    pub(crate) fn start(namespace: &Namespace, manner: Manner) -> Result<Self> {
        let open =
            |device| PacketSocket::open(device).with_context(|| format!("no packet socket on {device}"));
        let sides = namespace.run(|| Ok([open("near")?, open("far")?]))?;
        Worker::start("wire", move |stop| {
            // Without real-time priority it is less exact, which it then says itself.
            become_realtime();
            forward(&sides, manner, stop)
        })
        .map(Self)
    }

    /// Ends the wire and says how exact it was.
    pub(crate) fn finish(self) -> Result<Exactness> {
        self.0.finish().context("the delaying wire failed")
    }
}

/// Frames of one direction, in the order in which they are due; of those due at once, in that of their arrival.
struct Queue {
    manner: Manner,
    random: fastrand::Rng,
    frames: BinaryHeap<Reverse<(Monotonic, u64, Vec<u8>)>>,
    taken: u64,
    last_due: Monotonic,
}

impl Queue {
    fn new(manner: Manner, side: u64) -> Self {
        let random = fastrand::Rng::with_seed(manner.seed.wrapping_add(side));
        Self { manner, random, frames: BinaryHeap::new(), taken: 0, last_due: Monotonic::from_ns(0) }
    }

    fn take(&mut self, arrived: Monotonic, bytes: &[u8]) {
        let Manner { delay, jitter, duplicated, overtaken, late, .. } = self.manner;
        let in_order = arrived.after(delay + jitter.mul_f64(self.random.f64())).max(self.last_due);
        self.last_due = in_order;
        let is_overtaken = self.random.f64() < overtaken;
        let due = if is_overtaken { in_order.after(late.mul_f64(self.random.f64())) } else { in_order };
        self.push(due, bytes);
        if self.random.f64() < duplicated {
            let again = due.after(late.mul_f64(self.random.f64()));
            self.push(again, bytes);
        }
    }

    fn push(&mut self, due: Monotonic, bytes: &[u8]) {
        self.taken += 1;
        self.frames.push(Reverse((due, self.taken, bytes.to_vec())));
    }

    fn next_due(&self) -> Option<Monotonic> {
        self.frames.peek().map(|Reverse((due, ..))| *due)
    }

    /// The next frame, if it is due.
    fn pop(&mut self) -> Option<(Monotonic, Vec<u8>)> {
        self.next_due().filter(|due| *due <= Monotonic::now())?;
        self.frames.pop().map(|Reverse((due, _, bytes))| (due, bytes))
    }
}

fn forward(sides: &[PacketSocket; 2], manner: Manner, stop: &AtomicBool) -> io::Result<Exactness> {
    // Frames received at side 0, at side 1.
    let mut queues = [0, 1].map(|side| Queue::new(manner, side));
    let mut errors_ns: Vec<u32> = vec![];
    let mut dropped = 0;
    let mut buffer = vec![0; LARGEST_FRAME];
    while !stop.load(Ordering::Relaxed) {
        for (side, queue) in queues.iter_mut().enumerate() {
            while let Some((due, bytes)) = queue.pop() {
                errors_ns.push((Monotonic::now().ns() - due.ns()).try_into().unwrap_or(u32::MAX));
                dropped += u64::from(!sides[1 - side].send(&bytes)?);
            }
        }
        let wait = queues.iter().filter_map(Queue::next_due).map(Monotonic::remaining).min();
        let mut polled = sides.each_ref().map(|side| PollFd::new(side.as_fd(), PollFlags::POLLIN));
        ppoll(&mut polled, Some(wait.unwrap_or(GLANCE).min(GLANCE).into()), None)?;
        let ready = polled.map(|polled| polled.any() == Some(true));
        let offset_ns = realtime_offset_ns();
        for (side, queue) in queues.iter_mut().enumerate().filter(|(side, _)| ready[*side]) {
            for _ in 0..BURST {
                let Some(received) = sides[side].receive(&mut buffer)? else { break };
                let arrived = Monotonic::from_ns(nanoseconds(received.at).wrapping_add_signed(-offset_ns));
                queue.take(arrived, &buffer[..received.length]);
            }
        }
    }
    for side in sides {
        dropped += side.dropped()?;
    }
    Ok(exactness(errors_ns, dropped))
}

/// What to take from a `CLOCK_REALTIME` reading, which the kernel stamps frames with, to get `CLOCK_MONOTONIC`.
fn realtime_offset_ns() -> i64 {
    let realtime = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has CLOCK_REALTIME");
    nanoseconds(realtime).wrapping_sub(Monotonic::now().ns()).cast_signed()
}

fn exactness(mut errors_ns: Vec<u32>, dropped: u64) -> Exactness {
    errors_ns.sort_unstable();
    let rank = |share: f64| {
        let index = (errors_ns.len() as f64 * share) as usize;
        errors_ns.get(index).or(errors_ns.last()).map_or(0.0, |ns| f64::from(*ns) / 1e9)
    };
    Exactness {
        frames: errors_ns.len(),
        dropped,
        error_p50_seconds: rank(0.5),
        error_p99_seconds: rank(0.99),
        error_max_seconds: rank(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactness_is_told_by_rank() {
        let exactness = exactness((1..=100).rev().map(|us| us * 1000).collect(), 3);
        assert_eq!(exactness.frames, 100);
        assert_eq!(exactness.dropped, 3);
        assert!((exactness.error_p50_seconds - 51e-6).abs() < 1e-9);
        assert!((exactness.error_p99_seconds - 100e-6).abs() < 1e-9);
        assert!((exactness.error_max_seconds - 100e-6).abs() < 1e-9);
    }

    fn numbers(manner: Manner) -> Vec<u8> {
        let mut queue = Queue::new(manner, 0);
        for number in 0..200 {
            queue.take(Monotonic::from_ns(1_000_000 * u64::from(number)), &[number]);
        }
        std::iter::from_fn(|| queue.pop()).map(|(_, bytes)| bytes[0]).collect()
    }

    #[test]
    fn jitter_keeps_the_order_and_only_who_is_overtaken_loses_it() {
        let late = Duration::from_millis(20);
        let in_order: Vec<u8> = (0..200).collect();
        assert_eq!(numbers(Manner { jitter: late, ..Manner::default() }), in_order);
        let mut overtaken = numbers(Manner { overtaken: 0.1, late, ..Manner::default() });
        assert_ne!(overtaken, in_order);
        overtaken.sort_unstable();
        assert_eq!(overtaken, in_order);
    }

    #[test]
    fn a_tenth_comes_twice() {
        let manner = Manner { duplicated: 0.1, late: Duration::from_millis(20), ..Manner::default() };
        assert!((205..240).contains(&numbers(manner).len()));
    }

    #[test]
    fn a_wire_that_carried_nothing_has_no_error() {
        assert_eq!(exactness(vec![], 0).frames, 0);
    }
}
