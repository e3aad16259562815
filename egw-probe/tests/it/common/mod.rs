//! The program as a child process, and its HTTP pages, for the tests that run it for real.

#[cfg(feature = "report")]
pub(crate) mod files;
pub(crate) mod told;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A child that is killed, by its id, when the test lets go of it.
pub(crate) struct Program {
    child: Option<Child>,
}

impl Program {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_command(Command::new(env!("CARGO_BIN_EXE_egw-probe")).args(args))
    }

    /// With so many descriptors and not one more.
    pub(crate) fn start_with_descriptors(limit: u64, args: &[&str]) -> Self {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_egw-probe"));
        // SAFETY: the hook makes one system call, and touches no memory of others.
        unsafe { command.pre_exec(move || Ok(rustix::process::setrlimit(Resource::Nofile, limit)?)) };
        Self::start_command(command.args(args))
    }

    pub(crate) fn start_command(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child: Some(child) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Stops the program. A thread that has not run since the signal was sent does not know of it yet, and goes on: it
    /// is stopped only when all of them say so.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        wait_for("every thread to stop", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        });
    }

    /// Lets it run again.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for the end; panics if it does not come.
    pub(crate) fn finish(self) -> Output {
        self.finish_and_peak().0
    }

    /// Waits for the end, and tells the most memory that was resident, in KiB.
    pub(crate) fn finish_and_peak(mut self) -> (Output, u64) {
        let status_file = format!("/proc/{}/status", self.id());
        let mut peak = 0;
        let child = self.child.as_mut().unwrap();
        // Read meanwhile: a pipe holds 64 KiB, and a program waits while it is full.
        let stdout = read_all(child.stdout.take().unwrap());
        let stderr = read_all(child.stderr.take().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "the program does not end");
            // A high-water mark; one that has ended, and is not waited for yet, has none.
            let text = std::fs::read_to_string(&status_file).unwrap_or_default();
            let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
            peak = mark.map_or(peak, |kib| kib.parse().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.take().unwrap().wait().unwrap();
        (Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }, peak)
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that is free, handed out once, and below those that the kernel gives to whoever connects (`ip_local_port_range`).
pub(crate) fn free_port() -> u16 {
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id() * 64 + number) % 20_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

/// One HTTP exchange: status line and headers, body.
pub(crate) fn http(address: SocketAddr, request: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

/// The status code of a GET; 0 if there was no answer.
pub(crate) fn status(address: SocketAddr, path: &str) -> u16 {
    http(address, &format!("GET {path}"))
        .and_then(|(head, _)| head.split(' ').nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// The value of one series of `/metrics`; `None` if it is absent.
pub(crate) fn metric(address: SocketAddr, series: &str) -> Option<f64> {
    let (_, body) = http(address, "GET /metrics")?;
    body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Target {
    pub(crate) program: Program,
    pub(crate) port: u16,
    pub(crate) http: SocketAddr,
}

/// An external target that listens, with further flags.
pub(crate) fn target(flags: &[&str]) -> Target {
    loop {
        let (port, http_port) = (free_port(), free_port());
        let listen = format!("--listen-port={port}");
        let metrics = format!("--metrics-addr=[::]:{http_port}");
        let args = [&["external-target", &listen, &metrics], flags].concat();
        let mut program = Program::start(&args);
        let http = SocketAddr::from(([127, 0, 0, 1], http_port));
        wait_for("the target to listen", || !program.is_running() || status(http, "/healthz") == 200);
        if program.is_running() {
            return Target { program, port, http };
        }
        // Somebody was faster to take one of the two ports; anything else fails the test.
        let output = program.finish();
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(line.contains("is in use"), "{line}");
    }
}

/// Runs a client with `--exit --output json` to its end: exit code, result document, stderr.
pub(crate) fn measure(target: &str, flags: &[&str]) -> (i32, Value, String) {
    let (code, document, said, _) = measure_and_peak(target, flags);
    (code, document, said)
}

/// The same, and the most memory that was resident, in KiB.
pub(crate) fn measure_and_peak(target: &str, flags: &[&str]) -> (i32, Value, String, u64) {
    let args =
        ["client", "--external-target-addr", target, "--exit", "--output=json", "--metrics-addr=127.0.0.1:0"];
    let (output, peak) = Program::start(&[&args, flags].concat()).finish_and_peak();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), document, stderr, peak)
}

/// A copy of the program in a place that everybody may enter; it goes when the test lets go of it.
pub(crate) struct ForEverybody(std::path::PathBuf);

impl ForEverybody {
    pub(crate) fn new() -> Self {
        let name = format!("egw-probe-test-{}-{}", std::process::id(), free_port());
        let copy = std::env::temp_dir().join(name);
        std::fs::copy(env!("CARGO_BIN_EXE_egw-probe"), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(copy)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(args);
        command
    }
}

impl Drop for ForEverybody {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A line of the status of each thread of a process.
pub(crate) fn all_threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_one = |task: std::path::PathBuf| {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    };
    tasks.map(|task| of_one(task.unwrap().path())).collect()
}

/// A peer of the test's own making: `serve` gets each connection with its number, on a thread of its own.
pub(crate) fn peer(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(stream.unwrap(), number));
        }
    });
    address
}
