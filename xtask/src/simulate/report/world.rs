//! Runs whose delays are known, as probing on ticks makes results of them.

use std::collections::BTreeMap;

use egw_probe::workbench::report::{ClientResult, Corpus, Interval, Reading, Run, Verdict, sum_up};
use fastrand::Rng;

/// Seconds after which a client gives up, and those that an answer takes.
const TEST_TIMEOUT: f64 = 10.0;
const ROUND_TRIP: f64 = 0.000_5;

/// How delays of clients are distributed, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// 200 ms, and an exponential of 150 ms on top.
    Exponential,
    /// Within 10 ms, so that many brackets are alike.
    Narrow,
    /// One half 300 ms behind the other.
    Two,
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub(super) shape: Shape,
    pub(super) clients: usize,
    /// Nodes that clients are on, and the standard deviation of what is a node's own.
    pub(super) nodes: Option<(usize, f64)>,
    /// Whether clients name their nodes.
    pub(super) named: bool,
    pub(super) interval: f64,
    /// The phase of all ticks, or each client's own by chance.
    pub(super) phase: Option<f64>,
    /// When first probes leave at the latest.
    pub(super) first: f64,
    /// All delays are longer by this.
    pub(super) later: f64,
    /// Share of clients that never get through.
    pub(super) never: f64,
    /// Share of clients that are 9 s later.
    pub(super) slow: f64,
    /// Share of clients whose leaks nobody sees.
    pub(super) blind: f64,
}

impl World {
    /// The program's default settings.
    pub(super) fn new(shape: Shape, clients: usize) -> Self {
        Self {
            shape,
            clients,
            nodes: None,
            named: true,
            interval: 0.05,
            phase: None,
            first: 0.005,
            later: 0.0,
            never: 0.004,
            slow: 0.0,
            blind: 0.02,
        }
    }

    /// A run of it: the delays in order, and what a report read and says of them.
    pub(super) fn run(&self, seed: u64) -> Lived {
        // Seeds in a row must not begin alike.
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31));
        let effects: Vec<f64> =
            (0..self.nodes.map_or(0, |(nodes, _)| nodes)).map(|_| self.effect(&mut rng)).collect();
        let mut corpus = Corpus::default();
        let mut truths = Vec::with_capacity(self.clients);
        for client in 0..self.clients {
            let node = (!effects.is_empty()).then(|| client % effects.len());
            let truth = self.delay(&mut rng, node.map_or(0.0, |node| effects[node]));
            truths.push(truth);
            corpus.add(self.reading(client, node.filter(|_| self.named), truth, &mut rng));
        }
        corpus.finish();
        truths.sort_by(f64::total_cmp);
        Lived { truths, run: sum_up(&corpus), corpus }
    }

    /// The delay that a share of all clients that could be does not exceed, of many.
    pub(super) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        const MANY: usize = 400_000;
        let mut rng = Rng::with_seed(7);
        let mut all: Vec<f64> = (0..MANY)
            .map(|_| {
                let effect = if self.nodes.is_some() { self.effect(&mut rng) } else { 0.0 };
                self.delay(&mut rng, effect)
            })
            .collect();
        all.sort_by(f64::total_cmp);
        shares.map(|share| all[((share * MANY as f64).ceil() as usize).saturating_sub(1)])
    }

    fn effect(&self, rng: &mut Rng) -> f64 {
        // The sum of twelve is as normal as this needs.
        let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        (normal * self.nodes.map_or(0.0, |(_, deviation)| deviation)).max(-0.19)
    }

    fn delay(&self, rng: &mut Rng, effect: f64) -> f64 {
        let shape = match self.shape {
            Shape::Exponential => 0.2 - 0.15 * (1.0 - rng.f64()).ln(),
            Shape::Narrow => 0.3 + 0.01 * rng.f64(),
            Shape::Two => 0.2 + 0.05 * rng.f64() + if rng.bool() { 0.3 } else { 0.0 },
        };
        let never = rng.f64() < self.never;
        let slow = if rng.f64() < self.slow { 9.0 } else { 0.0 };
        if never { f64::INFINITY } else { (shape + effect + self.later + slow).min(TEST_TIMEOUT - 0.1) }
    }

    /// What a client with this delay finds by its probes.
    fn reading(&self, number: usize, node: Option<usize>, truth: f64, rng: &mut Rng) -> Reading {
        let phase = self.phase.unwrap_or_else(|| rng.f64() * self.interval);
        let first = 0.002 + (self.first - 0.002) * rng.f64();
        let tick = |n: f64| if n < 0.0 { first } else { phase + n * self.interval };
        let early = if phase > first { 0.0 } else { ((first - phase) / self.interval).floor() + 1.0 };
        // The first tick behind the switch is answered, and the probe before it leaked, if there was one.
        let answered = ((truth - phase) / self.interval).ceil().max(early);
        let (lower, upper) = match truth {
            truth if truth <= first => (0.0, first + ROUND_TRIP),
            truth if truth.is_finite() => {
                let before = if answered <= early { first } else { tick(answered - 1.0) };
                (before, tick(answered) + ROUND_TRIP)
            }
            _ => (TEST_TIMEOUT, f64::INFINITY),
        };
        let lower = if upper.is_finite() && rng.f64() < self.blind { 0.0 } else { lower };
        let labels: BTreeMap<String, String> =
            node.map(|node| ("node".to_owned(), format!("node-{node}"))).into_iter().collect();
        Reading {
            client: ClientResult {
                name: number.to_string(),
                verdict: if upper.is_finite() { Verdict::Masqueraded } else { Verdict::TimedOut },
                delay: Interval { lower, upper },
                ..ClientResult::default()
            },
            labels,
            ticks: Some((phase, first)),
            settings: Some(format!("target t, interval {}ms", self.interval * 1e3)),
            ..Reading::default()
        }
    }
}

/// What was lived through.
pub(super) struct Lived {
    /// Delays in order.
    pub(super) truths: Vec<f64>,
    pub(super) run: Run,
    pub(super) corpus: Corpus,
}

impl Lived {
    /// The delay that a share of these very clients does not exceed.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.truths.len() as f64 - 1e-9).ceil().max(1.0);
        self.truths[rank as usize - 1]
    }
}
