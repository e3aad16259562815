//! From which addresses clients leaked, and by which egress IPs they got their pongs, over all results.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::document::disruption::{ProbeLoss, Share};
use crate::document::egress::{EgressIp, LeakSource, Whose};

/// Addresses kept of each kind; what comes by others is counted.
const KEPT: usize = 4_096;
/// Addresses told of each kind.
const TOLD: usize = 20;

/// One result's part.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Addresses that its probes leaked from.
    pub leaked_from: Vec<LeakSource>,
    /// Egress IPs of its pongs.
    pub egress_ips: Vec<EgressIp>,
    /// What it lost after the winner.
    pub loss: Option<ProbeLoss>,
    /// Probes that leaked from addresses that it does not list.
    pub other_leaks: u64,
    /// Pongs by egress IPs that it does not list.
    pub other_pongs: u64,
    /// Connections of its that leaked.
    pub leaked_connections: LeakedConnections,
    /// Times in which it lost a share.
    pub partial_outages: u64,
}

/// Connections that a target denied, because it saw a source outside its CIDRs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeakedConnections {
    /// Those of stress tests.
    pub stress: u64,
    /// Those that were to be held.
    pub held: u64,
}

impl LeakedConnections {
    /// All of them.
    pub fn total(self) -> u64 {
        self.stress.saturating_add(self.held)
    }
}

/// An address, over all clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The address.
    pub address: IpAddr,
    /// Clients that leaked, or got pongs, by it.
    pub clients: u64,
    /// Their probes that did.
    pub probes: u64,
    /// Of the clients, those whose own address it is, or their node's: leaks alone.
    pub own: u64,
    /// The same of the node's.
    pub node: u64,
}

/// The addresses by which most probes went, most first, and what went by others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
pub struct Addresses {
    /// The first of them.
    pub addresses: Vec<Seen>,
    /// Addresses beyond these, as far as results list them.
    pub more: u64,
    /// Probes by those, and by addresses that results do not list.
    pub more_probes: u64,
}

/// Losses after the winner, over all watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Loss {
    /// Clients that watched.
    pub clients: u64,
    /// Their probes after the winner.
    pub probes: u64,
    /// Of these, those outside of outages.
    pub outside_outages: u64,
    /// Misses that chance explains, with the 95 % confidence interval of their rate.
    pub by_chance: Share,
    /// Misses in disruptions.
    pub in_disruptions: Share,
    /// Misses in partial outages.
    pub in_partial_outages: Share,
    /// Times in which a share was lost.
    pub partial_outages: u64,
}

/// All results' parts, added up.
#[derive(Debug, Default)]
pub struct Sum {
    leaked_from: BTreeMap<IpAddr, Seen>,
    egress_ips: BTreeMap<IpAddr, Seen>,
    other_leaks: u64,
    other_pongs: u64,
    leaked_connections: LeakedConnections,
    loss: Option<Loss>,
}

/// Adds what one result says: probes by address, whose that is, and probes by addresses that it does not list.
fn add(
    all: &mut BTreeMap<IpAddr, Seen>,
    others: &mut u64,
    mut listed: Vec<(IpAddr, u64, Option<Whose>)>,
    unlisted: u64,
) {
    *others = others.saturating_add(unlisted);
    // An address that it lists twice is still one client's.
    listed.sort_by_key(|(address, ..)| *address);
    for same in listed.chunk_by(|(one, ..), (other, ..)| one == other) {
        let address = same[0].0;
        let probes = same.iter().fold(0, |sum: u64, (_, probes, _)| sum.saturating_add(*probes));
        let whose = same.iter().find_map(|(.., whose)| *whose);
        if all.len() == KEPT && !all.contains_key(&address) {
            *others = others.saturating_add(probes);
            continue;
        }
        let seen = all.entry(address).or_insert(Seen { address, clients: 0, probes: 0, own: 0, node: 0 });
        seen.clients += 1;
        seen.probes = seen.probes.saturating_add(probes);
        seen.own += u64::from(whose == Some(Whose::Own));
        seen.node += u64::from(whose == Some(Whose::Node));
    }
}

fn most_first(all: &BTreeMap<IpAddr, Seen>, others: u64) -> Addresses {
    let mut addresses: Vec<Seen> = all.values().cloned().collect();
    addresses.sort_by_key(|seen| (std::cmp::Reverse(seen.probes), seen.address));
    let more = addresses.split_off(addresses.len().min(TOLD));
    let more_probes = more.iter().fold(others, |sum, seen| sum.saturating_add(seen.probes));
    Addresses { addresses, more: more.len() as u64, more_probes }
}

