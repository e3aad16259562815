//! How the packet walk reaches bytes in the kernel.
#![expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]

use core::ops::Deref;

use aya_ebpf::programs::TcContext;
use egw_probe_common::packet::Packet;

/// Directly readable packet memory: an XDP frame's first buffer, a socket buffer's linear part.
pub(crate) struct Linear {
    data: usize,
    data_end: usize,
}

impl Linear {
    #[inline(always)]
    pub(crate) fn new(data: usize, data_end: usize) -> Self {
        Self { data, data_end }
    }

    /// Bytes that can be read directly.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.data_end.wrapping_sub(self.data)
    }
}

impl Packet for Linear {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Deref<Target = [u8; N]>> {
        let start = self.data.wrapping_add(offset);
        if start.wrapping_add(N) > self.data_end {
            return None;
        }
        // SAFETY: the kernel guarantees data..data_end, and the check above is what its verifier asks for.
        Some(unsafe { &*(start as *const [u8; N]) })
    }
}

/// A socket buffer read through the helper, wherever its bytes lie.
pub(crate) struct Loaded<'a>(pub(crate) &'a TcContext);

impl Packet for Loaded<'_> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Deref<Target = [u8; N]>> {
        self.0.load(offset).ok().map(Copied)
    }
}

/// Bytes copied out of a packet.
struct Copied<const N: usize>([u8; N]);

impl<const N: usize> Deref for Copied<N> {
    type Target = [u8; N];

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
