//! The raw flags, as the user wrote them. What they mean together is decided in [`crate::config`].

mod addresses;
pub(crate) mod client;
pub(crate) mod environment;
pub(crate) mod log;
#[cfg(feature = "report")]
pub(crate) mod report;
pub(crate) mod rights;
pub(crate) mod target;
mod usage;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Id, Parser, Subcommand};

use crate::cli::client::ClientArgs;
use crate::cli::environment::variable_of;
#[cfg(feature = "report")]
use crate::cli::report::ReportArgs;
use crate::cli::target::ExternalTargetArgs;

/// Measures how long an egress gateway takes to masquerade a Pod's connections, and how much leaks until then.
#[derive(Debug, Parser)]
#[command(name = "egw-probe", version, args_override_self = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Which of the two ends to run, or a report.
    #[command(subcommand)]
    pub command: Command,

    /// The flags whose values come from the environment.
    #[arg(skip)]
    pub from_environment: Vec<String>,
}

/// The two ends of a measurement, and what came of many.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs in the Pod: opens connections to the target on exact ticks until one is answered with pong
    Client(Box<ClientArgs>),
    /// Runs outside the cluster: answers pong to sources inside the allowed CIDRs, and closes all others
    ExternalTarget(ExternalTargetArgs),
    /// Reads many results and gives one answer: percentiles, leaks, gates, a page with plots
    #[cfg(feature = "report")]
    #[command(after_help = report::EXAMPLES)]
    Report(Box<ReportArgs>),
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// The user asked for this text (`--help`, `--version`): stdout, exit code 0.
    Text(String),
    /// The user made a mistake: one line for stderr, exit code 2.
    Usage(String),
}

/// What a build without reports says to whoever wants one.
const NO_REPORT: &str =
    "report: this build has none: read the results with a program that was built with the feature `report`";

/// Reads the command line and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // The image links the old program's path to this one; nothing else about the first word matters.
    if args.is_empty() {
        args.push(OsString::from("egw-probe"));
    }
    if cfg!(not(feature = "report")) && args.get(1).is_some_and(|word| word == "report") {
        return Err(Stop::Usage(NO_REPORT.to_owned()));
    }
    let parsed = command().try_get_matches_from(&args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok(Cli { from_environment: from_environment(&matches), ..cli })
    });
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Text(error.to_string()),
        _ => Stop::Usage(usage::one_line(&error, &args)),
    })
}

fn from_environment(matches: &ArgMatches) -> Vec<String> {
    let Some((_, of_command)) = matches.subcommand() else { return vec![] };
    let read = |id: &&Id| of_command.value_source(id.as_str()) == Some(ValueSource::EnvVariable);
    of_command.ids().filter(read).map(|id| format!("--{}", id.as_str().replace('_', "-"))).collect()
}

