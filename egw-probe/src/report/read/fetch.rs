//! Fetches pages over HTTP, several at a time, each within limits.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one page may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest page: the answer of a Prometheus server for some hundred thousand clients.
const LONGEST: usize = 1 << 30;
/// Pages fetched at a time.
pub const AT_A_TIME: usize = 32;

/// Why a page did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// Not in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// An answer that is none.
    #[error("HTTP status {0}")]
    Status(u16),
    /// It broke off, or was too long.
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// Fetches these pages, and returns them in the same order.
pub fn all(urls: &[Uri]) -> std::io::Result<Vec<Result<Bytes, FetchError>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let under_way: Vec<_> = urls.iter().map(|url| tokio::spawn(get(url.clone()))).collect();
        let mut pages = Vec::with_capacity(urls.len());
        for page in under_way {
            pages.push(page.await.unwrap_or_else(|error| Err(FetchError::Broken(error.to_string()))));
        }
        pages
    }))
}

async fn get(url: Uri) -> Result<Bytes, FetchError> {
    tokio::time::timeout(TIMEOUT, exchange(url)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn exchange(url: Uri) -> Result<Bytes, FetchError> {
    let broken = |error: hyper::Error| FetchError::Broken(error.to_string());
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream =
        TcpStream::connect((host, url.port_u16().unwrap_or(80))).await.map_err(FetchError::Connect)?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    let path = url.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json, text/plain;version=0.0.4")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Broken(error.to_string()))?;
    let response = send.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| FetchError::Broken(error.to_string()))?.to_bytes();
    // Prometheus says in the body what it did not like about a query.
    if status.is_success() || body.starts_with(b"{\"status\":\"error\"") {
        Ok(body)
    } else {
        Err(FetchError::Status(status.as_u16()))
    }
}

/// A URL with the query of this text.
pub fn with_query(api: &Uri, query: &str) -> Result<Uri, hyper::http::uri::InvalidUri> {
    let mut url = format!("{api}?query=");
    for byte in query.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'~' => url.push(char::from(byte)),
            _ => url.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    url.parse()
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(digit)])
}
