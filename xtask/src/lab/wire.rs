//! A long wire: every frame between two devices comes out a constant time after it went in. Stands in for
//! `sch_netem`, which many kernels lack, and says how exact it was.

use std::collections::VecDeque;
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

/// A running forwarder. Dropping it ends its thread.
pub(crate) struct Wire(Worker<Exactness>);

impl Wire {
    /// Joins the devices `near` and `far` of a namespace by a wire that takes `delay` in each direction.
    pub(crate) fn start(namespace: &Namespace, delay: Duration) -> Result<Self> {
        let open =
            |device| PacketSocket::open(device).with_context(|| format!("no packet socket on {device}"));
        let sides = namespace.run(|| Ok([open("near")?, open("far")?]))?;
        Worker::start("wire", move |stop| {
            // Without real-time priority it is less exact, which it then says itself.
            become_realtime();
            forward(&sides, delay, stop)
        })
        .map(Self)
    }

    /// Ends the wire and says how exact it was.
    pub(crate) fn finish(self) -> Result<Exactness> {
        self.0.finish().context("the delaying wire failed")
    }
}

struct Frame {
    due: Monotonic,
    bytes: Vec<u8>,
}

fn forward(sides: &[PacketSocket; 2], delay: Duration, stop: &AtomicBool) -> io::Result<Exactness> {
    // A constant delay keeps the order, so each direction is a plain queue: frames received at side 0, at side 1.
    let mut queues: [VecDeque<Frame>; 2] = Default::default();
    let mut errors_ns: Vec<u32> = vec![];
    let mut dropped = 0;
    let mut buffer = vec![0; LARGEST_FRAME];
    while !stop.load(Ordering::Relaxed) {
        for (side, queue) in queues.iter_mut().enumerate() {
            while let Some(frame) = queue.pop_front_if(|frame| frame.due <= Monotonic::now()) {
                errors_ns.push((Monotonic::now().ns() - frame.due.ns()).try_into().unwrap_or(u32::MAX));
                dropped += u64::from(!sides[1 - side].send(&frame.bytes)?);
            }
        }
        let wait = queues.iter().filter_map(VecDeque::front).map(|frame| frame.due.remaining()).min();
        let mut polled = sides.each_ref().map(|side| PollFd::new(side.as_fd(), PollFlags::POLLIN));
        ppoll(&mut polled, Some(wait.unwrap_or(GLANCE).min(GLANCE).into()), None)?;
        let ready = polled.map(|polled| polled.any() == Some(true));
        let offset_ns = realtime_offset_ns();
        for (side, queue) in queues.iter_mut().enumerate().filter(|(side, _)| ready[*side]) {
            for _ in 0..BURST {
                let Some(received) = sides[side].receive(&mut buffer)? else { break };
                let arrived = Monotonic::from_ns(nanoseconds(received.at).wrapping_add_signed(-offset_ns));
                queue.push_back(Frame {
                    due: arrived.after(delay),
                    bytes: buffer[..received.length].to_vec(),
                });
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

    #[test]
    fn a_wire_that_carried_nothing_has_no_error() {
        assert_eq!(exactness(vec![], 0).frames, 0);
    }
}
