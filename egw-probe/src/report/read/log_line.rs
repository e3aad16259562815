//! What a line among documents is: one of our own log, one of another program's, or the rest of a document. Pure.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Whether a line of text is one of our own log: `2026-01-01T00:00:00.000000Z  WARN ...`. Its first 64 bytes tell.
pub(crate) fn is_own_text(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    words.next().zip(words.next()).is_some_and(|(at, level)| logged(at, level))
}

/// Whether a document is a line of our own log as JSON.
pub(crate) fn is_own_json(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line {
        timestamp: String,
        level: String,
        schema: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Line>(bytes)
        .is_ok_and(|line| line.schema.is_none() && logged(&line.timestamp, &line.level))
}

/// Whether a document is a line of another program's log as JSON: it has a message, and nothing of a document of ours.
pub(crate) fn is_foreign_json(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line {
        #[serde(alias = "message")]
        msg: Option<String>,
        schema: Option<IgnoredAny>,
        client_id: Option<IgnoredAny>,
        bracket: Option<IgnoredAny>,
        probes: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Line>(bytes).is_ok_and(|line| {
        let ours = [line.schema, line.client_id, line.bracket, line.probes];
        line.msg.is_some() && ours.iter().all(Option::is_none)
    })
}

fn logged(at: &str, level: &str) -> bool {
    matches!(level, "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR")
        && at.ends_with('Z')
        && is_instant(at.as_bytes())
}

/// Whether this is an instant as RFC 3339 writes it, with or without a fraction.
pub(crate) fn is_instant(at: &[u8]) -> bool {
    let form = b"0000-00-00T00:00:00";
    let fits = |(&byte, &form): (&u8, &u8)| if form == b'0' { byte.is_ascii_digit() } else { byte == form };
    let rest = at.get(form.len()..).unwrap_or_default();
    let zone = rest.iter().position(|byte| !matches!(byte, b'.' | b'0'..=b'9')).map(|end| &rest[end..]);
    at.iter().zip(form).all(fits) && matches!(zone, Some([b'Z'] | [b'+' | b'-', _, _, b':', _, _]))
}

/// A sequence of bytes that is looked for in bytes that come one by one. Its first byte may come again only as its last.
#[derive(Debug)]
struct Needle {
    bytes: &'static [u8],
    matched: usize,
}

impl Needle {
    /// True if this byte completes it.
    fn ends_with(&mut self, byte: u8) -> bool {
        self.matched = if byte == self.bytes[self.matched] {
            self.matched + 1
        } else {
            usize::from(byte == self.bytes[0])
        };
        let found = self.matched == self.bytes.len();
        if found {
            self.matched = 0;
        }
        found
    }
}

/// How a result begins, up to the byte that tells it from other objects.
pub(crate) const OPENING: &[u8] = b"{\"schema\":";

/// A line between documents, as far as it is looked at.
#[derive(Debug)]
pub(crate) struct Line {
    head: Vec<u8>,
    opening: Needle,
    /// What stands in every timeline, and in no other program's log.
    timeline: Needle,
    has_timeline: bool,
    has_quote: bool,
    /// Braces opened, less those closed; and the least that was.
    depth: i64,
    least: i64,
}

impl Line {
    /// Bytes that tell a line of our own log.
    const HEAD: usize = 64;

    /// Before its first byte.
    pub(crate) fn new() -> Self {
        Self {
            head: Vec::new(),
            opening: Needle { bytes: OPENING, matched: 0 },
            timeline: Needle { bytes: b"from_seconds\":", matched: 0 },
            has_timeline: false,
            has_quote: false,
            depth: 0,
            least: 0,
        }
    }

    /// Takes in a byte. True if a result begins with [`OPENING`], which this byte completes.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        if self.head.len() < Self::HEAD {
            self.head.push(byte);
        }
        self.has_timeline |= self.timeline.ends_with(byte);
        match byte {
            b'"' => self.has_quote = true,
            b'{' => self.depth += 1,
            b'}' => self.depth -= 1,
            _ => {}
        }
        self.least = self.least.min(self.depth);
        self.opening.ends_with(byte)
    }

    /// Whether it is one of our own log.
    pub(crate) fn is_own(&self) -> bool {
        is_own_text(&self.head)
    }

    /// Whether it is what is left of a document that lost its begin: it closes more than it opens, or has a piece of a timeline.
    pub(crate) fn is_rest_of_document(&self) -> bool {
        self.has_timeline || (self.least < 0 && self.has_quote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_those_of_rfc_3339() {
        for at in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.1+02:00"] {
            assert!(is_instant(at.as_bytes()), "{at}");
        }
        for at in ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00.5+2", ""]
        {
            assert!(!is_instant(at.as_bytes()), "{at}");
        }
    }

    #[test]
    fn a_message_without_anything_of_ours_is_another_programs() {
        for line in [r#"{"level":"info","ts":1.5,"msg":"x"}"#, r#"{"message":"x","probes":null}"#] {
            assert!(is_foreign_json(line.as_bytes()), "{line}");
        }
        for line in
            [r#"{"msg":"x","schema":1}"#, r#"{"msg":"x","probes":{}}"#, r#"{"msg":1}"#, r#"{"kind":"Pod"}"#]
        {
            assert!(!is_foreign_json(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn the_rest_of_a_document_is_told_from_a_line_of_text() {
        let of = |text: &str| {
            let mut line = Line::new();
            text.bytes().for_each(|byte| assert!(!line.take(byte), "{text}"));
            line.is_rest_of_document()
        };
        for rest in
            [r#".1.0"}"#, r#"robes":{"pong":1},"version":"0.1.0"}"#, r#"m_seconds":1},{"from_seconds":2"#]
        {
            assert!(of(rest), "{rest}");
        }
        for text in ["E0101 x", r#"I0101 {"a":{"b":1}}"#, "}", "x {", r#"a="b""#] {
            assert!(!of(text), "{text}");
        }
        let mut line = Line::new();
        let found = br#"web-1 | {{"schema":1"#.iter().map(|byte| line.take(*byte)).collect::<Vec<_>>();
        assert_eq!(found.iter().position(|found| *found), Some(18));
    }
}
