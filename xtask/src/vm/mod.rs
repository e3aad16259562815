//! `cargo xtask test vm`: the static program on older kernels, each booted in a virtual machine of its own.
//!
//! Debian's kernels come from apt ([`package`]), the machine's userspace is one shell script in an initramfs ([`image`],
//! `guest.sh`), and what the script saw is judged here ([`verdict`]).

mod image;
mod package;
mod verdict;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    dist::program::{self, Arch},
    unready,
};

/// Far above what a run takes, under emulation too.
const PATIENCE: Duration = Duration::from_mins(15);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel series to boot; newest is the newest that Debian has at all
    #[arg(long, value_delimiter = ',', default_value = "5.10,6.1,6.12,newest")]
    kernel: Vec<String>,
    /// QEMU's accelerator: `kvm` is faster, but a nested one may lack instructions that a kernel wants
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Write the table into docs/kernels.md
    #[arg(long)]
    write: bool,
}

/// Boots every kernel. Exit status 1 if something was not as it should be on one of them, or one is not to be had.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(cfg!(target_arch = "x86_64"), unready("the kernels and the machine are for x86-64"));
    let qemu = image::find("qemu-system-x86_64")
        .ok_or_else(|| unready("no QEMU: apt install qemu-system-x86 busybox-static"))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let program = program::build(root, Arch::Amd64)?;
    let folder = root.join("target/vm");
    fs::create_dir_all(&folder)?;
    let mut table = verdict::Table::default();
    let mut kernels = Vec::new();
    for series in &options.kernel {
        match package::fetch(series, &folder)? {
            Some(kernel) => kernels.push(kernel),
            None => table.not_to_be_had(series),
        }
    }
    // All at once: a guest waits more than it works.
    let consoles = std::thread::scope(|scope| {
        let guests: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(|| visit(&qemu, &options.accelerator, kernel, &program, &folder)))
            .collect();
        guests
            .into_iter()
            .map(|guest| guest.join().expect("a guest's thread does not panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    for (kernel, console) in kernels.iter().zip(consoles) {
        table.add(&kernel.release, &console);
    }
    println!("{}", table.markdown());
    if options.write {
        let docs = root.join("docs");
        fs::create_dir_all(&docs)?;
        fs::write(docs.join("kernels.md"), table.page())?;
    }
    Ok(ExitCode::from(u8::from(!table.all_well())))
}

/// Boots one kernel; what it wrote to its console.
fn visit(
    qemu: &Path,
    accelerator: &str,
    kernel: &package::Kernel,
    program: &Path,
    folder: &Path,
) -> Result<String> {
    let initramfs = folder.join(format!("{}.cpio", kernel.release));
    image::write(kernel, program, &initramfs)?;
    let console = folder.join(format!("{}.console", kernel.release));
    eprintln!("booting {}; console: {}", kernel.release, console.display());
    let took = boot(qemu, accelerator, &kernel.image, &initramfs, &console)?;
    eprintln!("{}: {:.0} s", kernel.release, took.as_secs_f64());
    Ok(String::from_utf8_lossy(&fs::read(&console)?).into_owned())
}

/// Boots until the guest switches itself off; how long that took.
fn boot(qemu: &Path, accelerator: &str, kernel: &Path, initramfs: &Path, console: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let mut machine = Command::new(qemu)
        .args(["-accel", accelerator, "-cpu", "max", "-m", "768", "-smp", "2"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .spawn()
        .context("QEMU could not be started")?;
    while begun.elapsed() < PATIENCE {
        if let Some(status) = machine.try_wait()? {
            ensure!(status.success(), "QEMU ended with {status}");
            return Ok(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    machine.kill()?;
    machine.wait()?;
    bail!("the machine did not switch itself off within {PATIENCE:?}; see {}", console.display())
}
