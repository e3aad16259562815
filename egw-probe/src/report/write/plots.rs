//! The pictures of the page, as SVG. Colours are those of a light page; the page's style sheet exchanges them in the dark.
//!
//! What is drawn is bounded, whatever was read: rows, bins and steps are counted here, and runs are merged to pixels.

use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::document::outcome::Outcome;
use crate::report::data::client::WatchedDisruption;
use crate::report::data::figures::{count, short};
use crate::report::data::run::{Bounds, QUANTILES, Run};
use crate::report::read::corpus::{Corpus, KeptTimeline};
use crate::report::read::density::Bin;
use crate::report::write::colours::{colour, colour_of_kind, weight};

/// Text and axes.
const INK: RGBColor = RGBColor(0x1f, 0x24, 0x30);
/// Labels.
const SOFT: RGBColor = RGBColor(0x5a, 0x61, 0x70);
/// Grid.
const GRID: RGBColor = RGBColor(0xe2, 0xe5, 0xea);
/// The run.
const RUN: RGBColor = RGBColor(0x0b, 0x62, 0xc4);
/// The run that it is compared with.
const OTHER: RGBColor = RGBColor(0xb0, 0x30, 0x7a);

/// Width of every picture, pixels of its own.
const WIDTH: u32 = 960;
/// Room for names left of the rows.
const NAMES: u32 = 170;
/// More clients than this are drawn as the worst few, beside a picture of all.
pub(crate) const MOST_ROWS: usize = 200;
/// Rows of the worst few.
pub(crate) const WORST_ROWS: usize = 60;
/// Rows that get a name.
const NAMED_ROWS: usize = 70;
/// Disruptions drawn.
const MOST_DISRUPTIONS: usize = 40;
/// Bars of the leaks.
const BARS: usize = 128;
/// Columns of the picture of all clients.
const COLUMNS: usize = 256;

type Drawing<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws a picture of this height.
fn picture(height: u32, draw: impl FnOnce(&Area<'_>) -> Drawing<()>) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // Writing to a String cannot fail, and every range below has a width.
        draw(&area).and_then(|()| area.present()).expect("a picture in memory can be drawn");
    }
    svg
}

fn text(size: i32, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}

