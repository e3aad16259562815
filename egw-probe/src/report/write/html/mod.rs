//! The report as one self-contained page: no network, light and dark, on paper and on a phone. It reads without its script, which
//! only makes the table of clients one to search and sort. Every number of a picture stands in a table, too. What it looks like is
//! `page.html` and `page.css`; here is what stands in it.

mod clients;
mod figures;

use askama::Template;

use crate::document::outcome::Outcome;
use crate::report::data::figures::{count, seconds};
use crate::report::data::run::{GateState, Report, Run};
use crate::report::read::corpus::Corpus;
use crate::report::write::html::clients::Clients;
use crate::report::write::html::figures::{Figure, Mark, Swatch};
use crate::report::write::words::{self, OF_THESE, bounds, longest, share, verdict};

/// Addresses named of those that a target refused.
const SOURCES: usize = 20;

/// Writes a report as HTML.
pub(crate) fn page(report: &Report, corpus: &Corpus) -> String {
    let run = &report.run;
    let read = &run.read;
    let page = Page {
        report,
        run,
        nonce: format!("{:032x}", fastrand::u128(..)),
        banner: Banner::of(report),
        cards: cards(run),
        delays: Delays::of(report),
        comparison: Comparison::of(report),
        timelines: figures::timelines(run, corpus),
        leaks: figures::leaks(run, corpus),
        clients: Clients::of(corpus),
        disruptions: Disruptions::of(run, corpus),
        groups: groups(run),
        worst: worst(run),
        addresses: addresses(run),
        loss: run.loss.as_ref().map(words::loss),
        sources: Sources::of(run),
        settings: Table::new(
            &["results", "settings"],
            run.settings.iter().map(|(one, results)| vec![count(*results), one.clone()]),
        ),
        results: count(read.results),
        skipped: count(read.skipped),
        unread: Table::new(
            &["skipped", "why"],
            read.skipped_documents.iter().map(|one| vec![one.place.clone(), one.reason.clone()]),
        ),
    };
    page.render().expect("writing to a String cannot fail")
}

#[derive(Template)]
#[template(path = "html/page.html")]
struct Page<'a> {
    report: &'a Report,
    run: &'a Run,
    /// What the page's own scripts are known by: nothing that was read can know it.
    nonce: String,
    banner: Banner,
    cards: [Card; 6],
    delays: Delays,
    comparison: Option<Comparison>,
    timelines: Vec<Figure>,
    leaks: Option<Figure>,
    disruptions: Option<Disruptions>,
    groups: Option<(String, Table)>,
    worst: Table,
    clients: Clients,
    addresses: Table,
    loss: Option<String>,
    sources: Option<Sources>,
    settings: Table,
    results: String,
    skipped: String,
    unread: Table,
}

/// A table; nothing without rows.
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self {
            columns: columns.iter().map(|one| (*one).to_owned()).collect(),
            rows: rows.into_iter().collect(),
        }
    }
}

/// The verdict, before anything else.
struct Banner {
    /// A class of the style sheet.
    class: &'static str,
    verdict: String,
    /// What it rests on, a line each.
    because: Vec<String>,
    title: String,
}

impl Banner {
    fn of(report: &Report) -> Self {
        let clients = &report.run.clients;
        let through =
            format!("{} of {} masqueraded", count(clients.masqueraded), words::clients(clients.total));
        let any = |state| report.gates.iter().any(|gate| gate.state == state);
        let (class, word) = match (any(GateState::Failed), any(GateState::CannotTell)) {
            (true, _) => ("bad", "FAILED"),
            (_, true) => ("unsure", "CANNOT TELL"),
            _ if report.gates.is_empty() && clients.masqueraded < clients.total => ("unsure", ""),
            _ if report.gates.is_empty() => ("", ""),
            _ => ("good", "PASSED"),
        };
        let broken = report.gates.iter().filter(|gate| !gate.passed);
        let because = broken.map(|gate| format!("{}: {}", gate.gate, gate.found)).collect();
        let verdict = words::judged(report).map_or(through.clone(), |judged| format!("{through}: {judged}"));
        let title = format!("Egress gateway report: {}", words::clients(clients.total));
        let title = if word.is_empty() { title } else { format!("{word}: {title}") };
        Self { class, verdict, because, title }
    }
}

