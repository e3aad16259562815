//! Replies: in whichever pieces the bytes come, the outcome is the same, and it is the one of the bytes; and an annotation that
//! is cut off tells nothing.
#![no_main]

use egw_probe::document::outcome::Outcome;
use egw_probe::workbench::client::{Reply, annotation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let in_pieces = |size: usize| {
        let mut reply = Reply::default();
        bytes.chunks(size).find_map(|piece| reply.read(piece))
    };
    let begins = |line: &[u8]| line.starts_with(bytes);
    let expected = if bytes.starts_with(b"pong\n") {
        Some(Outcome::Pong)
    } else if bytes.starts_with(b"denied\n") {
        Some(Outcome::Leaked)
    } else if begins(b"pong\n") || begins(b"denied\n") {
        None
    } else {
        Some(Outcome::Garbled)
    };
    assert_eq!(in_pieces(bytes.len().max(1)), expected);
    assert_eq!(in_pieces(usize::from(size) + 1), expected);
    if let Some(told) = annotation(bytes) {
        let whole = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).map_or(0, |(at, _)| at + 1);
        assert_eq!(annotation(&bytes[..whole]), Some(told));
        for end in 0..whole {
            assert_eq!(annotation(&bytes[..end]), None);
        }
    }
});
