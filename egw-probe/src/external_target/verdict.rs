//! Whether a source gets its pong: longest-prefix match is not needed where every prefix means the same.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::verdict::Verdict;

/// The allowed CIDRs.
#[derive(Debug, Clone)]
pub struct AllowedSources {
    /// First and last address of each, apart from each other and in order.
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl AllowedSources {
    /// Aggregates the CIDRs, so that at most one of them can contain a source.
    pub fn new(nets: &[IpNet]) -> Self {
        let nets = IpNet::aggregate(&nets.to_vec());
        let mut ranges: Vec<_> = nets.iter().map(|net| (net.network(), net.broadcast())).collect();
        ranges.sort_unstable();
        Self { ranges }
    }

    /// The verdict on a source. A 4-in-6 mapped address is the IPv4 address.
    pub fn verdict(&self, source: IpAddr) -> Verdict {
        let source = source.to_canonical();
        let after = self.ranges.partition_point(|(first, _)| *first <= source);
        let inside = after.checked_sub(1).is_some_and(|at| source <= self.ranges[at].1);
        if inside { Verdict::Allowed } else { Verdict::Denied }
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

    #[test]
    fn of_many_cidrs_each_is_found_and_nothing_between_them() {
        let net = |number: u32| IpNet::new((number << 8).to_be_bytes().into(), 25).unwrap();
        let mut nets: Vec<IpNet> = (0..100_000).rev().map(net).collect();
        nets.push("2001:db8::/64".parse().unwrap());
        let allowed = AllowedSources::new(&nets);
        for number in 0..100_000_u32 {
            for (host, verdict) in [(0, Verdict::Allowed), (127, Verdict::Allowed), (128, Verdict::Denied)] {
                let source = ((number << 8) + host).to_be_bytes();
                assert_eq!(allowed.verdict(source.into()), verdict, "{source:?}");
            }
        }
        assert_eq!(allowed.verdict([255, 255, 255, 255].into()), Verdict::Denied);
        assert_eq!(allowed.verdict("2001:db8::9".parse().unwrap()), Verdict::Allowed);
    }
}
