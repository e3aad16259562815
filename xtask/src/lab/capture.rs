//! A packet capture of the lab's own: what went to the target's port, and what the target told in annotated replies,
//! each stamped by the kernel on arrival at the device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::time::{ClockId, clock_gettime};

use super::addresses::PORT;
use super::clock::{Monotonic, nanoseconds};
use super::namespace::Namespace;
use super::packet::PacketSocket;
use super::worker::Worker;

const GLANCE: Duration = Duration::from_millis(20);
/// `struct virtio_net_hdr`, which precedes every frame.
const VIRTIO_HEADER: usize = 10;
const ETHERNET_HEADER: usize = 14;
/// No frame that is looked at is longer; what follows is cut off.
const LONGEST: usize = 2048;
/// Samples of the two clocks, of which the narrowest is taken.
const CLOCK_SAMPLES: usize = 5;

/// A TCP segment to the target's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) at: Monotonic,
    pub(crate) source: SocketAddr,
    pub(crate) sequence: u32,
    /// SYN set and ACK clear.
    pub(crate) syn: bool,
    /// ACK set, and neither SYN, FIN nor RST: completes a handshake, and does not end a connection.
    pub(crate) ack: bool,
}

/// What an annotated reply told of the connection that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) source: SocketAddr,
    /// When the target's kernel side saw the SYN; None where the reply doesn't tell.
    pub(crate) syn_ns: Option<u64>,
}

/// Everything captured on one device, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) segments: Vec<Segment>,
    pub(crate) told: Vec<Told>,
    /// Frames that the kernel had no room for, by its own count.
    pub(crate) dropped: u64,
    /// Error bound of the conversion from the clock of the stamps to `CLOCK_MONOTONIC`.
    pub(crate) clock_error_ns: u64,
}

impl Captured {
    pub(crate) fn syns(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.syn)
    }
}

/// A running capture. Dropping it ends its thread.
pub(crate) struct Capture(Worker<Captured>);

impl Capture {
    /// Captures what arrives at `device` of `namespace`.
    pub(crate) fn start(namespace: &Namespace, device: &str) -> Result<Self> {
        let socket = namespace
            .run(|| PacketSocket::open(device).with_context(|| format!("no packet socket on {device}")))?;
        Worker::start("capture", move |stop| capture(&socket, stop)).map(Self)
    }

    /// Ends the capture, after everything that has arrived so far is read.
    pub(crate) fn finish(self) -> Result<Captured> {
        self.0.finish().context("the packet capture failed")
    }
}

fn capture(socket: &PacketSocket, stop: &AtomicBool) -> io::Result<Captured> {
    let mut captured = Captured::default();
    let mut frame = [0; LONGEST];
    loop {
        let last_round = stop.load(Ordering::Relaxed);
        ppoll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], Some(GLANCE.into()), None)?;
        // Sampled anew for every batch: CLOCK_REALTIME may be set or slewed while the lab runs.
        let clock = RealtimeOffset::sample();
        captured.clock_error_ns = captured.clock_error_ns.max(clock.error_ns);
        while let Some(received) = socket.receive(&mut frame)? {
            let at = Monotonic::from_ns(nanoseconds(received.at).wrapping_add_signed(-clock.offset_ns));
            match read(&frame[..received.length]) {
                Some(Read::Segment { source, sequence, flags }) => {
                    let (syn, ack) = (flags & 0x17 == 0x02, flags & 0x17 == 0x10);
                    captured.segments.push(Segment { at, source, sequence, syn, ack });
                }
                Some(Read::Told(told)) => captured.told.push(told),
                None => {}
            }
        }
        if last_round {
            captured.dropped = socket.dropped()?;
            return Ok(captured);
        }
    }
}

/// What to take from a `CLOCK_REALTIME` reading to get `CLOCK_MONOTONIC`, and how far that can be off.
struct RealtimeOffset {
    offset_ns: i64,
    error_ns: u64,
}

impl RealtimeOffset {
    fn sample() -> Self {
        let once = || {
            let before = Monotonic::now().ns();
            let realtime = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has CLOCK_REALTIME");
            let error_ns = (Monotonic::now().ns() - before).div_ceil(2);
            let offset_ns = nanoseconds(realtime).wrapping_sub(before + error_ns).cast_signed();
            Self { offset_ns, error_ns }
        };
        (1..CLOCK_SAMPLES)
            .map(|_| once())
            .fold(once(), |best, other| if other.error_ns < best.error_ns { other } else { best })
    }
}

#[derive(Debug, PartialEq)]
enum Read {
    Segment { source: SocketAddr, sequence: u32, flags: u8 },
    Told(Told),
}

/// Reads a frame as the lab's own hosts send it: no VLAN tag, no IPv6 extension header.
fn read(frame: &[u8]) -> Option<Read> {
    let packet = frame.get(VIRTIO_HEADER + ETHERNET_HEADER..)?;
    let (source, tcp) = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&6) => {
            let address: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (IpAddr::from(Ipv4Addr::from(address)), packet.get(usize::from(packet[0] & 15) * 4..)?)
        }
        6 if packet.get(6) == Some(&6) => {
            let address: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (IpAddr::from(Ipv6Addr::from(address)), packet.get(40..)?)
        }
        _ => return None,
    };
    let header = tcp.get(..20)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if port(0) == PORT {
        return told(tcp.get(usize::from(header[12] >> 4) * 4..)?).map(Read::Told);
    }
    if port(2) != PORT {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some(Read::Segment { source: SocketAddr::new(source, port(0)), sequence, flags: header[13] })
}

/// The second line of an annotated reply.
fn told(payload: &[u8]) -> Option<Told> {
    let text = std::str::from_utf8(payload).ok()?;
    let line = text.strip_prefix("pong\n").or(text.strip_prefix("denied\n"))?.trim_end();
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
    Some(Told {
        source: field("source=")?.parse().ok()?,
        syn_ns: field("syn_ns=").and_then(|ns| ns.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ports: [u16; 2], flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; VIRTIO_HEADER + ETHERNET_HEADER];
        let mut ip = [0; 20];
        (ip[0], ip[9]) = (0x45, 6);
        ip[12..16].copy_from_slice(&[192, 0, 2, 1]);
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&ports[0].to_be_bytes());
        tcp[2..4].copy_from_slice(&ports[1].to_be_bytes());
        tcp[4..8].copy_from_slice(&7_u32.to_be_bytes());
        (tcp[12], tcp[13]) = (5 << 4, flags);
        frame.extend(ip);
        frame.extend(tcp);
        frame.extend(payload);
        frame
    }

    #[test]
    fn only_what_goes_to_the_targets_port_is_a_segment() {
        let source = "192.0.2.1:999".parse().unwrap();
        let segment = Some(Read::Segment { source, sequence: 7, flags: 0x02 });
        assert_eq!(read(&frame([999, PORT], 0x02, b"")), segment);
        assert_eq!(read(&frame([999, 80], 0x02, b"")), None);
    }

    #[test]
    fn an_annotated_reply_tells_the_stamp_of_its_syn() {
        let reply = b"pong\nsource=[2001:db8::1]:4000 accept_ns=12 syn_ns=11\n";
        let told = Told { source: "[2001:db8::1]:4000".parse().unwrap(), syn_ns: Some(11) };
        assert_eq!(read(&frame([PORT, 999], 0x18, reply)), Some(Read::Told(told)));
        assert_eq!(read(&frame([PORT, 999], 0x18, b"pong\n")), None);
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_ignored() {
        let whole = frame([999, PORT], 0x02, b"");
        assert!((0..whole.len()).all(|length| read(&whole[..length]).is_none()));
    }
}
