//! `egw-probe external-target`: answers pong to allowed sources, closes all others, and says who came.
//!
//! Data goes one way: accept -> verdict -> reply, sources, metrics. Only [`accept`] touches a socket.

pub(crate) mod accept;
pub(crate) mod clients;
pub(crate) mod counters;
pub(crate) mod metrics;
pub(crate) mod newcomers;
pub(crate) mod opening;
pub(crate) mod pages;
pub(crate) mod reply;
pub(crate) mod sources;
pub(crate) mod verdict;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::config::choice::{MetricsAddr, Reply};
use crate::config::error::ConfigError;
use crate::config::target::TargetConfig;
use crate::document::clients::Progress;
use crate::document::verdict::Verdict;
use crate::external_target::accept::{Held, Shared};
use crate::external_target::clients::ClientTable;
use crate::external_target::metrics::TargetMetrics;
use crate::external_target::newcomers::Newcomers;
use crate::external_target::pages::{pages, refresh_clients};
use crate::external_target::sources::{Sources, read_kernel, top_denied};
use crate::external_target::verdict::AllowedSources;
use crate::observer::correlate::SynKind;
use crate::observer::metrics::KernelMetrics;
use crate::observer::object::MAX_OWN;
use crate::observer::shared::SynListener;
use crate::observer::shortfall::Shortfall;
use crate::observer::task::KernelConfig;
use crate::observer::thread::KernelThread;
use crate::sys::bell::Bell;
use crate::sys::clock::Monotonic;
use crate::sys::http::HttpThread;
use crate::sys::log::{RateLimit, few};
use crate::sys::net::{self, Bound, RESERVED_DESCRIPTORS};
use crate::sys::poller::{EventFlags, Poller};
use crate::sys::sandbox::{self, Role};
use crate::sys::signals::Signals;
use crate::sys::{tcp, thread};

