//! Who has connected: one record per source address, bounded, the longest silent ones evicted and counted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::document::sources::{KernelSource, KernelSources, SourceEntry, SourcesPage, Unlisted};
use crate::document::verdict::Verdict;
use crate::observer::shared::ObserverHandle;
use crate::sys::clock::Monotonic;

/// Sources of each verdict on the page: whoever makes up more of them makes no page longer.
const LISTED: usize = 500;

/// Sources kept in all, shared out among the accept loops.
const CAPACITY: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Record {
    verdict: Verdict,
    connections: u64,
    first: Monotonic,
    last: Monotonic,
}

/// The sources seen by every accept loop. A loop has a part of its own, so that loops do not wait for each other.
#[derive(Debug)]
pub(crate) struct Sources {
    parts: Vec<Mutex<Part>>,
}

#[derive(Debug)]
struct Part {
    records: LruCache<IpAddr, Record>,
    evicted: u64,
}

/// What the kernel's maps hold now.
pub(crate) fn read_kernel(kernel: &ObserverHandle) -> KernelSources {
    let (totals, seen) = (kernel.class_totals(), kernel.sources());
    let error = totals.as_ref().err().or(seen.as_ref().err()).map(ToString::to_string);
    let totals = totals.unwrap_or_default();
    let (seen, evicted) = seen.map_or((Vec::new(), 0), |sources| (sources.seen, sources.evicted));
    let sources = seen
        .into_iter()
        .map(|source| KernelSource {
            address: source.address,
            class: source.class,
            syns: source.syns,
            first_syn_ns: source.first.as_ns(),
            last_syn_ns: source.last.as_ns(),
        })
        .collect();
    let (sources, unlisted) = largest(sources, |source| (source.class, source.syns, source.address));
    KernelSources {
        allowed_syns: totals.allowed,
        denied_syns: totals.denied,
        events_lost: totals.allowed_lost + totals.denied_lost,
        duplicates: totals.duplicates,
        forwarded: totals.forwarded,
        tagged_syns: totals.tagged,
        evicted,
        error,
        sources,
        unlisted,
    }
}

/// Of each verdict the entries with the largest counts, largest first, and what is left.
fn largest<T>(mut entries: Vec<T>, key: impl Fn(&T) -> (Verdict, u64, IpAddr)) -> (Vec<T>, Unlisted) {
    entries.sort_unstable_by_key(|entry| {
        let (_, count, address) = key(entry);
        (Reverse(count), address)
    });
    let mut unlisted = Unlisted::default();
    let [mut allowed, mut denied] = [0, 0];
    entries.retain(|entry| {
        let (verdict, count, _) = key(entry);
        let (listed, rest) = match verdict {
            Verdict::Allowed => (&mut allowed, &mut unlisted.allowed),
            Verdict::Denied => (&mut denied, &mut unlisted.denied),
        };
        *listed += 1;
        if *listed > LISTED {
            rest.sources += 1;
            rest.total += count;
        }
        *listed <= LISTED
    });
    entries.shrink_to_fit();
    (entries, unlisted)
}

impl Sources {
    /// Room for the sources that `loops` accept loops see.
    pub(crate) fn new(loops: usize) -> Self {
        Self::with_capacity(loops, CAPACITY)
    }

    fn with_capacity(loops: usize, capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity / loops.max(1)).unwrap_or(NonZeroUsize::MIN);
        let part = || Mutex::new(Part { records: LruCache::new(each), evicted: 0 });
        Self { parts: (0..loops).map(|_| part()).collect() }
    }

    /// Notes a connection accepted by loop number `part`; whether its source is new to that loop.
    pub(crate) fn note(&self, part: usize, address: IpAddr, verdict: Verdict, now: Monotonic) -> bool {
        let mut part = self.parts[part].lock();
        if let Some(record) = part.records.get_mut(&address) {
            record.connections += 1;
            record.last = now;
            return false;
        }
        let record = Record { verdict, connections: 1, first: now, last: now };
        part.evicted += u64::from(part.records.push(address, record).is_some());
        true
    }

    /// The largest sources, for `/sources`.
    pub(crate) fn page(&self, now: Monotonic, kernel: Option<KernelSources>) -> SourcesPage {
        let mut evicted = 0;
        let mut merged: HashMap<IpAddr, Record> = HashMap::new();
        for part in &self.parts {
            let part = part.lock();
            evicted += part.evicted;
            for (address, record) in &part.records {
                merged
                    .entry(*address)
                    .and_modify(|known| {
                        known.connections += record.connections;
                        known.first = known.first.min(record.first);
                        known.last = known.last.max(record.last);
                    })
                    .or_insert(*record);
            }
        }
        let sources = merged
            .into_iter()
            .map(|(address, record)| SourceEntry {
                address,
                verdict: record.verdict,
                connections: record.connections,
                first_accept_ns: record.first.as_ns(),
                last_accept_ns: record.last.as_ns(),
            })
            .collect();
        let (sources, unlisted) =
            largest(sources, |entry: &SourceEntry| (entry.verdict, entry.connections, entry.address));
        SourcesPage { now_monotonic_ns: now.as_ns(), evicted, sources, unlisted, kernel }
    }
}

