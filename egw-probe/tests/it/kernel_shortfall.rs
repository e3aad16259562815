//! What the observer cannot do any more: it goes on with the rest, says so, and with `--ebpf=required` the program ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;

use egw_probe::workbench::config::{AttachMode, Selection};
use egw_probe::workbench::observer::{KernelConfig, Mode, Shortfall};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_getfd, pidfd_open, prlimit};

use crate::common::told::as_root;
use crate::common::{Program, http, status, wait_for};
use crate::kernel::net::{PORT, Pair, Running, V4, config, connect, inside, ip, pong_from};
use crate::kernel::program::{HTTP, metric_inside, target_in};

const FLAGS: [&str; 2] = ["--allowed-cidr=0.0.0.0/0", "--ebpf=required"];
const COUNTED: &str = "egw_probe_target_syns_total{class=\"allowed\",kind=\"first\"}";

/// Addresses for the target's namespace: `devices` bridges of a thousand each, `10.<96 + n>.x.y`.
fn add_addresses(pair: &Pair, devices: std::ops::Range<u8>) {
    let of_device = |device: u8| {
        let addresses = (0..1000u16).map(move |number| {
            let [high, low] = number.to_be_bytes();
            format!("address add 10.{}.{high}.{low}/32 dev own{device}\n", 96 + device)
        });
        std::iter::once(format!("link add own{device} type bridge\n")).chain(addresses)
    };
    let lines: String = devices.flat_map(of_device).collect();
    let file = std::env::temp_dir().join(format!("{}.batch", pair.inside));
    std::fs::write(&file, lines).unwrap();
    pair.ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(file).unwrap();
}

/// Whether a SYN to this address counts, where nobody listens.
fn counts(pair: &Pair, running: &Running, to: IpAddr) -> bool {
    let before = running.totals().denied;
    inside(&pair.outside, || TcpStream::connect(SocketAddr::new(to, PORT)).unwrap_err());
    running.totals().denied > before
}

#[test]
fn a_port_that_leaves_its_bridge_is_still_there() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("leaves");
    pair.ip("link add br0 type bridge");
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    for time in 1..=3u8 {
        pair.ip("link set veth0 master br0");
        pair.ip("link set veth0 nomaster");
        // News come in order: when this address is known, all before it is.
        pair.ip(&format!("addr add 198.51.100.{}/32 dev veth0", 100 + time));
        let to = IpAddr::from([198, 51, 100, 100 + time]);
        wait_for("the news", || counts(&pair, &running, to));
        assert_eq!(running.mode("veth0"), Some(Mode::Tcx));
        let before = running.totals().denied;
        connect(&pair, &pair.outside, V4, 5, &running.handle);
        assert_eq!(running.totals().denied - before, 5);
    }
    assert!(running.handle.shortfalls().is_empty());
}

#[test]
fn a_renamed_interface_is_observed_under_its_new_name() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("rename");
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    for command in ["link set veth0 down", "link set veth0 name wan0", "link set wan0 up"] {
        pair.ip(command);
    }
    wait_for("the new name", || running.mode("wan0") == Some(Mode::Tcx));
    assert_eq!(running.mode("veth0"), None);
    let text = running.metrics();
    assert!(text.contains("egw_probe_target_ebpf_info{interface=\"wan0\",mode=\"tcx\"} 1"), "{text}");
    assert!(!text.contains("interface=\"veth0\""), "{text}");
    connect(&pair, &pair.outside, V4, 5, &running.handle);
    assert_eq!(running.totals().denied, 5);
}

#[test]
fn more_own_addresses_than_there_is_room_for_are_told_and_the_others_observed() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("room");
    let small = KernelConfig { max_own: 8, ..config(AttachMode::Auto, Selection::All) };
    let running = Running::start(&pair.inside, small).unwrap();
    let degraded = |is: u8| format!("egw_probe_target_observer_degraded{{reason=\"own_addresses\"}} {is}");
    assert!(running.metrics().contains(&degraded(0)));
    for host in 1..=8 {
        pair.ip(&format!("addr add 192.0.2.{host}/32 dev lo"));
    }
    wait_for("the shortfall", || running.handle.shortfalls().len() == 1);
    let (shortfall, why) = running.handle.shortfalls().remove(0);
    assert_eq!(shortfall, Shortfall::OwnAddresses);
    assert!(why.ends_with("of the host's own addresses find no room: SYNs to them are not counted"), "{why}");
    assert!(running.metrics().contains(&degraded(1)));
    connect(&pair, &pair.outside, V4, 5, &running.handle);
    assert_eq!(running.totals().denied, 5, "an address that has found room is still known");
    for host in 1..=8 {
        pair.ip(&format!("addr del 192.0.2.{host}/32 dev lo"));
    }
    wait_for("its end", || running.handle.shortfalls().is_empty());
    assert!(running.metrics().contains(&degraded(0)));
    ip(&format!("-n {} route add 192.0.2.0/24 via 198.51.100.1", pair.outside));
    pair.ip("addr add 192.0.2.77/32 dev lo");
    wait_for("a new address to be known", || counts(&pair, &running, [192, 0, 2, 77].into()));
}

