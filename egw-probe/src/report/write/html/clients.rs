//! The table of clients that the page's script searches and sorts.

use serde_json::json;

use crate::document::shown::plain;
use crate::report::data::client::{ClientResult, worse_first};
use crate::report::data::run::Bounds;
use crate::report::read::corpus::Corpus;
use crate::report::write::words::bounds;

/// Clients in the table: a page has to load.
const MOST: usize = 5_000;

/// Every client, or the worst of them.
pub(super) struct Clients {
    /// How many there are, and how many of them the table has.
    pub all: usize,
    pub listed: usize,
    /// An array for each, as JSON that can stand in a page.
    pub json: String,
}

impl Clients {
    pub(super) fn of(corpus: &Corpus) -> Self {
        let mut worst: Vec<&ClientResult> = corpus.clients.iter().collect();
        let all = worst.len();
        if all > MOST {
            worst.select_nth_unstable_by(MOST, |a, b| worse_first(a, b));
            worst.truncate(MOST);
        }
        worst.sort_by(|a, b| worse_first(a, b));
        let rows: Vec<serde_json::Value> = worst.iter().map(|client| row(client, corpus)).collect();
        // Nothing in it can end the element that it stands in.
        let json = serde_json::Value::from(rows).to_string().replace('<', "\\u003c");
        Self { all, listed: worst.len(), json }
    }
}

/// Name, node, outcome, delay in words, its upper end, leaked, leaking, blackhole, disruptions. Milliseconds; null where there is none.
fn row(client: &ClientResult, corpus: &Corpus) -> serde_json::Value {
    let node = (client.node as usize).checked_sub(1).and_then(|place| corpus.nodes.names().get(place));
    let milliseconds = |seconds: f64| seconds.is_finite().then(|| (seconds * 1e6).round() / 1e3);
    json!([
        plain(&client.name),
        node.map(|node| plain(node)),
        client.verdict.name(),
        bounds(Bounds::from(client.delay)),
        milliseconds(client.delay.upper),
        client.leaked,
        client.leak_seconds.and_then(milliseconds),
        milliseconds(client.blackhole_seconds),
        client.disruptions,
    ])
}
