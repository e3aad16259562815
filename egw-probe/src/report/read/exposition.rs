//! From metrics to clients: the Prometheus text format of a `/metrics` page, and the answer of Prometheus' query API. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::document::disruption::Kind;
use crate::document::outcome::Outcome;
use crate::report::data::client::{ClientResult, Reading, Verdict};
use crate::report::data::egress::{LeakedConnections, Part};
use crate::report::data::interval::Interval;
use crate::report::read::document::{LONGEST_SECONDS, MOST, Refusal};

const FAILED: &str = "egw_scale_test_failed_tests_total";
const LEAKED: &str = "egw_scale_test_leaked_requests_total";
const DELAY: &str = "egw_scale_test_masquerade_delay_seconds_total";
const PROBES: &str = "egw_probe_probes_total";
const BRACKET: &str = "egw_probe_masquerade_delay_seconds";
const BLACKHOLE: &str = "egw_probe_blackhole_seconds";
const DISRUPTIONS: &str = "egw_probe_disruptions_total";
const STRESS_LEAKED: &str = "egw_probe_stress_leaked_total";

/// The metrics that are used; the old program has the first three.
pub(crate) const USED: [&str; 8] =
    [FAILED, LEAKED, DELAY, PROBES, BRACKET, BLACKHOLE, DISRUPTIONS, STRESS_LEAKED];

/// Labels that tell apart series of one client; all others tell clients apart.
const OWN_LABELS: [&str; 4] = ["__name__", "outcome", "bound", "kind"];

/// One series and its value now.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    labels: Labels,
    value: f64,
}

/// Labels in the order of their names. A list, because a tree for each of some million series takes ten times their room.
#[derive(Debug, Clone, PartialEq)]
struct Labels(Box<[(String, String)]>);

impl Labels {
    fn new(mut labels: Vec<(String, String)>) -> Self {
        labels.sort_by(|(one, _), (other, _)| one.cmp(other));
        // Of a repeated label the first counts.
        labels.dedup_by(|(later, _), (first, _)| later == first);
        Self(labels.into())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of labels")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = vec![];
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                Ok(Labels::new(labels))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// The series of a page in the text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub fn parse_text(page: &str) -> Result<Vec<Series>, Refusal> {
    let lines = page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    // Other families are none of ours, whatever their labels hold.
    let used = lines.filter(|line| USED.iter().any(|name| line.starts_with(name)));
    used.map(|line| series(line).ok_or_else(|| Refusal::Damaged(format!("no metric: {line}")))).collect()
}

fn series(line: &str) -> Option<Series> {
    let name_ends = line.find(['{', ' ', '\t'])?;
    let (name, mut rest) = line.split_at(name_ends);
    let mut labels = vec![("__name__".to_owned(), name.to_owned())];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, quoted) = rest.split_once('=')?;
            let (value, after) = unquote(quoted.trim_start().strip_prefix('"')?)?;
            labels.push((label.trim().to_owned(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok().filter(|value: &f64| value.is_finite())?;
    Some(Series { labels: Labels::new(labels), value })
}

/// A label's value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[derive(serde::Deserialize)]
struct Answer {
    error: Option<String>,
    data: Option<Data>,
}

#[derive(serde::Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(serde::Deserialize)]
struct Sample {
    metric: Labels,
    value: (f64, String),
}

/// The series in an answer to an instant query (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
pub fn parse_answer(bytes: &[u8]) -> Result<Vec<Series>, Refusal> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|_| {
        Refusal::Foreign("no answer of Prometheus' query API: --prometheus takes its base URL")
    })?;
    if let Some(error) = answer.error {
        return Err(Refusal::Unreadable(error));
    }
    let samples = answer.data.map(|data| data.result).unwrap_or_default();
    let series = samples.into_iter().map(|sample| {
        // NaN and infinity are numbers to Prometheus; whose they are, is damaged ([`plausible`]).
        let value =
            sample.value.1.parse().map_err(|_| Refusal::Damaged("a value is no number".to_owned()))?;
        Ok(Series { labels: sample.metric, value })
    });
    series.collect()
}

/// The query for everything that is used, of the series with these labels.
pub(crate) fn query(labels: &[(String, String)]) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let matchers = labels.iter().map(|(name, value)| format!(",{name}=\"{}\"", quoted(value)));
    format!("{{__name__=~\"{}\"{}}}", USED.join("|"), matchers.collect::<String>())
}

/// What series are of: clients, and those whose numbers cannot be, by name.
#[derive(Debug, Default)]
pub struct Clients {
    /// Those that are read.
    pub readings: Vec<Reading>,
    /// Those that are not, and why.
    pub damaged: Vec<(String, Refusal)>,
}

