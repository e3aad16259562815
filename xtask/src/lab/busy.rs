//! Load: a thread for each processor that does nothing but spin, at normal priority, until dropped.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

/// Processors kept busy while this lives.
pub(crate) struct Busy {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    pub(crate) fn start() -> Result<Self> {
        let mut busy = Self { over: Arc::default(), threads: vec![] };
        for _ in 0..thread::available_parallelism()?.get() {
            let over = Arc::clone(&busy.over);
            let spin = move || {
                while !over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            };
            let thread = thread::Builder::new().name("busy".into()).spawn(spin);
            busy.threads.push(thread.context("cannot start a thread that spins")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
