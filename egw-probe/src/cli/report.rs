//! The raw flags of `egw-probe report`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use crate::cli::log::LogArgs;
use crate::document::go;

/// What stands under the flags in `--help`.
pub(super) const EXAMPLES: &str = "\
Inputs, any mix of them:
  results/ run.jsonl -          folders (every file below, hidden ones not), files, - for stdin;
                                documents in lines, one after another, or in an array;
                                in logs of kubectl (--prefix, --timestamps), the kubelet
                                and Docker, among other lines; any of them as .gz
  http://10.0.0.7:2112/metrics  a client that still serves
  http://10.0.0.9:2113/clients  what a target with --tags knows (or /sources)
  https://...                   with the system's CAs, or those of the file in SSL_CERT_FILE

Examples:
  egw-probe report results/ --html report.html
  egw-probe report results/ --max-p99 1s --max-failed 0 --junit gates.xml
  egw-probe report today/ --compare yesterday/ --max-regression p95=50ms
  egw-probe report today/ --output json > baseline.json   then: --compare baseline.json
  egw-probe report --prometheus http://prometheus:9090 --query-label k8s_instance=egw-7
  egw-probe report results/ --max-p99 1s --output github >> $GITHUB_STEP_SUMMARY
  kubectl logs -l app=probe --tail=-1 | egw-probe report --min-clients 1000 -

Several results of one client each count; the very same result read twice counts once.
A client that timed out is later than its test timeout. A gate that cannot tell fails.

Exit codes: 0 all is well; 1 a gate failed; 2 bad usage; 3 something could not be read;
4 the report could not be written, or was interrupted.

Every flag also comes from the environment: --log-level debug is EGW_PROBE_LOG_LEVEL=debug.";

/// Flags of `egw-probe report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result documents: files, folders, - for stdin, http(s):// addresses of /metrics, /clients or /sources
    #[arg(value_name = "INPUT")]
    pub inputs: Vec<String>,

    /// Compare with this earlier run: any INPUT, or what --output json wrote of one. Several, in their order, are a trend: gates
    /// judge against the last
    #[arg(long, value_name = "INPUT", action = ArgAction::Append)]
    pub compare: Vec<String>,

    /// Read the clients whose series this Prometheus server has now (not older than its lookback, 5 minutes by default)
    #[arg(long, value_name = "URL")]
    pub prometheus: Option<String>,

    /// With --prometheus: only series with this label; repeatable
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub query_label: Vec<String>,

    /// The report on stdout
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    pub output: ReportOutput,

    /// Name the methods in the text, too
    #[arg(long)]
    pub explain: bool,

    /// Write one self-contained page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write the gates as JUnit XML, for CI
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Gate: fail unless the p99 of these clients is known not to be longer (at the upper end of its bracket)
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_p99: Option<Duration>,

    /// Gate: fail if more leaked, over all clients: probes, and connections of --stress and --hold
    #[arg(long, value_name = "PROBES")]
    pub max_leaked: Option<u64>,

    /// Gate: fail if more clients were not masqueraded (timed out or unfinished)
    #[arg(long, value_name = "CLIENTS")]
    pub max_failed: Option<u64>,

    /// Gate: fail if there were more disruptions and partial outages, over all clients, or one has no end
    #[arg(long, value_name = "COUNT")]
    pub max_disruptions: Option<u64>,

    /// Gate: fail if a disruption may have lasted longer, or has no end
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration)]
    pub max_disruption: Option<Duration>,

    /// Gate: fail if fewer clients (by name) have a result, as when Pods are missing
    #[arg(long, value_name = "CLIENTS")]
    pub min_clients: Option<u64>,

    /// Gate: fail unless this quantile is known not to be later than in the run of --compare by more (95 % confidence); repeatable
    #[arg(long, value_name = "p50|p90|p95|p99=DURATION", action = ArgAction::Append, requires = "compare")]
    pub max_regression: Vec<String>,

    /// Gate: fail unless medians are known to differ from those of the run of --compare by no more, either way (95 % confidence)
    #[arg(long, value_name = "DURATION", value_parser = go::parse_duration, requires = "compare")]
    pub equivalent_within: Option<Duration>,

    /// Tell clients in groups by the values of this label, too, as in --by node
    #[arg(long, value_name = "LABEL")]
    pub by: Option<String>,

    /// Flags of every command.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Form of the report on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportOutput {
    /// A table for people, 80 columns wide
    Text,
    /// One document
    Json,
    /// For a pull request or an issue
    Markdown,
    /// The gates as JUnit XML
    Junit,
    /// A step summary (>> $GITHUB_STEP_SUMMARY); failed gates are annotations, on stderr
    Github,
    /// JSON for github-action-benchmark: customSmallerIsBetter
    Benchmark,
    /// A row for each client
    Csv,
    /// Gauges for Prometheus and others
    Openmetrics,
}
