//! What the kernel tests share: frames, two namespaces, the program in one of them.

pub(crate) mod crafted;
pub(crate) mod net;
pub(crate) mod program;

/// The same frames on every machine.
pub(crate) struct Random(fastrand::Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// `BPF_PROG_TEST_RUN` takes no frame that ends with its Ethernet header.
pub(crate) const SHORTEST: usize = 15;

/// Addresses that frames come from and go to. The first two destinations are the host's own, the third is not.
pub(crate) const SOURCES_V4: [[u8; 4]; 4] =
    [[10, 1, 2, 3], [10, 9, 9, 9], [203, 0, 113, 5], [192, 0, 2, 200]];
/// Own, own, foreign.
pub(crate) const DESTINATIONS_V4: [[u8; 4]; 3] = [[198, 51, 100, 1], [198, 51, 100, 2], [198, 51, 100, 3]];
/// IPv6 sources: two allowed, two not.
pub(crate) const SOURCES_V6: [[u8; 16]; 4] = [v6(0xa, 1), v6(0xa, 2), v6(0xb, 1), v6(0xc, 2)];
/// Own, own, foreign.
pub(crate) const DESTINATIONS_V6: [[u8; 16]; 3] = [v6(0xf, 1), v6(0xf, 2), v6(0xf, 3)];

/// `2001:db8:<net>::<host>`.
pub(crate) const fn v6(net: u8, host: u8) -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// A frame that is mostly a SYN to `port` and in some respect often not.
pub(crate) fn frame(random: &mut Random, port: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for _ in 0..random.pick(&[0, 0, 0, 0, 1, 1, 2, 3]) {
        frame.extend(random.pick(&[0x8100u16, 0x88a8, 0x9100]).to_be_bytes());
        frame.extend([0, 7]);
    }
    let tcp = tcp(random, port);
    if random.once_in(2) {
        ipv4(random, &mut frame, &tcp);
    } else {
        ipv6(random, &mut frame, &tcp);
    }
    if random.once_in(4) {
        for _ in 0..=random.below(3) {
            let at = random.below(frame.len());
            frame[at] = random.next() as u8;
        }
    }
    if random.once_in(6) {
        frame.truncate(random.below(frame.len() + 1));
    }
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

fn tcp(random: &mut Random, port: u16) -> Vec<u8> {
    let words = 5 + random.below(11) as u8;
    let mut header = Vec::new();
    header.extend((random.next() as u16).to_be_bytes());
    header.extend(if random.once_in(6) { random.next() as u16 } else { port }.to_be_bytes());
    header.extend((random.next() as u32).to_be_bytes());
    header.extend([0; 4]);
    let flags = random.pick(&[0x02, 0x02, 0x02, 0x02, 0xc2, 0x03, 0x12, 0x10, 0x18, 0x04]);
    header.extend([words << 4, flags, 1, 0, 0, 0, 0, 0]);
    header.resize(usize::from(words) * 4, 1);
    header
}

fn ipv4(random: &mut Random, frame: &mut Vec<u8>, payload: &[u8]) {
    let words = random.pick(&[5, 5, 5, 6, 9, 15]);
    let len = usize::from(words) * 4;
    frame.extend([8, 0, 0x40 | words, 0]);
    frame.extend(((len + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(random.pick(&[0u16, 0, 0, 0x4000, 0x2000, 0x2001, 7]).to_be_bytes());
    frame.extend([64, random.pick(&[6, 6, 6, 6, 6, 17, 1]), 0, 0]);
    frame.extend(random.pick(&SOURCES_V4));
    frame.extend(random.pick(&DESTINATIONS_V4));
    frame.resize(frame.len() + len - 20, 1);
    frame.extend(payload);
}

fn ipv6(random: &mut Random, frame: &mut Vec<u8>, tcp: &[u8]) {
    let kinds: Vec<u8> =
        (0..random.pick(&[0, 0, 0, 1, 2, 7, 8, 9])).map(|_| random.pick(&[0, 43, 44, 51, 60])).collect();
    let mut payload = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let units = 1 + random.below(4);
        let len = match kind {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let mut header = vec![0; len];
        header[0] = kinds.get(i + 1).copied().unwrap_or(6);
        header[1] = if *kind == 44 { 0 } else { units as u8 };
        payload.extend(header);
    }
    payload.extend(tcp);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([kinds.first().copied().unwrap_or(6), 64]);
    frame.extend(random.pick(&SOURCES_V6));
    frame.extend(random.pick(&DESTINATIONS_V6));
    frame.extend(payload);
}

/// What a tun device carries (uapi/linux/if_tun.h).
#[derive(Clone, Copy)]
#[repr(i16)]
pub(crate) enum Carries {
    /// IP packets.
    Packets = 1,
    /// Ethernet frames, each behind a `struct virtio_net_hdr`.
    FramesWithVirtioHeader = 0x4002,
}

/// Opens a tun device that exists already; what is written to the file arrives on it.
pub(crate) fn open_tun(name: &str, carries: Carries) -> std::fs::File {
    use std::os::fd::AsRawFd as _;
    const IFF_NO_PI: i16 = 0x1000;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(carries as i16 | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the buffer is as large as struct ifreq, which is what the call reads and writes.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    file
}
