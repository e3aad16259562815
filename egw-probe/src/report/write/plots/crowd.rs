//! All clients together, over time.

use plotters::prelude::*;

use crate::document::outcome::Outcome;
use crate::report::data::figures::{counted, range};
use crate::report::data::run::Run;
use crate::report::read::corpus::Corpus;
use crate::report::read::density::Bin;
use crate::report::write::colours::colour;
use crate::report::write::plots::{axes, number, picture};

/// Bars of the leaks.
const BARS: usize = 128;
/// Columns of the picture of all clients.
const COLUMNS: usize = 256;

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
    Some(picture(340, |area, tips| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
        axes(&mut chart, end, ("since each client's start", "clients not masqueraded"), &|y| number(*y), 6)?;
        let mut floor = vec![0.0; bins.len()];
        for &outcome in &misses {
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
        for bin in 0..bins.len() {
            let of = |outcome: &Outcome| (clients(bin, *outcome), outcome.name());
            let told = misses.iter().map(of).filter(|(clients, _)| *clients >= 0.05);
            let told: Vec<String> = told.map(|(clients, name)| format!("{clients:.1} {name}")).collect();
            let (from, to) = (bin as f64 * width, (bin + 1) as f64 * width);
            let text = format!("{}: clients by outcome: {}", range(from, to), told.join(", "));
            tips.add(&chart, (from, of_bin(bin)), (to, 0.0), text);
        }
        Ok(())
    }))
}

/// Probes that leaked, over time. Returns the time that a bar stands for, too.
pub(crate) fn leaks(corpus: &Corpus, run: &Run) -> Option<(String, f64)> {
    let leaked: u64 = corpus.density.bins().0.iter().map(|bin| bin.leaked).sum();
    // Few probes in many bars would be a picture of nothing.
    let (bins, width) = drawn_bins(corpus, run, ((leaked / 3) as usize).clamp(8, BARS));
    let bars: Vec<f64> = bins.iter().map(|bin| bin.leaked as f64).collect();
    let most = bars.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let end = bins.len() as f64 * width;
    let svg = picture(260, |area, tips| {
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
        let drawn = || bars.iter().enumerate().filter(|(_, height)| **height > 0.0);
        chart.draw_series(drawn().map(bar))?;
        for (index, height) in drawn() {
            let (from, to) = (index as f64 * width, (index + 1) as f64 * width);
            let text = format!("{}: {}", range(from, to), counted(*height as u64, "leaked probe"));
            tips.add(&chart, (from, *height), (to, 0.0), text);
        }
        Ok(())
    });
    Some((svg, width))
}
