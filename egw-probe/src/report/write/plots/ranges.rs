//! Rows of ranges: what is certain of something thick, what is confident of it thin.

use std::ops::Range;

use plotters::prelude::*;

use crate::report::data::figures::short;
use crate::report::data::run::Bounds;
use crate::report::write::plots::{Drawing, HPos, INK, LIMIT, NAMES, SOFT, Tips, axes, limit, picture, text};

/// A row of a picture.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// What it is of.
    pub name: String,
    /// What is certain of it.
    pub certain: Bounds,
    /// Where it lies with some confidence.
    pub confident: Bounds,
    /// The colour of what is certain.
    pub colour: RGBColor,
    /// What it says in words.
    pub tip: String,
}

/// What stands across all rows.
#[derive(Debug, Default)]
pub(crate) struct Across {
    /// Limits, by name.
    pub limits: Vec<(f64, String)>,
    /// From minus to plus so much, everything is as good as equal.
    pub equal_within: Option<f64>,
    /// The axis is one of differences: it has a zero line.
    pub differences: bool,
}

/// Draws these rows over an axis of this name; an end that is not known has an arrow.
pub(crate) fn ranges(rows: &[Row], across: &Across, axis_name: &str) -> Option<String> {
    let x = axis(rows, across)?;
    let height = rows.len() as u32 * 30 + 76;
    Some(picture(height, |area, tips| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(x.clone(), 0.0..rows.len() as f64)?;
        axes(&mut chart, x.end.max(-x.start), (axis_name, ""), &|_| String::new(), 0)?;
        let whole = (0.0, rows.len() as f64);
        if let Some(within) = across.equal_within {
            let (from, to) = ((-within).max(x.start), within.min(x.end));
            let band = Rectangle::new([(from, whole.0), (to, whole.1)], SOFT.mix(0.15).filled());
            chart.draw_series([band])?;
        }
        if across.differences {
            let zero = vec![(0.0, whole.0), (0.0, whole.1)];
            chart.draw_series([PathElement::new(zero, INK.stroke_width(1))])?;
        }
        for (place, row) in rows.iter().enumerate() {
            let middle = rows.len() as f64 - place as f64 - 0.5;
            draw(&mut chart, tips, row, middle, &x)?;
            let (x, y) = chart.backend_coord(&(x.start, middle));
            area.draw(&Text::new(short(&row.name, 22), (x - 8, y), text(12, INK, HPos::Right)))?;
        }
        for (at, name) in across.limits.iter().filter(|(at, _)| x.contains(at)) {
            limit(area, &mut chart, (*at, name), whole)?;
        }
        Ok(())
    }))
}

/// From the least to the greatest end that is known.
fn axis(rows: &[Row], across: &Across) -> Option<Range<f64>> {
    let ends = rows.iter().flat_map(|row| [row.certain, row.confident]);
    let ends = ends.flat_map(|bounds| [bounds.lower_seconds, bounds.upper_seconds]).flatten();
    let zero = across.differences.then_some(0.0);
    let known: Vec<f64> = ends.chain(zero).filter(|end| end.is_finite()).collect();
    let low = known.iter().copied().reduce(f64::min)?;
    let high = known.iter().copied().reduce(f64::max)?;
    let widest = low.abs().max(high.abs());
    let near = |at: &f64| at.abs() < widest * 2.0;
    let marks = across.limits.iter().map(|(at, _)| *at).chain(across.equal_within).filter(near);
    let high = marks.fold(high, f64::max);
    let room = ((high - low) * 0.06).max(widest * 1e-3).max(1e-6);
    let begin = if low >= 0.0 && low < high / 2.0 && !across.differences { 0.0 } else { low - room };
    Some(begin..high + room)
}

fn draw(
    chart: &mut super::Chart<'_, '_>,
    tips: &mut Tips,
    row: &Row,
    middle: f64,
    x: &Range<f64>,
) -> Drawing<()> {
    let seen = |bounds: Bounds| {
        let from = bounds.lower_seconds.unwrap_or(x.start).clamp(x.start, x.end);
        (from, bounds.upper_seconds.unwrap_or(x.end).clamp(x.start, x.end))
    };
    let (from, to) = seen(row.confident);
    chart.draw_series([PathElement::new(vec![(from, middle), (to, middle)], INK.stroke_width(2))])?;
    let tick = (x.end - x.start) / 120.0;
    for (at, known, outwards) in [
        (from, row.confident.lower_seconds.is_some(), -tick),
        (to, row.confident.upper_seconds.is_some(), tick),
    ] {
        let mark = if known {
            vec![(at, middle - 0.16), (at, middle + 0.16)]
        } else {
            // An arrow: it goes on.
            vec![(at - outwards, middle - 0.16), (at, middle), (at - outwards, middle + 0.16)]
        };
        chart.draw_series([PathElement::new(mark, INK.stroke_width(2))])?;
    }
    let (left, right) = seen(row.certain);
    let least = (x.end - x.start) / 300.0;
    let right = right.max(left + least);
    let style = row.colour.filled();
    chart.draw_series([Rectangle::new([(left, middle - 0.22), (right, middle + 0.22)], style)])?;
    if row.certain.upper_seconds.is_none() {
        let open = vec![(right - tick, middle - 0.3), (right, middle), (right - tick, middle + 0.3)];
        chart.draw_series([PathElement::new(open, LIMIT.stroke_width(2))])?;
    }
    tips.add(chart, (from.min(left), middle + 0.4), (to.max(right), middle - 0.4), row.tip.clone());
    Ok(())
}
