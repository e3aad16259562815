//! From the kernel's clock to the process's: in a time namespace `CLOCK_MONOTONIC` is off by an offset, and the kernel program's
//! stamps are not (`time_namespaces(7)`).

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use egw_probe_common::tag::TagRecord;

use crate::observer::error::KernelError;
use crate::sys::clock::Monotonic;

/// How the kernel's stamps become instants of the process's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KernelClock {
    offset_ns: i64,
}

impl KernelClock {
    /// That of this process.
    pub(super) fn of_this_process() -> Result<Self, KernelError> {
        // By number: readlink(2) is a call that the image's seccomp profile, and others, have no use for.
        let number = |name| std::fs::metadata(Path::new("/proc/self/ns").join(name)).map(|file| file.ino());
        match (number("time"), number("time_for_children")) {
            // A kernel without time namespaces.
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            (Ok(own), Ok(children)) if own == children => {}
            // The offsets that can be read are not this process's.
            (Ok(_), Ok(_)) => {
                return Err(KernelError::TimeNamespace { found: "it is to be its children's only".into() });
            }
            (Err(error), _) | (_, Err(error)) => {
                return Err(KernelError::TimeNamespace { found: error.to_string() });
            }
        }
        let text = std::fs::read_to_string("/proc/self/timens_offsets")
            .map_err(|error| KernelError::TimeNamespace { found: error.to_string() })?;
        let offset_ns = monotonic_offset(&text).ok_or(KernelError::TimeNamespace { found: text })?;
        Ok(Self { offset_ns })
    }

    /// The instant of a kernel's stamp.
    pub(super) const fn instant(self, stamp_ns: u64) -> Monotonic {
        Monotonic::from_ns(stamp_ns.saturating_add_signed(self.offset_ns))
    }

    /// A record with the process's instants.
    pub(super) fn record(self, record: TagRecord) -> TagRecord {
        let local = |stamp_ns| if stamp_ns == 0 { 0 } else { self.instant(stamp_ns).as_ns() };
        TagRecord {
            first_ns: local(record.first_ns),
            last_ns: local(record.last_ns),
            last_leaked_ns: local(record.last_leaked_ns),
            last_leaked_before_ns: local(record.last_leaked_before_ns),
            first_masqueraded_ns: local(record.first_masqueraded_ns),
            proven_lower_ns: local(record.proven_lower_ns),
            proven_by_ns: local(record.proven_by_ns),
            ..record
        }
    }
}

/// The offset of `CLOCK_MONOTONIC` in `/proc/PID/timens_offsets`: `monotonic SECONDS NANOSECONDS`.
fn monotonic_offset(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let numbers: Vec<i64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [seconds, nanoseconds] = numbers[..] else { return None };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_read_with_its_sign() {
        let text = |line: &str| format!("{line}\nboottime           9         0\n");
        assert_eq!(monotonic_offset(&text("monotonic          0         0")), Some(0));
        assert_eq!(monotonic_offset(&text("monotonic      86400        17")), Some(86_400_000_000_017));
        assert_eq!(monotonic_offset(&text("monotonic        -60 999999999")), Some(-59_000_000_001));
        for other in ["", "monotonic", "monotonic 1", "monotonic x 1", "boottime 1 1"] {
            assert_eq!(monotonic_offset(other), None, "{other}");
        }
    }

    #[test]
    fn what_has_not_happened_stays_so() {
        let clock = KernelClock { offset_ns: -5 };
        assert_eq!(clock.instant(12), Monotonic::from_ns(7));
        let record = TagRecord { first_ns: 12, last_ns: 13, leaked: 9, ..TagRecord::default() };
        let expected = TagRecord { first_ns: 7, last_ns: 8, leaked: 9, ..TagRecord::default() };
        assert_eq!(clock.record(record), expected);
    }
}
