//! HTTP: whatever a peer says, in whichever pieces, it gets one whole answer of this server's or none, to a request the same
//! one; and the conversation ends.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use egw_probe::workbench::sys::{Answer, Page, Pages, converse};
use hyper::StatusCode;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

/// Above every limit of the server's, which end a conversation by themselves.
const PATIENCE: Duration = Duration::from_secs(15);

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = answer(bytes, bytes.len().max(1));
    let in_pieces = answer(bytes, usize::from(size) + 1);
    // What is no request, and never ends, is told so at its first wrong byte or not at all: hyper reads a head that came in
    // part again only once its end is there.
    let to_a_request = |(status, _): &(u16, String)| [200, 404, 405].contains(status);
    assert_eq!(whole.filter(to_a_request), in_pieces.filter(to_a_request), "pieces make a difference");
});

/// Status and body.
fn answer(bytes: &[u8], size: usize) -> Option<(u16, String)> {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let text = runtime.block_on(async {
        let pages: Arc<Pages> =
            Arc::new(|path| (path == "/here").then(|| Answer::Now(Page::text(StatusCode::OK, "the page"))));
        let (server, client) = tokio::io::duplex(1 << 16);
        let (mut reads, mut writes) = tokio::io::split(client);
        let asks = async {
            for piece in bytes.chunks(size) {
                // The server may have hung up.
                let _ = writes.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = writes.shutdown().await;
        };
        let hears = async {
            let mut text = Vec::new();
            let _ = reads.read_to_end(&mut text).await;
            text
        };
        let all = async { tokio::join!(async { drop(converse(server, pages).await) }, asks, hears).2 };
        tokio::time::timeout(PATIENCE, all).await.expect("the conversation ends")
    });
    let text = String::from_utf8(text).expect("text");
    if text.is_empty() {
        return None;
    }
    // HTTP/1.0 gets its own version back.
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 ")).expect(&text);
    let status: u16 = status[..3].parse().expect(&text);
    assert!([200, 400, 404, 405, 413, 414, 431].contains(&status), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect(head);
    let length: usize = length.parse().expect(head);
    assert!(body.is_empty() || body.len() == length, "{text}");
    assert!(status != 200 || body.is_empty() || body == "the page\n", "{text}");
    Some((status, body.to_owned()))
}
