//! From raw flags to what a report is to read, judge and write, before anything is read.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use crate::cli::report::{ReportArgs, ReportOutput};
use crate::config::error::ConfigError;
use crate::document::go;
use crate::report::data::run::QUANTILES;
use crate::report::read::fetch;
use crate::report::read::input::Input;
use crate::report::stats::gates::Limits;

/// Everything `egw-probe report` is to do.
#[derive(Debug)]
pub struct Plan {
    /// The run.
    pub inputs: Vec<Input>,
    /// Those to compare it with, each a run of its own.
    pub compare: Vec<Input>,
    /// The label by whose values clients are told in groups.
    pub by: Option<String>,
    /// Limits that set the exit code.
    pub limits: Limits,
    /// Form of the report on stdout.
    pub output: ReportOutput,
    /// Whether the text names the methods.
    pub explain: bool,
    /// Where the page goes to.
    pub html: Option<PathBuf>,
    /// Where the gates go to.
    pub junit: Option<PathBuf>,
}

impl TryFrom<ReportArgs> for Plan {
    type Error = ConfigError;

    fn try_from(args: ReportArgs) -> Result<Self, ConfigError> {
        let labels: Vec<(String, String)> =
            args.query_label.iter().map(|text| query_label(text)).collect::<Result<_, _>>()?;
        let compare = inputs("--compare", &args.compare)?;
        let mut inputs = inputs("report", &args.inputs)?;
        match (&args.prometheus, args.query_label.first()) {
            (Some(url), _) => {
                let base = url.trim_end_matches('/').trim_end_matches("/api/v1/query");
                let api = http_url("--prometheus", url, &format!("{base}/api/v1/query"))?;
                inputs.push(Input::Prometheus(api, labels));
            }
            (None, Some(label)) => {
                return Err(ConfigError::new(
                    "--query-label",
                    label,
                    "chooses series of a server: add --prometheus URL",
                ));
            }
            (None, None) => {}
        }
        if inputs.is_empty() {
            return Err(ConfigError::new(
                "report",
                "",
                "nothing to read: name files, folders, http:// addresses, - for stdin, or --prometheus URL",
            ));
        }
        if inputs.iter().chain(&compare).filter(|input| **input == Input::Stdin).count() > 1 {
            return Err(ConfigError::new("report", "-", "stdin can be read once: name it once"));
        }
        check_output("--html", args.html.as_deref(), "<!doctype html")?;
        check_output("--junit", args.junit.as_deref(), "<?xml")?;
        Ok(Self {
            inputs,
            compare,
            limits: limits(&args)?,
            by: args.by,
            output: args.output,
            explain: args.explain,
            html: args.html,
            junit: args.junit,
        })
    }
}

/// A report can be written there, and nothing else is lost by it.
fn check_output(flag: &'static str, file: Option<&Path>, begin: &str) -> Result<(), ConfigError> {
    let Some(file) = file else { return Ok(()) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let remedy = if file.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
        "not a file in a folder that exists: name one"
    } else if is_something_else(file, begin) {
        "exists, and is nothing that a report wrote: name another file, or remove it"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(flag, file.display(), remedy))
}

/// Whether there is a file that does not begin like this: perhaps an input, where the flag's own file was left out.
fn is_something_else(file: &Path, begin: &str) -> bool {
    let mut there = vec![0; begin.len()];
    let mut read = || std::fs::File::open(file)?.read_exact(&mut there);
    file.is_file()
        && match read() {
            Ok(()) => there != begin.as_bytes(),
            Err(_) => file.metadata().is_ok_and(|metadata| metadata.len() > 0),
        }
}

fn limits(args: &ReportArgs) -> Result<Limits, ConfigError> {
    Ok(Limits {
        max_p99: args.max_p99,
        max_leaked: args.max_leaked,
        max_failed: args.max_failed,
        max_disruptions: args.max_disruptions,
        max_disruption: args.max_disruption,
        min_clients: args.min_clients,
        // Of one quantile the last limit counts, as with every flag.
        max_regression: args
            .max_regression
            .iter()
            .map(|text| regression(text))
            .collect::<Result<BTreeMap<_, _>, _>>()?
            .into_iter()
            .collect(),
        equivalent_within: args.equivalent_within,
    })
}

/// A quantile and by how much it may be later, as in `p95=50ms`.
fn regression(text: &str) -> Result<(&'static str, Duration), ConfigError> {
    let parsed = text.split_once('=').and_then(|(name, limit)| {
        let (name, _) = QUANTILES.into_iter().find(|(known, _)| *known == name)?;
        Some((name, go::parse_duration(limit).ok()?))
    });
    parsed.ok_or_else(|| {
        ConfigError::new("--max-regression", text, "write p50, p90, p95 or p99=DURATION, as in p95=50ms")
    })
}

