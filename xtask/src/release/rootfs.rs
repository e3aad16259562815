//! The image's only layer as an archive: the program with its file capabilities, and the old program's path.
//!
//! An archive, because a container builder's `COPY` need not keep extended attributes, and `FROM scratch` has no program
//! to set them with; `ADD` unpacks it, attributes included.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::Path;

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (uapi/linux/capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// `VFS_CAP_REVISION_2`, without `VFS_CAP_FLAGS_EFFECTIVE`: with it, exec would fail wherever one of them is out of reach,
/// also where none is needed.
const REVISION_2: u32 = 0x0200_0000;

/// Where the old program lay in its image; manifests name it.
const OLD_PATH: &str = "usr/bin/egw-scale-utils";

/// Writes the archive, every file of it with `time` (seconds since 1970).
pub(super) fn write(program: &Path, time: u64, to: &Path) -> Result<()> {
    let mut archive = Builder::new(io::BufWriter::new(File::create(to)?));
    let header = |kind: EntryType, mode: u32, size: u64| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    let mut file = BufReader::new(File::open(program)?);
    let size = file.seek(io::SeekFrom::End(0))?;
    file.rewind()?;
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &file_capabilities()[..])])?;
    archive.append_data(&mut header(EntryType::Regular, 0o755, size), "egw-probe", file)?;
    for folder in ["usr/", "usr/bin/"] {
        archive.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, io::empty())?;
    }
    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), OLD_PATH, "/egw-probe")?;
    archive.into_inner()?.flush()?;
    Ok(())
}

/// `struct vfs_cap_data`: permitted, but neither inheritable nor effective. The program raises what it uses itself.
fn file_capabilities() -> Vec<u8> {
    let [low, high] = [CAPABILITIES as u32, (CAPABILITIES >> 32) as u32];
    [REVISION_2, low, 0, high, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}
