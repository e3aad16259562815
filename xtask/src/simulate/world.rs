//! A random world: what lies between a client and its target, and what goes wrong there and when. Pure data and questions.

use std::collections::HashMap;

/// Nanoseconds from the client's start.
pub(super) type Ns = u64;

pub(super) const MS: Ns = 1_000_000;
pub(super) const SECOND: Ns = 1_000 * MS;
const FOREVER: Ns = Ns::MAX / 4;
/// How long NAT keeps an entry whose SYN was never answered.
const ENTRY: Ns = 120 * SECOND;

/// Where packets of the client die in a time of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the node's NAT.
    Inside,
    /// Behind it.
    Outside,
    /// On the way back.
    Back,
    /// SYNs wait for a neighbour's address meanwhile; few get lost.
    Neighbour,
    /// A router says that there is no way on.
    Unroutable,
    /// The target's process is gone: its kernel refuses and resets.
    Target,
    /// One of so many gateways behind the node's NAT is dead; a source port always goes by the same.
    Gateway(u16),
}

/// A time of trouble.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Ns,
    pub(super) to: Ns,
    pub(super) place: Place,
}

impl Window {
    pub(super) const fn holds(&self, at: Ns) -> bool {
        self.from <= at && at < self.to
    }
}

/// What terminates TCP in between, and makes a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    /// On another host: neither segment size nor timestamps are the client's.
    Remote,
    /// On the client's own host: the timestamps are alike.
    Sidecar,
}

/// Everything that is drawn.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) interval: Ns,
    pub(super) phase: Ns,
    pub(super) probe_timeout: Ns,
    pub(super) test_timeout: Ns,
    pub(super) watch: Option<Ns>,
    /// When the client is ready for its first probe.
    pub(super) ready: Ns,
    /// One-way delay, and the most that jitter adds.
    pub(super) delay: Ns,
    pub(super) jitter: Ns,
    pub(super) loss_inside: f64,
    pub(super) loss_outside: f64,
    pub(super) loss_back: f64,
    /// When the policy is effective.
    pub(super) policy: Vec<(Ns, Ns)>,
    pub(super) windows: Vec<Window>,
    pub(super) proxy: Option<Proxy>,
    /// The proxy closes by RST when it gives up.
    pub(super) proxy_resets: bool,
    pub(super) annotates: bool,
    /// How long the target takes to accept.
    pub(super) accept: Ns,
    /// Times in which the client does not run.
    pub(super) stalls: Vec<(Ns, Ns)>,
    /// Local ports.
    pub(super) ports: u16,
    /// Something else answers with words of its own.
    pub(super) garbles: bool,
    pub(super) most_in_flight: usize,
    /// When two signals end it.
    pub(super) interrupted: Option<Ns>,
}

impl World {
    /// A random one. Each feature is absent more often than not, so that their combinations stay readable.
    pub(super) fn draw(random: &mut fastrand::Rng) -> Self {
        let world = Self::draw_any(random);
        if random.f64() < 0.02 { world.with_a_dead_gateway(random) } else { world }
    }

    /// The same, and one of several gateways is dead for a while: long enough that it shows, with no other trouble beside it.
    fn with_a_dead_gateway(self, random: &mut fastrand::Rng) -> Self {
        let interval = *random.choice(&[2, 5, 10]).expect("there are some") * MS;
        let ticks = random.u64(500..2_500);
        let from = self.switch().unwrap_or(0) + random.u64(0..=ticks / 2) * interval;
        let to = from + random.u64(50..=ticks) * interval;
        Self {
            interval,
            phase: random.u64(0..interval),
            test_timeout: self.test_timeout + SECOND,
            watch: Some(ticks * interval),
            windows: vec![Window { from, to, place: Place::Gateway(random.u16(2..=4)) }],
            proxy: None,
            ports: 20_000,
            ..self
        }
    }

    fn draw_any(random: &mut fastrand::Rng) -> Self {
        let interval = *random.choice(&[1, 5, 10, 50, 50, 100, 250]).expect("there are some") * MS;
        let some = |random: &mut fastrand::Rng, share: f64| random.f64() < share;
        let watch = some(random, 0.6).then(|| random.u64(1..60) * interval.max(20 * MS));
        let switch = if some(random, 0.1) { 0 } else { random.u64(0..40 * interval) };
        let never = watch.is_none() && some(random, 0.05);
        let mut policy = if never { vec![] } else { vec![(switch, FOREVER)] };
        let span = switch + watch.unwrap_or(0) + 5 * interval;
        let mut windows = Vec::new();
        let places =
            [Place::Inside, Place::Outside, Place::Back, Place::Neighbour, Place::Unroutable, Place::Target];
        for _ in 0..[0, 0, 0, 1, 1, 2][random.usize(..6)] {
            let from = random.u64(0..span);
            let to = from + random.u64(1..=30 * interval);
            windows.push(Window { from, to, place: *random.choice(&places).expect("there are some") });
        }
        if watch.is_some() && some(random, 0.15) {
            let off = switch + random.u64(1..=span);
            policy = vec![(switch, off), (off + random.u64(1..=20 * interval), FOREVER)];
        }
        let rates = [0.0, 0.0, 0.0, 0.0, 0.01, 0.05, 0.2];
        let mut rate = || *random.choice(&rates).expect("there are some");
        let (loss_inside, loss_outside, loss_back) = (rate(), rate(), rate());
        let stall = |random: &mut fastrand::Rng| {
            let from = random.u64(0..span);
            (from, from + random.u64(1..=20 * interval))
        };
        Self {
            interval,
            phase: random.u64(0..interval),
            probe_timeout: *random.choice(&[60, 200, 900]).expect("there are some") * MS,
            test_timeout: 60 * interval + SECOND,
            watch,
            ready: random.u64(0..=3 * MS),
            delay: *random.choice(&[50_000, MS, 20 * MS, 80 * MS]).expect("there are some"),
            jitter: if some(random, 0.3) { random.u64(1..=60 * MS) } else { 20_000 },
            loss_inside,
            loss_outside,
            loss_back,
            policy,
            windows,
            proxy: some(random, 0.25).then(|| if random.bool() { Proxy::Remote } else { Proxy::Sidecar }),
            proxy_resets: random.bool(),
            annotates: some(random, 0.7),
            accept: if some(random, 0.2) { random.u64(0..=300 * MS) } else { 20_000 },
            stalls: (0..[0, 0, 0, 1, 3][random.usize(..5)]).map(|_| stall(random)).collect(),
            ports: if some(random, 0.3) { random.u16(4..40) } else { 20_000 },
            garbles: some(random, 0.02),
            interrupted: some(random, 0.03).then(|| random.u64(0..span)),
            most_in_flight: if some(random, 0.05) { random.usize(1..8) } else { 10_000 },
        }
    }

