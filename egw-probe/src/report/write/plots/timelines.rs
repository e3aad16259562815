//! A row for each client: what became of its probes, its bracket, and the switch of the policy where it is known.

use plotters::prelude::*;

use crate::document::outcome::Outcome;
use crate::report::data::client::Verdict;
use crate::report::data::figures::{counted, seconds, short};
use crate::report::data::run::Bounds;
use crate::report::read::corpus::KeptTimeline;
use crate::report::write::colours::{colour, weight};
use crate::report::write::plots::{Chart, Drawing, HPos, INK, NAMES, RUN, WIDTH, axes, picture, text};
use crate::report::write::words::bounds;

/// Rows that get a name.
const NAMED_ROWS: usize = 70;
/// Pixels of the picture that a probe needs to be a tick of its own.
const TICK: f64 = 4.0;
/// A row longer than the others by so much is cut off, so that it takes no room from them.
const CUT_OFF: f64 = 1.5;

/// Draws these rows, the first at the top.
pub(crate) fn timelines(rows: &[&KeptTimeline]) -> Option<String> {
    let end = axis_end(rows)?;
    let named = rows.len() <= NAMED_ROWS;
    let row = match rows.len() {
        1 => 44,
        2..=20 => 24,
        21..=NAMED_ROWS => 14,
        _ => 5,
    };
    let height = rows.len() as u32 * row + 70;
    Some(picture(height, |area, tips| {
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
            tips.add(&chart, (0.0, middle + 0.5), (end, middle - 0.5), tip(kept));
        }
        Ok(())
    }))
}

/// Where the axis ends: with the last of the clients that got through, where others go on for much longer.
fn axis_end(rows: &[&KeptTimeline]) -> Option<f64> {
    let longest = |got_through: bool| {
        let of = rows.iter().filter(|kept| (kept.client.verdict == Verdict::Masqueraded) == got_through);
        of.filter_map(|kept| end_of(kept)).fold(0.0, f64::max)
    };
    let (through, never) = (longest(true), longest(false));
    let end = if through > 0.0 && never > CUT_OFF * through { through * 1.1 } else { through.max(never) };
    (end > 0.0).then_some(end * 1.02)
}

fn end_of(kept: &KeptTimeline) -> Option<f64> {
    let upper = Some(kept.client.delay.upper).filter(|upper| upper.is_finite());
    let switch = kept.policy_switch.map(|[_, after]| after);
    kept.runs.last().map(|run| run.to_seconds).into_iter().chain(upper).chain(switch).reduce(f64::max)
}

fn tip(kept: &KeptTimeline) -> String {
    let client = &kept.client;
    let probes: Vec<String> = Outcome::ALL
        .into_iter()
        .map(|outcome| {
            let of = kept.runs.iter().filter(|run| run.outcome == outcome);
            (outcome, of.fold(0_u64, |sum, run| sum.saturating_add(run.probes)))
        })
        .filter(|(_, probes)| *probes > 0)
        .map(|(outcome, probes)| format!("{probes} {}", outcome.name()))
        .collect();
    let ended =
        kept.runs.last().map_or(String::new(), |run| format!(", followed for {}", seconds(run.to_seconds)));
    let (name, verdict, delay) = (&client.name, client.verdict.name(), bounds(Bounds::from(client.delay)));
    let leaked = counted(client.leaked, "leaked probe");
    format!("{name}: {verdict}, delay {delay}, {leaked}; probes: {}{ended}", probes.join(", "))
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
    if end_of(kept).is_some_and(|last| last > end) {
        // The row goes on: two slanted strokes at the edge.
        let lean = end / 200.0;
        for at in [end - 4.0 * lean, end - 2.5 * lean] {
            let stroke = vec![(at - lean, middle - 0.5), (at + lean, middle + 0.5)];
            chart.draw_series([PathElement::new(stroke, INK.stroke_width(2))])?;
        }
    }
    Ok(())
}

/// The outcomes of a timeline at the picture's resolution: a tick for each probe where there is room, and a stretch where there is
/// not; of those that share a pixel, the one that matters most.
fn to_pixels(kept: &KeptTimeline, end: f64) -> Vec<(Outcome, f64, f64)> {
    const PIXELS: usize = WIDTH as usize;
    let pixel = end / PIXELS as f64;
    let mut columns: Vec<Option<Outcome>> = vec![None; PIXELS];
    let mut mark = |outcome: Outcome, from: f64, to: f64| {
        let range = (from / pixel) as usize..=((to / pixel) as usize).min(PIXELS - 1);
        for column in columns.get_mut(range).into_iter().flatten() {
            if column.is_none_or(|there| weight(outcome) > weight(there)) {
                *column = Some(outcome);
            }
        }
    };
    for run in &kept.runs {
        let between = (run.to_seconds - run.from_seconds) / (run.probes.max(2) - 1) as f64;
        if run.probes < 2 || between >= TICK * pixel {
            for probe in 0..run.probes.max(1).min(PIXELS as u64) {
                let at = run.from_seconds + between * probe as f64;
                mark(run.outcome, at, at + pixel);
            }
        } else {
            mark(run.outcome, run.from_seconds, run.to_seconds + pixel);
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
