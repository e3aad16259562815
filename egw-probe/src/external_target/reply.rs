//! What a connection is told. Pure.

use std::io::Write;
use std::net::SocketAddr;

use crate::document::verdict::Verdict;
use crate::external_target::opening::Opening;
use crate::sys::clock::Monotonic;

/// What an allowed source is told, whatever else it is told.
pub(crate) const PONG: &[u8] = b"pong\n";
const DENIED: &[u8] = b"denied\n";

/// What the target saw of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Where it came from.
    pub source: SocketAddr,
    /// The verdict on that.
    pub verdict: Verdict,
    /// When it was accepted.
    pub accepted: Monotonic,
    /// When its SYN came, where the kernel side knows.
    pub syn: Option<Monotonic>,
    /// What its SYN said, where the kernel has kept it.
    pub opening: Option<Opening>,
}

/// Room for an annotated reply.
pub(crate) type Room = [u8; 256];

/// The annotated reply: the line that decides, and a second one of `name=value` words; a word that is not known is left out.
pub(crate) fn annotated<'a>(seen: &Seen, room: &'a mut Room) -> &'a [u8] {
    let verdict = match seen.verdict {
        Verdict::Allowed => PONG,
        Verdict::Denied => DENIED,
    };
    let whole = room.len();
    let mut rest = &mut room[..];
    match write(seen, verdict, &mut rest) {
        Ok(()) => {
            let left = rest.len();
            &room[..whole - left]
        }
        Err(_) => verdict,
    }
}

fn write(seen: &Seen, verdict: &[u8], line: &mut impl Write) -> std::io::Result<()> {
    line.write_all(verdict)?;
    write!(line, "source={} accept_ns={}", seen.source, seen.accepted.as_ns())?;
    if let Some(syn) = seen.syn {
        write!(line, " syn_ns={}", syn.as_ns())?;
    }
    if let Some(timestamp) = seen.opening.and_then(|opening| opening.timestamp) {
        write!(line, " tsval={timestamp}")?;
    }
    if let Some(size) = seen.opening.and_then(|opening| opening.segment_size) {
        write!(line, " mss={size}")?;
    }
    line.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seen: &Seen) -> String {
        String::from_utf8(annotated(seen, &mut [0; 256]).to_vec()).unwrap()
    }

    #[test]
    fn the_second_line_says_all_that_is_known_and_no_more() {
        let opening = Opening { sequence: 1, timestamp: Some(u32::MAX), segment_size: Some(1460) };
        let longest = Seen {
            source: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap(),
            verdict: Verdict::Denied,
            accepted: Monotonic::from_ns(u64::MAX),
            syn: Some(Monotonic::from_ns(u64::MAX - 1)),
            opening: Some(opening),
        };
        assert_eq!(
            told(&longest),
            "denied\nsource=[2001:db8:1111:2222:3333:4444:5555:6666]:65535 accept_ns=18446744073709551615 \
             syn_ns=18446744073709551614 tsval=4294967295 mss=1460\n"
        );
        let source = "192.0.2.1:7".parse().unwrap();
        let least = Seen {
            source,
            verdict: Verdict::Allowed,
            accepted: Monotonic::from_ns(5),
            syn: None,
            opening: None,
        };
        assert_eq!(told(&least), "pong\nsource=192.0.2.1:7 accept_ns=5\n");
        let opening = Opening { timestamp: None, ..opening };
        assert_eq!(
            told(&Seen { opening: Some(opening), ..least }),
            "pong\nsource=192.0.2.1:7 accept_ns=5 mss=1460\n"
        );
    }
}
