//! Threads, and what to say where none can be started.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Starts a thread of this name.
///
/// # Errors
/// Which thread it was, and what may be in the way.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    named(name).spawn(work).map_err(|error| refused(name, &error))
}

/// The same, with borrowed values.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    named(name).spawn_scoped(scope, work).map_err(|error| refused(name, &error))
}

fn named(name: &str) -> Builder {
    Builder::new().name(name.to_owned())
}

/// What to say of a thread that `name` was for.
pub(crate) fn refused(name: &str, error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => "; a seccomp profile may forbid clone or clone3",
        // musl says so whatever clone(2) answered.
        Some(libc::EAGAIN) => {
            "; a limit on processes may be reached (`ulimit -u`, pids.max), or a seccomp profile forbid clone"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("the thread \"{name}\" cannot be started: {error}{hint}"))
}
