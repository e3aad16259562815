//! A time that is known only to an interval. Pure.

/// A time that is later than `lower` and not later than `upper`, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Later than this; 0 where nothing is known.
    pub lower: f64,
    /// Not later than this; infinite where nothing is known, or where it never came.
    pub upper: f64,
}

impl Interval {
    /// With a width, so that an instant known exactly has a place, too. Without an upper end it has not ended.
    pub fn bracket(lower: f64, upper: Option<f64>) -> Self {
        let upper = upper.unwrap_or(f64::INFINITY);
        Self { lower: if lower >= upper { upper.next_down() } else { lower }, upper }
    }

    /// Later than this, and nobody knows whether it ever comes.
    pub fn later_than(lower: f64) -> Self {
        Self { lower, upper: f64::INFINITY }
    }

    /// When it was first seen to be over: its upper end, which is known.
    #[must_use]
    pub fn seen(self) -> Self {
        if self.upper.is_finite() { Self { lower: self.upper.next_down(), ..self } } else { self }
    }

    /// Whether it ended, and nothing says how much earlier it could have: nothing leaked before.
    pub fn is_without_lower_end(self) -> bool {
        self.lower <= 0.0 && self.upper.is_finite()
    }
}
