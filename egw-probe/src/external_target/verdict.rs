//! Whether a source gets its pong: longest-prefix match is not needed where every prefix means the same.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::verdict::Verdict;

/// The allowed CIDRs.
#[derive(Debug, Clone)]
pub struct AllowedSources {
    nets: Vec<IpNet>,
}

impl AllowedSources {
    /// Aggregates the CIDRs, so that a source is compared with as few as possible.
    pub fn new(nets: &[IpNet]) -> Self {
        Self { nets: IpNet::aggregate(&nets.to_vec()) }
    }

    /// The verdict on a source. A 4-in-6 mapped address is the IPv4 address.
    pub fn verdict(&self, source: IpAddr) -> Verdict {
        let source = source.to_canonical();
        if self.nets.iter().any(|net| net.contains(&source)) { Verdict::Allowed } else { Verdict::Denied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(nets: &[&str], source: &str) -> Verdict {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        AllowedSources::new(&nets).verdict(source.parse().unwrap())
    }

    #[test]
    fn a_source_is_allowed_inside_any_cidr_of_either_family() {
        let nets = ["192.0.2.0/24", "2001:db8::/64", "198.51.100.7/32"];
        for source in ["192.0.2.255", "2001:db8::ffff", "198.51.100.7", "::ffff:192.0.2.1"] {
            assert_eq!(verdict(&nets, source), Verdict::Allowed, "{source}");
        }
        for source in ["192.0.3.0", "2001:db8:0:1::", "198.51.100.6", "::ffff:192.0.3.1", "::192.0.2.1"] {
            assert_eq!(verdict(&nets, source), Verdict::Denied, "{source}");
        }
    }

    #[test]
    fn all_of_ipv4_is_not_all_of_ipv6() {
        assert_eq!(verdict(&["0.0.0.0/0"], "255.255.255.255"), Verdict::Allowed);
        assert_eq!(verdict(&["0.0.0.0/0"], "2001:db8::1"), Verdict::Denied);
        assert_eq!(verdict(&["::/0"], "192.0.2.1"), Verdict::Denied);
    }
}