/// The denied sources with the most SYNs, or, where the kernel side does not tell, connections; `None` if there are none.
pub(crate) fn top_denied(page: &SourcesPage) -> Option<String> {
    const SHOWN: usize = 5;
    let is_denied = |verdict| verdict == Verdict::Denied;
    let by_syns = page.kernel.as_ref().filter(|kernel| kernel.error.is_none());
    let (unit, counts, unlisted): (_, Vec<_>, _) = if let Some(kernel) = by_syns {
        let denied = kernel.sources.iter().filter(|source| is_denied(source.class));
        ("SYNs", denied.map(|source| (source.address, source.syns)).collect(), kernel.unlisted)
    } else {
        let denied = page.sources.iter().filter(|source| is_denied(source.verdict));
        ("connections", denied.map(|source| (source.address, source.connections)).collect(), page.unlisted)
    };
    let shown = counts.iter().take(SHOWN).map(|(address, count)| format!("{address} ({count} {unit})"));
    let mut words: Vec<String> = shown.collect();
    let others = counts.len() as u64 - words.len() as u64 + unlisted.denied.sources;
    if others > 0 {
        let total = counts.iter().skip(SHOWN).map(|(_, count)| count).sum::<u64>() + unlisted.denied.total;
        words.push(format!("{others} more ({total} {unit})"));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::sources::Rest;

    #[test]
    fn the_top_denied_sources_are_named_and_the_others_counted() {
        let sources = Sources::new(1);
        let now = Monotonic::from_ns(1);
        assert_eq!(top_denied(&sources.page(now, None)), None);
        for number in 0..600_u32 {
            for _ in 0..=number.saturating_sub(594) {
                sources.note(0, IpAddr::V4((0x0a00_0000 + number).into()), Verdict::Denied, now);
            }
        }
        sources.note(0, address(1), Verdict::Allowed, now);
        let told = top_denied(&sources.page(now, None)).unwrap();
        assert_eq!(
            told,
            "10.0.2.87 (6 connections), 10.0.2.86 (5 connections), 10.0.2.85 (4 connections), 10.0.2.84 (3 connections), \
             10.0.2.83 (2 connections), 595 more (595 connections)"
        );
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_source_seen_by_two_loops_is_one_entry() {
        let sources = Sources::new(2);
        for (part, source, at) in [(0, 1, 10), (1, 1, 5), (0, 1, 30), (1, 2, 20)] {
            sources.note(part, address(source), Verdict::Allowed, Monotonic::from_ns(at));
        }
        let page = sources.page(Monotonic::from_ns(99), None);
        let entry = |last, connections, first_accept_ns, last_accept_ns| SourceEntry {
            address: address(last),
            verdict: Verdict::Allowed,
            connections,
            first_accept_ns,
            last_accept_ns,
        };
        assert_eq!(page.sources, [entry(1, 3, 5, 30), entry(2, 1, 20, 20)]);
        assert_eq!(page.evicted, 0);
    }

    #[test]
    fn many_sources_make_a_page_no_longer_and_hide_none_of_another_verdict() {
        let sources = Sources::new(1);
        let now = Monotonic::from_ns(1);
        for number in 0..2000_u32 {
            sources.note(0, IpAddr::V4((0x0a00_0000 + number).into()), Verdict::Allowed, now);
        }
        for _ in 0..3 {
            sources.note(0, IpAddr::V4((0x0a00_0000 + 1999).into()), Verdict::Allowed, now);
        }
        sources.note(0, address(1), Verdict::Denied, now);
        let page = sources.page(now, None);
        assert_eq!(page.sources.len(), 501);
        assert_eq!((page.sources[0].address, page.sources[0].connections), ([10, 0, 7, 207].into(), 4));
        assert_eq!(page.sources.iter().filter(|entry| entry.address == address(1)).count(), 1);
        let allowed = Rest { sources: 1500, total: 1500 };
        assert_eq!(page.unlisted, Unlisted { allowed, denied: Rest::default() });
    }

    #[test]
    fn the_longest_silent_source_makes_room_and_is_counted() {
        let sources = Sources::with_capacity(1, 2);
        for (source, at) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
            sources.note(0, address(source), Verdict::Denied, Monotonic::from_ns(at));
        }
        let page = sources.page(Monotonic::from_ns(5), None);
        let kept: Vec<IpAddr> = page.sources.iter().map(|entry| entry.address).collect();
        assert_eq!(kept, [address(1), address(3)]);
        assert_eq!(page.evicted, 1);
    }
}
