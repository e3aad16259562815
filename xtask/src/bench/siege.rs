//! Everything that a peer, a scraper and a flood can do to a target at once, in the memory that its manifest grants: do honest
//! clients and scrapers notice?

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::flood::{ethernet, pour};
use super::host::{Hosts, PORT, TARGET, resident_kib};
use super::row::{Bench, Table};

const HTTP: u16 = 2113;
/// Where the attackers, the scraper and the kubelet sit; the honest client has the peer's own address.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const SCRAPER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
const KUBELET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
/// Sources that have connected before.
const SOURCES: u32 = 65_536;
/// Of the scraper: its request comes so long after its connection.
const ROUND_TRIP: Duration = Duration::from_millis(50);
const FLOOD_PER_SECOND: u32 = 200_000;
const IDLE_PER_SECOND: u32 = 10_000;
const ABANDONED_PER_SECOND: u32 = 1_000;
const READERS: usize = 127;

/// What one who asks again and again has seen.
#[derive(Default)]
struct Asked {
    times: Vec<f64>,
    missed: u64,
}

impl Asked {
    fn show(&self) -> String {
        let total = self.times.len() as u64 + self.missed;
        let [p50, p99, longest] = quantiles(&self.times).map(|ms| format!("{ms:.1}"));
        format!("{} of {total}; {p50}, {p99}, {longest} ms", self.times.len())
    }
}

/// A target and the memory that its manifest grants.
struct Besieged {
    flags: &'static [&'static str],
    memory: u64,
}

/// `deploy/components/target-ebpf` and `target-userspace`.
const BESIEGED: [Besieged; 2] = [
    Besieged { flags: &["--ebpf=required", "--interface=wire"], memory: 512 << 20 },
    Besieged { flags: &[], memory: 256 << 20 },
];

/// Besieges both kinds of target, one after the other.
pub(super) fn siege(bench: &Bench) -> Result<Table> {
    let seconds = if bench.quick { 1 } else { 60 };
    let [kernel, userspace] = BESIEGED.map(|one| besiege(bench, &one, seconds));
    let (kernel, userspace) = (kernel?, userspace?);
    let names = [
        "honest client, each 50 ms: probes answered",
        "/healthz, each 50 ms: answered; p50, p99, longest",
        "/metrics, each 500 ms, asked 50 ms late: the same",
        "resident memory, MiB",
        "memory of its control group, MiB",
        "more in TCP's buffers of this machine, MiB; orphans",
        "/sources, bytes",
        "SYNs of the flood",
        "frames dropped before the stack",
    ];
    let lines = names.iter().zip(kernel.into_iter().zip(userspace));
    Ok(Table {
        title: format!(
            "siege of {seconds} s: {SOURCES} sources, {READERS} readers that never read, {ABANDONED_PER_SECOND} abandoned \
             requests, {IDLE_PER_SECOND} idle connections and {FLOOD_PER_SECOND} SYNs a second"
        ),
        columns: vec!["", "--ebpf=required", "userspace"],
        lines: lines.map(|(name, (kernel, userspace))| vec![(*name).to_owned(), kernel, userspace]).collect(),
        remarks: vec!["attackers, clients and target share the cores of one machine".into()],
    })
}

/// What one target went through, a word for each line.
fn besiege(bench: &Bench, besieged: &Besieged, seconds: u64) -> Result<Vec<String>> {
    let hosts = Hosts::new(&bench.interrupt)?;
    prepare(&hosts)?;
    let target = hosts.start(&bench.program, &[&["--allowed-cidr=192.0.2.0/24"], besieged.flags].concat())?;
    let cage = Cage::around(target.id(), besieged.memory)?;
    fill_sources(&hosts, if bench.quick { 1_000 } else { SOURCES })?;
    let watch = ["client", "--exit", "--output=json"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("--external-target-addr={TARGET}:{PORT}"), format!("--watch={seconds}s")]);
    let mut client = hosts.start_client(&bench.program, &watch.collect::<Vec<_>>())?;
    let dropped_before = hosts.received()?[1];
    let end = Instant::now() + Duration::from_secs(seconds);
    let before = in_tcp()?;
    let Seen { scraped, healthy, resident, sent, in_tcp } = attack(&hosts, target.id(), end)?;
    let more = [0, 1].map(|at| in_tcp[at].saturating_sub(before[at]));
    client.wait(Instant::now() + Duration::from_secs(10), &bench.interrupt)?;
    let result: Value = serde_json::from_str(&client.output()?)?;
    let dropped = hosts.received()?[1] - dropped_before;
    let page = hosts.get("/sources")?.len();
    let peak = cage.peak()? as f64 / 1024.0 / 1024.0;
    hosts.stop(target)?;
    let count = |outcome: &str| result["probes"][outcome].as_u64().unwrap_or(0);
    Ok(vec![
        format!("{} of {}", count("pong"), count("sent")),
        healthy.show(),
        scraped.show(),
        format!("{:.1}", resident / 1024.0),
        format!("{peak:.1} of {}", besieged.memory >> 20),
        format!("{:.1}; {}", more[0] as f64 * 4096.0 / 1024.0 / 1024.0, more[1]),
        page.to_string(),
        format!("{sent}, {:.0} per second", sent as f64 / seconds as f64),
        dropped.to_string(),
    ])
}

