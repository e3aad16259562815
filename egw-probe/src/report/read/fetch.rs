//! Fetches pages over HTTP and HTTPS, several at a time, each within limits.

use std::time::Duration;
use std::{io, thread};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;
use ureq::http::uri::InvalidUri;
use ureq::{Agent, Error};

/// How long one page may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest page of a client or a target: three times that of a target with all 4,095 clients.
pub(crate) const LONGEST_PAGE: u64 = 8 << 20;
/// Longest answer of a Prometheus server: some ten thousand clients, 20 series each.
pub(crate) const LONGEST_ANSWER: u64 = 128 << 20;
/// Pages fetched at a time.
pub(crate) const AT_A_TIME: usize = 32;
/// Whether this build speaks TLS.
pub(crate) const SPEAKS_TLS: bool = cfg!(feature = "https");

/// What has to be escaped in a query (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.').remove(b'~');

/// Why a page did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No TLS, or nobody that is trusted behind it.
    #[cfg(feature = "https")]
    #[error("{0}")]
    Tls(String),
    /// Not in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// An answer that is none.
    #[error("HTTP status {0}")]
    Status(u16),
    /// It broke off.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// It went on and on.
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLong(u64),
}

/// Fetches these pages of at most `longest` bytes, and returns them in the same order.
pub(crate) fn all(urls: &[Uri], longest: u64) -> io::Result<Vec<Result<Vec<u8>, FetchError>>> {
    let agent = &agent();
    thread::scope(|scope| {
        let get = |url| thread::Builder::new().spawn_scoped(scope, move || get(agent, url, longest));
        let under_way: Vec<_> = urls.iter().map(get).collect::<io::Result<_>>()?;
        let pages = under_way.into_iter().map(|page| page.join().expect("fetching does not panic"));
        Ok(pages.collect())
    })
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        // Prometheus says in the body what it did not like about a query.
        .http_status_as_error(false)
        // What was asked for is one page of one program: an answer from elsewhere is another one's.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("egw-probe/", env!("CARGO_PKG_VERSION")))
        .accept("application/json, text/plain;version=0.0.4");
    #[cfg(feature = "https")]
    let config = config.tls_config(super::tls::config());
    config.build().new_agent()
}

fn get(agent: &Agent, url: &Uri, longest: u64) -> Result<Vec<u8>, FetchError> {
    let mut response = agent.get(url).call().map_err(why_no_answer)?;
    let body = response.body_mut().with_config().limit(longest).read_to_vec().map_err(why_no_body)?;
    if response.status().is_success() || body.starts_with(b"{\"status\":\"error\"") {
        Ok(body)
    } else {
        Err(FetchError::Status(response.status().as_u16()))
    }
}

fn why_no_answer(error: Error) -> FetchError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let error = match error {
        Error::Io(error) => error,
        other => return why_no_body(other),
    };
    #[cfg(feature = "https")]
    if let Some(told) = super::tls::why_not(&error) {
        return FetchError::Tls(told);
    }
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => FetchError::Broken(error.to_string()),
        _ => FetchError::Connect(error.to_string()),
    }
}

fn why_no_body(error: Error) -> FetchError {
    match error {
        Error::Timeout(_) => FetchError::Timeout,
        Error::Io(error) => FetchError::Broken(error.to_string()),
        Error::BodyExceedsLimit(limit) => FetchError::TooLong(limit),
        other => FetchError::Broken(other.to_string()),
    }
}

/// A URL with the query of this text.
pub(crate) fn with_query(api: &Uri, query: &str) -> Result<Uri, InvalidUri> {
    format!("{api}?query={}", utf8_percent_encode(query, RESERVED)).parse()
}
