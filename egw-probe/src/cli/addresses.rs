//! Several addresses in one word: an address, a CIDR, or a first and a last one.

use std::net::IpAddr;

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv6AddrRange};

/// Most addresses that one word may stand for: with 28,000 ports each, more connections than a host can hold.
pub(crate) const MOST: usize = 4096;

/// Reads `IP`, `CIDR` (its host addresses) or `IP-IP`.
pub(super) fn parse_range(text: &str) -> Result<IpAddrRange, String> {
    let text = text.trim();
    let range = if let Ok(net) = text.parse::<IpNet>() {
        net.hosts()
    } else {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(IpAddr::V4(first)), Ok(IpAddr::V4(last))) if first <= last => {
                Ipv4AddrRange::new(first, last).into()
            }
            (Ok(IpAddr::V6(first)), Ok(IpAddr::V6(last))) if first <= last => {
                Ipv6AddrRange::new(first, last).into()
            }
            _ => {
                return Err(
                    "no addresses: write 10.0.0.5, 10.0.0.0/24 or 10.0.0.5-10.0.0.9, the lower one first"
                        .to_owned(),
                );
            }
        }
    };
    if range.take(MOST + 1).count() > MOST {
        return Err(format!("more than {MOST} addresses: write a smaller range"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_an_address_a_cidr_or_a_range() {
        for (text, expected) in [
            ("10.0.0.5", &["10.0.0.5"][..]),
            ("10.0.0.6/30", &["10.0.0.5", "10.0.0.6"]),
            ("10.0.0.255-10.0.1.1", &["10.0.0.255", "10.0.1.0", "10.0.1.1"]),
            ("2001:db8::1-2001:db8::2", &["2001:db8::1", "2001:db8::2"]),
        ] {
            let addresses: Vec<String> =
                parse_range(text).unwrap().map(|address| address.to_string()).collect();
            assert_eq!(addresses, expected, "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.9-10.0.0.5", "10.0.0.1-2001:db8::1", "10.0.0.0/8", "2001:db8::/64"]
        {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
