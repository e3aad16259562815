//! Limits that set the exit code. Pure. Judged conservatively: what is not known to be within a limit is beyond it.

use std::time::Duration;

use crate::document::go::format_duration;
use crate::report::data::figures::{self, seconds};
use crate::report::data::run::{Gate, Run};

/// The limits, as the user set them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Of the p99 of the delay.
    pub max_p99: Option<Duration>,
    /// Of leaked probes and connections, over all clients.
    pub max_leaked: Option<u64>,
    /// Of clients that were not masqueraded.
    pub max_failed: Option<u64>,
    /// Of disruptions, over all clients.
    pub max_disruptions: Option<u64>,
    /// Of the length of each.
    pub max_disruption: Option<Duration>,
    /// Fewest clients, by name.
    pub min_clients: Option<u64>,
}

/// Judges a run in which `leaked` probes leaked. Without a client no limit is known to be kept.
pub(crate) fn judge(limits: Limits, run: &Run, leaked: u64) -> Vec<Gate> {
    let any = run.clients.total > 0;
    let judged = |gate: String, kept: bool, found: String| Gate {
        gate,
        passed: any && kept,
        found: if any { found } else { "there is no client".to_owned() },
    };
    let p99 = limits.max_p99.map(|max| {
        let upper = run.delay.quantile("p99").and_then(|p99| p99.of_this_run.upper_seconds);
        let found = upper
            .map_or("the p99 is not bounded: too many clients never got through".to_owned(), |upper| {
                format!("the p99 of these clients is {} at most", seconds(upper))
            });
        let kept = upper.is_some_and(|upper| upper <= max.as_secs_f64());
        judged(format!("--max-p99 {}", format_duration(max)), kept, found)
    });
    let leaks = limits.max_leaked.map(|max| {
        let kept = leaked.saturating_add(run.leaked_connections.total()) <= max;
        let found = format!("{} leaked", figures::leaked(leaked, run.leaked_connections));
        judged(format!("--max-leaked {max}"), kept, found)
    });
    let failed = limits.max_failed.map(|max| {
        let failed = run.clients.timed_out + run.clients.unfinished;
        judged(format!("--max-failed {max}"), failed <= max, format!("{failed} clients were not masqueraded"))
    });
    let disruptions = &run.disruptions;
    // One that is still open may have only begun: no limit is known to be kept.
    let open = match disruptions.open {
        0 => String::new(),
        open => format!(", {open} without an end"),
    };
    let number = limits.max_disruptions.map(|max| {
        let kept = disruptions.total <= max && disruptions.open == 0;
        judged(format!("--max-disruptions {max}"), kept, format!("{} disruptions{open}", disruptions.total))
    });
    let length = limits.max_disruption.map(|max| {
        let longest = disruptions.longest.first().map_or(Some(0.0), |one| one.length.upper_seconds);
        let known = disruptions.open == 0 && disruptions.without_length == 0;
        let kept = known && longest.is_some_and(|longest| longest <= max.as_secs_f64());
        let found = match longest {
            _ if disruptions.open > 0 => format!("{} disruptions{open}", disruptions.total),
            _ if disruptions.without_length > 0 => {
                format!("of {} disruptions nobody tells the length", disruptions.without_length)
            }
            longest => format!("the longest may have lasted {}", seconds(longest.unwrap_or(f64::INFINITY))),
        };
        judged(format!("--max-disruption {}", format_duration(max)), kept, found)
    });
    let clients = limits.min_clients.map(|min| {
        let distinct = run.clients.distinct;
        judged(format!("--min-clients {min}"), distinct >= min, format!("{distinct} clients by name"))
    });
    [p99, leaks, failed, number, length, clients].into_iter().flatten().collect()
}
