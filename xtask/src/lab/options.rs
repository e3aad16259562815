//! The lab's flags, and the plan they make: checked before anything on the machine changes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::addresses::{Family, LeakFrom};
use super::disturbance::{Disturb, MOST_JITTER};
use super::topology::{MAX_PODS, Nat};
use crate::unready::unready;

/// What happens to the Pods while their clients probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Probes leak, then the policy takes effect
    Masquerade,
    /// Probes leak, then vanish, then the policy takes effect
    Blackhole,
    /// No policy, and every source allowed
    Baseline,
    /// The policy never comes
    Never,
    /// The policy is in force, but of 2,000 connections of a stress test one in fifty passes it by
    Stress,
    /// Watch: the gateway stops forwarding, and the policy moves to a second one
    Failover,
    /// Watch: the policy goes out of force and comes back
    Flap,
    /// Watch: the gateway forgets its connections
    ConntrackLoss,
    /// Watch: the target is killed and started again
    Restart,
    /// Watch: of several gateways one is dead for a while
    Gateways,
    /// Watch: nothing happens
    Steady,
}

impl Scenario {
    /// How many gateways it takes.
    const fn gateways(self) -> u8 {
        match self {
            Self::Gateways => 3,
            Self::Failover => 2,
            _ => 1,
        }
    }

    /// Whether clients watch for a disruption, instead of waiting for a policy.
    pub(crate) const fn is_outage(self) -> bool {
        self.is_full_outage() || matches!(self, Self::Gateways | Self::Steady)
    }

    /// Whether for a while every probe is lost or leaks.
    pub(crate) const fn is_full_outage(self) -> bool {
        matches!(self, Self::Failover | Self::Flap | Self::ConntrackLoss | Self::Restart)
    }

    /// As the user gives it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Where the target's kernel side is to be attached, as `external-target --ebpf-attach` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attach {
    Auto,
    Tc,
    XdpNative,
    XdpGeneric,
}

impl Attach {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Options {
    /// Install what is missing on this machine first (Debian and Ubuntu, as root)
    #[arg(long)]
    pub(crate) setup: bool,
    #[arg(value_enum, default_value = "masquerade")]
    pub(crate) scenario: Scenario,
    /// Time between two probes of a client
    #[arg(long, default_value = "50ms", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// When a client gives up [default: some seconds after the last switch]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) test_timeout: Option<Duration>,
    /// Activations to measure, one after another
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Clients at once, each in a Pod of its own with a policy of its own
    #[arg(long, default_value_t = 1)]
    pub(crate) clients: usize,
    /// Round-trip time added between the cluster and the target
    #[arg(long, value_name = "RTT", value_parser = humantime::parse_duration)]
    pub(crate) delay: Option<Duration>,
    /// Probe over IPv6
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Observe SYNs in the target's kernel, tag them, and compare both with a packet capture
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub(crate) ebpf: Option<Attach>,
    /// How node and gateway choose source ports [default: masquerade; with conntrack-loss fully-random]
    #[arg(long, value_name = "FORM")]
    pub(crate) nat: Option<Nat>,
    /// Lose SYN-ACKs to the node's own address, so that handshakes of leaked SYNs never complete
    #[arg(long)]
    pub(crate) no_return: bool,
    /// With failover: the second gateway takes over the egress IP, too
    #[arg(long)]
    pub(crate) same_ip: bool,
    /// With never: whose address the target sees [default: node]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub(crate) leak_from: Option<LeakFrom>,
    /// With gateways or steady: gateways that the node spreads connections over, each with an egress IP of its own [default: 3
    /// with gateways, else 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) gateways: Option<u8>,
    /// With gateways or steady: how long one of them is dead, or nothing happens [default: 3s; with steady 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) lasts: Option<Duration>,
    /// Connections that a client holds open during an outage [default: 2; 0 through a proxy or several gateways]
    #[arg(long)]
    pub(crate) hold: Option<u32>,
    /// Disturb the path or its ends, by real parts; repeatable, or several with commas
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) disturb: Vec<Disturb>,
    /// Of 100 packets, how many get lost with --disturb loss
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub(crate) loss: u32,
    /// Let the target answer with a bare pong, so that leaks are presumed and nothing is known of what lies in between
    #[arg(long)]
    pub(crate) plain_reply: bool,
    /// Give clients the target by this name, which has an IPv4 and an IPv6 address
    #[arg(long, value_name = "NAME")]
    pub(crate) target_name: Option<String>,
    /// Seed of the random instants of switching [default: a random one, printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The egw-probe program to run [default: build it, in release]
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// Keep each client's result document in this folder, for `egw-probe report`
    #[arg(long, value_name = "FOLDER")]
    pub(crate) results: Option<PathBuf>,
    /// Occupy every processor meanwhile, by a thread each that does nothing but spin
    #[arg(long)]
    pub(crate) busy: bool,
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Control: pretend that each switch came one bracket width later; then the lab must fail
    #[arg(long)]
    pub(crate) control_shift: bool,
    /// Further arguments for every client
    #[arg(last = true, value_name = "CLIENT ARGS")]
    pub(crate) client_args: Vec<String>,
}

