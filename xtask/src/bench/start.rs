//! From exec to the first connection, and memory when idle.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::row::{Bench, Spread, Table};
use crate::lab::clock::Monotonic;

/// Time from just before the program is started to the accept of its first connection on loopback.
///
/// Starting, handshake and accept are the same for every program, so the differences are the programs' own.
pub(super) fn start(bench: &Bench) -> Result<Table> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let client = |program: &Path| (program.to_owned(), client_args(address));
    let mut programs = vec![
        ("bare connect", (bench.bare.clone(), vec![address.to_string()])),
        ("egw-probe client", client(&bench.program)),
    ];
    if let Some(peer) = &bench.peer {
        let args = vec!["client".into(), format!("--external-target-addr={address}")];
        programs.push(("peer client", (peer.clone(), args)));
    }
    let rounds = if bench.quick { 3 } else { 100 };
    let mut times = vec![vec![]; programs.len()];
    for round in 0..=rounds {
        for ((_, (program, args)), times) in programs.iter().zip(&mut times) {
            let begun = Monotonic::now();
            let mut child = spawn(program, args)?;
            let (stream, _) = listener.accept()?;
            let elapsed = Monotonic::now().ns() - begun.ns();
            // The first round warms the page cache up.
            if round > 0 {
                times.push(elapsed as f64 / 1e6);
            }
            drop(stream);
            end(&mut child)?;
        }
    }
    let lines = programs.iter().zip(times).map(|((name, _), times)| {
        let spread = Spread::of(times).show(2);
        [vec![(*name).to_owned()], spread.to_vec()].concat()
    });
    Ok(Table {
        title: format!("exec to first accepted connection, milliseconds, {rounds} interleaved rounds"),
        columns: vec!["program", "min", "median", "max"],
        lines: lines.collect(),
        remarks: vec![],
    })
}

/// Bytes of the program's file.
pub(super) fn size(bench: &Bench) -> Result<Table> {
    let sizes =
        bench.programs().into_iter().map(|(name, program)| Ok((name, std::fs::metadata(program)?.len())));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    let ours = sizes[0].1 as f64;
    let line = |(name, bytes): &(&str, u64)| {
        let size = *bytes as f64;
        vec![(*name).to_owned(), format!("{:.1}", size / 1024.0 / 1024.0), format!("{:.2}", size / ours)]
    };
    Ok(Table {
        title: "size of the program's file, MiB".to_owned(),
        columns: vec!["program", "size", "to egw-probe"],
        lines: sizes.iter().map(line).collect(),
        remarks: vec![],
    })
}

/// Resident memory of a client whose test is over and of a target that has answered it.
pub(super) fn memory(bench: &Bench) -> Result<Table> {
    let mut lines = vec![];
    let programs = [("egw-probe", Some(&bench.program)), ("peer", bench.peer.as_ref())];
    for (name, program) in programs {
        let Some(program) = program else { continue };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let allowed =
            ["external-target".into(), "--allowed-cidr=127.0.0.0/8".into(), format!("--listen-port={port}")];
        let mut target = spawn(program, &allowed)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_for(|| std::net::TcpStream::connect(address).is_ok())?;
        let args = ["client".into(), format!("--external-target-addr={address}")];
        let mut client = spawn(program, &args)?;
        std::thread::sleep(Duration::from_secs(1));
        let (client_kib, target_kib) = (resident_kib(&client)?, resident_kib(&target)?);
        lines.push(vec![
            name.to_owned(),
            format!("{:.1}", client_kib / 1024.0),
            format!("{:.1}", target_kib / 1024.0),
        ]);
        end(&mut client)?;
        end(&mut target)?;
    }
    Ok(Table {
        title: "resident memory when idle, MiB".to_owned(),
        columns: vec!["program", "client", "external target"],
        lines,
        remarks: vec!["the client's default port 2112 has to be free".to_owned()],
    })
}

fn client_args(address: SocketAddr) -> Vec<String> {
    let address = format!("--external-target-addr={address}");
    vec!["client".into(), address, "--metrics-addr=127.0.0.1:0".into()]
}

fn spawn(program: &Path, args: &[String]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot run {}", program.display()))
}

fn end(child: &mut Child) -> Result<()> {
    // Gone already is as good.
    let _ = child.kill();
    child.wait()?;
    Ok(())
}

fn resident_kib(child: &Child) -> Result<f64> {
    super::host::resident_kib(child.id())
}

fn wait_for(mut holds: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..500 {
        if holds() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(holds(), "the target does not answer");
    Ok(())
}
