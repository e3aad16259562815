//! What `egw-probe report` says of quantiles, confidence, tests and shares, worked out anew by numpy and scipy.

use std::process::Command;

use serde_json::json;

use crate::common::files::{Folder, report};
use crate::common::told::skip;

/// How runs of a regime look: of clients, and of what makes their ends awkward.
struct Regime {
    clients: [usize; 2],
    /// Share of clients that timed out.
    never: f64,
    /// Share of clients without a lower end.
    blind: f64,
    /// Ends lie on a grid of this, seconds: ties.
    grid: f64,
    /// All delays of the first run are longer by this.
    later: f64,
}

fn run(regime: &Regime, clients: usize, later: f64, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut one = |number: usize| {
        let on_grid = |value: f64| (value / regime.grid).round() * regime.grid;
        let delay = 0.2 + later - 0.15 * (1.0 - random.f64()).ln();
        let width = [0.001, 0.01, 0.05, 0.1][random.usize(..4)] + regime.grid;
        let lower = on_grid(delay - random.f64() * width).max(0.0);
        let never = random.f64() < regime.never;
        let lower = (random.f64() >= regime.blind).then_some(lower);
        let upper = (!never).then_some(on_grid(lower.unwrap_or(delay) + width));
        let outcome = if never { "timed_out" } else { "masqueraded" };
        json!({
            "schema": 1, "client_id": format!("c{number}"), "outcome": outcome,
            "bracket": {"lower_seconds": lower, "upper_seconds": upper}, "settings": {"interval": "50ms", "test_timeout": "10s"},
            "probes": {"pong": 1, "leaked": 1, "timeout": 0, "refused": 0, "unreachable": 0, "garbled": 0, "error": 0},
        })
        .to_string()
            + "\n"
    };
    (0..clients).map(&mut one).collect()
}

#[test]
fn numpy_and_scipy_find_the_same_in_every_regime() {
    // Debian's has its packages, whatever other one comes first.
    let has_both = |python: &&str| {
        let output = Command::new(python).args(["-c", "import numpy, scipy"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_both) else {
        return skip("python3 with numpy and scipy is missing");
    };
    let folder = Folder::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/report_numpy.py");
    let sizes = [[1, 1], [2, 3], [5, 8], [20, 20], [99, 101], [367, 368], [1_000, 300]];
    let awkward =
        [(0.0, 0.0, 1e-6), (0.02, 0.05, 1e-6), (0.3, 0.0, 0.01), (0.6, 0.3, 1e-6), (0.0, 1.0, 0.05)];
    let small = sizes.into_iter().flat_map(|clients| {
        awkward.map(|(never, blind, grid)| Regime { clients, never, blind, grid, later: 0.02 })
    });
    let large = Regime { clients: [100_000, 2_000], never: 0.01, blind: 0.02, grid: 0.001, later: 0.0 };
    for (number, regime) in small.chain([large]).enumerate() {
        let [this, other] = [(0, regime.later), (1, 0.0)].map(|(side, later)| {
            let results = run(&regime, regime.clients[side], later, 2 * number as u64 + side as u64);
            folder.write(&format!("{side}.jsonl"), &results)
        });
        let output = report(&[&this, "--compare", &other, "--max-p99=500ms", "--output=json"]);
        let told = folder.write("report.json", &String::from_utf8(output.stdout).unwrap());
        let found = Command::new(python).args([script, &this, &other, &told]).output().unwrap();
        let (wrong, error) = (String::from_utf8_lossy(&found.stdout), String::from_utf8_lossy(&found.stderr));
        assert!(
            found.status.success(),
            "{:?} clients, {} never, {} blind, ties of {}: {wrong}{error}",
            regime.clients,
            regime.never,
            regime.blind,
            regime.grid
        );
    }
}