/// What a lab will do, in the order of events of one client.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) family: Family,
    pub(crate) interval: Duration,
    pub(crate) clients: usize,
    /// What the wire adds to a round-trip.
    pub(crate) delay: Duration,
    /// The most that it can add, by what disturbs it.
    pub(crate) rtt: Duration,
    pub(crate) disturb: Vec<Disturb>,
    pub(crate) loss_percent: u32,
    pub(crate) annotated: bool,
    pub(crate) test_timeout: Duration,
    pub(crate) nat: Nat,
    pub(crate) no_return: bool,
    pub(crate) same_ip: bool,
    pub(crate) gateways: u8,
    pub(crate) leak_from: LeakFrom,
    /// How long nothing happens, or one of several gateways is dead.
    pub(crate) lasts: Duration,
    pub(crate) hold: u32,
    pub(crate) ebpf: Option<Attach>,
    pub(crate) target_name: Option<String>,
    /// No switch comes earlier after the start of a client: it has to be up, and to have leaked.
    lead: Duration,
    /// Each switch is drawn from so long a time.
    span: Duration,
}

impl Options {
    /// The most runs that a lab may take, void ones included: each client of each has a number of its own.
    pub(crate) fn most_runs(&self) -> usize {
        let runs = self.runs as usize;
        if self.clients > 1 { runs } else { runs + void_limit(runs) + 1 }
    }
}

