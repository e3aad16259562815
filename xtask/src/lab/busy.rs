//! Load: a thread for each processor that does nothing but spin, at normal priority, until dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::{hint, thread};

use anyhow::Result;

use super::worker::Worker;

/// Processors kept busy while this lives.
pub(crate) struct Busy {
    _spinning: Vec<Worker<()>>,
}

impl Busy {
    pub(crate) fn start() -> Result<Self> {
        let spin = |stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) {
                hint::spin_loop();
            }
            Ok(())
        };
        let processors = thread::available_parallelism()?.get();
        Ok(Self { _spinning: (0..processors).map(|_| Worker::start("busy", spin)).collect::<Result<_>>()? })
    }
}
