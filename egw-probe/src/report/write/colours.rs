//! Colours, the same in every picture and legend, and which outcome shows where several fall on one pixel.

use plotters::style::RGBColor;

use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;

/// The colour of an outcome, the same in every picture and legend; told apart by those who see few colours (after Okabe and Ito).
pub(crate) const fn colour(outcome: Outcome) -> RGBColor {
    match outcome {
        Outcome::Pong => RGBColor(0x1a, 0x9e, 0x77),
        Outcome::Leaked => RGBColor(0xd5, 0x5e, 0x00),
        Outcome::Closed => RGBColor(0xe6, 0x9f, 0x00),
        Outcome::Reset => RGBColor(0x00, 0x72, 0xb2),
        Outcome::Silent => RGBColor(0x7d, 0x88, 0x96),
        Outcome::Timeout => RGBColor(0x4b, 0x55, 0x63),
        Outcome::Refused => RGBColor(0x8e, 0x5b, 0xb5),
        Outcome::Unreachable => RGBColor(0x9a, 0x6a, 0x3a),
        Outcome::Garbled => RGBColor(0xc9, 0x4f, 0x9a),
        Outcome::Error => RGBColor(0xa8, 0xae, 0xba),
    }
}

/// The colour of a disruption.
pub(crate) const fn colour_of_kind(kind: Kind) -> RGBColor {
    match kind {
        Kind::Leak => colour(Outcome::Leaked),
        Kind::Blackhole => colour(Outcome::Timeout),
        Kind::Rejected => colour(Outcome::Refused),
    }
}

/// Of several outcomes on one pixel, the one with the most weight is drawn.
pub(crate) const fn weight(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Leaked => 9,
        Outcome::Closed => 8,
        Outcome::Reset => 7,
        Outcome::Silent => 6,
        Outcome::Timeout => 5,
        Outcome::Refused => 4,
        Outcome::Unreachable => 3,
        Outcome::Garbled => 2,
        Outcome::Error => 1,
        Outcome::Pong => 0,
    }
}
