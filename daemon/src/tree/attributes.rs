//! What the kernel tells of one inode: statx, target of a link, extended attributes.

use super::inode::{Inode, InodeKind};
use rustix::fd::BorrowedFd;
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
/// What nearly all lists and values fit in. The kernel allocates as much as it is told that there is room for.
const MOSTLY: usize = 512;

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
    list: Vec<u8>,
    value: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { list: vec![0; MAX_XATTR], value: vec![0; MAX_XATTR] }
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
    let set = extended(dir, name, scratch);
    Ok(made(kind, &stat, set))
}

/// The same of an open directory that has no name in another.
///
/// # Errors
/// What statx says.
pub(crate) fn look_at_root(fd: BorrowedFd<'_>, scratch: &mut Scratch) -> Result<Look, Errno> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH)?;
    let set = extended(fd, c"", scratch);
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

/// All extended attributes, by name. A filesystem without any has none; one that went meanwhile was never there.
fn extended(dir: BorrowedFd<'_>, name: &CStr, scratch: &mut Scratch) -> Result<Set, Errno> {
    let Scratch { list, value } = scratch;
    let listed = sized(list, |list| wherry_block::list_xattr(dir, name, list));
    let length = match listed {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    gathered(&list[..length], |attribute| {
        let got = sized(value, |value| wherry_block::get_xattr(dir, name, attribute, value));
        got.map(|got| value[..got].to_vec())
    })
}

/// What a list of names, as the kernel gives it, and the values come to that it gives for them.
pub(crate) fn gathered(list: &[u8], mut value: impl FnMut(&CStr) -> Result<Vec<u8>, Errno>) -> Result<Set, Errno> {
    let mut set = Vec::new();
    let mut bytes = 2;
    for attribute in list.split_inclusive(|byte| *byte == 0) {
        let Ok(attribute) = CStr::from_bytes_with_nul(attribute) else { continue };
        let got = match value(attribute) {
            Ok(got) => got,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        };
        let attribute = attribute.to_bytes();
        if attribute.is_empty() || attribute.len() > 255 {
            return Err(Errno::TOOBIG);
        }
        bytes += 1 + attribute.len() + 4 + got.len();
        if bytes > MAX_SET {
            return Err(Errno::TOOBIG);
        }
        set.push((attribute.to_vec(), got));
    }
    set.sort_unstable();
    set.dedup_by(|a, b| a.0 == b.0);
    Ok(Set(set))
}

/// Calls with a short buffer first, and with all of it where that is too short.
fn sized(buffer: &mut [u8], mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    match call(&mut buffer[..MOSTLY]) {
        Err(Errno::RANGE) => call(buffer),
        done => done,
    }
}
