//! A packet socket on one device: whole frames in, stamped by the kernel, and whole frames out.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::sys::time::TimeSpec;

/// Room for bursts while the reader is busy.
const RECEIVE_BUFFER_BYTES: c_int = 16 << 20;
/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`, which the libc crate lacks.
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// The largest frame with its header: 64 KiB of segmentation offload, `struct virtio_net_hdr`, Ethernet.
pub(crate) const LARGEST_FRAME: usize = 10 + 14 + (64 << 10);

/// A packet socket. Each frame begins with the kernel's `struct virtio_net_hdr`, so that checksums and segmentation
/// that the sender's stack left to the device stay undone on the way, as on a plain wire between two namespaces.
pub(crate) struct PacketSocket(OwnedFd);

/// A received frame: its length, and when it arrived, by `CLOCK_REALTIME`.
pub(crate) struct Received {
    pub(crate) length: usize,
    pub(crate) at: TimeSpec,
}

impl PacketSocket {
    /// Opens a socket for all that arrives at `device` of the calling thread's namespace.
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        let all_protocols = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the call takes no pointers. Protocol 0: nothing is received before the socket is bound.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and owned by nobody else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)?;
        let name = CString::new(device)?;
        // SAFETY: the name ends with a zero byte and outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all_protocols;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the pointer and the length describe one live value.
        let bound = unsafe {
            libc::bind(fd, (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
        };
        if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
    }

    fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        // SAFETY: the pointer and the length describe one live value.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                mem::size_of_val(&value) as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next frame that has arrived, if there is one.
    pub(crate) fn receive(&self, frame: &mut [u8]) -> io::Result<Option<Received>> {
        let mut control = cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(frame)];
        let message =
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let at = stamp.ok_or_else(|| io::Error::other("the kernel did not stamp a frame"))?;
        Ok(Some(Received { length: message.bytes, at }))
    }

    /// Sends a frame. False if the kernel had no room for it.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match send(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How many frames the kernel dropped for want of room since the last call.
    pub(crate) fn dropped(&self) -> io::Result<u64> {
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut statistics: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: both pointers are to live values, and the length is that of the first.
        let read = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if read == 0 { Ok(statistics.tp_drops.into()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
