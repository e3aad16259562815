//! A thread that works until it is told to end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

/// It works while this lives.
pub(super) struct Worker<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<T>>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts it. `work` returns soon after the flag that it is given is set.
    pub(super) fn start(
        name: &str,
        work: impl FnOnce(&AtomicBool) -> io::Result<T> + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.into()).spawn(move || work(&stopped));
        Ok(Self { stop, thread: Some(thread.with_context(|| format!("cannot start the {name} thread"))?) })
    }
}

impl<T> Worker<T> {
    /// Ends it, and returns what it made.
    pub(super) fn finish(mut self) -> Result<T> {
        let ended = self.end().expect("it ends once: here or when it is dropped");
        Ok(ended.map_err(|_| anyhow!("its thread panicked"))??)
    }

    fn end(&mut self) -> Option<thread::Result<io::Result<T>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
