//! Ctrl-C and SIGTERM: a lab that is told to stop still removes everything it made.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

/// Exit status of an interrupted lab: 128 + SIGINT, as a shell gives it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The error that unwinds a lab that was told to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Whether the lab was told to stop. Every wait of the lab goes through this, so that none outlasts a signal.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP over from the whole process. To be called before any other thread starts.
    pub(crate) fn install() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let interrupt = Self(Arc::new((Mutex::new(false), Condvar::new())));
        let told = interrupt.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            while signals.wait().is_ok() {
                *told.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                told.0.1.notify_all();
            }
        })?;
        Ok(interrupt)
    }

    /// Sleeps for `duration`, or fails at once when the lab is told to stop.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        let stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .0
            .1
            .wait_timeout_while(stopped, duration, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if *stopped { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Fails if the lab was told to stop.
    pub(crate) fn check(&self) -> Result<()> {
        self.sleep(Duration::ZERO)
    }
}
