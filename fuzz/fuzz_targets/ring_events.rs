//! Ring records: read exactly if they have a length and a class that the kernel writes, and field by field as it writes them.
#![no_main]

use std::net::Ipv6Addr;

use egw_probe::document::verdict::Verdict;
use egw_probe::workbench::observer::parse;
use egw_probe_common::class;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = <[u8; 40]>::try_from(bytes) else {
        assert_eq!(parse(bytes), None);
        return;
    };
    let Some(seen) = parse(bytes) else {
        assert!(![class::ALLOWED, class::DENIED].contains(&record[34]));
        return;
    };
    let class = if seen.class == Verdict::Allowed { class::ALLOWED } else { class::DENIED };
    assert_eq!(class, record[34]);
    assert_eq!(seen.at.as_ns().to_ne_bytes(), record[..8]);
    let octets: [u8; 16] = record[8..24].try_into().unwrap();
    assert_eq!(seen.source.ip(), Ipv6Addr::from(octets).to_canonical());
    assert_eq!(seen.sequence.to_ne_bytes(), record[24..28]);
    assert_eq!(seen.ifindex.to_ne_bytes(), record[28..32]);
    assert_eq!(seen.source.port().to_ne_bytes(), record[32..34]);
});
