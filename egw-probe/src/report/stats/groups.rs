//! Clients in groups, by the values of a label. Pure.

use std::collections::HashSet;

use crate::report::data::client::{ClientResult, Verdict};
use crate::report::data::run::{Clients, Group, Groups};
use crate::report::read::corpus::Corpus;
use crate::report::stats::sample::{Sample, quantiles};

/// Groups that are told; all are counted.
const TOLD: usize = 1_000;

/// The groups of a corpus, the slowest first; `None` where none were asked for.
pub(crate) fn groups(corpus: &Corpus) -> Option<Groups> {
    let label = corpus.by.clone()?;
    let mut clients: Vec<&ClientResult> = corpus.clients.iter().collect();
    clients.sort_by_key(|one| one.group);
    let of = |group: &[&ClientResult]| {
        let clients: Vec<ClientResult> = group.iter().map(|one| (*one).clone()).collect();
        let number = usize::from(clients[0].group);
        Group {
            value: number.checked_sub(1).map(|place| corpus.groups.names()[place].clone()),
            clients: count_clients(&clients),
            quantiles: quantiles(&Sample::of(&clients, |delay| delay)),
        }
    };
    let mut groups: Vec<Group> = clients.chunk_by(|a, b| a.group == b.group).map(of).collect();
    let latest = |group: &Group| {
        let p95 = group.quantiles.iter().find(|one| one.name == "p95").map(|p95| p95.of_this_run);
        let end = |end: Option<f64>| end.unwrap_or(f64::INFINITY);
        p95.map_or((0.0, 0.0), |p95| (end(p95.upper_seconds), end(p95.lower_seconds)))
    };
    groups.sort_by(|a, b| {
        let ((a_upper, a_lower), (b_upper, b_lower)) = (latest(a), latest(b));
        b_upper.total_cmp(&a_upper).then(b_lower.total_cmp(&a_lower)).then_with(|| a.value.cmp(&b.value))
    });
    let total = groups.len();
    groups.truncate(TOLD);
    Some(Groups { label, total, groups })
}

/// How many clients there are of each kind.
pub(crate) fn count_clients(clients: &[ClientResult]) -> Clients {
    let count = |is: &dyn Fn(&ClientResult) -> bool| clients.iter().filter(|one| is(one)).count() as u64;
    Clients {
        total: clients.len() as u64,
        distinct: clients.iter().map(|one| one.name.as_str()).collect::<HashSet<_>>().len() as u64,
        masqueraded: count(&|one| one.verdict == Verdict::Masqueraded),
        timed_out: count(&|one| one.verdict == Verdict::TimedOut),
        unfinished: count(&|one| one.verdict == Verdict::Unfinished),
        leaked: count(&|one| one.leaked > 0),
        blackholed: count(&|one| one.blackhole_seconds > 0.0),
        disrupted: count(&|one| one.disruptions > 0),
    }
}
