//! The report as one self-contained page: no script, no network, light and dark. Every number of a picture stands in a table, too.
//! What it looks like is `page.html` and `page.css`; here is what stands in it.

use askama::Template;
use plotters::style::RGBColor;

use crate::document::outcome::Outcome;
use crate::report::data::figures::{count, seconds};
use crate::report::data::run::{Report, Run};
use crate::report::read::corpus::Corpus;
use crate::report::write::colours::colour;
use crate::report::write::plots;
use crate::report::write::words::{self, CONFIDENCE, OF_THESE, bounds, longest, share, verdict};

/// Addresses named of those that a target refused.
const SOURCES: usize = 20;

/// Writes a report as HTML.
pub(crate) fn page(report: &Report, corpus: &Corpus) -> String {
    let run = &report.run;
    let read = &run.read;
    let page = Page {
        report,
        run,
        title: format!("Egress gateway report: {}", words::clients(run.clients.total)),
        cards: cards(run),
        delays: Delays::of(report),
        comparison: Comparison::of(report),
        timelines: timelines(run, corpus),
        leaks: leaks(run, corpus),
        disruptions: Disruptions::of(run, corpus),
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
#[template(path = "page.html")]
struct Page<'a> {
    report: &'a Report,
    run: &'a Run,
    title: String,
    cards: [Card; 6],
    delays: Delays,
    comparison: Option<Comparison>,
    timelines: Vec<Figure>,
    leaks: Option<Figure>,
    disruptions: Option<Disruptions>,
    worst: Table,
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
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[&'static str], rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self { columns: columns.to_vec(), rows: rows.into_iter().collect() }
    }
}

/// A picture; without it only its caption is told.
struct Figure {
    id: &'static str,
    svg: Option<String>,
    caption: String,
    legend: Vec<Mark>,
}

/// An entry of a legend.
enum Mark {
    Outcome(Swatch),
    /// A colour of the style sheet, and what has it.
    Line(&'static str, &'static str),
    /// A class of the style sheet, and what looks like it.
    Shape(&'static str, &'static str),
}

/// An outcome with its colour.
struct Swatch {
    colour: String,
    name: &'static str,
}

impl Swatch {
    fn of(outcome: Outcome) -> Self {
        let RGBColor(r, g, b) = colour(outcome);
        Self { colour: format!("#{r:02X}{g:02X}{b:02X}"), name: outcome.name() }
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
    distribution: Figure,
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
            quantiles: Table::new(&["", OF_THESE, CONFIDENCE], quantiles),
            longest: longest(run),
            distribution: distribution(report),
            probes: probes
                .filter(|(_, probes)| *probes > 0)
                .map(|(one, probes)| (Swatch::of(one), count(probes)))
                .collect(),
            times: Table::new(&["", "p50", "p99", "max", "all clients"], times),
        }
    }
}

fn distribution(report: &Report) -> Figure {
    let (run, other) = (&report.run, report.compared_with.as_ref());
    let runs = [Mark::Line("run", "this run"), Mark::Line("other", "the other run")];
    Figure {
        id: "distribution",
        svg: plots::distribution(run, other),
        caption: "Share of clients that were masqueraded by then. It lies inside the band, whatever the delays were: between the \
                  distribution of the brackets' upper ends, right, and that of their lower ends, left. Bars are the 95 % confidence \
                  intervals of p50, p90, p95 and p99, where clients are taken as an independent sample. The right edge ends below \
                  100 % by the share of clients that never got through."
            .to_owned(),
        legend: other.map_or(vec![], |_| runs.into()),
    }
}

struct Comparison {
    verdict: String,
    runs: Table,
    findings: Vec<String>,
    trend: Table,
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
            runs: Table::new(&["", "clients", "not masqueraded", "leaked", "p50", "p99"], runs),
            findings: words::findings(comparison),
            trend: trend(report),
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

/// All clients together where there are too many for a row each, and the rows.
fn timelines(run: &Run, corpus: &Corpus) -> Vec<Figure> {
    let outcomes = || {
        let present = Outcome::ALL.into_iter().filter(|one| corpus.outcomes[*one as usize] > 0);
        present.map(|one| Mark::Outcome(Swatch::of(one))).collect::<Vec<_>>()
    };
    let many = corpus.clients.len() > plots::MOST_ROWS;
    let density = many.then(|| Figure {
        id: "density",
        svg: plots::density(corpus, run),
        caption: format!(
            "All clients together: how many were not masqueraded at a time, by what became of their probes, up to {}.",
            seconds(plots::extent(corpus, run))
        ),
        legend: outcomes(),
    });
    let mut legend = outcomes();
    legend.push(Mark::Shape("bracket", "bracket"));
    if corpus.timelines().iter().any(|kept| kept.policy_switch.is_some()) {
        legend.push(Mark::Shape("switch", "policy switched"));
    }
    let caption = match (many, corpus.timelines().len()) {
        (_, 0) => "No result has a timeline: metrics have none.".to_owned(),
        (true, timelines) => format!(
            "The {} worst of {} clients, one row each, the worst at the top.",
            plots::WORST_ROWS.min(timelines),
            count(corpus.clients.len() as u64)
        ),
        (false, _) => {
            "One row for each client, the worst at the top. Inside its bracket the policy became effective."
                .to_owned()
        }
    };
    let rows = Figure { id: "timelines", svg: plots::timelines(corpus), caption, legend };
    density.into_iter().chain([rows]).collect()
}

fn leaks(run: &Run, corpus: &Corpus) -> Option<Figure> {
    let (svg, width) = plots::leaks(corpus, run)?;
    let caption = format!("Leaked probes of all clients; each bar stands for {}.", seconds(width));
    Some(Figure { id: "leaks", svg: Some(svg), caption, legend: vec![] })
}

/// From which addresses probes leaked, and by which egress IPs pongs came.
fn addresses(run: &Run) -> Table {
    let any = run.clients.leaked > 0 || run.leaked_connections.total() > 0;
    let leaked = any.then(|| vec!["leaked".to_owned(), words::leaked(run)]);
    let leaks = words::leaks(run).into_iter().map(|line| vec!["leaked from".to_owned(), line]);
    let ips = words::egress_ips(run).into_iter().map(|line| vec!["egress IP".to_owned(), line]);
    Table::new(&["", "address, probes, clients"], leaked.into_iter().chain(leaks).chain(ips))
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
            summary: format!(
                "{} in {} clients: {}; {} without an end.",
                count(disruptions.total),
                count(run.clients.disrupted),
                words::kinds(disruptions),
                count(disruptions.open)
            ),
            figure: Figure {
                id: "disruptions",
                svg: plots::disruptions(corpus),
                caption: "The longest disruptions, in the order of their beginning: dark what is certain, pale what the probes allow."
                    .to_owned(),
                legend: vec![],
            },
            longest: Table::new(&["client", "kind", "began at", "length", "misses"], rows),
        })
    }
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
