//! Durations: a text means what exact arithmetic says, to the nanosecond that a fraction may lose, as in Go; and what is
//! read reads back the same once it is written.
#![no_main]

use egw_probe::document::go::{GoError, format_duration, parse_duration};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let read = parse_duration(text);
    if let Ok(duration) = read {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
    match (read, exact(text)) {
        (Ok(duration), Some((false, least, most))) => {
            assert!((least..=most).contains(&duration.as_nanos()), "{text}: {duration:?}, {least}..={most}");
        }
        (Ok(duration), Some((true, least, _))) => assert!(duration.is_zero() && least <= 1, "{text}"),
        (Err(GoError::Negative), Some((true, _, most))) => assert!(most > 0, "{text}"),
        (Err(GoError::Overflow), Some((_, _, most))) => assert!(most > i64::MAX as u128, "{text}"),
        (Err(error), Some(_)) => panic!("{text}: {error:?}"),
        (Ok(duration), None) => panic!("{text}: {duration:?}"),
        (Err(_), None) => {}
    }
});

/// Whether below zero, and between which lengths, in nanoseconds; `None` if it is no duration. Lengths end at `u128::MAX`.
fn exact(text: &str) -> Option<(bool, u128, u128)> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some((negative, 0, 0));
    }
    let (mut least, mut most) = (0_u128, 0_u128);
    loop {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_ends);
        let unit_ends = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || whole.len() + fraction.len() == 0 {
            return None;
        }
        // Long division, digit by digit from the right, of what is behind the point.
        let behind =
            fraction.bytes().rev().fold(0.0, |below, digit| (f64::from(digit - b'0') + below) / 10.0);
        let nanos =
            if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u128::MAX) }.saturating_mul(unit);
        let (low, high) = if fraction.is_empty() {
            (nanos, nanos)
        } else {
            let part = behind * unit as f64;
            (nanos.saturating_add((part - 1.0).max(0.0) as u128), nanos.saturating_add((part + 1.0) as u128))
        };
        (least, most) = (least.saturating_add(low), most.saturating_add(high));
        rest = after;
        if rest.is_empty() {
            return Some((negative, least, most));
        }
    }
}
