//! Reads the target's reply: the line that decides, and the line that annotates it. Pure.

use std::net::SocketAddr;

use crate::client::evidence::ToldSyn;
use crate::document::outcome::Outcome;

/// The lines that decide.
const LINES: [(&[u8], Outcome); 2] = [(b"pong\n", Outcome::Pong), (b"denied\n", Outcome::Leaked)];

/// Reads a reply as its bytes come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    /// The line that has matched so far, and how much of it.
    matched: Option<(usize, usize)>,
}

impl Reply {
    /// Takes the next bytes; `Some` once they decide.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Outcome> {
        for &byte in bytes {
            let (line, at) = match self.matched {
                Some(matched) => matched,
                None => (LINES.iter().position(|(line, _)| line[0] == byte).unwrap_or(0), 0),
            };
            let (text, outcome) = LINES[line];
            if text[at] != byte {
                return Some(Outcome::Garbled);
            }
            if at + 1 == text.len() {
                return Some(outcome);
            }
            self.matched = Some((line, at + 1));
        }
        None
    }

    /// Whether nothing has come yet.
    pub fn is_empty(self) -> bool {
        self.matched.is_none()
    }
}

/// What an annotated reply tells beside its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// The source address and port that the target saw.
    pub source: SocketAddr,
    pub(crate) syn: ToldSyn,
}

/// The annotation in a reply's second line: words of `name=value`, of which unknown ones are passed over. `None` if there is
/// no whole line, or none with a source.
pub fn annotation(reply: &[u8]) -> Option<Annotation> {
    let text = std::str::from_utf8(reply).ok()?;
    let (_, rest) = text.split_once('\n')?;
    let (line, _) = rest.split_once('\n')?;
    let word = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Some(Annotation {
        source: word("source")?.parse().ok()?,
        syn: ToldSyn {
            segment_size: word("mss").and_then(|size| size.parse().ok()),
            timestamp_ms: word("tsval").and_then(|timestamp| timestamp.parse().ok()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whole_or_byte_by_byte() {
        for (text, outcome) in [("pong\n", Outcome::Pong), ("denied\n", Outcome::Leaked)] {
            assert_eq!(Reply::default().read(text.as_bytes()), Some(outcome));
            assert_eq!(
                Reply::default().read(format!("{text}source=192.0.2.1:5\n").as_bytes()),
                Some(outcome)
            );
            let mut reply = Reply::default();
            for byte in &text.as_bytes()[..text.len() - 1] {
                assert_eq!(reply.read(&[*byte]), None);
                assert!(!reply.is_empty());
            }
            assert_eq!(reply.read(b"\n"), Some(outcome));
        }
    }

    #[test]
    fn another_reply_is_garbled_at_its_first_wrong_byte() {
        for text in ["HTTP/1.1 400", "pong\r\n", "pongpong", "deny", "d\n", "\n"] {
            assert_eq!(Reply::default().read(text.as_bytes()), Some(Outcome::Garbled), "{text}");
        }
        assert!(Reply::default().is_empty());
    }

    #[test]
    fn the_annotation_names_the_source_and_the_syn() {
        let read = |text: &[u8]| annotation(text).map(|told| (told.source.to_string(), told.syn));
        let syn = ToldSyn { segment_size: Some(777), timestamp_ms: Some(u32::MAX) };
        assert_eq!(
            read(b"denied\nsource=[2001:db8::7]:4711 accept_ns=5 tsval=4294967295 new=1 mss=777\n"),
            Some(("[2001:db8::7]:4711".to_owned(), syn))
        );
        assert_eq!(
            read(b"pong\naccept_ns=5 source=203.0.113.7:9\n"),
            Some(("203.0.113.7:9".to_owned(), ToldSyn::default()))
        );
        for other in
            [&b"pong\n"[..], b"pong\nsource=203.0.113.7:9", b"pong\nsource=x\n", b"pong\n\xff\n", b""]
        {
            assert_eq!(read(other), None);
        }
    }
}
