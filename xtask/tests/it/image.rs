//! The image, built and run as a kubelet has it run: by runc, as a user that is not root, without new privileges, on a
//! read-only root, in a network namespace of its own. Needs root, buildah, runc and the musl target.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[cfg(target_arch = "x86_64")]
use crate::inside::{Inside, attempts};
use crate::{http, machine, skip};

const PATIENCE: Duration = Duration::from_secs(20);
const THREE: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];

/// Why the image cannot be built here.
fn missing() -> Option<String> {
    for tool in ["buildah", "runc", "ip"] {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Some(format!("needs {tool}: `cargo xtask test --setup`"));
        }
    }
    let target = "x86_64-unknown-linux-musl";
    let folder =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output().ok()?;
    let there = Path::new(String::from_utf8_lossy(&folder.stdout).trim()).exists();
    (!there).then(|| format!("needs the target {target}: `cargo xtask test --setup`"))
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The built image, unpacked, and a network namespace; both go when the test is over.
struct Image {
    folder: PathBuf,
    namespace: String,
    rootfs: PathBuf,
    config: Value,
}

impl Image {
    fn build() -> Self {
        run(Command::new(env!("CARGO_BIN_EXE_xtask")).args(["dist", "--arch", "amd64", "--image-only"]));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let namespace = format!("egw-image-{}", std::process::id());
        let folder = std::env::temp_dir().join(&namespace);
        fs::create_dir_all(&folder).unwrap();
        run(Command::new("ip").args(["netns", "add", &namespace]));
        run(Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]));
        let mut image = Self { folder, namespace, rootfs: PathBuf::new(), config: Value::Null };
        let context = root.join("target/dist/image");
        run(image.buildah().args(["build", "--quiet", "--tag", "egw-probe"]).arg(context));
        image.config =
            serde_json::from_slice(&run(image.buildah().args(["inspect", "egw-probe"])).stdout).unwrap();
        let container = said(&run(image.buildah().args(["from", "egw-probe"])));
        image.rootfs = said(&run(image.buildah().args(["mount", &container]))).into();
        image
    }

    /// On a storage of its own, so that nothing of this stays on the machine.
    fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.arg("--root").arg(self.folder.join("storage")).arg("--runroot").arg(self.folder.join("run"));
        buildah.args(["--storage-driver", "vfs"]);
        buildah
    }

    /// Starts `args` with these capabilities in the runtime's sets, as containerd does for `capabilities.add`.
    fn start(&self, name: &str, args: &[&str], capabilities: &[&str], seccomp: &str) -> Container {
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp").join(seccomp);
        let mut profile: Value = serde_json::from_slice(&fs::read(profile).unwrap()).unwrap();
        if name == "forbidden" {
            // As a runtime's default profile answers a call that it knows and forbids.
            let rule = json!({"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
            profile["syscalls"].as_array_mut().unwrap().push(rule);
        }
        let bundle = self.folder.join(name);
        fs::create_dir_all(&bundle).unwrap();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 65532, "gid": 65532},
                "args": args,
                "env": ["PATH=/"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": capabilities, "permitted": capabilities, "effective": capabilities},
            },
            "root": {"path": self.rootfs, "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network", "path": format!("/run/netns/{}", self.namespace)},
                ],
                "seccomp": profile,
            },
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let id = format!("{}-{name}", self.namespace);
        let child = Command::new("runc")
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(&id)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Container { id, child: Some(child) }
    }

    /// The body of a page served inside the namespace; empty if there is none.
    fn page(&self, port: u16, path: &str) -> String {
        let namespace = fs::File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let path = path.to_owned();
        // On a thread of its own, which takes the namespace with it when it ends.
        let fetch = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            http::get(port, &path).unwrap_or_default()
        };
        thread::spawn(fetch).join().unwrap()
    }

    fn page_once_served(&self, port: u16, path: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.page(port, path);
            if !page.is_empty() {
                return page;
            }
            assert!(Instant::now() < deadline, "nothing is served on port {port}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.buildah().args(["unmount", "--all"]).output();
        let _ = self.buildah().args(["rm", "--all"]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A running container; it is deleted when the test lets go of it.
struct Container {
    id: String,
    child: Option<Child>,
}

impl Container {
    fn pid(&self) -> Pid {
        let state: Value =
            serde_json::from_slice(&run(Command::new("runc").args(["state", &self.id])).stdout).unwrap();
        Pid::from_raw(state["pid"].as_i64().unwrap() as i32)
    }

    /// A line of the process's status.
    fn status(&self, field: &str) -> String {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// Ends it as a kubelet does, and returns what it said.
    fn end(mut self) -> Output {
        run(Command::new("runc").args(["kill", &self.id, "TERM"]));
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    fn wait(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("runc").args(["delete", "--force", &self.id]).output();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

const TARGET: [&str; 5] =
    ["/egw-probe", "external-target", "--allowed-cidr=127.0.0.0/8", "--ebpf", "--expect-clients=9"];

#[test]
fn the_image_does_in_a_container_what_the_manifests_ask_of_it() {
    let Some(_machine) = machine() else { return };
    if let Some(reason) = missing() {
        return skip(&reason);
    }
    let image = Image::build();
    let config = &image.config["OCIv1"]["config"];
    assert_eq!(config["Entrypoint"], json!(["/egw-probe"]));
    assert_eq!(config["User"], "65532:65532");
    let title = &config["Labels"]["org.opencontainers.image.title"];
    assert_eq!((title.as_str(), config["Cmd"].is_null()), (Some("egw-probe"), true));

    with_the_three_capabilities_the_kernel_observes(&image);
    without_any_it_falls_back_and_names_them(&image);
    where_bpf_is_forbidden_it_names_the_seccomp_profile(&image);
    the_old_paths_and_arguments_work(&image);
}

fn with_the_three_capabilities_the_kernel_observes(image: &Image) {
    let target = image.start("ebpf", &TARGET, &THREE, "external-target.json");
    let metrics = image.page_once_served(2113, "/metrics");
    assert!(metrics.contains(r#"egw_probe_target_ebpf_info{interface="lo",mode="tcx"} 1"#), "{metrics}");
    assert_eq!(target.status("Uid"), "65532\t65532\t65532\t65532");
    assert_eq!((target.status("NoNewPrivs"), target.status("Seccomp")), ("1".into(), "2".into()));
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(target.status(set), "0000000000000000", "{set}: dropped once attached");
    }
    let args = [
        "/egw-probe",
        "client",
        "--external-target-addr=127.0.0.1:1337",
        "--exit",
        "--tag=7",
        "--output=json",
    ];
    let client = image.start("client", &args, &["CAP_NET_ADMIN"], "client.json").wait();
    assert!(client.status.success(), "{client:?}");
    let document: Value = serde_json::from_slice(&client.stdout).unwrap();
    assert_eq!((&document["outcome"], &document["probes"]["leaked"]), (&json!("masqueraded"), &json!(0)));
    let syns = r#"egw_probe_target_syns_total{class="allowed",kind="first"} "#;
    let metrics = image.page(2113, "/metrics");
    let counted = metrics.lines().find_map(|line| line.strip_prefix(syns)).unwrap();
    assert_eq!(counted, document["probes"]["sent"].to_string(), "the kernel counted what the client sent");
    for name in ["process_open_fds ", "process_resident_memory_bytes "] {
        assert!(metrics.contains(name), "{metrics}");
    }
    let clients: Value = serde_json::from_str(&image.page(2113, "/clients")).unwrap();
    assert_eq!(clients["clients"][0]["client"], 7, "tagged by the file's capability: {clients}");
    #[cfg(target_arch = "x86_64")]
    a_taken_over_process_gets_sockets(&target);
    let end = target.end();
    assert!(end.status.success(), "{end:?}");
}

/// The column of the image in docs/security.md.
#[cfg(target_arch = "x86_64")]
fn a_taken_over_process_gets_sockets(target: &Container) {
    let inside = Inside::of(target.pid().as_raw().cast_unsigned());
    for (what, got) in attempts(&inside, 2) {
        let expected = match what {
            "open a TCP socket" | "open a UDP socket" => None,
            // Nothing is there.
            "read /etc/shadow" | "read /etc/passwd" => Some(libc::ENOENT),
            _ => Some(libc::EPERM),
        };
        assert_eq!(got, expected, "{what}");
    }
}

fn without_any_it_falls_back_and_names_them(image: &Image) {
    let target = image.start("none", &TARGET, &[], "external-target.json");
    let metrics = image.page_once_served(2113, "/metrics");
    assert!(metrics.contains(r#"egw_probe_target_ebpf_info{interface="",mode="userspace"} 1"#), "{metrics}");
    let log = String::from_utf8(target.end().stderr).unwrap();
    // A machine short of CPU may add that accepts come late.
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && !line.contains("weak numbers")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("missing CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON"), "{log}");
}

fn where_bpf_is_forbidden_it_names_the_seccomp_profile(image: &Image) {
    // The client's profile has no bpf(2).
    let target = image.start("forbidden", &TARGET, &THREE, "client.json");
    let metrics = image.page_once_served(2113, "/metrics");
    assert!(metrics.contains(r#"mode="userspace"} 1"#), "{metrics}");
    let log = String::from_utf8(target.end().stderr).unwrap();
    assert!(log.contains("look for a seccomp profile"), "{log}");
}

fn the_old_paths_and_arguments_work(image: &Image) {
    const OLD: &str = "/usr/bin/egw-scale-utils";
    let args = [OLD, "external-target", "--allowed-cidr=0.0.0.0/0", "--listen-port=1338", "--keep-open=true"];
    let target = image.start("old-target", &args, &[], "external-target.json");
    image.page_once_served(2113, "/healthz");
    let addr = "--external-target-addr=127.0.0.1:1338";
    let args = [OLD, "client", addr, "--test-timeout=295s", "--stress=false", "--stress-delay=15s"];
    let client = image.start("old-client", &args, &[], "client.json");
    image.page_once_served(2112, "/metrics");
    let deadline = Instant::now() + PATIENCE;
    let delay = "egw_scale_test_masquerade_delay_seconds_total 0\n";
    while image.page(2112, "/metrics").contains(delay) {
        assert!(Instant::now() < deadline, "the old client's test is not over");
        thread::sleep(Duration::from_millis(20));
    }
    drop(client.end());
    drop(target.end());
}
