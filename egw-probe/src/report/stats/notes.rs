//! What to keep in mind about a run's numbers. Pure.

use crate::document::outcome::Outcome;
use crate::report::data::figures::clients;
use crate::report::read::corpus::Corpus;
use crate::report::stats::nodes::FEWEST;
use crate::report::stats::sample::nodes;

/// What confidence rests on.
fn of_chance(corpus: &Corpus) -> [Option<String>; 2] {
    let few = (1..100).contains(&corpus.clients.len());
    let shared = match nodes(&corpus.clients) {
        _ if corpus.clients.len() < 2 => None,
        None => Some(
            "clients of one node share their fate, and not every client names its node (--label node=NAME): confidence and tests \
             take each one for independent, and are too sure where they are not; repeat runs"
                .to_owned(),
        ),
        Some(nodes @ ..FEWEST) => Some(format!("{nodes} nodes are too few for confidence: clients of one share their fate")),
        Some(_) => None,
    };
    [few.then(|| format!("of {} the p99 is the slowest one", clients(corpus.clients.len() as u64))), shared]
}

/// One line for each thing to keep in mind.
pub(crate) fn notes(corpus: &Corpus) -> Vec<String> {
    of_clients(corpus).into_iter().chain(of_reading(corpus)).chain(of_chance(corpus)).flatten().collect()
}

/// So many of one kind, in words; nothing of none.
fn of(count: u64, one: &str, many: &str) -> Option<String> {
    (count > 0).then(|| if count == 1 { format!("1 {one}") } else { format!("{count} {many}") })
}

/// What the clients themselves leave open.
fn of_clients(corpus: &Corpus) -> [Option<String>; 6] {
    let blind = corpus.clients.iter().filter(|one| one.delay.is_without_lower_end()).count() as u64;
    let unknown_leaks = corpus.clients.iter().filter(|one| one.leak_seconds.is_none()).count() as u64;
    [
        of(
            blind,
            "client has no lower end: no probe of it is known to have leaked, so its delay is only known as 'up to'",
            "clients have no lower end: no probe of theirs is known to have leaked, so their delays are only known as 'up to'",
        ),
        of(
            corpus.outcomes[Outcome::Timeout as usize],
            "probe timed out: only the target with --ebpf can tell whether it leaked",
            "probes timed out: only the target with --ebpf can tell whether they leaked",
        ),
        of(
            corpus.open_disruptions,
            "disruption has no end: the watch ended inside it",
            "disruptions have no end: the watches ended inside them",
        ),
        of(corpus.warned, "client called its numbers weak", "clients called their numbers weak"),
        of(corpus.own_gates_failed, "client failed gates of its own", "clients failed gates of their own"),
        of(
            unknown_leaks,
            "client tells nothing of how long it leaked (no whole timeline)",
            "clients tell nothing of how long they leaked (no whole timeline)",
        ),
    ]
}

/// What was read more than once, or passed over.
fn of_reading(corpus: &Corpus) -> [Option<String>; 7] {
    let mut names: Vec<&str> = corpus.clients.iter().map(|client| client.name.as_str()).collect();
    names.sort_unstable();
    let names_again = names.chunk_by(|a, b| a == b).filter(|same| same.len() > 1).count() as u64;
    [
        of(
            corpus.of_reports,
            "client is one of an earlier report, which keeps no more than its bracket, rounded outward",
            "clients are those of an earlier report, which keeps no more than their brackets, rounded outward",
        ),
        of(
            names_again,
            "client has several results (a Pod that ran again, or a shared name): each counts",
            "clients have several results (Pods that ran again, or shared names): each counts",
        ),
        of(
            corpus.read_again,
            "result was read twice and counts once",
            "results were read twice and count once",
        ),
        of(
            corpus.tags_of_known_clients,
            "entry of a target's /clients is of a client with a result of its own, which counts alone",
            "entries of a target's /clients are of clients with results of their own, which count alone",
        ),
        of(corpus.log_lines, "log line was passed over", "log lines were passed over"),
        of(
            corpus.foreign_lines,
            "line of another program was passed over",
            "lines of other programs were passed over",
        ),
        of(corpus.reports, "report of ours was passed over", "reports of ours were passed over"),
    ]
}
