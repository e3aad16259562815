//! The observer on real interfaces, in network namespaces of its own: every mode, coming and going, and the end by
//! SIGKILL.

mod kernel;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU16,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use egw_probe::{
    clock::Monotonic,
    target::kernel::{
        AttachMode, ClassTotals, KernelConfig, KernelError, KernelMetrics, KernelObserver, Mode,
        ObserverHandle, view::Selection,
    },
};
use kernel::as_root;
use prometheus::{Registry, TextEncoder};

const PORT: u16 = 1337;
/// Set in the child that is to be killed: the namespace it observes, and the mode.
const CHILD: &str = "EGW_PROBE_TEST_CHILD";

/// Two namespaces joined by a veth pair: `inside` (198.51.100.1, 2001:db8:f::1) is the target's. Removed when dropped.
struct Pair {
    inside: String,
    outside: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let pair = Self { inside: format!("egwk-{name}-i{id}"), outside: format!("egwk-{name}-o{id}") };
        for namespace in [&pair.inside, &pair.outside] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!("-n {} link add veth0 type veth peer name veth0 netns {}", pair.inside, pair.outside));
        for (namespace, host) in [(&pair.inside, 1), (&pair.outside, 9)] {
            ip(&format!("-n {namespace} addr add 198.51.100.{host}/24 dev veth0"));
            ip(&format!("-n {namespace} addr add 2001:db8:f::{host}/64 dev veth0 nodad"));
            ip(&format!("-n {namespace} link set veth0 up"));
        }
        pair
    }

    fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.inside));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.inside, &self.outside] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
    }
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
        .unwrap();
}

/// Runs `work` on a thread of its own inside a namespace.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(namespace);
                work()
            })
            .join()
            .unwrap()
    })
}

fn config(attach: AttachMode, interfaces: Selection) -> KernelConfig {
    KernelConfig {
        listen_port: NonZeroU16::new(PORT).unwrap(),
        allowed: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:f::/64".parse().unwrap()],
        interfaces,
        attach,
        clients: None,
        trace: false,
        without_tcx: false,
    }
}

/// An observer that runs on its own thread in a namespace until this is dropped.
struct Running {
    handle: ObserverHandle,
    registry: Registry,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), KernelError>>>,
}

impl Running {
    fn start(namespace: &str, config: KernelConfig) -> Result<Self, KernelError> {
        let (started, starting) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let registry = Registry::new();
        let metrics = KernelMetrics::register(&registry).unwrap();
        let namespace = namespace.to_owned();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let observer = match KernelObserver::start(&config, metrics).await {
                    Ok(observer) => observer,
                    Err(e) => {
                        started.send(Err(e)).unwrap();
                        return Ok(());
                    }
                };
                started.send(Ok(observer.handle())).unwrap();
                observer
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await
            })
        });
        let handle = starting.recv().unwrap()?;
        Ok(Self { handle, registry, stop: Some(stop), thread: Some(thread) })
    }

    fn mode(&self, interface: &str) -> Option<Mode> {
        self.handle.attachments().into_iter().find(|a| a.interface == interface).map(|a| a.mode)
    }

    fn totals(&self) -> ClassTotals {
        self.handle.class_totals().unwrap()
    }

    fn metrics(&self) -> String {
        self.handle.refresh().unwrap();
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// Waits for something that the kernel or the observer's thread does in its own time.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

/// Connects `count` times from one namespace to an address in the other, and tells the observer of each accept.
fn connect(pair: &Pair, from: &str, to: IpAddr, count: usize, handle: &ObserverHandle) {
    let listener = inside(&pair.inside, || TcpListener::bind(SocketAddr::new(to, PORT)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                let (mut stream, source) = listener.accept().unwrap();
                handle.accepted(source, Monotonic::now());
                stream.write_all(b"pong\n").unwrap();
            }
        });
        inside(from, || {
            for _ in 0..count {
                let mut stream = TcpStream::connect(SocketAddr::new(to, PORT)).unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).unwrap();
                assert_eq!(reply, "pong\n");
            }
        });
    });
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

