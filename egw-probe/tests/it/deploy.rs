//! What lies in `deploy/`, against the tools it is written for: Kubernetes' schemas, kustomize, Prometheus. Each test that
//! lacks its tool says that it is skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::told::skip;
use crate::common::{Program, free_port, http, metric, status, target, wait_for};

const OVERLAYS: [&str; 4] = ["baseline", "egw", "watch", "stress"];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap()
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Whether these can be run; if not, the test says that it is skipped.
fn has(tools: &[(&str, &[&str])]) -> bool {
    for (tool, args) in tools {
        let there = Command::new(tool).args(*args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            skip(&format!("needs `{tool} {}`: `cargo xtask test --setup`", args.join(" ")));
            return false;
        }
    }
    true
}

const KUBECTL: (&str, &[&str]) = ("kubectl", &["kustomize", "--help"]);
const VALIDATOR: (&str, &[&str]) = ("python3", &["-c", "import kubernetes_validate"]);
const PROMTOOL: (&str, &[&str]) = ("promtool", &["--version"]);
const PROMETHEUS: (&str, &[&str]) = ("prometheus", &["--version"]);

fn feed(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn kustomize(folder: &Path) -> String {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn validate(manifests: &str) -> (bool, String) {
    let output = feed(Command::new("python3").arg(deploy("schemas/validate.py")), manifests);
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn manifests(yaml: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; json.dump([m for m in yaml.safe_load_all(sys.stdin) if m], sys.stdout)";
    let output = feed(Command::new("python3").args(["-c", script]), yaml);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_overlay_holds_only_what_kubernetes_and_the_two_custom_resources_know() {
    if !has(&[KUBECTL, VALIDATOR]) {
        return;
    }
    for overlay in OVERLAYS {
        let (valid, said) = validate(&kustomize(&deploy("overlays").join(overlay)));
        assert!(valid, "{overlay}: {said}");
    }
    // The validation can fail: a slip in each kind of manifest is found.
    let slips = [
        ("readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        ("backoffLimitPerIndex: 0", "backoffLimitPerIndex: none"),
        ("egressIP", "egresIP"),
        ("targetLabel", "targetLable"),
    ];
    let egw = kustomize(&deploy("overlays/egw"));
    for (right, wrong) in slips {
        let (valid, said) = validate(&egw.replace(right, wrong));
        assert!(!valid && said.contains(wrong.split(':').next().unwrap()), "{wrong}: {said}");
    }
    let (valid, said) = validate(&read("clusterloader2/monitors/egw-probe.yaml"));
    assert!(valid, "{said}");
}

#[test]
fn every_value_of_the_settings_reaches_every_place_it_belongs_to() {
    if !has(&[KUBECTL]) {
        return;
    }
    // A copy whose settings differ from the committed ones in every value.
    let folder = std::env::temp_dir().join(format!("egw-deploy-{}", std::process::id()));
    copy(&deploy(""), &folder);
    let changes = [
        ("registry.example/egw-probe:0.1.0", "other.example/probe:9"),
        ("target: 198.51.100.9:1337", "target: \"[2001:db8::9]:1400\""),
        ("targetPort: \"1337\"", "targetPort: \"1400\""),
        ("targetCIDR: 198.51.100.9/32", "targetCIDR: 2001:db8::9/128"),
        ("egressIP: 203.0.113.7", "egressIP: 2001:db8::7"),
        ("allowedCIDR: 203.0.113.7/32", "allowedCIDR: 2001:db8::7/128"),
        ("clients: \"100\"", "clients: \"321\""),
        ("interval: 50ms", "interval: 7ms"),
        ("testTimeout: 295s", "testTimeout: 77s"),
    ];
    let path = folder.join("settings/settings.yaml");
    let mut settings = fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(settings.contains(from), "the settings have no {from}");
        settings = settings.replace(from, to);
    }
    fs::write(&path, settings).unwrap();
    let made: Vec<String> =
        OVERLAYS.iter().map(|overlay| kustomize(&folder.join("overlays").join(overlay))).collect();
    fs::remove_dir_all(&folder).unwrap();
    for (overlay, made) in OVERLAYS.iter().zip(&made) {
        let stale = ["198.51.100.9", "203.0.113.7", "registry.example", "1337/", "295s"];
        for stale in stale {
            assert!(!made.contains(stale), "{overlay} still says {stale}");
        }
        let mut wanted = vec!["other.example/probe:9", "[2001:db8::9]:1400", "value: 7ms", "77s"];
        match *overlay {
            "baseline" => wanted.extend(["value: 0.0.0.0/0,::/0", "completions: 321", "value: \"321\""]),
            "egw" => wanted.extend([
                "egressIP: 2001:db8::7",
                "value: 2001:db8::7/128",
                "completions: 321",
                "- 2001:db8::9/128",
            ]),
            _ => wanted.extend(["egressIP: 2001:db8::7", "value: 2001:db8::7/128"]),
        }
        for wanted in wanted {
            assert!(made.contains(wanted), "{overlay} lacks {wanted}:\n{made}");
        }
        assert_eq!(made.contains("CiliumEgressGatewayPolicy"), *overlay != "baseline");
        assert!(
            made.contains("--output=json")
                && made.contains(&format!("app.kubernetes.io/instance: {overlay}"))
        );
        assert_eq!(
            made.contains("suspend: true"),
            ["baseline", "egw"].contains(overlay),
            "a Job waits for its target"
        );
        assert!(!made.contains("egw-probe-settings"), "the settings stay out of the cluster");
    }
}

#[test]
fn the_program_takes_every_argument_and_variable_of_the_manifests() {
    if !has(&[KUBECTL, VALIDATOR]) {
        return;
    }
    let port = free_port();
    for overlay in OVERLAYS {
        for manifest in manifests(&kustomize(&deploy("overlays").join(overlay))) {
            let container = &manifest["spec"]["template"]["spec"]["containers"][0];
            if container.is_null() {
                continue;
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
            command.args(container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
            command.env("EGW_PROBE_METRICS_ADDR", "127.0.0.1:0").env("JOB_COMPLETION_INDEX", "4");
            for variable in container["env"].as_array().unwrap() {
                command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("name"));
            }
            // Only where to: nothing is sent beyond this machine.
            command.env("EGW_PROBE_EXTERNAL_TARGET_ADDR", format!("127.0.0.1:{port}"));
            command.env("EGW_PROBE_LISTEN_PORT", free_port().to_string());
            command.env("EGW_PROBE_EBPF", "off");
            let mut program = Program::start_command(&mut command);
            std::thread::sleep(Duration::from_millis(150));
            if program.is_running() {
                program.signal(Signal::TERM);
            }
            let output = program.finish();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_ne!(output.status.code(), Some(2), "{overlay}: {said}");
            assert!(!said.contains("error"), "{overlay}: {said}");
        }
    }
}

#[test]
fn the_rules_do_what_their_tests_say() {
    if !has(&[PROMTOOL]) {
        return;
    }
    let output =
        Command::new("promtool").args(["test", "rules"]).arg(deploy("monitoring/rules.test.yaml")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

/// What promtool finds wrong with a page of metrics.
fn check_metrics(what: &str, address: SocketAddr) {
    let (_, body) = http(address, "GET /metrics").unwrap();
    let output = feed(Command::new("promtool").args(["check", "metrics"]), &body);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.is_empty() && !body.is_empty(), "{what}: {said}");
}

fn client(flags: &[&str], port: u16) -> (Program, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (to, metrics) = (format!("127.0.0.1:{port}"), format!("--metrics-addr={address}"));
    let program = Program::start(&[&["client", "--external-target-addr", &to, &metrics], flags].concat());
    wait_for("the client to serve", || status(address, "/metrics") == 200);
    (program, address)
}

#[test]
fn metrics_are_well_formed_in_every_phase() {
    if !has(&[PROMTOOL]) {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/24", "--keep-open", "--ebpf", "--tags"]);
    check_metrics("a target that nobody has met", target.http);
    let outside = "--source-addr=127.0.1.1";
    let (_leaking, address) = client(&[outside, "--test-timeout=1h"], target.port);
    wait_for("a leak", || metric(address, "egw_scale_test_leaked_requests_total") > Some(0.0));
    check_metrics("a client that leaks", address);
    let (_failed, address) = client(&[outside, "--test-timeout=100ms"], target.port);
    wait_for("the failure", || metric(address, "egw_scale_test_failed_tests_total") == Some(1.0));
    check_metrics("a client that failed", address);
    let (_watching, address) = client(&["--watch", "--hold=2"], target.port);
    wait_for("held connections", || metric(address, "egw_probe_held_connections") == Some(2.0));
    check_metrics("a client that watches", address);
    let (_stressing, address) = client(&["--stress", "--stress-duration=200ms"], target.port);
    wait_for("the stress test's end", || status(address, "/readyz") == 200);
    check_metrics("a client after its stress test", address);
    check_metrics("a target with clients of all kinds", target.http);
}

/// A Prometheus that scrapes these four times a second, and what it answers.
struct Prometheus {
    _program: Program,
    url: String,
    folder: PathBuf,
}

impl Prometheus {
    fn scraping(jobs: &[(SocketAddr, &str)]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("egw-prometheus-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let scraped: Vec<Value> = jobs
            .iter()
            .map(|(address, pod)| {
                json!({"targets": [address.to_string()], "labels": {"pod": pod, "k8s_instance": "masquerade"}})
            })
            .collect();
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": [deploy("monitoring/rules.yaml")],
            "scrape_configs": [{"job_name": "egw-probe", "static_configs": scraped}],
        });
        fs::write(folder.join("prometheus.yml"), config.to_string()).unwrap();
        let program = Program::start_command(
            Command::new("prometheus")
                .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--log.level=error"),
        );
        let prometheus = Self { _program: program, url: format!("http://127.0.0.1:{port}"), folder };
        wait_for("Prometheus", || prometheus.ask("up").is_some());
        prometheus
    }

    /// The series and values of an instant query; None if it was refused.
    fn ask(&self, query: &str) -> Option<Vec<(Value, f64)>> {
        let output = Command::new("promtool")
            .args(["query", "instant", "-o", "json", &self.url, query])
            .output()
            .unwrap();
        let answer: Value =
            serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
        let series = answer.as_array()?.iter();
        series.map(|one| Some((one["metric"].clone(), one["value"][1].as_str()?.parse().ok()?))).collect()
    }

    fn value(&self, query: &str) -> f64 {
        let series = self.ask(query).unwrap_or_else(|| panic!("refused: {query}"));
        assert_eq!(series.len(), 1, "{query}: {series:?}");
        series[0].1
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Queries of the ClusterLoader2 module by name, for these clients.
fn module_queries() -> Vec<(String, String)> {
    let text = read("clusterloader2/modules/metrics.yaml")
        .replace("{{$instance}}", "masquerade")
        .replace("{{$clients}}", "7");
    let field = |line: &str, field: &str| line.trim().strip_prefix(field).map(|rest| rest.trim().to_owned());
    let lines: Vec<&str> = text.lines().collect();
    let pairs =
        lines.windows(2).filter_map(|pair| Some((field(pair[0], "- name:")?, field(pair[1], "query:")?)));
    pairs.collect()
}

/// As PromQL's `quantile` does: linear between ranks.
fn quantile(q: f64, values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = q * (values.len() - 1) as f64;
    let (below, above) = (values[rank.floor() as usize], values[rank.ceil() as usize]);
    below + (above - below) * rank.fract()
}

#[test]
fn a_real_prometheus_answers_every_query_with_the_values_that_the_clients_have() {
    if !has(&[PROMTOOL, PROMETHEUS]) {
        return;
    }
    let target = target(&["--allowed-cidr=127.0.0.0/24", "--ebpf", "--tags"]);
    let outside = ["--source-addr=127.0.1.1", "--test-timeout=300ms"];
    let clients: Vec<(Program, SocketAddr)> =
        [&["--watch"][..], &[], &[], &outside].iter().map(|flags| client(flags, target.port)).collect();
    let addresses: Vec<SocketAddr> = clients.iter().map(|(_, address)| *address).collect();
    for address in &addresses {
        wait_for("the test's end", || status(*address, "/readyz") == 200);
    }
    let names = ["a", "b", "c", "d", "target"];
    let jobs: Vec<_> = addresses.iter().copied().chain([target.http]).zip(names).collect();
    let prometheus = Prometheus::scraping(&jobs);
    wait_for("a scrape of each", || prometheus.ask("sum(up) == 5").is_some_and(|series| series.len() == 1));

    let each =
        |series: &str| addresses.iter().filter_map(|address| metric(*address, series)).collect::<Vec<_>>();
    let mut delays = each("egw_scale_test_masquerade_delay_seconds_total");
    assert_eq!(delays.len(), 4);
    assert!(delays.iter().filter(|delay| **delay > 0.0).count() == 3, "{delays:?}");
    let mut upper = each("egw_probe_masquerade_delay_seconds{bound=\"upper\"}");
    let leaked: f64 = each("egw_probe_probes_total{outcome=\"leaked\"}").iter().sum();
    let misses: f64 = each("egw_scale_test_leaked_requests_total").iter().sum();
    let mut lower = each("egw_probe_masquerade_delay_seconds{bound=\"lower\"}");
    assert!(leaked > 0.0 && lower.len() == 1, "the fourth leaked, and has only a lower end");
    let expected = [
        ("P50", quantile(0.5, &mut delays)),
        ("P90", quantile(0.9, &mut delays)),
        ("P95", quantile(0.95, &mut delays)),
        ("P99", quantile(0.99, &mut delays)),
        ("Failed", 1.0),
        ("Missing", 3.0),
        ("Leaked requests", misses),
        ("Delay at most, P99", quantile(0.99, &mut upper)),
        ("Delay at least, P99", quantile(0.99, &mut lower)),
        ("Leaked", leaked),
        ("Timed out", 0.0),
        ("Blackhole, longest", 0.0),
        ("Ticks skipped", each("egw_probe_skipped_ticks_total").iter().sum()),
    ];
    let queries = module_queries();
    assert_eq!(
        queries.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        expected.map(|(name, _)| name)
    );
    for ((name, query), (_, expected)) in queries.iter().zip(expected) {
        let told = prometheus.value(query);
        // A client that watches may skip a tick between the reading here and the scrape.
        let slack = if name == "Ticks skipped" { 1000.0 } else { 1e-9 };
        assert!((told - expected).abs() <= slack, "{name}: {told}, not {expected}");
    }
    // No data is no success: whatever has a threshold wants samples, and clients that nobody scraped are missing.
    let module = read("clusterloader2/modules/metrics.yaml");
    let lines = |word: &str| module.lines().filter(|line| line.trim_start().starts_with(word)).count();
    assert_eq!((lines("threshold:"), lines("requireSamples: true")), (6, 6));
    let (_, missing) = queries.iter().find(|(name, _)| name == "Missing").unwrap();
    assert!((prometheus.value(&missing.replace("masquerade\"", "nobody\"")) - 7.0).abs() < 1e-9);
    assert_dashboard_and_rules_ask_for_what_there_is(&prometheus);
}

/// Every query of the dashboard is accepted, and names only metrics that client or target serve; so do the rules.
fn assert_dashboard_and_rules_ask_for_what_there_is(prometheus: &Prometheus) {
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<&str> = targets.flatten().map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 30, "{}", queries.len());
    for query in &queries {
        let plain =
            query.replace("$instance", ".*").replace("$__rate_interval", "5s").replace("$__range", "1m");
        assert!(prometheus.ask(&plain).is_some(), "refused: {plain}");
    }
    let served: BTreeSet<String> = prometheus
        .ask("group by (__name__) ({__name__=~\"egw_.*\"})")
        .unwrap()
        .iter()
        .map(|(metric, _)| metric["__name__"].as_str().unwrap().to_owned())
        // The two series of the stress test come with its start, the length of a disruption with its end.
        .chain(
            ["egw_scale_test_stress_connections_total", "egw_probe_last_disruption_seconds"]
                .map(String::from),
        )
        .collect();
    let texts =
        queries.join("\n") + &read("monitoring/rules.yaml") + &read("clusterloader2/modules/metrics.yaml");
    let named: BTreeSet<&str> = texts
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("egw_") && !word.contains(':'))
        .collect();
    let unknown: Vec<&&str> = named.iter().filter(|name| !served.contains(**name)).collect();
    assert!(named.len() > 15 && unknown.is_empty(), "nobody serves {unknown:?}");
}
