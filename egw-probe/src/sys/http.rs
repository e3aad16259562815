//! The HTTP server of both ends: one GET or HEAD a connection, within limits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A connection that has not got its answer after this long is closed, wherever it is: slow headers, slow reader.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a request that is not whole yet.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections served at a time. Beyond it the oldest that has not asked yet has to go: whoever asks at once gets its answer,
/// whoever dribbles has had its time, so thousands of them keep nobody out.
const CONNECTION_CAP: usize = 128;
/// How long answers under way may take once the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

/// The answer to a GET of one path.
#[derive(Debug)]
pub struct Page {
    /// Status code.
    pub status: StatusCode,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Page {
    /// A line of text.
    pub fn text(status: StatusCode, line: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n").into_bytes() }
    }

    /// A JSON document.
    pub fn json(value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status: StatusCode::OK, content_type: "application/json", body }
    }

    /// Everything that `registry` gathers, in the Prometheus text format 0.0.4.
    pub fn metrics(registry: &prometheus::Registry) -> Self {
        let mut text = String::new();
        match prometheus::TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
            Ok(()) => Self {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: text.into_bytes(),
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// The pages of a server: `None` for a path that is not there.
pub type Pages = dyn Fn(&str) -> Option<Page> + Send + Sync;

/// Serves `pages` on `listener` until `shutdown` is ready.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>, shutdown: impl Future<Output = ()>) {
    let mut conversations = VecDeque::new();
    let accept_all = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // No descriptor, most often; the queue keeps the connection until there is one.
                    tracing::debug!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            conversations.retain(|conversation: &Conversation| !conversation.task.is_finished());
            if conversations.len() == CONNECTION_CAP {
                let silent = |conversation: &Conversation| !conversation.asked.load(Ordering::Relaxed);
                let oldest = conversations.iter().position(silent).unwrap_or(0);
                if let Some(oldest) = conversations.remove(oldest) {
                    oldest.task.abort();
                    // Closes its descriptor, and gives everybody else a turn to ask.
                    let _ = oldest.task.await;
                }
            }
            conversations.push_back(Conversation::begin(stream, Arc::clone(&pages)));
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = shutdown => {}
    }
    drop(listener);
    let last_answers = futures_util::future::join_all(conversations.into_iter().map(|one| one.task));
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, last_answers).await;
}

/// A connection that is being served.
struct Conversation {
    task: JoinHandle<()>,
    /// Its request is whole, and the answer under way.
    asked: Arc<AtomicBool>,
}

impl Conversation {
    fn begin(stream: TcpStream, pages: Arc<Pages>) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let asking = Arc::clone(&asked);
        let pages: Arc<Pages> = Arc::new(move |path| {
            asking.store(true, Ordering::Relaxed);
            pages(path)
        });
        Self { task: tokio::spawn(converse(stream, pages)), asked }
    }
}

/// Answers the one request of a connection, within the limits.
pub async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, pages: Arc<Pages>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &*pages);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        // Who has asked and closes its half (`nc -N`) still wants its answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong here is the peer's affair: it hung up, dribbled, or spoke something else.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let page = match *request.method() {
        Method::GET | Method::HEAD => pages(request.uri().path())
            .unwrap_or_else(|| Page::text(StatusCode::NOT_FOUND, "404: there is no such page")),
        _ => Page::text(StatusCode::METHOD_NOT_ALLOWED, "405: only GET and HEAD"),
    };
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// A server on a thread of its own, so that no scrape delays a probe.
#[derive(Debug)]
pub(crate) struct HttpThread {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl HttpThread {
    /// Starts serving `pages` on `listener`.
    pub(crate) fn spawn(listener: std::net::TcpListener, pages: Arc<Pages>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    let shutdown = async {
                        let _ = stopped.await;
                    };
                    serve(TcpListener::from_std(listener)?, pages, shutdown).await;
                    Ok(())
                })
            });
            if let Err(error) = served {
                tracing::error!(%error, "HTTP is not served");
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Lets answers under way end, and stops.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
