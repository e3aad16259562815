//! The observer on a thread of its own, with no more rights than it still needs.

use std::sync::mpsc;

use caps::Capability;
use tokio::sync::oneshot;

use crate::observer::error::KernelError;
use crate::observer::metrics::KernelMetrics;
use crate::observer::shared::{ObserverHandle, SynListener};
use crate::observer::task::{KernelConfig, KernelObserver};
use crate::sys::user::NextUser;
use crate::sys::{sandbox, thread};

/// A running kernel side.
pub(crate) struct KernelThread {
    /// Access to what it sees.
    pub handle: ObserverHandle,
    /// The capabilities that threads need that read its maps: none from Linux 5.19 on.
    pub needed: Vec<Capability>,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl KernelThread {
    /// Loads and attaches; returns once it is in force, and its thread has become `user`.
    pub(crate) fn start(
        config: KernelConfig,
        metrics: KernelMetrics,
        on_syn: Option<SynListener>,
        user: NextUser,
    ) -> Result<Self, KernelError> {
        let failed = |source| KernelError::System { doing: "starting the observer's thread", source };
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn("observer", move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // Whoever started us waits for this, here and below.
                Err(source) => {
                    let _ = tell.send(Err(failed(source)));
                    return;
                }
            };
            let started = runtime.block_on(async {
                let observer = KernelObserver::start(&config, metrics, on_syn).await?;
                let needed = observer.needed_capabilities();
                let handle = observer.handle();
                sandbox::shed(user, &needed)
                    .map_err(|source| KernelError::System { doing: "dropping rights", source })?;
                let _ = tell.send(Ok((handle.clone(), needed)));
                let ended = observer
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await;
                if let Err(error) = ended {
                    handle.0.ended(&format!("it broke off, its figures stand still: {error}"));
                }
                Ok(())
            });
            if let Err(error) = started {
                let _ = tell.send(Err(error));
            }
        })
        .map_err(failed)?;
        match told.recv() {
            Ok(Ok((handle, needed))) => Ok(Self { handle, needed, stop, thread }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(failed(std::io::Error::other("it ended at once"))),
        }
    }

    /// Detaches everything.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
