//! The egress policy of every Pod, what can befall its gateway, and the thread that switches either at a given instant.

use std::collections::BinaryHeap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::addresses::{GATEWAY_TUNNEL, pod_interface};
use super::clock::Monotonic;
use super::namespace::Namespace;
use super::nfset::{self, Set};

/// No interface has this name: adding it to a set changes nothing for any packet.
const NO_INTERFACE: &str = "warm-up";

/// What happens to packets. Each is a set of interfaces that a ruleset looks up for every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// A Pod's go through the gateway. Wins over `Drop`.
    Gateway,
    /// A Pod's go through the second gateway. Wins over `Gateway`.
    Second,
    /// A Pod's vanish.
    Drop,
    /// The gateway forwards none.
    Dead,
    /// The target tells nobody its MAC address.
    Mute,
}

impl Policy {
    pub(crate) const fn set(self) -> &'static str {
        match self {
            Self::Gateway => "through-gateway",
            Self::Second => "through-second",
            Self::Drop => "vanishing",
            Self::Dead => "dead",
            Self::Mute => "mute",
        }
    }
}

/// What one switch does. Each is one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The policy comes into force.
    On(Policy),
    /// It goes out of force.
    Off(Policy),
    /// The gateway forgets its connections, and how it translates them.
    Forget,
}

/// A switch that happened: it took effect at one instant between `before` and `after`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Switch {
    pub(crate) change: Change,
    /// Index of the Pod.
    pub(crate) pod: usize,
    /// Read directly before the system call that switches.
    pub(crate) before: Monotonic,
    /// Read directly after that call returned.
    pub(crate) after: Monotonic,
}

struct Order {
    due: Monotonic,
    change: Change,
    pod: usize,
}

/// Netfilter sockets in the namespaces where switches take effect.
struct Sockets {
    node: nfset::Socket,
    gateway: nfset::Socket,
    /// Where the target can be mute.
    target: Option<nfset::Socket>,
}

enum Command {
    Switch(Order),
    /// Puts every Pod back to "no policy", and answers when that is done.
    Reset(Sender<io::Result<()>>),
}

/// Switches policies from a thread of its own in the node's namespace. Dropping it ends the thread.
pub(crate) struct Switcher {
    commands: Option<Sender<Command>>,
    switched: Receiver<io::Result<Switch>>,
    thread: Option<JoinHandle<()>>,
    /// Whether the kernel let the thread have real-time priority.
    pub(crate) realtime: bool,
}

impl Switcher {
    /// `target` is the target's namespace, where it can be mute.
    pub(crate) fn start(node: &Namespace, gateway: &Namespace, target: Option<&Namespace>) -> Result<Self> {
        let open = |namespace: &Namespace| {
            namespace.run(|| nfset::Socket::open().context("cannot open a netfilter netlink socket"))
        };
        let sockets =
            Sockets { node: open(node)?, gateway: open(gateway)?, target: target.map(open).transpose()? };
        let (commands, inbox) = channel();
        let (report, switched) = channel();
        let (ready, is_ready) = channel();
        let thread = thread::Builder::new().name("policy".into()).spawn(move || {
            let _ = ready.send(become_realtime());
            serve(&sockets, &inbox, &report);
        })?;
        let realtime = is_ready.recv().context("the policy thread did not start")?;
        Ok(Self { commands: Some(commands), switched, thread: Some(thread), realtime })
    }

    /// Asks for a switch at `due`; [`Self::next`] reports it.
    pub(crate) fn schedule(&self, due: Monotonic, change: Change, pod: usize) {
        self.tell(Command::Switch(Order { due, change, pod }));
    }

