//! What a device or file is: its kind, size, alignment and identity.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::Errno;

use crate::buffer::ALIGNMENT;
use crate::{Error, Result};

/// Kind of a source or target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Block device.
    Device,
    /// Regular file.
    File,
    /// Standard input: no size, read once from front to back.
    Stream,
}

/// Size and alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Kind.
    pub kind: Kind,
    /// Bytes. `u64::MAX` for a stream, whose size is known at its end only.
    pub size: u64,
    /// What offsets and lengths of direct transfers are a multiple of, in bytes: the logical block of a device.
    pub logical_block: u32,
}

/// Which device or file it is, to recognise it again and for records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Path as given.
    pub path: PathBuf,
    /// Device the file or device node lies on.
    pub st_dev: u64,
    /// Inode there.
    pub st_ino: u64,
    /// Number of the device itself, (major, minor); `None` for a file.
    pub rdev: Option<(u32, u32)>,
}

impl Identity {
    pub(crate) fn new(path: &Path, stat: &Stat) -> Self {
        Self { path: path.to_owned(), st_dev: stat.st_dev, st_ino: stat.st_ino, rdev: device_number(stat) }
    }
}

/// An open device or file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) stat: Stat,
    pub(crate) geometry: Geometry,
    /// Whether transfers go past the page cache.
    pub(crate) direct: bool,
    /// Whether what is read comes from a medium.
    pub(crate) from_medium: bool,
}

impl Opened {
    /// Opens `path` with `flags` and O_DIRECT, or without where that is refused.
    pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> Result<Self> {
        let flags = flags | OFlags::CLOEXEC;
        let failed = |errno| Error::on_path("open", path, errno);
        // Before the open: opening a pipe would wait for its other end.
        let exists = rustix::fs::stat(path).ok().map(|stat| kind(path, &stat)).transpose()?;
        let (fd, mut direct) = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Err(Errno::INVAL) => {
                // A file that was to be made is there now. On a device O_EXCL means something else and stays.
                let made = if exists == Some(Kind::Device) { OFlags::empty() } else { OFlags::CREATE | OFlags::EXCL };
                (rustix::fs::open(path, flags - made, mode).map_err(failed)?, false)
            }
            opened => (opened.map_err(failed)?, true),
        };
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let kind = kind(path, &stat)?;
        let memory = if kind == Kind::File { memory_of(&fd) } else { None };
        let logical_block = match kind {
            Kind::Device => rustix::fs::ioctl_blksszget(&fd).map_err(|errno| Error::on_path("ioctl", path, errno))?,
            _ if !direct => ALIGNMENT as u32,
            // These take the flag since Linux 6.6, and have no medium.
            _ if memory == Some(Memory::All) => {
                direct = false;
                ALIGNMENT as u32
            }
            _ => match file_alignment(&fd) {
                Some(0) => {
                    direct = false;
                    ALIGNMENT as u32
                }
                known => known.unwrap_or(ALIGNMENT as u32),
            },
        };
        let size = size(&fd, kind, logical_block).map_err(|errno| Error::on_path("seek in", path, errno))?;
        let geometry = Geometry { kind, size, logical_block };
        let mut opened = Self { fd: Arc::new(fd), stat, geometry, direct, from_medium: direct && memory.is_none() };
        if !direct {
            opened.fd = Arc::new(buffered(&opened.fd, path, flags)?);
            tracing::info!(path = %path.display(), "no O_DIRECT here, the page cache is used");
        }
        Ok(opened)
    }

    /// The size as it is now.
    pub(crate) fn current_size(&self) -> Result<u64, Errno> {
        size(&self.fd, self.geometry.kind, self.geometry.logical_block)
    }

    /// What the offsets and lengths of transfers are a multiple of.
    pub(crate) fn alignment(&self) -> usize {
        if self.direct { (self.geometry.logical_block as usize).max(512) } else { 1 }
    }

    /// What requests are cut at: a multiple of both the alignment and the size of a page.
    pub(crate) fn block(&self) -> usize {
        self.alignment().max(ALIGNMENT)
    }
}

/// The folder that `path` lies in, as a path that can be opened.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn kind(path: &Path, stat: &Stat) -> Result<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(Kind::Device),
        FileType::RegularFile => Ok(Kind::File),
        other => Err(Error::invalid(path, format!("{} is no block device or regular file", name_of(other)))),
    }
}

/// The same open file once more, through the page cache.
pub(crate) fn buffered(fd: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let access = flags & OFlags::RWMODE;
    rustix::fs::open(&link, access | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::on_path("open", path, errno))
}

/// Current size in bytes, of a device too, and of that only whole blocks: a loop device over an odd file may end
/// within one, and the kernel gives out no byte of it.
fn size(fd: impl AsFd, kind: Kind, logical_block: u32) -> Result<u64, Errno> {
    let size = rustix::fs::seek(fd, SeekFrom::End(0))?;
    let block = u64::from(logical_block.max(1));
    Ok(if kind == Kind::Device { size / block * block } else { size })
}

/// (major, minor) of a device node.
pub(crate) fn device_number(stat: &Stat) -> Option<(u32, u32)> {
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    device.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// What a filesystem takes reads from in spite of `O_DIRECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// It has no medium.
    All,
    /// It has a cache of its own.
    Cache,
}

fn memory_of(fd: impl AsFd) -> Option<Memory> {
    // Where nothing is said nothing is promised.
    rustix::fs::fstatfs(fd).map_or(Some(Memory::Cache), |kind| memory(u64::try_from(kind.f_type).unwrap_or_default()))
}

/// By the magic number of the filesystem.
fn memory(magic: u64) -> Option<Memory> {
    match magic {
        // tmpfs, ramfs
        0x0102_1994 | 0x8584_58F6 => Some(Memory::All),
        // ZFS
        0x2FC1_2FC1 => Some(Memory::Cache),
        _ => None,
    }
}

/// Whether an open file is on a filesystem that takes `O_DIRECT` and yet may read from memory: tmpfs and ramfs have no medium,
/// ZFS has a cache of its own. What was read from there says nothing of a medium.
pub fn reads_from_memory(file: impl AsFd) -> bool {
    memory_of(file).is_some()
}

/// What the filesystem says of direct transfers on this file: their alignment, 0 for "not possible", `None` for nothing.
fn file_alignment(fd: &OwnedFd) -> Option<u32> {
    let answer = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    known.then_some(answer.stx_dio_offset_align)
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe (read it as standard input)",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        _ => "this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_of_its_own_is_no_medium() {
        assert_eq!([0x0102_1994, 0x8584_58F6].map(memory), [Some(Memory::All); 2]);
        assert_eq!(memory(0x2FC1_2FC1), Some(Memory::Cache));
        assert_eq!([0xEF53, 0x5846_5342, 0].map(memory), [None; 3]);
    }
}
