//! The way of one probe through a world: what its socket will say and when, and what truly became of it.

use std::net::{IpAddr, Ipv4Addr};

use egw_probe::document::outcome::Outcome;
use egw_probe::workbench::client::{ProbeEnd, ProbeEvent};

use super::world::{MS, Nat, Ns, Place, Proxy, SECOND, World};

/// Retransmissions of data by either kernel, after the first transmission.
const AGAIN: [Ns; 4] = [0, 200 * MS, 600 * MS, 1_400 * MS];
const EGRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// There was one.
    Answered,
    /// By chance.
    Chance,
    /// In this window.
    Window(usize),
    /// Its policy was off, or not yet on.
    Policy,
}

/// What truly became of a probe.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// What the socket says, in order.
    pub(super) events: Vec<(Ns, ProbeEvent)>,
    /// The target saw the egress IP, or another address; `None` if it saw nothing.
    pub(super) seen_allowed: Option<bool>,
    /// When the SYN that the target saw passed the policy.
    pub(super) passed: Option<Ns>,
    pub(super) fate: Fate,
    /// NAT took it for an older connection.
    pub(super) inherited: bool,
    /// The entry that is left in the NAT when it is closed without an RST that gets through.
    pub(super) port: u16,
    pub(super) established: bool,
}

impl Way {
    /// Of a probe that has not left, or not yet arrived anywhere.
    pub(super) fn none() -> Self {
        Self {
            events: vec![],
            seen_allowed: None,
            passed: None,
            fate: Fate::Answered,
            inherited: false,
            port: 0,
            established: false,
        }
    }
}

/// One leg: from the client to the target, once.
struct Leg {
    passed: Ns,
    arrived: Ns,
    allowed: bool,
}

pub(super) struct Walker<'world> {
    pub(super) world: &'world World,
    pub(super) nat: Nat,
    pub(super) random: fastrand::Rng,
}

