//! Every client's masquerade timeline, from the tags in its SYNs.
//!
//! Pure: takes tagged SYNs, returns timelines. With the kernel side the
//! exact record of a client comes from its map; what only the order of SYNs tells (gaps, restarts, two clients under one
//! number) is followed here from events. In userspace, accepted connections stand in for SYNs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use egw_probe_common::tag::{MAX_CLIENT, Tag, TagKey, TagRecord};
use parking_lot::{Mutex, MutexGuard};

use crate::document::clients::{ClientBracket, ClientEntry, PathDelay, Progress};
use crate::document::verdict::Verdict;
use crate::external_target::counters::{Counters, OVERTAKEN};
use crate::observer::object::TagSettings;
use crate::sys::clock::Monotonic;

/// A tagged SYN, as the kernel saw it or as an accepted connection tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaggedSyn {
    /// What its sequence number says.
    pub tag: Tag,
    /// The verdict on its source.
    pub verdict: Verdict,
    /// When it was seen.
    pub at: Monotonic,
    /// The kernel of the client sent it again.
    pub retransmitted: bool,
}

/// What is known of one client number.
#[derive(Debug, Default, Clone)]
struct Client {
    record: TagRecord,
    counters: Counters,
    told: Option<Duration>,
}

/// The timelines as every thread of the target shares them, and the key that tags are read with.
#[derive(Debug)]
pub struct ClientTable {
    key: TagKey,
    clients: Mutex<Clients>,
    foreign: AtomicU64,
}

impl ClientTable {
    /// No client seen yet, whose tags carry `key`; `expected` is the highest number, where the user knows it.
    pub fn new(expected: Option<u16>, key: TagKey) -> Self {
        Self { key, clients: Mutex::new(Clients::new(expected)), foreign: AtomicU64::new(0) }
    }

    /// What the kernel program has to know.
    pub(crate) fn settings(&self) -> TagSettings {
        TagSettings { clients: self.lock().expected, key: self.key }
    }

    /// Takes in a SYN with this sequence number.
    pub fn syn(&self, sequence: u32, verdict: Verdict, at: Monotonic, retransmitted: bool) {
        match Tag::decode(sequence, self.key) {
            Some(tag) if self.lock().syn(TaggedSyn { tag, verdict, at, retransmitted }) => {}
            _ => {
                self.foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// SYNs without a tag of an expected client. One in 256 of the SYNs of others is taken for a tag.
    pub(crate) fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }

    /// The timelines.
    pub fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock()
    }
}

/// The timelines of all clients. Memory grows with the clients seen, to some 1.5 KiB each.
#[derive(Debug)]
pub struct Clients {
    by_number: Vec<Option<Box<Client>>>,
    expected: u16,
    /// The user knows that these numbers are in use.
    named: bool,
}

impl Clients {
    /// No client seen yet, of numbers up to `expected`, or of all there are.
    pub(crate) fn new(expected: Option<u16>) -> Self {
        Self {
            by_number: vec![None; usize::from(MAX_CLIENT) + 1],
            expected: expected.unwrap_or(MAX_CLIENT),
            named: expected.is_some(),
        }
    }

    fn expects(&self, tag: Tag) -> bool {
        tag.client() <= self.expected
    }

    /// Takes in a tagged SYN; false if its number is above those expected.
    pub(crate) fn syn(&mut self, syn: TaggedSyn) -> bool {
        if !self.expects(syn.tag) {
            return false;
        }
        let client = self.by_number[usize::from(syn.tag.client())].get_or_insert_default();
        client.record.note(syn.verdict == Verdict::Allowed, syn.at.as_ns());
        client.counters.take(syn.tag.counter(), syn.at, syn.retransmitted);
        true
    }

    /// Takes over a client's record from the kernel, which is exact where events were lost. Stamps are the kernel's then.
    pub fn set_record(&mut self, number: u16, record: TagRecord) {
        if record.first_ns > 0 && (1..=MAX_CLIENT).contains(&number) {
            let client = self.by_number[usize::from(number)].get_or_insert_default();
            client.record = record;
        }
    }

    /// Every client that exists, by number.
    pub fn entries(&self) -> impl Iterator<Item = ClientEntry> {
        self.by_number.iter().enumerate().filter_map(|(number, client)| {
            let client = client.as_deref().filter(|client| client.exists(self.named))?;
            Some(client.entry(number as u16))
        })
    }

    /// How many clients are how far.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress { expected: u64::from(self.expected), ..Progress::default() };
        let seen = |client: &&Client| client.record.first_ns > 0 && !client.exists(self.named);
        progress.uncertain = self.by_number.iter().flatten().map(Box::as_ref).filter(seen).count() as u64;
        for entry in self.entries() {
            progress.seen += 1;
            let masqueraded = entry.first_masqueraded_ns.is_some();
            progress.masqueraded += u64::from(masqueraded);
            progress.leaking += u64::from(!masqueraded);
            progress.conflicts += u64::from(entry.conflict);
        }
        progress
    }

