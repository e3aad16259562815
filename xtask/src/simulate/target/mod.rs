//! The shipped decisions of the target in random worlds that know the truth: the join of SYNs and accepted connections, and the
//! timelines of tagged clients.

mod claims;
mod drive;
mod kernel;
mod traffic;
mod truth;
mod world;

use self::world::World;
use super::claims::Met;

fn draw(seed: u64) -> World {
    World::draw(&mut fastrand::Rng::with_seed(seed ^ 0x007a_76e7))
}

fn one(world: &World, seed: u64, met: &mut Met) -> Option<String> {
    let traffic = traffic::traffic(world, seed);
    let said = drive::run(world, &traffic, seed);
    claims::violated(world, &traffic, &said, met)
}

/// The first claim of the target that does not hold in the world of this seed.
pub(super) fn violated(seed: u64, met: &mut Met) -> Option<String> {
    one(&draw(seed), seed, met)
}

/// The simplest world in which this seed still violates a claim of the target; `None` if it violates none.
pub(super) fn shrink(seed: u64) -> Option<String> {
    let mut world = draw(seed);
    let mut met = Met::new();
    let mut said = one(&world, seed, &mut met)?;
    while let Some((what, simpler, violation)) = world.simpler().into_iter().find_map(|(what, simpler)| {
        if format!("{simpler:?}") == format!("{world:?}") {
            return None;
        }
        one(&simpler, seed, &mut met).map(|violation| (what, simpler, violation))
    }) {
        println!("needs less: {what}");
        (world, said) = (simpler, violation);
    }
    Some(format!("{said}\n{world:#?}"))
}
