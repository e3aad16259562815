//! What is sent to a target in a world, what arrives of it and when, and what becomes of each attempt.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use egw_probe::document::verdict::Verdict;
use egw_probe_common::tag::Tag;

use super::super::world::{MS, Ns, SECOND};
use super::world::{Pod, World};

/// After a SYN, or a SYN-ACK, the next ones (RFC 6298).
const AGAIN: [Ns; 4] = [0, SECOND, 3 * SECOND, 7 * SECOND];
/// How long one of the others waits for an answer.
const FOREIGN_TIMEOUT: Ns = 8 * SECOND;

/// One attempt to connect.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// Whose; `None` is one of the others.
    pub(super) pod: Option<usize>,
    pub(super) life: usize,
    pub(super) sent: Ns,
    pub(super) source: SocketAddr,
    pub(super) sequence: u32,
    pub(super) verdict: Verdict,
    /// When its SYNs arrive, in order.
    pub(super) arrivals: Vec<Ns>,
    pub(super) observed: bool,
    pub(super) accepted: Option<Ns>,
    /// Its SYN was sent again, or doubled on its way.
    pub(super) repeated: bool,
}

/// What happens at the target.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Syn {
        timestamp: u32,
    },
    /// The acknowledgement of a handshake.
    Ack {
        timestamp: u32,
    },
    /// The connection is accepted.
    Accept,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) at: Ns,
    /// Of which attempt.
    pub(super) of: usize,
    pub(super) what: What,
}

pub(super) struct Traffic {
    pub(super) attempts: Vec<Attempt>,
    /// In order.
    pub(super) events: Vec<Event>,
    /// Packets that waited for a neighbour's address.
    pub(super) waited: u64,
    /// Ports that were used again before the accept of an earlier attempt.
    pub(super) ports_used_again: u64,
}

struct Sender<'world> {
    world: &'world World,
    random: fastrand::Rng,
    traffic: Traffic,
}

pub(super) fn traffic(world: &World, seed: u64) -> Traffic {
    let traffic = Traffic { attempts: vec![], events: vec![], waited: 0, ports_used_again: 0 };
    let mut sender = Sender { world, random: fastrand::Rng::with_seed(seed ^ 0x7a55), traffic };
    for (index, pod) in world.pods.iter().enumerate() {
        sender.pod(index, pod);
    }
    for number in 0..world.foreign {
        sender.foreign(40_000 + number as u16);
    }
    sender.traffic.events.sort_by_key(|event| event.at);
    sender.traffic
}

const fn egress(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
}

