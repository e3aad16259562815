//! What the clients of a lab took of the machine.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

/// Processor time of all clients together, and memory.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    pub(crate) client_cpu_seconds: f64,
    /// How much more memory the whole machine used while clients ran than before, at the most.
    pub(crate) memory_bytes: u64,
}

impl Cost {
    /// The cost of this and `other`, one after the other.
    pub(crate) fn then(self, other: Self) -> Self {
        Self {
            client_cpu_seconds: self.client_cpu_seconds + other.client_cpu_seconds,
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// A measurement under way. Nothing but clients may end, as children of this process, while it is.
pub(crate) struct Meter {
    cpu_seconds: f64,
    available_bytes: u64,
    least_available_bytes: u64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        let available_bytes = available_memory();
        Self {
            cpu_seconds: ended_children_seconds(),
            available_bytes,
            least_available_bytes: available_bytes,
        }
    }

    /// Takes a look at the memory in use. To be called now and then.
    pub(crate) fn look(&mut self) {
        self.least_available_bytes = self.least_available_bytes.min(available_memory());
    }

    pub(crate) fn finish(self) -> Cost {
        Cost {
            client_cpu_seconds: ended_children_seconds() - self.cpu_seconds,
            memory_bytes: self.available_bytes - self.least_available_bytes,
        }
    }
}

fn ended_children_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("a process may ask for its own children");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// `MemAvailable` of `/proc/meminfo`; 0 where it isn't told.
fn available_memory() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