/// A time on an axis that ends at `end` seconds.
fn tick(end: f64) -> impl Fn(&f64) -> String {
    move |at| {
        let (scaled, unit) = if end < 1.0 { (at * 1e3, "ms") } else { (*at, "s") };
        let digits = format!("{scaled:.3}");
        format!("{} {unit}", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A count on an axis; of few things an axis has marks between the whole ones.
fn number(count_of: f64) -> String {
    if count_of < 10.0 && count_of.fract() > 0.01 {
        format!("{count_of:.1}")
    } else {
        count(count_of.round() as u64)
    }
}

fn axes(
    chart: &mut Chart<'_, '_>,
    end: f64,
    (x, y): (&str, &str),
    y_label: &dyn Fn(&f64) -> String,
    y_labels: usize,
) -> Drawing<()> {
    let mut mesh = chart.configure_mesh();
    if !y.is_empty() {
        mesh.y_desc(y);
    }
    mesh.disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(SOFT)
        .label_style(text(13, SOFT, HPos::Center))
        .axis_desc_style(text(13, SOFT, HPos::Center))
        .x_desc(x)
        .x_labels(9)
        .y_labels(y_labels)
        .x_label_formatter(&tick(end))
        .y_label_formatter(y_label)
        .draw()
}

/// The distribution of delays: a band between that of the brackets' lower ends and that of their upper ends, and the quantiles'
/// confidence intervals as bars.
pub(crate) fn distribution(run: &Run, other: Option<&Run>) -> Option<String> {
    let runs: Vec<(&Run, RGBColor)> =
        [Some((run, RUN)), other.map(|other| (other, OTHER))].into_iter().flatten().collect();
    let steps = runs.iter().flat_map(|(run, _)| &run.delay.distribution);
    let ends = steps.flat_map(|step| [step.within.lower_seconds, step.within.upper_seconds]).flatten();
    let (low, high) = ends.fold((f64::INFINITY, 0.0_f64), |(low, high), end| (low.min(end), high.max(end)));
    if high <= 0.0 {
        return None;
    }
    let begin = if low < high / 2.0 { 0.0 } else { low - (high - low) * 0.1 };
    let end = high + (high - begin) * 0.05;
    Some(picture(380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(begin..end, 0.0..1.0)?;
        axes(
            &mut chart,
            end,
            ("delay since the client's start", "clients masqueraded"),
            &|y| format!("{:.0} %", y * 100.0),
            6,
        )?;
        for (run, colour) in runs {
            draw_distribution(&mut chart, run, colour, begin..end)?;
        }
        Ok(())
    }))
}

fn draw_distribution(chart: &mut Chart<'_, '_>, run: &Run, colour: RGBColor, x: Range<f64>) -> Drawing<()> {
    // Each distribution is a staircase; one that does not end in the picture goes on to its edge.
    let stairs = |end: fn(&Bounds) -> Option<f64>| -> Vec<(f64, f64)> {
        let mut before = 0.0;
        let mut stairs = vec![(x.start, 0.0)];
        for step in &run.delay.distribution {
            let Some(at) = end(&step.within) else { break };
            stairs.extend([(at, before), (at, step.cumulative)]);
            before = step.cumulative;
        }
        stairs.push((x.end, before));
        stairs
    };
    let (left, right) = (stairs(|within| within.lower_seconds), stairs(|within| within.upper_seconds));
    let outline: Vec<(f64, f64)> = left.iter().copied().chain(right.iter().rev().copied()).collect();
    chart.draw_series([Polygon::new(outline, colour.mix(0.28).filled())])?;
    for edge in [left, right] {
        chart.draw_series([PathElement::new(edge, colour.stroke_width(2))])?;
    }
    for (quantile, (name, q)) in run.delay.quantiles.iter().zip(QUANTILES) {
        let Some(from) = quantile.confidence.lower_seconds else { continue };
        let to = quantile.confidence.upper_seconds.unwrap_or(f64::INFINITY);
        let ink = if colour == RUN { INK } else { colour };
        // An end beyond the picture, or nowhere, has no mark.
        for at in [from, to].into_iter().filter(|at| x.contains(at)) {
            let mark = vec![(at, q - 0.012), (at, q + 0.012)];
            chart.draw_series([PathElement::new(mark, ink.stroke_width(1))])?;
        }
        let (from, to) = (from.clamp(x.start, x.end), to.clamp(x.start, x.end));
        chart.draw_series([PathElement::new(vec![(from, q), (to, q)], ink.stroke_width(1))])?;
        if colour == RUN {
            let room = (x.end - x.start) * 0.04;
            let (at, side) =
                if to + room < x.end { (to + room / 8.0, HPos::Left) } else { (x.end, HPos::Right) };
            chart.draw_series([Text::new(name, (at, q - 0.032), text(11, SOFT, side))])?;
        }
    }
    Ok(())
}

/// A row for each client, the worst at the top: outcomes, the bracket, and the switch of the policy where it is known.
pub(crate) fn timelines(corpus: &Corpus) -> Option<String> {
    let all = corpus.timelines();
    let rows = if corpus.clients.len() > MOST_ROWS { &all[..all.len().min(WORST_ROWS)] } else { all };
    let end = rows.iter().filter_map(end_of).fold(0.0, f64::max) * 1.02;
    if end <= 0.0 {
        return None;
    }
    let named = rows.len() <= NAMED_ROWS;
    let row = match rows.len() {
        1 => 44,
        2..=20 => 24,
        21..=NAMED_ROWS => 14,
        _ => 5,
    };
    let height = rows.len() as u32 * row + 70;
    Some(picture(height, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(if named { NAMES } else { 40 })
            .build_cartesian_2d(0.0..end, 0.0..rows.len() as f64)?;
        axes(&mut chart, end, ("since the client's start", ""), &|_| String::new(), 0)?;
        for (place, kept) in rows.iter().enumerate() {
            let middle = rows.len() as f64 - place as f64 - 0.5;
            draw_row(&mut chart, kept, middle, end)?;
            if named {
                let (x, y) = chart.backend_coord(&(0.0, middle));
                area.draw(&Text::new(short(&kept.client.name, 22), (x - 8, y), text(12, INK, HPos::Right)))?;
            }
        }
        Ok(())
    }))
}

fn end_of(kept: &KeptTimeline) -> Option<f64> {
    let upper = Some(kept.client.delay.upper).filter(|upper| upper.is_finite());
    let switch = kept.policy_switch.map(|[_, after]| after);
    kept.runs.last().map(|run| run.to_seconds).into_iter().chain(upper).chain(switch).reduce(f64::max)
}

fn draw_row(chart: &mut Chart<'_, '_>, kept: &KeptTimeline, middle: f64, end: f64) -> Drawing<()> {
    let thick = 0.36;
    for (outcome, from, to) in to_pixels(kept, end) {
        let style = colour(outcome).filled();
        chart.draw_series([Rectangle::new([(from, middle - thick), (to, middle + thick)], style)])?;
    }
    let delay = kept.client.delay;
    if delay.upper.is_finite() {
        let (from, to) = (delay.lower.max(0.0), delay.upper);
        let upright =
            |at| PathElement::new(vec![(at, middle - thick), (at, middle + thick)], INK.stroke_width(1));
        chart.draw_series([PathElement::new(vec![(from, middle), (to, middle)], INK.stroke_width(1))])?;
        chart.draw_series([upright(from), upright(to)])?;
    }
    if let Some([before, after]) = kept.policy_switch {
        let at = f64::midpoint(before, after);
        let (low, high) = (middle - 0.5, middle + 0.5);
        chart.draw_series([PathElement::new(vec![(at, low), (at, high)], RUN.stroke_width(3))])?;
    }
    Ok(())
}

/// The outcomes of a timeline at the picture's resolution: of those that share a pixel, the one that matters most.
fn to_pixels(kept: &KeptTimeline, end: f64) -> Vec<(Outcome, f64, f64)> {
    const PIXELS: usize = WIDTH as usize;
    let pixel = end / PIXELS as f64;
    let mut columns: Vec<Option<Outcome>> = vec![None; PIXELS];
    let ends = kept.runs.iter().skip(1).map(|next| next.from_seconds).chain([f64::NAN]);
    for (run, next) in kept.runs.iter().zip(ends) {
        // The last run, and one that a capped timeline cuts off, ends with its last probe.
        let to = if next.is_nan() { run.to_seconds + 3.0 * pixel } else { next };
        let range = (run.from_seconds / pixel) as usize..=((to / pixel) as usize).min(PIXELS - 1);
        for column in columns.get_mut(range).into_iter().flatten() {
            if column.is_none_or(|there| weight(run.outcome) > weight(there)) {
                *column = Some(run.outcome);
            }
        }
    }
    let mut runs: Vec<(Outcome, f64, f64)> = vec![];
    for (index, outcome) in columns.into_iter().enumerate() {
        let Some(outcome) = outcome else { continue };
        let (from, to) = (index as f64 * pixel, (index + 1) as f64 * pixel);
        match runs.last_mut() {
            Some(last) if last.0 == outcome && from - last.2 < pixel / 2.0 => last.2 = to,
            _ => runs.push((outcome, from, to)),
        }
    }
    runs
}

/// Where pictures of all clients end: at the last probe; well behind the p99 if the few after it would leave no room for the others.
pub(crate) fn extent(corpus: &Corpus, run: &Run) -> f64 {
    let (bins, width) = corpus.density.bins();
    let all = bins.len() as f64 * width;
    let p99 = run.delay.quantile("p99").and_then(|p99| p99.of_this_run.upper_seconds);
    let most = p99.map_or(all, |p99| p99 * 1.5);
    if all > 2.0 * most { most } else { all }
}

/// The bins up to there, joined until they are no more than `most`, and their width.
fn drawn_bins(corpus: &Corpus, run: &Run, most: usize) -> (Vec<Bin>, f64) {
    let (bins, width) = corpus.density.bins();
    let drawn = ((extent(corpus, run) / width).ceil() as usize).min(bins.len());
    let each = drawn.div_ceil(most).max(1);
    (bins[..drawn].chunks(each).map(|bins| bins.iter().copied().sum()).collect(), width * each as f64)
}

/// How many clients were not masqueraded at a time, by what became of their probes.
pub(crate) fn density(corpus: &Corpus, run: &Run) -> Option<String> {
    let (bins, width) = drawn_bins(corpus, run, COLUMNS);
    let misses: Vec<Outcome> = Outcome::ALL.into_iter().filter(|one| *one != Outcome::Pong).collect();
    let clients = |bin: usize, outcome: Outcome| bins[bin].client_seconds[outcome as usize] / width;
    let of_bin = |bin: usize| misses.iter().map(|one| clients(bin, *one)).sum::<f64>();
    let most = (0..bins.len()).map(of_bin).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let end = bins.len() as f64 * width;
    Some(picture(340, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
        axes(&mut chart, end, ("since each client's start", "clients not masqueraded"), &|y| number(*y), 6)?;
        let mut floor = vec![0.0; bins.len()];
        for outcome in misses {
            let top: Vec<f64> = (0..bins.len()).map(|bin| floor[bin] + clients(bin, outcome)).collect();
            if top == floor {
                continue;
            }
            let edge = |heights: &[f64]| -> Vec<(f64, f64)> {
                let both = |(bin, height): (usize, &f64)| {
                    [(bin as f64 * width, *height), ((bin + 1) as f64 * width, *height)]
                };
                heights.iter().enumerate().flat_map(both).collect()
            };
            let outline: Vec<(f64, f64)> =
                edge(&top).into_iter().chain(edge(&floor).into_iter().rev()).collect();
            chart.draw_series([Polygon::new(outline, colour(outcome).filled())])?;
            floor = top;
        }
        Ok(())
    }))
}