/// How many void measurements are made up for.
pub(crate) const fn void_limit(wanted: usize) -> usize {
    wanted / 10 + 3
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let delay = options.delay.unwrap_or_default();
        let stretches = options
            .disturb
            .iter()
            .any(|one| matches!(one, Disturb::Jitter | Disturb::Duplicate | Disturb::Reorder));
        let rtt = delay + if stretches { 4 * MOST_JITTER } else { Duration::ZERO };
        let interval = options.interval;
        if interval.is_zero() {
            return Err(unready(
                "--interval 0s: probes need time between them; give 1ms or more, or a few 100us",
            ));
        }
        if options.clients == 0 || options.clients > MAX_PODS {
            return Err(unready(format!("--clients {}: give 1 to {MAX_PODS}", options.clients)));
        }
        refuse_contradictions(options)?;
        let default_nat =
            if options.scenario == Scenario::ConntrackLoss { Nat::FullyRandom } else { Nat::Masquerade };
        let lasts = Duration::from_secs(if options.scenario == Scenario::Gateways { 3 } else { 1 });
        let through_proxy = options.disturb.iter().any(|one| one.terminates_tcp());
        let spreads = options.gateways.is_some() || options.scenario == Scenario::Gateways;
        let mut plan = Self {
            scenario: options.scenario,
            family: if options.ipv6 { Family::V6 } else { Family::V4 },
            interval,
            clients: options.clients,
            delay,
            rtt,
            disturb: options.disturb.clone(),
            loss_percent: options.loss,
            annotated: !options.plain_reply,
            test_timeout: Duration::ZERO,
            nat: options.nat.unwrap_or(default_nat),
            no_return: options.no_return,
            same_ip: options.same_ip,
            gateways: options.gateways.unwrap_or(options.scenario.gateways()),
            leak_from: options.leak_from.unwrap_or(LeakFrom::Node),
            lasts: options.lasts.unwrap_or(lasts),
            hold: options.hold.unwrap_or(if through_proxy || spreads { 0 } else { 2 }),
            ebpf: options.ebpf,
            target_name: options.target_name.clone(),
            // Clients that start together, or beside a load, get less of a processor each.
            lead: Duration::from_millis(60 + 2 * options.clients as u64 + if options.busy { 300 } else { 0 })
                + 2 * interval
                + 2 * rtt,
            span: Duration::from_millis(100).max(4 * interval),
        };
        let least = plan.last_switch() + interval + 2 * rtt;
        let reserve = if plan.scenario == Scenario::Never { Duration::ZERO } else { Duration::from_secs(10) };
        plan.test_timeout = options.test_timeout.unwrap_or(least + reserve);
        if plan.test_timeout < least {
            let (given, least) =
                (humantime::format_duration(plan.test_timeout), humantime::format_duration(least));
            return Err(unready(format!(
                "--test-timeout {given}: with this interval and delay give {least} or more"
            )));
        }
        Ok(plan)
    }

    /// Whether this disturbs.
    pub(crate) fn has(&self, what: Disturb) -> bool {
        self.disturb.contains(&what)
    }

    /// Whether the wire to the target is a forwarder of the lab's own.
    pub(crate) fn has_wire(&self) -> bool {
        !self.delay.is_zero()
            || [Disturb::Jitter, Disturb::Duplicate, Disturb::Reorder].iter().any(|one| self.has(*one))
    }

    /// The Pod whose packets go through a client's policy: the client's own, or that of the proxy in its path.
    pub(crate) fn steered(&self, pod: usize) -> usize {
        if self.has(Disturb::Proxy) { self.clients + pod } else { pod }
    }

    /// How many Pods there are.
    pub(crate) fn pods(&self) -> usize {
        if self.has(Disturb::Proxy) { 2 * self.clients } else { self.clients }
    }

    /// Whether it is known what a client has to say of the addresses that it leaks from.
    pub(crate) fn can_name_leaks(&self) -> bool {
        self.scenario == Scenario::Never && self.clients == 1 && self.annotated && self.disturb.is_empty()
    }

    /// The addresses that the target is to allow.
    pub(crate) fn egress(&self) -> Vec<IpAddr> {
        let both = [Family::V4, Family::V6];
        let first = if self.leak_from == LeakFrom::Gateway { 2 } else { 1 };
        let of =
            move |family: Family| (first..=self.gateways.max(2)).map(move |number| family.egress(number));
        let families = both.into_iter().filter(|family| self.target_name.is_some() || *family == self.family);
        families.flat_map(of).collect()
    }

    /// Whether packets are steered to the gateway before a client starts.
    pub(crate) fn is_steered_from_the_start(&self) -> bool {
        self.leak_from == LeakFrom::Gateway || self.scenario == Scenario::Stress
    }

    /// Whether this test is to fail, by its exit status.
    pub(crate) fn is_to_fail(&self) -> bool {
        matches!(self.scenario, Scenario::Never | Scenario::Stress)
    }

    /// Whether the target allows this source.
    pub(crate) fn allows(&self, source: IpAddr) -> bool {
        self.scenario == Scenario::Baseline || self.egress().contains(&source)
    }

    /// Draws when, after its start, a client's packets begin to vanish, and when its policy comes.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> (Option<Duration>, Option<Duration>) {
        let first = self.lead + self.span.mul_f64(random.f64());
        match self.scenario {
            Scenario::Masquerade => (None, Some(first)),
            Scenario::Blackhole => (Some(first), Some(first + self.lead + self.span.mul_f64(random.f64()))),
            _ => (None, None),
        }
    }

    /// How long a probe may take while a client watches: long enough for its round-trips, short enough for a run to
    /// be over soon after its outage.
    pub(crate) fn probe_timeout(&self) -> Duration {
        Duration::from_millis(200) + 4 * self.rtt
    }

    /// Draws when, after its start, a client's outage begins, and how long it lasts: long enough for probes and held
    /// connections to meet it, short enough for a held one to be sent again after it within [`Self::recovery`].
    pub(crate) fn draw_outage(&self, random: &mut fastrand::Rng) -> (Duration, Duration) {
        // Held connections open after the first pong.
        let begin = self.lead + Duration::from_millis(60) + 3 * self.rtt + self.span.mul_f64(random.f64());
        if self.scenario == Scenario::Gateways {
            return (begin + self.usual()[0], self.lasts);
        }
        let length =
            Duration::from_millis(60) + 3 * self.interval + Duration::from_millis(600).mul_f64(random.f64());
        (begin, length)
    }

    /// How long probes have to come before a time in which a share of them is lost, and after it, to tell it from chance.
    pub(crate) fn usual(&self) -> [Duration; 2] {
        [300 * self.interval, 200 * self.interval]
    }

    /// Draws how long after a change of gateway nobody tells it the target's MAC address: shorter and longer than a probe
    /// waits.
    pub(crate) fn draw_silence(&self, random: &mut fastrand::Rng) -> Duration {
        Duration::from_millis(20) + 2 * self.probe_timeout().mul_f64(random.f64())
    }

    /// How long after the begin of an outage of this length every connection that can recover has: the kernel sends again
    /// after 200 ms and a round-trip, and waits no longer each time than twice as long as before (RFC 6298, `TCP_RTO_MIN`).
    pub(crate) fn recovery(&self, outage: Duration) -> Duration {
        let first = Duration::from_millis(210) + 2 * self.rtt;
        2 * outage + first + 2 * self.rtt + Duration::from_millis(140)
    }

    /// The latest instant after a client's start at which [`Self::draw`] can put a switch.
    fn last_switch(&self) -> Duration {
        2 * (self.lead + self.span)
    }
}

