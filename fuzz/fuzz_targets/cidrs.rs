//! CIDRs: one is taken exactly if its address and length are, its host bits are masked, an IPv4 address in IPv6 form is an
//! IPv4 address, and what is written reads back the same.
#![no_main]

use std::net::IpAddr;

use egw_probe::workbench::config::parse_cidr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(net) = parse_cidr(text) else {
        assert_eq!(expected(text.trim()), None, "{text}: refused");
        return;
    };
    assert_eq!(parse_cidr(&net.to_string()).as_ref(), Ok(&net));
    assert_eq!(expected(text.trim()), Some((net.addr(), net.prefix_len())), "{text}");
});

/// Address without host bits, and length.
fn expected(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let plain = length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|_| plain)?;
    let (bits, width) = match address.parse().ok()? {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let host = width - if length <= width { length } else { return None };
    let masked = bits.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0);
    if width == 32 {
        return Some((IpAddr::V4((masked as u32).into()), length as u8));
    }
    match IpAddr::V6(masked.into()).to_canonical() {
        v4 @ IpAddr::V4(_) if length >= 96 => Some((v4, length as u8 - 96)),
        _ => Some((IpAddr::V6(masked.into()), length as u8)),
    }
}
