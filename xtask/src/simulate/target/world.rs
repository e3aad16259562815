//! A random world around a target: who sends SYNs to it, what the way there does to them, and when the target does not look.
//! Pure data and questions.

use egw_probe::document::verdict::Verdict;
use egw_probe_common::tag::TagKey;

use super::super::world::{MS, Ns, SECOND};

const FOREVER: Ns = Ns::MAX / 4;

/// A Pod that sends SYNs.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    /// Its `--tag`; several may have the same by mistake.
    pub(super) number: Option<u16>,
    /// Its processes, one after the other or, by mistake, at once.
    pub(super) lives: Vec<(Ns, Ns)>,
    pub(super) interval: Ns,
    /// How long an attempt may take. Above a second a SYN may be sent again.
    pub(super) timeout: Ns,
    pub(super) ports: u16,
    /// When its policy is effective.
    pub(super) policy: Vec<(Ns, Ns)>,
    /// Its clock of timestamps: where it began, and how much it runs fast, in millionths. Some have none.
    pub(super) timestamps: Option<(u32, i64)>,
    /// Each connection's timestamps begin elsewhere.
    pub(super) own_timestamps: bool,
    /// What answers a leaked SYN finds the way back.
    pub(super) answered: bool,
    /// Its SYNs come by an interface that is observed.
    pub(super) observed: bool,
}

/// Why nothing is accepted for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The process does not run.
    Processor,
    /// It has no descriptors left.
    Descriptors,
}

/// Everything that is drawn.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) key: TagKey,
    pub(super) pods: Vec<Pod>,
    /// SYNs of others, in all.
    pub(super) foreign: u32,
    /// How long SYNs are sent.
    pub(super) span: Ns,
    pub(super) delay: Ns,
    pub(super) jitter: Ns,
    pub(super) loss: f64,
    pub(super) loss_back: f64,
    pub(super) doubled: f64,
    /// Packets of that verdict wait for a neighbour's address meanwhile, after they have passed the policy.
    pub(super) waits: Vec<(Ns, Ns, Verdict)>,
    pub(super) outages: Vec<(Ns, Ns)>,
    /// `--ebpf`.
    pub(super) kernel: bool,
    /// The sequence number of an accepted connection's SYN is known.
    pub(super) keeps_syns: bool,
    /// `--expect-clients`.
    pub(super) expected: Option<u16>,
    /// Events that find room in the ring, and that are read at a time.
    pub(super) ring: usize,
    pub(super) batch: usize,
    pub(super) lacks: Vec<(Ns, Ns, Lack)>,
    /// How long a connection waits for its turn at each of the accept loops, besides.
    pub(super) slow_accept: [Ns; 2],
    /// When the target begins to listen.
    pub(super) listening: Ns,
}

fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    *random.choice(choices).expect("there are some")
}

fn some(random: &mut fastrand::Rng, share: f64) -> bool {
    random.f64() < share
}

fn windows(random: &mut fastrand::Rng, share: f64, span: Ns, longest: Ns) -> Vec<(Ns, Ns)> {
    let count = if some(random, share) { random.usize(1..3) } else { 0 };
    let window = |random: &mut fastrand::Rng| {
        let from = random.u64(0..span);
        (from, from + random.u64(1..=longest))
    };
    (0..count).map(|_| window(random)).collect()
}

/// Times in which packets wait for a neighbour's address. With `at_switch` the way that the Pod's policy switches to begins so.
fn waits(
    random: &mut fastrand::Rng,
    span: Ns,
    longest: Ns,
    pod: &Pod,
    at_switch: f64,
) -> Vec<(Ns, Ns, Verdict)> {
    let mut waits: Vec<_> = windows(random, 0.25, span, longest)
        .into_iter()
        .map(|(from, to)| (from, to, pick(random, &[Verdict::Allowed, Verdict::Denied])))
        .collect();
    if let Some((switch, _)) = pod.policy.first().filter(|_| some(random, at_switch)) {
        waits.push((*switch, switch + random.u64(10 * MS..900 * MS), Verdict::Allowed));
    }
    waits
}

