//! A row for each client, for spreadsheets and data frames (RFC 4180, but for line ends).

use std::borrow::Cow;
use std::fmt::Write;

use crate::document::shown::plain;
use crate::report::data::client::ClientResult;
use crate::report::data::run::Bounds;

/// The first line.
const HEADER: &str = "client_id,outcome,delay_lower_seconds,delay_upper_seconds,leaked_probes,leak_seconds,blackhole_seconds,disruptions";

/// Writes the clients of a run in the order in which they were read. A cell is empty where nothing is known.
pub(crate) fn table(clients: &[ClientResult]) -> String {
    let known = |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| seconds.to_string());
    let mut text = format!("{HEADER}\n");
    for client in clients {
        let Bounds { lower_seconds, upper_seconds } = client.delay.into();
        let lower_seconds = lower_seconds.filter(|_| !client.delay.is_without_lower_end());
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{}",
            cell(&client.name),
            client.verdict.name(),
            known(lower_seconds),
            known(upper_seconds),
            client.leaked,
            known(client.leak_seconds),
            client.blackhole_seconds,
            client.disruptions
        );
    }
    text
}

/// Text as a cell that a spreadsheet shows and does not compute.
fn cell(text: &str) -> Cow<'_, str> {
    let mut text = plain(text);
    if text.starts_with(['=', '+', '-', '@']) {
        text = format!("'{text}").into();
    }
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")).into() } else { text }
}