fn v6() -> IpAddr {
    "2001:db8:f::1".parse().unwrap()
}

#[test]
fn every_mode_counts_every_syn_once_and_in_its_class() {
    if !as_root("every_mode_counts_every_syn_once_and_in_its_class") {
        return;
    }
    for (requested, on_veth, on_lo) in [
        (AttachMode::Auto, Mode::Tcx, Mode::Tcx),
        (AttachMode::Tc, Mode::Tcx, Mode::Tcx),
        (AttachMode::XdpGeneric, Mode::XdpGeneric, Mode::XdpGeneric),
        // lo has no driver for it.
        (AttachMode::XdpNative, Mode::XdpNative, Mode::XdpGeneric),
    ] {
        let pair = Pair::new("modes");
        let running = Running::start(&pair.inside, config(requested, Selection::All)).unwrap();
        assert_eq!(running.mode("veth0"), Some(on_veth), "{requested:?}");
        assert_eq!(running.mode("lo"), Some(on_lo), "{requested:?}");
        connect(&pair, &pair.outside, V4, 20, &running.handle);
        connect(&pair, &pair.outside, v6(), 30, &running.handle);
        connect(&pair, &pair.inside, V4, 5, &running.handle);
        let totals = running.totals();
        assert_eq!((totals.denied, totals.allowed), (25, 30), "{requested:?}: {totals:?}");
        assert_eq!((totals.duplicates, totals.denied_lost + totals.allowed_lost), (0, 0), "{requested:?}");
        let text = running.metrics();
        for line in [
            "egw_probe_target_syns_total{class=\"denied\",kind=\"first\"} 25",
            "egw_probe_target_syns_total{class=\"allowed\",kind=\"first\"} 30",
            "egw_probe_target_syns_total{class=\"allowed\",kind=\"retransmit\"} 0",
            "egw_probe_target_syn_to_accept_seconds_count{class=\"denied\"} 25",
            "egw_probe_target_syn_to_accept_seconds_count{class=\"allowed\"} 30",
            "egw_probe_target_events_lost_total 0",
            &format!("egw_probe_target_ebpf_info{{interface=\"veth0\",mode=\"{}\"}} 1", on_veth.label()),
        ] {
            assert!(text.lines().any(|l| l == line), "{requested:?}: no {line} in\n{text}");
        }
        assert_eq!(running.handle.join_health().unmatched, 0);
        let sources = running.handle.sources().unwrap();
        let mut seen: Vec<_> = sources.seen.iter().map(|s| (s.address.to_string(), s.syns)).collect();
        seen.sort();
        assert_eq!(
            seen,
            [("198.51.100.1", 5), ("198.51.100.9", 20), ("2001:db8:f::9", 30)]
                .map(|(a, n)| (a.to_owned(), n))
        );
        assert_eq!(sources.evicted, 0);
    }
}