impl Pod {
    fn draw(random: &mut fastrand::Rng, index: usize, span: Ns, interval: Ns) -> Self {
        let tagged = some(random, 0.8);
        // Now and then two by mistake have the same.
        let number = random.u16(1..=40) * 8 + if some(random, 0.9) { index as u16 } else { 0 };
        let mut lives = vec![(random.u64(0..span / 2), span)];
        if some(random, 0.25) {
            let ends = random.u64(lives[0].0..=span);
            lives[0].1 = ends;
            // Begun anew, and rarely before the other had sent its last ones.
            let pause = random.u64(0..=span / 4);
            let both = lives[0].0.max(ends.saturating_sub(pause + 2 * interval));
            let begins = if some(random, 0.85) { ends + pause } else { both };
            lives.push((begins, begins + random.u64(1..=span)));
        }
        let switch = if some(random, 0.1) { 0 } else { random.u64(0..span) };
        let mut policy = if some(random, 0.05) { vec![] } else { vec![(switch, FOREVER)] };
        if some(random, 0.15) {
            let off = switch + random.u64(1..=span);
            policy = vec![(switch, off), (off + random.u64(1..=span / 2), FOREVER)];
        }
        Self {
            number: tagged.then_some(number),
            lives,
            interval,
            timeout: pick(random, &[60 * MS, 200 * MS, 900 * MS, 900 * MS, 900 * MS, 5 * SECOND]),
            ports: if some(random, 0.3) { random.u16(2..80) } else { 4_000 },
            policy,
            timestamps: some(random, 0.95).then(|| (random.u32(..), random.i64(-500..=500))),
            own_timestamps: random.bool(),
            answered: some(random, 0.8),
            observed: some(random, 0.97),
        }
    }
}

impl World {
    /// A random one. Each feature is absent more often than not, so that their combinations stay readable.
    pub(super) fn draw(random: &mut fastrand::Rng) -> Self {
        // Rarely one Pod sends so many SYNs that its counter wraps, or that its slots are used again by jumbled ones.
        let long = some(random, 0.006);
        let jumbled = long || some(random, 0.03);
        let (interval, ticks, pods) = match (long, jumbled) {
            (true, _) => (MS, random.u64(4_000..9_000), 1),
            (false, true) => (5 * MS, random.u64(150..350), 1),
            (false, false) => {
                let interval = pick(random, &[1, 1, 5, 10, 50, 100, 250]) * MS;
                (interval, random.u64(15..110), random.usize(1..5))
            }
        };
        let span = ticks * interval;
        let rates = [0.0, 0.0, 0.0, 0.01, 0.05, 0.2];
        let jitters = [0, 20_000, 3 * MS, 60 * MS, 60 * MS, 900 * MS];
        let kernel = some(random, 0.8);
        let mut lacks: Vec<(Ns, Ns, Lack)> = windows(random, 0.2, span, 15 * SECOND)
            .into_iter()
            .map(|(from, to)| (from, to, pick(random, &[Lack::Processor, Lack::Descriptors])))
            .collect();
        lacks.extend(
            windows(random, 0.2, span, 100 * MS).iter().map(|&(from, to)| (from, to, Lack::Processor)),
        );
        let mut pods: Vec<Pod> = (0..pods).map(|index| Pod::draw(random, index, span, interval)).collect();
        if jumbled {
            pods[0] = Pod { timeout: 900 * MS, answered: true, ..pods[0].clone() };
        }
        if long && random.bool() {
            // Begun anew while the counter is about half around, and before all of the first process has come.
            let begins = random.u64(1_000..3_500) * MS;
            pods[0].lives = vec![(0, begins), (begins + random.u64(0..500 * MS), span)];
        }
        let longest_turn = pick(random, &[30_000, 30_000, 5 * MS, 300 * MS]);
        let longest_wait = pick(random, &[20 * MS, 900 * MS, 900 * MS, 3 * SECOND]);
        Self {
            key: TagKey::derive(random.u64(0..3)),
            foreign: if some(random, 0.3) { random.u32(1..250) } else { 0 },
            span,
            delay: pick(random, &[50_000, MS, 20 * MS, 80 * MS]),
            jitter: pick(random, &jitters[if jumbled { 5 } else { 0 }..]),
            loss: pick(random, &rates),
            loss_back: pick(random, &rates),
            doubled: pick(random, &[0.0, 0.0, 0.02, 0.2, 0.2][if jumbled { 2 } else { 0 }..]),
            waits: waits(random, span, longest_wait, &pods[0], if jumbled { 0.8 } else { 0.15 }),
            outages: windows(random, 0.2, span, span / 5),
            kernel,
            keeps_syns: !kernel || some(random, 0.6),
            expected: some(random, 0.2).then(|| random.u16(100..=400)),
            ring: if some(random, 0.15) { random.usize(2..60) } else { 100_000 },
            batch: if some(random, 0.3) { random.usize(1..20) } else { 8_192 },
            lacks,
            slow_accept: [0; 2].map(|_| random.u64(0..=longest_turn)),
            listening: if some(random, 0.1) { random.u64(0..span / 4) } else { 0 },
            pods,
        }
    }