/// Probes that leaked, over time. Returns the time that a bar stands for, too.
pub(crate) fn leaks(corpus: &Corpus, run: &Run) -> Option<(String, f64)> {
    let leaked: f64 = corpus.density.bins().0.iter().map(|bin| bin.leaked).sum();
    // Few probes in many bars would be a picture of nothing.
    let (bins, width) = drawn_bins(corpus, run, ((leaked / 3.0) as usize).clamp(8, BARS));
    let bars: Vec<f64> = bins.iter().map(|bin| bin.leaked).collect();
    let most = bars.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let end = bins.len() as f64 * width;
    let svg = picture(260, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
        axes(&mut chart, end, ("since each client's start", "leaked probes"), &|y| number(*y), 5)?;
        let bar = |(index, height): (usize, &f64)| {
            let from = index as f64 * width;
            Rectangle::new([(from, 0.0), (from + width * 0.88, *height)], colour(Outcome::Leaked).filled())
        };
        chart.draw_series(bars.iter().enumerate().filter(|(_, height)| **height > 0.0).map(bar))?;
        Ok(())
    });
    Some((svg, width))
}

/// The longest disruptions, in the order of their beginning: dark what is certain, pale what is possible.
pub(crate) fn disruptions(corpus: &Corpus) -> Option<String> {
    let longest = corpus.disruptions();
    let mut rows: Vec<&WatchedDisruption> = longest.iter().take(MOST_DISRUPTIONS).collect();
    rows.sort_by(|a, b| a.disruption.start_seconds.total_cmp(&b.disruption.start_seconds));
    let certain_end =
        |one: &WatchedDisruption| one.disruption.start_seconds + one.disruption.length_seconds.lower;
    let possible_end = |one: &WatchedDisruption| one.disruption.start_seconds + one.longest();
    let known =
        rows.iter().flat_map(|one| [certain_end(one), possible_end(one)]).filter(|end| end.is_finite());
    let end = known.fold(0.0, f64::max) * 1.05;
    if end <= 0.0 {
        return None;
    }
    let row = if rows.len() <= 12 { 26 } else { 16 };
    Some(picture(rows.len() as u32 * row + 70, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..end, 0.0..rows.len() as f64)?;
        axes(&mut chart, end, ("since the client's start", ""), &|_| String::new(), 0)?;
        for (place, one) in rows.iter().enumerate() {
            let middle = rows.len() as f64 - place as f64 - 0.5;
            let colour = colour_of_kind(one.disruption.kind);
            let start = one.disruption.start_seconds;
            let bar = |to: f64, thick: f64| [(start, middle - thick), (to.min(end), middle + thick)];
            chart.draw_series([Rectangle::new(bar(possible_end(one), 0.18), colour.mix(0.4).filled())])?;
            // A disruption of one probe has no certain length, but it was there.
            let certain = certain_end(one).max(start + end / 400.0);
            chart.draw_series([Rectangle::new(bar(certain, 0.34), colour.filled())])?;
            let (x, y) = chart.backend_coord(&(0.0, middle));
            area.draw(&Text::new(short(&one.name, 22), (x - 8, y), text(12, INK, HPos::Right)))?;
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::result::TimelineRun;
    use crate::report::data::client::{ClientResult, Reading};
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

    #[test]
    fn a_client_has_a_row_until_there_are_too_many() {
        let rows = |clients| timelines(&corpus(clients, "c")).unwrap().matches("fill=\"#D55E00\"").count();
        assert_eq!((rows(1), rows(50), rows(MOST_ROWS)), (1, 50, MOST_ROWS));
        assert_eq!(rows(MOST_ROWS + 1), WORST_ROWS);
    }

    #[test]
    fn pictures_of_many_clients_are_as_small_as_those_of_some() {
        let corpus = corpus(20_000, "c");
        let run = run::of(&corpus);
        let pictures = [
            distribution(&run, None),
            timelines(&corpus),
            density(&corpus, &run),
            leaks(&corpus, &run).map(|(svg, _)| svg),
        ];
        for picture in pictures {
            let length = picture.unwrap().len();
            assert!(length < 300_000, "{length} bytes");
        }
    }

    #[test]
    fn a_hostile_name_stays_a_name() {
        let svg = timelines(&corpus(1, "<script>&\"")).unwrap();
        assert!(svg.contains("&lt;script&gt;&amp;&quot;0") && !svg.contains("<script"), "{svg}");
    }

    #[test]
    fn nothing_is_not_drawn() {
        let empty = Corpus::default();
        let run = run::of(&empty);
        assert_eq!((distribution(&run, None), density(&empty, &run)), (None, None));
        assert_eq!(leaks(&empty, &run), None);
        assert_eq!((timelines(&empty), disruptions(&empty)), (None, None));
    }
}
