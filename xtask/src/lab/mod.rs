//! `cargo xtask lab`: the whole measurement on one machine, for real. Network namespaces for Pods, node, gateway and
//! external target; a policy that is switched at an instant the lab records; the real programs, whose results are
//! compared with that record.

mod activation;
pub(crate) mod child;
pub(crate) mod clock;
mod cost;
pub(crate) mod interrupt;
pub(crate) mod namespace;
mod nfset;
mod options;
pub(crate) mod packet;
mod policy;
mod report;
mod target;
pub(crate) mod tool;
mod topology;
mod verdict;
mod wire;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(crate) use options::Options;

use activation::{Activation, Stage};
use cost::Cost;
use interrupt::{EXIT_INTERRUPTED, Interrupt, Interrupted};
use options::{Plan, Scenario};
use report::Facts;
use target::Target;
use topology::{Family, Topology};
use wire::Wire;

use crate::unready;

/// More activations than this are not all printed, only those that went wrong.
const MOST_ROWS: usize = 50;

/// Runs the lab. Exit status 0 if every measurement agrees with what was done, 1 if one doesn't.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let plan = Plan::new(options)?;
    tool::check_prerequisites()?;
    let program = match &options.bin {
        Some(program) => fs::canonicalize(program).map_err(|error| {
            unready(format!("--bin {}: {error}; give the egw-probe program", program.display()))
        })?,
        None => build_program()?,
    };
    let interrupt = Interrupt::install()?;
    match measure(options, &plan, program, &interrupt) {
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("xtask: interrupted; everything the lab had made is removed");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        outcome => Ok(ExitCode::from(u8::from(!outcome?))),
    }
}

/// Whether all went as expected. Everything that it makes is owned by a value here, and goes with it.
fn measure(options: &Options, plan: &Plan, program: PathBuf, interrupt: &Interrupt) -> Result<bool> {
    let leftovers = namespace::remove_leftovers();
    if leftovers > 0 {
        eprintln!("removed what a lab that was killed had left: {leftovers} namespaces and folders");
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = Folder::create()?;
    let topology = Topology::build(options.clients, options.delay.is_some())?;
    let wire = options.delay.map(|rtt| Wire::start(&topology.wire, rtt / 2)).transpose()?;
    interrupt.check()?;
    let allowed = match (plan.scenario, plan.family) {
        (Scenario::Baseline, _) => vec!["0.0.0.0/0".into(), "::/0".into()],
        (_, Family::V4) => vec![format!("{}/32", plan.family.egress())],
        (_, Family::V6) => vec![format!("{}/128", plan.family.egress())],
    };
    let target = Target::start(&topology.target, &program, &allowed, &folder.0, interrupt)?;
    let switcher = policy::Switcher::start(&topology.node)?;
    let stage = Stage {
        plan,
        topology: &topology,
        switcher: &switcher,
        program,
        folder: folder.0.clone(),
        client_args: &options.client_args,
        control_shift: options.control_shift,
        interrupt,
    };
    let (activations, cost) = all_runs(options, &stage, seed, &mut random)?;
    let facts = Facts {
        plan,
        clients: options.clients,
        seed,
        realtime: switcher.realtime,
        judged: target.judged()?,
        sources: target.sources()?,
        wire: wire.map(Wire::finish).transpose()?,
        cost,
    };
    target.stop(interrupt)?;
    if options.json {
        println!("{:#}", report::document(&facts, &activations));
    } else {
        println!("{}", report::summary(&facts, &activations));
    }
    Ok(activations.iter().all(|activation| activation.is_void() || activation.faults.is_empty()))
}

/// Runs until as many activations as asked for are valid; void ones are made up for, within limits.
fn all_runs(
    options: &Options,
    stage: &Stage,
    seed: u64,
    random: &mut fastrand::Rng,
) -> Result<(Vec<Activation>, Cost)> {
    let wanted = options.runs as usize * options.clients;
    let void_limit = wanted / 10 + 3;
    let brief = wanted > MOST_ROWS;
    if !options.json {
        println!("{}", report::heading(stage.plan, options.clients, seed));
        if brief {
            println!("  (of {wanted} measurements only those that went wrong are listed)");
        }
    }
    let shown = |activation: &Activation| !options.json && (!brief || !activation.faults.is_empty());
    let mut activations: Vec<Activation> = vec![];
    let mut cost = Cost::default();
    let mut void = 0;
    let mut run = 0;
    while activations.len() - void < wanted {
        run += 1;
        let (more, took) = stage.activate(run, random)?;
        cost = cost.then(took);
        for activation in more {
            void += usize::from(activation.is_void());
            if shown(&activation) {
                println!("{}", report::row(&activation));
            }
            activations.push(activation);
        }
        if void > void_limit {
            bail!(
                "{void} switches took longer than {:?}: this machine is too busy",
                activation::WIDEST_SWITCH
            );
        }
        if options.clients > 1 && run == options.runs {
            break;
        }
    }
    Ok((activations, cost))
}

/// A folder for the output of the programs; dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        let folder = namespace::scratch_dir();
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Builds the program under test as users get it, and says where it is.
fn build_program() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "egw-probe", "--message-format=json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("egw-probe does not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    messages.lines().filter_map(executable).next_back().context("cargo built no egw-probe program")
}
