//! Rights: what suffices, what each missing one is called, and what is left once the observer stands.
//!
//! Capabilities belong to the thread in Linux, so each case gives up its rights on a thread of its own.

use caps::{CapSet, Capability};
use egw_probe::workbench::config::{AttachMode, Selection};
use egw_probe::workbench::observer::{KernelError, KernelMetrics, KernelObserver, NEEDED};
use prometheus::Registry;

use crate::common::told::as_root;
use crate::kernel::net::config;

const NOBODY: libc::c_long = 65_534;

/// Runs `work` as an ordinary user who is permitted these capabilities, none of them effective: as a container with file
/// capabilities `+p` starts.
fn with_only<T: Send + 'static>(permitted: &[Capability], work: impl FnOnce() -> T + Send + 'static) -> T {
    let permitted = permitted.iter().copied().collect();
    // aya asks once per process what the kernel can do: here, before a thread that may not ask finds that it can nothing.
    let _ = aya::features();
    std::thread::spawn(move || {
        // SAFETY: plain system calls about this thread only (the raw setresuid, unlike libc's, leaves others alone).
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0);
            assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1), 0);
            assert_eq!(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
        }
        caps::clear(None, CapSet::Effective).unwrap();
        caps::set(None, CapSet::Permitted, &permitted).unwrap();
        work()
    })
    .join()
    .unwrap()
}

fn start() -> Result<KernelObserver, KernelError> {
    // By name, because the new namespace's lo is down.
    let config = config(AttachMode::Auto, Selection::Named(vec!["lo".to_owned()]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let metrics = KernelMetrics::register(&Registry::new()).unwrap();
    runtime.block_on(KernelObserver::start(&config, metrics, None))
}

#[test]
fn three_capabilities_suffice_for_an_ordinary_user_and_none_is_needed_afterwards() {
    if !as_root() {
        return;
    }
    with_only(&NEEDED, || {
        let observer = start().unwrap();
        let needed = observer.needed_capabilities();
        egw_probe::workbench::sys::keep_only(&needed).unwrap();
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
            let left = caps::read(None, set).unwrap();
            assert_eq!(left, needed.iter().copied().collect(), "{set:?}");
        }
        let handle = observer.handle();
        assert_eq!(handle.attachments().len(), 1);
        assert_eq!(handle.class_totals().unwrap().denied, 0);
        assert!(handle.sources().unwrap().seen.is_empty());
    });
}

#[test]
fn each_missing_capability_is_called_by_its_name() {
    if !as_root() {
        return;
    }
    for missing in NEEDED {
        let rest: Vec<_> = NEEDED.into_iter().filter(|c| *c != missing).collect();
        let error = with_only(&rest, || start().err().map(|e| e.to_string()));
        let error = error.unwrap_or_else(|| panic!("{missing} is not needed?"));
        assert!(error.starts_with(&format!("missing {missing} for ")), "{error}");
    }
    let error = with_only(&[], || start().err().unwrap().to_string());
    assert!(error.starts_with("missing CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON for "), "{error}");
    assert!(error.contains("setcap cap_bpf,cap_net_admin,cap_perfmon+p"), "{error}");
}
