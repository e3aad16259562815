//! TC filters at the clsact qdisc, for kernels before 6.6: the one way of attaching that outlives a killed process.
//!
//! The filters' handle is a random number, and their owner holds an abstract Unix socket named after it. Both belong to
//! the network namespace, and the kernel closes the socket however the owner ends, so a filter whose socket is gone is
//! stale. A process id and start time would not do: targets in two containers on the host's network may both be process
//! 1 and cannot see each other.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use crate::observer::error::{into_io, tc_into_io};
use crate::observer::netlink::Netlink;
use crate::observer::view::Interface;

// The first place of all; within one priority cls_bpf puts the newest filter in front.
const PRIORITY: u16 = 1;

/// Names of our programs as the filters carry them.
const PROGRAMS: [&str; 2] = ["egw_tc", "egw_tc_l3"];

/// The handle of all filters of this process, and the socket that says it is in use: made before the seccomp filter forbids
/// Unix sockets, and dropped after the filters.
#[derive(Debug)]
pub(super) struct Claim {
    handle: u32,
    _socket: UnixDatagram,
}

/// Attaches at the clsact qdisc of `interface`, which is created where it is missing and left there: others may use it. Dropping
/// the link removes the filter.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    claim: &Claim,
) -> io::Result<SchedClassifierLink> {
    match tc::qdisc_add_clsact(interface).map_err(tc_into_io) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e),
    }
    let options = NlOptions { priority: PRIORITY, handle: TcHandle::from(claim.handle), classid: None };
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::Netlink(options))
        .map_err(into_io)?;
    program.take_link(id).map_err(into_io)
}

/// A handle that nobody uses in this network namespace.
pub(super) fn claim() -> io::Result<Claim> {
    loop {
        let mut bytes = [0u8; 4];
        // SAFETY: the buffer is live and as long as said.
        if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } != 4 {
            return Err(io::Error::last_os_error());
        }
        let handle = u32::from_ne_bytes(bytes);
        if handle == 0 {
            // To the kernel: choose one.
            continue;
        }
        match bind(handle) {
            Ok(socket) => return Ok(Claim { handle, _socket: socket }),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(e),
        }
    }
}

fn bind(handle: u32) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("egw-probe/clsact/{handle:08x}"))?)
}

/// Removes the filters of ours whose owner is dead from one interface; how many there were.
pub(super) async fn remove_stale(
    netlink: &Netlink,
    ifindex: u32,
    interface: &Interface,
) -> io::Result<usize> {
    let request = netlink.handle().traffic_filter(ifindex.cast_signed()).get().ingress();
    let mut filters = request.execute();
    let mut removed = 0;
    while let Some(filter) = filters.try_next().await.map_err(io::Error::other)? {
        let Some((priority, handle)) = ours(&filter) else { continue };
        // Held until the filter is gone, so that nobody claims the handle meanwhile.
        let Ok(_socket) = bind(handle) else { continue };
        drop(SchedClassifierLink::attached(
            &interface.name,
            TcAttachType::Ingress,
            priority,
            TcHandle::from(handle),
            None,
        )?);
        removed += 1;
    }
    Ok(removed)
}

/// Priority and handle of a filter that an egw-probe made.
fn ours(filter: &TcMessage) -> Option<(u16, u32)> {
    let named = filter.attributes.iter().any(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().any(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => PROGRAMS.contains(&name.as_str()),
            _ => false,
        }),
        _ => false,
    });
    let handle = (u32::from(filter.header.handle.major) << 16) | u32::from(filter.header.handle.minor);
    (named && handle != 0).then_some(((filter.header.info >> 16) as u16, handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_handle_is_taken_until_its_owner_is_gone() {
        let claim = claim().unwrap();
        let handle = claim.handle;
        assert_ne!(handle, 0);
        assert_eq!(bind(handle).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(claim);
        assert!(bind(handle).is_ok());
    }
}
