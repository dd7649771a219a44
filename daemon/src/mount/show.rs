//! What the kernel is told of inodes and faults.

use super::fs::{Attributes, Fault, Fs, Kind};
use fuser::{Errno, FileAttr, FileType, INodeNo};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wherry_repo::ErrorKind;
use wherry_repo::format::tree::Time;

/// Disks and files never change.
const LONG: Duration = Duration::from_secs(3600);
/// Folders and links may, when snapshots are added.
const SHORT: Duration = Duration::from_secs(1);

/// A file system and how it is shown.
#[derive(Debug)]
pub(super) struct Shown {
    /// The file system.
    pub(super) fs: Arc<Fs>,
    /// User and group that everything belongs to but what is in trees.
    pub(super) owner: (u32, u32),
    /// The kernel lets each user do what modes and ACLs allow.
    pub(super) for_others: bool,
}

impl Shown {
    /// The least that a listing needs.
    pub(super) fn bare(&self, number: u64, kind: Kind) -> FileAttr {
        let (owner, permissions, time) = (None, 0, Time::default());
        self.file_attr(&Attributes {
            number,
            kind,
            size: 0,
            allocated: 0,
            permissions,
            owner,
            links: 1,
            device: (0, 0),
            modified: time,
            changed: time,
            lasts: false,
        })
    }

    /// As the kernel takes them.
    pub(super) fn file_attr(&self, attributes: &Attributes) -> FileAttr {
        let (uid, gid) = attributes.owner.unwrap_or(self.owner);
        let (major, minor) = attributes.device;
        let modified = system_time(attributes.modified);
        let perm = match attributes.kind {
            // `--allow-other` asks for just that, and the kernel goes by the mode.
            Kind::Disk if self.for_others => 0o444,
            _ => attributes.permissions,
        };
        FileAttr {
            ino: INodeNo(attributes.number),
            size: attributes.size,
            blocks: attributes.allocated.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: system_time(attributes.changed),
            crtime: modified,
            kind: file_type(attributes.kind),
            perm,
            nlink: u32::try_from(attributes.links).unwrap_or(u32::MAX),
            uid,
            gid,
            // As the kernel packs the two.
            rdev: major << 8 | minor & 0xff | (minor & !0xff) << 12,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// As the kernel takes it.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Disk | Kind::File => FileType::RegularFile,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Character => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

/// The one table from faults to errno.
pub(super) fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::NoEntry => Errno::ENOENT,
        Fault::NotFolder => Errno::ENOTDIR,
        Fault::IsFolder => Errno::EISDIR,
        Fault::Invalid => Errno::EINVAL,
        Fault::Beyond => Errno::ENXIO,
        Fault::ReadOnly => Errno::EROFS,
        Fault::BadHandle => Errno::EBADF,
        Fault::Repository(ErrorKind::Denied) => Errno::EACCES,
        Fault::Repository(ErrorKind::NoSnapshot) => Errno::ENOENT,
        Fault::Repository(ErrorKind::Busy) => Errno::EBUSY,
        // Corrupt above all, and what nobody who reads could act on.
        Fault::Repository(_) | Fault::Missing => Errno::EIO,
    }
}

/// Likewise of a listing: one that ends with ENOENT passes for one that came to its end.
pub(super) fn errno_of_listing(fault: Fault) -> Errno {
    match fault {
        // What is being listed was opened, so none of this is its end.
        Fault::NoEntry | Fault::Repository(ErrorKind::NoSnapshot) => Errno::ESTALE,
        fault => errno(fault),
    }
}

/// How long the kernel may go by them.
pub(super) fn lifetime(attributes: &Attributes) -> Duration {
    if attributes.lasts { LONG } else { SHORT }
}

fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
    second.and_then(|second| second.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_repo::Timestamp;

    #[test]
    fn damage_is_an_input_output_error_and_changes_are_refused() {
        assert_eq!(i32::from(errno(Fault::Repository(ErrorKind::Corrupt))), i32::from(Errno::EIO));
        assert_eq!(i32::from(errno(Fault::Repository(ErrorKind::Unavailable))), i32::from(Errno::EIO));
        assert_eq!(i32::from(errno(Fault::ReadOnly)), i32::from(Errno::EROFS));
    }

    /// Who lists a directory takes ENOENT for its end, and what it has got for the whole.
    #[test]
    fn no_listing_ends_as_one_that_came_to_its_end() {
        let gone = Fault::Repository(ErrorKind::NoSnapshot);
        assert_eq!(i32::from(errno(gone)), i32::from(Errno::ENOENT));
        for fault in [gone, Fault::NoEntry, Fault::Missing, Fault::Repository(ErrorKind::Corrupt), Fault::NotFolder] {
            let said = i32::from(errno_of_listing(fault));
            assert!(said > 0 && said != i32::from(Errno::ENOENT), "{fault:?}: {said}");
        }
    }

    #[test]
    fn times_before_1970_are_times() {
        let time = |seconds, nanoseconds| system_time(Time { seconds, nanoseconds });
        assert_eq!(time(-1, 0), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(time(-1, 999_999_999), UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!(time(0, 5), UNIX_EPOCH + Duration::from_nanos(5));
        assert_eq!(system_time(crate::mount::attributes::time(Timestamp(-1))), UNIX_EPOCH - Duration::from_nanos(1));
        for seconds in [i64::MIN, i64::MAX] {
            let _ = time(seconds, 999_999_999);
        }
    }
}
