//! What the observer's task and everybody else share: the ring's reader, the correlator, the readable maps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use egw_probe_common::event::Counters;
use egw_probe_common::tag::TagRecord;
use parking_lot::Mutex;

use crate::document::verdict::Verdict;
use crate::observer::attach::Attachment;
use crate::observer::correlate::SynKind;
use crate::observer::error::KernelError;
use crate::observer::event::{self, SynSeen};
use crate::observer::health::{JoinHealth, UNOBSERVED, Unobserved};
use crate::observer::join::Join;
use crate::observer::maps::{Sources, Tables};
use crate::observer::metrics::KernelMetrics;
use crate::observer::queue::{Accepted, Queue};
use crate::observer::shortfall::Shortfall;
use crate::observer::timens::KernelClock;
use crate::observer::wall;
use crate::observer::way_back::{BROKEN, NEXT, WayBack};
use crate::sys::bell::Bell;
use crate::sys::clock::Monotonic;

/// SYNs and events by class, exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassTotals {
    /// SYNs from inside the allowed CIDRs.
    pub allowed: u64,
    /// SYNs from outside them.
    pub denied: u64,
    /// Of the allowed, how many left no event.
    pub allowed_lost: u64,
    /// Of the denied, how many left no event.
    pub denied_lost: u64,
    /// SYNs seen again on a second interface; not among the above.
    pub duplicates: u64,
    /// SYNs to the port of another host, passing through; not among the above.
    pub forwarded: u64,
    /// SYNs with a valid tag; 0 without `--tags`.
    pub tagged: u64,
}

impl From<Counters> for ClassTotals {
    fn from(counters: Counters) -> Self {
        Self {
            allowed: counters.allowed.syns,
            denied: counters.denied.syns,
            allowed_lost: counters.allowed.lost,
            denied_lost: counters.denied.lost,
            duplicates: counters.duplicates,
            forwarded: counters.forwarded,
            tagged: counters.tagged,
        }
    }
}

/// Reader and join; whoever holds the lock may drain the ring.
struct Core {
    ring: RingBuf<MapData>,
    join: Join,
    on_syn: Option<SynListener>,
    clock: KernelClock,
    unobserved: Unobserved,
    way_back: WayBack,
    unreadable: u64,
    reported: ClassTotals,
    reported_health: JoinHealth,
}

/// Hears of a SYN, and whether it is one sent again.
pub(crate) type SynListener = Arc<dyn Fn(&SynSeen, SynKind) + Send + Sync>;

pub(super) struct Shared {
    tables: Tables,
    core: Mutex<Core>,
    accepted: Mutex<Queue>,
    attachments: Mutex<Vec<Attachment>>,
    shortfalls: Mutex<BTreeMap<Shortfall, String>>,
    alarm: Option<Arc<Bell>>,
    metrics: KernelMetrics,
}

/// Access to a running observer, for the accept loop and for whoever serves its figures. Cheap to clone; outlives the
/// observer, after which the figures stand still.
#[derive(Clone)]
pub struct ObserverHandle(pub(super) Arc<Shared>);

impl Shared {
    pub(super) fn new(
        tables: Tables,
        ring: RingBuf<MapData>,
        metrics: KernelMetrics,
        on_syn: Option<SynListener>,
        alarm: Option<Arc<Bell>>,
    ) -> Self {
        metrics.clock_error(wall::error_bound());
        let clock = tables.clock();
        Self {
            tables,
            core: Mutex::new(Core {
                ring,
                join: Join::new(Monotonic::now()),
                on_syn,
                clock,
                unobserved: Unobserved::default(),
                way_back: WayBack::default(),
                unreadable: 0,
                reported: ClassTotals::default(),
                reported_health: JoinHealth::default(),
            }),
            accepted: Mutex::default(),
            attachments: Mutex::default(),
            shortfalls: Mutex::default(),
            alarm,
            metrics,
        }
    }

    /// Reads up to `limit` events, joins what was accepted; whether the ring is empty now.
    pub(super) fn drain(&self, limit: usize) -> bool {
        // Taken before the ring is read: their SYNs came earlier, so they are among the events once the ring is empty.
        let accepted = self.accepted.lock().take();
        let mut core = self.core.lock();
        let empty = core.read_events(&self.metrics, limit);
        let ready = self.accepted.lock().ready(accepted, empty);
        for Accepted { source, sequence, at } in ready {
            if let Some(joined) = core.join.on_accepted(source, sequence, at) {
                self.metrics.joined(&joined);
                core.way_back.joined(joined.class);
            }
        }
        empty
    }

    /// Expires attempts and brings the metrics up to date.
    pub(super) fn settle(&self, now: Monotonic) -> Result<(), KernelError> {
        let totals = ClassTotals::from(self.tables.counters()?);
        let not_joined = self.accepted.lock().dropped();
        let mut core = self.core.lock();
        let half_open = core.join.on_tick(now);
        self.metrics.half_open(half_open);
        let health = core.health(not_joined);
        let more = health.since(std::mem::replace(&mut core.reported_health, health));
        self.metrics.health(more);
        if let Some(count) = core.unobserved.tell(more.unobserved, now) {
            tracing::warn!(count, "{UNOBSERVED}");
        }
        let doubt = more.not_joined + more.forgotten > 0;
        for (class, count) in core.way_back.half_open(half_open, doubt, now) {
            let source = core.join.correlator().latest_half_open(class).map(tracing::field::display);
            tracing::warn!(class = class.name(), count, source, "{BROKEN}; look next: {NEXT}");
        }
        let before = std::mem::replace(&mut core.reported, totals);
        self.metrics.lost(Verdict::Allowed, totals.allowed_lost.saturating_sub(before.allowed_lost));
        self.metrics.lost(Verdict::Denied, totals.denied_lost.saturating_sub(before.denied_lost));
        Ok(())
    }

