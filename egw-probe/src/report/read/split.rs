//! From bytes to documents: JSON objects one to a line, one after another, or in an array. Pure, like a parser of bytes from
//! anywhere: it holds one document at a time, and finds the next one behind a damaged one.

use crate::report::read::document::Refusal;
use crate::report::read::log_line::{Line, OPENING};

/// Longest document that is read; a target's `/clients` of 4095 clients is far below.
const LONGEST: usize = 64 << 20;

/// What bytes were made of.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// From brace to brace; whether it is valid is for the reader to say.
    Document(&'a [u8]),
    /// A document that another one, or the end, came before the end of, or that lost its begin.
    Truncated,
    /// A document that went on for too long.
    TooLong,
    /// A line of our own log between documents.
    LogLine,
    /// Another line between documents.
    Stray,
    /// A whole stream that a report of ours wrote.
    Report,
    /// Why nothing more of a stream is read.
    Refused(Refusal),
}

/// Finds documents in bytes that come in chunks.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is what a byte can be inside of")]
pub(crate) struct Splitter {
    pending: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    at_line_start: bool,
    too_long: bool,
    /// Inside what is no document, up to the line's end.
    stray: Option<Line>,
}

impl Splitter {
    /// Before the first byte.
    pub(crate) fn new() -> Self {
        Self { at_line_start: true, ..Self::default() }
    }

    /// Takes in bytes, and hands on what they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Piece<'_>)) {
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.depth > 0 && byte == b'{' && self.at_line_start {
                // No writer begins a line with a brace inside a document: the one before was cut off.
                take(if self.too_long { Piece::TooLong } else { Piece::Truncated });
                self.restart();
            }
            self.at_line_start = byte == b'\n';
            if self.depth == 0 {
                if self.between(byte, &mut take) {
                    from = at;
                }
            } else if self.inside(byte) {
                self.keep(&bytes[from..=at]);
                take(if self.too_long { Piece::TooLong } else { Piece::Document(&self.pending) });
                self.restart();
            }
        }
        if self.depth > 0 {
            self.keep(&bytes[from..]);
        }
    }

    /// No more bytes will come.
    pub(crate) fn end(mut self, mut take: impl FnMut(Piece<'_>)) {
        self.end_stray(&mut take);
        if self.depth > 0 {
            take(if self.too_long { Piece::TooLong } else { Piece::Truncated });
        }
    }

    fn restart(&mut self) {
        *self = Self { pending: std::mem::take(&mut self.pending), ..Self::default() };
        self.pending.clear();
    }

    /// A byte between documents. True if it begins one.
    fn between(&mut self, byte: u8, take: &mut impl FnMut(Piece<'_>)) -> bool {
        match byte {
            b'\n' => self.end_stray(take),
            b'{' if self.stray.is_none() => {
                self.depth = 1;
                return true;
            }
            b' ' | b'\t' | b'\r' | b',' | b'[' | b']' if self.stray.is_none() => {}
            _ if self.stray.get_or_insert_with(Line::new).take(byte) => {
                // Whatever another program put before it (`pod container {...`), it is a result.
                self.stray = None;
                self.pending.extend_from_slice(OPENING.split_last().map_or(b"", |(_, begun)| begun));
                self.depth = 1;
                return true;
            }
            _ => {}
        }
        false
    }

    /// The end of a line between documents: what it was.
    fn end_stray(&mut self, take: &mut impl FnMut(Piece<'_>)) {
        let Some(line) = self.stray.take() else { return };
        take(match line {
            line if line.is_own() => Piece::LogLine,
            line if line.is_rest_of_document() => Piece::Truncated,
            _ => Piece::Stray,
        });
    }

    /// A byte inside a document. True if it ends it.
    fn inside(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.too_long |= self.pending.len() + bytes.len() > LONGEST;
        if self.too_long {
            self.pending = Vec::new();
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
impl Piece<'_> {
    /// A document as text, and everything else by its name.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Document(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is told of the pieces of bytes that come in chunks of this size.
    fn split(bytes: &[u8], chunk: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut take = |piece: Piece<'_>| found.push(piece.told());
        let mut splitter = Splitter::new();
        for chunk in bytes.chunks(chunk) {
            splitter.feed(chunk, &mut take);
        }
        splitter.end(&mut take);
        found
    }

    #[test]
    fn documents_come_in_lines_in_a_row_and_in_arrays() {
        for text in [
            "{\"a\":1}\n{\"b\":{}}\n",
            "{\"a\":1}{\"b\":{}}",
            "[{\"a\":1},\n {\"b\":{}}]\r\n",
            "\n\n{\"a\":1} {\"b\":{}}",
        ] {
            for chunk in [1, 2, 3, 1000] {
                assert_eq!(split(text.as_bytes(), chunk), ["{\"a\":1}", "{\"b\":{}}"], "{text}");
            }
        }
        assert_eq!(split(b"{\n  \"a\": [\n    {}\n  ]\n}\n", 7), ["{\n  \"a\": [\n    {}\n  ]\n}"]);
        assert_eq!(split(br#"{"a":"}\"{\\"}"#, 5), [r#"{"a":"}\"{\\"}"#]);
    }

    #[test]
    fn behind_a_damaged_document_the_next_one_is_found() {
        for chunk in [1, 4, 1000] {
            assert_eq!(
                split(b"{\"a\":\"cut o\n{\"b\":2}\n{\"c\":{\"d\"", chunk),
                ["Truncated", "{\"b\":2}", "Truncated"]
            );
            assert_eq!(
                split(b"a log line {\nanother\n{\"b\":2}\nand one\n", chunk),
                ["Stray", "Stray", "{\"b\":2}", "Stray"]
            );
            assert_eq!(
                split(b"lower\":1},\"version\":\"1\"}\n{\"b\":2}\n", chunk),
                ["Truncated", "{\"b\":2}"]
            );
        }
        assert_eq!(split(b"", 1), [""; 0]);
    }

    #[test]
    fn lines_of_our_own_log_are_told_from_other_text() {
        let text =
            b"2026-01-01T00:00:00.123456Z  WARN {weak} numbers\n{\"b\":2}\n2026-01-01 12:00 WARN not ours\n";
        for chunk in [1, 4, 1000] {
            assert_eq!(split(text, chunk), ["LogLine", "{\"b\":2}", "Stray"]);
        }
    }

    #[test]
    fn a_result_is_found_behind_whatever_stands_before_it() {
        for chunk in [1, 4, 13, 1000] {
            assert_eq!(
                split(b"web-1  | {\"schema\":1,\"a\":{}}\nweb-2 | x {\"schem\": 1}\n{}", chunk),
                ["{\"schema\":1,\"a\":{}}", "Stray", "{}"]
            );
        }
    }

    #[test]
    fn a_document_without_end_does_not_fill_the_memory() {
        let mut splitter = Splitter::new();
        splitter.feed(b"{", |_| panic!("nothing is complete"));
        for _ in 0..=(LONGEST >> 20) {
            splitter.feed(&vec![b' '; 1 << 20], |_| panic!("nothing is complete"));
        }
        assert!(splitter.pending.capacity() == 0);
        let mut found = Vec::new();
        splitter.feed(b"\n{}", |piece| found.push(format!("{piece:?}")));
        assert_eq!(found, ["TooLong", "Document([123, 125])"]);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "[{}\\[\\]\"\\\\a\n, ]{0,60}", chunk in 1_usize..20) {
            prop_assert_eq!(split(text.as_bytes(), chunk), split(text.as_bytes(), 1000));
        }
    }
}
