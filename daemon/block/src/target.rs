//! A look at the target of a restore before anything is written.

use std::path::Path;

use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::geometry::device_number;
use crate::source::Source;
use crate::sysfs::Device;
use crate::{Error, Result, mounts};

/// What lies at the beginning and the end of a device is looked at this far.
const EDGE: u64 = 1 << 20;

/// State of a target of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetState {
    /// What there is.
    pub kind: TargetKind,
    /// Who uses it so that it must not be written to.
    pub busy: Option<String>,
}

/// What there is at the path of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// Nothing; a file can be made. (Whether its folder exists and is writable shows then.)
    Missing,
    /// A folder.
    Directory,
    /// A regular file. It is empty if and only if its size is 0.
    File {
        /// Bytes.
        size: u64,
        /// It cannot be written to.
        read_only: bool,
    },
    /// A block device.
    Device {
        /// Bytes.
        size: u64,
        /// It cannot be written to.
        read_only: bool,
        /// What was found in its first or last MiB, `None` if they are all zero.
        contents: Option<String>,
    },
    /// Neither file, folder nor block device.
    Other,
}

/// Looks at the target of a restore without changing it.
///
/// # Errors
/// `Denied`, `Io` when it cannot be looked at.
pub fn inspect_target(path: &Path) -> Result<TargetState> {
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(TargetState { kind: TargetKind::Missing, busy: None }),
        Err(errno) => return Err(Error::on_path("look at", path, errno)),
    };
    let denied = match rustix::fs::access(path, Access::WRITE_OK) {
        Ok(()) => false,
        Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => true,
        Err(errno) => return Err(Error::on_path("look at", path, errno)),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => TargetKind::File { size: stat.st_size.unsigned_abs(), read_only: denied },
        FileType::Directory => return Ok(TargetState { kind: TargetKind::Directory, busy: None }),
        FileType::BlockDevice => {
            let source = Source::open_quietly(path)?;
            let read_only = denied || device_number(&stat).is_some_and(|number| Device::new(number).is_read_only());
            TargetKind::Device { size: source.geometry().size, read_only, contents: contents(&source)? }
        }
        _ => return Ok(TargetState { kind: TargetKind::Other, busy: None }),
    };
    let mut busy = mounts::user_of(&stat);
    if busy.is_none() && matches!(kind, TargetKind::Device { .. }) {
        // Exclusive use that shows in no table, even by a process in another container.
        let exclusive = rustix::fs::open(path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
        busy = (exclusive.err() == Some(Errno::BUSY)).then(|| mounts::holder(path));
    }
    Ok(TargetState { kind, busy })
}

/// What is in the first and last MiB of a device, if not only zeros.
fn contents(source: &Source) -> Result<Option<String>> {
    let size = source.geometry().size;
    let pool = BufferPool::new(EDGE as usize, 1)?;
    let block = u64::from(source.geometry().logical_block).max(4096);
    let first = source.read_at(0, size.min(EDGE) as usize, pool.take())?;
    if let Some(found) = describe(&first, 0) {
        return Ok(Some(found));
    }
    // Rounded up, so that the read is aligned and not longer than the buffer.
    let start = size.saturating_sub(EDGE).next_multiple_of(block).min(size / block * block);
    drop(first);
    let last: Buffer = source.read_at(start, (size - start) as usize, pool.take())?;
    Ok(describe(&last, start))
}

/// Names the first thing found in `bytes`, which lie at `start` of the device.
fn describe(bytes: &[u8], start: u64) -> Option<String> {
    let position = bytes.iter().position(|byte| *byte != 0)?;
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let known: [(usize, &[u8], &str); 12] = [
        (0x438, b"\x53\xef", "an ext2/3/4 filesystem"),
        (0, b"XFSB", "an XFS filesystem"),
        (0x10040, b"_BHRfS_M", "a btrfs filesystem"),
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LUKS\xba\xbe", "a LUKS container"),
        (4086, b"SWAPSPACE2", "a swap area"),
        (3, b"NTFS    ", "an NTFS filesystem"),
        (0x8001, b"CD001", "an ISO 9660 filesystem"),
        (4096, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
        (512, b"EFI PART", "a GPT partition table"),
        (4096, b"EFI PART", "a GPT partition table"),
        (510, b"\x55\xaa", "a partition table or boot sector"),
    ];
    let name = known.iter().find(|(offset, magic, _)| start == 0 && at(*offset, magic)).map(|(_, _, name)| *name);
    let place = start + position as u64;
    Some(match name {
        Some(name) => format!("it holds {name}"),
        None => format!("it holds data (first at byte {place})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_it_finds() {
        let mut bytes = vec![0u8; 1 << 20];
        assert_eq!(describe(&bytes, 0), None);
        bytes[77] = 1;
        assert_eq!(describe(&bytes, 4096).unwrap(), "it holds data (first at byte 4173)");
        bytes[0x438..0x43a].copy_from_slice(b"\x53\xef");
        assert_eq!(describe(&bytes, 0).unwrap(), "it holds an ext2/3/4 filesystem");
        assert_eq!(describe(&bytes[..600], 0).unwrap(), "it holds data (first at byte 77)");
    }
}
