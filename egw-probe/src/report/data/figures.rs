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
    let (scaled, unit, digits) = scale(value);
    format!("{scaled:.digits$} {unit}")
}

/// Value, unit and digits behind the point.
fn scale(value: f64) -> (f64, &'static str, usize) {
    match value.abs() {
        ..1.0 => (value * 1e3, "ms", 3),
        1.0..100.0 => (value, "s", 4),
        _ => (value, "s", 1),
    }
}

/// From one time to another, in one unit.
pub(crate) fn range(lower: f64, upper: f64) -> String {
    let (_, unit, digits) = scale(lower.abs().max(upper.abs()));
    let factor = if unit == "ms" { 1e3 } else { 1.0 };
    let [lower, upper] = [lower, upper].map(|end| format!("{:.digits$}", end * factor));
    if lower == upper { format!("{upper} {unit}") } else { format!("{lower} to {upper} {unit}") }
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
    fn a_long_name_keeps_both_its_ends() {
        assert_eq!(short("a-very-long-name-of-a-pod-7", 11), "a-ver…pod-7");
        assert_eq!(short("ünïcödé", 7), "ünïcödé");
    }
}
