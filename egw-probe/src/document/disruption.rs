//! Disruptions and partial outages after the winner, and lost probes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What kind of misses a disruption was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// At least one leaked.
    Leak,
    /// None was answered.
    Blackhole,
    /// Neither: refused, unreachable, closed, reset or garbled.
    Rejected,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Leak, Self::Blackhole, Self::Rejected];

    /// The name in metrics and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Blackhole => "blackhole",
            Self::Rejected => "rejected",
        }
    }
}

/// A run of at least two misses after a pong, and of more than chance makes. Instants are counted from the client's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disruption {
    /// What the misses were.
    pub kind: Kind,
    /// The first miss was sent then.
    pub start_seconds: f64,
    /// How long it lasted, as far as the probes tell.
    pub length_seconds: LengthBracket,
    /// Probes missed.
    pub misses: u64,
}

/// A length, or an instant, known to lie between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthBracket {
    /// Not shorter than this.
    pub lower: f64,
    /// Not longer than this; null while it has no end.
    pub upper: Option<f64>,
}

/// Probes after the winner that were missed, and with what confidence that is the path's rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeLoss {
    /// Probes sent after the winner that left this host.
    pub probes: u64,
    /// Of these, those outside of disruptions and partial outages: what `isolated` is a share of.
    #[serde(default)]
    pub outside_outages: u64,
    /// Misses that chance explains: single ones between two pongs, and runs that so much loss makes.
    pub isolated: Share,
    /// Misses in disruptions.
    pub in_disruptions: Share,
    /// Other misses in partial outages.
    #[serde(default)]
    pub in_partial_outages: Share,
    /// Isolated misses by outcome.
    pub isolated_by: BTreeMap<String, u64>,
}

impl ProbeLoss {
    /// Computes the shares.
    pub fn rate(&mut self) {
        self.isolated = Share::of(self.isolated.misses, self.outside_outages);
        for share in [&mut self.in_disruptions, &mut self.in_partial_outages] {
            *share = Share::of(share.misses, self.probes);
        }
    }
}

/// A time in which a share of the probes was lost, pongs in between: one gateway of several was dead. Instants are counted from the
/// client's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartialOutage {
    /// When it began; from 0 on if there were too few probes before it to tell.
    pub began_seconds: LengthBracket,
    /// When it ended.
    pub ended_seconds: LengthBracket,
    /// How long it lasted.
    pub length_seconds: LengthBracket,
    /// Probes from the first miss in it to the last.
    pub probes: u64,
    /// What was lost of them.
    pub lost: Share,
}

/// A share of probes and its confidence interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many they are.
    pub misses: u64,
    /// The same as a share, 0 to 1.
    pub share: f64,
    /// Lower end of the 95 % confidence interval (Wilson 1927).
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Share {
    /// So many of all.
    pub fn of(misses: u64, all: u64) -> Self {
        const NORMAL_95: f64 = 1.959_963_984_540_054;
        let (low, high) = wilson(misses, all, NORMAL_95);
        let share = if all == 0 { 0.0 } else { misses as f64 / all as f64 };
        Self { misses, share, low, high }
    }
}

/// The Wilson score interval of `hits` in `all` trials at `z` standard deviations.
pub fn wilson(hits: u64, all: u64, z: f64) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, p, square) = (all as f64, hits as f64 / all as f64, z * z);
    let middle = (p + square / (2.0 * n)) / (1.0 + square / n);
    let half = z / (1.0 + square / n) * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // binom.confint(x, n, methods = "wilson") of R's package binom.
        for (hits, all, low, high) in
            [(0, 100, 0.0, 0.036_994), (5, 100, 0.021_544, 0.111_750), (3, 3, 0.438_503, 1.0)]
        {
            let share = Share::of(hits, all);
            assert!((share.low - low).abs() < 1e-6 && (share.high - high).abs() < 1e-6, "{share:?}");
        }
        assert_eq!(Share::of(0, 0), Share { misses: 0, share: 0.0, low: 0.0, high: 1.0 });
    }
}
