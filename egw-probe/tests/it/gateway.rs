//! A client's host, a gateway that does what a test tells it to, and a target's host.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::told::as_root;

/// Runs `work` in a network namespace of its own, with `lo` up; says that the test is skipped where that takes root.
pub(crate) fn alone(work: impl FnOnce() + Send) {
    if !as_root() {
        return;
    }
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: a system call without memory; it moves only this thread, which ends with the test.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            run("ip link set lo up");
            work();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a command in the namespace of this thread.
pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Takes these rules into force in the namespace of this thread.
pub(crate) fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// A client's host (10.91.0.2), a gateway, and a target's host (192.0.2.2), which knows the way back. Removed when dropped.
pub(crate) struct Gateway([String; 3]);

impl Gateway {
    /// One that does this to the first packet of each TCP connection to the target.
    pub(crate) fn new(nat: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let gateway = Self(["c", "g", "t"].map(|role| format!("egws-{id}-{role}")));
        let [client, middle, target] = &gateway.0;
        for name in &gateway.0 {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        for (name, near, far, net) in
            [(client, "near0", "pod0", "10.91.0"), (target, "near0", "out0", "192.0.2")]
        {
            run(&format!("ip -n {name} link add {near} type veth peer name {far} netns {middle}"));
            run(&format!("ip -n {name} addr add {net}.2/24 dev {near}"));
            run(&format!("ip -n {middle} addr add {net}.1/24 dev {far}"));
            run(&format!("ip -n {name} link set {near} up"));
            run(&format!("ip -n {middle} link set {far} up"));
        }
        run(&format!("ip -n {client} route add default via 10.91.0.1"));
        run(&format!("ip -n {target} route add default via 192.0.2.1"));
        let rules = format!(
            "table ip nat {{ counter passed {{ }}; chain out {{ type nat hook postrouting priority 100; \
             oifname != \"out0\" accept; {nat} }}; }}"
        );
        gateway.inside(1, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            nft(&rules);
        });
        gateway
    }

    /// Packets that the rule with `counter name passed` has counted.
    pub(crate) fn passed(&self) -> u64 {
        let listed =
            self.inside(1, || Command::new("nft").args(["list", "counter", "ip", "nat", "passed"]).output());
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }

    /// Runs `work` on one of the three hosts: the client's, the gateway, the target's.
    pub(crate) fn inside<T: Send>(&self, number: usize, work: impl FnOnce() -> T + Send) -> T {
        let name = &self.0[number];
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}
