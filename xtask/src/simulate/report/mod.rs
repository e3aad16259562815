//! `cargo xtask simulate --worlds report`: what reports say of runs whose delays are known, at the default settings.
//!
//! What is called certain has to be so in every run. Rates have to be what they are said to be, beyond what chance makes of so many
//! runs: confidence of 95 %, false alarms of 1 %.

mod world;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use egw_probe::workbench::report::{Bounds, Compared, Comparison, compare};

use self::world::{Lived, Shape, World};

/// Quantiles that reports tell.
const SHARES: [f64; 4] = [0.5, 0.9, 0.95, 0.99];

/// The rates, and whether they are right.
struct Rates {
    runs: u64,
    wrong: Vec<String>,
}

impl Rates {
    /// A share of runs that has to lie between two bounds, but for what chance makes of so many runs.
    fn judge(&mut self, what: &str, hits: usize, least: f64, most: f64) -> String {
        let (runs, rate) = (self.runs as f64, hits as f64 / self.runs as f64);
        let noise = |rate: f64| 3.3 * (rate * (1.0 - rate) / runs).sqrt();
        if rate < least - noise(least) || rate > most + noise(most) {
            self.wrong.push(format!(
                "{what}: {:.1} % is not within {:.1} and {:.1} %",
                rate * 100.0,
                least * 100.0,
                most * 100.0
            ));
        }
        format!("{:.1}", rate * 100.0)
    }
}

/// Prints the rates, and says whether they are right.
pub(super) fn run(runs: u64, seed: u64) -> ExitCode {
    let mut rates = Rates { runs, wrong: vec![] };
    println!("{runs} runs of each kind\n");
    quantiles(&mut rates, seed);
    comparisons(&mut rates, seed);
    power(runs, seed);
    for wrong in &rates.wrong {
        println!("wrong: {wrong}");
    }
    if rates.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The results of so many runs, shared among the processors.
fn all<T: Send>(runs: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Relaxed)).filter(|number| *number < runs));
        numbers.map(&one).collect::<Vec<T>>()
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done.flatten().collect()
    })
}

fn contains(bounds: Bounds, value: f64) -> bool {
    bounds.lower_seconds.unwrap_or(f64::NEG_INFINITY) < value + 1e-9
        && value <= bounds.upper_seconds.unwrap_or(f64::INFINITY) + 1e-9
}

/// Clients whose delays are mostly their nodes'.
fn on_nodes(clients: usize, nodes: usize, named: bool) -> World {
    World { nodes: Some((nodes, 0.1)), named, ..World::new(Shape::Narrow, clients) }
}

/// Whether quantiles are where they are said to be: those of the runs always, those of all clients as often as is said.
fn quantiles(rates: &mut Rates, seed: u64) {
    let shapes = [("exponential", Shape::Exponential), ("narrow", Shape::Narrow), ("two", Shape::Two)];
    let plain = shapes.iter().flat_map(|(name, shape)| {
        [20, 100, 1_000].map(|clients| (format!("{name}, {clients}"), World::new(*shape, clients), 0.935))
    });
    let of_nodes = [(100, 10), (200, 20), (500, 50)]
        .map(|(clients, nodes)| (format!("{clients} on {nodes} nodes"), on_nodes(clients, nodes, true), 0.9));
    let unnamed = ("200 on 20 nodes, not named".to_owned(), on_nodes(200, 20, false), 0.0);
    println!("{:<28} certain %, confidence % of p50, p90, p95, p99", "clients");
    for (name, world, least) in plain.chain(of_nodes).chain([unnamed]) {
        let truth = world.quantiles(SHARES);
        let found = all(rates.runs, |number| {
            let lived = world.run(seed.wrapping_add(number));
            let quantiles = &lived.run.delay.quantiles;
            let certain = SHARES.iter().zip(quantiles).all(|(share, one)| {
                let own = lived.quantile(*share);
                own.is_infinite() && one.of_this_run.upper_seconds.is_none() || contains(one.of_this_run, own)
            });
            let covers = std::array::from_fn::<bool, 4, _>(|place| {
                contains(quantiles[place].confidence, truth[place])
            });
            (certain, covers)
        });
        let certain = found.iter().filter(|(certain, _)| *certain).count();
        if certain < found.len() {
            rates.wrong.push(format!("{name}: a quantile of the run is not where it certainly is"));
        }
        let covered: Vec<String> = (0..4)
            .map(|place| {
                let hits = found.iter().filter(|(_, covers)| covers[place]).count();
                rates.judge(&format!("confidence, {name}, {}", SHARES[place]), hits, least, 1.0)
            })
            .collect();
        println!("{name:<28} {:>9.1}  {}", certain as f64 * 100.0 / found.len() as f64, covered.join(", "));
    }
}

fn of(this: &Lived, other: &Lived) -> Comparison {
    compare((&this.corpus, &this.run), (&other.corpus, &other.run))
}

