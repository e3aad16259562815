//! Whether what the target's kernel side tells agrees with a packet capture beside it, and whether its brackets hold
//! the recorded switches. Pure: values in, values out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use egw_probe::document::clients::ClientEntry;
use egw_probe::document::sources::KernelSources;
use egw_probe::document::verdict::Verdict;
use serde::Serialize;

use super::activation::Activation;
use super::capture::{Captured, Segment};
use super::clock::Monotonic;

/// How far a stamp of the target may be from the capture's of the same packet, at the 99th percentile.
const LARGEST_STAMP_ERROR: Duration = Duration::from_micros(100);
/// Fewer stamps than this are told, not judged.
const FEWEST_JUDGED_STAMPS: usize = 1_000;

/// What the comparison found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Observed {
    /// The attach mode in force on the wire, as the target's metrics tell it.
    pub(crate) mode: String,
    pub(crate) captured_allowed: u64,
    pub(crate) captured_denied: u64,
    pub(crate) counted_allowed: u64,
    pub(crate) counted_denied: u64,
    pub(crate) events_lost: u64,
    /// Of the target's half-open connections, those of denied sources; counted only with `--no-return`.
    pub(crate) half_open_denied: Option<u64>,
    pub(crate) stamps: Stamps,
    pub(crate) brackets: u64,
    pub(crate) brackets_hold: u64,
    pub(crate) brackets_uncorrected: u64,
    pub(crate) brackets_overlap: u64,
    pub(crate) bracket_width_median_seconds: Option<f64>,
    pub(crate) missing_syns: u64,
    pub(crate) faults: Vec<String>,
}

/// How far the target's stamps are from the capture's.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stamps {
    /// Stamps compared from `/sources` and `/clients`.
    pub(crate) of_records: usize,
    /// Stamps compared from annotated replies.
    pub(crate) of_replies: usize,
    /// Annotated replies that told no stamp.
    pub(crate) untold: usize,
    pub(crate) error_p50_seconds: f64,
    pub(crate) error_p99_seconds: f64,
    pub(crate) error_max_seconds: f64,
    /// Least and greatest difference, with its sign: target less capture.
    pub(crate) least_seconds: f64,
    pub(crate) greatest_seconds: f64,
    pub(crate) capture_clock_error_seconds: f64,
}

/// What is compared.
pub(crate) struct Evidence<'lab> {
    pub(crate) mode: String,
    pub(crate) requested: String,
    /// The capture at the target's device.
    pub(crate) arrived: &'lab Captured,
    /// The capture of its replies.
    pub(crate) answered: &'lab Captured,
    pub(crate) sources: KernelSources,
    pub(crate) clients: Vec<ClientEntry>,
    pub(crate) half_open_denied: Option<u64>,
    /// The addresses that the target allows.
    pub(crate) allowed: &'lab dyn Fn(IpAddr) -> bool,
    pub(crate) activations: &'lab [Activation],
    /// Whether a switch must have come, seen from both sides.
    pub(crate) switched: bool,
}

/// Compares everything.
pub(crate) fn compare(evidence: &Evidence) -> Observed {
    let mut observed = Observed {
        mode: evidence.mode.clone(),
        counted_allowed: evidence.sources.allowed_syns,
        counted_denied: evidence.sources.denied_syns,
        events_lost: evidence.sources.events_lost,
        half_open_denied: evidence.half_open_denied,
        ..Observed::default()
    };
    let mut differences_ns = vec![];
    observed.check_capture(evidence);
    observed.check_sources(evidence, &mut differences_ns);
    observed.check_clients(evidence, &mut differences_ns);
    observed.stamps.of_records = differences_ns.len();
    observed.check_replies(evidence, &mut differences_ns);
    observed.judge_stamps(differences_ns);
    observed
}

impl Observed {
    fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    fn check_capture(&mut self, evidence: &Evidence) {
        let Evidence { arrived, answered, .. } = evidence;
        let dropped = arrived.dropped + answered.dropped;
        self.expect(dropped == 0, || format!("the captures dropped {dropped} frames: they are no measure"));
        let inside = |syn: &&Segment| (evidence.allowed)(syn.source.ip());
        self.captured_allowed = arrived.syns().filter(inside).count() as u64;
        self.captured_denied = arrived.syns().count() as u64 - self.captured_allowed;
        self.stamps.capture_clock_error_seconds = arrived.clock_error_ns as f64 / 1e9;
        let (mode, requested) = (evidence.mode.clone(), &evidence.requested);
        self.expect(requested == "auto" || mode.starts_with(requested.as_str()), || {
            format!("the target observes by {mode}, not by {requested}")
        });
        let wrong_half_open =
            evidence.half_open_denied.filter(|half_open| *half_open != self.captured_denied);
        self.expect(wrong_half_open.is_none(), || {
            format!(
                "half-open connections of denied sources: {wrong_half_open:?}, where no handshake completes"
            )
        });
    }

