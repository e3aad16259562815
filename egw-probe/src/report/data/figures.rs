//! How counts, times and foreign names are written, wherever they stand. Pure.

use crate::document::shown::plain;
use crate::report::data::egress::LeakedConnections;

/// At most `width` characters of a plain name: its end tells more than its middle.
pub(crate) fn short(text: &str, width: usize) -> String {
    let text = plain(text);
    let length = text.chars().count();
    if length <= width {
        return text.into_owned();
    }
    let head = (width - 1) / 2;
    let tail = width - 1 - head;
    let middle = text.chars().take(head).chain(['…']);
    middle.chain(text.chars().skip(length - tail)).collect()
}

/// A time in the unit that reads best.
pub(crate) fn seconds(value: f64) -> String {
    let Scale { factor, unit, digits } = Scale::of(value);
    format!("{:.digits$} {unit}", value * factor)
}

/// From one time to another, in one unit. Neither has digits that their distance makes worthless, and both are rounded outward: what
/// lies between them lies between what is written.
pub(crate) fn range(lower: f64, upper: f64) -> String {
    let scale = Scale::of(lower.abs().max(upper.abs())).for_width(upper - lower);
    let (lower, upper) = (scale.round(lower, f64::floor), scale.round(upper, f64::ceil));
    if lower == upper {
        format!("{upper} {}", scale.unit)
    } else {
        format!("{lower} to {upper} {}", scale.unit)
    }
}

/// A time of which it is only known that it is later than this: digits and rounding as of a range.
pub(crate) fn later_than(lower: f64) -> String {
    let scale = Scale::of(lower).for_width(lower);
    format!("later than {} {}", scale.round(lower, f64::floor), scale.unit)
}

/// A time of which it is only known that it is not later than this.
pub(crate) fn up_to(upper: f64) -> String {
    let scale = Scale::of(upper).for_width(upper);
    format!("up to {} {}", scale.round(upper, f64::ceil), scale.unit)
}

/// A unit, as how many of them a second is, and digits behind the point.
struct Scale {
    factor: f64,
    unit: &'static str,
    digits: usize,
}

impl Scale {
    /// What reads best for this many seconds.
    fn of(seconds: f64) -> Self {
        let (factor, unit, digits) = match seconds.abs() {
            ..1.0 => (1e3, "ms", 3),
            1.0..100.0 => (1.0, "s", 4),
            _ => (1.0, "s", 1),
        };
        Self { factor, unit, digits }
    }

    /// Digits of which the last one counts for a fiftieth of this width at most, if there are so many.
    fn for_width(self, seconds: f64) -> Self {
        let worth = (-(seconds * self.factor / 50.0).log10().floor()).clamp(0.0, self.digits as f64);
        // What has no width has all digits.
        Self { digits: if seconds > 0.0 { worth as usize } else { self.digits }, ..self }
    }

    fn round(&self, seconds: f64, outward: fn(f64) -> f64) -> String {
        let digits = self.digits;
        let power = 10_f64.powi(digits as i32);
        let value = seconds * self.factor * power;
        // 0.57 s are 569.999... ms, which is no reason for 569.
        let nearest = value.round();
        let value = if (value - nearest).abs() < 1e-6 { nearest } else { outward(value) };
        format!("{:.digits$}", value / power)
    }
}

/// So many things of one kind; its plural ends with an s.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Probes that leaked, and connections.
pub(crate) fn leaked(probes: u64, connections: LeakedConnections) -> String {
    let LeakedConnections { stress, held } = connections;
    let parts = [(probes, "probe"), (stress, "stress connection"), (held, "held connection")];
    let told =
        parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| counted(number, what));
    let told: Vec<String> = told.collect();
    match told.split_last() {
        None => counted(0, "probe"),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// A count with its thousands apart.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many clients.
pub(crate) fn clients(number: u64) -> String {
    counted(number, "client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            (count(999), count(1_000), count(12_345_678)),
            ("999".into(), "1,000".into(), "12,345,678".into())
        );
    }

    #[test]
    fn a_bracket_has_the_digits_that_its_width_is_worth_and_is_rounded_outward() {
        for (lower, upper, told) in [
            (0.300_142, 0.350_276, "300 to 351 ms"),
            (0.300_142, 0.301_276, "300.14 to 301.28 ms"),
            (0.57, 0.62, "570 to 620 ms"),
            (0.3, 10.04, "0.3 to 10.1 s"),
            (12.3, 130.0, "12 to 130 s"),
            (-0.012_34, 0.004_56, "-12.4 to 4.6 ms"),
            (0.3, 0.3, "300.000 ms"),
            (0.3, 0.300_000_1, "300.000 to 300.001 ms"),
        ] {
            assert_eq!(range(lower, upper), told);
        }
        assert_eq!((up_to(0.050_01), up_to(8.431)), ("up to 51 ms".to_owned(), "up to 8.5 s".to_owned()));
        assert_eq!(
            (later_than(2.0), later_than(0.0017)),
            ("later than 2.00 s".to_owned(), "later than 1.70 ms".to_owned())
        );
        assert_eq!((seconds(0.413_385), seconds(2.0)), ("413.385 ms".to_owned(), "2.0000 s".to_owned()));
    }

    #[test]
    fn a_long_name_keeps_both_its_ends() {
        assert_eq!(short("a-very-long-name-of-a-pod-7", 11), "a-ver…pod-7");
        assert_eq!(short("ünïcödé", 7), "ünïcödé");
    }
}
