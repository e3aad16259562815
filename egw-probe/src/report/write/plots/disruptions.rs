//! The longest disruptions.

use plotters::prelude::*;

use crate::report::data::client::WatchedDisruption;
use crate::report::data::figures::{count, range, seconds, short};
use crate::report::read::corpus::Corpus;
use crate::report::write::colours::colour_of_kind;
use crate::report::write::plots::{HPos, INK, NAMES, axes, picture, text};

/// Disruptions drawn.
const MOST_DISRUPTIONS: usize = 40;

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
    Some(picture(rows.len() as u32 * row + 70, |area, tips| {
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
            tips.add(&chart, (start, middle + 0.4), (possible_end(one).min(end), middle - 0.4), tip(one));
        }
        Ok(())
    }))
}

fn tip(one: &WatchedDisruption) -> String {
    let (name, disruption) = (&one.name, &one.disruption);
    let length = match disruption.length_seconds.upper {
        Some(upper) => range(disruption.length_seconds.lower, upper),
        None => "no end".to_owned(),
    };
    let (kind, at) = (disruption.kind.name(), seconds(disruption.start_seconds));
    format!("{name}: {kind} at {at}, {length}, misses: {}", count(disruption.misses))
}