/// The command line, in which every flag also comes from the environment: `--interval` from `EGW_PROBE_INTERVAL`. An empty variable
/// says nothing: manifests set those that they have no value for.
pub fn command() -> clap::Command {
    let from_environment = |arg: clap::Arg| {
        let variable = arg.get_long().map(variable_of);
        let says_something = |name: &String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match variable.filter(says_something) {
            Some(variable) => arg.env(variable).hide_env(true),
            None => arg,
        }
    };
    Cli::command().mut_subcommands(|subcommand| {
        let subcommand = subcommand.mut_args(from_environment);
        match subcommand.get_after_help() {
            Some(_) => subcommand,
            None => subcommand.after_help(
                "Every flag also comes from the environment: --log-level debug is EGW_PROBE_LOG_LEVEL=debug.",
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipnet::IpNet;

    use super::*;
    use crate::cli::target::parse_cidr;

    fn run(line: &str) -> Result<Cli, Stop> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn client(line: &str) -> ClientArgs {
        let Command::Client(args) = run(&format!("egw-probe client {line}")).unwrap().command else {
            panic!("a client was asked for")
        };
        *args
    }

    fn target(line: &str) -> ExternalTargetArgs {
        let Command::ExternalTarget(args) =
            run(&format!("egw-probe external-target {line}")).unwrap().command
        else {
            panic!("a target was asked for")
        };
        args
    }

    #[test]
    fn the_arguments_of_todays_manifests_mean_what_they_meant() {
        let args = client(
            "--external-target-addr=192.0.2.1:1337 --test-timeout=295s --stress=false --stress-delay=15s",
        );
        assert_eq!(args.probing.external_target_addr, "192.0.2.1:1337");
        assert_eq!(args.probing.interval, Duration::from_millis(50));
        assert_eq!(args.probing.test_timeout, Duration::from_secs(295));
        assert!(!args.stressing.stress);
        assert_eq!(args.stressing.stress_delay, Duration::from_secs(15));
        assert_eq!(args.stressing.stress_duration, Duration::ZERO);
        let args = target("--allowed-cidr=0.0.0.0/0 --listen-port=1338 --keep-open=true");
        assert_eq!(args.answer.allowed_cidr, ["0.0.0.0/0".parse::<IpNet>().unwrap()]);
        assert_eq!(args.answer.listen_port.get(), 1338);
        assert!(args.answer.keep_open);
    }

    #[test]
    fn the_defaults_are_those_of_the_old_program() {
        let args = client("--external-target-addr 192.0.2.1:1337");
        assert_eq!(args.probing.test_timeout, Duration::from_mins(1));
        assert_eq!(args.probing.probe_timeout, Duration::from_millis(900));
        assert!(!args.stressing.stress && !args.gates.exit);
        let args = target("--allowed-cidr 192.0.2.0/24");
        assert_eq!(args.answer.listen_port.get(), 1337);
        assert!(!args.answer.keep_open);
    }

    #[test]
    fn booleans_take_every_form_of_go() {
        for (form, expected) in [
            ("--stress", true),
            ("--stress=1", true),
            ("--stress=T", true),
            ("--stress=TRUE", true),
            ("--stress=0", false),
            ("--stress=f", false),
            ("--stress=False", false),
            ("--stress --stress=false", false),
        ] {
            assert_eq!(
                client(&format!("--external-target-addr=a:1 {form}")).stressing.stress,
                expected,
                "{form}"
            );
        }
    }

    #[test]
    fn a_watch_takes_a_duration_or_a_boolean() {
        use crate::config::choice::WatchLength::{For, Off, Unbounded};
        for (form, expected) in [
            ("", None),
            ("--watch", Some(Unbounded)),
            ("--watch=true", Some(Unbounded)),
            ("--watch=1", Some(Unbounded)),
            ("--watch=0", Some(Unbounded)),
            ("--watch=0s", Some(Unbounded)),
            ("--watch=false", Some(Off)),
            ("--watch=10m", Some(For(Duration::from_mins(10)))),
        ] {
            assert_eq!(
                client(&format!("--external-target-addr=a:1 {form}")).watching.watch,
                expected,
                "{form}"
            );
        }
    }

    #[test]
    fn of_a_repeated_flag_the_last_counts_and_cidrs_add_up() {
        let args = client("--external-target-addr=a:1 --interval=5ms --interval=7ms");
        assert_eq!(args.probing.interval, Duration::from_millis(7));
        let args =
            target("--allowed-cidr 192.0.2.77/24,2001:db8::5/64 --allowed-cidr ::ffff:198.51.100.1/128");
        let network = |written: &IpNet| crate::cli::target::network_of(*written).to_string();
        let written: Vec<String> = args.answer.allowed_cidr.iter().map(network).collect();
        assert_eq!(written, ["192.0.2.0/24", "2001:db8::/64", "198.51.100.1/32"]);
    }

    #[test]
    fn an_octet_that_may_be_octal_and_a_length_with_a_sign_are_refused_as_in_go() {
        for text in ["010.0.0.0/8", "10.00.0.0/8", "::ffff:0:10.00.0.0/90", "10.0.0.0/+8", "10.0.0.0/"] {
            assert!(parse_cidr(text).is_err(), "{text}");
        }
    }

    #[test]
    #[cfg(not(feature = "report"))]
    fn a_build_without_reports_says_so_in_one_line_and_does_not_offer_them() {
        for line in ["egw-probe report", "egw-probe report - --html page.html", "egw-probe report --help"] {
            assert!(matches!(run(line), Err(Stop::Usage(told)) if told == NO_REPORT), "{line}");
        }
        let Err(Stop::Text(help)) = run("egw-probe --help") else { panic!("a text was asked for") };
        assert!(!help.contains("report"), "{help}");
    }
}