    /// When the policy became effective for good or for the first time.
    pub(super) fn switch(&self) -> Option<Ns> {
        self.policy.first().map(|(from, _)| *from)
    }

    pub(super) fn is_effective(&self, at: Ns) -> bool {
        self.policy.iter().any(|(from, to)| *from <= at && at < *to)
    }

    /// The longest that an answer takes where nothing is lost.
    pub(super) const fn slowest_answer(&self) -> Ns {
        4 * (self.delay + self.jitter) + self.accept + MS
    }

    /// The window that kills what passes `place` at `at`, by its number.
    pub(super) fn trouble(&self, place: Place, at: Ns) -> Option<usize> {
        self.windows.iter().position(|window| window.place == place && window.holds(at))
    }

    /// Ports are used again within the time that NAT remembers them.
    pub(super) const fn has_few_ports(&self) -> bool {
        self.ports < 20_000
    }

    /// From when to when it was broken that this window broke: others may have begun before it was over.
    pub(super) fn trouble_around(&self, number: usize) -> (Ns, Ns) {
        let Window { mut from, mut to, place } = self.windows[number];
        if matches!(place, Place::Gateway(_)) {
            return (from, to);
        }
        // A chain of any length.
        for _ in &self.windows {
            for (begin, end) in self.full_troubles() {
                if begin <= to && from <= end {
                    (from, to) = (from.min(begin), to.max(end));
                }
            }
        }
        (from, to)
    }

    /// From when to when nothing got through, whichever way it went.
    pub(super) fn full_troubles(&self) -> impl Iterator<Item = (Ns, Ns)> {
        let full = self.windows.iter().filter(|window| !matches!(window.place, Place::Gateway(_)));
        full.map(|window| (window.from, window.to))
    }

    /// The window of a dead gateway by which what comes from `port` at `at` goes, by its number.
    pub(super) fn dead_gateway(&self, port: u16, at: Ns) -> Option<usize> {
        // As good as a kernel's: neighbouring ports go anywhere.
        let mut hash = u32::from(port).wrapping_mul(0x9e37_79b1);
        hash = (hash ^ hash >> 15).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
        let goes_by_it =
            |place| matches!(place, Place::Gateway(gateways) if hash.is_multiple_of(u32::from(gateways)));
        self.windows.iter().position(|window| window.holds(at) && goes_by_it(window.place))
    }

    /// Simpler worlds, one step each: what a violation does not need is taken away.
    pub(super) fn simpler(&self) -> Vec<(&'static str, Self)> {
        let without = |change: &dyn Fn(&mut Self)| {
            let mut simpler = self.clone();
            change(&mut simpler);
            simpler
        };
        let mut all = vec![
            ("no loss inside", without(&|world| world.loss_inside = 0.0)),
            ("no loss outside", without(&|world| world.loss_outside = 0.0)),
            ("no loss back", without(&|world| world.loss_back = 0.0)),
            ("no jitter", without(&|world| world.jitter = 0)),
            ("no proxy", without(&|world| world.proxy = None)),
            ("no stalls", without(&|world| world.stalls.clear())),
            ("many ports", without(&|world| world.ports = 20_000)),
            ("a quick accept", without(&|world| world.accept = 0)),
            ("a plain target", without(&|world| world.annotates = false)),
            ("no watch", without(&|world| world.watch = None)),
            ("no flap", without(&|world| world.policy.truncate(1))),
        ];
        for index in 0..self.windows.len() {
            all.push((
                "a window less",
                without(&|world| {
                    let _window = world.windows.remove(index);
                }),
            ));
        }
        all
    }
}

/// The node's NAT: what it made of each source port.
#[derive(Debug, Default)]
pub(super) struct Nat(HashMap<u16, (bool, Ns)>);

impl Nat {
    /// Whether a SYN from `port` at `at` leaves from the egress IP: by its entry, if there is one.
    pub(super) fn translate(&mut self, port: u16, effective: bool, at: Ns) -> bool {
        let entry = self.0.entry(port).or_insert((effective, 0));
        if entry.1 <= at {
            *entry = (effective, at + ENTRY);
        }
        entry.0
    }

    /// The handshake is complete: such an entry lives for days.
    pub(super) fn establish(&mut self, port: u16) {
        if let Some(entry) = self.0.get_mut(&port) {
            entry.1 = FOREVER;
        }
    }

    /// An RST has passed.
    pub(super) fn forget(&mut self, port: u16) {
        self.0.remove(&port);
    }
}
