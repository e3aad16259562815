//! Netlink: reads the host's interfaces and addresses, then listens for changes.

use std::io;
use std::net::IpAddr;

use egw_probe_common::packet::Link as Layer;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use crate::observer::error::KernelError;
use crate::observer::view::{HostView, Interface, News};

/// What the kernel had to say.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something has changed.
    News(News),
    /// The socket's buffer overflowed and notices are missing: read everything anew.
    Missed,
}

/// A subscription to interface and address changes of the current network namespace.
pub(crate) struct Netlink {
    handle: Handle,
    notices: Box<dyn Stream<Item = Notice> + Send + Unpin>,
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
        Ok(Self { handle, notices: Box::new(notices), connection: tokio::spawn(connection) })
    }

    /// Reads all interfaces and addresses. Changes that happen meanwhile are among the notices too; applying them twice
    /// does no harm.
    pub(crate) async fn read_all(&self) -> Result<HostView, KernelError> {
        let failed = |e: rtnetlink::Error| KernelError::Netlink {
            doing: "reading interfaces and addresses",
            source: io::Error::other(e),
        };
        let mut view = HostView::default();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed)? {
            view.apply(interface(&link));
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed)? {
            if let Some(address) = address(&message) {
                view.apply(News::Address(message.header.index, address));
            }
        }
        Ok(view)
    }

    /// The next notice; waits for ever when the kernel has hung up, which it does not do.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.notices.next().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
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
        RouteNetlinkMessage::NewLink(link) => Some(interface(link)),
        RouteNetlinkMessage::DelLink(link) => Some(News::Gone(link.header.index)),
        RouteNetlinkMessage::NewAddress(m) => Some(News::Address(m.header.index, address(m)?)),
        RouteNetlinkMessage::DelAddress(m) => Some(News::NoAddress(m.header.index, address(m)?)),
        _ => None,
    }
}

fn interface(link: &LinkMessage) -> News {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    // Loopback has an Ethernet header too, of zeros. All else that TC and XDP reach hands over bare IP.
    let layer = match link.header.link_layer_type {
        LinkLayerType::Ether | LinkLayerType::Loopback => Layer::Ethernet,
        _ => Layer::Ip,
    };
    News::Interface(
        link.header.index,
        Interface { name: name.unwrap_or_default(), up: link.header.flags.contains(LinkFlags::Up), layer },
    )
}

/// The local address: on a point-to-point interface `Address` is the peer's, and `Local` the own.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    of(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None })
        .or_else(|| of(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))
}
