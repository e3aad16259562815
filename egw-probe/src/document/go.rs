//! Durations and booleans as Go writes them, because existing manifests do.
//!
//! Both follow the Go standard library: `time.ParseDuration` and `strconv.ParseBool`. The crates that claim to parse
//! Go durations were looked at and not taken: `go-parse-duration` panics on `100µs` and loops on long fractions, others
//! accept a bare `5`.

use std::time::Duration;

/// Why a text is no Go duration or boolean. The text of each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoError {
    /// The duration has a number without a unit.
    #[error("a number needs a unit: write {0}ms or {0}s")]
    MissingUnit(String),
    /// The unit is none of Go's.
    #[error("\"{0}\" is no unit of time: use ns, us, ms, s, m or h")]
    UnknownUnit(String),
    /// Not of the form `[+-]number unit [number unit ...]`.
    #[error("not a duration: write it as 300ms, 1.5s or 1m30s")]
    Malformed,
    /// Beyond 2^63 - 1 nanoseconds, about 292 years.
    #[error("too long: a duration ends at about 292 years")]
    Overflow,
    /// Below zero, where only a length makes sense.
    #[error("negative: a length of time starts at 0")]
    Negative,
    /// None of the forms of `strconv.ParseBool`.
    #[error("not a boolean: write true or false")]
    NotBoolean,
}

/// Reads a duration of zero or more, as Go's `time.ParseDuration` does: `300ms`, `1m0s`, `1h15m30.918s`, `100µs`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, GoError> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let nanos = parse_unsigned(unsigned)?;
    if negative && nanos > 0 {
        return Err(GoError::Negative);
    }
    Ok(Duration::from_nanos(nanos))
}

fn parse_unsigned(text: &str) -> Result<u64, GoError> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err(GoError::Malformed);
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after_whole) = split_digits(rest);
        let (fraction, after_number) = match after_whole.strip_prefix('.') {
            Some(after_point) => split_digits(after_point),
            None => ("", after_whole),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(GoError::Malformed);
        }
        let unit_length =
            after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
        let (unit, after_unit) = after_number.split_at(unit_length);
        let unit_ns: u64 = match unit {
            "" => return Err(GoError::MissingUnit(text.to_owned())),
            "ns" => 1,
            // U+00B5 and U+03BC look alike; Go takes both.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => return Err(GoError::UnknownUnit(other.to_owned())),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| GoError::Overflow)? };
        let part = whole
            .checked_mul(unit_ns)
            .and_then(|ns| ns.checked_add(fraction_ns(fraction, unit_ns)))
            .ok_or(GoError::Overflow)?;
        total = total.checked_add(part).filter(|ns| i64::try_from(*ns).is_ok()).ok_or(GoError::Overflow)?;
        rest = after_unit;
    }
    Ok(total)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The digits behind the point, in nanoseconds of the unit: by Go's own arithmetic (as many digits as fit 63 bits, then
/// floating point), because exact arithmetic makes one nanosecond less than 20 minutes of `0.3333333333333333333h`.
fn fraction_ns(digits: &str, unit_ns: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0);
    for digit in digits.bytes() {
        let longer = value.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        let Some(longer) = longer.filter(|longer| *longer <= 1 << 63) else { break };
        value = longer;
        scale *= 10.0;
    }
    (value as f64 * (unit_ns as f64 / scale)) as u64
}

/// Reads a boolean in any form of Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, GoError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GoError::NotBoolean),
    }
}

/// Writes a duration as Go's `Duration.String` does: `1m0s`, `50ms`, `1.5s`, `100µs`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let total_ns = duration.as_nanos();
    let (unit_ns, unit) = match total_ns {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let decimal = |ns: u128| {
        let fraction = format!("{:0width$}", ns % unit_ns, width = unit_ns.ilog10() as usize);
        match fraction.trim_end_matches('0') {
            "" => format!("{}{unit}", ns / unit_ns),
            digits => format!("{}.{digits}{unit}", ns / unit_ns),
        }
    };
    let (hours, minutes) = (total_ns / 3_600_000_000_000, total_ns / 60_000_000_000 % 60);
    match (hours, minutes) {
        (0, 0) => decimal(total_ns),
        (0, minutes) => format!("{minutes}m{}", decimal(total_ns % 60_000_000_000)),
        (hours, minutes) => format!("{hours}h{minutes}m{}", decimal(total_ns % 60_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_of_existing_manifests_are_read() {
        for (text, expected_ns) in [
            ("0", 0),
            ("0s", 0),
            ("+0", 0),
            ("-0", 0),
            ("300ms", 300_000_000),
            ("1m0s", 60_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("100\u{3bc}s", 100_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+5s", 5_000_000_000),
            ("2562047h47m16.854775807s", i64::MAX as u64),
            ("0.100000000000000000000h", 360_000_000_000),
            // Rounded as Go rounds, not cut.
            ("0.3333333333333333333h", 1_200_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(expected_ns)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_with_its_reason() {
        for (text, expected) in [
            ("", GoError::Malformed),
            ("5", GoError::MissingUnit("5".into())),
            ("1m5", GoError::MissingUnit("1m5".into())),
            (".s", GoError::Malformed),
            ("s", GoError::Malformed),
            ("-", GoError::Malformed),
            ("5 s", GoError::UnknownUnit(" s".into())),
            ("5d", GoError::UnknownUnit("d".into())),
            ("-5s", GoError::Negative),
            ("2562047h47m16.854775808s", GoError::Overflow),
            ("99999999999999999999s", GoError::Overflow),
        ] {
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn booleans_take_every_form_of_go_and_no_other() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "2"] {
            assert_eq!(parse_bool(text), Err(GoError::NotBoolean), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ns, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (50_000_000, "50ms"),
            (1_000_000_000, "1s"),
            (60_000_000_000, "1m0s"),
            (4_530_918_000_000, "1h15m30.918s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(ns)), expected);
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(ns in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,24}") {
            let _ = parse_duration(&text);
        }
    }
}
