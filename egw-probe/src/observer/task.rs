//! The observer: starts the kernel side and keeps it going while interfaces and addresses come and go.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::RingBuf;
use aya::util::KernelVersion;
use aya_log::EbpfLogger;
use caps::Capability;
use ipnet::IpNet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::choice::{AttachMode, Selection};
use crate::observer::attach::{Attacher, Mode, kernel_has_tcx};
use crate::observer::error::KernelError;
use crate::observer::maps::{OwnAddresses, Tables};
use crate::observer::metrics::KernelMetrics;
use crate::observer::netlink::{Netlink, Notice};
use crate::observer::object::{self, Settings, TagSettings, take_map};
use crate::observer::shared::{ObserverHandle, Shared, SynListener};
use crate::observer::shortfall::Shortfall;
use crate::observer::timens::KernelClock;
use crate::observer::trace::TraceLog;
use crate::observer::view::{HostView, Interface};
use crate::observer::{clsact, privilege};
use crate::sys::bell::Bell;
use crate::sys::clock::Monotonic;

/// Events read in one go, before anything else gets its turn: about a millisecond's worth.
const DRAIN: usize = 8192;
/// How often accepted connections are joined and metrics brought up to date.
const TICK: Duration = Duration::from_millis(250);
/// How often the host's interfaces and addresses are read anew, should a notice have been lost.
const RESYNC_TICKS: u64 = 120;
/// How often, while they cannot be read.
const RETRY_TICKS: u64 = 4;
/// Notices taken in at a time.
const BURST: usize = 4096;
/// How often the clock offset is sampled.
const CLOCK_TICKS: u64 = 40;

/// What the kernel side is to do.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// The port the target listens on.
    pub listen_port: NonZeroU16,
    /// `--allowed-cidr`.
    pub allowed: Vec<IpNet>,
    /// `--interface`.
    pub interfaces: Selection,
    /// `--ebpf-attach`.
    pub attach: AttachMode,
    /// A mode that is named must be had.
    pub required: bool,
    /// `--tags`: what a tag looks like.
    pub tags: Option<TagSettings>,
    /// Whether the program itself logs every SYN (`--log-level trace`).
    pub trace: bool,
    /// Rung when the observer falls short.
    pub alarm: Option<Arc<Bell>>,
    /// Own addresses that the program can know.
    pub max_own: u32,
    /// Does without TCX even where the kernel has it, as before 6.6. For tests.
    pub without_tcx: bool,
}

/// A running kernel side. Dropping it detaches everything.
pub struct KernelObserver {
    attacher: Attacher,
    netlink: Netlink,
    view: HostView,
    selection: Selection,
    own: OwnAddresses,
    // Interfaces that could not be attached to, as they were then, and why: tried again once something changes.
    failed: BTreeMap<u32, (Interface, String)>,
    /// The host could not be read when it should have been.
    stale: bool,
    ring: AsyncFd<OwnedFd>,
    logger: Option<AsyncFd<EbpfLogger<TraceLog>>>,
    shared: Arc<Shared>,
}

