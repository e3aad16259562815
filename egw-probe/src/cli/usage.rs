//! A mistake on the command line, told in one line: what, where, and what to do.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::environment::variable_of;
use crate::document::go;

/// What, where, and what to do, in one line. `args` tell whether a flag was given, or its variable.
pub(super) fn one_line(error: &clap::Error, args: &[OsString]) -> String {
    let text_of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    // "--interval <DURATION>" names the flag as the help does; the user wrote only the first word.
    let flag = text_of(ContextKind::InvalidArg).unwrap_or_default();
    let flag_name = flag.split([' ', '[', '=']).next().unwrap_or_default().to_owned();
    let value = text_of(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("{}: \"{value}\": {reason}", with_variable(&flag_name, args))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{flag_name}: a value is missing: write {flag}")
        }
        ErrorKind::InvalidValue => {
            let known = text_of(ContextKind::ValidValue).unwrap_or_default();
            let flag_name = with_variable(&flag_name, args);
            format!("{flag_name}: \"{value}\" is none of its values: write one of {known}")
        }
        ErrorKind::UnknownArgument => unknown(&flag, text_of(ContextKind::SuggestedArg)),
        ErrorKind::InvalidSubcommand => {
            let word = text_of(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("\"{word}\": no such command: write client, external-target or report")
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing: write client, external-target or report; --help explains them".to_owned()
        }
        ErrorKind::MissingRequiredArgument => missing(&flag),
        ErrorKind::NoEquals => {
            format!("{flag_name}: a boolean takes its value behind an equals sign, as in {flag_name}=false")
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// The flag; and its variable, if that gave the value: who writes the flag overrides it.
fn with_variable(flag: &str, args: &[OsString]) -> String {
    let gives = |word: &OsString| {
        word.to_str()
            .and_then(|word| word.strip_prefix(flag))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if args.iter().any(gives) { flag.to_owned() } else { format!("{flag} (from {})", variable_of(flag)) }
}

const SEE_HELP: &str = "; --help lists what there is";

fn unknown(word: &str, suggestion: Option<String>) -> String {
    if go::parse_bool(word).is_ok() {
        return format!(
            "\"{word}\": stray word: a boolean takes its value behind an equals sign, as in --stress={word}"
        );
    }
    if word.starts_with('-') {
        let suggestion = suggestion.map(|known| format!("; did you mean {known}?"));
        return format!("{word}: no such flag{}", suggestion.as_deref().unwrap_or(SEE_HELP));
    }
    format!(
        "\"{word}\": stray word: the values of --watch, --ebpf and booleans stand behind an equals sign, as in \
         --watch=10m"
    )
}

fn missing(flag: &str) -> String {
    match flag {
        flag if flag.contains("--external-target-addr") => {
            "--external-target-addr is missing: write --external-target-addr=IP:port".to_owned()
        }
        flag if flag.contains("--allowed-cidr") => {
            "--allowed-cidr is missing: write the egress IPs, as in --allowed-cidr=203.0.113.7/32".to_owned()
        }
        flag => format!("{flag} is missing{SEE_HELP}"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::{Stop, parse};

    fn refused(line: &str) -> String {
        let words = format!("egw-probe {line}");
        match parse(words.split_whitespace().map(OsString::from)) {
            Err(Stop::Usage(text)) => text,
            other => panic!("{line} was not refused: {other:?}"),
        }
    }

    #[test]
    fn bad_input_is_one_line_that_names_flag_value_and_remedy() {
        for (line, expected) in [
            ("client", "--external-target-addr is missing: write --external-target-addr=IP:port"),
            (
                "client --external-target-addr=a:1 --interval=5",
                "--interval: \"5\": a number needs a unit: write 5ms or 5s",
            ),
            (
                "client --external-target-addr=a:1 --interval=-5ms",
                "--interval: \"-5ms\": negative: a length of time starts at 0",
            ),
            (
                "client --external-target-addr=a:1 --stress false",
                "\"false\": stray word: a boolean takes its value behind an equals sign, as in --stress=false",
            ),
            (
                "client --external-target-addr=a:1 --stress=maybe",
                "--stress: \"maybe\": not a boolean: write true or false",
            ),
            (
                "client --external-target-addr=a:1 --output=xml",
                "--output: \"xml\" is none of its values: write one of text, json",
            ),
            (
                "external-target",
                "--allowed-cidr is missing: write the egress IPs, as in --allowed-cidr=203.0.113.7/32",
            ),
            (
                "external-target --allowed-cidr=192.0.2.1",
                "--allowed-cidr: \"192.0.2.1\": the prefix length is missing: write 192.0.2.1/32",
            ),
            (
                "external-target --allowed-cidr=x/8",
                "--allowed-cidr: \"x/8\": not a CIDR: write address/length, as in 203.0.113.0/24 or 2001:db8::/64",
            ),
            (
                "external-target --allowed-cidr=::/0 --listen-port=0",
                "--listen-port: \"0\": not a port: write a number from 1 to 65535",
            ),
            (
                "client --external-target-addr",
                "--external-target-addr: a value is missing: write --external-target-addr <HOST:PORT>",
            ),
            (
                "client --external-target-addr=a:1 --intervall=5ms",
                "--intervall: no such flag; did you mean --interval?",
            ),
            ("serve", "\"serve\": no such command: write client, external-target or report"),
            ("", "a command is missing: write client, external-target or report; --help explains them"),
        ] {
            let text = refused(line);
            assert_eq!(text, expected, "{line}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
