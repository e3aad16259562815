//! From the bytes of a file or a pipe to pieces: unpacks gzip, passes over what a report wrote, and refuses UTF-16. Pure.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use crate::report::read::document::Refusal;
use crate::report::read::lines::Lines;
use crate::report::read::split::Piece;

/// How gzip begins (RFC 1952, 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";
/// Bytes at the begin that tell a report of ours.
const LOOKED_AT: usize = 512;
/// So much is unpacked without a look at how little it came from: real logs shrink to a tenth or a hundredth, a bomb to a thousandth.
const UNPACKED_FREELY: u64 = 256 << 20;
const MOST_TIMES_ITS_SIZE: u64 = 300;

/// Whoever takes pieces.
type Take<'a> = dyn FnMut(Piece<'_>) + 'a;

/// A stream of bytes that come in chunks, packed or not.
#[derive(Debug, Default)]
pub struct Stream {
    begun: Vec<u8>,
    form: Option<Form>,
}

#[derive(Debug)]
enum Form {
    Plain(Text),
    Packed(Box<Packed>),
}

impl Stream {
    /// Takes in bytes, and hands on what they complete.
    pub fn feed(&mut self, bytes: &[u8], take: &mut Take<'_>) {
        match &mut self.form {
            None => {
                self.begun.extend_from_slice(bytes);
                if self.begun.len() >= GZIP.len() {
                    self.open(take);
                }
            }
            Some(Form::Plain(text)) => text.feed(bytes, take),
            Some(Form::Packed(packed)) => packed.feed(bytes, take),
        }
    }

    /// No more bytes will come.
    pub fn end(mut self, take: &mut Take<'_>) {
        if self.form.is_none() {
            self.open(take);
        }
        match self.form {
            Some(Form::Plain(text)) => text.end(take),
            Some(Form::Packed(packed)) => packed.end(take),
            None => {}
        }
    }

    fn open(&mut self, take: &mut Take<'_>) {
        let begun = std::mem::take(&mut self.begun);
        self.form = Some(if begun.starts_with(GZIP) {
            Form::Packed(Box::new(Packed::new()))
        } else {
            Form::Plain(Text::default())
        });
        self.feed(&begun, take);
    }
}

/// Bytes that are not packed.
#[derive(Debug, Default)]
struct Text {
    begun: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Lines(Box<Lines>),
    /// Nothing of it is read.
    PassedOver,
}

impl Text {
    fn feed(&mut self, bytes: &[u8], take: &mut Take<'_>) {
        match &mut self.body {
            None => {
                self.begun.extend_from_slice(bytes);
                if self.begun.len() >= LOOKED_AT {
                    self.open(take);
                }
            }
            Some(Body::Lines(lines)) => lines.feed(bytes, take),
            Some(Body::PassedOver) => {}
        }
    }

    fn end(mut self, take: &mut Take<'_>) {
        if self.body.is_none() {
            self.open(take);
        }
        if let Some(Body::Lines(lines)) = self.body {
            lines.end(take);
        }
    }

    fn open(&mut self, take: &mut Take<'_>) {
        let begun = std::mem::take(&mut self.begun);
        let passed_over = if is_utf16(&begun) {
            Some(Piece::Refused(Refusal::Foreign(
                "UTF-16: save it as UTF-8 (PowerShell: `| Out-File -Encoding utf8`)",
            )))
        } else {
            is_report(&begun).then_some(Piece::Report)
        };
        if let Some(piece) = passed_over {
            take(piece);
            self.body = Some(Body::PassedOver);
        } else {
            self.body = Some(Body::Lines(Box::new(Lines::new())));
            self.feed(&begun, take);
        }
    }
}

