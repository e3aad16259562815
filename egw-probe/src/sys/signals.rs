//! SIGTERM and SIGINT, as a descriptor that becomes readable.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM};

/// Both signals, from [`Signals::install`] on.
#[derive(Debug)]
pub struct Signals {
    received: UnixStream,
}

impl Signals {
    /// Takes both signals over. First thing in `main`: a process that is PID 1 in its container would ignore them.
    pub fn install() -> io::Result<Self> {
        let (received, send) = UnixStream::pair()?;
        received.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, send.try_clone()?)?;
        }
        Ok(Self { received })
    }

    /// Whether one has come. Once true, it stays true only for this call.
    pub fn take(&self) -> bool {
        let mut buffer = [0; 16];
        matches!((&self.received).read(&mut buffer), Ok(length) if length > 0)
    }

    /// Waits until one has come.
    pub fn wait(&self) {
        while !self.take() {
            let mut fds = [rustix::event::PollFd::new(&self.received, rustix::event::PollFlags::IN)];
            // Woken early is no harm: the loop looks again.
            let _ = rustix::event::poll(&mut fds, None);
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.received.as_fd()
    }
}
