//! The external target as a program of its own, in the namespace of a [`Pair`] that is the target's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::common::{Program, metric, status, wait_for};
use crate::kernel::net::{Pair, inside};

/// Where it serves its pages.
pub(crate) const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2113);

/// The program with these flags, once it answers.
pub(crate) fn target_in(pair: &Pair, flags: &[&str]) -> Program {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &pair.inside, env!("CARGO_BIN_EXE_egw-probe"), "external-target"])
        .args(flags);
    let target = Program::start_command(&mut command);
    wait_for("the target", || inside(&pair.inside, || status(HTTP, "/healthz")) == 200);
    target
}

/// The value of one of its series.
pub(crate) fn metric_inside(pair: &Pair, series: &str) -> Option<f64> {
    inside(&pair.inside, || metric(HTTP, series))
}