    /// The next switch that happened, if one did within `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Result<Option<Switch>> {
        match self.switched.recv_timeout(patience) {
            Ok(outcome) => Ok(Some(outcome.context("the kernel refused to switch the policy")?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the policy thread ended")),
        }
    }

    /// Puts every Pod back to "no policy", and revives the gateway.
    pub(crate) fn reset(&self) -> Result<()> {
        let (done, is_done) = channel();
        self.tell(Command::Reset(done));
        is_done.recv().context("the policy thread ended")?.context("the kernel refused to reset the policy")
    }

    fn tell(&self, command: Command) {
        // A thread that ended is reported by whoever waits for its answer.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }
}

impl Drop for Switcher {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks for real-time priority for the calling thread, so that nothing comes between reading the clock and acting.
pub(crate) fn become_realtime() -> bool {
    let priority = libc::sched_param { sched_priority: 50 };
    // SAFETY: the pointer is to a live value, and 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) == 0 }
}

fn serve(sockets: &Sockets, inbox: &Receiver<Command>, report: &Sender<io::Result<Switch>>) {
    let mut orders: BinaryHeap<Order> = BinaryHeap::new();
    loop {
        let wake = orders.peek().map_or(Duration::from_hours(1), |order| order.due.remaining());
        match inbox.recv_timeout(wake) {
            Ok(Command::Switch(order)) => orders.push(order),
            Ok(Command::Reset(done)) => {
                orders.clear();
                let _ = done.send(reset(sockets));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(order) = orders.pop() else { continue };
                if report.send(switch(sockets, &order)).is_err() {
                    return;
                }
            }
        }
    }
}

/// Carries out one order: one system call between two readings of the clock. The kernel's code and memory for it are
/// warmed up directly before: cold, the switch takes 30 us, warm 4 us.
fn switch(sockets: &Sockets, order: &Order) -> io::Result<Switch> {
    let Order { change, pod, .. } = *order;
    let (socket, batch) = match change {
        Change::On(policy) => (sockets.of(policy), nfset::add(table(policy), &interface(policy, pod))),
        Change::Off(policy) => (sockets.of(policy), nfset::delete(table(policy), &interface(policy, pod))),
        Change::Forget => (&sockets.gateway, nfset::forget_connections()),
    };
    if let Change::On(policy) | Change::Off(policy) = change {
        socket.send(&nfset::add(table(policy), NO_INTERFACE))?;
        socket.send(&nfset::delete(table(policy), NO_INTERFACE))?;
    }
    let before = Monotonic::now();
    let outcome = socket.send(&batch);
    let after = Monotonic::now();
    outcome?;
    match socket.refusal() {
        Some(error) => Err(error),
        None => Ok(Switch { change, pod, before, after }),
    }
}

/// By which interface a policy selects packets.
fn interface(policy: Policy, pod: usize) -> String {
    match policy {
        Policy::Dead => GATEWAY_TUNNEL.into(),
        Policy::Mute => "wire".into(),
        _ => pod_interface(pod),
    }
}

/// The set of a policy, and the family of its table: ARP is no Internet protocol.
fn table(policy: Policy) -> Set {
    let family = if policy == Policy::Mute { libc::NFPROTO_NETDEV } else { libc::NFPROTO_INET };
    Set { family, name: policy.set() }
}

fn reset(sockets: &Sockets) -> io::Result<()> {
    let mute = sockets.target.as_ref().map(|_| Policy::Mute);
    for policy in [Policy::Gateway, Policy::Second, Policy::Drop, Policy::Dead].into_iter().chain(mute) {
        let socket = sockets.of(policy);
        socket.send(&nfset::flush(table(policy)))?;
        socket.refusal().map_or(Ok(()), Err)?;
    }
    Ok(())
}

impl Sockets {
    fn of(&self, policy: Policy) -> &nfset::Socket {
        match policy {
            Policy::Dead => &self.gateway,
            Policy::Mute => self.target.as_ref().expect("only a target that can be mute is made so"),
            _ => &self.node,
        }
    }
}

/// Earliest first: `BinaryHeap` hands out its greatest item.
impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Order {}
