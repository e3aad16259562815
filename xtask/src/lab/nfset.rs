//! Netlink messages that change one element of an nftables set, built beforehand so that sending them is one
//! system call.
//!
//! The kernel handles a batch (begin, change, end) inside `send`: under the namespace's own nftables lock, visible to
//! packets all at once when the generation flips (`nf_tables_commit`, ``net/netfilter/nf_tables_api.c``), before `send`
//! returns. Unlike rules and routes it takes no lock that other namespaces share.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

/// The table the lab's sets live in.
pub(crate) const TABLE: &str = "egwl";

const NEW: u16 = ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_NEWSETELEM) as u16;
const DELETE: u16 = ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_DELSETELEM) as u16;
/// `IPCTNL_MSG_CT_DELETE` of `linux/netfilter/nfnetlink_conntrack.h`.
const FORGET: u16 = ((libc::NFNL_SUBSYS_CTNETLINK << 8) | 2) as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
// Attribute numbers of linux/netfilter/nf_tables.h.
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;

/// A set of `type ifname` in the lab's table of a family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub(crate) family: c_int,
    pub(crate) name: &'static str,
}

/// A batch of netlink messages, ready to send.
pub(crate) struct Batch(Vec<u8>);

/// Adds an interface name to a set.
pub(crate) fn add(set: Set, interface: &str) -> Batch {
    change(NEW, CREATE, set, Some(interface))
}

/// Takes an interface name out of a set.
pub(crate) fn delete(set: Set, interface: &str) -> Batch {
    change(DELETE, 0, set, Some(interface))
}

/// Empties a set.
pub(crate) fn flush(set: Set) -> Batch {
    change(DELETE, 0, set, None)
}

/// Makes the namespace forget all its connections (`ctnetlink_flush_iterate`, `net/netfilter/nf_conntrack_netlink.c`).
/// Not a batch: a message of its own, whose refusal is read in the same way.
pub(crate) fn forget_connections() -> Batch {
    Batch(message(FORGET, 0, libc::AF_UNSPEC, 0, &[]))
}

fn change(kind: u16, flags: u16, set: Set, interface: Option<&str>) -> Batch {
    let mut body = attribute(NFTA_SET_ELEM_LIST_TABLE, &c_string(TABLE));
    body.extend(attribute(NFTA_SET_ELEM_LIST_SET, &c_string(set.name)));
    if let Some(interface) = interface {
        let mut name = interface.as_bytes().to_vec();
        name.resize(libc::IFNAMSIZ, 0);
        let key = nested(NFTA_SET_ELEM_KEY, &attribute(NFTA_DATA_VALUE, &name));
        body.extend(nested(NFTA_SET_ELEM_LIST_ELEMENTS, &nested(NFTA_LIST_ELEM, &key)));
    }
    let subsystem = libc::NFNL_SUBSYS_NFTABLES as u16;
    let mut batch = message(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, libc::AF_UNSPEC, subsystem, &[]);
    batch.extend(message(kind, flags, set.family, 0, &body));
    batch.extend(message(libc::NFNL_MSG_BATCH_END as u16, 0, libc::AF_UNSPEC, subsystem, &[]));
    Batch(batch)
}

/// `struct nlmsghdr`, then `struct nfgenmsg`, then the attributes.
fn message(kind: u16, flags: u16, family: c_int, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let flags = flags | libc::NLM_F_REQUEST as u16;
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend((20 + attributes.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family as u8, libc::NFNETLINK_V0 as u8]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | libc::NLA_F_NESTED as u16, attributes)
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A netfilter netlink socket. It stays in the namespace it was opened in.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Hands a batch to the kernel. When this returns the change is in force, unless [`Self::refusal`] says otherwise.
    pub(crate) fn send(&self, batch: &Batch) -> io::Result<()> {
        // SAFETY: the pointer and the length describe one live buffer.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), batch.0.as_ptr().cast(), batch.0.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The error the kernel answered the batches sent so far with, if it refused one.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        let mut answer = [0_u8; 4096];
        loop {
            // SAFETY: the pointer and the length describe one live buffer.
            let length = unsafe {
                libc::recv(self.0.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT)
            };
            if length < 20 {
                return None;
            }
            let kind = u16::from_ne_bytes([answer[4], answer[5]]);
            let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            if c_int::from(kind) == libc::NLMSG_ERROR && code != 0 {
                return Some(io::Error::from_raw_os_error(-code));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_three_aligned_messages_whose_lengths_add_up() {
        let Batch(bytes) = add(Set { family: libc::NFPROTO_INET, name: "policy" }, "pod1");
        let mut lengths = vec![];
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            lengths.push(length);
            rest = &rest[length.next_multiple_of(4)..];
        }
        assert_eq!(lengths, [20, 20 + 12 + 12 + 32, 20]);
    }
}
