//! What a target serves over HTTP.

use std::sync::Arc;

use hyper::StatusCode;

use crate::document::clients::{ClientsPage, Progress};
use crate::external_target::accept::Shared;
use crate::external_target::clients::ClientTable;
use crate::external_target::sources::read_kernel;
use crate::observer::shared::ObserverHandle;
use crate::sys::clock::Monotonic;
use crate::sys::metrics::Exposition;
use crate::sys::net;
use crate::sys::page::{Answer, Page, Pages, SharedPage};

/// All pages of this target.
pub(crate) fn pages(registry: prometheus::Registry, shared: Arc<Shared>) -> anyhow::Result<Arc<Pages>> {
    let exposition = Exposition::new(registry)?;
    let overflows_before = net::listen_overflows().unwrap_or(0);
    let seen = Arc::clone(&shared);
    let sources = SharedPage::new(move || {
        let kernel = seen.kernel.as_ref().map(read_kernel);
        Page::json(&seen.sources.page(Monotonic::now(), kernel))
    })?;
    let page_of = |table: &Arc<ClientTable>| {
        let (shared, table) = (Arc::clone(&shared), Arc::clone(table));
        SharedPage::new(move || Page::json(&clients_page(&shared, &table)))
    };
    let clients = shared.clients.as_ref().map(page_of).transpose()?;
    let measured = Arc::clone(&shared);
    let metrics = SharedPage::new(move || {
        bring_up_to_date(&measured, overflows_before);
        exposition.page()
    })?;
    Ok(Arc::new(move |path| {
        Some(match path {
            "/clients" => Answer::Shared(clients.clone()?),
            "/healthz" => Answer::Now(health(&shared)),
            "/metrics" => Answer::Shared(metrics.clone()),
            "/sources" => Answer::Shared(sources.clone()),
            _ => return None,
        })
    }))
}

fn clients_page(shared: &Shared, table: &ClientTable) -> ClientsPage {
    let progress = refresh_clients(shared, table);
    let clients = table.lock().entries().collect();
    let now_monotonic_ns = Monotonic::now().as_ns();
    ClientsPage { now_monotonic_ns, progress, foreign_syns: table.foreign(), clients }
}

/// Whether the target does all that it should.
fn health(shared: &Shared) -> Page {
    let shortfalls = shared.kernel.as_ref().map(ObserverHandle::shortfalls).unwrap_or_default();
    if shortfalls.is_empty() {
        return Page::text(StatusCode::OK, "listening");
    }
    let lines: Vec<String> =
        shortfalls.iter().map(|(shortfall, why)| format!("{}: {why}", shortfall.label())).collect();
    Page::text(StatusCode::SERVICE_UNAVAILABLE, &lines.join("\n"))
}

/// Brings the metrics up to date that are not kept as things happen.
fn bring_up_to_date(shared: &Shared, overflows_before: u64) {
    let overflows = net::listen_overflows().unwrap_or(0).saturating_sub(overflows_before);
    shared.metrics.listen_overflows.set(overflows as i64);
    if let Some(clients) = &shared.clients {
        refresh_clients(shared, clients);
    } else if let Some(Err(error)) = shared.kernel.as_ref().map(ObserverHandle::refresh) {
        tracing::warn!("kernel figures are not up to date: {error}");
    }
}

/// Takes over what the kernel knows of the clients, and brings their metrics up to date.
pub(super) fn refresh_clients(shared: &Shared, table: &ClientTable) -> Progress {
    if let Some(kernel) = &shared.kernel {
        if let Err(error) = kernel.refresh() {
            tracing::warn!("kernel figures are not up to date: {error}");
        }
        match kernel.tags() {
            Ok(records) => {
                let mut clients = table.lock();
                for (number, record) in records {
                    clients.set_record(number, record);
                }
            }
            Err(error) => tracing::warn!("client records are not up to date: {error}"),
        }
    }
    let mut clients = table.lock();
    let progress = clients.progress();
    if let Some(metrics) = &shared.metrics.clients {
        metrics.set(progress, table.foreign());
        clients.new_delays().iter().for_each(|delay| metrics.delay.observe(delay.as_secs_f64()));
    }
    progress
}
