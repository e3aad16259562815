//! What the kernel knows of a connection: the questions that no crate asks for us.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{MsgHdrMut, Socket};

use crate::sys::sockopt;

/// Segments, SYNs included, that the kernel sent again on this connection: `tcpi_total_retrans` of `TCP_INFO`.
pub(crate) fn retransmissions(socket: impl AsFd) -> io::Result<u32> {
    info(socket).map(|info| info.tcpi_total_retrans)
}

/// How long ago the handshake of an accepted connection was complete, if nothing has been sent on it yet: `tcpi_last_data_sent`
/// counts from the birth of the socket (tcp_create_openreq_child, net/ipv4/tcp_minisocks.c), in ticks of the kernel's clock
/// (1 to 10 ms).
pub(crate) fn since_handshake(socket: impl AsFd) -> io::Result<Duration> {
    info(socket).map(|info| Duration::from_millis(u64::from(info.tcpi_last_data_sent)))
}

fn info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, the size of `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid tcp_info, and the kernel only wrote integers over them.
    Ok(unsafe { info.assume_init() })
}

/// Has a socket whose handshake is under way delay its acknowledgement, by up to 200 ms (`TCP_QUICKACK` off:
/// tcp_rcv_synsent_state_process, net/ipv4/tcp_input.c).
pub(crate) fn hold_acknowledgement(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::TCP_QUICKACK, 0)
}

/// Whether ICMP told a connection attempt that a policy forbids it (RFC 1812, 5.2.7.1), or that there is no such port, which
/// to TCP only firewalls say. Of IPv4: there the kernel queues what came of an attempt without being asked (`ip_icmp_error`, since
/// Linux 5.8). IPv6's prohibitions are an error number of their own, `EACCES`.
pub(crate) fn is_forbidden_by_icmp(socket: &Socket) -> bool {
    let mut control = [MaybeUninit::<u8>::uninit(); 256];
    let length = {
        let mut message = MsgHdrMut::new().with_control(&mut control);
        match socket.recvmsg(&mut message, libc::MSG_ERRQUEUE) {
            Ok(_) => message.control_len(),
            Err(_) => return false,
        }
    };
    // SAFETY: the kernel has written that many bytes.
    let control: Vec<u8> = control[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
    forbids(&control)
}

/// Reads the first control message: its header, and of `struct sock_extended_err` (include/uapi/linux/errqueue.h) origin, type
/// and code.
fn forbids(control: &[u8]) -> bool {
    const PROHIBITED: [u8; 3] = [9, 10, 13];
    const NO_PORT: u8 = 3;
    let header = size_of::<libc::cmsghdr>();
    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let of_ipv4 = number(size_of::<usize>()) == Some(libc::IPPROTO_IP)
        && number(size_of::<usize>() + 4) == Some(libc::IP_RECVERR);
    let Some(&[origin, kind, code]) = control.get(header + 4..header + 7) else { return false };
    let unreachable = origin == libc::SO_EE_ORIGIN_ICMP && kind == 3;
    of_ipv4 && unreachable && (code == NO_PORT || PROHIBITED.contains(&code))
}

/// Makes a listener keep the headers of each connection's SYN (`TCP_SAVE_SYN`).
pub(crate) fn save_syns(listener: impl AsFd) -> io::Result<()> {
    set_option(listener, libc::TCP_SAVE_SYN, 1)
}

/// The network and transport headers of an accepted connection's SYN, once (`TCP_SAVED_SYN`); empty if none were kept.
pub(crate) fn saved_syn(socket: impl AsFd, headers: &mut [u8; 256]) -> io::Result<&[u8]> {
    let mut length = headers.len() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, the size of `headers`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(&headers[..length as usize]) } else { Err(io::Error::last_os_error()) }
}

fn set_option(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    sockopt::set_option(socket, libc::IPPROTO_TCP, option, value)
}

/// Chooses the initial sequence number of the SYN that a socket not yet connected will send. Needs `CAP_NET_ADMIN`.
///
/// By TCP_REPAIR (net/ipv4/tcp.c): the write queue's sequence number, set while the socket is closed, is what connect
/// begins with. To the kernel 0 means "choose one". The option resets SO_REUSEADDR.
pub(crate) fn set_initial_sequence(socket: impl AsFd, sequence: u32) -> io::Result<()> {
    const TCP_SEND_QUEUE: libc::c_int = 2;
    let socket = socket.as_fd();
    set_option(socket, libc::TCP_REPAIR, 1)?;
    set_option(socket, libc::TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)?;
    set_option(socket, libc::TCP_QUEUE_SEQ, sequence as libc::c_int)?;
    set_option(socket, libc::TCP_REPAIR, 0)
}

/// Chooses the segment size that the SYN of a socket not yet connected announces (`TCP_MAXSEG`, tcp(7)).
pub(crate) fn set_segment_size(socket: impl AsFd, size: u16) -> io::Result<()> {
    set_option(socket, libc::TCP_MAXSEG, libc::c_int::from(size))
}

/// The timestamp that the connection would send now (`TCP_TIMESTAMP`): milliseconds from an offset of its own.
pub(crate) fn timestamp(socket: impl AsFd) -> io::Result<u32> {
    let mut value: u32 = 0;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_TIMESTAMP,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Whether something of a connection that was shut down for writing has not been acknowledged, and still may be: not so once the
/// peer has reset it, whatever was in its queue then.
pub(crate) fn is_delivering(socket: impl AsFd) -> io::Result<bool> {
    /// States of `tcpi_state` (include/net/tcp_states.h) in which the FIN waits for its acknowledgement.
    const FIN_WAIT1: u8 = 4;
    const LAST_ACK: u8 = 9;
    const CLOSING: u8 = 11;
    info(socket).map(|info| matches!(info.tcpi_state, FIN_WAIT1 | LAST_ACK | CLOSING))
}

/// Bytes that the other end has not acknowledged, those not even sent included (`SIOCOUTQ`, tcp(7)).
pub(crate) fn outstanding_bytes(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and SIOCOUTQ (the number of TIOCOUTQ) writes one c_int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_accepted_connection_tells_how_long_it_has_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let begun = crate::sys::clock::Monotonic::now();
        std::thread::sleep(Duration::from_millis(60));
        let (accepted, _) = listener.accept().unwrap();
        let waited = since_handshake(&accepted).unwrap();
        let most = crate::sys::clock::Monotonic::now().since(begun) + Duration::from_millis(20);
        assert!(Duration::from_millis(40) <= waited && waited <= most, "{waited:?}");
    }

    #[test]
    fn a_fresh_connection_has_nothing_outstanding_and_a_full_one_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(outstanding_bytes(&stream).unwrap(), 0);
        assert_eq!(retransmissions(&stream).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        // Nobody reads: the peer's window fills, and what is left stays here.
        while stream.write(&[0; 8_192]).is_ok() {}
        assert!(outstanding_bytes(&stream).unwrap() > 0);
    }
}