    /// The delays that have become known since the last call: first SYN to first masqueraded SYN, one for each client.
    pub(crate) fn new_delays(&mut self) -> Vec<Duration> {
        let named = self.named;
        let untold = |client: &mut Box<Client>| {
            let delay = client.delay().filter(|_| client.told.is_none() && client.exists(named))?;
            client.told = Some(delay);
            Some(delay)
        };
        self.by_number.iter_mut().flatten().filter_map(untold).collect()
    }
}

impl Client {
    /// Whether its SYNs are no foreign ones that look like its tag: several came with rising counters, or, of a number that the
    /// user knows to be in use, one from inside the CIDRs (a client that is masqueraded at once sends no other).
    fn exists(&self, named: bool) -> bool {
        self.counters.are_proven() || named && self.record.masqueraded > 0
    }

    fn delay(&self) -> Option<Duration> {
        let masqueraded = self.record.first_masqueraded_ns;
        (masqueraded > 0).then(|| Duration::from_nanos(masqueraded.saturating_sub(self.record.first_ns)))
    }

    fn entry(&self, client: u16) -> ClientEntry {
        let record = &self.record;
        let known = |ns: u64| (ns > 0).then_some(ns);
        let last_leaked = known(record.last_leaked_before_ns);
        let first_masqueraded = known(record.first_masqueraded_ns);
        // A later leak was still under way when the switch came, for all that is known; this one had left before.
        let proven = known(record.proven_lower_ns);
        let own = record.proven_by_ns == record.last_leaked_before_ns;
        let by = if own { PathDelay::OwnHandshake } else { PathDelay::SameClient };
        let lower_ns = proven.or(last_leaked);
        let width = lower_ns.zip(first_masqueraded).map(|(lower, upper)| upper.saturating_sub(lower));
        // Before that it may have left before the first masqueraded one, and been overtaken.
        let flapped = first_masqueraded.is_some_and(|first| {
            Monotonic::from_ns(record.last_leaked_ns).since(Monotonic::from_ns(first)) > OVERTAKEN
        });
        ClientEntry {
            client,
            leaked_syns: record.leaked,
            masqueraded_syns: record.masqueraded,
            first_syn_ns: record.first_ns,
            last_syn_ns: record.last_ns,
            last_leaked_ns: last_leaked,
            first_masqueraded_ns: first_masqueraded,
            flapped_at_ns: flapped.then_some(record.last_leaked_ns),
            bracket: ClientBracket {
                lower_ns,
                upper_ns: first_masqueraded,
                width_seconds: width.map(|ns| ns as f64 / 1e9),
                corrected: last_leaked.is_none() || proven.is_some(),
                path_delay_from: proven.map(|_| by),
            },
            missing_syns: self.counters.missing(record.leaked + record.masqueraded),
            retransmissions: self.counters.retransmissions(),
            restarts: self.counters.restarts(),
            conflict: self.counters.conflict(),
        }
    }
}

#[cfg(test)]
mod tests {
    use Verdict::{Allowed, Denied};
    use egw_probe_common::tag::Proof;

    use super::*;

    /// SYNs of one client at (ms, counter, verdict).
    fn clients(syns: &[(u64, u64, Verdict)]) -> Clients {
        let mut clients = Clients::new(None);
        for &(ms, counter, verdict) in syns {
            clients.syn(syn(7, ms, counter, verdict));
        }
        clients
    }

    fn syn(client: u16, ms: u64, counter: u64, verdict: Verdict) -> TaggedSyn {
        TaggedSyn {
            tag: Tag::new(client, counter).unwrap(),
            verdict,
            at: Monotonic::from_ns(ms * 1_000_000),
            retransmitted: false,
        }
    }