    /// Totals by class, and one exact record per source.
    fn check_sources(&mut self, evidence: &Evidence, differences_ns: &mut Vec<i64>) {
        let captured = [self.captured_allowed, self.captured_denied];
        let counted = [self.counted_allowed, self.counted_denied];
        self.expect(captured == counted, || {
            format!("captured SYNs [allowed, denied] {captured:?}, counted {counted:?}")
        });
        let mut by_source: BTreeMap<IpAddr, Vec<&Segment>> = BTreeMap::new();
        for syn in evidence.arrived.syns() {
            by_source.entry(syn.source.ip()).or_default().push(syn);
        }
        for source in &evidence.sources.sources {
            let address = source.address;
            let Some(syns) = by_source.remove(&address) else {
                self.faults.push(format!("source {address} was counted and not captured"));
                continue;
            };
            let class = if (evidence.allowed)(address) { Verdict::Allowed } else { Verdict::Denied };
            let as_captured = source.syns == syns.len() as u64 && source.class == class;
            self.expect(as_captured, || {
                format!(
                    "source {address}: {} SYNs, {}; captured {}, {}",
                    source.syns,
                    source.class.name(),
                    syns.len(),
                    class.name()
                )
            });
            compare_stamps(differences_ns, source.first_syn_ns, syns.first());
            compare_stamps(differences_ns, source.last_syn_ns, syns.last());
        }
        for address in by_source.keys() {
            self.faults.push(format!("source {address} was captured and not counted"));
        }
    }

    /// One timeline for each activation, every one under a number of its own.
    fn check_clients(&mut self, evidence: &Evidence, differences_ns: &mut Vec<i64>) {
        let mut by_client: HashMap<u16, Vec<&Segment>> = HashMap::new();
        for syn in evidence.arrived.syns() {
            by_client.entry((syn.sequence >> 20) as u16).or_default().push(syn);
        }
        let mut widths = vec![];
        for activation in evidence.activations {
            let Some(tag) = activation.tag else { continue };
            let syns = by_client.remove(&tag).unwrap_or_default();
            let Some(client) = evidence.clients.iter().find(|client| client.client == tag) else {
                self.faults
                    .push(format!("the target knows no client {tag}; {} of its SYNs came", syns.len()));
                continue;
            };
            let of_class = |allowed: bool| {
                let is = move |syn: &&&Segment| (evidence.allowed)(syn.source.ip()) == allowed;
                syns.iter().filter(is).copied()
            };
            let counts = [of_class(false).count() as u64, of_class(true).count() as u64];
            let told = [client.leaked_syns, client.masqueraded_syns];
            self.expect(counts == told, || {
                format!("client {tag}: captured [leaked, masqueraded] {counts:?}, told {told:?}")
            });
            self.expect(client.restarts == 0 && !client.conflict, || {
                format!("client {tag} is said to have restarted {} times", client.restarts)
            });
            self.missing_syns += client.missing_syns;
            let first_inside = of_class(true).next();
            let last_before = first_inside.map_or_else(
                || of_class(false).next_back(),
                |first| of_class(false).rfind(|syn| syn.at < first.at),
            );
            compare_stamps(differences_ns, client.first_syn_ns, syns.first());
            compare_stamps(differences_ns, client.last_syn_ns, syns.last());
            for (told, captured) in
                [(client.last_leaked_ns, last_before), (client.first_masqueraded_ns, first_inside)]
            {
                match (told, captured) {
                    (Some(told), Some(_)) => compare_stamps(differences_ns, told, captured.as_ref()),
                    (None, None) => {}
                    _ => {
                        self.faults
                            .push(format!("client {tag}: an end of the bracket that was not captured"));
                    }
                }
            }
            if evidence.switched && !activation.is_void() {
                self.check_bracket(activation, client, &mut widths);
            }
        }
        self.expect(by_client.is_empty(), || {
            format!("SYNs came under {} numbers that no client has", by_client.len())
        });
        widths.sort_by(f64::total_cmp);
        self.bracket_width_median_seconds = widths.get(widths.len() / 2).copied();
    }