/// What was seen meanwhile.
struct Seen {
    scraped: Asked,
    healthy: Asked,
    /// The most, in KiB.
    resident: f64,
    /// SYNs of the flood.
    sent: u64,
    /// The most of [`in_tcp`].
    in_tcp: [u64; 2],
}

/// All attacks at once until `end`.
fn attack(hosts: &Hosts, target: u32, end: Instant) -> Result<Seen> {
    let header = ethernet(hosts)?;
    let peer = &hosts.peer;
    std::thread::scope(|scope| {
        let ways: [fn(Instant); 3] = [never_read, |end| repeat(ABANDONED_PER_SECOND, end, abandon), idle];
        let attacks = ways.map(|attack| {
            scope.spawn(move || {
                peer.run(|| {
                    attack(end);
                    Ok(())
                })
            })
        });
        let flood = scope.spawn(move || peer.run(|| Ok(pour(0, header, end, Some(FLOOD_PER_SECOND))?)));
        let scraper = scope.spawn(move || peer.run(|| Ok(ask(SCRAPER, "/metrics", ROUND_TRIP, 500, end))));
        let kubelet = scope.spawn(move || peer.run(|| Ok(ask(KUBELET, "/healthz", Duration::ZERO, 50, end))));
        let (mut resident, mut most) = (0.0_f64, [0; 2]);
        while Instant::now() < end {
            hosts.pause(Duration::from_millis(200))?;
            resident = resident.max(resident_kib(target)?);
            let now = in_tcp()?;
            most = [0, 1].map(|at| now[at].max(most[at]));
        }
        for attack in attacks {
            attack.join().expect("an attack does not panic")?;
        }
        let asked =
            |thread: ScopedJoinHandle<'_, Result<Asked>>| thread.join().expect("asking does not panic");
        let sent = flood.join().expect("the flood does not panic")?;
        Ok(Seen { scraped: asked(scraper)?, healthy: asked(kubelet)?, resident, sent, in_tcp: most })
    })
}

fn quantiles(times: &[f64]) -> [f64; 3] {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share).round() as usize).copied();
    [at(0.5), at(0.99), at(1.0)].map(|value| value.unwrap_or(f64::NAN))
}

/// Addresses for everybody, and a way back to all of them but the flood's.
fn prepare(hosts: &Hosts) -> Result<()> {
    for address in [ATTACKER, SCRAPER, KUBELET] {
        hosts.peer.ip(&format!("addr add {address}/24 dev wire\n"))?;
    }
    hosts.peer.ip("route add local 10.128.0.0/16 dev lo\n")?;
    hosts.target.ip("route add 10.128.0.0/16 via 192.0.2.2 dev wire\nroute add blackhole 10.0.0.0/9\n")?;
    for namespace in [&hosts.target, &hosts.peer] {
        namespace.sysctl(&[("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/wire/rp_filter", "0")])?;
    }
    // A kernel logs and limits by it; the target lives with what gets through either way.
    hosts.target.sysctl(&[("net/ipv4/tcp_syncookies", "1")])
}

