//! The end of an observer, by itself and by SIGKILL: nothing of it stays on an interface for good.

use std::process::{Command, Stdio};

use egw_probe::workbench::config::{AttachMode, Selection};
use egw_probe::workbench::observer::{KernelConfig, Mode};

use crate::common::told::as_root;
use crate::common::wait_for;
use crate::kernel::net::{Pair, Running, V4, config, connect, inside};

/// Set in the child that is to be killed: the namespace it observes, and the mode.
const CHILD: &str = "EGW_PROBE_TEST_CHILD";

/// What hangs on veth0 now: XDP as `ip` shows it, TC links and filters as the kernel's own tools list them.
fn hangs_on_veth0(pair: &Pair) -> String {
    let run = |program: &str, args: &[&str]| {
        let output =
            Command::new("ip").args(["netns", "exec", &pair.inside, program]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let link = run("ip", &["-d", "link", "show", "veth0"]);
    let xdp = if link.contains("xdp") { "xdp " } else { "" };
    let tcx = inside(&pair.inside, || {
        aya::programs::SchedClassifier::query_tcx("veth0", aya::programs::TcAttachType::Ingress)
            .unwrap()
            .1
            .len()
    });
    let filters = run("tc", &["filter", "show", "dev", "veth0", "ingress"]).matches("direct-action").count();
    format!("{xdp}tcx {tcx} filters {filters}")
}

#[test]
fn a_normal_end_leaves_nothing_behind() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("end");
    for (requested, while_running) in [
        (AttachMode::Auto, "tcx 1 filters 0"),
        (AttachMode::XdpNative, "xdp tcx 0 filters 0"),
        (AttachMode::XdpGeneric, "xdp tcx 0 filters 0"),
    ] {
        let running = Running::start(&pair.inside, config(requested, Selection::All)).unwrap();
        assert_eq!(hangs_on_veth0(&pair), while_running, "{requested:?}");
        drop(running);
        wait_for("nothing left on veth0", || hangs_on_veth0(&pair) == "tcx 0 filters 0");
    }
}

fn clsact() -> KernelConfig {
    KernelConfig { without_tcx: true, ..config(AttachMode::Auto, Selection::All) }
}

/// A process of its own that observes; killed when dropped, so that a failing test leaves none behind.
struct Observing(std::process::Child);

impl Observing {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_child(pair: &Pair, mode: &str) -> Observing {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kernel_detach::child_that_observes_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, format!("{} {mode}", pair.inside))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Observing(child)
}

#[test]
fn before_tcx_a_filter_counts_and_goes_with_a_normal_end() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("clsact");
    let running = Running::start(&pair.inside, clsact()).unwrap();
    assert_eq!(running.mode("veth0"), Some(Mode::Clsact));
    assert_eq!(hangs_on_veth0(&pair), "tcx 0 filters 1");
    connect(&pair, &pair.outside, V4, 7, &running.handle);
    assert_eq!(running.totals().denied, 7);
    drop(running);
    assert_eq!(hangs_on_veth0(&pair), "tcx 0 filters 0");
}

#[test]
fn a_killed_owners_filter_is_removed_by_the_next_start_and_a_living_ones_is_not() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("stale");
    let mut living = start_child(&pair, "clsact");
    wait_for("the first child attached", || hangs_on_veth0(&pair) == "tcx 0 filters 1");
    let mut killed = start_child(&pair, "clsact");
    wait_for("the second child attached", || hangs_on_veth0(&pair) == "tcx 0 filters 2");
    killed.kill();
    assert_eq!(hangs_on_veth0(&pair), "tcx 0 filters 2", "the kernel does not remove a filter by itself");
    let running = Running::start(&pair.inside, clsact()).unwrap();
    assert_eq!(hangs_on_veth0(&pair), "tcx 0 filters 2", "the living one's and ours");
    connect(&pair, &pair.outside, V4, 3, &running.handle);
    assert_eq!(running.totals().denied, 3);
    living.kill();
    drop(running);
    // Whatever the mode, a start looks for what is stale.
    drop(Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap());
    assert_eq!(hangs_on_veth0(&pair), "tcx 0 filters 0");
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("kill");
    for (mode, while_running) in
        [("auto", "tcx 1 filters 0"), ("native", "xdp tcx 0 filters 0"), ("generic", "xdp tcx 0 filters 0")]
    {
        let mut child = start_child(&pair, mode);
        wait_for("the child attached", || hangs_on_veth0(&pair) == while_running);
        child.kill();
        wait_for("nothing left on veth0", || hangs_on_veth0(&pair) == "tcx 0 filters 0");
    }
}

#[test]
#[ignore = "the other half of a_killed_process_leaves_nothing_behind"]
fn child_that_observes_until_it_is_killed() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (namespace, mode) = order.split_once(' ').unwrap();
    let requested = match mode {
        "native" => AttachMode::XdpNative,
        "generic" => AttachMode::XdpGeneric,
        _ => AttachMode::Auto,
    };
    let mut config = config(requested, Selection::All);
    config.without_tcx = mode == "clsact";
    let _running = Running::start(namespace, config).unwrap();
    loop {
        std::thread::park();
    }
}