#[test]
fn a_host_with_as_many_addresses_as_services_is_observed_and_one_with_too_many_ends_what_is_required() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("services");
    let required = target_in(&pair, &FLAGS);
    let auto = target_in_beside(&pair);
    add_addresses(&pair, 0..9);
    let last = IpAddr::V4(Ipv4Addr::new(10, 104, 3, 231));
    ip(&format!("-n {} route add 10.0.0.0/8 via 198.51.100.1", pair.outside));
    wait_for("the last of 9,000 addresses to be known", || {
        inside(&pair.outside, || pong_from(last));
        metric_inside(&pair, COUNTED) >= Some(1.0)
    });
    assert_eq!(inside(&pair.inside, || status(HTTP, "/healthz")), 200);
    add_addresses(&pair, 9..66);
    let output = required.finish();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().last().unwrap();
    assert!(
        line.starts_with("error: --ebpf=required: the kernel side falls short: ")
            && line.contains("find no room")
    );
    // The one that is not required goes on, and says so.
    let health = || inside(&pair.inside, || http(BESIDE, "GET /healthz")).unwrap();
    wait_for("the shortfall", || health().0.starts_with("HTTP/1.1 503"));
    assert!(health().1.starts_with("own_addresses: "), "{}", health().1);
    for device in 0..9 {
        pair.ip(&format!("link del own{device}"));
    }
    wait_for("its end", || health().0.starts_with("HTTP/1.1 200"));
    drop(auto);
}

const BESIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2114);

/// A second target in the namespace, on ports of its own, that goes on without the kernel side.
fn target_in_beside(pair: &Pair) -> Program {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pair.inside, env!("CARGO_BIN_EXE_egw-probe"), "external-target"]);
    command.args(["--allowed-cidr=::/0", "--listen-port=1338", "--ebpf", "--metrics-addr=127.0.0.1:2114"]);
    let target = Program::start_command(&mut command);
    wait_for("the second target", || inside(&pair.inside, || status(BESIDE, "/healthz")) == 200);
    target
}

/// The socket by which a program hears of interfaces and addresses: the one that listens to groups.
fn netlink_socket(target: &Program) -> OwnedFd {
    let pid = target.id();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    let inodes: Vec<&str> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns[1] == "0" && columns[3] != "00000000")
        .map(|columns| columns[9])
        .collect();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let found = links.filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let is_it = inodes.iter().any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str());
        is_it.then(|| entry.file_name().to_string_lossy().parse::<i32>().unwrap())
    });
    let found: Vec<i32> = found.collect();
    assert_eq!(found.len(), 1);
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(pidfd, found[0], PidfdGetfdFlags::empty()).unwrap()
}

/// Makes the kernel side of a target miss notices, and every answer to what it asks by that socket from now on.
fn deafen(pair: &Pair, target: &Program) {
    let socket = netlink_socket(target);
    target.stop();
    let option = |name: libc::c_int, value: *const libc::c_void, length: usize| {
        // SAFETY: the pointer is to a live value of that length.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, length as libc::socklen_t)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    };
    let least: libc::c_int = 0;
    option(libc::SO_RCVBUF, (&raw const least).cast(), size_of_val(&least));
    for host in 1..=20 {
        pair.ip(&format!("addr add 192.0.2.{host}/32 dev lo"));
    }
    // One instruction: keep nothing of any message.
    let mut nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    option(libc::SO_ATTACH_FILTER, (&raw const program).cast(), size_of_val(&program));
    drop(socket);
}

#[test]
fn a_netlink_socket_that_fails_is_replaced_and_nothing_stays_unnoticed() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("deaf");
    ip(&format!("-n {} route add 192.0.2.0/24 via 198.51.100.1", pair.outside));
    let target = target_in(&pair, &FLAGS);
    deafen(&pair, &target);
    target.go_on();
    let to = IpAddr::from([192, 0, 2, 20]);
    wait_for("the last address to be known", || {
        inside(&pair.outside, || pong_from(to));
        metric_inside(&pair, COUNTED) >= Some(1.0)
    });
    assert_eq!(inside(&pair.inside, || status(HTTP, "/healthz")), 200);
}

#[test]
fn a_host_that_cannot_be_read_any_more_ends_what_is_required() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("blind");
    // Limits of another user's process take CAP_SYS_RESOURCE.
    let target = target_in(&pair, &[&FLAGS[..], &["--user=0"]].concat());
    deafen(&pair, &target);
    // No descriptor for another socket.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    prlimit(Pid::from_raw(target.id().cast_signed()), Resource::Nofile, none).unwrap();
    target.go_on();
    let output = target.finish();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interfaces and addresses that come and go are not noticed"), "{said}");
}
