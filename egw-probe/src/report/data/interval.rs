//! A time that is known only to an interval. Pure.

/// A time that is later than `lower` and not later than `upper`, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Later than this; 0 where nothing is known.
    pub lower: f64,
    /// Not later than this; infinite where nothing is known.
    pub upper: f64,
}

impl Interval {
    /// Later than everything: a client that never got through.
    pub const NEVER: Self = Self { lower: f64::MAX, upper: f64::INFINITY };

    /// With a width, so that an instant known exactly has a place, too. Without an upper end it has not ended.
    pub fn bracket(lower: f64, upper: Option<f64>) -> Self {
        let upper = upper.unwrap_or(f64::INFINITY);
        Self { lower: if lower >= upper { upper.next_down() } else { lower }, upper }
    }

    /// The same, read as if its upper end were the delay: what never ended is later than everything.
    #[must_use]
    pub fn at_its_upper_end(self) -> Self {
        if self.upper.is_finite() { Self { lower: self.upper.next_down(), ..self } } else { Self::NEVER }
    }

    /// Whether it ended, and nothing says how much earlier it could have: nothing leaked before.
    pub fn is_without_lower_end(self) -> bool {
        self.lower <= 0.0 && self.upper.is_finite()
    }

    /// Whether this is [`Self::NEVER`].
    pub fn is_never(self) -> bool {
        self.lower >= f64::MAX
    }
}
