//! The programs under test, each started right inside its namespace.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{Pid, getppid};

use super::clock::Monotonic;
use super::interrupt::Interrupt;
use super::namespace::Namespace;

/// How often a child that is waited for is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// What a program may do in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    All,
    /// No capability, as in a Pod that asks for none.
    None,
}

/// A running program; dropping it kills it. Its output goes to files, so that a thousand need no descriptor here.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    status: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Child {
    /// Starts `program` in `namespace`, its output in `folder`. It dies with the calling thread, even if that is killed.
    /// With `hosts` it sees that file in place of `/etc/hosts`.
    pub(crate) fn start(
        name: String,
        namespace: &Namespace,
        program: &Path,
        args: &[String],
        folder: &Path,
        hosts: Option<&Path>,
        rights: Rights,
    ) -> Result<Self> {
        let hosts = hosts.map(|hosts| CString::new(hosts.as_os_str().as_bytes())).transpose()?;
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            // A Ctrl-C on the terminal is for the lab, which then ends its children itself.
            .process_group(0);
        let (netns, lab) = (namespace.fd().as_raw_fd(), Pid::this());
        // SAFETY: the hook makes nothing but system calls, and the descriptor outlives the spawn below.
        unsafe {
            command.pre_exec(move || {
                setns(std::os::fd::BorrowedFd::borrow_raw(netns), CloneFlags::CLONE_NEWNET)?;
                if let Some(hosts) = &hosts {
                    cover_hosts(hosts)?;
                }
                if rights == Rights::None {
                    give_up_capabilities()?;
                }
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || getppid() != lab {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let process = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { name, process, status: None, stdout, stderr })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a node that dies would, with SIGKILL. Returns the instants between which that happened: all that it
    /// held open is closed once it can be waited for.
    pub(crate) fn kill(mut self) -> Result<[Monotonic; 2]> {
        let before = Monotonic::now();
        self.process.kill()?;
        self.status = Some(self.process.wait()?);
        Ok([before, Monotonic::now()])
    }

    /// Tells it by SIGTERM that it is over; [`Self::wait`] for the end.
    pub(crate) fn tell_to_end(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?)
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.status = self.process.try_wait()?;
        Ok(self.status)
    }

    /// Waits until it ends; an error if it doesn't by `deadline`.
    pub(crate) fn wait(&mut self, deadline: Instant, interrupt: &Interrupt) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} goes on running long after its test must be over{}", self.name, self.complaint());
            }
            interrupt.sleep(GLANCE)?;
        }
    }

    /// Ends it as an operator would, with SIGTERM; an error if it ignores that or ends in another way than exit 0.
    pub(crate) fn terminate(mut self, interrupt: &Interrupt) -> Result<()> {
        self.tell_to_end()?;
        let status = self.wait(Instant::now() + Duration::from_secs(2), interrupt)?;
        if !status.success() {
            bail!("{} answered SIGTERM with {status}{}", self.name, self.complaint());
        }
        Ok(())
    }

    pub(crate) fn output(&self) -> Result<String> {
        fs::read_to_string(&self.stdout).with_context(|| format!("cannot read the output of {}", self.name))
    }

    /// All that it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The last line it logged, as the end of an error message.
    pub(crate) fn complaint(&self) -> String {
        self.log().lines().last().map_or(String::new(), |line| format!("; it said: {line}"))
    }
}

/// Leaves none for the program that is executed next (capabilities(7), "Capability bounding set"). Makes nothing but system
/// calls.
fn give_up_capabilities() -> std::io::Result<()> {
    for capability in 0..=libc::c_ulong::from(63_u8) {
        // SAFETY: the call takes no pointers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = std::io::Error::last_os_error();
            // There is none of this number: those are all.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Puts `hosts` in the place of `/etc/hosts`, for the calling process alone. Makes nothing but system calls.
fn cover_hosts(hosts: &CStr) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&CStr>;
    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(hosts), c"/etc/hosts", none, MsFlags::MS_BIND, none)
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