impl Walker<'_> {
    fn one_way(&mut self) -> Ns {
        self.world.delay + if self.world.jitter > 0 { self.random.u64(0..=self.world.jitter) } else { 0 }
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.random.f64() < rate
    }

    /// A SYN that leaves at `at`.
    fn forward(&mut self, port: u16, at: Ns) -> Result<(Leg, bool), Fate> {
        let mut at = at;
        if let Some(number) = self.world.trouble(Place::Neighbour, at) {
            // The queue is short: some are dropped from it.
            let until = self.world.windows[number].to;
            if until - at > 3 * SECOND || self.random.f64() < 0.2 {
                return Err(Fate::Window(number));
            }
            at = until;
        }
        if let Some(number) = self.world.trouble(Place::Inside, at) {
            return Err(Fate::Window(number));
        }
        if self.chance(self.world.loss_inside) {
            return Err(Fate::Chance);
        }
        let passed = at + 10_000;
        let effective = self.world.is_effective(passed);
        let allowed = self.nat.translate(port, effective, passed);
        let dead = self.world.trouble(Place::Outside, passed);
        if let Some(number) = dead.or_else(|| self.world.dead_gateway(port, passed)) {
            return Err(Fate::Window(number));
        }
        if self.chance(self.world.loss_outside) {
            return Err(Fate::Chance);
        }
        let arrived = passed + self.one_way();
        Ok((Leg { passed, arrived, allowed }, allowed != effective))
    }

    /// A packet back that leaves the target at `at`.
    fn back(&mut self, at: Ns) -> Result<Ns, Fate> {
        if let Some(number) = self.world.trouble(Place::Back, at) {
            return Err(Fate::Window(number));
        }
        if self.chance(self.world.loss_back) {
            return Err(Fate::Chance);
        }
        Ok(at + self.one_way())
    }

    /// Data or a FIN back, sent again until it gets through, and what has delayed it: too late for its probe, perhaps.
    fn back_again(&mut self, at: Ns) -> Result<(Ns, Fate), Fate> {
        let mut fate = Fate::Answered;
        for wait in AGAIN {
            match self.back(at + wait) {
                Ok(arrived) => return Ok((arrived, fate)),
                Err(killed) => fate = killed,
            }
        }
        Err(fate)
    }

    /// The way of a probe that leaves from `port` at `at`.
    pub(super) fn walk(&mut self, port: u16, at: Ns) -> Way {
        match self.world.proxy {
            None => self.direct(port, at),
            Some(proxy) => self.through(proxy, at),
        }
    }

    fn direct(&mut self, port: u16, at: Ns) -> Way {
        let mut way = Way { port, ..Way::none() };
        if let Some(number) = self.world.trouble(Place::Unroutable, at) {
            way.events.push((at + self.world.delay, ended(Outcome::Unreachable)));
            way.fate = Fate::Window(number);
            return way;
        }
        if let Err(fate) = self.try_direct(&mut way, at) {
            way.fate = fate;
        }
        way
    }

    fn try_direct(&mut self, way: &mut Way, at: Ns) -> Result<(), Fate> {
        let (leg, inherited) = self.forward(way.port, at)?;
        way.inherited = inherited;
        way.passed = Some(leg.passed);
        if let Some(number) = self.world.trouble(Place::Target, leg.arrived) {
            let refused = self.back(leg.arrived)?;
            // The RST closes the NAT's entry on its way.
            self.nat.forget(way.port);
            way.events.push((refused, ended(Outcome::Refused)));
            way.fate = Fate::Window(number);
            return Ok(());
        }
        let established = self.back(leg.arrived)?;
        way.events.push((established, ProbeEvent::Established));
        way.established = true;
        self.nat.establish(way.port);
        // The acknowledgement completes the handshake at the target.
        let (acknowledged, _) = self.forward(way.port, established)?;
        let accepted = acknowledged.arrived + self.random.u64(0..=self.world.accept);
        if let Some(number) = self.world.trouble(Place::Target, accepted) {
            // Queued, and reset by the kernel of a target that dies.
            let reset = self.back(accepted)?;
            self.nat.forget(way.port);
            way.events.push((reset, ended(Outcome::Reset)));
            way.fate = Fate::Window(number);
            return Ok(());
        }
        way.seen_allowed = Some(leg.allowed);
        let (replied, delayed) = self.back_again(accepted)?;
        if let Fate::Window(_) = delayed {
            way.fate = delayed;
        }
        let direct = (self.random.f64() < 0.9).then_some(true);
        way.events.push((replied, self.reply(leg.allowed, direct)));
        if !leg.allowed {
            way.fate = Fate::Policy;
        }
        Ok(())
    }

    fn reply(&self, allowed: bool, end_to_end: Option<bool>) -> ProbeEvent {
        if self.world.garbles {
            return ended(Outcome::Garbled);
        }
        let outcome = if allowed { Outcome::Pong } else { Outcome::Leaked };
        let source = self.world.annotates.then_some(if allowed { EGRESS } else { NODE });
        let end_to_end = end_to_end.filter(|_| self.world.annotates);
        ProbeEvent::Ended(ProbeEnd { outcome, source, end_to_end })
    }

    /// The proxy answers at once, and then tries for a while to reach the target.
    fn through(&mut self, proxy: Proxy, at: Ns) -> Way {
        let mut way = Way { established: true, ..Way::none() };
        let established = at + 60_000;
        way.events.push((established, ProbeEvent::Established));
        let end_to_end = match proxy {
            Proxy::Remote => Some(false),
            Proxy::Sidecar => None,
        };
        let mut last = Fate::Chance;
        for attempt in 0..3 {
            // A port of its own for each attempt, which no NAT has seen.
            let port = self.random.u16(40_000..);
            self.nat.forget(port);
            let dialled = established + attempt * 250 * MS;
            match self.upstream(port, dialled) {
                Ok((passed, allowed, (replied, delayed))) => {
                    way.passed = Some(passed);
                    way.seen_allowed = Some(allowed);
                    way.fate = match (allowed, last, delayed) {
                        (false, ..) => Fate::Policy,
                        (true, Fate::Window(number), _) | (true, _, Fate::Window(number)) => {
                            Fate::Window(number)
                        }
                        (true, ..) => Fate::Answered,
                    };
                    way.events.push((replied, self.reply(allowed, end_to_end)));
                    return way;
                }
                Err(fate) => last = fate,
            }
        }
        way.fate = last;
        let outcome = if self.world.proxy_resets { Outcome::Reset } else { Outcome::Leaked };
        way.events.push((established + 750 * MS, ended(outcome)));
        way
    }

    fn upstream(&mut self, port: u16, at: Ns) -> Result<(Ns, bool, (Ns, Fate)), Fate> {
        if let Some(number) = self.world.trouble(Place::Unroutable, at) {
            return Err(Fate::Window(number));
        }
        let (leg, _) = self.forward(port, at)?;
        if let Some(number) = self.world.trouble(Place::Target, leg.arrived) {
            return Err(Fate::Window(number));
        }
        let established = self.back(leg.arrived)?;
        let replied = self.back_again(established + self.world.delay)?;
        Ok((leg.passed, leg.allowed, replied))
    }

    /// The client closes a probe at `at`: by RST, once there was a handshake.
    pub(super) fn close(&mut self, way: &Way, at: Ns) {
        if way.established && self.world.proxy.is_none() {
            let killed = self.world.trouble(Place::Inside, at).is_some()
                || self.world.trouble(Place::Neighbour, at).is_some();
            // Two losses in a row, that of an answered probe's RST and a port used again at once, are no claim of ours.
            let answered = way.fate == Fate::Answered || way.fate == Fate::Policy;
            if answered || !(killed || self.chance(self.world.loss_inside)) {
                self.nat.forget(way.port);
            }
        }
    }
}

fn ended(outcome: Outcome) -> ProbeEvent {
    ProbeEvent::Ended(ProbeEnd { outcome, source: None, end_to_end: None })
}
