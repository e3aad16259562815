//! One epoll: what is ready, as plain values.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub(crate) use rustix::event::epoll::EventFlags;
use rustix::event::{Timespec, epoll};

use crate::sys::clock::Monotonic;

/// Something that is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// What it was added as.
    pub token: u64,
    /// What it is ready for.
    pub flags: EventFlags,
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Events taken from the kernel at a time.
    pub(crate) const BATCH: usize = 256;

    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches `source` as `token`, until it is closed or removed.
    pub(crate) fn add(&self, source: impl AsFd, token: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), interest)?)
    }

    /// Waits until something is ready or `until` has come, without end if there is no `until`; appends to `ready`.
    pub(crate) fn wait(&self, until: Option<Monotonic>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = until.map(|until| timespec(until.since(Monotonic::now())));
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; Self::BATCH];
        match epoll::wait(&self.epoll, &mut room[..], timeout.as_ref()) {
            Ok((events, _)) => {
                ready
                    .extend(events.iter().map(|event| Ready { token: event.data.u64(), flags: event.flags }));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Readable while something is ready.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A length of time as the kernel takes it.
pub(crate) fn timespec(length: Duration) -> Timespec {
    Timespec { tv_sec: length.as_secs() as i64, tv_nsec: i64::from(length.subsec_nanos()) }
}