/// Probes outside of outages; a result of before does not count them.
pub(crate) fn outside_outages(loss: &ProbeLoss) -> u64 {
    if loss.outside_outages == 0 { loss.probes } else { loss.outside_outages }
}

impl Sum {
    /// Adds one result's part.
    pub fn add(&mut self, one: Part) {
        let leaks = one.leaked_from.iter().map(|leak| (leak.address, leak.probes, leak.whose)).collect();
        add(&mut self.leaked_from, &mut self.other_leaks, leaks, one.other_leaks);
        let pongs = one.egress_ips.iter().map(|ip| (ip.address, ip.pongs, None)).collect();
        add(&mut self.egress_ips, &mut self.other_pongs, pongs, one.other_pongs);
        let LeakedConnections { stress, held } = &mut self.leaked_connections;
        *stress = stress.saturating_add(one.leaked_connections.stress);
        *held = held.saturating_add(one.leaked_connections.held);
        if let Some(lost) = one.loss {
            let sum = self.loss.get_or_insert_default();
            sum.clients += 1;
            sum.probes = sum.probes.saturating_add(lost.probes);
            sum.outside_outages = sum.outside_outages.saturating_add(outside_outages(&lost));
            sum.partial_outages = sum.partial_outages.saturating_add(one.partial_outages);
            for (share, more) in [
                (&mut sum.by_chance, lost.isolated),
                (&mut sum.in_disruptions, lost.in_disruptions),
                (&mut sum.in_partial_outages, lost.in_partial_outages),
            ] {
                share.misses = share.misses.saturating_add(more.misses);
            }
        }
    }

    /// The addresses that probes leaked from.
    pub fn leaked_from(&self) -> Addresses {
        most_first(&self.leaked_from, self.other_leaks)
    }

    /// Connections that leaked.
    pub fn leaked_connections(&self) -> LeakedConnections {
        self.leaked_connections
    }

    /// The egress IPs.
    pub fn egress_ips(&self) -> Addresses {
        most_first(&self.egress_ips, self.other_pongs)
    }

    /// What watches lost.
    pub fn loss(&self) -> Option<Loss> {
        self.loss.map(|mut loss| {
            loss.by_chance = Share::of(loss.by_chance.misses, loss.outside_outages);
            for share in [&mut loss.in_disruptions, &mut loss.in_partial_outages] {
                *share = Share::of(share.misses, loss.probes);
            }
            loss
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leak(last: u8, probes: u64, whose: Option<Whose>) -> LeakSource {
        LeakSource { address: [192, 0, 2, last].into(), whose, probes, first_seconds: 0.0, last_seconds: 1.0 }
    }

    #[test]
    fn addresses_are_added_up_over_clients_most_probes_first() {
        let mut sum = Sum::default();
        for leaked_from in
            [vec![leak(1, 5, Some(Whose::Node)), leak(2, 1, None)], vec![leak(2, 9, Some(Whose::Own))]]
        {
            sum.add(Part { leaked_from, ..Part::default() });
        }
        let told = sum.leaked_from();
        let figures: Vec<_> =
            told.addresses.iter().map(|seen| (seen.probes, seen.clients, seen.own, seen.node)).collect();
        assert_eq!(figures, [(10, 2, 1, 0), (5, 1, 0, 1)]);
        assert_eq!((told.more, sum.egress_ips(), sum.loss()), (0, Addresses::default(), None));
    }

    #[test]
    fn of_many_addresses_the_first_are_told_and_all_are_counted() {
        let mut sum = Sum::default();
        for number in 0..10_000_u32 {
            let one = LeakSource { address: IpAddr::from(number.to_be_bytes()), ..leak(0, 1, None) };
            sum.add(Part { leaked_from: vec![one], ..Part::default() });
        }
        let told = sum.leaked_from();
        assert_eq!((told.addresses.len(), told.more, told.more_probes), (20, 4_076, 9_980));
    }

    #[test]
    fn losses_of_all_watches_are_one_rate() {
        let mut sum = Sum::default();
        for misses in [10, 30] {
            let isolated = Share { misses, ..Share::default() };
            let loss = ProbeLoss { probes: 1_000, isolated, ..ProbeLoss::default() };
            sum.add(Part { loss: Some(loss), partial_outages: 1, ..Part::default() });
        }
        let loss = sum.loss().unwrap();
        assert_eq!((loss.clients, loss.probes, loss.partial_outages), (2, 2_000, 2));
        assert_eq!(loss.by_chance, Share::of(40, 2_000));
        assert_eq!(loss.in_disruptions, Share::of(0, 2_000));
    }
}