/// Refuses a value that nothing can have measured.
fn plausible(series: &Series) -> Result<(), Refusal> {
    let name = series.labels.get("__name__").unwrap_or_default();
    let most = if matches!(name, DELAY | BRACKET | BLACKHOLE) { LONGEST_SECONDS } else { MOST as f64 };
    let none = !(0.0..=most).contains(&series.value);
    if USED.contains(&name) && none {
        return Err(Refusal::Damaged(format!("{name} is {:?}", series.value)));
    }
    Ok(())
}

/// The clients that these series are of: one for each set of labels. `page` names a client whose series have none.
pub fn clients(series: Vec<Series>, page: &str) -> Result<Clients, Refusal> {
    let mut by_identity: BTreeMap<Vec<(String, String)>, Vec<Series>> = BTreeMap::new();
    for Series { labels, value } in series {
        let is_own = |(name, _): &(String, String)| OWN_LABELS.contains(&name.as_str());
        let (own, identity) = labels.0.into_iter().partition(is_own);
        by_identity.entry(identity).or_default().push(Series { labels: Labels::new(own), value });
    }
    let mut clients = Clients::default();
    for (identity, series) in by_identity {
        let name = name(&identity, page);
        match series.iter().try_for_each(plausible).and_then(|()| client(&name, &series).transpose()) {
            Ok(reading) => clients.readings.extend(reading),
            Err(refusal) => clients.damaged.push((name, refusal)),
        }
    }
    if clients.readings.is_empty() && clients.damaged.is_empty() {
        return Err(Refusal::Foreign(
            "no metrics of a client (an external target tells of its clients at /clients)",
        ));
    }
    Ok(clients)
}

/// The Pod if that is known, else the instance, else everything that is known.
fn name(identity: &[(String, String)], page: &str) -> String {
    let label =
        |wanted: &str| identity.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let pod = ["pod", "k8s_pod_name", "kubernetes_pod_name"].into_iter().find_map(label);
    let all = || identity.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    pod.or_else(|| label("instance"))
        .or_else(|| (!identity.is_empty()).then(all))
        .unwrap_or_else(|| page.to_owned())
}

