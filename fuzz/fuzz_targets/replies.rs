//! Replies: in whichever pieces the bytes come, the outcome is the same, and it is the one of the bytes; and an annotation that
//! is cut off tells the address of the whole one, or none.
#![no_main]

use egw_probe::document::outcome::Outcome;
use egw_probe::workbench::client::{Reply, egress_ip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let in_pieces = |size: usize| {
        let mut reply = Reply::default();
        let decided = bytes.chunks(size).find_map(|piece| reply.read(piece));
        decided.unwrap_or_else(|| reply.closed())
    };
    let expected = if bytes.starts_with(b"pong\n") {
        Outcome::Pong
    } else if bytes.is_empty() {
        Outcome::Leaked
    } else {
        Outcome::Garbled
    };
    assert_eq!(in_pieces(bytes.len().max(1)), expected);
    assert_eq!(in_pieces(usize::from(size) + 1), expected);
    if let Some(address) = egress_ip(bytes) {
        for end in 0..bytes.len() {
            assert!(egress_ip(&bytes[..end]).is_none_or(|cut| cut == address));
        }
    }
});