impl KernelObserver {
    /// Raises the capabilities, loads the program, attaches it to the selected interfaces.
    ///
    /// Runs inside a tokio runtime and in the network namespace to be observed. `metrics` has been registered by the
    /// caller, because its info series also tells that the kernel side is *not* running. `on_syn` hears of every SYN, in the
    /// order in which they came.
    ///
    /// # Errors
    ///
    /// What is missing: a right, a limit, a kernel feature, a named interface. Nothing is left attached then.
    pub async fn start(
        config: &KernelConfig,
        metrics: KernelMetrics,
        on_syn: Option<SynListener>,
    ) -> Result<Self, KernelError> {
        privilege::raise();
        let clock = KernelClock::of_this_process()?;
        let mut settings = Settings::new(config.listen_port, config.allowed.clone());
        settings.tags = config.tags;
        settings.trace = config.trace;
        settings.max_own = config.max_own;
        let (mut ebpf, programs) = object::load(&settings)?;

        let events: RingBuf<_> = take_map(&mut ebpf, "EVENTS")?;
        let ring_fd =
            events.as_fd().try_clone_to_owned().map_err(system("duplicating the ring's descriptor"))?;
        // SAFETY: an owned descriptor, which stays open and the same for as long as the AsyncFd holds it.
        let ring = unsafe { AsyncFd::register_with_interest(ring_fd, Interest::READABLE) };
        let ring = ring.map_err(|e| system("polling the ring")(e.into()))?;
        let logger = if config.trace { Some(trace_logger(&mut ebpf)?) } else { None };
        let own = OwnAddresses::take(&mut ebpf)?;
        let alarm = config.alarm.clone();
        let shared = Arc::new(Shared::new(Tables::take(&mut ebpf, clock)?, events, metrics, on_syn, alarm));

        let netlink = Netlink::subscribe()?;
        let view = netlink.read_all().await?;
        if let Some(name) = view.first_missing(&config.interfaces) {
            return Err(KernelError::NoInterface { name: name.to_owned() });
        }
        let tcx = !config.without_tcx && kernel_has_tcx();
        let mut observer = Self {
            attacher: Attacher::new(ebpf, programs, config.attach, config.required, tcx),
            netlink,
            view,
            selection: config.interfaces.clone(),
            own,
            failed: BTreeMap::new(),
            stale: false,
            ring,
            logger,
            shared,
        };
        observer.know_own();
        observer.remove_stale().await;
        let reasons = observer.reconcile();
        if observer.attacher.attachments().is_empty() {
            // A missing right is the same for every interface, and worth its own words.
            return Err(match reasons.into_iter().next() {
                Some((_, e @ (KernelError::Capability { .. } | KernelError::Forbidden { .. }))) => e,
                Some((name, e)) => KernelError::NothingAttached { reasons: format!("{name}: {e}") },
                None => {
                    KernelError::NothingAttached { reasons: "none is up and holds an address".to_owned() }
                }
            });
        }
        Ok(observer)
    }

    /// For the accept loop and for those who serve the figures.
    pub fn handle(&self) -> ObserverHandle {
        ObserverHandle(Arc::clone(&self.shared))
    }