/// The inputs that these words name, each once.
fn inputs(flag: &'static str, words: &[String]) -> Result<Vec<Input>, ConfigError> {
    let mut inputs = Vec::new();
    for word in words {
        let input = match word.as_str() {
            "-" => Input::Stdin,
            url if url.contains("://") => {
                let url = http_url(flag, word, url)?;
                if matches!(url.path(), "" | "/") {
                    return Err(ConfigError::new(
                        flag,
                        word,
                        "which page is meant? Write /metrics behind it for a client, /clients or /sources for a target",
                    ));
                }
                Input::Page(url)
            }
            path => {
                let path = PathBuf::from(path);
                if let Err(error) = path.metadata() {
                    let remedy =
                        format!("cannot be read: {error}; name a file, a folder, an http:// address or -");
                    return Err(ConfigError::new(flag, word, remedy));
                }
                Input::Path(path)
            }
        };
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    Ok(inputs)
}

/// Reads a URL. `written` is what the user wrote.
fn http_url(flag: &'static str, written: &str, url: &str) -> Result<Uri, ConfigError> {
    let refuse = |remedy: &str| Err(ConfigError::new(flag, written, remedy));
    let Ok(url) = url.parse::<Uri>() else {
        return refuse("not a URL: write http://host:port/path");
    };
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return refuse("not a URL of HTTP: write http://host:port/path");
    }
    if url.scheme_str() == Some("https") && !fetch::SPEAKS_TLS {
        return refuse(
            "this build speaks no TLS: save the page with `curl` and name the file or -, or go through `kubectl port-forward`",
        );
    }
    Ok(url)
}

fn query_label(text: &str) -> Result<(String, String), ConfigError> {
    let name_start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let name_rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.split_once('=') {
        Some((name, value)) if name.starts_with(name_start) && name.chars().all(name_rest) => {
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            Ok((name.to_owned(), quoted.unwrap_or(value).to_owned()))
        }
        _ => Err(ConfigError::new("--query-label", text, "write NAME=VALUE, as in k8s_instance=egw-7")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(line: &str) -> Result<Plan, String> {
        let words = format!("egw-probe report {line}");
        match Cli::try_parse_from(words.split_whitespace()).unwrap().command {
            Command::Report(args) => Plan::try_from(*args).map_err(|error| error.to_string()),
            _ => panic!("a report was asked for"),
        }
    }

    #[test]
    fn inputs_are_told_apart_and_named_once() {
        let plan =
            plan("- /etc http://a:1/metrics /etc --prometheus http://p:9090/ --query-label a=b=c").unwrap();
        assert_eq!(
            plan.inputs,
            [
                Input::Stdin,
                Input::Path("/etc".into()),
                Input::Page(Uri::from_static("http://a:1/metrics")),
                Input::Prometheus(
                    Uri::from_static("http://p:9090/api/v1/query"),
                    vec![("a".into(), "b=c".into())]
                ),
            ]
        );
    }

    #[test]
    fn nonsense_is_refused_in_one_line_with_a_remedy() {
        for (line, expected) in [
            (
                "",
                "report: \"\": nothing to read: name files, folders, http:// addresses, - for stdin, or --prometheus URL",
            ),
            (
                "http://a:1",
                "report: \"http://a:1\": which page is meant? Write /metrics behind it for a client, /clients or /sources for a target",
            ),
            ("https:///metrics", "report: \"https:///metrics\": not a URL: write http://host:port/path"),
            ("ftp://a/b", "report: \"ftp://a/b\": not a URL of HTTP: write http://host:port/path"),
            (
                "/etc --compare /no/such",
                "--compare: \"/no/such\": cannot be read: No such file or directory (os error 2); name a file, a folder, an http:// address or -",
            ),
            (
                "/etc --query-label a=b",
                "--query-label: \"a=b\": chooses series of a server: add --prometheus URL",
            ),
            (
                "--prometheus http://p --query-label a",
                "--query-label: \"a\": write NAME=VALUE, as in k8s_instance=egw-7",
            ),
            (
                "/etc --compare /etc --max-regression p42=1s",
                "--max-regression: \"p42=1s\": write p50, p90, p95 or p99=DURATION, as in p95=50ms",
            ),
            ("- --compare -", "report: \"-\": stdin can be read once: name it once"),
            (
                "/etc --html /no/such/page",
                "--html: \"/no/such/page\": not a file in a folder that exists: name one",
            ),
        ] {
            assert_eq!(plan(line).unwrap_err(), expected, "{line}");
        }
    }

    #[test]
    fn a_page_over_tls_is_read_unless_this_build_speaks_none() {
        let plan = plan("https://a/metrics");
        if fetch::SPEAKS_TLS {
            assert_eq!(plan.unwrap().inputs, [Input::Page(Uri::from_static("https://a/metrics"))]);
        } else {
            assert!(plan.unwrap_err().contains("this build speaks no TLS: save the page with `curl`"));
        }
    }
}
