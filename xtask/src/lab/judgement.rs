//! An outage as it was made, and what a comparison with it found. Plain data.

use egw_probe::document::disruption::LengthBracket;
use serde::Serialize;

use super::clock::Monotonic;

/// An outage as it was made: begin and end each took effect between two instants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) begin: [Monotonic; 2],
    pub(crate) end: [Monotonic; 2],
}

impl Done {
    /// The least and the greatest length that the outage can have had, in seconds.
    pub(crate) fn length(&self) -> [f64; 2] {
        let least = self.end[0].seconds_since(self.begin[1]).max(0.0);
        [least, self.end[1].seconds_since(self.begin[0])]
    }
}

/// What the comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Judgement {
    /// Every printed bracket contains what was done.
    pub(crate) inside: bool,
    /// The width of the outage's bracket.
    pub(crate) width_seconds: Option<f64>,
    /// How far the outage's bracket ends above what was done.
    pub(crate) over_seconds: Option<f64>,
    /// That is more than two intervals and two round-trips, by no more than the ticks of the client were late.
    pub(crate) wide_by_lateness: bool,
    /// Whether the 95 % interval of the rate of loss contains the true one, where that is known.
    pub(crate) true_loss_inside: Option<bool>,
    pub(crate) faults: Vec<String>,
}

impl Judgement {
    pub(crate) fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    /// A claim: what was done, for so many seconds, lies in the bracket that was printed. No tolerance: nobody grants the
    /// user any.
    pub(crate) fn claim(
        &mut self,
        what: &str,
        LengthBracket { lower, upper }: LengthBracket,
        [least, greatest]: [f64; 2],
    ) {
        let holds = lower <= greatest && upper.is_none_or(|upper| least <= upper);
        self.inside &= holds;
        self.expect(holds, || {
            let [lower, least, greatest] = [lower, least, greatest].map(|seconds| seconds * 1e3);
            let upper = upper.map_or("open".into(), |upper| format!("{:.3}", upper * 1e3));
            format!("{what} took {least:.3} to {greatest:.3} ms, not {lower:.3} to {upper}")
        });
    }

    /// A claim about an instant, or a length, that was recorded between two: the bracket that was printed contains the whole of
    /// it.
    pub(crate) fn contain(
        &mut self,
        what: &str,
        LengthBracket { lower, upper }: LengthBracket,
        [least, greatest]: [f64; 2],
    ) {
        let holds = lower <= least && upper.is_some_and(|upper| greatest <= upper);
        self.inside &= holds;
        self.expect(holds, || {
            format!("{what} {least:.6} to {greatest:.6} s is not inside {lower:.6} to {upper:?}")
        });
    }
}
