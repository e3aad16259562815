//! Log lines: always on stderr, text or JSON, and none of them repeated without end.

use std::time::Duration;

use tracing_subscriber::fmt;

use crate::sys::clock::Monotonic;
use crate::sys::progress;

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the logger of the process.
pub fn init(level: tracing::Level, format: Format) {
    let builder = fmt::Subscriber::builder()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(progress::is_terminal())
        .with_writer(progress::stderr);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}

/// Leave to write a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// How many were held back since the last one, if any were.
    pub held_back: Option<u64>,
}

/// Lets a few lines in a second through, and counts the others.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u64,
    window: Option<Monotonic>,
    passed: u64,
    held_back: u64,
}

impl RateLimit {
    const WINDOW: Duration = Duration::from_secs(1);

    /// A limit of so many lines in a second.
    pub(crate) const fn per_second(lines: u64) -> Self {
        Self { per_second: lines, window: None, passed: 0, held_back: 0 }
    }

    /// `Some` if a line may be written now.
    pub(crate) fn pass(&mut self, now: Monotonic) -> Option<Pass> {
        if self.window.is_none_or(|window| now.since(window) >= Self::WINDOW) {
            self.window = Some(now);
            self.passed = 0;
        }
        if self.passed == self.per_second {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        let held_back = std::mem::take(&mut self.held_back);
        Some(Pass { held_back: (held_back > 0).then_some(held_back) })
    }
}

/// The first few of a list, comma-separated, and how many more there are: no line carries thousands.
pub(crate) fn few<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = all.len() - shown.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(",") + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_list_the_first_few_are_shown_and_the_others_counted() {
        assert_eq!(few(&[1, 2]), "1,2");
        assert_eq!(few(&(0..100_000).collect::<Vec<_>>()), "0,1,2,3,4,5,6,7 and 99992 more");
    }

    #[test]
    fn a_few_lines_a_second_pass_and_the_rest_is_counted() {
        let at = |ms: u64| Monotonic::from_ns(ms * 1_000_000);
        let mut limit = RateLimit::per_second(2);
        assert_eq!(limit.pass(at(0)), Some(Pass { held_back: None }));
        assert_eq!(limit.pass(at(1)), Some(Pass { held_back: None }));
        assert_eq!(limit.pass(at(2)), None);
        assert_eq!(limit.pass(at(999)), None);
        assert_eq!(limit.pass(at(1000)), Some(Pass { held_back: Some(2) }));
        assert_eq!(limit.pass(at(2500)), Some(Pass { held_back: None }));
    }
}
