//! The report as one self-contained page: no script, no network, light and dark. Every number of a picture stands in a table, too.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::plots;
use super::words::{self, bounds, columns, difference, escape, longest, share, verdict};
use crate::document::outcome::Outcome;
use crate::report::data::figures::{count, seconds};
use crate::report::data::run::{Report, Run};
use crate::report::read::corpus::Corpus;

/// The style sheet. It exchanges the pictures' colours where the page is dark.
const STYLE: &str = include_str!("page.css");

/// Writes a report as HTML.
pub fn page(report: &Report, corpus: &Corpus) -> String {
    let run = &report.run;
    let title = format!("Egress gateway report: {}", words::clients(run.clients.total));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    header(&mut page, report);
    gates(&mut page, report);
    delays(&mut page, report);
    comparison(&mut page, report);
    pictures(&mut page, run, corpus);
    disruptions(&mut page, run, corpus);
    worst(&mut page, run);
    sources(&mut page, run);
    settings(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn header(page: &mut String, report: &Report) {
    let run = &report.run;
    let clients = &run.clients;
    let when = run.started.as_ref().map_or(String::new(), |[first, last]| {
        let (first, last) = (escape(first), escape(last));
        format!("<p class=\"when\">Clients started from <time>{first}</time> to <time>{last}</time></p>")
    });
    let _ = writeln!(page, "<header>\n<h1>Egress gateway report</h1>\n{when}\n</header>");
    let quantile = |name| run.delay.quantile(name).map_or("unknown".to_owned(), |one| bounds(one.estimate));
    let failed = clients.timed_out + clients.unfinished;
    let cards = [
        ("clients", count(clients.total), ""),
        ("masqueraded", share(clients.masqueraded, clients.total), "good"),
        ("timed out or unfinished", share(failed, clients.total), if failed > 0 { "bad" } else { "" }),
        ("leaked", share(clients.leaked, clients.total), if clients.leaked > 0 { "leak" } else { "" }),
        ("delay, p50", quantile("p50"), ""),
        ("delay, p99", quantile("p99"), ""),
    ];
    page.push_str("<dl class=\"cards\">\n");
    for (name, value, class) in cards {
        let value = value.replace(" %", "&nbsp;%").replace(" ms", "&nbsp;ms");
        let _ = writeln!(page, "<div class=\"{class}\"><dt>{name}</dt><dd>{value}</dd></div>");
    }
    page.push_str("</dl>\n");
    if run.read.skipped > 0 {
        let _ = writeln!(
            page,
            "<p class=\"warning\"><strong>{} documents could not be read</strong> and are not in these numbers: \
             <a href=\"#read\">which, and why</a>.</p>",
            count(run.read.skipped)
        );
    }
}

fn gates(page: &mut String, report: &Report) {
    if report.gates.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Gates</h2>\n");
    let rows = report.gates.iter().map(|gate| {
        let verdict = if gate.passed {
            "<span class=\"passed\">passed</span>"
        } else {
            "<span class=\"failed\">FAILED</span>"
        };
        vec![format!("<code>{}</code>", escape(&gate.gate)), verdict.to_owned(), escape(&gate.found)]
    });
    table(page, &["gate", "verdict", "found"], rows);
    page.push_str("</section>\n");
}

fn delays(page: &mut String, report: &Report) {
    let run = &report.run;
    page.push_str("<section>\n<h2>Delay</h2>\n");
    let rows = run.delay.quantiles.iter().map(|quantile| {
        let values = [quantile.estimate, quantile.confidence, quantile.of_this_run].map(bounds);
        std::iter::once(quantile.name.to_owned()).chain(values).collect()
    });
    let [estimate, confidence] = columns(&run.delay);
    table(page, &["", estimate, confidence, "of these very clients"], rows);
    let _ = writeln!(page, "<p>The longest delay: {}.</p>", longest(run));
    let caption = format!(
        "Distribution of the delays; steps: {}. The line is the latest that the brackets allow; the shade is where inside a bracket \
         a client may have been earlier; bars are the 95 % confidence intervals of p50, p90, p95 and p99. The line ends below 100 % \
         by the share of clients that never got through.",
        count(run.delay.steps as u64)
    );
    let legend = if report.compared_with.is_some() {
        "<p class=\"legend\"><span><i style=\"background:var(--run)\"></i>this run</span>\
         <span><i style=\"background:var(--other)\"></i>the other run</span></p>"
    } else {
        ""
    };
    figure(page, "distribution", plots::distribution(run, report.compared_with.as_ref()), &caption, legend);
    page.push_str("<div class=\"columns\">\n<div>\n<h3>Probes</h3>\n");
    let probes = Outcome::ALL.iter().map(|one| (one, run.probes_of(*one))).filter(|(_, probes)| *probes > 0);
    table(page, &["outcome", "probes"], probes.map(|(one, probes)| vec![swatch(*one), count(probes)]));
    page.push_str("</div>\n<div>\n<h3>Time per client</h3>\n");
    let times = [("leaking", run.leak.as_ref()), ("blackhole", Some(&run.blackhole))];
    let rows = times.into_iter().filter_map(|(what, times)| Some((what, times?))).map(|(what, times)| {
        let values =
            [times.p50_seconds, times.p99_seconds, times.max_seconds, times.total_seconds].map(seconds);
        std::iter::once(what.to_owned()).chain(values).collect()
    });
    table(page, &["", "p50", "p99", "max", "all clients"], rows);
    page.push_str("</div>\n</div>\n</section>\n");
}

fn comparison(page: &mut String, report: &Report) {
    let (Some(comparison), Some(other)) = (&report.comparison, &report.compared_with) else { return };
    let _ = writeln!(page, "<section>\n<h2>Comparison</h2>\n<p><strong>{}</strong></p>", verdict(comparison));
    let runs = [("this run", &report.run), ("the other run", other)].map(|(name, run)| {
        let quantile =
            |name| run.delay.quantile(name).map_or("unknown".to_owned(), |one| bounds(one.estimate));
        vec![
            name.to_owned(),
            count(run.clients.total),
            share(run.clients.timed_out + run.clients.unfinished, run.clients.total),
            share(run.clients.leaked, run.clients.total),
            quantile("p50"),
            quantile("p99"),
        ]
    });
    table(page, &["", "clients", "not masqueraded", "leaked", "p50", "p99"], runs);
    let _ = writeln!(
        page,
        "<p>Medians differ by {}; with 95 % confidence (conservative) by {}. {} {} \
         permutations.</p>\n</section>",
        difference(comparison.median_difference),
        difference(comparison.median_difference_confidence),
        comparison.method,
        count(u64::from(comparison.shuffles))
    );
}

fn pictures(page: &mut String, run: &Run, corpus: &Corpus) {
    page.push_str("<section>\n<h2>Timelines</h2>\n");
    let present = |one: &Outcome| corpus.outcomes[*one as usize] > 0;
    let outcomes =
        Outcome::ALL.into_iter().filter(present).map(|one| format!("<span>{}</span>", swatch(one)));
    let outcomes = outcomes.collect::<Vec<_>>().concat();
    let switch = corpus.timelines().iter().any(|kept| kept.policy_switch.is_some());
    let marks = if switch {
        "<span><i class=\"bracket\"></i>bracket</span><span><i class=\"switch\"></i>policy switched</span>"
    } else {
        "<span><i class=\"bracket\"></i>bracket</span>"
    };
    let many = corpus.clients.len() > plots::MOST_ROWS;
    if many {
        let caption = format!(
            "All clients together: how many were not masqueraded at a time, by what became of their probes, up to {}.",
            seconds(plots::extent(corpus, run))
        );
        figure(
            page,
            "density",
            plots::density(corpus, run),
            &caption,
            &format!("<p class=\"legend\">{outcomes}</p>"),
        );
    }
    let caption = match (many, corpus.timelines().is_empty()) {
        (_, true) => "No result has a timeline: metrics have none.".to_owned(),
        (true, false) => format!(
            "The {} worst of {} clients, one row each, the worst at the top.",
            plots::WORST_ROWS.min(corpus.timelines().len()),
            count(corpus.clients.len() as u64)
        ),
        (false, false) => {
            "One row for each client, the worst at the top. Inside its bracket the policy became effective."
                .to_owned()
        }
    };
    figure(
        page,
        "timelines",
        plots::timelines(corpus),
        &caption,
        &format!("<p class=\"legend\">{outcomes}{marks}</p>"),
    );
    if let Some((svg, width)) = plots::leaks(corpus, run) {
        let caption = format!("Leaked probes of all clients; each bar stands for {}.", seconds(width));
        page.push_str("<h2>Leaks over time</h2>\n");
        figure(page, "leaks", Some(svg), &caption, "");
    }
    page.push_str("</section>\n");
}

fn disruptions(page: &mut String, run: &Run, corpus: &Corpus) {
    if run.disruptions.total == 0 {
        return;
    }
    page.push_str("<section>\n<h2>Disruptions</h2>\n");
    let kinds = run.disruptions.by_kind.iter().filter(|(_, number)| **number > 0);
    let kinds: Vec<String> = kinds.map(|(kind, number)| format!("{} {kind}", count(*number))).collect();
    let _ = writeln!(
        page,
        "<p>{} in {} clients: {}; {} without an end.</p>",
        count(run.disruptions.total),
        count(run.clients.disrupted),
        kinds.join(", "),
        count(run.disruptions.open)
    );
    let caption = "The longest disruptions, in the order of their beginning: dark what is certain, pale what the probes allow.";
    figure(page, "disruptions", plots::disruptions(corpus), caption, "");
    let rows = run.disruptions.longest.iter().map(|one| {
        let length =
            if one.length.upper_seconds.is_some() { bounds(one.length) } else { "no end".to_owned() };
        vec![
            escape(&one.client_id),
            one.kind.to_owned(),
            seconds(one.start_seconds),
            length,
            count(one.misses),
        ]
    });
    table(page, &["client", "kind", "began at", "length", "misses"], rows);
    page.push_str("</section>\n");
}

fn worst(page: &mut String, run: &Run) {
    page.push_str("<section>\n<h2>Worst clients</h2>\n");
    let rows = run.worst.iter().map(|one| {
        vec![
            escape(&one.client_id),
            one.outcome.to_owned(),
            bounds(one.delay),
            count(one.leaked_probes),
            one.leak_seconds.map_or("unknown".to_owned(), seconds),
            seconds(one.blackhole_seconds),
            count(one.disruptions),
        ]
    });
    table(page, &["client", "outcome", "delay", "leaked", "leaking", "blackhole", "disruptions"], rows);
    page.push_str("</section>\n");
}

fn sources(page: &mut String, run: &Run) {
    let Some(sources) = &run.sources else { return };
    let syns = sources.allowed_syns.zip(sources.denied_syns).map_or(String::new(), |(allowed, denied)| {
        format!(" Its kernel saw {} SYNs from inside and {} from outside.", count(allowed), count(denied))
    });
    let _ = writeln!(
        page,
        "<section>\n<h2>What the target saw</h2>\n<p>{} connections from inside the CIDRs, {} from outside.{syns}</p>",
        count(sources.allowed_connections),
        count(sources.denied_connections)
    );
    let rows =
        sources.denied_from.iter().take(20).map(|(address, number)| vec![escape(address), count(*number)]);
    table(page, &["address outside", "connections"], rows);
    page.push_str("</section>\n");
}

fn settings(page: &mut String, report: &Report) {
    let run = &report.run;
    page.push_str("<section>\n<h2>Settings</h2>\n");
    table(
        page,
        &["results", "settings"],
        run.settings.iter().map(|(one, results)| vec![count(*results), escape(one)]),
    );
    page.push_str("</section>\n<section id=\"read\">\n<h2>What was read</h2>\n");
    let _ = writeln!(
        page,
        "<p>{} results, {} documents skipped.</p>",
        count(run.read.results),
        count(run.read.skipped)
    );
    let documents = run.read.skipped_documents.iter();
    table(page, &["skipped", "why"], documents.map(|one| vec![escape(&one.place), escape(&one.reason)]));
    page.push_str("<ul>\n");
    for note in &run.notes {
        let _ = writeln!(page, "<li>{}</li>", escape(note));
    }
    page.push_str("</ul>\n<h2>Methods</h2>\n<ul>\n");
    for method in report.methods {
        let _ = writeln!(page, "<li>{}</li>", escape(method));
    }
    let version = report.version;
    let _ = writeln!(page, "</ul>\n<p class=\"when\">Written by egw-probe {version}.</p>\n</section>");
}

/// An outcome with its colour.
fn swatch(outcome: Outcome) -> String {
    let RGBColor(r, g, b) = plots::colour(outcome);
    // As an SVG, so that the style sheet exchanges its colour like those of the pictures.
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect width=\"10\" height=\"10\" rx=\"2\" \
         fill=\"#{r:02X}{g:02X}{b:02X}\"/></svg>{}",
        outcome.name()
    )
}

/// A picture with its caption, which is its name for those who do not see it.
fn figure(page: &mut String, id: &str, svg: Option<String>, caption: &str, legend: &str) {
    let Some(svg) = svg else {
        let _ = writeln!(page, "<p class=\"when\">Nothing to draw. {caption}</p>");
        return;
    };
    let _ = writeln!(
        page,
        "<figure id=\"{id}\">\n{legend}<div class=\"picture\" role=\"img\" aria-label=\"{caption}\">{svg}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>"
    );
}

/// A table; nothing without rows. Cells are HTML.
fn table(page: &mut String, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return;
    }
    page.push_str("<div class=\"table\"><table>\n<thead><tr>");
    for column in columns {
        let _ = write!(page, "<th scope=\"col\">{column}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = match index {
                0 => write!(page, "<th scope=\"row\">{cell}</th>"),
                _ => write!(page, "<td>{cell}</td>"),
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
}
