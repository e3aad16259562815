//! The empty program that costs are measured against: two instructions, loaded and run without aya, which loads only
//! whole objects.

use std::{io, os::fd::AsRawFd as _, os::fd::FromRawFd as _, os::fd::OwnedFd, time::Duration};

/// Program types of `enum bpf_prog_type` (uapi/linux/bpf.h).
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    SchedCls = 3,
    Xdp = 6,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx: [u32; 2],
    ctx_ptrs: [u64; 2],
    flags: [u32; 4],
}

const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_TEST_RUN: i64 = 10;

/// Loads `return verdict`.
pub(crate) fn empty(kind: Kind, verdict: i32) -> io::Result<OwnedFd> {
    // mov64 r0, imm; exit (instruction-set.rst).
    let insns = [0xb7u64 | (u64::from(verdict.cast_unsigned()) << 32), 0x95u64];
    let mut attr = LoadAttr {
        prog_type: kind as u32,
        insn_cnt: 2,
        insns: insns.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: a zero-padded attr of the size given, whose pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Runs it `repeat` times on `data`; the mean duration of one run.
pub(crate) fn run(program: &OwnedFd, data: &[u8], repeat: u32) -> io::Result<Duration> {
    let mut attr = RunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: data.len() as u32,
        data_in: data.as_ptr() as u64,
        repeat,
        ..Default::default()
    };
    // SAFETY: a zero-padded attr of the size given, whose pointers outlive the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<RunAttr>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::from_nanos(u64::from(attr.duration)))
}
