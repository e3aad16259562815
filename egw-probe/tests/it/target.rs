//! The external target under what the world does to it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use egw_probe::workbench::sys::Monotonic;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::told::as_root;
use crate::common::{Program, Target, free_port, http, metric, status, target, wait_for};

#[test]
fn a_second_target_on_the_port_fails_and_names_it() {
    let first = target(&["--allowed-cidr=127.0.0.0/8"]);
    let port = first.port;
    let listen = format!("--listen-port={port}");
    let second =
        Program::start(&["external-target", "--allowed-cidr=::/0", &listen, "--metrics-addr=127.0.0.1:0"]);
    let output = second.finish();
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        line,
        format!(
            "error: --listen-port: \"[::]:{port}\": port {port} is in use: stop the other program, or choose another port\n"
        )
    );
}

#[test]
fn a_signal_ends_the_target_at_once_and_with_code_0() {
    for (signal, flags) in
        [(Signal::TERM, &["--allowed-cidr=::/0"][..]), (Signal::INT, &["--allowed-cidr=::/0", "--keep-open"])]
    {
        let target = target(flags);
        let signalled = Instant::now();
        target.program.signal(signal);
        assert_eq!(target.program.finish().status.code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_millis(500));
    }
}

#[test]
fn sources_tells_who_came() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    for address in ["127.0.0.1", "127.0.0.1", "::1"] {
        let mut stream = TcpStream::connect((address, target.port)).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    let (head, body) = http(target.http, "GET /sources").unwrap();
    assert!(head.contains("content-type: application/json"));
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    let sources = page["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 2);
    assert_eq!((&sources[0]["address"], &sources[0]["connections"]), (&"127.0.0.1".into(), &2.into()));
    assert_eq!((&sources[1]["address"], &sources[1]["verdict"]), (&"::1".into(), &"denied".into()));
    let ns = |entry: &serde_json::Value, key: &str| entry[key].as_u64().unwrap();
    assert!(ns(&sources[0], "first_accept_ns") < ns(&sources[0], "last_accept_ns"));
    assert!(ns(&sources[1], "last_accept_ns") <= page["now_monotonic_ns"].as_u64().unwrap());
}

#[test]
fn host_bits_are_masked_and_the_network_is_named_in_a_warning() {
    let target = target(&["--allowed-cidr=127.0.0.77/24,192.0.2.0/24,::ffff:198.51.100.9/120"]);
    assert_eq!(told(&target, Ipv4Addr::LOCALHOST.into()).0, "pong\n");
    target.program.signal(Signal::TERM);
    let log = String::from_utf8(target.program.finish().stderr).unwrap();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let expected = "allowed CIDRs with host bits set: 127.0.0.77/24 means 127.0.0.0/24,::ffff:198.51.100.9/120 means \
                    198.51.100.0/24";
    assert!(warned.len() == 1 && warned[0].ends_with(expected), "{log}");
}

#[test]
fn allowed_cidrs_may_come_from_a_file_named_by_a_flag_or_the_environment() {
    let refused = |args: &[&str], variable: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_egw-probe"));
        command.arg("external-target").args(args);
        command.envs(variable.map(|value| ("EGW_PROBE_ALLOWED_CIDR_FILE", value)));
        let output = Program::start_command(&mut command).finish();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let file = std::env::temp_dir().join(format!("egw-probe-allowed-{}", std::process::id()));
    let path = file.to_str().unwrap();
    std::fs::write(&file, "# the gateways\n192.0.2.0/24\n\n127.0.0.9/32, 127.0.0.10/32\n").unwrap();
    let by_flag = format!("--allowed-cidr-file={path}");
    let target = target(&[&by_flag, "--allowed-cidr=127.0.0.11/32"]);
    for (last, reply) in [(9, "pong\n"), (10, "pong\n"), (11, "pong\n"), (12, "")] {
        assert_eq!(told(&target, Ipv4Addr::new(127, 0, 0, last).into()).0, reply);
    }
    std::fs::write(&file, "192.0.2.0/24\n127.0.0.9\n").unwrap();
    let wrong = format!("\"{path}:2\": \"127.0.0.9\": the prefix length is missing: write 127.0.0.9/32\n");
    assert_eq!(refused(&[&by_flag], None), format!("error: --allowed-cidr-file: {wrong}"));
    assert!(refused(&[], Some(path)).ends_with(&wrong));
    std::fs::write(&file, "# none yet\n").unwrap();
    assert!(refused(&[&by_flag], None).contains("no CIDR in it: every source would be denied"));
    std::fs::remove_file(&file).unwrap();
    assert!(refused(&[&by_flag], None).contains("cannot be read: No such file or directory"));
}

/// A connection from `source`, announcing a segment size of 777: its reply, and its timestamp once that has come.
fn told(target: &Target, source: IpAddr) -> (String, u32) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.set_tcp_mss(777).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], target.port)).into()).unwrap();
    let mut reply = String::new();
    (&socket).read_to_string(&mut reply).expect("a reply, and an end by FIN");
    let (mut timestamp, mut length) = (0u32, 4);
    // SAFETY: the descriptor is open, and the kernel writes at most four bytes.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_TIMESTAMP,
            (&raw mut timestamp).cast(),
            &raw mut length,
        )
    };
    assert_eq!(asked, 0);
    (reply, timestamp)
}