/// Runs the target until a signal ends it.
///
/// # Errors
/// A port that cannot be listened on is a [`ConfigError`]; anything else means that this host cannot run the target.
pub fn run(config: &TargetConfig, signals: &Signals) -> anyhow::Result<ExitCode> {
    let descriptors = net::raise_descriptor_limit();
    let registry = crate::sys::metrics::registry()?;
    let metrics = TargetMetrics::register(&registry, config.tags.is_some())?;
    let kernel_metrics = KernelMetrics::register(&registry)?;
    let bound = bind(config)?;
    let http = listen_for_http(config.metrics_addr)?;
    let clients = config.tags.map(|tags| Arc::new(ClientTable::new(tags.expected, tags.key)));
    let required = config.ebpf.as_ref().is_some_and(|ebpf| ebpf.required);
    let alarm = Arc::new(Bell::new()?);
    let newcomers = Arc::new(Newcomers::new());
    let on_syn = syn_listener(clients.clone(), Arc::clone(&newcomers));
    let kernel = start_kernel(config, kernel_metrics, on_syn, clients.as_deref(), &alarm)?;
    let ends = Poller::new()?;
    ends.add(signals, 0, EventFlags::IN)?;
    if required {
        ends.add(&*alarm, 1, EventFlags::IN)?;
    }
    // All that needs a right has been done. Threads started from here on have only what is left.
    sandbox::shed(config.user, kernel.as_ref().map_or(&[], |kernel| &kernel.needed))
        .context("cannot drop rights")?;
    sandbox::enter(Role::ExternalTarget);
    // Only now: whatever is accepted, the kernel side has seen from its first SYN on.
    let listening = Monotonic::now();
    let listeners = bound.listen().map_err(|error| cannot_listen(config, &error))?;
    if let Some(kernel) = &kernel {
        kernel.handle.listening(listening);
    }
    let shared = Arc::new(Shared {
        allowed: AllowedSources::new(&config.allowed),
        port: config.listen_port.get(),
        reply: config.reply,
        held: config.keep_open.then(|| hold_up_to(descriptors)).transpose()?,
        sources: Sources::new(listeners.len()),
        newcomers,
        kernel: kernel.as_ref().map(|kernel| kernel.handle.clone()),
        clients,
        metrics,
        stopping: AtomicBool::new(false),
        log: Mutex::new(RateLimit::per_second(1)),
        wait_told: Mutex::default(),
    });
    let http = http
        .map(|listener| anyhow::Ok(HttpThread::spawn(listener, pages(registry, Arc::clone(&shared))?)?))
        .transpose()?;
    announce(config);
    serve(&shared, &listeners, &ends)?;
    if let Some(http) = http {
        http.stop();
    }
    end(&shared, kernel, required)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the kernel side, and says what came.
fn end(shared: &Shared, kernel: Option<KernelThread>, required: bool) -> anyhow::Result<()> {
    // While its maps can be read.
    let of_kernel = shared.kernel.as_ref().map(read_kernel);
    let denied_sources = top_denied(&shared.sources.page(Monotonic::now(), of_kernel));
    if let Some(kernel) = kernel {
        // With `required` a shortfall is what has ended it.
        let fallen_short = if required { kernel.handle.shortfalls() } else { vec![] };
        kernel.stop();
        fail_if_short(&fallen_short)?;
    }
    let count = |verdict| shared.metrics.connections(verdict).get();
    let (allowed, denied) = (count(Verdict::Allowed), count(Verdict::Denied));
    tracing::info!(allowed, denied, denied_sources, "stopped by a signal");
    Ok(())
}

fn announce(config: &TargetConfig) {
    if !config.with_host_bits.is_empty() {
        let meant = config.with_host_bits.iter().map(|(written, net)| format!("{written} means {net}"));
        tracing::warn!("allowed CIDRs with host bits set: {}", few(&meant.collect::<Vec<_>>()));
    }
    tracing::info!(
        port = config.listen_port,
        allowed = few(&config.allowed),
        keep_open = config.keep_open,
        "listening on every address"
    );
}

/// A socket for each accept loop, not yet listening.
fn bind(config: &TargetConfig) -> anyhow::Result<Bound> {
    // The kernel's half of a connection (handshake, FIN) takes the other cores; loops that wait for one another's turns only
    // wake more often (`cargo xtask bench accept`).
    let loops = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let bound = net::bind_group(address(config), loops).map_err(|error| cannot_listen(config, &error))?;
    let asked_by = match (config.tags, config.reply) {
        (Some(_), _) => "--tags",
        (None, Reply::Annotated) => "--reply annotated",
        (None, Reply::Pong) => return Ok(bound),
    };
    for socket in bound.sockets() {
        tcp::save_syns(socket)
            .with_context(|| format!("{asked_by}: the kernel does not keep SYNs for accepted connections"))?;
    }
    Ok(bound)
}

fn address(config: &TargetConfig) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.listen_port.get()))
}

fn cannot_listen(config: &TargetConfig, error: &net::Refused) -> ConfigError {
    ConfigError::listening("--listen-port", address(config), error)
}

fn hold_up_to(descriptors: u64) -> anyhow::Result<Held> {
    let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1);
    Held::new(usize::try_from(most).unwrap_or(usize::MAX)).context("cannot hold connections")
}

/// Hears of every SYN that the kernel side sees, also of those whose answer cannot get home.
fn syn_listener(clients: Option<Arc<ClientTable>>, newcomers: Arc<Newcomers>) -> SynListener {
    Arc::new(move |syn, kind| {
        if let Some(clients) = &clients {
            clients.syn(syn.sequence, syn.class, syn.at, kind == SynKind::Retransmit);
        }
        if syn.class == Verdict::Denied {
            newcomers.denied(syn.source.ip(), syn.at);
        }
    })
}

