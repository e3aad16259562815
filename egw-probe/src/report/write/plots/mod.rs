//! The pictures of the page, as SVG. Colours are those of a light page; the page's style sheet exchanges them in the dark.
//!
//! What is drawn is bounded, whatever was read: rows, bins and steps are counted here, and runs are merged to pixels. What a
//! mark stands for is a tip upon it; the page has the same numbers in tables.

pub(crate) mod crowd;
pub(crate) mod delays;
pub(crate) mod disruptions;
pub(crate) mod ranges;
pub(crate) mod timelines;

use std::fmt::Write as _;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::data::figures::count;
use crate::report::write::words::escape;

/// Text and axes.
const INK: RGBColor = RGBColor(0x1f, 0x24, 0x30);
/// Labels.
const SOFT: RGBColor = RGBColor(0x5a, 0x61, 0x70);
/// Grid.
const GRID: RGBColor = RGBColor(0xe2, 0xe5, 0xea);
/// The run.
pub(crate) const RUN: RGBColor = RGBColor(0x0b, 0x62, 0xc4);
/// The run that it is compared with.
pub(crate) const OTHER: RGBColor = RGBColor(0xb0, 0x30, 0x7a);
/// A limit.
const LIMIT: RGBColor = RGBColor(0xb4, 0x23, 0x18);

/// Width of every picture, pixels of its own.
const WIDTH: u32 = 960;
/// Room for names left of the rows.
const NAMES: u32 = 170;

type Drawing<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What shows where a pointer rests: a box of pixels, and a text.
#[derive(Debug)]
struct Tip {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    text: String,
}

/// The tips of a picture.
#[derive(Debug, Default)]
struct Tips(Vec<Tip>);

impl Tips {
    /// A tip upon the box between two points of a chart, made large enough to be hit.
    fn add(&mut self, chart: &Chart<'_, '_>, from: (f64, f64), to: (f64, f64), text: String) {
        let (one, other) = (chart.backend_coord(&from), chart.backend_coord(&to));
        let (left, right) = (one.0.min(other.0) - 3, one.0.max(other.0) + 3);
        self.0.push(Tip { left, right, top: one.1.min(other.1), bottom: one.1.max(other.1), text });
    }
}

/// Draws a picture of this height.
fn picture(height: u32, draw: impl FnOnce(&Area<'_>, &mut Tips) -> Drawing<()>) -> String {
    let mut svg = String::new();
    let mut tips = Tips::default();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // Writing to a String cannot fail, and every range below has a width.
        draw(&area, &mut tips).and_then(|()| area.present()).expect("a picture in memory can be drawn");
    }
    let end = svg.rfind("</svg>").unwrap_or(svg.len());
    svg.truncate(end);
    for Tip { left, top, right, bottom, text } in tips.0 {
        let (width, height) = (right - left, (bottom - top).max(4));
        let text = escape(&text);
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            r#"<rect class="tip" x="{left}" y="{top}" width="{width}" height="{height}" fill-opacity="0"><title>{text}</title></rect>"#
        );
    }
    svg + "</svg>"
}

fn text(size: i32, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}

/// A time on an axis whose ends are these many seconds away at most.
fn tick(end: f64) -> impl Fn(&f64) -> String {
    move |at| {
        let (scaled, unit) = if end < 1.0 { (at * 1e3, "ms") } else { (*at, "s") };
        let digits = format!("{scaled:.3}");
        format!("{} {unit}", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A count on an axis; of few things an axis has marks between the whole ones, which are not labelled.
fn number(count_of: f64) -> String {
    if count_of.fract().abs() > 0.01 { String::new() } else { count(count_of.round() as u64) }
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

/// A dashed upright line for a limit, with its name.
fn limit(
    area: &Area<'_>,
    chart: &mut Chart<'_, '_>,
    (at, name): (f64, &str),
    (low, high): (f64, f64),
) -> Drawing<()> {
    const DASHES: u32 = 40;
    let step = (high - low) / f64::from(DASHES);
    let dash = |index: u32| {
        let from = low + step * f64::from(index);
        PathElement::new(vec![(at, from), (at, from + step / 2.0)], LIMIT.stroke_width(2))
    };
    chart.draw_series((0..DASHES).map(dash))?;
    let (x, y) = chart.backend_coord(&(at, high));
    let (x, side) = if x > WIDTH as i32 - 160 { (x - 6, HPos::Right) } else { (x + 6, HPos::Left) };
    area.draw(&Text::new(name.to_owned(), (x, y + 8), text(12, LIMIT, side)))
}