#[test]
fn an_annotated_reply_says_what_the_syn_said_to_allowed_and_denied_alike() {
    for flags in [&[][..], &["--keep-open"]] {
        let target = target(&[&["--allowed-cidr=127.0.0.1/32", "--reply=annotated"], flags].concat());
        for (source, verdict) in [("127.0.0.9", "denied"), ("127.0.0.1", "pong")] {
            if verdict == "pong" && !flags.is_empty() {
                continue;
            }
            let begun = Monotonic::now().as_ns();
            let (reply, timestamp) = told(&target, source.parse().unwrap());
            let [said, line] = reply.lines().collect::<Vec<_>>()[..] else { panic!("{reply}") };
            assert_eq!(said, verdict);
            let word = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap();
            assert_eq!(word("source=").parse::<SocketAddr>().unwrap().ip().to_string(), source);
            assert!((begun..Monotonic::now().as_ns()).contains(&word("accept_ns=").parse().unwrap()));
            assert_eq!(word("mss="), "777");
            let age = timestamp.wrapping_sub(word("tsval=").parse().unwrap());
            // The kernel rounds the two differently.
            assert!(age.wrapping_add(1) < 2_000, "{age} ms before the answer was read");
        }
    }
}

#[test]
fn a_plain_reply_is_five_bytes_or_none() {
    let target = target(&["--allowed-cidr=127.0.0.1/32"]);
    assert_eq!(told(&target, Ipv4Addr::LOCALHOST.into()).0, "pong\n");
    assert_eq!(told(&target, Ipv4Addr::new(127, 0, 0, 9).into()).0, "");
}

#[test]
fn a_denied_peer_that_talks_first_is_told_so_before_anything_else() {
    let target = target(&["--allowed-cidr=192.0.2.0/24", "--reply=annotated"]);
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(reply.starts_with(b"denied\nsource=127.0.0.1:"), "{reply:?}");
    }
}

#[test]
fn each_new_denied_source_is_a_line_of_the_targets_log_and_its_end_names_the_top_ones() {
    let mut ways = vec![(&[][..], "connections")];
    if as_root() {
        ways.push((&["--ebpf=required", "--interface=lo"], "SYNs"));
    }
    for (flags, unit) in ways {
        let target = target(&[&["--allowed-cidr=127.0.0.1/32"], flags].concat());
        let from = |last: u8, count: usize| {
            for _ in 0..count {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let source = SocketAddr::new(IpAddr::from([127, 0, 0, last]), 0);
                socket.bind(&source.into()).unwrap();
                socket.connect(&SocketAddr::from(([127, 0, 0, 1], target.port)).into()).unwrap();
                (&socket).read_to_end(&mut Vec::new()).unwrap();
            }
        };
        (1..=8).for_each(|last| from(last, usize::from(last)));
        let denied = "egw_probe_target_connections_total{verdict=\"denied\"}";
        wait_for("every connection to be counted", || metric(target.http, denied) == Some(35.0));
        target.program.signal(Signal::TERM);
        let log = String::from_utf8(target.program.finish().stderr).unwrap();
        let new: Vec<&str> = log.lines().filter(|line| line.contains("new denied source")).collect();
        // Seven came within a moment, and five lines are what a second may have.
        assert!((5..=7).contains(&new.len()) && new[0].contains("source=127.0.0.2"), "{unit}: {log}");
        let last = log.lines().last().unwrap();
        let top = [8, 7, 6, 5, 4].map(|last| format!("127.0.0.{last} ({last} {unit})")).join(", ");
        assert!(last.contains(&format!("{top}, 2 more (5 {unit})")), "{unit}: {last}");
        assert!(last.contains("allowed=1 denied=35"), "{last}");
    }
}

