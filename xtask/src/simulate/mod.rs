//! `cargo xtask simulate`: the shipped decisions of client and target in random worlds that know the truth.
//!
//! A history is one test of a client in one world, and the SYNs that come to a target in another. Whatever either would print of
//! it is held against what happened. A violation prints its seed, and what is left of its world once everything that it does not
//! need is taken away.

mod claims;
mod drive;
mod held;
mod host;
mod mutations;
mod path;
mod report;
mod target;
mod world;

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::claims::Met;
use self::world::World;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Histories to live through
    #[arg(long, default_value_t = 100_000)]
    histories: u64,
    /// The first history's seed; random if it is not given, and printed
    #[arg(long)]
    seed: Option<u64>,
    /// End after so many seconds, however many histories that are
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Whose worlds
    #[arg(long, value_enum, default_value_t = Worlds::All)]
    worlds: Worlds,
    /// Put faults into the decisions, one at a time, and see that each is found
    #[arg(long, conflicts_with_all = ["seconds"])]
    mutations: bool,
}

/// Whose decisions are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Worlds {
    /// The client's and the target's
    All,
    /// The client's, held connections included
    Client,
    /// The target's, a host's interfaces included
    Target,
    /// Runs whose delays are known, and what a report says of them: a fiftieth as many runs of each kind as histories
    Report,
}

impl Worlds {
    fn have(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// What was lived through.
#[derive(Default)]
struct Lived {
    histories: u64,
    met: Met,
    violation: Option<(u64, String)>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.mutations {
        return mutations::run(options.histories.min(10_000));
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    if options.worlds == Worlds::Report {
        return Ok(report::run(options.histories.div_ceil(50), seed));
    }
    let begun = Instant::now();
    println!("seed {seed}");
    let lived = live(options, seed, begun);
    for (what, times) in &lived.met {
        println!("{times:>14} {what}");
    }
    println!("{} histories in {:.1} s", lived.histories, begun.elapsed().as_secs_f64());
    let never: Vec<_> = lived.met.iter().filter(|(_, times)| **times == 0).map(|(what, _)| *what).collect();
    if !never.is_empty() {
        println!("never met: {}", never.join(", "));
    }
    let Some((seed, violation)) = lived.violation else {
        println!("no claim violated");
        return Ok(ExitCode::SUCCESS);
    };
    println!("\nviolated: {violation}\nagain by: cargo xtask simulate --histories 1 --seed {seed}");
    match one(&draw(seed), seed, &mut Met::new()) {
        Some(_) => println!("{:#?}", shrink(seed)),
        None => println!("{}", target::shrink(seed).unwrap_or_default()),
    }
    Ok(ExitCode::FAILURE)
}

/// All histories, shared among the processors.
fn live(options: &Options, seed: u64, begun: Instant) -> Lived {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let until = options.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let histories = if until.is_some() { u64::MAX } else { options.histories };
    let work = || {
        let mut lived = Lived::default();
        while !stop.load(Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let number = next.fetch_add(1, Relaxed);
            if number >= histories {
                break;
            }
            let seed = seed.wrapping_add(number);
            lived.histories += 1;
            if let Some(violation) = violated(options.worlds, seed, &mut lived.met) {
                lived.violation = Some((seed, violation));
                stop.store(true, Relaxed);
            }
        }
        lived
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut all = Lived::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let lived = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.histories += lived.histories;
            for (what, times) in lived.met {
                *all.met.entry(what).or_default() += times;
            }
            all.violation = all.violation.take().or(lived.violation);
        }
    });
    all
}

fn draw(seed: u64) -> World {
    World::draw(&mut fastrand::Rng::with_seed(seed))
}

fn one(world: &World, seed: u64, met: &mut Met) -> Option<String> {
    claims::violated(world, &drive::run(world, seed), met)
}

/// The first claim that does not hold in any of the worlds of this seed.
fn violated(worlds: Worlds, seed: u64, met: &mut Met) -> Option<String> {
    let of_client = |met: &mut Met| {
        let held =
            |met: &mut Met| seed.is_multiple_of(HELD_EVERY).then(|| held::violated(seed, met)).flatten();
        one(&draw(seed), seed, met).or_else(|| held(met))
    };
    let of_target = |met: &mut Met| {
        let host =
            |met: &mut Met| seed.is_multiple_of(HOST_EVERY).then(|| host::violated(seed, met)).flatten();
        target::violated(seed, met).or_else(|| host(met))
    };
    let client = worlds.have(Worlds::Client).then(|| of_client(met)).flatten();
    client.or_else(|| worlds.have(Worlds::Target).then(|| of_target(met)).flatten())
}

/// Every so many histories one of held connections is lived through, too.
const HELD_EVERY: u64 = 8;
/// And one of a host's interfaces.
const HOST_EVERY: u64 = 64;

/// The simplest world in which this seed still violates a claim.
fn shrink(seed: u64) -> World {
    let mut world = draw(seed);
    let mut met = Met::new();
    while let Some((what, simpler)) = world.simpler().into_iter().find(|(_, simpler)| {
        format!("{simpler:?}") != format!("{world:?}") && one(simpler, seed, &mut met).is_some()
    }) {
        println!("needs less: {what}");
        world = simpler;
    }
    println!("{}", one(&world, seed, &mut met).unwrap_or_default());
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_of_one_seed_violate_no_claim_and_meet_everything() {
        let options =
            Options { histories: 3_000, seed: Some(1), seconds: None, worlds: Worlds::All, mutations: false };
        let lived = live(&options, 1, Instant::now());
        assert_eq!(lived.violation, None);
        let never: Vec<_> = lived.met.iter().filter(|(_, times)| **times == 0).collect();
        assert!(never.is_empty(), "{never:?}");
    }
}
