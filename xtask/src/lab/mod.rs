//! `cargo xtask lab`: the whole measurement on one machine, for real. Network namespaces for Pods, node, gateway and
//! external target; a policy that is switched at an instant the lab records; the real programs, whose results are
//! compared with that record.

mod account;
mod activation;
mod addresses;
mod busy;
mod capture;
pub(crate) mod child;
pub(crate) mod clock;
mod cost;
mod disturb;
mod disturbance;
pub(crate) mod interrupt;
mod judgement;
mod leak;
pub(crate) mod namespace;
mod nfset;
mod observation;
mod observed;
mod options;
mod outage;
mod outage_report;
pub(crate) mod packet;
mod policy;
pub(crate) mod prerequisites;
mod proxy;
mod report;
mod results;
mod runs;
mod several;
mod target;
mod tool;
mod topology;
mod verdict;
mod watched;
pub(crate) mod wire;
mod worker;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::activation::{Activation, Stage};
use self::addresses::Family;
use self::busy::Busy;
use self::cost::Cost;
use self::disturbance::Disturb;
use self::interrupt::{EXIT_INTERRUPTED, Interrupt, Interrupted};
pub(crate) use self::options::Options;
use self::options::{Plan, Scenario};
use self::outage::{Mortal, Outage};
use self::report::Facts;
use self::target::{Settings, Target};
use self::topology::{Gateways, Layout, Topology};
use self::wire::Wire;
use crate::setup::{self, Purpose};
use crate::unready::unready;

/// More activations than this are not all printed, only those that went wrong.
const MOST_ROWS: usize = 50;

/// Runs the lab. Exit status 0 if every measurement agrees with what was done, 1 if one doesn't.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let plan = Plan::new(options)?;
    if let Some(folder) = options.results.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(unready(format!("--results {}: no such folder: make it first", folder.display())));
    }
    if options.setup {
        setup::install(Purpose::Lab)?;
    }
    prerequisites::check()?;
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
    let _busy = options.busy.then(Busy::start).transpose()?;
    let topology = topology(plan)?;
    let wire =
        plan.has_wire().then(|| Wire::start(&topology.wire, disturb::manner(plan, seed))).transpose()?;
    let _parts = disturb::put_in_place(plan, &topology)?;
    leak::put_in_place(plan, &topology)?;
    interrupt.check()?;
    let captures = plan.ebpf.map(|_| observation::Captures::start(&topology)).transpose()?;
    let settings = target_settings(options, plan);
    let target = Target::start(&topology.target, &program, &settings, &folder.0, interrupt)?;
    let mute = plan.has(Disturb::Arp).then_some(&topology.target);
    let switcher = policy::Switcher::start(&topology.node, &topology.gateway, mute)?;
    let hosts = plan.target_name.as_ref().map(|name| folder.write_hosts(name)).transpose()?;
    let stage = Stage {
        plan,
        topology: &topology,
        switcher: &switcher,
        program,
        folder: folder.0.clone(),
        hosts,
        client_args: &options.client_args,
        control_shift: options.control_shift,
        interrupt,
    };
    if plan.scenario.is_outage() {
        let mortal = Mortal { target: Some(target), settings };
        all_outages(options, &stage, mortal, seed, &mut random, wire)
    } else {
        all_activations(options, &stage, (target, captures), seed, &mut random, wire)
    }
}

fn topology(plan: &Plan) -> Result<Topology> {
    let topology = Topology::build(Layout {
        pods: plan.pods(),
        gap: plan.has_wire(),
        nat: plan.nat,
        gateways: match plan.gateways {
            1 => Gateways::One,
            2 if plan.scenario == Scenario::Failover => Gateways::Two { same_ip: plan.same_ip },
            several => Gateways::Spread(several),
        },
        no_return: plan.no_return,
        asks: plan.has(Disturb::Arp),
    })?;
    if plan.scenario.is_outage() {
        topology.forget_ended_connections()?;
    }
    Ok(topology)
}

