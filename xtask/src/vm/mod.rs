//! `cargo xtask test vm`: the static program on older kernels, each booted in a virtual machine of its own.
//!
//! Debian's kernels come from apt ([`package`]), the machine's userspace is one shell script in an initramfs ([`image`],
//! `guest.sh`), and what the script saw is judged here ([`verdict`]).

mod image;
mod package;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::release::program::{self, Arch, Purpose};
use crate::setup;
use crate::unready::unready;

/// Far above what a run takes, under emulation too.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long a guest of KVM's may take to its first words. One that boots has them after two or three seconds.
const FIRST_WORDS_WITHIN: Duration = Duration::from_secs(30);
const FIRST_WORDS: &str = "@ - - begin";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel series to boot; newest is the newest that Debian has at all
    #[arg(long, value_delimiter = ',', default_value = "5.10,6.1,6.12,newest")]
    kernel: Vec<String>,
    /// What runs the guests' code; auto takes KVM where it boots these kernels, and emulates elsewhere
    #[arg(long, value_enum, default_value_t)]
    accelerator: Accelerator,
    /// Write the table into docs/kernels.md
    #[arg(long)]
    write: bool,
}

/// What runs a guest's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Accelerator {
    /// KVM, and emulation where there is none or it does not boot the kernel
    #[default]
    Auto,
    /// The processor, by KVM
    Kvm,
    /// Emulation
    Tcg,
}

/// Boots every kernel. Exit status 1 if something was not as it should be on one of them, or one is not to be had.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(cfg!(target_arch = "x86_64"), unready("the kernels and the machine are for x86-64"));
    setup::check(setup::Purpose::Vm)?;
    let qemu = setup::find("qemu-system-x86_64").context("no QEMU")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let program = program::build(root, Arch::Amd64, Purpose::Image)?;
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
            .map(|kernel| scope.spawn(|| visit(&qemu, options.accelerator, kernel, &program, &folder)))
            .collect();
        guests
            .into_iter()
            .map(|guest| guest.join().expect("a guest's thread does not panic"))
            .collect::<Vec<_>>()
    });
    for (kernel, console) in kernels.iter().zip(consoles) {
        let console = console.unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", kernel.release);
            String::new()
        });
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
    accelerator: Accelerator,
    kernel: &package::Kernel,
    program: &Path,
    folder: &Path,
) -> Result<String> {
    let release = &kernel.release;
    let initramfs = folder.join(format!("{release}.cpio"));
    image::write(kernel, program, &initramfs)?;
    let guest =
        Guest { qemu, kernel: &kernel.image, initramfs, console: folder.join(format!("{release}.console")) };
    let (accelerator, trial) = match accelerator {
        Accelerator::Auto if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() => {
            (Accelerator::Tcg, false)
        }
        Accelerator::Auto => (Accelerator::Kvm, true),
        chosen => (chosen, false),
    };
    eprintln!("booting {release}; console: {}", guest.console.display());
    let took = match guest.boot(accelerator) {
        Err(error) if trial && !guest.has_spoken() => {
            eprintln!("{release}: KVM of this machine does not boot it ({error:#}); emulating");
            guest.boot(Accelerator::Tcg)
        }
        outcome => outcome,
    }?;
    eprintln!("{release}: {:.0} s", took.as_secs_f64());
    Ok(String::from_utf8_lossy(&fs::read(&guest.console)?).into_owned())
}

/// A machine that can be booted.
struct Guest<'vm> {
    qemu: &'vm Path,
    kernel: &'vm Path,
    initramfs: PathBuf,
    console: PathBuf,
}

impl Guest<'_> {
    /// Boots until the guest switches itself off; how long that took.
    fn boot(&self, accelerator: Accelerator) -> Result<Duration> {
        // The processor's model 'max' asks some KVMs for more than they have.
        let (name, processor) =
            if accelerator == Accelerator::Kvm { ("kvm", "host") } else { ("tcg", "max") };
        // What an earlier guest said is not to be taken for this one's.
        let _ = fs::remove_file(&self.console);
        let begun = Instant::now();
        let mut machine = Command::new(self.qemu)
            .args(["-accel", name, "-cpu", processor, "-m", "768", "-smp", "2"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("QEMU could not be started")?;
        let why = loop {
            if let Some(status) = machine.try_wait()? {
                if status.success() && self.has_spoken() {
                    return Ok(begun.elapsed());
                }
                let said = std::io::read_to_string(machine.stderr.take().expect("stderr is piped"))?;
                bail!("QEMU ended with {status}: {}", said.trim().replace('\n', "; "));
            }
            if begun.elapsed() > PATIENCE {
                break format!(
                    "the machine did not switch itself off within {PATIENCE:?}; see {}",
                    self.console.display()
                );
            }
            if accelerator == Accelerator::Kvm && begun.elapsed() > FIRST_WORDS_WITHIN && !self.has_spoken() {
                break format!("it said nothing within {FIRST_WORDS_WITHIN:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        machine.kill()?;
        machine.wait()?;
        bail!(why)
    }

    /// Whether the guest's userspace has been reached.
    fn has_spoken(&self) -> bool {
        fs::read(&self.console).is_ok_and(|said| String::from_utf8_lossy(&said).contains(FIRST_WORDS))
    }
}