#[test]
fn http_knows_its_pages_and_methods() {
    let target = target(&["--allowed-cidr=::/0"]);
    assert_eq!(status(target.http, "/healthz"), 200);
    assert_eq!(status(target.http, "/nothing"), 404);
    let (head, _) = http(target.http, "POST /metrics").unwrap();
    assert!(head.starts_with("HTTP/1.1 405") && head.contains("allow: GET, HEAD"), "{head}");
    let (head, body) = http(target.http, "HEAD /metrics").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
}

#[test]
fn a_request_that_dribbles_is_cut_off_and_others_are_served_meanwhile() {
    let target = target(&["--allowed-cidr=::/0"]);
    let mut dribblers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(target.http).unwrap()).collect();
    for stream in &mut dribblers {
        stream.write_all(b"GET /metrics HTT").unwrap();
    }
    assert_eq!(status(target.http, "/healthz"), 200);
    let begun = Instant::now();
    dribblers[0].set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = dribblers[0].read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < Duration::from_secs(12), "cut off after 10 s");
}

#[test]
fn at_the_descriptor_limit_the_target_waits_without_spinning_serves_http_and_recovers() {
    let (port, http_port) = (free_port(), free_port());
    let (listen, metrics) = (format!("--listen-port={port}"), format!("--metrics-addr=[::]:{http_port}"));
    let args = ["external-target", "--allowed-cidr=127.0.0.0/8", "--keep-open", &listen, &metrics];
    let program = Program::start_with_descriptors(200, &args);
    let http_at = SocketAddr::from(([127, 0, 0, 1], http_port));
    wait_for("the target", || status(http_at, "/healthz") == 200);

    let mut clients: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let open = || metric(http_at, "egw_probe_target_open_connections");
    wait_for("held connections up to the limit", || open() >= Some(40.0));
    let cpu = || metric(http_at, "process_cpu_seconds_total").unwrap();
    let before = cpu();
    std::thread::sleep(Duration::from_secs(1));
    let spent = cpu() - before;
    assert!(spent < 0.2, "waits without spinning");
    assert!(open() < Some(45.0));
    assert!(metric(http_at, "egw_probe_target_accept_failures_total{reason=\"exhausted\"}") > Some(10.0));

    // The kernel's queue is in order: the last twenty wait.
    let waiting = clients.split_off(40);
    drop(clients);
    for mut stream in waiting {
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).expect("nobody is closed unanswered");
        assert_eq!(&reply, b"pong\n");
    }
    wait_for("the target to let go", || open() == Some(0.0));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"pong\n");
    program.signal(Signal::TERM);
    let log = String::from_utf8(program.finish().stderr).unwrap();
    assert!(log.lines().count() < 12, "a line a second, not a flood:\n{log}");
}

#[test]
fn peers_that_reset_at_once_stop_nothing() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    for _ in 0..500 {
        let socket = socket2::Socket::from(TcpStream::connect(("127.0.0.1", target.port)).unwrap());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    let mut reply = Vec::new();
    TcpStream::connect(("127.0.0.1", target.port)).unwrap().read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"pong\n");
}

#[test]
fn the_default_metrics_port_being_taken_is_a_warning() {
    // Whoever holds it: another target, this test, or nobody yet.
    let _holder = std::net::TcpListener::bind("[::]:2113");
    let port = free_port();
    let listen = format!("--listen-port={port}");
    let second = Program::start(&["external-target", "--allowed-cidr=0.0.0.0/0", &listen]);
    wait_for("a pong", || {
        let mut reply = [0; 5];
        let asked =
            TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.read_exact(&mut reply));
        asked.is_ok() && &reply == b"pong\n"
    });
    second.signal(Signal::TERM);
    let log = String::from_utf8(second.finish().stderr).unwrap();
    assert!(log.contains("no metrics of this target") && log.contains("2113 is in use"), "{log}");
}

#[test]
fn a_peer_that_talks_first_gets_its_pong_all_the_same() {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let mut reply = Vec::new();
        // What follows the pong may be a reset: nobody reads what this peer said.
        let _ = stream.read_to_end(&mut reply);
        assert_eq!(reply, b"pong\n");
    }
}

#[test]
fn a_help_text_that_nobody_can_read_is_no_crash() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status =
        std::process::Command::new(env!("CARGO_BIN_EXE_egw-probe")).arg("--help").stdout(full).status();
    assert_eq!(status.unwrap().code(), Some(0));
}
