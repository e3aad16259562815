//! What is known of the host's interfaces and addresses, and what follows from it: pure code over netlink's news.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use egw_probe_common::packet::Link as Layer;

use crate::config::choice::Selection;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// What its packets begin with.
    pub layer: Layer,
}

/// One piece of news, with the interface's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An interface is there, or has changed.
    Interface(u32, Interface),
    /// An interface is gone, and its addresses with it.
    Gone(u32),
    /// An address has been added.
    Address(u32, IpAddr),
    /// An address has been removed.
    NoAddress(u32, IpAddr),
}

/// The host as netlink has told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostView {
    interfaces: BTreeMap<u32, Interface>,
    addresses: BTreeSet<(u32, IpAddr)>,
    /// Each own address, and how many interfaces hold it.
    own: BTreeMap<IpAddr, u32>,
}

impl HostView {
    /// Takes in one piece of news.
    pub fn apply(&mut self, news: News) {
        match news {
            News::Interface(index, interface) => {
                self.interfaces.insert(index, interface);
            }
            News::Gone(index) => {
                self.interfaces.remove(&index);
                let held: Vec<IpAddr> = self.held_by(index).collect();
                for address in held {
                    self.remove(index, address);
                }
            }
            News::Address(index, address) => {
                if self.addresses.insert((index, address)) {
                    *self.own.entry(address).or_default() += 1;
                }
            }
            News::NoAddress(index, address) => self.remove(index, address),
        }
    }

    fn remove(&mut self, index: u32, address: IpAddr) {
        if !self.addresses.remove(&(index, address)) {
            return;
        }
        if let Some(holders) = self.own.get_mut(&address) {
            *holders -= 1;
            if *holders == 0 {
                self.own.remove(&address);
            }
        }
    }

    /// Addresses of one interface.
    fn held_by(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        let least = (index, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.addresses
            .range(least..)
            .take_while(move |(holder, _)| *holder == index)
            .map(|(_, address)| *address)
    }

    /// The host's own addresses, in order.
    pub fn own(&self) -> impl Iterator<Item = IpAddr> {
        self.own.keys().copied()
    }

    /// The interfaces to observe, by index.
    pub fn selected(&self, selection: &Selection) -> BTreeMap<u32, Interface> {
        self.interfaces
            .iter()
            .filter(|(index, interface)| match selection {
                Selection::All => interface.up && self.held_by(**index).next().is_some(),
                Selection::Named(names) => names.contains(&interface.name),
            })
            .map(|(index, interface)| (*index, interface.clone()))
            .collect()
    }

    /// An interface, if it is there.
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    /// The first of the named interfaces that is not there.
    pub fn first_missing<'a>(&self, selection: &'a Selection) -> Option<&'a str> {
        let Selection::Named(names) = selection else { return None };
        names.iter().find(|name| !self.interfaces.values().any(|i| i.name == **name)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, up: bool) -> Interface {
        Interface { name: name.to_owned(), up, layer: Layer::Ethernet }
    }

    fn host() -> HostView {
        let mut view = HostView::default();
        for news in [
            News::Interface(1, interface("lo", true)),
            News::Interface(2, interface("eth0", true)),
            News::Interface(3, interface("eth1", false)),
            News::Interface(4, interface("port", true)),
            News::Address(1, "127.0.0.1".parse().unwrap()),
            News::Address(2, "192.0.2.1".parse().unwrap()),
            News::Address(2, "2001:db8::1".parse().unwrap()),
            News::Address(3, "192.0.2.9".parse().unwrap()),
        ] {
            view.apply(news);
        }
        view
    }

    fn names(view: &HostView, selection: &Selection) -> Vec<String> {
        view.selected(selection).into_values().map(|interface| interface.name).collect()
    }

    #[test]
    fn all_means_up_and_with_an_address() {
        assert_eq!(names(&host(), &Selection::All), ["lo", "eth0"]);
    }

    #[test]
    fn a_named_interface_counts_without_an_address_and_while_it_is_down() {
        let selection = Selection::Named(vec!["port".to_owned(), "eth1".to_owned()]);
        assert_eq!(names(&host(), &selection), ["eth1", "port"]);
        assert_eq!(host().first_missing(&selection), None);
        assert_eq!(host().first_missing(&Selection::Named(vec!["eth7".to_owned()])), Some("eth7"));
    }

    #[test]
    fn an_interface_that_goes_away_takes_its_addresses_along() {
        let mut view = host();
        view.apply(News::Gone(2));
        assert!(!view.own().any(|own| own == "192.0.2.1".parse::<IpAddr>().unwrap()));
        view.apply(News::Interface(9, interface("eth0", true)));
        assert_eq!(names(&view, &Selection::All), ["lo"]);
        view.apply(News::Address(9, "192.0.2.1".parse().unwrap()));
        assert_eq!(names(&view, &Selection::All), ["lo", "eth0"]);
    }

    #[test]
    fn an_address_on_two_interfaces_is_own_until_both_have_lost_it() {
        let mut view = host();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        view.apply(News::Address(4, address));
        view.apply(News::NoAddress(2, address));
        assert!(view.own().any(|own| own == address));
        view.apply(News::NoAddress(4, address));
        assert!(!view.own().any(|own| own == address));
    }
}
