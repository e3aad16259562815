//! The external target of a lab: started, asked over HTTP in its own namespace, and ended.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::addresses::{METRICS_PORT, PORT};
use super::child::{Child, Rights};
use super::clock::Monotonic;
use super::interrupt::Interrupt;
use super::namespace::Namespace;
use crate::http;

const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// How many connections the target has judged, by its own metrics.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Judged {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
}

/// What a target is started with.
pub(crate) struct Settings {
    /// CIDRs.
    pub(crate) allowed: Vec<String>,
    /// Further arguments.
    pub(crate) further: Vec<String>,
}

/// A running external target.
pub(crate) struct Target<'lab> {
    namespace: &'lab Namespace,
    child: Child,
}

impl<'lab> Target<'lab> {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(
        namespace: &'lab Namespace,
        program: &Path,
        settings: &Settings,
        folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut args = vec!["external-target".into(), "--listen-port".into(), PORT.to_string()];
        args.extend(settings.allowed.iter().flat_map(|cidr| ["--allowed-cidr".into(), cidr.clone()]));
        args.extend_from_slice(&settings.further);
        let child =
            Child::start("external-target".into(), namespace, program, &args, folder, None, Rights::All)?;
        let mut target = Self { namespace, child };
        let deadline = Instant::now() + STARTS_WITHIN;
        while target.get("/healthz").is_err() {
            if let Some(status) = target.child.ended()? {
                bail!("the external target ended with {status}{}", target.child.complaint());
            }
            if Instant::now() > deadline {
                bail!("the external target is not ready after {STARTS_WITHIN:?}{}", target.child.complaint());
            }
            interrupt.sleep(Duration::from_millis(10))?;
        }
        Ok(target)
    }

    /// What the target counted so far.
    pub(crate) fn judged(&self) -> Result<Judged> {
        let count =
            |verdict| self.count(&format!("egw_probe_target_connections_total{{verdict=\"{verdict}\"}}"));
        Ok(Judged { allowed: count("allowed")?, denied: count("denied")? })
    }

    /// SYNs of denied sources whose connection never came; a target counts them some 10 s later.
    pub(crate) fn half_open_denied(&self) -> Result<u64> {
        self.count("egw_probe_target_half_open_total{class=\"denied\"}")
    }

    /// How SYNs are observed on a device.
    pub(crate) fn attach_mode(&self, device: &str) -> Result<String> {
        let series = format!("egw_probe_target_ebpf_info{{interface=\"{device}\",mode=\"");
        let metrics = self.get("/metrics")?;
        let mode = metrics.lines().find_map(|line| line.strip_prefix(&series)?.split('"').next());
        mode.map(str::to_owned).with_context(|| format!("the target's metrics lack {series}"))
    }

    fn count(&self, series: &str) -> Result<u64> {
        let metrics = self.get("/metrics")?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series));
        value
            .and_then(|value| value.trim().parse().ok())
            .with_context(|| format!("the target's metrics lack {series}"))
    }

    /// A page that is a document: `/sources`, `/clients`.
    pub(crate) fn document<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_str(&self.get(path)?)
            .with_context(|| format!("the target's {path} is not as expected"))
    }

    /// Ends it with SIGKILL, and says between which instants.
    pub(crate) fn kill(self) -> Result<[Monotonic; 2]> {
        self.child.kill()
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(self, interrupt: &Interrupt) -> Result<()> {
        self.child.terminate(interrupt)
    }

    fn get(&self, path: &str) -> Result<String> {
        self.namespace.run(|| http::get(METRICS_PORT, path))
    }
}
