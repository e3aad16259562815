//! The programs under test, each started right inside its namespace.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
    unistd::{Pid, getppid},
};

use super::{interrupt::Interrupt, namespace::Namespace};

/// How often a child that is waited for is looked at.
const GLANCE: Duration = Duration::from_millis(2);

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
    pub(crate) fn start(
        name: String,
        namespace: &Namespace,
        program: &Path,
        args: &[String],
        folder: &Path,
    ) -> Result<Self> {
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
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?;
        let status = self.wait(Instant::now() + Duration::from_secs(2), interrupt)?;
        if !status.success() {
            bail!("{} answered SIGTERM with {status}{}", self.name, self.complaint());
        }
        Ok(())
    }

    pub(crate) fn output(&self) -> Result<String> {
        fs::read_to_string(&self.stdout).with_context(|| format!("cannot read the output of {}", self.name))
    }

    /// The last line it logged, as the end of an error message.
    pub(crate) fn complaint(&self) -> String {
        let log = fs::read_to_string(&self.stderr).unwrap_or_default();
        log.lines().last().map_or(String::new(), |line| format!("; it said: {line}"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