    fn check_bracket(&mut self, activation: &Activation, client: &ClientEntry, widths: &mut Vec<f64>) {
        let ClientEntry { bracket, client: tag, .. } = client;
        let Some(switch) = activation.switch else { return };
        self.brackets += 1;
        self.brackets_uncorrected += u64::from(!bracket.corrected);
        let (Some(lower), Some(upper)) = (bracket.lower_ns, bracket.upper_ns) else {
            self.faults.push(format!("client {tag}: the target's bracket is open at an end"));
            return;
        };
        widths.push(upper.saturating_sub(lower) as f64 / 1e9);
        // A lower end that is not proven claims nothing.
        let holds = (!bracket.corrected || lower < switch.before.ns()) && switch.after.ns() <= upper;
        self.brackets_hold += u64::from(holds);
        self.expect(holds, || {
            let off = |end: u64| (end as f64 - switch.before.ns() as f64) / 1e6;
            format!(
                "client {tag}: the switch is not in the target's bracket {:+.3} to {:+.3} ms",
                off(lower),
                off(upper)
            )
        });
        let own = activation.measured.bracket;
        let start = Monotonic::start_of(&activation.measured);
        let end = |seconds: Option<f64>| seconds.map(|seconds| start.after_seconds(seconds).ns());
        let overlap = end(own.lower_seconds).is_none_or(|own| own < upper)
            && end(own.upper_seconds).is_some_and(|own| !bracket.corrected || lower < own);
        self.brackets_overlap += u64::from(overlap);
        self.expect(overlap, || format!("client {tag}: its own bracket and the target's do not overlap"));
    }

    fn check_replies(&mut self, evidence: &Evidence, differences_ns: &mut Vec<i64>) {
        let mut by_port: HashMap<SocketAddr, Vec<&Segment>> = HashMap::new();
        for syn in evidence.arrived.syns() {
            by_port.entry(syn.source).or_default().push(syn);
        }
        let before = differences_ns.len();
        for told in &evidence.answered.told {
            let Some(syn_ns) = told.syn_ns else {
                self.stamps.untold += 1;
                continue;
            };
            // A port may have been used more than once: the reply is to the SYN whose stamp it is nearest to.
            let nearest = by_port
                .get(&told.source)
                .and_then(|syns| syns.iter().min_by_key(|syn| syn.at.ns().abs_diff(syn_ns)));
            match nearest {
                Some(_) => compare_stamps(differences_ns, syn_ns, nearest),
                None => self.faults.push(format!("a reply to {} answers no captured SYN", told.source)),
            }
        }
        self.stamps.of_replies = differences_ns.len() - before;
    }

    fn judge_stamps(&mut self, mut differences_ns: Vec<i64>) {
        let seconds = |ns: Option<&i64>| ns.map_or(0.0, |ns| *ns as f64 / 1e9);
        self.stamps.least_seconds = seconds(differences_ns.iter().min());
        self.stamps.greatest_seconds = seconds(differences_ns.iter().max());
        for difference in &mut differences_ns {
            *difference = difference.abs();
        }
        differences_ns.sort_unstable();
        let rank = |share: f64| {
            let index = (differences_ns.len() as f64 * share) as usize;
            seconds(differences_ns.get(index).or(differences_ns.last()))
        };
        (self.stamps.error_p50_seconds, self.stamps.error_p99_seconds) = (rank(0.5), rank(0.99));
        self.stamps.error_max_seconds = rank(1.0);
        let p99 = self.stamps.error_p99_seconds;
        // Of fewer stamps the hundredth is a matter of what else the machine did.
        let judged = differences_ns.len() >= FEWEST_JUDGED_STAMPS;
        self.expect(!judged || p99 <= LARGEST_STAMP_ERROR.as_secs_f64(), || {
            format!("the target's stamps are {:.1} us from the capture's (p99)", p99 * 1e6)
        });
    }
}

fn compare_stamps(differences_ns: &mut Vec<i64>, told_ns: u64, captured: Option<&&Segment>) {
    differences_ns.extend(captured.map(|segment| told_ns.wrapping_sub(segment.at.ns()).cast_signed()));
}