fn socket(source: Ipv4Addr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

fn connected(source: Ipv4Addr, port: u16) -> Result<Socket> {
    let socket = socket(source)?;
    socket.connect_timeout(&SocketAddr::from((TARGET, port)).into(), Duration::from_secs(3))?;
    Ok(socket)
}

/// One connection from each of so many sources.
fn fill_sources(hosts: &Hosts, sources: u32) -> Result<()> {
    hosts.peer.run(|| {
        for number in 0..sources {
            let source = Ipv4Addr::from(0x0a80_0000 | number);
            let mut socket = connected(source, PORT).with_context(|| format!("from {source}"))?;
            let mut end = [0; 8];
            let _ = socket.read(&mut end);
        }
        Ok(())
    })
}

/// Does something so often a second, as far as the machine lets it.
fn repeat(per_second: u32, end: Instant, mut what: impl FnMut() -> Result<()>) {
    let begun = Instant::now();
    let mut done = 0;
    while Instant::now() < end {
        if done < (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64 {
            // Whom the target throws out is who it is meant for.
            let _ = what();
            done += 1;
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Asks for the longest page, and is gone.
fn abandon() -> Result<()> {
    let mut socket = connected(ATTACKER, HTTP)?;
    socket.write_all(b"GET /sources HTTP/1.1\r\nHost: x\r\n\r\n")?;
    Ok(())
}

/// Connections that never ask, each for as long as two thousand later ones take.
fn idle(end: Instant) {
    let mut open = std::collections::VecDeque::new();
    repeat(IDLE_PER_SECOND, end, || {
        let socket = socket(ATTACKER)?;
        socket.set_nonblocking(true)?;
        let _ = socket.connect(&SocketAddr::from((TARGET, HTTP)).into());
        open.push_back(socket);
        if open.len() > 2000 {
            open.pop_front();
        }
        Ok(())
    });
}

/// Readers that ask for the longest page and never read. Each comes back after ten seconds, and keeps what it had: what was closed
/// would stay with the kernel for as long as nobody takes it.
fn never_read(end: Instant) {
    const AGAIN: Duration = Duration::from_secs(10);
    let reader = || -> Result<Socket> {
        let mut socket = socket(ATTACKER)?;
        socket.set_recv_buffer_size(1)?;
        socket.connect_timeout(&SocketAddr::from((TARGET, HTTP)).into(), Duration::from_secs(3))?;
        socket.write_all(b"GET /sources HTTP/1.1\r\nHost: x\r\n\r\n")?;
        Ok(socket)
    };
    let mut all = vec![];
    while Instant::now() < end {
        all.extend((0..READERS).map(|_| reader().ok()));
        std::thread::sleep(AGAIN.min(end.saturating_duration_since(Instant::now())));
    }
}

/// Pages of memory in TCP's buffers, and sockets that nobody holds any more, of the whole machine.
fn in_tcp() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let words: Vec<&str> =
        text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default().split(' ').collect();
    let after = |name: &str| {
        words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)?.parse().ok())
    };
    after("mem")
        .zip(after("orphan"))
        .map(|(pages, orphans)| [pages, orphans])
        .context("sockstat tells nothing of TCP")
}

/// Asks for a page each so many milliseconds, `late` after each connection, and times the answers from the request on.
fn ask(source: Ipv4Addr, path: &str, late: Duration, every_ms: u64, end: Instant) -> Asked {
    let mut asked = Asked::default();
    let mut next = Instant::now();
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_millis(every_ms);
        match ask_once(source, path, late) {
            Ok(took) => asked.times.push(took.as_secs_f64() * 1e3),
            Err(_) => asked.missed += 1,
        }
    }
    asked
}

fn ask_once(source: Ipv4Addr, path: &str, late: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let mut socket = connected(source, HTTP)?;
    std::thread::sleep(late);
    let begun = if late.is_zero() { begun } else { Instant::now() };
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(begun.elapsed())
}

/// A memory control group of one process, of either version.
struct Cage {
    folder: PathBuf,
    peak: &'static str,
    limit: u64,
}

impl Cage {
    fn around(pid: u32, limit: u64) -> Result<Self> {
        let (root, most, peak) = if PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
            ("/sys/fs/cgroup", "memory.max", "memory.peak")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
        };
        let folder = PathBuf::from(root).join(format!("egw-probe-siege-{pid}"));
        fs::create_dir_all(&folder).context("no control group can be made here")?;
        let cage = Self { folder, peak, limit };
        fs::write(cage.folder.join(most), cage.limit.to_string()).context("memory cannot be limited here")?;
        fs::write(cage.folder.join("cgroup.procs"), pid.to_string())?;
        Ok(cage)
    }

    fn peak(&self) -> Result<u64> {
        Ok(fs::read_to_string(self.folder.join(self.peak))?.trim().parse()?)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Empty once the target has ended; where it has not, the folder stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_besieged_in_what_its_manifest_grants() {
        let manifests = ["target-ebpf/kustomization.yaml", "target-userspace/external-target.yaml"];
        for (manifest, besieged) in manifests.iter().zip(BESIEGED) {
            let path = format!("{}/../deploy/components/{manifest}", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(path).unwrap();
            let granted = format!("limits: {{memory: {}Mi}}", besieged.memory >> 20);
            assert!(text.contains(&granted), "{manifest}: {granted}");
        }
    }
}
