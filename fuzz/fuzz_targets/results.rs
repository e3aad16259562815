//! Result documents, bare, in logs or packed: whatever the bytes, and in whichever chunks they come, each document is read or refused, and
//! counted once; nothing is lost, and what is made of them is JSON without a number that is none.
#![no_main]

use egw_probe::workbench::report::{self, Corpus, Found, Piece, Stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = read(bytes, bytes.len().max(1));
    let chunked = read(bytes, usize::from(size) + 1);
    assert_eq!(whole.1, chunked.1, "chunks make a difference");
    assert_eq!(format!("{:?}", whole.0.clients), format!("{:?}", chunked.0.clients));
    assert_eq!(whole.0.skipped, chunked.0.skipped);
});

/// What is in the bytes: clients, refusals. Checked as it is counted.
fn read(bytes: &[u8], size: usize) -> (Corpus, Vec<String>) {
    let (mut corpus, mut number, mut pieces) = (Corpus::default(), 0, Vec::new());
    // Clients, entries of targets, pages of sources.
    let (mut found, mut lines) = ([0_u64; 3], 0);
    let mut take = |piece: Piece<'_>| {
        pieces.push(format!("{piece:?}"));
        let is_line = match &piece {
            Piece::LogLine | Piece::Stray | Piece::Report => true,
            Piece::Document(bytes) => {
                matches!(report::read(bytes), Ok(Found::LogLine | Found::ForeignLine | Found::Report | Found::Baseline(_)))
            }
            _ => false,
        };
        lines += u64::from(is_line);
        if let Piece::Document(bytes) = &piece {
            match report::read(bytes) {
                Ok(Found::Client(_)) => found[0] += 1,
                Ok(Found::Tags(entries)) => found[1] += entries.len() as u64,
                Ok(Found::Sources(_)) => found[2] += 1,
                Ok(Found::LogLine | Found::ForeignLine | Found::Report | Found::Baseline(_)) => {}
                Err(refusal) => assert!(!refusal.to_string().is_empty()),
            }
        }
        let before = corpus.skipped_total();
        let read = is_line || matches!(&piece, Piece::Document(bytes) if report::read(bytes).is_ok());
        report::take(&mut corpus, "stream", &mut number, &piece);
        assert_eq!(corpus.skipped_total(), before + u64::from(!read));
    };
    let mut stream = Stream::default();
    for chunk in bytes.chunks(size) {
        stream.feed(chunk, &mut take);
    }
    stream.end(&mut take);
    assert_eq!(number + lines, pieces.len() as u64);
    assert_eq!(corpus.log_lines + corpus.foreign_lines + corpus.reports, lines);
    corpus.finish();
    let counted = corpus.clients.len() as u64 + corpus.read_again + corpus.tags_of_known_clients;
    assert_eq!(counted, found[0] + found[1]);
    assert_eq!(corpus.sources.is_some(), found[2] > 0);
    for client in &corpus.clients {
        assert!(client.delay.lower <= client.delay.upper, "{client:?}");
    }
    let run = report::sum_up(&corpus);
    let written = serde_json::to_string(&run).expect("JSON");
    assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok());
    (corpus, pieces)
}
