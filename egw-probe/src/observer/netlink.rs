//! Netlink: reads the host's interfaces and addresses, then listens for changes.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use egw_probe_common::packet::Link as Layer;
use futures_util::stream::FusedStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use crate::observer::error::KernelError;
use crate::observer::view::{HostView, Interface, News};

/// A dump that takes longer has failed: the kernel answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the kernel had to say.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something has changed.
    News(News),
    /// Notices are missing, because the socket's buffer overflowed or the socket is of no use any more: read everything anew.
    Missed,
}

/// A subscription to interface and address changes of the current network namespace.
pub(crate) struct Netlink {
    handle: Handle,
    notices: Box<dyn FusedStream<Item = Notice> + Send + Unpin>,
    hung_up: bool,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// Subscribes. Must run inside a tokio runtime, and in the network namespace that is to be watched. Needs no right.
    pub(crate) fn subscribe() -> Result<Self, KernelError> {
        let (connection, handle, messages) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])
        .map_err(|source| KernelError::Netlink { doing: "subscribing to interface changes", source })?;
        let notices = messages.filter_map(|(message, _)| std::future::ready(notice(&message.payload)));
        Ok(Self {
            handle,
            notices: Box::new(notices.fuse()),
            hung_up: false,
            connection: tokio::spawn(connection),
        })
    }

    /// Reads all interfaces and addresses. Changes that happen meanwhile are among the notices too; applying them twice
    /// does no harm.
    pub(crate) async fn read_all(&self) -> Result<HostView, KernelError> {
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
        tokio::time::timeout(PATIENCE, self.dump())
            .await
            .unwrap_or_else(late)
            .map_err(|source| KernelError::Netlink { doing: "reading interfaces and addresses", source })
    }

    async fn dump(&self) -> io::Result<HostView> {
        let failed = |error: rtnetlink::Error| io::Error::other(error);
        let mut view = HostView::default();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed)? {
            if let Some(news) = interface(&link) {
                view.apply(news);
            }
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed)? {
            if let Some(address) = address(&message) {
                view.apply(News::Address(message.header.index, address));
            }
        }
        Ok(view)
    }

    /// The next notice. A connection that has broken off says once that notices are missing, and nothing more.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.notices.next().await {
            Some(notice) => notice,
            None if self.hung_up => std::future::pending().await,
            None => {
                self.hung_up = true;
                Notice::Missed
            }
        }
    }

    /// The next notice, if there is one already.
    pub(crate) fn next_now(&mut self) -> Option<Notice> {
        self.notices.next().now_or_never().flatten()
    }

    /// For requests of other rooms.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn notice(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Notice> {
    match payload {
        NetlinkPayload::Overrun(_) => Some(Notice::Missed),
        NetlinkPayload::InnerMessage(message) => news(message).map(Notice::News),
        _ => None,
    }
}

fn news(message: &RouteNetlinkMessage) -> Option<News> {
    match message {
        RouteNetlinkMessage::NewLink(link) => interface(link),
        RouteNetlinkMessage::DelLink(link) => is_of_the_device(link).then_some(News::Gone(link.header.index)),
        RouteNetlinkMessage::NewAddress(m) => Some(News::Address(m.header.index, address(m)?)),
        RouteNetlinkMessage::DelAddress(m) => Some(News::NoAddress(m.header.index, address(m)?)),
        _ => None,
    }
}

/// Whether a message is of a device, and not of what a protocol thinks of it: a port that leaves its bridge is told of by an
/// `RTM_DELLINK` of `AF_BRIDGE` (`br_ifinfo_notify`, net/bridge/br_netlink.c).
fn is_of_the_device(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn interface(link: &LinkMessage) -> Option<News> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let name = name.filter(|_| is_of_the_device(link))?;
    // Loopback has an Ethernet header too, of zeros. All else that TC and XDP reach hands over bare IP.
    let layer = match link.header.link_layer_type {
        LinkLayerType::Ether | LinkLayerType::Loopback => Layer::Ethernet,
        _ => Layer::Ip,
    };
    let up = link.header.flags.contains(LinkFlags::Up);
    Some(News::Interface(link.header.index, Interface { name, up, layer }))
}

/// The local address: on a point-to-point interface `Address` is the peer's, and `Local` the own.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    of(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None })
        .or_else(|| of(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))
}
