//! `cargo run --release --example synthetic-results -- CLIENTS [SEED [SHIFT_MS]]`: result documents of clients that never were, one to a
//! line, each with the delay that it really had (`truth_seconds`), for tests and measurements of `egw-probe report`.

#[path = "../tests/it/synthetic/mod.rs"]
mod synthetic;

use std::io::Write;

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|word| word.parse::<u64>().expect("CLIENTS, SEED, SHIFT_MS are numbers"));
    let clients = numbers.next().expect("how many CLIENTS?");
    let (seed, shift_ms) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0));
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (truth, document) in
        synthetic::Clients::new(seed).shifted_by(shift_ms as f64 / 1e3).take(clients as usize)
    {
        let mut document = serde_json::to_value(document).expect("a result is JSON");
        document["truth_seconds"] = truth.into();
        if writeln!(out, "{document}").is_err() {
            return;
        }
    }
}
