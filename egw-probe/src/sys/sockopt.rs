//! Socket options that no crate knows.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::document::stress::PortRange;

/// Sets a socket option whose value is an integer, for those that no crate knows.
pub(crate) fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads one c_int from a pointer to one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `IP_LOCAL_PORT_RANGE` (include/uapi/linux/in.h), since Linux 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Narrows the local ports that `connect` chooses from to these.
///
/// # Errors
/// A kernel before 6.3 does not know the option: `ENOPROTOOPT`.
pub(crate) fn set_local_ports(socket: impl AsFd, PortRange { low, high }: PortRange) -> io::Result<()> {
    let value = u32::from(high) << 16 | u32::from(low);
    set_option(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, value.cast_signed())
}
