//! The kernel program's own log lines, handed on to `tracing`.

use log::{Log, Metadata, Record};

/// Hands every record on at trace level.
#[derive(Debug, Clone, Copy)]
pub(super) struct TraceLog;

impl Log for TraceLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::trace!(target: "egw_probe_ebpf", "{}", record.args());
    }

    fn flush(&self) {}
}
