//! Keeps the clients' result documents, so that `egw-probe report` can read them, each with the instant of the switch that the lab
//! recorded.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::activation::Activation;
use super::outage::Outage;

/// Writes one file for each of these activations; void ones are no measurement.
pub(crate) fn keep(folder: &Path, activations: &[Activation]) -> Result<()> {
    for activation in activations.iter().filter(|activation| !activation.is_void()) {
        let mut document = activation.document.clone();
        if let Some(recorded) = activation.recorded() {
            document["policy_switch_seconds"] = json!([recorded.before, recorded.after]);
        }
        write(folder, activation.run, activation.pod, document)?;
    }
    Ok(())
}

/// Writes the file of an outage.
pub(crate) fn keep_outage(folder: &Path, outage: &Outage) -> Result<()> {
    write(folder, outage.run, 0, outage.document.clone())
}

/// All Pods of a lab share one host name: the file's name tells them apart, and the document has it, too.
fn write(folder: &Path, run: u32, pod: usize, mut document: Value) -> Result<()> {
    let name = format!("run-{run}-pod-{}", pod + 1);
    document["client_id"] = name.clone().into();
    let file = folder.join(format!("{name}.json"));
    fs::write(&file, document.to_string()).with_context(|| format!("cannot write {}", file.display()))
}
