//! Held connections in a random world: what the client says of a stall, against the outages that made it.

use std::time::Duration;

use egw_probe::document::held::{HeldStall, StallEnd};
use egw_probe::workbench::client::{Act, HeldFact, Holding, Seen};
use egw_probe::workbench::sys::Monotonic;

use super::claims::Met;
use super::world::{MS, Ns, SECOND};

/// How long a history is.
const LENGTH: Ns = 120 * SECOND;
/// The least time after which the kernel sends again (`TCP_RTO_MIN`).
const RTO: Ns = 200 * MS;

/// What lies between the ends of a connection.
#[derive(Debug)]
struct Path {
    down: Vec<(Ns, Ns)>,
    loss: f64,
    delay: Ns,
    jitter: Ns,
    tick: Ns,
}

/// A byte on its way.
struct Byte {
    sent: Ns,
    /// When it was sent first and again.
    transmissions: Vec<Ns>,
    acknowledged: Ns,
    /// The outages that a transmission or its acknowledgement died in, from the first to the last.
    killed_in: Option<(Ns, Ns)>,
}

impl Path {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let mut down = Vec::new();
        let mut at = random.u64(SECOND..20 * SECOND);
        for _ in 0..random.usize(0..3) {
            let longest = *random.choice(&[2, 8, 60]).expect("there are some") * SECOND;
            let length = random.u64(MS..longest);
            down.push((at, at + length));
            at += length + random.u64(4 * SECOND..20 * SECOND);
        }
        Self {
            down,
            loss: *random.choice(&[0.0, 0.0, 0.01, 0.05, 0.2]).expect("there are some"),
            delay: *random.choice(&[50_000, MS, 20 * MS, 40 * MS]).expect("there are some"),
            jitter: random.u64(0..=15 * MS),
            tick: *random.choice(&[10, 20, 50, 200]).expect("there are some") * MS,
        }
    }

    /// When what leaves at `at` arrives, or in which outage it dies; `None` is by chance.
    fn carry(&self, at: Ns, random: &mut fastrand::Rng) -> Result<Ns, Option<(Ns, Ns)>> {
        if let Some(outage) = self.down.iter().find(|(from, to)| *from <= at && at < *to) {
            return Err(Some(*outage));
        }
        if random.f64() < self.loss {
            return Err(None);
        }
        Ok(at + self.delay + random.u64(0..=self.jitter))
    }

    fn send(&self, sent: Ns, random: &mut fastrand::Rng) -> Byte {
        let mut byte = Byte { sent, transmissions: vec![], acknowledged: Ns::MAX, killed_in: None };
        let mut at = sent;
        let mut wait = RTO + 2 * (self.delay + self.jitter);
        while at < byte.acknowledged && at < 2 * LENGTH {
            byte.transmissions.push(at);
            match self.carry(at, random).and_then(|arrived| self.carry(arrived, random)) {
                Ok(acknowledged) => byte.acknowledged = byte.acknowledged.min(acknowledged),
                Err(Some((from, to))) => {
                    let (first, last) = byte.killed_in.unwrap_or((from, to));
                    byte.killed_in = Some((first.min(from), last.max(to)));
                }
                Err(None) => {}
            }
            at += wait;
            wait *= 2;
        }
        byte
    }
}

impl Byte {
    fn sent_again(&self, by: Ns) -> u32 {
        self.transmissions.iter().skip(1).filter(|at| **at <= by && **at < self.acknowledged).count() as u32
    }
}

/// The first claim about held connections that does not hold in the world of this seed.
pub(super) fn violated(seed: u64, met: &mut Met) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let path = Path::draw(&mut random);
    let instant = |ns: Ns| Monotonic::from_ns(SECOND + ns);
    let mut holding = Holding::new(1, instant(0));
    let (mut byte, mut earlier): (Option<Byte>, u32) = (None, 0);
    let mut bytes: Vec<(Ns, Option<(Ns, Ns)>)> = vec![];
    let mut now = 0;
    while now < LENGTH {
        now += path.tick + random.u64(0..path.tick / 4);
        match holding.on_tick(0, instant(now), instant(now)) {
            Act::Open => {
                holding.opening(0, true, instant(now));
                let is_kept = holding.on_reply(0, b"pong\n", instant(now));
                assert!(is_kept, "pong");
            }
            Act::Look => {
                let outstanding = byte.as_ref().is_some_and(|byte| byte.acknowledged > now);
                let again = byte.as_ref().map_or(0, |byte| byte.sent_again(now));
                let look = Seen { outstanding, retransmissions: earlier + again };
                if holding.on_look(0, look, instant(now)) {
                    earlier += again;
                    let sent = now + 5_000;
                    let next = path.send(sent, &mut random);
                    bytes.push((next.sent, next.killed_in));
                    holding.sent(0, instant(sent), earlier);
                    byte = Some(next);
                }
            }
            Act::Wait | Act::GiveUp => {}
        }
    }
    let _report = holding.finish(instant(now));
    let stalls = holding.take_facts().into_iter().filter_map(|fact| match fact {
        HeldFact::Stalled(stall) => Some(stall),
        _ => None,
    });
    stalls.into_iter().find_map(|stall| wrong(&stall, &bytes, met)).map(|text| format!("{text}, on {path:?}"))
}

fn wrong(stall: &HeldStall, bytes: &[(Ns, Option<(Ns, Ns)>)], met: &mut Met) -> Option<String> {
    *met.entry("stall of a held connection").or_default() += 1;
    let sent = Duration::from_secs_f64(stall.at_seconds).as_nanos() as Ns;
    let index = bytes.partition_point(|(at, _)| *at + 1 < sent);
    let (_, killed_in) = bytes[index];
    let truth = killed_in.map_or(0.0, |(from, to)| (to - from) as f64 / 1e9);
    let bounds = &stall.outage_seconds;
    *met.entry("its outage with a lower end").or_default() += u64::from(bounds.lower > 0.0);
    let recovered = stall.ended == StallEnd::Recovered;
    (bounds.lower > truth + 1e-8 || (recovered && bounds.upper.is_some_and(|upper| upper + 1e-8 < truth)))
        .then(|| format!("an outage of {truth} s is said to have lasted {bounds:?}"))
}