struct Card {
    name: &'static str,
    value: String,
    class: &'static str,
}

fn quantile(run: &Run, name: &str) -> String {
    run.delay.quantile(name).map_or("unknown".to_owned(), |one| bounds(one.of_this_run))
}

fn cards(run: &Run) -> [Card; 6] {
    let clients = &run.clients;
    let failed = clients.timed_out + clients.unfinished;
    [
        ("clients", count(clients.total), ""),
        ("masqueraded", share(clients.masqueraded, clients.total), "good"),
        ("timed out or unfinished", share(failed, clients.total), if failed > 0 { "bad" } else { "" }),
        ("leaked", share(clients.leaked, clients.total), if clients.leaked > 0 { "leak" } else { "" }),
        ("delay, p50", quantile(run, "p50"), ""),
        ("delay, p99", quantile(run, "p99"), ""),
    ]
    // A unit stays with its number.
    .map(|(name, value, class)| Card {
        name,
        value: value.replace(" %", "\u{a0}%").replace(" ms", "\u{a0}ms"),
        class,
    })
}

struct Delays {
    quantiles: Table,
    longest: String,
    pictures: [Figure; 2],
    probes: Vec<(Swatch, String)>,
    times: Table,
}

impl Delays {
    fn of(report: &Report) -> Self {
        let run = &report.run;
        let quantiles = run.delay.quantiles.iter().map(|quantile| {
            let values = [quantile.of_this_run, quantile.confidence].map(bounds);
            std::iter::once(quantile.name.to_owned()).chain(values).collect()
        });
        let times = [("leaking", run.leak.as_ref()), ("blackhole", Some(&run.blackhole))];
        let times =
            times.into_iter().filter_map(|(what, times)| Some((what, times?))).map(|(what, times)| {
                let values = [times.p50_seconds, times.p99_seconds, times.max_seconds, times.total_seconds]
                    .map(seconds);
                std::iter::once(what.to_owned()).chain(values).collect()
            });
        let probes = Outcome::ALL.into_iter().map(|one| (one, run.probes_of(one)));
        Self {
            quantiles: Table::new(&["quantile", OF_THESE, &words::confidence(run)], quantiles),
            longest: longest(run),
            pictures: [figures::quantiles(report), figures::distribution(report)],
            probes: probes
                .filter(|(_, probes)| *probes > 0)
                .map(|(one, probes)| (Swatch::of(one), count(probes)))
                .collect(),
            times: Table::new(&["time", "p50", "p99", "max", "all clients"], times),
        }
    }
}

struct Comparison {
    verdict: String,
    runs: Table,
    findings: Vec<String>,
    forest: Figure,
    trend: Table,
    trend_picture: Option<Figure>,
    methods: String,
}

impl Comparison {
    fn of(report: &Report) -> Option<Self> {
        let (comparison, other) = report.comparison.as_ref().zip(report.compared_with.as_ref())?;
        let runs = [("this run", &report.run), ("the other run", other)].map(|(name, run)| {
            vec![
                name.to_owned(),
                count(run.clients.total),
                share(run.clients.timed_out + run.clients.unfinished, run.clients.total),
                share(run.clients.leaked, run.clients.total),
                quantile(run, "p50"),
                quantile(run, "p99"),
            ]
        });
        Some(Self {
            verdict: verdict(comparison),
            runs: Table::new(&["run", "clients", "not masqueraded", "leaked", "p50", "p99"], runs),
            findings: words::findings(comparison),
            forest: figures::forest(report, comparison),
            trend: trend(report),
            trend_picture: figures::trend(report),
            methods: words::methods(comparison),
        })
    }
}

