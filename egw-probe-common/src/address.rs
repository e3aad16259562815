//! An IP address of either family, in the form that all maps and events use.

/// An IPv6 address, or an IPv4 address in 4-in-6 mapped form (RFC 4291 section 2.5.5.2).
///
/// Two words and not sixteen bytes, because BPF has only ten registers to hold it in. In memory it is the sixteen octets
/// in network order, on every host.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Address([u64; 2]);

// The last half of ::ffff:0.0.0.0.
const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
// The last half of ::1.
const LOOPBACK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

impl Address {
    /// An IPv4 address from its octets.
    #[inline]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, MAPPED | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d])])
    }

    /// An IPv6 address from its octets; one in mapped form is the IPv4 address.
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> Self {
        // The halves are taken in memory order, so the bytes lie in the words as they do on the wire.
        let whole = u128::from_ne_bytes(octets);
        let (low, high) = (whole as u64, (whole >> 64) as u64);
        if cfg!(target_endian = "little") { Self([low, high]) } else { Self([high, low]) }
    }

    /// The address whose sixteen octets lie in memory as these two words.
    #[inline]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] & MAPPED_MASK == MAPPED
    }

    /// The sixteen octets, IPv4 in mapped form.
    #[inline]
    pub const fn octets(self) -> [u8; 16] {
        let [first, second] = [self.0[0] as u128, self.0[1] as u128];
        let whole =
            if cfg!(target_endian = "little") { first | (second << 64) } else { (first << 64) | second };
        whole.to_ne_bytes()
    }

    /// The last four octets: all of an IPv4 address.
    #[inline]
    pub const fn v4_octets(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0[1].to_ne_bytes();
        [a, b, c, d]
    }

    /// Whether this is an address of the host to itself: all of 127.0.0.0/8 (RFC 1122 section 3.2.1.3), or `::1`.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        (self.is_v4() && self.v4_octets()[0] == 127) || (self.0[0] == 0 && self.0[1] == LOOPBACK)
    }

    /// The two words, for hashing.
    #[inline]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }
}

impl From<Address> for core::net::IpAddr {
    /// IPv4 for the mapped form.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(transparent) over integers: every bit pattern is a value.
unsafe impl aya::Pod for Address {}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::net::IpAddr;
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let address = Address::v4([192, 0, 2, 7]);
        assert_eq!(address, Address::from("::ffff:192.0.2.7".parse::<IpAddr>().unwrap()));
        assert_eq!(IpAddr::from(address).to_string(), "192.0.2.7");
        assert_eq!(address.v4_octets(), [192, 0, 2, 7]);
        assert!(address.is_v4());
    }

    #[test]
    fn loopback_is_a_network_in_one_family_and_an_address_in_the_other() {
        let is_loopback = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_loopback();
        assert!(["127.0.0.1", "127.255.0.9", "::1"].into_iter().all(is_loopback));
        assert!(!["128.0.0.1", "::2", "::", "1::1", "::127.0.0.1"].into_iter().any(is_loopback));
    }

    #[test]
    fn an_ipv6_address_keeps_its_octets_in_network_order() {
        let address = Address::from("2001:db8::7".parse::<IpAddr>().unwrap());
        assert_eq!(address.octets(), [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert!(!address.is_v4());
        assert!(!Address::from("::1".parse::<IpAddr>().unwrap()).is_v4());
    }
}
