//! The least that a program can do to open a connection: what `cargo xtask bench start` compares the client with.

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_default();
    std::net::TcpStream::connect(address).map(drop)
}