/// The kernel side if it is wanted and to be had. Says in either case what is in force.
fn start_kernel(
    config: &TargetConfig,
    metrics: KernelMetrics,
    on_syn: SynListener,
    clients: Option<&ClientTable>,
    alarm: &Arc<Bell>,
) -> anyhow::Result<Option<KernelThread>> {
    metrics.userspace_only();
    let Some(ebpf) = &config.ebpf else { return Ok(None) };
    let kernel = KernelThread::start(
        KernelConfig {
            listen_port: config.listen_port,
            allowed: config.allowed.clone(),
            interfaces: ebpf.interfaces.clone(),
            attach: ebpf.attach,
            required: ebpf.required,
            tags: clients.map(ClientTable::settings),
            alarm: Some(Arc::clone(alarm)),
            max_own: MAX_OWN,
            without_tcx: false,
            trace: tracing::enabled!(tracing::Level::TRACE),
        },
        metrics,
        Some(on_syn),
        config.user,
    );
    match kernel {
        Ok(kernel) => {
            if ebpf.required {
                fail_if_short(&kernel.handle.shortfalls())?;
            }
            Ok(Some(kernel))
        }
        Err(error) if ebpf.required => Err(anyhow::anyhow!("--ebpf: no kernel timestamps: {error}")),
        Err(error) => {
            tracing::warn!("--ebpf: no kernel timestamps: {error}; going on in userspace");
            Ok(None)
        }
    }
}

fn fail_if_short(shortfalls: &[(Shortfall, String)]) -> anyhow::Result<()> {
    let Some((_, why)) = shortfalls.first() else { return Ok(()) };
    Err(anyhow::anyhow!("--ebpf=required: the kernel side falls short: {why}"))
}

/// Accepts until one of `ends` is ready.
fn serve(shared: &Shared, listeners: &[TcpListener], ends: &Poller) -> io::Result<()> {
    std::thread::scope(|scope| {
        let mut teller = None;
        let start_and_wait = |teller: &mut Option<_>| {
            if let Some(clients) = &shared.clients {
                *teller = Some(thread::spawn_scoped(scope, "teller", || tell_of_clients(shared, clients))?);
            }
            for (index, listener) in listeners.iter().enumerate() {
                let name = format!("accept-{index}");
                std::thread::Builder::new()
                    .name(name.clone())
                    .stack_size(256 * 1024)
                    .spawn_scoped(scope, move || shared.accept_loop(listener, index))
                    .map_err(|error| thread::refused(&name, &error))?;
            }
            if let Some(held) = &shared.held {
                return held.close_loop(ends, &shared.metrics);
            }
            let mut ended = vec![];
            while ended.is_empty() {
                ends.wait(None, &mut ended)?;
            }
            Ok(())
        };
        let ended = start_and_wait(&mut teller);
        shared.stop(listeners);
        if let Some(teller) = teller {
            teller.thread().unpark();
        }
        ended
    })
}

/// Says in the log how far the clients are, whenever that has changed, and keeps their metrics true.
fn tell_of_clients(shared: &Shared, clients: &ClientTable) {
    const PERIOD: Duration = Duration::from_secs(1);
    let mut told = Progress::default();
    while !shared.stopping.load(Ordering::Relaxed) {
        std::thread::park_timeout(PERIOD);
        let progress = refresh_clients(shared, clients);
        if progress.seen > 0 && progress != told {
            let Progress { expected, seen, masqueraded, leaking, conflicts, uncertain: _ } = progress;
            tracing::info!(expected, seen, masqueraded, leaking, conflicts, "clients");
            told = progress;
        }
    }
}

/// Several targets share a host network today, so the default port being taken must not stop the second.
fn listen_for_http(address: MetricsAddr) -> Result<Option<TcpListener>, ConfigError> {
    let listener = net::listen(address.address)
        .map_err(|error| ConfigError::listening("--metrics-addr", address.address, &error));
    match listener {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if address.explicit => Err(error),
        Err(error) => {
            tracing::warn!("no metrics of this target: {error}");
            Ok(None)
        }
    }
}