/// Flags that only go together with others.
fn refuse_contradictions(options: &Options) -> Result<()> {
    let scenario = options.scenario;
    let outage = scenario.is_outage();
    let has = |what| options.disturb.contains(&what);
    let refusal = if !options.disturb.is_empty() && options.clients > 1 {
        Some(("--disturb", "one client is disturbed: leave --clients out"))
    } else if !options.disturb.is_empty() && options.ebpf.is_some() {
        Some(("--disturb", "the comparison of --ebpf with a capture is for an undisturbed path"))
    } else if has(Disturb::Arp) && outage && scenario != Scenario::Failover {
        Some(("--disturb arp", "of the outages, only failover has a gateway that is new to the target"))
    } else if has(Disturb::Proxy) && has(Disturb::Sidecar) {
        Some(("--disturb proxy,sidecar", "give one of them"))
    } else if scenario == Scenario::Stress && options.clients > 1 {
        Some(("--clients", "a stress test is made by one client"))
    } else if scenario == Scenario::Stress && !options.disturb.is_empty() {
        Some(("--disturb", "the stress test's leaks are counted on an undisturbed path"))
    } else if outage && options.plain_reply {
        Some(("--plain-reply", "outages are judged by annotated replies"))
    } else if outage && options.clients > 1 {
        Some(("--clients", "an outage is measured with one client"))
    } else if outage && options.ebpf.is_some() {
        Some(("--ebpf", "outages are measured by the client; take another scenario"))
    } else if options.same_ip && scenario != Scenario::Failover {
        Some(("--same-ip", "only the failover scenario has a second gateway"))
    } else if scenario == Scenario::Gateways && options.gateways == Some(1) {
        Some(("--gateways", "one of several is to die: give 2 or 3"))
    } else if options.gateways.is_some() && !matches!(scenario, Scenario::Gateways | Scenario::Steady) {
        Some(("--gateways", "only for the scenarios gateways and steady"))
    } else if options.leak_from.is_some() && scenario != Scenario::Never {
        Some(("--leak-from", "only for the never scenario"))
    } else if options.lasts.is_some() && !matches!(scenario, Scenario::Gateways | Scenario::Steady) {
        Some(("--lasts", "only for the scenarios gateways and steady"))
    } else if scenario == Scenario::Gateways && options.hold.is_some_and(|hold| hold > 0) {
        Some(("--hold", "which gateway a held connection goes through is not known"))
    } else if options.no_return && scenario != Scenario::Masquerade {
        Some(("--no-return", "only for the masquerade scenario"))
    } else if options.ebpf.is_some() && options.clients > MOST_TAGS {
        Some(("--ebpf", "there are 4095 tags: give --clients 4095 or less"))
    } else {
        None
    };
    refusal.map_or(Ok(()), |(flag, why)| Err(unready(format!("{flag}: {why}"))))
}

/// Client numbers that a tag has room for.
pub(crate) const MOST_TAGS: usize = 4095;
