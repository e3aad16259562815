//! The lab's flags, and the plan they make: checked before anything on the machine changes.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::ValueEnum;

use super::topology::{Family, MAX_PODS};
use crate::unready;

/// What happens to the Pods while their clients probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Probes leak, then the policy takes effect
    Masquerade,
    /// Probes leak, then vanish, then the policy takes effect
    Blackhole,
    /// No policy, and every source allowed
    Baseline,
    /// The policy never comes
    Never,
}

#[derive(clap::Args)]
pub(crate) struct Options {
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
    /// Seed of the random instants of switching [default: a random one, printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The egw-probe program to run [default: build it, in release]
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
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
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) family: Family,
    pub(crate) interval: Duration,
    pub(crate) rtt: Duration,
    pub(crate) test_timeout: Duration,
    /// No switch comes earlier after the start of a client: it has to be up, and to have leaked.
    lead: Duration,
    /// Each switch is drawn from so long a time.
    span: Duration,
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let rtt = options.delay.unwrap_or_default();
        let interval = options.interval;
        if interval.is_zero() {
            return Err(unready(
                "--interval 0s: probes need time between them; give 1ms or more, or a few 100us",
            ));
        }
        if options.clients == 0 || options.clients > MAX_PODS {
            return Err(unready(format!("--clients {}: give 1 to {MAX_PODS}", options.clients)));
        }
        let mut plan = Self {
            scenario: options.scenario,
            family: if options.ipv6 { Family::V6 } else { Family::V4 },
            interval,
            rtt,
            test_timeout: Duration::ZERO,
            // Clients that start together get less of a processor each.
            lead: Duration::from_millis(60 + 2 * options.clients as u64) + 2 * interval + 2 * rtt,
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

    /// Draws when, after its start, a client's packets begin to vanish, and when its policy comes.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> (Option<Duration>, Option<Duration>) {
        let first = self.lead + self.span.mul_f64(random.f64());
        match self.scenario {
            Scenario::Masquerade => (None, Some(first)),
            Scenario::Blackhole => (Some(first), Some(first + self.lead + self.span.mul_f64(random.f64()))),
            Scenario::Baseline | Scenario::Never => (None, None),
        }
    }

    /// The latest instant after a client's start at which [`Self::draw`] can put a switch.
    fn last_switch(&self) -> Duration {
        2 * (self.lead + self.span)
    }
}