fn trend(report: &Report) -> Table {
    let rows = report.trend.iter().map(|point| {
        let of = |name: &str| {
            point.quantiles.iter().find(|one| one.name == name).map(|one| bounds(one.of_this_run))
        };
        let [p50, p95] = ["p50", "p95"].map(|name| of(name).unwrap_or_default());
        let failed = share(point.clients.timed_out + point.clients.unfinished, point.clients.total);
        vec![point.name.clone(), count(point.clients.total), failed, p50, p95, words::trend(point).to_owned()]
    });
    Table::new(&["earlier run", "clients", "not masqueraded", "p50", "p95", "against this run"], rows)
}

/// From which addresses probes leaked, and by which egress IPs pongs came.
fn addresses(run: &Run) -> Table {
    let any = run.clients.leaked > 0 || run.leaked_connections.total() > 0;
    let leaked = any.then(|| vec!["leaked".to_owned(), words::leaked(run)]);
    let leaks = words::leaks(run).into_iter().map(|line| vec!["leaked from".to_owned(), line]);
    let ips = words::egress_ips(run).into_iter().map(|line| vec!["egress IP".to_owned(), line]);
    Table::new(&["seen as", "address, probes, clients"], leaked.into_iter().chain(leaks).chain(ips))
}

struct Disruptions {
    summary: String,
    figure: Figure,
    longest: Table,
}

impl Disruptions {
    fn of(run: &Run, corpus: &Corpus) -> Option<Self> {
        let disruptions = Some(&run.disruptions).filter(|disruptions| disruptions.total > 0)?;
        let rows = disruptions.longest.iter().map(|one| {
            let length =
                if one.length.upper_seconds.is_some() { bounds(one.length) } else { "no end".to_owned() };
            vec![
                one.client_id.clone(),
                one.kind.to_owned(),
                seconds(one.start_seconds),
                length,
                count(one.misses),
            ]
        });
        Some(Self {
            summary: format!("{}.", words::disruptions(run)),
            figure: figures::disruptions(run, corpus),
            longest: Table::new(&["client", "kind", "began at", "length", "misses"], rows),
        })
    }
}

/// Groups, under their label.
fn groups(run: &Run) -> Option<(String, Table)> {
    let by = run.by.as_ref()?;
    let rows = by.groups.iter().map(|group| {
        let clients = group.clients;
        let of = |name: &str| {
            group.quantiles.iter().find(|one| one.name == name).map(|one| bounds(one.of_this_run))
        };
        let [p50, p95] = ["p50", "p95"].map(|name| of(name).unwrap_or_default());
        let failed = share(clients.timed_out + clients.unfinished, clients.total);
        let leaked = share(clients.leaked, clients.total);
        vec![words::group(by, group), count(clients.total), failed, leaked, p50, p95]
    });
    let columns = [by.label.as_str(), "clients", "not masqueraded", "leaked", "p50", "p95"];
    Some((format!("By {}: {} groups", by.label, count(by.total as u64)), Table::new(&columns, rows)))
}

fn worst(run: &Run) -> Table {
    let rows = run.worst.iter().map(|one| {
        vec![
            one.client_id.clone(),
            one.outcome.to_owned(),
            bounds(one.delay),
            count(one.leaked_probes),
            one.leak_seconds.map_or("unknown".to_owned(), seconds),
            seconds(one.blackhole_seconds),
            count(one.disruptions),
        ]
    });
    Table::new(&["client", "outcome", "delay", "leaked", "leaking", "blackhole", "disruptions"], rows)
}

struct Sources {
    summary: String,
    outside: Table,
}

impl Sources {
    fn of(run: &Run) -> Option<Self> {
        let sources = run.sources.as_ref()?;
        let syns =
            sources.allowed_syns.zip(sources.denied_syns).map_or(String::new(), |(allowed, denied)| {
                format!(
                    " Its kernel saw {} SYNs from inside and {} from outside.",
                    count(allowed),
                    count(denied)
                )
            });
        let outside = sources.denied_from.iter().take(SOURCES);
        Some(Self {
            summary: format!(
                "{} connections from inside the CIDRs, {} from outside.{syns}",
                count(sources.allowed_connections),
                count(sources.denied_connections)
            ),
            outside: Table::new(
                &["address outside", "connections"],
                outside.map(|(address, number)| vec![address.clone(), count(*number)]),
            ),
        })
    }
}
