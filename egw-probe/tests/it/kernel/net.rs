//! Two network namespaces, an observer running in one of them, and connections between the two.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use egw_probe::workbench::config::{AttachMode, Selection};
use egw_probe::workbench::observer::{
    ClassTotals, KernelConfig, KernelError, KernelMetrics, KernelObserver, MAX_OWN, Mode, ObserverHandle,
};
use egw_probe::workbench::sys::Monotonic;
use prometheus::{Registry, TextEncoder};

pub(crate) const PORT: u16 = 1337;

/// Two namespaces joined by a veth pair: `inside` (`198.51.100.1`, `2001:db8:f::1`) is the target's. Removed when dropped.
pub(crate) struct Pair {
    pub(crate) inside: String,
    pub(crate) outside: String,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let id = std::process::id();
        let pair = Self { inside: format!("egwk-{name}-i{id}"), outside: format!("egwk-{name}-o{id}") };
        for namespace in [&pair.inside, &pair.outside] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        pair.join();
        pair
    }

    /// Makes the veth pair, `veth0` on both sides: for the first time, or after `link del veth0`.
    pub(crate) fn join(&self) {
        self.ip(&format!("link add veth0 type veth peer name veth0 netns {}", self.outside));
        for (namespace, host) in [(&self.inside, 1), (&self.outside, 9)] {
            ip(&format!("-n {namespace} addr add 198.51.100.{host}/24 dev veth0"));
            ip(&format!("-n {namespace} addr add 2001:db8:f::{host}/64 dev veth0 nodad"));
            ip(&format!("-n {namespace} link set veth0 up"));
        }
    }

    pub(crate) fn ip(&self, args: &str) {
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

pub(crate) fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
        .unwrap();
}

/// Runs `work` on a thread of its own inside a namespace.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
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

pub(crate) fn config(attach: AttachMode, interfaces: Selection) -> KernelConfig {
    KernelConfig {
        listen_port: NonZeroU16::new(PORT).unwrap(),
        allowed: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:f::/64".parse().unwrap()],
        interfaces,
        attach,
        required: false,
        tags: None,
        trace: false,
        alarm: None,
        max_own: MAX_OWN,
        without_tcx: false,
    }
}

/// An observer that runs on its own thread in a namespace until this is dropped.
pub(crate) struct Running {
    pub(crate) handle: ObserverHandle,
    registry: Registry,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), KernelError>>>,
}

impl Running {
    pub(crate) fn start(namespace: &str, config: KernelConfig) -> Result<Self, KernelError> {
        let (started, starting) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let registry = Registry::new();
        let metrics = KernelMetrics::register(&registry).unwrap();
        let namespace = namespace.to_owned();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let observer = match KernelObserver::start(&config, metrics, None).await {
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

    pub(crate) fn mode(&self, interface: &str) -> Option<Mode> {
        self.handle.attachments().into_iter().find(|a| a.interface == interface).map(|a| a.mode)
    }

    pub(crate) fn totals(&self) -> ClassTotals {
        self.handle.class_totals().unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
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

/// Connects `count` times from one namespace to an address in the other, and tells the observer of each accept.
pub(crate) fn connect(pair: &Pair, from: &str, to: IpAddr, count: usize, handle: &ObserverHandle) {
    let listener = inside(&pair.inside, || TcpListener::bind(SocketAddr::new(to, PORT)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                let (mut stream, source) = listener.accept().unwrap();
                handle.accepted(source, None, Monotonic::now());
                stream.write_all(b"pong\n").unwrap();
            }
        });
        inside(from, || {
            for _ in 0..count {
                pong_from(to);
            }
        });
    });
}

/// One connection that is answered.
pub(crate) fn pong_from(target: IpAddr) {
    let mut reply = String::new();
    TcpStream::connect(SocketAddr::new(target, PORT)).unwrap().read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "pong\n");
}

pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

pub(crate) fn v6() -> IpAddr {
    "2001:db8:f::1".parse().unwrap()
}