/// Runs as many valid activations as asked for, compares what the target's kernel side saw, and reports.
fn all_activations(
    options: &Options,
    stage: &Stage,
    (target, captures): (Target, Option<observation::Captures>),
    seed: u64,
    random: &mut fastrand::Rng,
    wire: Option<Wire>,
) -> Result<bool> {
    let (activations, cost) = all_runs(options, stage, &target, seed, random)?;
    let observed = captures
        .map(|captures| observation::compare(captures, stage.plan, &target, &activations, stage.interrupt))
        .transpose()?;
    let facts = Facts {
        plan: stage.plan,
        clients: options.clients,
        seed,
        realtime: stage.switcher.realtime,
        judged: target.judged()?,
        sources: target.document("/sources")?,
        wire: wire.map(Wire::finish).transpose()?,
        cost,
        observed,
    };
    target.stop(stage.interrupt)?;
    if options.json {
        println!("{:#}", report::document(&facts, &activations));
    } else {
        println!("{}", report::summary(&facts, &activations));
    }
    let observed_as_expected = facts.observed.is_none_or(|observed| observed.faults.is_empty());
    let as_expected = |activation: &Activation| activation.is_void() || activation.faults.is_empty();
    Ok(observed_as_expected && activations.iter().all(as_expected))
}

fn target_settings(options: &Options, plan: &Plan) -> Settings {
    let allowed = if plan.scenario == Scenario::Baseline {
        vec!["0.0.0.0/0".into(), "::/0".into()]
    } else {
        let host = |egress: IpAddr| format!("{egress}/{}", if egress.is_ipv4() { 32 } else { 128 });
        plan.egress().into_iter().map(host).collect()
    };
    let mut further = vec![];
    if let Some(attach) = plan.ebpf {
        let numbers = (options.most_runs() * options.clients).min(options::MOST_TAGS);
        further =
            ["--ebpf=required", "--ebpf-attach", &attach.name(), "--expect-clients", &numbers.to_string()]
                .map(String::from)
                .to_vec();
    }
    if plan.annotated {
        further.push("--reply=annotated".into());
    }
    if plan.scenario.is_outage() {
        further.push("--keep-open".into());
    }
    Settings { allowed, further }
}

/// Runs as many valid outages as asked for, and reports.
fn all_outages<'lab>(
    options: &Options,
    stage: &Stage<'lab>,
    mut mortal: Mortal<'lab>,
    seed: u64,
    random: &mut fastrand::Rng,
    wire: Option<Wire>,
) -> Result<bool> {
    let (plan, wanted) = (stage.plan, options.runs as usize);
    if !options.json {
        println!("{}", outage_report::heading(plan, seed));
    }
    let mut outages: Vec<Outage> = vec![];
    let mut void = 0;
    while outages.len() - void < wanted {
        let outage = stage.watch_outage(outages.len() as u32 + 1, &mut mortal, random)?;
        void += usize::from(outage.is_void(plan));
        if let Some(folder) = options.results.as_ref().filter(|_| !outage.is_void(plan)) {
            results::keep_outage(folder, &outage)?;
        }
        if !options.json {
            println!("{}", outage_report::row(&outage, plan));
        }
        outages.push(outage);
        refuse_busy_machine(void, wanted)?;
    }
    if let Some(target) = mortal.target {
        target.stop(stage.interrupt)?;
    }
    let wire = wire.map(Wire::finish).transpose()?;
    if options.json {
        println!("{:#}", outage_report::document(plan, seed, &outages, wire.as_ref()));
    } else {
        println!("{}", outage_report::summary(plan, &outages, wire.as_ref()));
    }
    Ok(outages.iter().all(|outage| outage.is_void(plan) || outage.judgement.faults.is_empty()))
}

fn refuse_busy_machine(void: usize, wanted: usize) -> Result<()> {
    if void > options::void_limit(wanted) {
        bail!(
            "{void} runs are void (switch recorded coarser than {:?}, or client up too late): this machine is too busy",
            activation::WIDEST_SWITCH
        );
    }
    Ok(())
}

/// Runs until as many activations as asked for are valid; void ones are made up for, within limits.
fn all_runs(
    options: &Options,
    stage: &Stage,
    target: &Target,
    seed: u64,
    random: &mut fastrand::Rng,
) -> Result<(Vec<Activation>, Cost)> {
    let wanted = options.runs as usize * options.clients;
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
        let (more, took) = stage.activate(run, target, random)?;
        cost = cost.then(took);
        if let Some(folder) = &options.results {
            results::keep(folder, &more)?;
        }
        for activation in more {
            void += usize::from(activation.is_void());
            if shown(&activation) {
                println!("{}", report::row(&activation));
            }
            activations.push(activation);
        }
        refuse_busy_machine(void, wanted)?;
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

    /// Writes a file in the form of `/etc/hosts` that gives the target's addresses to `name`.
    fn write_hosts(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join("hosts");
        let line = |family: Family| format!("{} {name}\n", family.target());
        fs::write(&path, [Family::V4, Family::V6].map(line).concat())?;
        Ok(path)
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
