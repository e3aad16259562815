//! Reads inputs into a corpus: walks folders, reads files as streams, fetches pages. Decides nothing about what it reads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use ureq::http::Uri;

use crate::report::read::corpus::Corpus;
use crate::report::read::document::{self, Found, Refusal};
use crate::report::read::split::Piece;
use crate::report::read::stream::Stream;
use crate::report::read::{exposition, fetch};
use crate::sys::clock::Monotonic;
use crate::sys::progress::Progress;
use crate::sys::signals::Signals;

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

/// Something that results come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file or a folder.
    Path(PathBuf),
    /// A page of a client or a target.
    Page(Uri),
    /// A Prometheus server: the URL of its query API, and labels to choose series by.
    Prometheus(Uri, Vec<(String, String)>),
}

impl std::fmt::Display for Input {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => to.write_str("stdin"),
            Self::Path(path) => write!(to, "{}", path.display()),
            Self::Page(url) | Self::Prometheus(url, _) => write!(to, "{url}"),
        }
    }
}

/// A signal came while something was read.
#[derive(Debug, thiserror::Error)]
#[error("interrupted before everything was read")]
pub(crate) struct Interrupted;

/// Reads everything that these inputs name into a corpus, which knows already what it is to look for.
pub(crate) fn read(inputs: &[Input], corpus: Corpus, signals: &Signals) -> anyhow::Result<Corpus> {
    let mut reader = Reader { corpus, signals, progress: Progress::default(), bytes: 0 };
    let mut pages = Vec::new();
    for input in inputs {
        match input {
            Input::Stdin => reader.stream(io::stdin(), "stdin")?,
            Input::Path(path) if path.is_dir() => reader.folder(path)?,
            Input::Path(path) => reader.file(path)?,
            Input::Page(url) => pages.push(url.clone()),
            Input::Prometheus(api, labels) => {
                let url = fetch::with_query(api, &exposition::query(labels))?;
                let answer = fetch::all(&[url], fetch::LONGEST_ANSWER)?.remove(0);
                reader.series(answer, &api.to_string(), exposition::parse_answer);
            }
        }
    }
    for group in pages.chunks(fetch::AT_A_TIME) {
        reader.pages(group)?;
    }
    reader.corpus.finish();
    Ok(reader.corpus)
}

struct Reader<'a> {
    corpus: Corpus,
    signals: &'a Signals,
    progress: Progress,
    bytes: u64,
}

