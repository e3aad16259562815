//! What userspace reads from, and writes to, the program's maps.

use std::collections::{BTreeSet, HashMap as StdHashMap};
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use egw_probe_common::address::Address;
use egw_probe_common::class;
use egw_probe_common::event::{Counters, OwnFew, SourceRecord};
use egw_probe_common::tag::TagRecord;

use crate::document::verdict::Verdict;
use crate::observer::error::{KernelError, map_errno};
use crate::observer::object::{map_error, take_map};
use crate::observer::timens::KernelClock;
use crate::sys::clock::Monotonic;

/// SYNs of one source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSeen {
    /// The address; a 4-in-6 mapped one is the IPv4 address.
    pub address: IpAddr,
    /// Which side of the allowed CIDRs it lies on.
    pub class: Verdict,
    /// Its first SYN since it was last forgotten.
    pub first: Monotonic,
    /// Its latest SYN.
    pub last: Monotonic,
    /// SYNs, retransmissions included.
    pub syns: u64,
}

/// The source addresses that are remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// In no order.
    pub seen: Vec<SourceSeen>,
    /// Addresses that had to make room for others.
    pub evicted: u64,
}

/// The maps that are read.
pub(super) struct Tables {
    counters: PerCpuArray<MapData, Counters>,
    sources: HashMap<MapData, Address, SourceRecord>,
    tags: Array<MapData, TagRecord>,
    clock: KernelClock,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf, clock: KernelClock) -> Result<Self, KernelError> {
        Ok(Self {
            counters: take_map(ebpf, "COUNTERS")?,
            sources: take_map(ebpf, "SOURCES")?,
            tags: take_map(ebpf, "TAGS")?,
            clock,
        })
    }

    /// How stamps become instants.
    pub(super) const fn clock(&self) -> KernelClock {
        self.clock
    }

    /// The exact counters, summed over all CPUs.
    pub(super) fn counters(&self) -> Result<Counters, KernelError> {
        let per_cpu = self.counters.get(&0, 0).map_err(|e| map_error("COUNTERS", e))?;
        Ok(per_cpu.iter().copied().fold(Counters::default(), Counters::plus))
    }

    /// All remembered sources. Taken while SYNs arrive, so one that is evicted meanwhile may be missing.
    pub(super) fn sources(&self) -> Result<Sources, KernelError> {
        // By address: an iteration that the kernel begins anew, because its place was evicted, repeats some.
        let mut seen = StdHashMap::new();
        for entry in &self.sources {
            match entry {
                Ok((address, record)) => {
                    seen.insert(address.octets(), self.source(address, &record));
                }
                Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(e) => return Err(map_error("SOURCES", e)),
            }
        }
        let created = self.counters()?.sources_created;
        Ok(Sources { evicted: created.saturating_sub(seen.len() as u64), seen: seen.into_values().collect() })
    }

    /// The records of all client numbers that have been seen.
    pub(super) fn tags(&self) -> Result<Vec<(u16, TagRecord)>, KernelError> {
        let mut seen = Vec::new();
        for client in 1..self.tags.len() {
            let record = self.tags.get(&client, 0).map_err(|e| map_error("TAGS", e))?;
            if record.first_ns != 0 {
                seen.push((client as u16, self.clock.record(record)));
            }
        }
        Ok(seen)
    }

    fn source(&self, address: Address, record: &SourceRecord) -> SourceSeen {
        SourceSeen {
            address: address.into(),
            class: if record.class == u64::from(class::ALLOWED) { Verdict::Allowed } else { Verdict::Denied },
            first: self.clock.instant(record.first_ns),
            last: self.clock.instant(record.last_ns),
            syns: record.syns,
        }
    }
}

/// The host's own addresses, as the program knows them.
pub(super) struct OwnAddresses {
    all: HashMap<MapData, Address, u32>,
    few: Array<MapData, OwnFew>,
    known: BTreeSet<IpAddr>,
}

impl OwnAddresses {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { all: take_map(ebpf, "OWN")?, few: take_map(ebpf, "OWN_FEW")?, known: BTreeSet::new() })
    }

    /// Makes the maps hold exactly these, or as many of them as there is room for; how many had to be left out.
    pub(super) fn set(&mut self, own: impl Iterator<Item = IpAddr>) -> Result<usize, KernelError> {
        let own: BTreeSet<IpAddr> = own.collect();
        if own == self.known {
            return Ok(0);
        }
        self.few.set(0, few(&own), 0).map_err(|e| map_error("OWN_FEW", e))?;
        for address in self.known.difference(&own) {
            match self.all.remove(&Address::from(*address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(map_error("OWN", e)),
            }
        }
        self.known.retain(|address| own.contains(address));
        for address in &own {
            if self.known.contains(address) {
                continue;
            }
            match self.all.insert(Address::from(*address), 1, 0) {
                Ok(()) => self.known.insert(*address),
                Err(e) if map_errno(&e) == Some(libc::E2BIG) => break,
                Err(e) => return Err(map_error("OWN", e)),
            };
        }
        Ok(own.len() - self.known.len())
    }
}

/// The addresses that SYNs most likely go to: global ones before loopback and link-local.
fn few(own: &BTreeSet<IpAddr>) -> OwnFew {
    let rank = |address: &IpAddr| match address {
        IpAddr::V4(v4) => u8::from(v4.is_loopback()) * 2,
        IpAddr::V6(v6) => u8::from(v6.is_unicast_link_local()) + u8::from(v6.is_loopback()) * 2,
    };
    let mut ranked: Vec<_> = own.iter().copied().collect();
    ranked.sort_by_key(|address| (rank(address), *address));
    let mut few = OwnFew::default();
    for (place, address) in few.addresses.iter_mut().zip(ranked) {
        *place = address.into();
    }
    few
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_answer_holds_global_addresses_first() {
        let own = ["127.0.0.1", "::1", "fe80::1", "192.0.2.1", "2001:db8::1"]
            .into_iter()
            .map(|a| a.parse::<IpAddr>().unwrap())
            .collect();
        let held = few(&own).addresses.map(|a| IpAddr::from(a).to_string());
        assert_eq!(held, ["192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.1"]);
    }

    #[test]
    fn unused_places_hold_nobodys_address() {
        let own = BTreeSet::from(["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(few(&own).addresses[1..], [Address::default(); 3]);
    }
}
