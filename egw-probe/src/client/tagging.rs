//! SYN tags: a client's number in the initial sequence number of every SYN (design section 6 of the README).

use std::io;

use egw_probe_common::tag::{Tag, TagKey};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::client::ClientConfig;
use crate::sys::tcp;

/// Tags one client's SYNs, one after another.
#[derive(Debug, Clone)]
pub(crate) struct Tagger {
    client: u16,
    key: TagKey,
    sent: u64,
}

impl Tagger {
    /// A tagger for client `1..=4095`, if this process may choose sequence numbers.
    ///
    /// # Errors
    /// What the kernel says to the attempt: `EPERM` without `CAP_NET_ADMIN`, which [`crate::sys::sandbox::keep_only`] makes effective
    /// where a file capability only permits it.
    pub(crate) fn new(client: u16, key: TagKey) -> io::Result<Self> {
        let trial = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        tcp::set_initial_sequence(&trial, 1)?;
        Ok(Self { client, key, sent: 0 })
    }

    /// Notes that the SYN with the last tag has left.
    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// The client's number.
    pub(crate) const fn client(&self) -> u16 {
        self.client
    }

    /// Gives the SYN that `socket` will send the next tag. It counts as sent only by [`Tagger::sent`].
    pub(crate) fn tag(&self, socket: &Socket) -> io::Result<()> {
        let tag = Tag::new(self.client, self.sent).ok_or(io::ErrorKind::InvalidInput)?;
        tcp::set_initial_sequence(socket, tag.encode(self.key))
    }
}

/// What tags the SYNs, if they are to be and can be.
pub(crate) fn tagger(config: &ClientConfig) -> anyhow::Result<Option<Tagger>> {
    let Some(tag) = config.tag else { return Ok(None) };
    match Tagger::new(tag.client, tag.key) {
        Ok(tagger) => {
            tracing::info!(client = tag.client, "SYNs are tagged");
            Ok(Some(tagger))
        }
        Err(error) => {
            let line = format!(
                "--tag: SYNs cannot be tagged: {error}; choosing sequence numbers needs CAP_NET_ADMIN: run as root, or \
                 `setcap cap_net_admin+p` on the file, or securityContext.capabilities.add [NET_ADMIN]"
            );
            anyhow::ensure!(!tag.required, line);
            tracing::warn!("{line}; going on without tags");
            Ok(None)
        }
    }
}
