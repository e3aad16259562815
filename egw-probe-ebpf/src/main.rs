//! The observer in the kernel. Thin over `egw-probe-common`.
//!
//! Belongs here: entry points, maps, and how bytes are reached from BPF. Does not belong here: parsing, the tag codec, the
//! duplicate filter's rules, which all live in `egw-probe-common`, where the host tests them.
//!
//! Six entry points over one body: XDP, XDP with fragments, TC; each for Ethernet and for layer-3 devices, because the
//! first byte of a packet cannot tell which of the two it belongs to. Every one of them lets every packet pass.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For one `xadd`; the same feature that aya-ebpf needs, so no more of nightly than before.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(clippy::needless_pass_by_value, reason = "the entry points' signatures are the program macros'")]

mod maps;
mod observe;
mod reader;

use aya_ebpf::bindings::{__sk_buff, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use egw_probe_common::packet::Link;

use crate::observe::observe;
use crate::reader::{Linear, Loaded};

// TC_ACT_UNSPEC: "no opinion". Anything else would end a TCX chain for the programs behind this one.
const TC_NEXT: i32 = -1;

/// XDP on an Ethernet device, for drivers that hand over multi-buffer frames (kernel 5.18 and later).
#[xdp(frags)]
fn egw_xdp_frags(ctx: XdpContext) -> u32 {
    observe_xdp(&ctx, Link::Ethernet)
}

/// XDP on an Ethernet device.
#[xdp]
fn egw_xdp(ctx: XdpContext) -> u32 {
    observe_xdp(&ctx, Link::Ethernet)
}

/// XDP on a layer-3 device, with multi-buffer frames (kernel 5.18 and later).
#[xdp(frags)]
fn egw_xdp_l3_frags(ctx: XdpContext) -> u32 {
    observe_xdp(&ctx, Link::Ip)
}

/// XDP on a layer-3 device.
#[xdp]
fn egw_xdp_l3(ctx: XdpContext) -> u32 {
    observe_xdp(&ctx, Link::Ip)
}

/// TC ingress on an Ethernet device.
#[classifier]
fn egw_tc(ctx: TcContext) -> i32 {
    observe_tc(&ctx, Link::Ethernet)
}

/// TC ingress on a layer-3 device.
#[classifier]
fn egw_tc_l3(ctx: TcContext) -> i32 {
    observe_tc(&ctx, Link::Ip)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn observe_xdp(ctx: &XdpContext, link: Link) -> u32 {
    // Without bpf_xdp_load_bytes (kernel 5.18) only the first buffer can be read. Drivers put the headers there.
    let packet = Linear::new(ctx.data(), ctx.data_end());
    // SAFETY: the context the kernel handed to this program.
    let _ = observe(&packet, link, || unsafe { (*ctx.ctx).ingress_ifindex });
    xdp_action::XDP_PASS
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
fn observe_tc(ctx: &TcContext, link: Link) -> i32 {
    let packet = Linear::new(ctx.data(), ctx.data_end());
    let skb = ctx.skb.skb;
    // SAFETY: the context the kernel handed to this program.
    let truncated = observe(&packet, link, || unsafe { (*skb).ifindex }).is_err();
    if truncated && packet.len() < ctx.len() as usize {
        observe_paged(skb, link);
    }
    TC_NEXT
}

/// The same for a packet whose headers lie partly in pages that TC cannot reach directly. Rare, and so apart.
#[inline(never)]
fn observe_paged(skb: *mut __sk_buff, link: Link) {
    let ctx = TcContext::new(skb);
    // SAFETY: the context the kernel handed to this program.
    let _ = observe(&Loaded(&ctx), link, || unsafe { (*skb).ifindex });
}

// On the host the crate is only linted; the BPF object has no main.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program in which this is reachable.
    loop {}
}

// GPL-compatible, as bpf_ktime_get_ns and bpf_ringbuf_* ask for; the words are one of the kernel's module licences.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