    /// When the process next runs, or next has descriptors too.
    pub(super) fn awake(&self, wanted: Ns, accepts: bool) -> Ns {
        let mut at = wanted;
        while let Some((_, to, _)) = self
            .lacks
            .iter()
            .find(|(from, to, lack)| (accepts || *lack == Lack::Processor) && *from <= at && at < *to)
        {
            at = *to;
        }
        at
    }

    /// When a connection from `port` that stands from `established` on is accepted. Each loop keeps their order.
    pub(super) fn accept(&self, established: Ns, port: u16) -> Ns {
        let turn = established + self.slow_accept[usize::from(port % 2)];
        let awake = self.awake(turn, true);
        // What waited meanwhile is caught up with quickly.
        let behind = self.lacks.iter().filter(|(from, ..)| awake > turn && *from <= turn);
        awake + behind.map(|(from, ..)| (turn - from) / 1_000).max().unwrap_or(0)
    }

    /// The latest instant up to `now` at which an accept was tried and could not be made for want of descriptors.
    pub(super) fn accept_delayed(&self, now: Ns) -> Option<Ns> {
        /// The pause between two such tries.
        const PAUSE: Ns = 10 * MS;
        let tried = self.lacks.iter().filter(|(from, _, lack)| *lack == Lack::Descriptors && *from <= now);
        let last = tried.map(|(from, to, _)| from + (now.min(*to - 1) - from) / PAUSE * PAUSE);
        last.filter(|at| self.awake(*at, false) == *at).max()
    }

    /// Simpler worlds, one step each: what a violation does not need is taken away.
    pub(super) fn simpler(&self) -> Vec<(String, Self)> {
        let mut all = vec![];
        let mut without = |what: &str, change: &dyn Fn(&mut Self)| {
            let mut simpler = self.clone();
            change(&mut simpler);
            all.push((what.to_owned(), simpler));
        };
        for index in 0..self.pods.len() {
            without("a Pod less", &|world| drop(world.pods.remove(index)));
            without("one process", &|world| world.pods[index].lives.truncate(1));
            without("no flap", &|world| world.pods[index].policy.truncate(1));
            without("many ports", &|world| world.pods[index].ports = 4_000);
            without("a shorter life", &|world| {
                for life in &mut world.pods[index].lives {
                    life.1 = life.0 + (life.1 - life.0) * 3 / 4;
                }
            });
        }
        without("nobody else", &|world| world.foreign = 0);
        without("no jitter", &|world| world.jitter = 0);
        without("no loss", &|world| world.loss = 0.0);
        without("no loss back", &|world| world.loss_back = 0.0);
        without("no doubles", &|world| world.doubled = 0.0);
        without("no waits", &|world| world.waits.clear());
        without("no outages", &|world| world.outages.clear());
        without("a large ring", &|world| world.ring = 100_000);
        without("a large batch", &|world| world.batch = 8_192);
        without("nothing lacks", &|world| world.lacks.clear());
        without("quick accepts", &|world| world.slow_accept = [0; 2]);
        without("listening at once", &|world| world.listening = 0);
        all
    }
}
