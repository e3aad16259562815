//! Which variable a flag also comes from.

/// `EGW_PROBE_INTERVAL` of `--interval`.
pub(crate) fn variable_of(flag: &str) -> String {
    format!("EGW_PROBE_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase())
}
