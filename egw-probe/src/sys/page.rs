//! Pages that are served over HTTP, and how those that take time or room are made: one at a time, once for all who wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

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
    Shared(Arc<SharedPage>),
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

/// A page that is made on a thread of its own, once for all who have asked for it by then. Nobody gets one that was begun before
/// they asked.
pub struct SharedPage {
    make: Box<dyn Fn() -> Page + Send + Sync>,
    made: Arc<Mutex<Option<Made>>>,
}

#[derive(Debug)]
struct Made {
    page: Page,
    begun: Instant,
    next_at: Instant,
}

impl SharedPage {
    /// Bytes a second that are made at most. Whoever does not read holds a page for as long as a connection may live, so this
    /// bounds what all of them hold.
    pub(crate) const RATE: u32 = 2 << 20;
    /// Of the time, what making takes at most: one part in so many.
    const PART: u32 = 5;

    /// A page that `make` makes.
    pub fn new(make: impl Fn() -> Page + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { make: Box::new(make), made: Arc::default() })
    }

    /// The page. A reader that goes away while others make it leaves nothing behind.
    pub(crate) fn get(self: Arc<Self>) -> impl Future<Output = Page> {
        let asked = Instant::now();
        async move {
            let mut made = Arc::clone(&self.made).lock_owned().await;
            if let Some(made) = &*made {
                if made.begun >= asked {
                    return made.page.clone();
                }
                tokio::time::sleep_until(made.next_at).await;
            }
            // The lock goes with the making, which goes on though its reader is gone: never are two under way.
            let making = tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                let page = (self.make)();
                let next_at = begun + Self::pause(page.body.len(), begun.elapsed());
                *made = Some(Made { page: page.clone(), begun, next_at });
                page
            });
            making.await.unwrap_or_else(|_| {
                Page::text(StatusCode::INTERNAL_SERVER_ERROR, "500: the page could not be made")
            })
        }
    }

    /// From the beginning of one making to the next.
    fn pause(bytes: usize, took: Duration) -> Duration {
        let for_room = Duration::from_secs_f64(bytes as f64 / f64::from(Self::RATE));
        for_room.max(took * Self::PART)
    }
}

impl std::fmt::Debug for SharedPage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SharedPage").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counting(took: Duration) -> (Arc<SharedPage>, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let page = SharedPage::new(move || {
            std::thread::sleep(took);
            let number = counted.fetch_add(1, Ordering::Relaxed);
            Page::text(StatusCode::OK, &number.to_string())
        });
        (page, count)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn who_asks_while_a_page_is_made_gets_the_next_one_all_together() {
        let (page, count) = counting(Duration::from_millis(20));
        let bodies = block_on(async {
            let first = tokio::spawn(Arc::clone(&page).get());
            tokio::time::sleep(Duration::from_millis(5)).await;
            let others: Vec<_> = (0..50).map(|_| tokio::spawn(Arc::clone(&page).get())).collect();
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
        let bodies = block_on(async {
            let mut bodies = vec![];
            for _ in 0..3 {
                bodies.push(Arc::clone(&page).get().await.body);
            }
            bodies
        });
        assert_eq!(bodies, ["0\n", "1\n", "2\n"]);
    }

    #[test]
    fn readers_that_are_gone_cost_nothing_and_never_make_two_at_a_time() {
        let (page, count) = counting(Duration::from_millis(20));
        block_on(async {
            for _ in 0..100 {
                // Each is gone before its page is there; the first while it is made.
                let _ = tokio::time::timeout(Duration::from_millis(1), Arc::clone(&page).get()).await;
            }
            let last = page.get().await.body;
            assert_eq!(last, format!("{}\n", count.load(Ordering::Relaxed) - 1));
        });
        let made = count.load(Ordering::Relaxed);
        // One in 100 ms, and these took a fifth of a second; a slow machine takes longer, and makes more.
        assert!(made < 20, "{made} made for 101 requests");
    }

    #[test]
    fn large_pages_and_slow_ones_are_made_less_often() {
        let pause = |bytes, ms| SharedPage::pause(bytes, Duration::from_millis(ms));
        assert_eq!(pause(0, 100), Duration::from_millis(500));
        assert_eq!(pause(2 << 20, 1), Duration::from_secs(1));
    }
}
