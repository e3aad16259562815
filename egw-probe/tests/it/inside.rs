//! What code of a peer's choice gets in either end: system calls made by a debugger inside the filtered process, on its
//! main thread, with its rights. docs/security.md has the table.

use std::ffi::{CStr, CString};
use std::io;

use libc::{c_long, pid_t, user_regs_struct};

/// A process that is held, and calls what it is told to. It goes on as if nothing had happened when this is dropped.
pub(crate) struct Inside {
    process: pid_t,
    registers: user_regs_struct,
}

impl Inside {
    /// Takes hold of the main thread, where it waits in a system call.
    pub(crate) fn of(process: u32) -> Self {
        let process = process.cast_signed();
        for _ in 0..1000 {
            ptrace(libc::PTRACE_ATTACH, process, 0, 0).unwrap();
            wait(process);
            let mut inside = Self { process, registers: read_registers(process) };
            // The instruction itself is two bytes before what follows it.
            let before = inside.registers.rip - 2;
            if ptrace(libc::PTRACE_PEEKTEXT, process, before, 0).unwrap() & 0xffff == 0x050f {
                return inside;
            }
            inside.let_go();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{process} never waits");
    }

    /// Makes it call `number`.
    pub(crate) fn call<const N: usize>(&self, number: c_long, arguments: [u64; N]) -> Result<u64, i32> {
        let at = |index| arguments.get(index).copied().unwrap_or(0);
        let mut registers = user_regs_struct {
            rip: self.registers.rip - 2,
            rax: number.cast_unsigned(),
            // No call that is to be started again.
            orig_rax: u64::MAX,
            rdi: at(0),
            rsi: at(1),
            rdx: at(2),
            r10: at(3),
            r8: at(4),
            r9: at(5),
            ..self.registers
        };
        write_registers(self.process, &mut registers);
        // A signal that comes meanwhile stops it before the call is made.
        loop {
            ptrace(libc::PTRACE_SINGLESTEP, self.process, 0, 0).unwrap();
            if wait(self.process) == libc::SIGTRAP {
                break;
            }
        }
        let answer = read_registers(self.process).rax.cast_signed();
        if answer < 0 { Err(i32::try_from(-answer).unwrap()) } else { Ok(answer.cast_unsigned()) }
    }

    /// Puts a text below its stack, where nothing is; returns its address there.
    pub(crate) fn text(&self, text: &CStr) -> u64 {
        let address = (self.registers.rsp - 4096) & !7;
        for (index, word) in text.to_bytes_with_nul().chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            let at = address + 8 * index as u64;
            ptrace(libc::PTRACE_POKEDATA, self.process, at, u64::from_ne_bytes(bytes)).unwrap();
        }
        address
    }

    fn let_go(&mut self) {
        write_registers(self.process, &mut self.registers);
        let _ = ptrace(libc::PTRACE_DETACH, self.process, 0, 0);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn ptrace(request: Request, process: pid_t, address: u64, data: u64) -> io::Result<c_long> {
    // Where what is read is -1, only this tells it from an error.
    // SAFETY: this thread's errno; and a request whose address, if it is one of ours, is that of live registers.
    unsafe {
        *libc::__errno_location() = 0;
        let answer = libc::ptrace(request, process, address, data);
        match io::Error::last_os_error() {
            error if answer == -1 && error.raw_os_error() != Some(0) => Err(error),
            _ => Ok(answer),
        }
    }
}

/// The signal that it stops for.
fn wait(process: pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: a pointer to a live number.
    let found = unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) };
    assert!(found == process && libc::WIFSTOPPED(status), "{status:x}");
    libc::WSTOPSIG(status)
}

fn read_registers(process: pid_t) -> user_regs_struct {
    // SAFETY: numbers, for which zeros are as good as any.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, process, 0, (&raw mut registers).addr() as u64).unwrap();
    registers
}

fn write_registers(process: pid_t, registers: &mut user_regs_struct) {
    ptrace(libc::PTRACE_SETREGS, process, 0, std::ptr::from_mut(registers).addr() as u64).unwrap();
}

/// ioctl_tty(2); C libraries differ in its type.
const TIOCSTI: u64 = 0x5412;

/// What is tried, and what each attempt got: `None` that it was done.
pub(crate) fn attempts(inside: &Inside, other_process: u32) -> Vec<(&'static str, Option<i32>)> {
    let number = |value: i32| i64::from(value) as u64;
    let open = |path: &CStr, flags: i32| {
        inside.call(libc::SYS_openat, [number(libc::AT_FDCWD), inside.text(path), number(flags), 0o600])
    };
    let socket = |family: i32, kind: i32| inside.call(libc::SYS_socket, [number(family), number(kind), 0]);
    let in_tmp = CString::new(format!("/tmp/egw-probe-inside-{}", inside.process)).unwrap();
    let memory = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let read = |path| open(path, libc::O_RDONLY).and_then(|file| inside.call(libc::SYS_close, [file]));
    let fork = |flags: i32| match inside.call(libc::SYS_clone, [number(flags | libc::SIGCHLD)]) {
        Ok(child) => {
            // SAFETY: a number, of a child that was just made and that this is to be rid of.
            unsafe { libc::kill(child as pid_t, libc::SIGKILL) };
            Ok(child)
        }
        other => other,
    };
    let program = || {
        let path = inside.text(c"/proc/self/exe/nothing");
        inside.call(libc::SYS_execve, [path, 0, 0])
    };
    [
        (
            "create a file in /etc/cron.d",
            open(c"/etc/cron.d/egw-probe-inside", libc::O_WRONLY | libc::O_CREAT),
        ),
        ("create a file in /tmp", open(&in_tmp, libc::O_WRONLY | libc::O_CREAT)),
        (
            "open /proc/sys/kernel/core_pattern for writing",
            open(c"/proc/sys/kernel/core_pattern", libc::O_WRONLY),
        ),
        ("read /etc/shadow", read(c"/etc/shadow")),
        ("read /etc/passwd", read(c"/etc/passwd")),
        (
            "send a signal to another process",
            inside.call(libc::SYS_tgkill, [u64::from(other_process), u64::from(other_process), 0]),
        ),
        ("fork", fork(0)),
        ("make a user namespace", fork(libc::CLONE_NEWUSER)),
        ("start a program", program()),
        ("type into a terminal (TIOCSTI)", inside.call(libc::SYS_ioctl, [u64::MAX, TIOCSTI])),
        ("open a Unix socket", socket(libc::AF_UNIX, libc::SOCK_STREAM)),
        ("open a vsock socket", socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
        ("open a raw socket", socket(libc::AF_INET, libc::SOCK_RAW)),
        ("open a TCP socket", socket(libc::AF_INET, libc::SOCK_STREAM)),
        ("open a UDP socket", socket(libc::AF_INET, libc::SOCK_DGRAM)),
        ("list BPF maps", inside.call(libc::SYS_bpf, [12, 0, 0])),
        ("trace another process", inside.call(libc::SYS_ptrace, [number(16), u64::from(other_process)])),
        (
            "map memory to write code to",
            inside.call(libc::SYS_mmap, [0, 4096, number(all), number(memory), u64::MAX]),
        ),
        ("become root again", inside.call(libc::SYS_setresuid, [0, 0, 0])),
    ]
    .map(|(what, got)| (what, got.err()))
    .to_vec()
}
