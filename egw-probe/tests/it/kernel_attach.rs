//! The observer on real interfaces, in network namespaces of its own: every mode, every kind of device, coming and going.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use egw_probe::workbench::config::{AttachMode, Selection};
use egw_probe::workbench::observer::{KernelConfig, KernelError, Mode, TagSettings};
use egw_probe_common::tag::{Tag, TagKey};

use crate::common::told::{as_root, skip};
use crate::common::wait_for;
use crate::kernel;
use crate::kernel::net::{Pair, Running, V4, config, connect, inside, ip, v6};

#[test]
fn every_mode_counts_every_syn_once_and_in_its_class() {
    if !as_root() {
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
        assert_eq!(running.handle.join_health().unobserved, 0);
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
    if !as_root() {
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
            let tun = kernel::open_tun("tun0", kernel::Carries::Packets);
            for i in 0..7u8 {
                let mut packet =
                    vec![0x45, 0, 0, 40, 0, i, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 5, 192, 0, 2, 1];
                packet.extend([0x90, i, 0x05, 0x39, 0, 0, 0, i, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
                (&tun).write_all(&packet).unwrap();
            }
        });
        wait_for("seven SYNs from the tun device", || running.totals().allowed == 7);
        assert_eq!(running.totals().denied, 0);
    }
}

/// The kernel puts into the buffer's linear part what the virtio header says, if a frame is larger than a page: the
/// Ethernet header alone, half of the IP header, and one byte less than TC needs to see.
const LINEAR: [u8; 3] = [14, 24, 53];
const PAYLOAD: u16 = 5000;

/// A frame whose first `linear` bytes alone can be read directly, behind its virtio header.
fn paged(linear: u8, id: u8, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (uapi/linux/virtio_net.h).
    let mut frame = vec![0, 0, linear, 0, 0, 0, 0, 0, 0, 0];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0]);
    frame.extend((40 + options.len() as u16 + PAYLOAD).to_be_bytes());
    frame.extend([0, id, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 5, 192, 0, 2, 1]);
    frame.extend([0x90, id, 0x05, 0x39]);
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 0, (5 + options.len() as u8 / 4) << 4, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend(options);
    frame.resize(frame.len() + usize::from(PAYLOAD), 0);
    frame
}

/// A tap device for such frames, and an observer of it.
fn observed_tap(pair: &Pair, change: impl FnOnce(&mut KernelConfig)) -> Running {
    pair.ip("tuntap add tap0 mode tap vnet_hdr");
    pair.ip("addr add 192.0.2.1/24 dev tap0");
    pair.ip("link set tap0 mtu 9000 up");
    let mut config = config(AttachMode::Tc, Selection::Named(vec!["tap0".to_owned()]));
    change(&mut config);
    Running::start(&pair.inside, config).unwrap()
}

#[test]
fn a_syn_whose_headers_lie_in_page_fragments_is_counted_by_tc_too() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("paged");
    let running = observed_tap(&pair, |_| {});
    inside(&pair.inside, || {
        let tap = kernel::open_tun("tap0", kernel::Carries::FramesWithVirtioHeader);
        for (id, linear) in (0..).zip(LINEAR) {
            (&tap).write_all(&paged(linear, id, id.into(), 2, &[])).unwrap();
        }
    });
    wait_for("a SYN for each", || running.totals().allowed == LINEAR.len() as u64);
}

#[test]
fn timestamps_that_lie_in_page_fragments_prove_a_lower_end_too() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("pagedts");
    let key = TagKey::derive(5);
    let running = observed_tap(&pair, |config| {
        config.allowed.clear();
        config.tags = Some(TagSettings { clients: 9, key });
    });
    let clients = 1..=LINEAR.len() as u16;
    inside(&pair.inside, || {
        let tap = kernel::open_tun("tap0", kernel::Carries::FramesWithVirtioHeader);
        for (client, linear) in clients.clone().zip(LINEAR) {
            let sequence = Tag::new(client, 0).unwrap().encode(key);
            let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
            (&tap).write_all(&paged(linear, client as u8, sequence, 0x02, &syn)).unwrap();
            let ack = [1, 1, 8, 10, 0, 0, 0, 8, 0, 0, 0, 0];
            (&tap).write_all(&paged(linear, client as u8, sequence + 1, 0x10, &ack)).unwrap();
        }
    });
    let records = || running.handle.tags().unwrap();
    let proven = || records().iter().filter(|(_, record)| record.proven_by_ns > 0).count();
    wait_for("an acknowledgement of each", || proven() == LINEAR.len());
    let waited: Vec<_> = records()
        .into_iter()
        .map(|(client, record)| (client, record.first_ns - record.proven_lower_ns))
        .collect();
    assert_eq!(waited, clients.map(|client| (client, 8 * 1_001_000)).collect::<Vec<_>>());
}

#[test]
fn a_syn_through_a_bridge_and_its_port_counts_once() {
    if !as_root() {
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
    if !as_root() {
        return;
    }
    for requested in [AttachMode::Auto, AttachMode::XdpNative] {
        let pair = Pair::new("vlan");
        let try_one =
            ["-n", &pair.inside, "link", "add", "link", "veth0", "name", "try", "type", "vlan", "id", "9"];
        if !Command::new("ip").args(try_one).stderr(Stdio::null()).status().unwrap().success() {
            skip("this kernel has no VLAN devices");
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
    if !as_root() {
        return;
    }
    let pair = Pair::new("forward");
    let running = Running::start(&pair.inside, config(AttachMode::Auto, Selection::All)).unwrap();
    ip(&format!("-n {} route add 192.0.2.0/24 via 198.51.100.1", pair.outside));
    inside(&pair.outside, || {
        let to: SocketAddr = "192.0.2.77:1337".parse().unwrap();
        assert!(TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_err());
    });
    wait_for("the forwarded SYN", || running.totals().forwarded == 1);
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
    wait_for("the second forwarded SYN", || running.totals().forwarded == 2);
}

#[test]
fn an_unknown_interface_is_refused_by_name() {
    if !as_root() {
        return;
    }
    let pair = Pair::new("none");
    let named = Selection::Named(vec!["eth77".to_owned()]);
    let error = Running::start(&pair.inside, config(AttachMode::Auto, named)).err().unwrap();
    assert!(matches!(&error, KernelError::NoInterface { name } if name == "eth77"), "{error}");
}

#[test]
fn anothers_xdp_program_is_left_alone_and_tc_taken_instead() {
    if !as_root() {
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
    // Where the mode that is named must be had, no other takes its place.
    for requested in [AttachMode::XdpNative, AttachMode::XdpGeneric] {
        let config = KernelConfig { required: true, ..config(requested, only()) };
        let error = Running::start(&pair.inside, config).err().unwrap().to_string();
        let name = if requested == AttachMode::XdpNative { "xdp-native" } else { "xdp-generic" };
        let said =
            format!("no interface could be attached to: veth0: --ebpf-attach {name} is not to be had (");
        assert!(error.starts_with(&said), "{error}");
    }
}