impl Reader<'_> {
    /// Every file below that is not hidden, whatever its name, in order; links to folders are not followed, they might lead round.
    fn folder(&mut self, folder: &Path) -> Result<(), Interrupted> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable(folder.display().to_string(), &error);
                return Ok(());
            }
        };
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.folder(&path)?;
            } else {
                match path.metadata() {
                    Ok(what) if what.is_file() => self.file(&path)?,
                    // No results are in pipes and sockets, and links to folders might lead round.
                    Ok(_) => {}
                    Err(error) => self.unreadable(path.display().to_string(), &error),
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), Interrupted> {
        match File::open(path) {
            Ok(file) => self.stream(file, &path.display().to_string()),
            Err(error) => {
                self.unreadable(path.display().to_string(), &error);
                Ok(())
            }
        }
    }

    /// Reads documents from a stream, one at a time.
    fn stream(&mut self, mut stream: impl Read + AsFd, name: &str) -> Result<(), Interrupted> {
        let mut chunk = vec![0; CHUNK];
        let mut pieces = Stream::default();
        let mut number = 0;
        let passed_over = |corpus: &Corpus| corpus.log_lines + corpus.reports + corpus.baselines();
        let before = passed_over(&self.corpus);
        loop {
            self.wait_for(&stream)?;
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => {
                    self.bytes += length as u64;
                    let corpus = &mut self.corpus;
                    pieces.feed(&chunk[..length], &mut |piece| take(corpus, name, &mut number, &piece));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.unreadable(name.to_owned(), &error);
                    return Ok(());
                }
            }
            self.show();
        }
        pieces.end(&mut |piece| take(&mut self.corpus, name, &mut number, &piece));
        if number == 0 && passed_over(&self.corpus) == before {
            self.corpus.skip(name.to_owned(), Refusal::Foreign("it holds no document"));
        }
        Ok(())
    }

    /// Waits until there is something to read, so that a signal ends a wait for a slow writer.
    fn wait_for(&self, stream: &impl AsFd) -> Result<(), Interrupted> {
        let mut ready = [
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
            PollFd::new(self.signals, PollFlags::IN),
        ];
        // What poll has to complain about, the read finds, too.
        let _ = poll(&mut ready, None);
        if self.signals.take() { Err(Interrupted) } else { Ok(()) }
    }

    fn pages(&mut self, urls: &[Uri]) -> anyhow::Result<()> {
        let pages = fetch::all(urls, fetch::LONGEST_PAGE)?;
        for (url, page) in urls.iter().zip(pages) {
            let name = url.to_string();
            match page {
                // A page of metrics begins with a comment or a name, a document with a brace.
                Ok(page) if page.first() == Some(&b'{') => {
                    let mut number = 0;
                    take(&mut self.corpus, &name, &mut number, &Piece::Document(&page));
                }
                page => self.series(page, &name, |bytes| {
                    let text =
                        std::str::from_utf8(bytes).map_err(|_| Refusal::Damaged("no UTF-8".to_owned()))?;
                    exposition::parse_text(text)
                }),
            }
        }
        if self.signals.take() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Reads the clients of which a page or an answer has series.
    fn series(
        &mut self,
        page: Result<Vec<u8>, fetch::FetchError>,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<Vec<exposition::Series>, Refusal>,
    ) {
        let clients = page
            .map_err(|error| Refusal::Unreadable(error.to_string()))
            .and_then(|page| parse(&page))
            .and_then(|series| exposition::clients(series, name));
        match clients {
            Ok(clients) => {
                clients.readings.into_iter().for_each(|client| self.corpus.add(client));
                for (client, refusal) in clients.damaged {
                    self.corpus.skip(format!("{name}: {client}"), refusal);
                }
            }
            Err(refusal) => self.corpus.skip(name.to_owned(), refusal),
        }
    }

    fn unreadable(&mut self, place: String, error: &io::Error) {
        self.corpus.skip(place, Refusal::Unreadable(error.to_string()));
    }

    fn show(&mut self) {
        let (results, bytes) = (self.corpus.clients.len(), self.bytes);
        self.progress.show(Monotonic::now(), || format!("reading: {results} results, {} MiB", bytes >> 20));
    }
}

/// Takes a piece of a stream into the corpus. Documents of a stream are numbered from 1, those that are not read included, and lines of
/// logs not.
pub fn take(corpus: &mut Corpus, name: &str, number: &mut u64, piece: &Piece<'_>) {
    let found = match piece {
        Piece::LogLine => Ok(Found::LogLine),
        Piece::Stray => Ok(Found::ForeignLine),
        Piece::Report => Ok(Found::Report),
        Piece::Document(bytes) => document::read(bytes),
        Piece::Truncated => Err(Refusal::Truncated),
        Piece::TooLong => Err(Refusal::Damaged("longer than any result".to_owned())),
        Piece::Refused(refusal) => Err(refusal.clone()),
    };
    // Lines of logs are no documents, be they JSON or not.
    *number += u64::from(!matches!(
        found,
        Ok(Found::LogLine | Found::ForeignLine | Found::Report | Found::Baseline(_))
    ));
    match found {
        Ok(found) => corpus.take(found, name),
        Err(refusal) if matches!(piece, Piece::Refused(_)) => corpus.skip(name.to_owned(), refusal),
        Err(refusal) => corpus.skip(format!("{name}: document {number}"), refusal),
    }
}
