//! Pages that are served over HTTP, and how those that take time or room are made: one at a time, once for all who wait.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{io, iter, thread};

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::oneshot;

use crate::sys::thread::refused;

/// The answer to a GET of one path.
#[derive(Debug, Clone)]
pub struct Page {
    /// Status code.
    pub status: StatusCode,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Page {
    /// A line of text.
    pub fn text(status: StatusCode, line: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n").into() }
    }

    /// A JSON document.
    pub fn json(value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default().into();
        Self { status: StatusCode::OK, content_type: "application/json", body }
    }

    /// Everything that `registry` gathers, in the Prometheus text format 0.0.4.
    pub fn metrics(registry: &prometheus::Registry) -> Self {
        let mut text = String::new();
        match prometheus::TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
            Ok(()) => Self {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: text.into(),
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// What a path has to offer.
#[derive(Debug)]
pub enum Answer {
    /// A page that costs nothing.
    Now(Page),
    /// A page that has to be made.
    Shared(SharedPage),
}

impl Answer {
    pub(crate) async fn page(self) -> Page {
        match self {
            Self::Now(page) => page,
            Self::Shared(page) => page.get().await,
        }
    }
}

/// The pages of a server: `None` for a path that is not there.
pub type Pages = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// A page that is made on a thread of its own, once for all who wait for it. Nobody gets one that was begun before they asked.
#[derive(Debug, Clone)]
pub struct SharedPage {
    waiting: mpsc::Sender<oneshot::Sender<Page>>,
}

impl SharedPage {
    /// Bytes a second that are made at most. Whoever does not read holds a page for as long as a connection may live, so this
    /// bounds what all of them hold.
    const RATE: u32 = 2 << 20;
    /// Of the time, what making takes at most: one part in so many.
    const PART: u32 = 5;

    /// A page that `make` makes. Its thread is there from now on: later there may be none to be had.
    pub(crate) fn new(mut make: impl FnMut() -> Page + Send + 'static) -> io::Result<Self> {
        let (waiting, arrivals) = mpsc::channel::<oneshot::Sender<Page>>();
        let started =
            thread::Builder::new().name("page".to_owned()).stack_size(256 * 1024).spawn(move || {
                let mut next_at = Instant::now();
                while let Ok(first) = arrivals.recv() {
                    thread::sleep(next_at.saturating_duration_since(Instant::now()));
                    let all = iter::once(first).chain(arrivals.try_iter());
                    let readers: Vec<_> = all.filter(|reader| !reader.is_closed()).collect();
                    if readers.is_empty() {
                        continue;
                    }
                    let begun = Instant::now();
                    let page = make();
                    next_at = begun + Self::pause(page.body.len(), begun.elapsed());
                    for reader in readers {
                        // One that has gone meanwhile needs none.
                        let _ = reader.send(page.clone());
                    }
                }
            });
        started.map_err(|error| refused("page", &error))?;
        Ok(Self { waiting })
    }

    async fn get(self) -> Page {
        let (reader, page) = oneshot::channel();
        let _ = self.waiting.send(reader);
        let broken = || Page::text(StatusCode::INTERNAL_SERVER_ERROR, "500: the page could not be made");
        page.await.unwrap_or_else(|_| broken())
    }

    /// From the beginning of one making to that of the next.
    fn pause(bytes: usize, took: Duration) -> Duration {
        let for_room = Duration::from_secs_f64(bytes as f64 / f64::from(Self::RATE));
        for_room.max(took * Self::PART)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A page that says which one it is, and how many were made.
    fn counting(took: Duration) -> (SharedPage, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let page = SharedPage::new(move || {
            thread::sleep(took);
            let number = counted.fetch_add(1, Ordering::Relaxed);
            Page::text(StatusCode::OK, &number.to_string())
        });
        (page.unwrap(), count)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn who_asks_while_a_page_is_made_gets_the_next_one_all_together() {
        let (page, count) = counting(Duration::from_millis(50));
        let bodies = block_on(async {
            let first = tokio::spawn(page.clone().get());
            tokio::time::sleep(Duration::from_millis(10)).await;
            let others: Vec<_> = (0..50).map(|_| tokio::spawn(page.clone().get())).collect();
            let mut bodies = vec![first.await.unwrap().body];
            for other in others {
                bodies.push(other.await.unwrap().body);
            }
            bodies
        });
        assert_eq!(bodies[0], "0\n");
        assert!(bodies[1..].iter().all(|body| body == "1\n"), "{bodies:?}");
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_page_is_never_older_than_its_request() {
        let (page, _) = counting(Duration::ZERO);
        for expected in ["0\n", "1\n", "2\n"] {
            assert_eq!(block_on(page.clone().get()).body, expected);
        }
    }

    #[test]
    fn readers_that_are_gone_before_it_is_made_cost_nothing() {
        let (page, count) = counting(Duration::from_millis(20));
        block_on(async {
            assert_eq!(page.clone().get().await.body, "0\n");
            // The next one is due in 80 ms; by then these are gone.
            for _ in 0..20 {
                let _ = tokio::time::timeout(Duration::from_millis(1), page.clone().get()).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(count.load(Ordering::Relaxed), 1);
            assert_eq!(page.get().await.body, "1\n");
        });
    }

    #[test]
    fn large_pages_and_slow_ones_are_made_less_often() {
        let pause = |bytes, ms| SharedPage::pause(bytes, Duration::from_millis(ms));
        assert_eq!(pause(0, 100), Duration::from_millis(500));
        assert_eq!(pause(2 << 20, 1), Duration::from_secs(1));
    }
}