/// A byte order mark, or a zero byte beside the first character.
fn is_utf16(begun: &[u8]) -> bool {
    matches!(begun, [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
        || matches!(begun, [first, second, ..] if (*first == 0) != (*second == 0))
}

/// How text, Markdown, CSV and OpenMetrics of a report begin.
const REPORTS: [&[u8]; 5] = [
    b"egw-probe report\n",
    b"egw-probe report: ",
    b"## Egress gateway report",
    b"client_id,outcome,",
    b"# TYPE egw_probe_report_",
];

/// Whether a report wrote this. Page, JUnit XML and benchmark say so in words; what it writes as JSON is a document.
fn is_report(begun: &[u8]) -> bool {
    let name = b"\"egw-probe report";
    let begun = begun[..begun.len().min(LOOKED_AT)].trim_ascii_start();
    let is_named = || begun.windows(name.len()).any(|words| words == name);
    REPORTS.iter().any(|report| begun.starts_with(report))
        || (begun.starts_with(b"<") || begun.starts_with(b"[")) && is_named()
}

/// Gzip, of one member or several, as rotated logs are.
#[derive(Debug)]
struct Packed {
    /// Nothing once it broke.
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    text: Text,
    /// Bytes that came, and that were made of them.
    taken: u64,
    given: u64,
}

impl Packed {
    fn new() -> Self {
        Self { decoder: Some(MultiGzDecoder::new(Vec::new())), text: Text::default(), taken: 0, given: 0 }
    }

    fn feed(&mut self, bytes: &[u8], take: &mut Take<'_>) {
        self.taken += bytes.len() as u64;
        let mut rest = bytes;
        while let Some(decoder) = self.decoder.as_mut().filter(|_| !rest.is_empty()) {
            // Each call unpacks some ten KiB at most, so that no more are ever in memory.
            let result = decoder.write(rest);
            self.hand_on(take);
            let refusal = match result {
                Ok(0) => Some(Refusal::Damaged("gzip that does not go on".to_owned())),
                Err(error) => Some(refusal(&error)),
                Ok(_) if self.given > UNPACKED_FREELY.max(MOST_TIMES_ITS_SIZE * self.taken) => {
                    Some(Refusal::Damaged(format!(
                        "gzip that unpacks to more than {MOST_TIMES_ITS_SIZE} times its size"
                    )))
                }
                Ok(length) => {
                    rest = &rest[length..];
                    None
                }
            };
            if let Some(refusal) = refusal {
                self.stop(refusal, take);
            }
        }
    }

    fn end(mut self, take: &mut Take<'_>) {
        let Some(decoder) = &mut self.decoder else { return };
        let result = decoder.try_finish();
        self.hand_on(take);
        match result {
            Ok(()) => self.text.end(take),
            Err(error) => self.stop(refusal(&error), take),
        }
    }

    fn hand_on(&mut self, take: &mut Take<'_>) {
        let Some(decoder) = &mut self.decoder else { return };
        let unpacked = decoder.get_mut();
        self.given += unpacked.len() as u64;
        self.text.feed(unpacked, take);
        unpacked.clear();
    }

    fn stop(&mut self, refusal: Refusal, take: &mut Take<'_>) {
        if let Some(decoder) = &mut self.decoder {
            // What came before the damage is handed on; that it does not end well is known.
            let _ = decoder.try_finish();
            self.hand_on(take);
        }
        self.decoder = None;
        std::mem::take(&mut self.text).end(take);
        take(Piece::Refused(refusal));
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Refusal::Truncated,
        _ => Refusal::Damaged(format!("gzip: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// What is told of the pieces of bytes that come in chunks of this size.
    fn found(bytes: &[u8], chunk: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut take = |piece: Piece<'_>| found.push(piece.told());
        let mut stream = Stream::default();
        for chunk in bytes.chunks(chunk) {
            stream.feed(chunk, &mut take);
        }
        stream.end(&mut take);
        found
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_whatever_the_files_name_and_members_add_up() {
        let bytes = [packed(b"{\"a\":1}\n"), packed(b"{\"b\":2}\n{\"c\":3}")].concat();
        for chunk in [1, 5, 1 << 20] {
            assert_eq!(found(&bytes, chunk), ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
        }
        let twice = packed(&packed(b"{}"));
        assert!(!found(&twice, 9).contains(&"{}".to_owned()), "gzip inside gzip is not unpacked");
    }

    #[test]
    fn gzip_that_ends_too_early_or_is_damaged_is_told_and_what_came_before_is_read() {
        let bytes = packed(b"{\"a\":1}\n{\"b\":2}\n");
        for chunk in [1, 1 << 20] {
            let cut = found(&bytes[..bytes.len() - 12], chunk);
            assert_eq!(cut, ["{\"a\":1}", "Truncated", "Refused(Truncated)"]);
            let cut = found(&bytes[..bytes.len() - 1], chunk);
            assert!(cut[..2] == ["{\"a\":1}", "{\"b\":2}"] && cut[2].contains("checksum"), "{cut:?}");
            let mut damaged = bytes.clone();
            let crc = damaged.len() - 8;
            damaged[crc] ^= 1;
            let damaged = found(&damaged, chunk);
            assert_eq!(damaged[..2], ["{\"a\":1}", "{\"b\":2}"]);
            assert!(damaged[2].starts_with("Refused(Damaged(\"gzip: "), "{damaged:?}");
            let trailed = found(&[&bytes[..], b"garbage behind it"].concat(), chunk);
            assert!(trailed[2].starts_with("Refused(Damaged(\"gzip: "), "{trailed:?}");
        }
    }

    #[test]
    fn a_bomb_is_given_up_and_fills_no_memory() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(b"{\"a\":1}\n{").unwrap();
        let blank = vec![b' '; 1 << 20];
        for _ in 0..(UNPACKED_FREELY >> 20) + 8 {
            encoder.write_all(&blank).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let found = found(&bomb, 1 << 16);
        assert_eq!(
            found,
            [
                "{\"a\":1}",
                "TooLong",
                "Refused(Damaged(\"gzip that unpacks to more than 300 times its size\"))"
            ]
        );
    }

    #[test]
    fn utf_16_is_refused_in_one_line() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for bytes in [
            utf16("\u{feff}{\"a\":1}\n{\"b\":2}"),
            utf16("{\"a\":1}"),
            b"\xfe\xff\0{\0}".to_vec(),
            b"\0{\0}".to_vec(),
        ] {
            let found = found(&bytes, 3);
            assert_eq!(found.len(), 1);
            assert!(found[0].contains("UTF-16: save it as UTF-8"), "{found:?}");
        }
        assert_eq!(found(b"{}", 1), ["{}"]);
        assert_eq!(found(b"{", 1), ["Truncated"]);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference_not_even_to_damage(
            text in "([{}\"a\n]{0,40}|\\{\"a\":1\\}\n){0,9}", at in any::<prop::sample::Index>(), bit in 0..8, chunk in 1_usize..20,
        ) {
            let mut bytes = packed(text.as_bytes());
            prop_assert_eq!(found(&bytes, chunk), found(&bytes, 1 << 20));
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert_eq!(found(&bytes, chunk), found(&bytes, 1 << 20));
        }
    }
}
