//! The distribution of delays.

use std::ops::Range;

use plotters::prelude::*;

use crate::report::data::run::{Bounds, Run};
use crate::report::write::plots::{Chart, Drawing, OTHER, RUN, Tips, axes, limit, picture};
use crate::report::write::words::bounds;

/// Steps that get a tip, at most.
const TIPS: usize = 100;

/// The distribution of delays: a band between that of the brackets' lower ends and that of their upper ends. Delays that have no
/// upper end lie beyond the right edge.
pub(crate) fn distribution(run: &Run, other: Option<&Run>, limits: &[(f64, String)]) -> Option<String> {
    let runs: Vec<(&Run, RGBColor)> =
        [other.map(|other| (other, OTHER)), Some((run, RUN))].into_iter().flatten().collect();
    let x = axis(runs.iter().map(|(run, _)| *run), limits)?;
    Some(picture(380, |area, tips| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(x.clone(), 0.0..1.0)?;
        axes(
            &mut chart,
            x.end,
            ("delay since the client's start", "clients masqueraded"),
            &|y| format!("{:.0} %", y * 100.0),
            6,
        )?;
        for (run, colour) in runs {
            draw(&mut chart, tips, run, colour, &x)?;
        }
        for (at, name) in limits.iter().filter(|(at, _)| x.contains(at)) {
            limit(area, &mut chart, (*at, name), (0.0, 1.0))?;
        }
        Ok(())
    }))
}

/// From the least to the greatest delay that is known, and a limit where it is near; of delays without an upper end, what is known of
/// them if nothing else is.
fn axis<'a>(runs: impl Iterator<Item = &'a Run>, limits: &[(f64, String)]) -> Option<Range<f64>> {
    let steps: Vec<Bounds> = runs.flat_map(|run| &run.delay.distribution).map(|step| step.within).collect();
    let ended = steps.iter().filter(|within| within.upper_seconds.is_some());
    let ends = |within: &Bounds| [within.lower_seconds, within.upper_seconds];
    let mut known: Vec<f64> = ended.flat_map(ends).flatten().collect();
    if known.is_empty() {
        known = steps.iter().flat_map(ends).flatten().collect();
    }
    let (low, high) =
        known.into_iter().fold((f64::INFINITY, 0.0_f64), |(low, high), end| (low.min(end), high.max(end)));
    if high <= 0.0 {
        return None;
    }
    let near = |at: &f64| *at < high * 2.0;
    let high = limits.iter().map(|(at, _)| *at).filter(near).fold(high, f64::max);
    let begin = if low < high / 2.0 { 0.0 } else { low - (high - low) * 0.1 };
    Some(begin..high + (high - begin) * 0.05)
}

fn draw(
    chart: &mut Chart<'_, '_>,
    tips: &mut Tips,
    run: &Run,
    colour: RGBColor,
    x: &Range<f64>,
) -> Drawing<()> {
    // Each distribution is a staircase; one that does not end in the picture goes on to its edge.
    let stairs = |end: fn(&Bounds) -> Option<f64>| -> Vec<(f64, f64)> {
        let mut before = 0.0;
        let mut stairs = vec![(x.start, 0.0)];
        for step in &run.delay.distribution {
            let Some(at) = end(&step.within).filter(|at| *at < x.end) else { break };
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
    if colour == RUN {
        let steps = &run.delay.distribution;
        let mut before = 0.0;
        for step in steps.iter().step_by(steps.len().div_ceil(TIPS).max(1)) {
            let from = step.within.lower_seconds.unwrap_or(x.start).clamp(x.start, x.end);
            let to = step.within.upper_seconds.unwrap_or(x.end).clamp(x.start, x.end);
            let share = step.cumulative * 100.0;
            let text = format!("{share:.1} % of the clients: {}", bounds(step.within));
            tips.add(chart, (from, before), (to, step.cumulative), text);
            before = step.cumulative;
        }
    }
    Ok(())
}
