//! The pictures of the page with what stands around them: legend, caption, and the same in words for those who do not see it.

use plotters::style::RGBColor;

use crate::document::outcome::Outcome;
use crate::report::data::figures::{count, seconds};
use crate::report::data::run::{Comparison, Quantile, QuantileDifference, Report, Run};
use crate::report::read::corpus::{Corpus, KeptTimeline};
use crate::report::write::colours::colour;
use crate::report::write::plots::ranges::{Across, Row, ranges};
use crate::report::write::plots::{OTHER, RUN, crowd, delays, disruptions as longest, timelines as rows};
use crate::report::write::words::{self, bounds, difference};

/// More clients than this are drawn as the worst few and a sample, beside a picture of all.
const MOST_ROWS: usize = 200;
/// Rows of the worst few, and of the sample.
const FEW_ROWS: usize = 40;

/// A picture; without it only its caption is told.
pub(super) struct Figure {
    pub id: &'static str,
    pub svg: Option<String>,
    pub caption: String,
    /// What it shows, in words.
    pub alternative: String,
    pub legend: Vec<Mark>,
}

/// An entry of a legend.
pub(super) enum Mark {
    Outcome(Swatch),
    /// A colour of the style sheet, and what has it.
    Line(&'static str, &'static str),
    /// A class of the style sheet, and what looks like it.
    Shape(&'static str, &'static str),
}

/// An outcome with its colour.
pub(super) struct Swatch {
    pub colour: String,
    pub name: &'static str,
}

impl Swatch {
    pub(super) fn of(outcome: Outcome) -> Self {
        let RGBColor(r, g, b) = colour(outcome);
        Self { colour: format!("#{r:02X}{g:02X}{b:02X}"), name: outcome.name() }
    }
}

/// Limits of delays among the gates, and the gates' names.
fn limits(report: &Report) -> Vec<(f64, String)> {
    let of_delays = report.gates.iter().filter(|gate| gate.gate.starts_with("--max-p99"));
    of_delays.map(|gate| (gate.limit, gate.gate.clone())).collect()
}

fn runs(report: &Report) -> Vec<Mark> {
    let both = [Mark::Line("run", "this run"), Mark::Line("other", "the other run")];
    report.compared_with.as_ref().map_or(vec![], |_| both.into())
}