    pub(super) fn sample_clock(&self) {
        self.metrics.clock_error(wall::error_bound());
    }

    /// Tells that the observer falls short, and why: in the log when that begins, or is another reason than before.
    pub(super) fn falls_short(&self, shortfall: Shortfall, why: &str) {
        self.metrics.degraded(shortfall, true);
        let told = self.shortfalls.lock().insert(shortfall, why.to_owned());
        if told.as_deref() != Some(why) {
            tracing::error!(reason = shortfall.label(), "the kernel side falls short: {why}");
        }
        if let Some(alarm) = &self.alarm {
            alarm.ring();
        }
    }

    /// Tells that the observer does not fall short in this respect.
    pub(super) fn suffices(&self, shortfall: Shortfall) {
        if self.shortfalls.lock().remove(&shortfall).is_some() {
            self.metrics.degraded(shortfall, false);
            tracing::info!(reason = shortfall.label(), "the kernel side falls short no more");
        }
    }

    /// Tells that the observer has ended by itself: nothing is attached any more.
    pub(super) fn ended(&self, why: &str) {
        self.attachments.lock().clear();
        self.metrics.userspace_only();
        self.falls_short(Shortfall::Ended, why);
    }

    pub(super) fn set_attachments(&self, attachments: Vec<Attachment>) {
        self.metrics.attachments(&attachments);
        *self.attachments.lock() = attachments;
    }
}

impl Core {
    fn health(&self, not_joined: u64) -> JoinHealth {
        JoinHealth {
            unobserved: self.join.correlator().unmatched(),
            forgotten: self.join.correlator().forgotten(),
            not_joined,
            unreadable: self.unreadable,
        }
    }

    fn read_events(&mut self, metrics: &KernelMetrics, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(record) = self.ring.next() else { return true };
            match event::parse(&record) {
                Some(mut syn) => {
                    syn.at = self.clock.instant(syn.at.as_ns());
                    let kind = self.join.on_syn(&syn);
                    metrics.syn(syn.class, kind);
                    if let Some(on_syn) = &self.on_syn {
                        on_syn(&syn, kind);
                    }
                }
                None => self.unreadable += 1,
            }
        }
        false
    }
}

impl ObserverHandle {
    /// Tells of an accepted connection, and of the sequence number of its SYN where that is known. Takes a lock that is held
    /// for the length of a `Vec` swap at most, and never waits for the kernel.
    pub fn accepted(&self, source: SocketAddr, sequence: Option<u32>, at: Monotonic) {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        self.0.accepted.lock().push(Accepted { source, sequence, at });
    }

    /// Tells that connections are taken from `at` on.
    pub fn listening(&self, at: Monotonic) {
        self.0.core.lock().join.on_listening(at);
    }

    /// Tells that connections wait for an accept that cannot be made now: no attempt is given up on meanwhile.
    pub fn accepting_waits(&self, now: Monotonic) {
        self.0.core.lock().join.on_accept_delayed(now);
    }

    /// When the SYN of a connection that has just been accepted arrived, for the annotated reply. Reads at most a few
    /// thousand events to find it; `None` when it is not among them.
    pub fn syn_of(&self, source: SocketAddr, sequence: Option<u32>) -> Option<Monotonic> {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let mut core = self.0.core.lock();
        core.read_events(&self.0.metrics, 4096);
        core.join.syn_of(source, sequence)
    }

    /// Exact totals by class, read from the kernel.
    pub fn class_totals(&self) -> Result<ClassTotals, KernelError> {
        Ok(self.0.tables.counters()?.into())
    }

    /// The per-source ledger, read from the kernel.
    pub fn sources(&self) -> Result<Sources, KernelError> {
        self.0.tables.sources()
    }

    /// The per-tag records, read from the kernel; empty without `--tags`.
    pub fn tags(&self) -> Result<Vec<(u16, TagRecord)>, KernelError> {
        self.0.tables.tags()
    }

    /// What is attached to now.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.0.attachments.lock().clone()
    }

    /// Why the observer cannot do what it should, one reason a kind; empty if it can.
    pub fn shortfalls(&self) -> Vec<(Shortfall, String)> {
        self.0.shortfalls.lock().iter().map(|(shortfall, why)| (*shortfall, why.clone())).collect()
    }

    /// How good the join is.
    pub fn join_health(&self) -> JoinHealth {
        let not_joined = self.0.accepted.lock().dropped();
        self.0.core.lock().health(not_joined)
    }

    /// Brings the metrics up to date; to be called before they are served.
    pub fn refresh(&self) -> Result<(), KernelError> {
        self.0.drain(usize::MAX >> 1);
        self.0.settle(Monotonic::now())
    }
}
