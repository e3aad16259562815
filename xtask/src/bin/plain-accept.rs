//! External targets as plain as can be: what `cargo xtask bench accept` compares ours with.
//!
//! Takes the flags that the bench gives to every target. One thread blocks in accept; with `--floor` it makes no more system
//! calls than the answer takes, and looks at nothing: what is left is the kernel's.

use std::io::Write;
use std::net::{Ipv6Addr, Shutdown, TcpListener};

fn main() -> std::io::Result<()> {
    let flags: Vec<String> = std::env::args().collect();
    let value = |name: &str| flags.iter().find_map(|flag| flag.strip_prefix(name));
    let port = value("--listen-port=").and_then(|port| port.parse().ok()).unwrap_or(1337);
    let answers = value("--allowed-cidr=") == Some("0.0.0.0/0");
    let floor = flags.iter().any(|flag| flag == "--floor");
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    loop {
        // What one connection ends with is no reason to end for the next.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        if floor {
            let _ = stream.shutdown(Shutdown::Write);
        } else if answers {
            let _ = stream.write_all(b"pong\n");
        }
    }
}