/// Whether equal runs are called different, and differences are where they are said to be.
fn comparisons(rates: &mut Rates, seed: u64) {
    let plain = |clients| World::new(Shape::Exponential, clients);
    let fixed = |first: f64| World { phase: Some(first), first, ..plain(100) };
    let later = World { later: 0.03, ..plain(200) };
    let faster = World { interval: 0.025, ..plain(100) };
    println!("\n{:<34} different %, difference covered % of p50, p95, at most %", "this run against another");
    for (name, this, other, alarms) in [
        ("20 against 20", plain(20), plain(20), 0.01),
        ("100 against 100", plain(100), plain(100), 0.01),
        ("50 against 400", plain(50), plain(400), 0.01),
        ("30 ms later, 200 each", later, plain(200), 1.0),
        ("every 25 ms against every 50 ms", faster, plain(100), 0.0),
        ("first ticks 5 ms apart", fixed(0.004), fixed(0.009), 0.0),
        ("200 on 20 nodes", on_nodes(200, 20, true), on_nodes(200, 20, true), 0.01),
        ("500 on 50 nodes", on_nodes(500, 50, true), on_nodes(500, 50, true), 0.01),
        ("200 on 20 nodes, not named", on_nodes(200, 20, false), on_nodes(200, 20, false), 1.0),
    ] {
        let truth = this.later - other.later;
        let found = all(rates.runs, |number| {
            let seed = seed.wrapping_add(2 * number);
            let comparison = of(&this.run(seed), &other.run(seed.wrapping_add(1)));
            let covers = [0, 2].map(|place| contains(comparison.quantiles[place].delay.confidence, truth));
            let at_most = comparison.quantiles[0]
                .upper_ends
                .is_none_or(|ends| ends.one_sided.upper_seconds.is_none_or(|most| truth <= most));
            [comparison.differ == Some(true), covers[0], covers[1], at_most]
        });
        let named = this.nodes.is_none() || this.named;
        let least = if named { 0.935 } else { 0.0 };
        let judged = [
            ("different", 0.0, alarms),
            ("difference of p50", least, 1.0),
            ("difference of p95", least, 1.0),
            ("later at most", least, 1.0),
        ];
        let told: Vec<String> = (0..4)
            .map(|place| {
                let (what, least, most) = judged[place];
                let hits = found.iter().filter(|one| one[place]).count();
                rates.judge(&format!("{what}, {name}"), hits, least, most)
            })
            .collect();
        println!("{name:<34} {:>11}  {}, {}, {}", told[0], told[1], told[2], told[3]);
    }
}

/// How often differences are seen, and whether the shift that is said to be seen four times in five is.
fn power(runs: u64, seed: u64) {
    let plain = World::new(Shape::Exponential, 0);
    println!("\n{:<28} seen %, of 50, 200 and 1,000 clients each", "this run is");
    for (name, change) in [
        ("10 ms later", World { later: 0.01, ..plain }),
        ("30 ms later", World { later: 0.03, ..plain }),
        ("100 ms later", World { later: 0.1, ..plain }),
        ("2 % of them 9 s later", World { slow: 0.02, ..plain }),
        ("5 % of them 9 s later", World { slow: 0.05, ..plain }),
        ("5 % more never masqueraded", World { never: plain.never + 0.05, ..plain }),
    ] {
        let told = [50, 200, 1_000].map(|clients| {
            let (this, other) = (World { clients, ..change }, World { clients, ..plain });
            format!("{:.0}", percent_seen(this, other, runs.div_ceil(5), seed))
        });
        println!("{name:<28} {}", told.join(", "));
    }
    let told: Vec<String> = [50, 200, 1_000]
        .map(|clients| {
            let other = World::new(Shape::Exponential, clients);
            let shifts = all(20, |number| {
                let seed = seed.wrapping_add(2 * number);
                of(&other.run(seed), &other.run(seed.wrapping_add(1))).detectable_seconds.unwrap_or(f64::NAN)
            });
            let shift = shifts.iter().sum::<f64>() / shifts.len() as f64;
            let percent =
                percent_seen(World { later: shift, ..other }, other, runs.div_ceil(5), seed.wrapping_add(2));
            format!("{:.1} ms: {percent:.0}", shift * 1e3)
        })
        .into();
    println!("{:<28} {}", "later by what is said", told.join(", "));
}

/// How often two such runs are called different.
fn percent_seen(this: World, other: World, runs: u64, from: u64) -> f64 {
    let found = all(runs, |number| {
        let first = from.wrapping_add(2 * number);
        of(&this.run(first), &other.run(first.wrapping_add(1))).found == Compared::Differ
    });
    found.iter().filter(|differ| **differ).count() as f64 * 100.0 / found.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_certain_of_a_run_is_so_in_each_of_two_hundred_and_confidence_holds() {
        let mut rates = Rates { runs: 200, wrong: vec![] };
        quantiles(&mut rates, 1);
        assert_eq!(rates.wrong, Vec::<String>::new());
    }
}