/// Every quantile in words.
fn told(quantiles: &[Quantile]) -> String {
    let one = |quantile: &Quantile| format!("{} {}", quantile.name, bounds(quantile.of_this_run));
    quantiles.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The quantiles of both runs, a row each.
pub(super) fn quantiles(report: &Report) -> Figure {
    let (run, other) = (&report.run, report.compared_with.as_ref());
    let row = |of: &Quantile, colour, whose: &str| Row {
        name: format!("{}{whose}", of.name),
        certain: of.of_this_run,
        confident: of.confidence,
        colour,
        tip: format!(
            "{}{whose}: {}; 95 % confidence {}",
            of.name,
            bounds(of.of_this_run),
            bounds(of.confidence)
        ),
    };
    let mut drawn = vec![];
    for of in &run.delay.quantiles {
        drawn.push(row(of, RUN, ""));
        let same = other.and_then(|other| other.delay.quantile(of.name));
        drawn.extend(same.map(|same| row(same, OTHER, ", other run")));
    }
    let across = Across { limits: limits(report), ..Across::default() };
    let alternative = match other {
        Some(other) => {
            format!("{}. The other run: {}.", told(&run.delay.quantiles), told(&other.delay.quantiles))
        }
        None => format!("{}.", told(&run.delay.quantiles)),
    };
    Figure {
        id: "quantiles",
        svg: (run.clients.total > 0).then(|| ranges(&drawn, &across, "delay since the client's start")).flatten(),
        caption: "Thick: where the quantile of these very clients lies, for certain. Thin: 95 % confidence, where they are taken as an \
                  independent sample. An arrow has no end: clients that did not get through, or too few of them."
            .to_owned(),
        alternative,
        legend: runs(report),
    }
}

/// Both distribution functions of each run.
pub(super) fn distribution(report: &Report) -> Figure {
    let (run, other) = (&report.run, report.compared_with.as_ref());
    let never = run.clients.timed_out + run.clients.unfinished;
    let beyond = match never {
        0 => String::new(),
        _ => format!(" {} did not get through: they lie beyond the right edge.", words::clients(never)),
    };
    Figure {
        id: "distribution",
        svg: delays::distribution(run, other, &limits(report)),
        caption: format!(
            "Share of clients that were masqueraded by then. It lies inside the band, whatever the delays were: between the \
             distribution of the brackets' upper ends, right, and that of their lower ends, left.{beyond}"
        ),
        alternative: format!("{}.", told(&run.delay.quantiles)),
        legend: runs(report),
    }
}

/// By how much the quantiles differ.
pub(super) fn forest(report: &Report, comparison: &Comparison) -> Figure {
    let row = |one: &QuantileDifference| {
        let (certain, confident) = (one.delay.of_these_runs, one.delay.confidence);
        let tip = format!(
            "{}: {} in these runs; 95 % confidence {}",
            one.name,
            difference(certain),
            difference(confident)
        );
        Row { name: one.name.to_owned(), certain, confident, colour: RUN, tip }
    };
    let drawn: Vec<Row> = comparison.quantiles.iter().map(row).collect();
    let equal = report.gates.iter().find(|gate| gate.gate.starts_with("--equivalent-within"));
    let across =
        Across { equal_within: equal.map(|gate| gate.limit), differences: true, ..Across::default() };
    let tips: Vec<String> = drawn.iter().map(|row| row.tip.clone()).collect();
    Figure {
        id: "differences",
        svg: ranges(&drawn, &across, "this run less the other one: right is slower"),
        caption: "By how much this run's quantiles differ. Thick: between these very clients, for certain. Thin: 95 % confidence. Where \
                  the thin line crosses zero, this quantile alone shows neither direction; the tests of all ranks may."
            .to_owned(),
        alternative: tips.join(". "),
        legend: vec![],
    }
}

/// The medians and p95 of all runs, in the given order and this one last.
pub(super) fn trend(report: &Report) -> Option<Figure> {
    if report.trend.is_empty() {
        return None;
    }
    let earlier = report.trend.iter().map(|point| (point.name.as_str(), &point.quantiles, OTHER));
    let all = earlier.chain([("this run", &report.run.delay.quantiles, RUN)]);
    let mut drawn = vec![];
    for (name, quantiles, colour) in all {
        for of in quantiles.iter().filter(|of| of.name == "p50" || of.name == "p95") {
            let name = format!("{name}, {}", of.name);
            let tip =
                format!("{name}: {}; 95 % confidence {}", bounds(of.of_this_run), bounds(of.confidence));
            drawn.push(Row { name, certain: of.of_this_run, confident: of.confidence, colour, tip });
        }
    }
    let tips: Vec<String> = drawn.iter().map(|row| row.tip.clone()).collect();
    Some(Figure {
        id: "trend",
        svg: ranges(&drawn, &Across { limits: limits(report), ..Across::default() }, "delay"),
        caption: "p50 and p95 of the earlier runs, in the order of --compare, and of this one.".to_owned(),
        alternative: tips.join(". "),
        legend: vec![],
    })
}

/// All clients together where there are too many for a row each, and the rows.
pub(super) fn timelines(run: &Run, corpus: &Corpus) -> Vec<Figure> {
    let worst: Vec<&KeptTimeline> = corpus.timelines().iter().collect();
    if worst.is_empty() {
        return vec![Figure {
            id: "timelines",
            svg: None,
            caption: "No result has a timeline: metrics have none.".to_owned(),
            alternative: String::new(),
            legend: vec![],
        }];
    }
    let inside = "Inside its bracket the policy became effective. A row with two strokes at its end goes on.";
    if corpus.clients.len() <= MOST_ROWS {
        return vec![Figure {
            id: "timelines",
            svg: rows::timelines(&worst),
            caption: format!("One row for each client, the worst at the top. {inside}"),
            alternative: in_words(run),
            legend: legend(corpus),
        }];
    }
    let (clients, until) = (count(corpus.clients.len() as u64), seconds(crowd::extent(corpus, run)));
    let few = &worst[..worst.len().min(FEW_ROWS)];
    let sample = corpus.sample(FEW_ROWS);
    vec![
        Figure {
            id: "density",
            svg: crowd::density(corpus, run),
            caption: format!(
                "All clients together: how many were not masqueraded at a time, by what became of their probes, up to {until}."
            ),
            alternative: in_words(run),
            legend: outcomes(corpus),
        },
        Figure {
            id: "sample",
            svg: rows::timelines(&sample),
            caption: format!(
                "{} of {clients} clients drawn at random, as many early as late ones, the latest at the top. {inside}",
                sample.len()
            ),
            alternative: in_words(run),
            legend: legend(corpus),
        },
        Figure {
            id: "timelines",
            svg: rows::timelines(few),
            caption: format!("The {} worst of {clients} clients, the worst at the top.", few.len()),
            alternative: "The table of the worst clients has the same in words.".to_owned(),
            legend: legend(corpus),
        },
    ]
}

/// What all probes were, in words.
fn in_words(run: &Run) -> String {
    let named = run.probes.iter().filter(|(_, probes)| **probes > 0);
    let named: Vec<String> = named.map(|(name, probes)| format!("{} {name}", count(*probes))).collect();
    format!("Probes of all clients: {}.", named.join(", "))
}

fn outcomes(corpus: &Corpus) -> Vec<Mark> {
    let present = Outcome::ALL.into_iter().filter(|one| corpus.outcomes[*one as usize] > 0);
    present.map(|one| Mark::Outcome(Swatch::of(one))).collect()
}

fn legend(corpus: &Corpus) -> Vec<Mark> {
    let mut legend = outcomes(corpus);
    legend.push(Mark::Shape("bracket", "bracket"));
    if corpus.timelines().iter().any(|kept| kept.policy_switch.is_some()) {
        legend.push(Mark::Shape("switch", "policy switched"));
    }
    legend
}

/// When probes leaked.
pub(super) fn leaks(run: &Run, corpus: &Corpus) -> Option<Figure> {
    let (svg, width) = crowd::leaks(corpus, run)?;
    Some(Figure {
        id: "leaks",
        svg: Some(svg),
        caption: format!("Leaked probes of all clients; each bar stands for {}.", seconds(width)),
        alternative: format!("{} leaked.", words::leaked(run)),
        legend: vec![],
    })
}

/// The longest disruptions.
pub(super) fn disruptions(run: &Run, corpus: &Corpus) -> Figure {
    Figure {
        id: "disruptions",
        svg: longest::disruptions(corpus),
        caption: "The longest disruptions, in the order of their beginning: dark what is certain, pale what the probes allow."
            .to_owned(),
        alternative: format!("{}. The table below has each.", words::disruptions(run)),
        legend: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::result::TimelineRun;
    use crate::report::data::client::{ClientResult, Reading, Verdict};
    use crate::report::data::interval::Interval;
    use crate::report::stats::run;

    fn corpus(clients: usize, name: &str) -> Corpus {
        let mut corpus = Corpus::default();
        for client in 0..clients {
            let switch = 0.3 + client as f64 / clients as f64;
            let run = |outcome, from_seconds, to_seconds| TimelineRun {
                outcome,
                from_seconds,
                to_seconds,
                probes: 7,
            };
            corpus.add(Reading {
                client: ClientResult {
                    name: format!("{name}{client}"),
                    delay: Interval { lower: switch - 0.05, upper: switch },
                    leaked: 7,
                    ..ClientResult::default()
                },
                timeline: vec![run(Outcome::Leaked, 0.0, switch - 0.05), run(Outcome::Pong, switch, switch)],
                ..Reading::default()
            });
        }
        corpus.finish();
        corpus
    }

    /// The rows of each picture of timelines, by their tips.
    fn rows(clients: usize) -> Vec<(&'static str, usize)> {
        let corpus = corpus(clients, "c");
        let run = run::of(&corpus);
        let rows = |svg: &str| svg.matches(": masqueraded, delay ").count();
        timelines(&run, &corpus).iter().map(|one| (one.id, one.svg.as_deref().map_or(0, rows))).collect()
    }

    #[test]
    fn a_client_has_a_row_until_there_are_too_many() {
        for clients in [1, 50, MOST_ROWS] {
            assert_eq!(rows(clients), [("timelines", clients)]);
        }
        let many = rows(MOST_ROWS + 1);
        assert_eq!((many[0], many[2]), (("density", 0), ("timelines", FEW_ROWS)));
        assert!(many[1].0 == "sample" && (FEW_ROWS / 2..=FEW_ROWS).contains(&many[1].1), "{many:?}");
    }

    #[test]
    fn the_sample_has_early_and_late_clients() {
        let corpus = corpus(20_000, "c");
        let delays: Vec<f64> = corpus.sample(FEW_ROWS).iter().map(|kept| kept.client.delay.upper).collect();
        assert!(delays.is_sorted_by(|a, b| a >= b), "{delays:?}");
        let early = delays.iter().filter(|delay| **delay < 0.8).count();
        assert!((FEW_ROWS / 4..=3 * FEW_ROWS / 4).contains(&early), "{early} of {}", delays.len());
    }

    #[test]
    fn a_row_that_goes_on_much_longer_takes_no_room_from_the_others() {
        let mut corpus = corpus(20, "c");
        corpus.add(Reading {
            client: ClientResult {
                name: "never".to_owned(),
                verdict: Verdict::TimedOut,
                delay: Interval::later_than(60.0),
                ..ClientResult::default()
            },
            timeline: vec![TimelineRun {
                outcome: Outcome::Leaked,
                from_seconds: 0.0,
                to_seconds: 60.0,
                probes: 1_200,
            }],
            ..Reading::default()
        });
        corpus.finish();
        let svg = timelines(&run::of(&corpus), &corpus)[0].svg.clone().unwrap();
        assert!(svg.contains("never: timed out") && svg.contains("followed for 60.0000 s"), "{svg}");
        assert!(!svg.contains("60 s</text>") && svg.contains("1.4 s"), "the axis ends with the others");
        let svg = delays::distribution(&run::of(&corpus), None, &[]).unwrap();
        assert!(!svg.contains("60 s</text>") && svg.contains("1.2 s"), "{svg}");
    }

    #[test]
    fn pictures_of_many_clients_are_as_small_as_those_of_some() {
        let corpus = corpus(20_000, "c");
        let run = run::of(&corpus);
        let of_run = timelines(&run, &corpus);
        let pictures = of_run.into_iter().chain(leaks(&run, &corpus)).map(|one| one.svg);
        for picture in pictures.chain([delays::distribution(&run, None, &[])]) {
            let length = picture.unwrap().len();
            assert!(length < 300_000, "{length} bytes");
        }
    }

    #[test]
    fn a_hostile_name_stays_a_name() {
        let corpus = corpus(1, "<script>&\"");
        let svg = timelines(&run::of(&corpus), &corpus)[0].svg.clone().unwrap();
        assert!(svg.contains("&lt;script&gt;&amp;&quot;0") && !svg.contains("<script"), "{svg}");
    }

    #[test]
    fn nothing_is_not_drawn() {
        let empty = Corpus::default();
        let run = run::of(&empty);
        assert_eq!((delays::distribution(&run, None, &[]), crowd::density(&empty, &run)), (None, None));
        assert!(leaks(&run, &empty).is_none() && disruptions(&run, &empty).svg.is_none());
        assert!(timelines(&run, &empty)[0].svg.is_none());
        assert_eq!(ranges(&[], &Across::default(), "x"), None);
    }
}
