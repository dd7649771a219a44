//! A look at the target of a restore before anything is written.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::geometry::device_number;
use crate::source::Source;
use crate::sysfs::Device;
use crate::{Error, Result, mounts};

/// What lies at the beginning and the end of a device is looked at this far (bytes).
const EDGE: u64 = 1 << 20;

/// A look at one place of a device takes so many bytes.
const LOOK: usize = 4096;

/// So far from the beginning of a partition on lies what tells its filesystem (bytes): that of btrfs is the last, at 64 KiB.
const HEAD: u64 = (64 << 10) + LOOK as u64;

/// What stays of a filesystem whose first MiB was wiped: where its copies lie (a multiple of [`LOOK`], and the place
/// behind that), how they begin, its name.
const COPIES: [(u64, usize, &[u8], &str); 6] = [
    (8 << 20, 1024 + 0x38, b"\x53\xef", "what is left of an ext2/3/4 filesystem"),
    (32 << 20, 0x38, b"\x53\xef", "what is left of an ext2/3/4 filesystem"),
    (128 << 20, 0x38, b"\x53\xef", "what is left of an ext2/3/4 filesystem"),
    (64 << 20, 0x40, b"_BHRfS_M", "what is left of a btrfs filesystem"),
    (256 << 30, 0x40, b"_BHRfS_M", "what is left of a btrfs filesystem"),
    (1 << 20, 0, b"\x0d\xd0\x01\xc0", "a VMFS volume"),
];

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
    /// Nothing.
    Missing {
        /// Why no file can be made there, `None` if nothing speaks against it.
        refused: Option<String>,
    },
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
        /// What was found in its first or last MiB or, of a known kind, elsewhere, or which of these cannot be read; `None` if
        /// it counts as empty.
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
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Ok(TargetState { kind: TargetKind::Missing { refused: cannot_make(path)? }, busy: None });
        }
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
            let contents = match contents(&source) {
                // A bad sector comes back when it is written over: whether it is, is for others to say.
                Err(Error::Io { offset, len, .. }) if len > 0 => {
                    Some(format!("a part that cannot be read (within {len} bytes from byte {offset} on)"))
                }
                contents => contents?,
            };
            TargetKind::Device { size: source.geometry().size, read_only, contents }
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

/// Where the kernel and udev show devices.
const DEVICES: &str = "/dev";

