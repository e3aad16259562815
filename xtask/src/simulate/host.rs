//! A host whose interfaces and addresses come and go, as netlink tells of it: what the target takes for its own addresses, and
//! which interfaces it would observe, against what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egw_probe::workbench::config::Selection;
use egw_probe::workbench::observer::{HostView, Interface, News};
use egw_probe_common::packet::Link;

use super::claims::Met;

/// How many things happen in a history.
const CHANGES: usize = 40;

#[derive(Debug, Default)]
struct Host {
    interfaces: BTreeMap<u32, (Interface, BTreeSet<IpAddr>)>,
    begun: u32,
}

impl Host {
    /// Lets something happen; what netlink says of it, in one of the orders in which it may.
    fn change(&mut self, random: &mut fastrand::Rng) -> Vec<News> {
        let known: Vec<u32> = self.interfaces.keys().copied().collect();
        let Some(index) = random.choice(known).filter(|_| random.u8(..5) > 0) else {
            self.begun += 1;
            let interface = Interface {
                name: format!("eth{}", random.u8(..4)),
                up: random.bool(),
                layer: if random.bool() { Link::Ethernet } else { Link::Ip },
            };
            self.interfaces.insert(self.begun, (interface.clone(), BTreeSet::new()));
            return vec![News::Interface(self.begun, interface)];
        };
        let Some((interface, addresses)) = self.interfaces.get_mut(&index) else { return vec![] };
        // So few that two interfaces often hold the same one.
        let address = match random.u8(..6) {
            last @ ..4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
            last => IpAddr::V6(Ipv6Addr::from(u128::from(last))),
        };
        match random.u8(..8) {
            0 => {
                let mut news: Vec<_> =
                    addresses.iter().map(|address| News::NoAddress(index, *address)).collect();
                news.truncate(random.usize(..=news.len()));
                news.insert(random.usize(..=news.len()), News::Gone(index));
                self.interfaces.remove(&index);
                news
            }
            1 => {
                interface.up ^= true;
                vec![News::Interface(index, interface.clone())]
            }
            2 => {
                interface.name = format!("net{}", random.u8(..4));
                vec![News::Interface(index, interface.clone()); 2]
            }
            3 | 4 => {
                addresses.remove(&address);
                vec![News::NoAddress(index, address)]
            }
            _ => {
                addresses.insert(address);
                vec![News::Address(index, address); random.usize(1..3)]
            }
        }
    }

    fn own(&self) -> BTreeSet<IpAddr> {
        self.interfaces.values().flat_map(|(_, addresses)| addresses).copied().collect()
    }

    fn to_observe(&self, selection: &Selection) -> BTreeMap<u32, Interface> {
        let is_selected = |interface: &Interface, addresses: &BTreeSet<IpAddr>| match selection {
            Selection::All => interface.up && !addresses.is_empty(),
            Selection::Named(names) => names.contains(&interface.name),
        };
        let all = self.interfaces.iter().map(|(index, (interface, addresses))| (index, interface, addresses));
        all.filter(|(_, interface, addresses)| is_selected(interface, addresses))
            .map(|(index, interface, _)| (*index, interface.clone()))
            .collect()
    }
}

/// The first claim about the host that does not hold in the world of this seed.
pub(super) fn violated(seed: u64, met: &mut Met) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x0057);
    let (mut host, mut view) = (Host::default(), HostView::default());
    let named = Selection::Named(vec!["eth0".to_owned(), "net1".to_owned()]);
    for _ in 0..CHANGES {
        for news in host.change(&mut random) {
            *met.entry("target: interface gone").or_default() += u64::from(matches!(news, News::Gone(_)));
            view.apply(news);
        }
        let own: BTreeSet<IpAddr> = view.own().collect();
        if own != host.own() {
            return Some(format!("{own:?} are taken for the addresses of {host:?}"));
        }
        for selection in [&Selection::All, &named] {
            let selected = view.selected(selection);
            *met.entry("target: interface to observe").or_default() += selected.len() as u64;
            if selected != host.to_observe(selection) {
                return Some(format!("of {host:?} {selected:?} would be observed"));
            }
        }
    }
    None
}
