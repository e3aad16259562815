//! From the lines of a container's log to what the program wrote: takes off what kubectl, the kubelet and Docker put around each
//! line, and joins what they cut. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use crate::report::read::log_line::{is_instant, is_own_text};
use crate::report::read::split::{Piece, Splitter};

/// What is looked at of a line: names of a namespace, a Pod and a container, and an instant, are shorter.
const LOOKED_AT: usize = 512;
/// How a line of Docker's json-file begins.
const DOCKER: &[u8] = b"{\"log\":\"";
/// Longest of them: Docker cuts at 16 KiB, and a byte takes six once escaped.
const LONGEST_DOCKER: usize = 128 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Finds documents in the lines of a log that come in chunks. What was written to stdout and to stderr is joined apart; lines that say
/// nothing of that count as stdout.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// A line's begin, until it is known what is around it.
    begun: Vec<u8>,
    /// Where the rest of the line goes.
    rest: Option<Text>,
    outputs: [Splitter; 2],
}

/// What is inside a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Text {
    /// Bytes before it.
    from: usize,
    /// 0 is stdout, 1 is stderr.
    output: usize,
    /// The next line goes on where this one ends.
    cut: bool,
}

impl Lines {
    /// Before the first byte.
    pub(crate) fn new() -> Self {
        Self { begun: Vec::new(), rest: None, outputs: [Splitter::new(), Splitter::new()] }
    }