    fn only(clients: &Clients) -> ClientEntry {
        let mut entries: Vec<ClientEntry> = clients.entries().collect();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn the_bracket_runs_from_the_last_leak_to_the_first_masqueraded_syn_and_is_corrected_where_that_is_proven()
     {
        let mut clients = clients(&[(10, 0, Denied), (20, 1, Denied), (30, 2, Allowed), (40, 3, Allowed)]);
        let entry = only(&clients);
        assert_eq!((entry.leaked_syns, entry.masqueraded_syns), (2, 2));
        assert_eq!((entry.missing_syns, entry.restarts, entry.flapped_at_ns), (0, 0, None));
        let bracket = |lower_ns, corrected, path_delay_from| ClientBracket {
            lower_ns: Some(lower_ns),
            upper_ns: Some(30_000_000),
            width_seconds: Some((30_000_000 - lower_ns) as f64 / 1e9),
            corrected,
            path_delay_from,
        };
        assert_eq!(entry.bracket, bracket(20_000_000, false, None));
        let mut record = clients.by_number[7].as_ref().unwrap().record;
        // The last leaked handshake did not survive the switch: an earlier one proves what it can.
        for (proof, by) in [
            (Proof { lower_ns: 8_000_000, by_ns: 10_000_000 }, PathDelay::SameClient),
            (Proof { lower_ns: 18_000_000, by_ns: 20_000_000 }, PathDelay::OwnHandshake),
        ] {
            record.prove(proof);
            clients.set_record(7, record);
            assert_eq!(only(&clients).bracket, bracket(proof.lower_ns, true, Some(by)));
        }
    }

    #[test]
    fn a_client_that_leaked_nothing_has_no_lower_end_to_correct() {
        let bracket = only(&clients(&[(10, 0, Allowed), (20, 1, Allowed), (30, 2, Allowed)])).bracket;
        assert_eq!((bracket.lower_ns, bracket.upper_ns, bracket.corrected), (None, Some(10_000_000), true));
    }

    #[test]
    fn a_leak_that_may_have_been_overtaken_is_no_flap_and_neither_moves_the_bracket() {
        let syns = [(10, 0, Denied), (20, 1, Allowed), (1_020, 2, Denied), (1_030, 3, Allowed)];
        let entry = only(&clients(&syns));
        assert_eq!((entry.bracket.lower_ns, entry.bracket.upper_ns), (Some(10_000_000), Some(20_000_000)));
        assert_eq!(entry.flapped_at_ns, None);
        let entry = only(&clients(&[&syns[..], &[(1_040, 4, Denied)]].concat()));
        assert_eq!((entry.bracket.lower_ns, entry.bracket.upper_ns), (Some(10_000_000), Some(20_000_000)));
        assert_eq!(entry.flapped_at_ns, Some(1_040_000_000));
        assert_eq!(
            only(&clients(&[(10, 0, Denied), (20, 1, Denied), (9_000, 2, Denied)])).flapped_at_ns,
            None
        );
    }

    #[test]
    fn what_its_counters_tell_is_in_its_entry() {
        let mut clients =
            clients(&[(10, 0, Denied), (1_020, 2, Denied), (1_021, 1, Denied), (1_030, 5, Denied)]);
        clients.syn(TaggedSyn { retransmitted: true, ..syn(7, 2_000, 5, Denied) });
        let entry = only(&clients);
        assert_eq!(
            (entry.leaked_syns, entry.missing_syns, entry.retransmissions, entry.restarts, entry.conflict),
            (5, 2, 1, 0, false)
        );
    }

    #[test]
    fn a_client_exists_once_no_foreign_syns_explain_its_own() {
        let clients = clients(&[(10, 0, Denied), (20, 1, Allowed)]);
        assert_eq!(clients.entries().count(), 0);
        assert_eq!(clients.progress(), Progress { expected: 4095, uncertain: 1, ..Progress::default() });
        // Where the user knows its number, one from inside the CIDRs will do.
        for (verdict, seen) in [(Denied, 0), (Allowed, 1)] {
            let mut named = Clients::new(Some(7));
            named.syn(syn(7, 10, 40, verdict));
            let progress = named.progress();
            assert_eq!((progress.seen, progress.masqueraded, progress.uncertain), (seen, seen, 1 - seen));
        }
    }

    #[test]
    fn a_million_foreign_syns_make_no_client_and_spoil_the_counts_of_few() {
        let table = ClientTable::new(None, TagKey::default());
        let mut random = fastrand::Rng::with_seed(1);
        let mut foreign = |count: u64| {
            for number in 0..count {
                let at = Monotonic::from_ns(number * 1_000_000);
                table.syn(random.u32(..), Denied, at, false);
            }
            let progress = table.lock().progress();
            (progress.seen, progress.uncertain)
        };
        assert_eq!(foreign(5_000), (0, 24));
        // One SYN in 256: by now most numbers have been taken for a client's at least once.
        assert_eq!(foreign(995_000), (0, 2_588));
    }

    #[test]
    fn numbers_above_those_expected_are_not_taken() {
        let mut clients = Clients::new(Some(10));
        clients.syn(syn(11, 5, 0, Allowed));
        clients.syn(syn(10, 5, 0, Allowed));
        assert_eq!(clients.entries().map(|entry| entry.client).collect::<Vec<_>>(), [10]);
    }

    #[test]
    fn each_clients_delay_is_told_once() {
        let mut clients = Clients::new(Some(10));
        for (client, ms, counter, verdict) in [(1, 10, 0, Denied), (2, 15, 0, Allowed), (1, 40, 1, Allowed)] {
            clients.syn(syn(client, ms, counter, verdict));
        }
        assert_eq!(clients.new_delays(), [Duration::from_millis(30), Duration::ZERO]);
        assert!(clients.new_delays().is_empty(), "each is told once");
        (0..3).for_each(|counter| assert!(clients.syn(syn(3, 50, counter, Denied))));
        let expected = Progress { expected: 10, seen: 3, masqueraded: 2, leaking: 1, ..Progress::default() };
        assert_eq!(clients.progress(), expected);
    }
}