/// Why nothing can be made at `path` where it lies in the folder of devices, `None` elsewhere. A file that was made there would
/// be in memory, and gone with the next boot, while whoever asked for it believes in a disk. Filesystems of their own below it,
/// such as `/dev/shm`, are places like any other.
///
/// # Errors
/// `Io`, `Denied` when the folder of devices cannot be looked at.
pub fn not_a_device(path: &Path) -> Result<Option<String>> {
    let path = std::path::absolute(path)
        .map_err(|e| Error::on_path("look at", path, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    // The name itself may lead there (/dev/mapper is not there without device mapper), or a link to a folder.
    let above = path.ancestors().skip(1).find_map(|above| std::fs::canonicalize(above).ok());
    let Some(above) = above.filter(|above| above.starts_with(DEVICES)) else { return Ok(None) };
    let filesystem = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    let same = filesystem(&above).and_then(|above| Ok(above == filesystem(DEVICES.as_ref())?));
    let why = "there is no such device, and a file there would be in memory only; `lsblk -p` shows the devices there are; is it attached, \
               and its volume group or mapping active?";
    Ok(same.map_err(|errno| Error::on_path("look at", &above, errno))?.then(|| why.to_owned()))
}

/// Why no file can be made at `path`, where nothing is.
fn cannot_make(path: &Path) -> Result<Option<String>> {
    if rustix::fs::lstat(path).is_ok() {
        return Ok(Some("it is a symbolic link to nothing".to_owned()));
    }
    if let Some(why) = not_a_device(path)? {
        return Ok(Some(why));
    }
    let folder = crate::geometry::folder(path);
    let name = folder.display();
    let why = match rustix::fs::stat(folder) {
        Err(Errno::NOENT) => format!("there is no folder {name}; make it first"),
        Err(Errno::NOTDIR) => format!("{name} is not a folder"),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => format!("{name} is not a folder"),
        Err(Errno::ACCESS | Errno::PERM) => format!("there is no permission to look into the folder {name}"),
        Err(errno) => return Err(Error::on_path("look at", folder, errno)),
        Ok(_) if path.as_os_str().as_bytes().ends_with(b"/") => {
            "a name that ends with / is that of a folder".to_owned()
        }
        Ok(_) => match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => return Ok(None),
            Err(Errno::ROFS) => format!("the folder {name} is on a read-only filesystem"),
            Err(Errno::ACCESS | Errno::PERM) => format!("there is no permission to write to the folder {name}"),
            Err(errno) => return Err(Error::on_path("look at", folder, errno)),
        },
    };
    Ok(Some(why))
}

/// What is on a device, if it does not count as empty.
fn contents(source: &Source) -> Result<Option<String>> {
    let size = source.geometry().size;
    let block = u64::from(source.geometry().logical_block).max(LOOK as u64);
    // The last MiB need not begin where a read may: then the read before it begins is longer.
    let pool = BufferPool::new((EDGE + block) as usize, 1)?;
    let first = source.read_at(0, size.min(EDGE) as usize, pool.take())?;
    if let Some(found) = describe(&first, 0) {
        return Ok(Some(found));
    }
    drop(first);
    let edge = size.saturating_sub(EDGE);
    let start = edge / block * block;
    let last: Buffer = source.read_at(start, (size - start) as usize, pool.take())?;
    if let Some(found) = describe(&last[(edge - start) as usize..], edge) {
        return Ok(Some(found));
    }
    drop(last);
    for (place, behind, magic, name) in COPIES {
        if place + LOOK as u64 <= size && source.read_at(place, LOOK, pool.take())?[behind..].starts_with(magic) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Gives `each` what is not zero at the places of a target of `size` bytes where [`inspect_target`] would see a filesystem or a
/// table of partitions on a device, and where the partitions begin that `starts` names (bytes): its place and at most 4 KiB,
/// which do not reach over a multiple of 4 KiB nor over `cut`. Ascending, each once; what the target does not have is left out.
///
/// # Errors
/// As of [`Source::open`] and [`Source::read_at`].
pub fn look_at_places(
    path: &Path,
    size: u64,
    cut: u64,
    starts: &[u64],
    mut each: impl FnMut(u64, &[u8]),
) -> Result<()> {
    let source = Source::open_quietly(path)?;
    let block = u64::from(source.geometry().logical_block).max(LOOK as u64);
    let size = size.min(source.geometry().size);
    let first = size.min(EDGE);
    let last = (size.saturating_sub(EDGE) / block * block).max(first);
    let heads = starts.iter().filter(|start| **start < size).map(|start| (start / block * block, start + HEAD));
    let copies = COPIES.iter().map(|(place, ..)| (*place, place + LOOK as u64));
    let mut places: Vec<(u64, u64)> = [(0, first), (last, size)].into_iter().chain(copies).chain(heads).collect();
    places.sort_unstable();
    let most = EDGE + block;
    let pool = BufferPool::new(most as usize, 1)?;
    let mut start = 0;
    for (from, to) in places {
        start = start.max(from);
        let end = to.next_multiple_of(block).min(size);
        while start < end {
            let bytes = source.read_at(start, (end - start).min(most) as usize, pool.take())?;
            for (n, piece) in bytes.chunks(LOOK).enumerate() {
                let at = start + (n * LOOK) as u64;
                let (before, behind) = piece.split_at(cut.saturating_sub(at).min(piece.len() as u64) as usize);
                for (at, part) in [(at, before), (at + before.len() as u64, behind)] {
                    if part.iter().any(|byte| *byte != 0) {
                        each(at, part);
                    }
                }
            }
            start += bytes.len() as u64;
        }
    }
    Ok(())
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
        Some(name) => name.to_owned(),
        None => format!("data (first at byte {place})"),
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
        assert_eq!(describe(&bytes, 4096).unwrap(), "data (first at byte 4173)");
        bytes[0x438..0x43a].copy_from_slice(b"\x53\xef");
        assert_eq!(describe(&bytes, 0).unwrap(), "an ext2/3/4 filesystem");
        assert_eq!(describe(&bytes[..600], 0).unwrap(), "data (first at byte 77)");
    }
}