    /// Takes in bytes, and hands on what they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Piece<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            match self.rest {
                Some(text) => self.hand_on(text, part, &mut take),
                None => self.begin(part, ends, &mut take),
            }
            if ends {
                self.rest = None;
            }
        }
    }

    /// No more bytes will come.
    pub(crate) fn end(mut self, mut take: impl FnMut(Piece<'_>)) {
        self.begin(b"", true, &mut take);
        for output in self.outputs {
            output.end(&mut take);
        }
    }

    /// More of a line of which it is not known what is around it.
    fn begin(&mut self, part: &[u8], ends: bool, take: &mut impl FnMut(Piece<'_>)) {
        let line = if self.begun.is_empty() {
            Cow::Borrowed(part)
        } else {
            self.begun.extend_from_slice(part);
            Cow::Owned(std::mem::take(&mut self.begun))
        };
        let docker = line.starts_with(DOCKER);
        if !ends && line.len() < if docker { LONGEST_DOCKER } else { LOOKED_AT } {
            self.begun = line.into_owned();
            return;
        }
        if let Some((log, output)) = docker.then(|| of_docker(&line)).flatten() {
            self.outputs[output].feed(log.as_bytes(), take);
            return;
        }
        let text = inside(&line);
        self.hand_on(text, &line[text.from..], take);
        self.rest = Some(text);
    }

    fn hand_on(&mut self, text: Text, part: &[u8], take: &mut impl FnMut(Piece<'_>)) {
        let part = if text.cut { part.strip_suffix(b"\n").unwrap_or(part) } else { part };
        self.outputs[text.output].feed(part, take);
    }
}

/// What the program wrote and where to, from a line of Docker's json-file.
fn of_docker(line: &[u8]) -> Option<(String, usize)> {
    #[derive(Deserialize)]
    struct Line {
        log: String,
        stream: String,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some((line.log, output_of(line.stream.as_bytes())?))
}

fn output_of(stream: &[u8]) -> Option<usize> {
    [&b"stdout"[..], b"stderr"].iter().position(|name| *name == stream)
}

/// What is inside a line with a byte order mark, `[pod/NAME/CONTAINER] ` of `kubectl logs --prefix`, an instant of `--timestamps`, or the
/// instant, stream and tag of a CRI log, or none of them.
fn inside(line: &[u8]) -> Text {
    let mut rest = line.strip_prefix(BOM).unwrap_or(line);
    rest = without_pod(rest).unwrap_or(rest);
    let (mut output, mut cut) = (0, false);
    // A line of our own log begins with an instant, too.
    if let Some(behind) =
        word(rest).filter(|(at, _)| is_instant(at) && !is_own_text(&rest[..rest.len().min(64)]))
    {
        rest = behind.1;
        if let Some((stream, tag, text)) = cri(rest) {
            (output, cut, rest) = (stream, tag, text);
        }
    }
    Text { from: line.len() - rest.len(), output, cut }
}

fn without_pod(line: &[u8]) -> Option<&[u8]> {
    let named = line.starts_with(b"[pod/").then(|| line.windows(2).position(|pair| pair == b"] "))??;
    Some(&line[named + 2..])
}

/// Stream, whether the line is cut, and its text (<https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>).
fn cri(line: &[u8]) -> Option<(usize, bool, &[u8])> {
    let (stream, rest) = word(line)?;
    let (tags, text) = word(rest)?;
    match tags.split(|byte| *byte == b':').next() {
        Some(b"F") => Some((output_of(stream)?, false, text)),
        Some(b"P") => Some((output_of(stream)?, true, text)),
        _ => None,
    }
}

/// A word of an instant's length at most, and what is behind the blank after it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().take(64).position(|byte| *byte == b' ')?;
    Some((&line[..end], &line[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is told of the pieces of bytes that come in chunks of this size.
    fn found(text: &str, chunk: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut take = |piece: Piece<'_>| found.push(piece.told());
        let mut lines = Lines::new();
        for chunk in text.as_bytes().chunks(chunk) {
            lines.feed(chunk, &mut take);
        }
        lines.end(&mut take);
        found
    }

    fn check(text: &str, expected: &[&str]) {
        for chunk in [1, 2, 7, 1 << 20] {
            assert_eq!(found(text, chunk), expected, "{text}");
        }
    }

    #[test]
    fn what_kubectl_puts_before_a_line_is_taken_off() {
        let at = "2026-11-27T21:02:46.123456789Z";
        check("[pod/egw-1/client] {\"a\":1}\n[pod/egw-2/client] {\"b\":2}\n", &["{\"a\":1}", "{\"b\":2}"]);
        check(&format!("{at} {{\"a\":1}}\n{at} {{\"b\":2}}"), &["{\"a\":1}", "{\"b\":2}"]);
        check(&format!("[pod/egw-1/client] {at} {{\"a\":1}}\n"), &["{\"a\":1}"]);
        // A document on several lines, and a log line of ours.
        check(
            &format!(
                "[pod/x/c] {at}  WARN weak\n[pod/x/c] {{\n[pod/x/c]   \"a\": 1\n[pod/x/c] }}\n{at} {at}  INFO x\n"
            ),
            &["LogLine", "{\n  \"a\": 1\n}", "LogLine"],
        );
        check(&format!("{at}  WARN weak\n{at} another\n"), &["LogLine", "Stray"]);
        check("[pod/x/c] {\"a\":{\"cut\n[pod/y/c] {\"b\":2}\n", &["Truncated", "{\"b\":2}"]);
    }

    #[test]
    fn lines_that_the_kubelet_cut_are_joined_each_stream_apart() {
        let at = "2026-11-27T21:02:46.123456789+02:00";
        check(
            &format!(
                "{at} stdout P {{\"a\":\n{at} stderr F 2026-01-01T00:00:00.1Z  WARN weak\n{at} stdout P [1,\n{at} stdout F {{}}]}}\n\
                 {at} stderr F other\n"
            ),
            &["LogLine", "{\"a\":[1,{}]}", "Stray"],
        );
        check(&format!("{at} stdout P {{\"a\":\n"), &["Truncated"]);
    }

    #[test]
    fn lines_of_docker_are_unwrapped_and_joined() {
        let line = |log: &str, stream: &str| {
            let log = serde_json::to_string(log).unwrap();
            format!(
                "{{\"log\":{log},\"stream\":\"{stream}\",\"attrs\":{{\"a\":\"b\"}},\"time\":\"2026-11-27T21:02:46Z\"}}\n"
            )
        };
        let text = line("{\"a\":", "stdout")
            + &line("2026-01-01T00:00:00.1Z  WARN weak\n", "stderr")
            + &line("\"\\u00e4\"}\n", "stdout");
        check(&text, &["LogLine", "{\"a\":\"\\u00e4\"}"]);
        // What only looks like one of them is what it is.
        check("{\"log\":\"x\",\"b\":1}\n", &["{\"log\":\"x\",\"b\":1}"]);
        let long = format!("{{\"log\":\"{}\"}}", "x".repeat(2 * LONGEST_DOCKER));
        check(&format!("{long}\n{{}}"), &[&long, "{}"]);
    }

    #[test]
    fn a_mark_of_order_before_a_line_is_none_of_its_text() {
        check("\u{feff}{\"a\":1}\n\u{feff}{\"b\":2}", &["{\"a\":1}", "{\"b\":2}"]);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            lines in prop::collection::vec("(\\[pod/a/b\\] )?(2026-11-27T21:02:46Z (std(out|err) [FP] )?)?[{}\"a ]{0,9}\r?\n", 0..9),
            chunk in 1_usize..20,
        ) {
            let text = lines.concat();
            prop_assert_eq!(found(&text, chunk), found(&text, 1 << 20));
        }
    }
}
