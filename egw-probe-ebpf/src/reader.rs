//! How the packet walk reaches bytes in the kernel.
#![expect(clippy::inline_always, reason = "the verifier tracks packet bounds only within one function")]

use aya_ebpf::programs::TcContext;
use egw_probe_common::packet::{Bytes, Packet};

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
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Bytes> {
        let start = self.data.wrapping_add(offset);
        if start.wrapping_add(N) > self.data_end {
            return None;
        }
        Some(Direct::<N>(start))
    }
}

/// `N` bytes of packet memory, from this address on, whose bounds have been checked.
struct Direct<const N: usize>(usize);

#[cfg(target_arch = "bpf")]
macro_rules! load_instruction {
    ($width:literal, $at:expr, $start:expr) => {{
        let value: u64;
        // SAFETY: the kernel guarantees data..data_end, and `Linear::read` made the check that its verifier asks for.
        unsafe {
            core::arch::asm!(
                concat!("{value} = *(u", $width, " *)({start} + {at})"),
                value = lateout(reg) value,
                start = in(reg) $start,
                at = const $at,
                options(pure, readonly, nostack),
            );
        }
        value
    }};
}

// On the host, where nothing runs it, so that it compiles for the lints.
#[cfg(not(target_arch = "bpf"))]
macro_rules! load_instruction {
    ($width:literal, $at:expr, $start:expr) => {
        ($start + $at) as u64 % $width
    };
}

/// Loads from packet memory by one instruction, written out because the compiler would make one of each byte: where a
/// header begins is not aligned. The kernel takes such loads from packets on machines that have them (x86-64 and arm64 do);
/// telling the compiler so would make it read the stack unaligned too, which no verifier takes.
macro_rules! load {
    ($width:literal, $n:expr, $at:expr, $start:expr) => {{
        const { assert!($at + $width / 8 <= $n) };
        load_instruction!($width, $at, $start)
    }};
}

impl<const N: usize> Bytes for Direct<N> {
    #[inline(always)]
    fn byte<const AT: usize>(&self) -> u8 {
        load!(8, N, AT, self.0) as u8
    }

    #[inline(always)]
    fn be16<const AT: usize>(&self) -> u16 {
        u16::from_be(load!(16, N, AT, self.0) as u16)
    }

    #[inline(always)]
    fn be32<const AT: usize>(&self) -> u32 {
        u32::from_be(load!(32, N, AT, self.0) as u32)
    }

    #[inline(always)]
    fn word<const AT: usize>(&self) -> u64 {
        load!(64, N, AT, self.0)
    }
}

/// A socket buffer read through the helper, wherever its bytes lie.
pub(crate) struct Loaded<'a>(pub(crate) &'a TcContext);

impl Packet for Loaded<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<impl Bytes> {
        self.0.load::<[u8; N]>(offset).ok().map(Copied)
    }
}

/// Bytes copied out of a packet.
struct Copied<const N: usize>([u8; N]);

impl<const N: usize> Bytes for Copied<N> {
    #[inline(always)]
    fn byte<const AT: usize>(&self) -> u8 {
        (&self.0).byte::<AT>()
    }

    #[inline(always)]
    fn be16<const AT: usize>(&self) -> u16 {
        (&self.0).be16::<AT>()
    }

    #[inline(always)]
    fn be32<const AT: usize>(&self) -> u32 {
        (&self.0).be32::<AT>()
    }

    #[inline(always)]
    fn word<const AT: usize>(&self) -> u64 {
        (&self.0).word::<AT>()
    }
}
