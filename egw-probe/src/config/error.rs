//! What is wrong with a flag, in one line.

use std::net::SocketAddr;
use std::{fmt, io};

use crate::cli::environment::variable_of;
use crate::sys::net::Refused;

/// A flag whose value makes no sense: what, where, and what to do. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{flag}{from}: \"{value}\": {remedy}")]
pub struct ConfigError {
    flag: &'static str,
    /// Empty, or the variable.
    from: String,
    value: String,
    remedy: String,
}

impl ConfigError {
    /// An error of `flag` with `value`; `remedy` says what was wrong and what to write instead.
    pub fn new(flag: &'static str, value: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self { flag, from: String::new(), value: value.to_string(), remedy: remedy.into() }
    }

    /// Names the variable, if the flag is one of these, whose values come from the environment.
    pub fn name_variable(&mut self, from_environment: &[String]) {
        if from_environment.iter().any(|flag| flag == self.flag) {
            self.from = format!(" (from {})", variable_of(self.flag));
        }
    }

    /// Why an address of `flag` cannot be listened on, and what to do.
    pub(crate) fn listening(flag: &'static str, address: SocketAddr, error: &Refused) -> Self {
        let Refused { call, source } = error;
        let remedy = match source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("port {} is in use: stop the other program, or choose another port", address.port())
            }
            // The kernel's own answer (ip(7)).
            io::ErrorKind::PermissionDenied
                if *call == "bind" && source.raw_os_error() == Some(libc::EACCES) =>
            {
                format!("port {} needs CAP_NET_BIND_SERVICE: choose one above 1023", address.port())
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => {
                format!(
                    "{call}(2) is forbidden here, by a seccomp profile most likely: {source}; let it allow {call}"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                "not an address of this host: `ip address` lists them".to_owned()
            }
            _ => format!("cannot be listened on: {source}"),
        };
        Self::new(flag, address, remedy)
    }
}
