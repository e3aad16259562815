//! Log lines: always on stderr, text or JSON, and none of them repeated without end.

use std::time::Duration;

use tracing_subscriber::fmt;

use crate::cli::{LogArgs, LogFormat};
use crate::clock::Monotonic;
use crate::progress;

/// Installs the logger of the process.
pub fn init(args: &LogArgs) {
    let builder = fmt::Subscriber::builder()
        .with_max_level(args.log_level)
        .with_target(false)
        .with_ansi(progress::is_terminal())
        .with_writer(progress::stderr);
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Lets one line in a second through, and counts the others.
#[derive(Debug, Default)]
pub struct RateLimit {
    last: Option<Monotonic>,
    held_back: u64,
}

impl RateLimit {
    const PERIOD: Duration = Duration::from_secs(1);

    /// `Some` if a line may be written now: the number of lines held back since the last one.
    pub fn pass(&mut self, now: Monotonic) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < Self::PERIOD) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_the_rest_is_counted() {
        let at = |ms: u64| Monotonic::from_ns(ms * 1_000_000);
        let mut limit = RateLimit::default();
        assert_eq!(limit.pass(at(0)), Some(0));
        assert_eq!(limit.pass(at(1)), None);
        assert_eq!(limit.pass(at(999)), None);
        assert_eq!(limit.pass(at(1000)), Some(2));
        assert_eq!(limit.pass(at(2000)), Some(0));
    }
}
