//! What the kernel tells of one inode: statx, target of a link, extended attributes.

use super::inode::{Inode, InodeKind};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::ffi::CStr;
use std::num::NonZeroU32;
use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// Number of a device: major, minor.
pub(crate) type Device = (u32, u32);

/// Most bytes of a set of extended attributes, as the format counts them.
const MAX_SET: usize = 1 << 20;
/// Most bytes that the kernel gives for a list of names or for a value.
const MAX_XATTR: usize = 64 << 10;

/// What was seen of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The metadata.
    pub inode: Inode,
    /// Why its extended attributes are not there: an error number.
    pub missing: Option<NonZeroU32>,
    /// The filesystem's device number.
    pub(crate) device: Device,
    /// When it was made, where the filesystem knows: tells it from another inode that had its number.
    pub(crate) born: Option<Time>,
    /// Something is mounted here.
    pub(crate) mounted: bool,
    /// Something would be mounted if it were entered.
    pub(crate) automount: bool,
}

/// Buffers of one thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: Vec<u8>,
    list: Vec<u8>,
    value: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { path: Vec::new(), list: vec![0; MAX_XATTR], value: vec![0; MAX_XATTR] }
    }
}

/// The inode that a name in a directory has. Nothing is followed and nothing is mounted for it.
///
/// # Errors
/// What statx says, or readlink of a link.
pub(crate) fn look(dir: BorrowedFd<'_>, name: &CStr, scratch: &mut Scratch) -> Result<Look, Errno> {
    let stat = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
            if target.is_empty() || target.len() > 4095 {
                return Err(Errno::NAMETOOLONG);
            }
            InodeKind::Link(target)
        }
        other => kind(other, &stat)?,
    };
    scratch.path.clear();
    // By number and name: also links and devices have attributes, and those are never opened.
    scratch.path.extend_from_slice(b"/proc/self/fd/");
    let mut digits = [0; 10];
    scratch.path.extend_from_slice(decimal(dir.as_raw_fd().unsigned_abs(), &mut digits));
    scratch.path.push(b'/');
    scratch.path.extend_from_slice(name.to_bytes_with_nul());
    let path = CStr::from_bytes_with_nul(&scratch.path).map_err(|_| Errno::INVAL)?;
    let set = extended(&Of::Name(path), &mut scratch.list, &mut scratch.value);
    Ok(made(kind, &stat, set))
}

/// The same of an open directory that has no name in another.
///
/// # Errors
/// What statx says.
pub(crate) fn look_at_root(fd: BorrowedFd<'_>, scratch: &mut Scratch) -> Result<Look, Errno> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH)?;
    let set = extended(&Of::Open(fd), &mut scratch.list, &mut scratch.value);
    Ok(made(kind(FileType::from_raw_mode(u32::from(stat.stx_mode)), &stat)?, &stat, set))
}

/// Whether what was opened is a regular file and the inode that was seen.
pub(crate) fn looked_alike(fd: BorrowedFd<'_>, seen: &Inode) -> Result<bool, Errno> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::INO)?;
    let regular = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    Ok(regular && stat.stx_ino == seen.number)
}

fn statx(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Statx, Errno> {
    rustix::fs::statx(dir, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

fn kind(kind: FileType, stat: &Statx) -> Result<InodeKind, Errno> {
    Ok(match kind {
        FileType::RegularFile => InodeKind::File,
        FileType::Directory => InodeKind::Folder,
        FileType::Fifo => InodeKind::Fifo,
        FileType::Socket => InodeKind::Socket,
        FileType::CharacterDevice => InodeKind::Character(stat.stx_rdev_major, stat.stx_rdev_minor),
        FileType::BlockDevice => InodeKind::Block(stat.stx_rdev_major, stat.stx_rdev_minor),
        FileType::Symlink | FileType::Unknown => return Err(Errno::OPNOTSUPP),
    })
}

fn made(kind: InodeKind, stat: &Statx, set: Result<Set, Errno>) -> Look {
    let has = |attribute| stat.stx_attributes.contains(attribute);
    let mut flags = 0;
    for (attribute, flag) in [
        (StatxAttributes::IMMUTABLE, InodeFlags::IMMUTABLE),
        (StatxAttributes::APPEND, InodeFlags::APPEND),
        (StatxAttributes::NODUMP, InodeFlags::NO_DUMP),
    ] {
        flags |= if has(attribute) { flag } else { 0 };
    }
    let (extended, missing) = match set {
        Ok(set) => (set, None),
        Err(errno) => (Set::default(), Some(number(errno))),
    };
    Look {
        inode: Inode {
            kind,
            permissions: stat.stx_mode & 0o7777,
            owner: stat.stx_uid,
            group: stat.stx_gid,
            flags: InodeFlags(flags),
            extended,
            modified: time(&stat.stx_mtime),
            changed: time(&stat.stx_ctime),
            number: stat.stx_ino,
            links: u64::from(stat.stx_nlink),
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
        },
        missing,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(&stat.stx_btime)),
        mounted: has(StatxAttributes::MOUNT_ROOT),
        automount: has(StatxAttributes::AUTOMOUNT),
    }
}

/// As the format has it; a filesystem that gives 10^9 nanoseconds or more is wrong, and gets the last one below.
fn time(stamp: &StatxTimestamp) -> Time {
    Time { seconds: stamp.tv_sec, nanoseconds: stamp.tv_nsec.min(999_999_999) }
}

/// As the format has it.
pub(crate) fn number(errno: Errno) -> NonZeroU32 {
    NonZeroU32::new(errno.raw_os_error().unsigned_abs()).unwrap_or(NonZeroU32::MIN)
}

fn decimal(mut value: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

enum Of<'a> {
    Name(&'a CStr),
    Open(BorrowedFd<'a>),
}

/// All extended attributes, by name. A filesystem without any has none; one that went meanwhile was never there.
fn extended(of: &Of<'_>, list: &mut [u8], value: &mut [u8]) -> Result<Set, Errno> {
    let listed = match of {
        Of::Name(path) => rustix::fs::llistxattr(*path, &mut *list),
        Of::Open(fd) => rustix::fs::flistxattr(fd, &mut *list),
    };
    let length = match listed {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut set = Vec::new();
    let mut bytes = 2;
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let got = match of {
            Of::Name(path) => rustix::fs::lgetxattr(*path, name, &mut *value),
            Of::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut *value),
        };
        let got = match got {
            Ok(got) => &value[..got],
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        };
        let name = name.to_bytes();
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::TOOBIG);
        }
        bytes += 1 + name.len() + 4 + got.len();
        if bytes > MAX_SET {
            return Err(Errno::TOOBIG);
        }
        set.push((name.to_vec(), got.to_vec()));
    }
    set.sort_unstable();
    set.dedup_by(|a, b| a.0 == b.0);
    Ok(Set(set))
}
