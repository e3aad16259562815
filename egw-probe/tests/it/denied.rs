//! What both ends say where a seccomp profile is in the way.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::common::{Program, free_port};

/// A seccomp profile that answers these calls so, as a container runtime's do.
fn profile(calls: &[i64], errno: i32) -> BpfProgram {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|call| (*call, vec![])).collect();
    let answer = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).unwrap().try_into().unwrap()
}

fn under(profile: BpfProgram, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
    // SAFETY: the hook makes system calls with a filter that was made before.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&profile).map_err(|_| std::io::ErrorKind::Other.into())
        })
    };
    let output = Program::start_command(command.args(args)).finish();
    let said = String::from_utf8(output.stderr).unwrap();
    let error = said.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or(&said).to_owned();
    (output.status.code(), error)
}

#[test]
fn a_thread_that_a_seccomp_profile_forbids_is_named_with_the_profile() {
    let profile = || profile(&[libc::SYS_clone, libc::SYS_clone3], libc::EPERM);
    let listen = format!("--listen-port={}", free_port());
    let target = ["external-target", "--allowed-cidr=::/0", "--metrics-addr=127.0.0.1:0", &listen];
    let client = ["client", "--external-target-addr=127.0.0.1:9", "--metrics-addr=127.0.0.1:0", "--exit"];
    let page = "the thread \"page\" cannot be started: Operation not permitted (os error 1); a seccomp profile may \
                forbid clone or clone3";
    assert_eq!(under(profile(), &target), (Some(1), page.to_owned()));
    assert_eq!(under(profile(), &client), (Some(1), page.to_owned()));
    let required = [&target[..], &["--ebpf=required"]].concat();
    let (code, said) = under(profile(), &required);
    let observer = page.replace("page", "observer");
    assert!(code == Some(1) && said.contains(&observer), "{said}");
}

#[test]
fn a_socket_that_a_seccomp_profile_forbids_is_no_port_that_takes_a_right() {
    let listen = format!("--listen-port={}", free_port());
    let target = ["external-target", "--allowed-cidr=::/0", "--metrics-addr=127.0.0.1:0", &listen];
    for (call, number) in [("socket", libc::SYS_socket), ("bind", libc::SYS_bind)] {
        let (code, said) = under(profile(&[number], libc::EPERM), &target);
        let told = format!(
            "{call}(2) is forbidden here, by a seccomp profile most likely: Operation not permitted (os error 1); let it \
             allow {call}"
        );
        assert!(code == Some(2) && said.starts_with("--listen-port: ") && said.ends_with(&told), "{said}");
    }
    // The kernel's own answer.
    let (code, said) = under(profile(&[libc::SYS_bind], libc::EACCES), &target);
    assert!(code == Some(2) && said.contains("needs CAP_NET_BIND_SERVICE"), "{said}");
}