fn client(name: &str, series: &[Series]) -> Option<Result<Reading, Refusal>> {
    let value = |wanted: &str, label: &str, value: &str| {
        let labelled = |one: &&Series| label.is_empty() || one.labels.get(label) == Some(value);
        let named = series.iter().filter(|one| one.labels.get("__name__") == Some(wanted));
        named.filter(labelled).map(|one| one.value).next()
    };
    let failed = value(FAILED, "", "")?;
    let upper =
        value(BRACKET, "bound", "upper").or_else(|| value(DELAY, "", "").filter(|delay| *delay > 0.0));
    let lower = value(BRACKET, "bound", "lower").unwrap_or(0.0);
    if lower < 0.0 || upper.is_some_and(|upper| upper < lower) {
        let upper = upper.map_or("nowhere".to_owned(), |upper| format!("{upper} s"));
        return Some(Err(Refusal::Damaged(format!("{name}: its bracket goes from {lower} s to {upper}"))));
    }
    let (verdict, delay) = match upper {
        // No series tells the test timeout.
        _ if failed > 0.0 => (Verdict::TimedOut, Interval::later_than(lower)),
        Some(upper) => (Verdict::Masqueraded, Interval::bracket(lower, Some(upper))),
        None => (Verdict::Unfinished, Interval::later_than(lower)),
    };
    let outcomes = Outcome::ALL.map(|outcome| value(PROBES, "outcome", outcome.name()).unwrap_or(0.0) as u64);
    let kinds = Kind::ALL.map(|kind| value(DISRUPTIONS, "kind", kind.name()).unwrap_or(0.0) as u64);
    // The old program calls every miss leaked, and keeps no other count.
    let leaked = value(PROBES, "outcome", "leaked").or_else(|| value(LEAKED, "", "")).unwrap_or(0.0) as u64;
    Some(Ok(Reading {
        client: ClientResult {
            name: name.to_owned(),
            verdict,
            delay,
            leaked,
            leak_seconds: None,
            blackhole_seconds: value(BLACKHOLE, "", "").unwrap_or(0.0).max(0.0),
            disruptions: kinds.iter().fold(0, |sum, kind| sum.saturating_add(*kind)),
            ..ClientResult::default()
        },
        outcomes,
        egress: Part {
            leaked_connections: LeakedConnections {
                stress: value(STRESS_LEAKED, "", "").unwrap_or(0.0) as u64,
                held: 0,
            },
            ..Part::default()
        },
        counts_of_kinds: Some(kinds),
        ..Reading::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP egw_scale_test_failed_tests_total x
egw_scale_test_failed_tests_total 0
egw_scale_test_leaked_requests_total 9
egw_scale_test_masquerade_delay_seconds_total 0.35
egw_probe_probes_total{outcome="leaked"} 7
egw_probe_probes_total{outcome="pong"} 1
egw_probe_masquerade_delay_seconds{bound="lower"} 0.3
egw_probe_masquerade_delay_seconds{bound="upper"} 0.35
egw_probe_stress_leaked_total 44
process_open_fds{odd="\"} 1"#;

    #[test]
    fn a_page_is_one_client_with_its_bracket() {
        let clients = clients(parse_text(PAGE).unwrap(), "http://pod:2112/metrics").unwrap().readings;
        assert_eq!(clients.len(), 1);
        let client = &clients[0].client;
        assert_eq!((client.name.as_str(), client.leaked), ("http://pod:2112/metrics", 7));
        assert_eq!(client.delay, Interval { lower: 0.3, upper: 0.35 });
        assert_eq!(clients[0].egress.leaked_connections, LeakedConnections { stress: 44, held: 0 });
    }

    #[test]
    fn the_old_program_has_no_bracket_and_a_failed_test_is_never_0() {
        let old = |failed, delay| {
            let page = format!(
                "egw_scale_test_failed_tests_total {failed}\negw_scale_test_leaked_requests_total 4\n\
                 egw_scale_test_masquerade_delay_seconds_total {delay}\n"
            );
            clients(parse_text(&page).unwrap(), "page").unwrap().readings.remove(0).client
        };
        assert_eq!(old(0, "1.5").delay, Interval { lower: 0.0, upper: 1.5 });
        assert_eq!(old(0, "1.5").leaked, 4);
        assert_eq!(old(1, "0").delay, Interval::later_than(0.0));
        assert_eq!(old(0, "0").verdict, Verdict::Unfinished);
    }

    #[test]
    fn a_bracket_that_cannot_be_is_damaged() {
        let bracket = |lower, upper| {
            let page = format!(
                "egw_scale_test_failed_tests_total 0\negw_probe_masquerade_delay_seconds{{bound=\"lower\"}} {lower}\n\
                 egw_probe_masquerade_delay_seconds{{bound=\"upper\"}} {upper}\n"
            );
            let mut clients = clients(parse_text(&page).unwrap(), "page").unwrap();
            clients.readings.pop().map(|reading| reading.client.delay.upper).ok_or(clients.damaged)
        };
        assert_eq!(bracket("0.3", "0.4"), Ok(0.4));
        for (lower, upper) in [("0.4", "0.3"), ("-1", "0.3"), ("0", "-1")] {
            let damaged = bracket(lower, upper).unwrap_err();
            assert!(matches!(damaged[..], [(_, Refusal::Damaged(_))]), "{lower} {upper}");
        }
    }

    #[test]
    fn labels_tell_clients_apart_and_escapes_are_read() {
        let page = "egw_scale_test_failed_tests_total{pod=\"a\\\"}\\n\", instance=\"i\"} 0 1700000000000\n\
                    egw_scale_test_failed_tests_total{instance=\"j\",} 1\n";
        let clients = clients(parse_text(page).unwrap(), "page").unwrap().readings;
        let names: Vec<&str> = clients.iter().map(|one| one.client.name.as_str()).collect();
        assert_eq!(names, ["a\"}\n", "j"]);
    }

    #[test]
    fn what_is_no_client_and_what_is_broken_is_told() {
        assert_eq!(clients(parse_text("up 1\n").unwrap(), "page").unwrap_err().kind(), "foreign");
        assert_eq!(parse_text("egw_scale_test_failed_tests_total{a=\"").unwrap_err().kind(), "damaged");
        assert_eq!(parse_answer(b"<html>").unwrap_err().kind(), "foreign");
        let refused = parse_answer(br#"{"status":"error","error":"no such thing"}"#);
        assert_eq!(refused, Err(Refusal::Unreadable("no such thing".to_owned())));
    }

    #[test]
    fn a_client_with_a_value_that_cannot_be_is_damaged_by_name_and_the_others_are_read() {
        let sample = |pod, value| {
            format!(r#"{{"metric":{{"__name__":"{FAILED}","pod":"{pod}"}},"value":[0,"{value}"]}}"#)
        };
        for value in ["NaN", "-1", "+Inf", "1e300"] {
            let answer = [sample("a", "0"), sample("b", value)].join(",");
            let answer = format!(r#"{{"data":{{"result":[{answer}]}}}}"#);
            let found = clients(parse_answer(answer.as_bytes()).unwrap(), "page").unwrap();
            assert_eq!((found.readings.len(), found.readings[0].client.name.as_str()), (1, "a"));
            assert_eq!((found.damaged[0].0.as_str(), found.damaged[0].1.kind()), ("b", "damaged"));
        }
    }

    #[test]
    fn the_query_escapes_what_the_user_wrote() {
        let labels = [("k8s_instance".to_owned(), "a\"b\\".to_owned())];
        assert!(query(&labels).ends_with(",k8s_instance=\"a\\\"b\\\\\"}"), "{}", query(&labels));
    }
}
