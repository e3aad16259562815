//! The HTTP server of both ends: one GET or HEAD a connection, within limits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Shutdown};
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
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::sys::page::{Answer, Page, Pages};
use crate::sys::tcp::is_delivering;
use crate::sys::thread;

/// A connection that has not got its answer after this long is closed, wherever it is: slow headers, slow reader.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a request that is not whole yet.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections served at a time. Beyond it one of the source that has the most has to go ([`first_to_go`]): so thousands of them
/// keep nobody else out.
const CONNECTION_CAP: usize = 128;
/// What the kernel holds of an answer for one that does not read it, before it doubles it (socket(7)).
const SEND_BUFFER: usize = 64 << 10;
/// The longest request that is read.
const REQUEST_BYTES: usize = 16 << 10;
/// How long answers under way may take once the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

/// Serves `pages` on `listener` until `shutdown` is ready.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>, shutdown: impl Future<Output = ()>) {
    let mut conversations = VecDeque::new();
    let accept_all = async {
        loop {
            let (stream, source) = match listener.accept().await {
                Ok((stream, peer)) => (stream, network(peer.ip())),
                Err(error) => {
                    // No descriptor, most often; the queue keeps the connection until there is one.
                    tracing::debug!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if conversations.len() == CONNECTION_CAP {
                conversations.retain(|conversation: &Conversation| !conversation.task.is_finished());
            }
            if conversations.len() == CONNECTION_CAP
                && let Some(gone) = conversations.remove(first_to_go(&conversations, source))
            {
                gone.task.abort();
                // Closes its descriptor, and gives everybody else a turn to ask.
                let _ = gone.task.await;
            }
            conversations.push_back(Conversation::begin(stream, source, Arc::clone(&pages)));
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
    source: IpAddr,
    /// Its request is whole, and the answer under way.
    asked: Arc<AtomicBool>,
}

impl Conversation {
    fn begin(stream: TcpStream, source: IpAddr, pages: Arc<Pages>) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let asking = Arc::clone(&asked);
        let pages: Arc<Pages> = Arc::new(move |path| {
            asking.store(true, Ordering::Relaxed);
            pages(path)
        });
        let task = tokio::spawn(async move {
            // Whoever says nothing costs no more than this.
            let says_something = tokio::time::timeout(REQUEST_TIMEOUT, stream.readable());
            if let Ok(Ok(())) = says_something.await {
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, deliver(stream, pages)).await;
            }
        });
        Self { task, source, asked }
    }
}

/// Answers, and waits until all of the answer has arrived. What the kernel holds of it counts as this connection's for so long:
/// once closed, it would keep that for as long as the peer says that it has no room yet.
async fn deliver(stream: TcpStream, pages: Arc<Pages>) -> io::Result<()> {
    const GLANCE: Duration = Duration::from_millis(20);
    let socket = SockRef::from(&stream);
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // Whatever ends this early throws away what is left, by RST.
    socket.set_linger(Some(Duration::ZERO))?;
    let stream = converse(stream, pages).await;
    let socket = SockRef::from(&stream);
    socket.shutdown(Shutdown::Write)?;
    while is_delivering(&stream)? {
        tokio::time::sleep(GLANCE).await;
    }
    socket.set_linger(None)
}

/// What counts as one source: an address, or the network that an IPv6 host has to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Of the sources that have the most connections, one more from `newcomer` included, the oldest that has not asked yet, or else
/// the oldest: whoever asks at once gets its answer, whoever dribbles has had its time.
fn first_to_go(conversations: &VecDeque<Conversation>, newcomer: IpAddr) -> usize {
    // A list, because most often there are few of them.
    let mut counts: Vec<(IpAddr, u32)> = vec![(newcomer, 1)];
    for Conversation { source, .. } in conversations {
        match counts.iter_mut().find(|(counted, _)| counted == source) {
            Some((_, count)) => *count += 1,
            None => counts.push((*source, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    let has_most = |source| counts.iter().any(|(its, count)| *its == source && Some(*count) == most);
    let of_the_most =
        || conversations.iter().enumerate().filter(|(_, conversation)| has_most(conversation.source));
    let silent = of_the_most().find(|(_, conversation)| !conversation.asked.load(Ordering::Relaxed));
    silent.or_else(|| of_the_most().next()).map_or(0, |(index, _)| index)
}

/// Answers the one request of a connection, and gives the connection back. How long that may take is the caller's affair.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, pages: Arc<Pages>) -> S {
    let service = service_fn(move |request| {
        let found = find(&request, &*pages);
        Box::pin(async { Ok::<_, Infallible>(respond(found.page().await)) })
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        // Who has asked and closes its half (`nc -N`) still wants its answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong here is the peer's affair: it hung up, dribbled, or spoke something else.
    let _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    connection.into_parts().io.into_inner()
}

fn find(request: &Request<Incoming>, pages: &Pages) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => pages(request.uri().path())
            .unwrap_or_else(|| Answer::Now(Page::text(StatusCode::NOT_FOUND, "404: there is no such page"))),
        _ => Answer::Now(Page::text(StatusCode::METHOD_NOT_ALLOWED, "405: only GET and HEAD")),
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page.body));
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
        let thread = thread::spawn("http", move || {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(sources: &[(u8, bool)]) -> VecDeque<Conversation> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let one = |(last, asked): &(u8, bool)| Conversation {
            task: runtime.spawn(async {}),
            source: IpAddr::from([192, 0, 2, *last]),
            asked: Arc::new(AtomicBool::new(*asked)),
        };
        sources.iter().map(one).collect()
    }

    #[test]
    fn whoever_holds_the_most_makes_room_and_of_its_connections_the_oldest_silent_one() {
        let newcomer = IpAddr::from([192, 0, 2, 9]);
        let first = |sources: &[_]| first_to_go(&all_of(sources), newcomer);
        assert_eq!(first(&[(1, false), (2, true), (2, false), (2, false)]), 2);
        assert_eq!(first(&[(1, false), (2, true), (2, true)]), 1, "all of its have asked");
        assert_eq!(first(&[(1, true), (2, false), (3, false)]), 1, "as many each: by age");
        assert_eq!(first(&[(1, true), (2, true)]), 0);
        assert_eq!(
            first(&[(1, false), (9, true), (3, false)]),
            1,
            "with the newcomer its source has the most"
        );
    }

    #[test]
    fn an_ipv6_host_is_one_source_whatever_addresses_it_takes() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.9"), "192.0.2.9");
        assert_eq!(of("192.0.2.9"), "192.0.2.9");
    }
}