    /// The capabilities that a running observer still needs; all others can go ([`crate::sys::sandbox::keep_only`]).
    pub fn needed_capabilities(&self) -> Vec<Capability> {
        let modern = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 19, 0));
        let mut needed = Vec::new();
        if !modern {
            // bpf(2) is closed to the unprivileged there, reading maps included.
            needed.push(Capability::CAP_BPF);
        }
        if !modern || self.attacher.attachments().iter().any(|a| !a.mode.detaches_by_itself()) {
            needed.push(Capability::CAP_NET_ADMIN);
        }
        needed
    }

    /// Reads events, joins connections and follows the host's interfaces until `shutdown`. Then detaches.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), KernelError> {
        tokio::pin!(shutdown);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                ready = self.ring.readable() => {
                    let mut ready = ready.map_err(system("polling the ring"))?;
                    if self.shared.drain(DRAIN) {
                        ready.clear_ready();
                    }
                    // A ring that never runs empty must not keep the others from their turn.
                    tokio::task::yield_now().await;
                }
                () = flush(self.logger.as_mut()) => {}
                notice = self.netlink.next() => self.heed(notice).await,
                _ = tick.tick() => {
                    ticks += 1;
                    self.shared.drain(DRAIN);
                    self.shared.settle(Monotonic::now())?;
                    if ticks.is_multiple_of(CLOCK_TICKS) {
                        self.shared.sample_clock();
                    }
                    if ticks.is_multiple_of(if self.stale { RETRY_TICKS } else { RESYNC_TICKS }) {
                        self.heed(Notice::Missed).await;
                    }
                }
            }
        }
        // What had arrived by the shutdown is counted.
        self.handle().refresh()
    }

    /// Takes in a notice, and those that have come with it: a burst is followed by one look at what it comes to.
    async fn heed(&mut self, notice: Notice) {
        self.take_in(notice).await;
        for _ in 0..BURST {
            let Some(notice) = self.netlink.next_now() else { break };
            self.take_in(notice).await;
        }
        self.know_own();
        self.reconcile();
    }

    async fn take_in(&mut self, notice: Notice) {
        match notice {
            Notice::News(news) => self.view.apply(news),
            Notice::Missed => self.look_anew().await,
        }
    }

    /// Reads the host's interfaces and addresses anew.
    async fn look_anew(&mut self) {
        let read = match self.netlink.read_all().await {
            Ok(view) => Ok(view),
            // With another socket: this one may be what fails.
            Err(_) => self.resubscribe().await,
        };
        self.stale = read.is_err();
        match read {
            Ok(view) => {
                self.view = view;
                // Whatever was in the way of an attachment may be gone.
                self.failed.clear();
                self.shared.suffices(Shortfall::Netlink);
            }
            Err(error) => {
                let why = format!("interfaces and addresses that come and go are not noticed: {error}");
                self.shared.falls_short(Shortfall::Netlink, &why);
            }
        }
    }

    async fn resubscribe(&mut self) -> Result<HostView, KernelError> {
        self.netlink = Netlink::subscribe()?;
        self.netlink.read_all().await
    }

    /// Tells the program which addresses are the host's own.
    fn know_own(&mut self) {
        let why = match self.own.set(self.view.own()) {
            Ok(0) => return self.shared.suffices(Shortfall::OwnAddresses),
            Ok(count) => {
                format!("{count} of the host's own addresses find no room: SYNs to them are not counted")
            }
            Err(error) => format!("the host's own addresses are not up to date: {error}"),
        };
        self.shared.falls_short(Shortfall::OwnAddresses, &why);
    }

    /// Attaches to what is selected and not yet held, lets go of what is gone; the failures, by interface.
    fn reconcile(&mut self) -> Vec<(String, KernelError)> {
        let mut changed = false;
        for attachment in self.attacher.attachments() {
            match self.view.interface(attachment.ifindex) {
                None => {
                    self.attacher.detach(attachment.ifindex);
                    tracing::warn!(interface = attachment.interface, "interface is gone, no longer observed");
                    changed = true;
                }
                Some(interface) if interface.name != attachment.interface => {
                    self.attacher.rename(attachment.ifindex, &interface.name);
                    tracing::info!(from = attachment.interface, to = interface.name, "interface is renamed");
                    changed = true;
                }
                Some(_) => {}
            }
        }
        let (attached, failures) = self.attach_selected();
        if changed || attached {
            self.shared.set_attachments(self.attacher.attachments());
        }
        failures
    }

    /// Attaches to what is selected and not yet held: whether there was anything, and the failures.
    fn attach_selected(&mut self) -> (bool, Vec<(String, KernelError)>) {
        let mut attached = false;
        let mut failures = Vec::new();
        let selected = self.view.selected(&self.selection);
        self.failed.retain(|index, _| selected.contains_key(index));
        for (index, interface) in selected {
            let known = self.failed.get(&index).is_some_and(|(failed, _)| *failed == interface);
            if self.attacher.holds(index) || known {
                continue;
            }
            match self.attacher.attach(index, &interface) {
                Ok(mode) => {
                    log_attached(&interface, mode);
                    self.failed.remove(&index);
                    attached = true;
                }
                // Netlink is about to say so.
                Err(error) if error.is_of_a_vanished_interface() => {}
                Err(error) => {
                    self.failed.insert(index, (interface.clone(), format!("{}: {error}", interface.name)));
                    failures.push((interface.name, error));
                }
            }
        }
        if self.failed.is_empty() {
            self.shared.suffices(Shortfall::Interface);
        } else {
            let reasons: Vec<&str> = self.failed.values().map(|(_, why)| why.as_str()).collect();
            self.shared.falls_short(Shortfall::Interface, &format!("not observed: {}", reasons.join("; ")));
        }
        (attached, failures)
    }

    /// Removes what killed predecessors have left at the clsact qdiscs.
    async fn remove_stale(&self) {
        for (index, interface) in self.view.selected(&self.selection) {
            match clsact::remove_stale(&self.netlink, index, &interface).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(interface = interface.name, count, "removed stale TC filters"),
                // An interface without clsact qdisc answers with an error too.
                Err(e) => tracing::debug!(interface = interface.name, "no TC filters to look through: {e}"),
            }
        }
    }
}

fn log_attached(interface: &Interface, mode: Mode) {
    tracing::info!(interface = interface.name, mode = mode.label(), "observed in the kernel");
}

fn trace_logger(ebpf: &mut aya::Ebpf) -> Result<AsyncFd<EbpfLogger<TraceLog>>, KernelError> {
    let logger = EbpfLogger::init_with_logger(ebpf, TraceLog).map_err(|e| KernelError::System {
        doing: "reading the program's log",
        source: io::Error::other(e),
    })?;
    // SAFETY: the logger owns the ring's descriptor and never replaces it.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    logger.map_err(|e| system("polling the program's log")(e.into()))
}

async fn flush(logger: Option<&mut AsyncFd<EbpfLogger<TraceLog>>>) {
    let Some(logger) = logger else { return std::future::pending().await };
    if let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::System { doing, source }
}