const fn node(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

/// The timestamp clock of an attempt at `at`, which counts milliseconds.
fn timestamp(pod: &Pod, attempt: &Attempt, at: Ns) -> u32 {
    let Some((offset, fast)) = pod.timestamps else { return 0 };
    let name = attempt.sequence ^ u32::from(attempt.source.port());
    // Far apart, whatever lies near by name.
    let offset = if pod.own_timestamps { offset ^ name.wrapping_mul(0x9e37_79b1) } else { offset };
    let own = at as i64 + at as i64 / 1_000_000 * fast;
    offset.wrapping_add((own / MS as i64) as u32)
}

fn effective(pod: &Pod, at: Ns) -> bool {
    pod.policy.iter().any(|(from, to)| *from <= at && at < *to)
}

/// One that leaves from `port` at `sent`, by the address that its policy gives it then.
fn attempt(index: usize, pod: &Pod, sent: Ns, sequence: u32, port: u16) -> Attempt {
    let allowed = effective(pod, sent + 10_000);
    let address = if allowed { egress(1) } else { node(index as u8) };
    Attempt {
        pod: Some(index),
        life: 0,
        sent,
        source: SocketAddr::new(address, 10_000 + 4_000 * index as u16 + port),
        sequence,
        verdict: if allowed { Verdict::Allowed } else { Verdict::Denied },
        arrivals: vec![],
        observed: pod.observed,
        accepted: None,
        repeated: false,
    }
}

impl Sender<'_> {
    fn pod(&mut self, index: usize, pod: &Pod) {
        // When the process has closed what it had on each port, and when the target has accepted it.
        let mut ports = vec![(0, 0); usize::from(pod.ports)];
        for (life, &(from, to)) in pod.lives.iter().enumerate() {
            let mut port = self.random.usize(..ports.len());
            let mut number = 0;
            for tick in (from..to).step_by(pod.interval as usize) {
                let sent = tick + self.random.u64(0..50_000);
                let free = (0..ports.len()).map(|next| (port + next) % ports.len());
                let Some(free) = free.into_iter().find(|port| ports[*port].0 <= sent) else { continue };
                port = (free + 1) % ports.len();
                self.traffic.ports_used_again += u64::from(sent < ports[free].1);
                let sequence = match pod.number {
                    Some(own) => Tag::new(own, number).expect("a number").encode(self.world.key),
                    None => self.random.u32(..),
                };
                let attempt = attempt(index, pod, sent, sequence, free as u16);
                let (closed, accepted) = self.connect(pod, Attempt { life, ..attempt }, ports[free].1);
                number += 1;
                ports[free] = (closed, accepted);
            }
        }
    }

    /// Something else that connects, or only looks whether anybody listens.
    fn foreign(&mut self, port: u16) {
        let random = &mut self.random;
        let allowed = random.bool();
        let host = random.u8(2..);
        let source = SocketAddr::new(if allowed { egress(host) } else { node(host) }, port);
        let attempt = Attempt {
            pod: None,
            life: 0,
            sent: random.u64(0..self.world.span),
            source,
            sequence: random.u32(..),
            verdict: if allowed { Verdict::Allowed } else { Verdict::Denied },
            arrivals: vec![],
            observed: true,
            accepted: None,
            repeated: false,
        };
        let pod = Pod {
            number: None,
            lives: vec![],
            interval: 0,
            timeout: FOREIGN_TIMEOUT,
            ports: 0,
            policy: vec![],
            timestamps: Some((random.u32(..), 0)),
            own_timestamps: false,
            answered: random.bool(),
            observed: true,
        };
        self.connect(&pod, attempt, 0);
    }

    /// The way of a packet to the target that leaves at `at`; `None` if it is lost.
    fn forward(&mut self, at: Ns, verdict: Verdict) -> Option<Ns> {
        let world = self.world;
        if world.outages.iter().any(|(from, to)| *from <= at && at < *to) || self.random.f64() < world.loss {
            return None;
        }
        let mut passed = at + 10_000;
        while let Some((_, to, _)) = world
            .waits
            .iter()
            .find(|(from, to, waiting)| *from <= passed && passed < *to && *waiting == verdict)
        {
            self.traffic.waited += 1;
            passed = *to;
        }
        Some(passed + self.one_way())
    }

    fn back(&mut self, at: Ns) -> Option<Ns> {
        (self.random.f64() >= self.world.loss_back).then(|| at + self.one_way())
    }

    fn one_way(&mut self) -> Ns {
        self.world.delay + if self.world.jitter > 0 { self.random.u64(0..=self.world.jitter) } else { 0 }
    }

    /// Everything that becomes of an attempt: when the client closes it, and when it, or the one before it on its port, is
    /// accepted. Connections of one port are accepted in their order.
    fn connect(&mut self, pod: &Pod, mut attempt: Attempt, mut accepted_before: Ns) -> (Ns, Ns) {
        let of = self.traffic.attempts.len();
        let answered = pod.answered || attempt.verdict == Verdict::Allowed;
        // When SYN-ACKs reach the client.
        let mut answers: Vec<Ns> = vec![];
        let mut closed = attempt.sent + pod.timeout;
        // A process that another one follows takes its sockets along.
        if let Some((_, ended)) = pod.lives.get(attempt.life).filter(|_| attempt.life + 1 < pod.lives.len()) {
            closed = closed.min(*ended);
        }
        for wait in AGAIN {
            let at = attempt.sent + wait;
            if at >= closed || answers.iter().any(|answer| *answer <= at) {
                break;
            }
            let timestamp = timestamp(pod, &attempt, at);
            let copies = 1 + u32::from(self.random.f64() < self.world.doubled);
            for _ in 0..copies {
                let Some(arrived) = self.forward(at, attempt.verdict) else { continue };
                if attempt.observed {
                    self.traffic.events.push(Event { at: arrived, of, what: What::Syn { timestamp } });
                }
                let first = attempt.arrivals.is_empty();
                attempt.arrivals.push(arrived);
                attempt.repeated |= !first;
                if arrived < self.world.listening {
                    // Refused.
                    closed = closed.min(arrived + self.world.delay);
                } else if answered {
                    let again = if first { &AGAIN[..] } else { &AGAIN[..1] };
                    answers.extend(again.iter().filter_map(|wait| self.back(arrived + wait)));
                }
            }
        }
        attempt.arrivals.sort_unstable();
        answers.sort_unstable();
        if let Some(established) = self.established(pod, &attempt, &answers, closed) {
            let accepted = self.world.accept(established, attempt.source.port()).max(accepted_before + 1);
            accepted_before = accepted;
            self.traffic.events.push(Event { at: accepted, of, what: What::Accept });
            attempt.accepted = Some(accepted);
            closed = closed.min(accepted + self.world.delay);
        }
        self.traffic.attempts.push(attempt);
        (closed, accepted_before)
    }

    /// When the target takes the connection for established, if it does.
    fn established(&mut self, pod: &Pod, attempt: &Attempt, answers: &[Ns], closed: Ns) -> Option<Ns> {
        let of = self.traffic.attempts.len();
        let reset = closed + self.world.delay;
        for answer in answers.iter().filter(|answer| **answer < closed) {
            let timestamp = timestamp(pod, attempt, *answer);
            let Some(arrived) = self.forward(*answer, attempt.verdict) else { continue };
            self.traffic.events.push(Event { at: arrived, of, what: What::Ack { timestamp } });
            return (arrived < reset).then_some(arrived);
        }
        None
    }
}