#[test]
fn a_layer_3_device_is_observed_without_an_ethernet_header() {
    if !as_root("a_layer_3_device_is_observed_without_an_ethernet_header") {
        return;
    }
    for requested in [AttachMode::Auto, AttachMode::XdpGeneric, AttachMode::XdpNative] {
        let pair = Pair::new("tun");
        pair.ip("tuntap add tun0 mode tun");
        pair.ip("addr add 192.0.2.1/24 dev tun0");
        pair.ip("link set tun0 up");
        let running =
            Running::start(&pair.inside, config(requested, Selection::Named(vec!["tun0".to_owned()])))
                .unwrap();
        let expected = if requested == AttachMode::Auto { Mode::Tcx } else { Mode::XdpGeneric };
        assert_eq!(running.mode("tun0"), Some(expected), "{requested:?}");
        inside(&pair.inside, || {
            let tun = kernel::open_tun("tun0");
            for i in 0..7u8 {
                let mut packet =
                    vec![0x45, 0, 0, 40, 0, i, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 5, 192, 0, 2, 1];
                packet.extend([0x90, i, 0x05, 0x39, 0, 0, 0, i, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
                (&tun).write_all(&packet).unwrap();
            }
        });
        eventually("seven SYNs from the tun device", || running.totals().allowed == 7);
        assert_eq!(running.totals().denied, 0);
    }
}

#[test]
fn a_syn_through_a_bridge_and_its_port_counts_once() {
    if !as_root("a_syn_through_a_bridge_and_its_port_counts_once") {
        return;
    }
    let pair = Pair::new("bridge");
    pair.ip("addr flush dev veth0");
    pair.ip("link add br0 type bridge");
    pair.ip("link set veth0 master br0");
    pair.ip("addr add 198.51.100.1/24 dev br0");
    pair.ip("link set br0 up");
    let both = Selection::Named(vec!["veth0".to_owned(), "br0".to_owned()]);
    let running = Running::start(&pair.inside, config(AttachMode::Auto, both)).unwrap();
    assert_eq!(running.handle.attachments().len(), 2);
    connect(&pair, &pair.outside, V4, 50, &running.handle);
    let totals = running.totals();
    assert_eq!((totals.denied, totals.duplicates), (50, 50));
}

#[test]
fn a_vlan_device_and_its_parent_count_a_syn_once() {
    if !as_root("a_vlan_device_and_its_parent_count_a_syn_once") {
        return;
    }
    for requested in [AttachMode::Auto, AttachMode::XdpNative] {
        let pair = Pair::new("vlan");
        let try_one =
            ["-n", &pair.inside, "link", "add", "link", "veth0", "name", "try", "type", "vlan", "id", "9"];
        if !Command::new("ip").args(try_one).stderr(Stdio::null()).status().unwrap().success() {
            eprintln!(
                "skipped: a_vlan_device_and_its_parent_count_a_syn_once: this kernel has no VLAN devices"
            );
            return;
        }
        for (namespace, host) in [(&pair.inside, 1), (&pair.outside, 9)] {
            ip(&format!("-n {namespace} link add link veth0 name vlan7 type vlan id 7"));
            ip(&format!("-n {namespace} addr add 192.0.2.{host}/24 dev vlan7"));
            ip(&format!("-n {namespace} link set vlan7 up"));
        }
        let running = Running::start(&pair.inside, config(requested, Selection::All)).unwrap();
        connect(&pair, &pair.outside, "192.0.2.1".parse().unwrap(), 20, &running.handle);
        let totals = running.totals();
        assert_eq!(totals.denied, 20, "{requested:?}: {totals:?}");
        assert_eq!(totals.duplicates, 20, "{requested:?}: {totals:?}");
    }
}

#[test]
fn syns_to_other_hosts_are_not_counted() {
    if !as_root("syns_to_other_hosts_are_not_counted") {
        return;
    }
    let pair = Pair::new("forward");
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    ip(&format!("-n {} route add 192.0.2.0/24 via 198.51.100.1", pair.outside));
    inside(&pair.outside, || {
        let to: SocketAddr = "192.0.2.77:1337".parse().unwrap();
        assert!(TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_err());
    });
    eventually("the forwarded SYN", || running.totals().forwarded == 1);
    assert_eq!(running.totals().denied, 0);
    // An address that comes later is the host's own from then on.
    pair.ip("addr add 192.0.2.77/32 dev lo");
    std::thread::sleep(Duration::from_millis(200));
    connect(&pair, &pair.outside, "192.0.2.77".parse().unwrap(), 3, &running.handle);
    assert_eq!(running.totals().denied, 3);
    pair.ip("addr del 192.0.2.77/32 dev lo");
    std::thread::sleep(Duration::from_millis(200));
    inside(&pair.outside, || {
        let to: SocketAddr = "192.0.2.77:1337".parse().unwrap();
        assert!(TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_err());
    });
    eventually("the second forwarded SYN", || running.totals().forwarded == 2);
}

#[test]
fn an_interface_that_goes_away_is_reported_and_attached_to_again() {
    if !as_root("an_interface_that_goes_away_is_reported_and_attached_to_again") {
        return;
    }
    let pair = Pair::new("again");
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    connect(&pair, &pair.outside, V4, 2, &running.handle);
    pair.ip("link del veth0");
    eventually("veth0 let go", || running.mode("veth0").is_none());
    assert!(!running.metrics().contains("interface=\"veth0\""));
    ip(&format!("-n {} link add veth0 type veth peer name veth0 netns {}", pair.inside, pair.outside));
    for (namespace, host) in [(&pair.inside, 1), (&pair.outside, 9)] {
        ip(&format!("-n {namespace} addr add 198.51.100.{host}/24 dev veth0"));
        ip(&format!("-n {namespace} link set veth0 up"));
    }
    eventually("veth0 attached again", || running.mode("veth0") == Some(Mode::Tcx));
    connect(&pair, &pair.outside, V4, 3, &running.handle);
    assert_eq!(running.totals().denied, 5);
}

#[test]
fn an_unknown_interface_is_refused_by_name() {
    if !as_root("an_unknown_interface_is_refused_by_name") {
        return;
    }
    let pair = Pair::new("none");
    let named = Selection::Named(vec!["eth77".to_owned()]);
    let error = Running::start(&pair.inside, config(AttachMode::Auto, named)).err().unwrap();
    assert!(matches!(&error, KernelError::NoInterface { name } if name == "eth77"), "{error}");
}

#[test]
fn anothers_xdp_program_is_left_alone_and_tc_taken_instead() {
    if !as_root("anothers_xdp_program_is_left_alone_and_tc_taken_instead") {
        return;
    }
    let pair = Pair::new("busy");
    let only = || Selection::Named(vec!["veth0".to_owned()]);
    let first = Running::start(&pair.inside, config(AttachMode::XdpNative, only())).unwrap();
    let second = Running::start(&pair.inside, config(AttachMode::XdpNative, only())).unwrap();
    let third = Running::start(&pair.inside, config(AttachMode::XdpGeneric, only())).unwrap();
    assert_eq!(first.mode("veth0"), Some(Mode::XdpNative));
    assert_eq!(second.mode("veth0"), Some(Mode::Tcx));
    assert_eq!(third.mode("veth0"), Some(Mode::Tcx));
    connect(&pair, &pair.outside, V4, 4, &first.handle);
    // A TCX program that is not the last one must hand the packet on.
    for running in [&first, &second, &third] {
        assert_eq!(running.totals().denied, 4);
    }
}

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
    if !as_root("a_normal_end_leaves_nothing_behind") {
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
        eventually("nothing left on veth0", || hangs_on_veth0(&pair) == "tcx 0 filters 0");
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
        .args(["--exact", "child_that_observes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, format!("{} {mode}", pair.inside))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Observing(child)
}

#[test]
fn before_tcx_a_filter_counts_and_goes_with_a_normal_end() {
    if !as_root("before_tcx_a_filter_counts_and_goes_with_a_normal_end") {
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
    if !as_root("a_killed_owners_filter_is_removed_by_the_next_start_and_a_living_ones_is_not") {
        return;
    }
    let pair = Pair::new("stale");
    let mut living = start_child(&pair, "clsact");
    eventually("the first child attached", || hangs_on_veth0(&pair) == "tcx 0 filters 1");
    let mut killed = start_child(&pair, "clsact");
    eventually("the second child attached", || hangs_on_veth0(&pair) == "tcx 0 filters 2");
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
    if !as_root("a_killed_process_leaves_nothing_behind") {
        return;
    }
    let pair = Pair::new("kill");
    for (mode, while_running) in
        [("auto", "tcx 1 filters 0"), ("native", "xdp tcx 0 filters 0"), ("generic", "xdp tcx 0 filters 0")]
    {
        let mut child = start_child(&pair, mode);
        eventually("the child attached", || hangs_on_veth0(&pair) == while_running);
        child.kill();
        eventually("nothing left on veth0", || hangs_on_veth0(&pair) == "tcx 0 filters 0");
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
