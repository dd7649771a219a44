//! Kinds of filesystems, and what is known of each.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::time::Duration;

/// A kind of filesystem, by the magic number that the kernel gives for it; by default none that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem(u64);

impl Filesystem {
    /// That of an open file or directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        #[allow(clippy::unnecessary_cast, reason = "the type of the field depends on the architecture")]
        Ok(Self(u64::from(rustix::fs::fstatfs(fd)?.f_type as u32)))
    }

    /// Its name: `ext4`, `xfs`, ..; for one that is not in the table its number.
    pub fn name(self) -> String {
        self.known().map_or_else(|| format!("0x{:x}", self.0), str::to_owned)
    }

    fn known(self) -> Option<&'static str> {
        MAGIC.iter().find(|(magic, _, _)| *magic == self.0).map(|(_, name, _)| *name)
    }

    /// Whether `syncfs` waits for all that was written to it, and says so where that failed. Others may do nothing for it
    /// (FUSE), or not hear of errors of what lies below them.
    pub(crate) fn syncs_all(self) -> bool {
        matches!(self.known(), Some("ext4" | "xfs" | "btrfs" | "f2fs" | "zfs" | "tmpfs" | "ramfs"))
    }

    /// Whether an inode has one number for as long as it has a name. Others may make one up when it is looked at anew.
    pub(crate) fn keeps_numbers(self) -> bool {
        self.syncs_all() || matches!(self.known(), Some("nfs" | "ceph" | "overlay"))
    }

    /// So much before a run's start a ctime must be to say that nothing changed since: 2 s, and an hour where another
    /// machine's clock writes it or the kind is not known.
    pub fn margin(self) -> Duration {
        Duration::from_secs(if self.is_local() { 2 } else { 3600 })
    }

    /// Whether this kernel alone, and no other machine or program, says what is in it.
    pub(crate) fn is_local(self) -> bool {
        MAGIC.iter().any(|(magic, _, network)| *magic == self.0 && !*network)
    }
}

/// Magic number, name, and whether another machine (or program) writes the times.
const MAGIC: &[(u64, &str, bool)] = &[
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0xca45_1a4e, "bcachefs", false),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
    (0x794c_7630, "overlay", false),
    (0x4d44, "vfat", false),
    (0x2011_bab0, "exfat", false),
    (0x7366_746e, "ntfs3", false),
    (0x5265_4973, "reiserfs", false),
    (0x3153_464a, "jfs", false),
    (0x3434, "nilfs", false),
    (0x9660, "iso9660", false),
    (0x1501_3346, "udf", false),
    (0x7371_7368, "squashfs", false),
    (0xe0f5_e1e2, "erofs", false),
    (0x9fa0, "proc", false),
    (0x6265_6572, "sysfs", false),
    (0x6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x517b, "smb", true),
    (0x00c3_6400, "ceph", true),
    (0x0102_1997, "9p", true),
    (0x6573_5546, "fuse", true),
    (0x5346_414f, "afs", true),
    (0x0116_1970, "gfs2", true),
    (0x7461_636f, "ocfs2", true),
    (0x0bd0_0bd0, "lustre", true),
    (0x1983_0326, "beegfs", true),
    (0x4750_4653, "gpfs", true),
    (0x786f_4256, "vboxsf", true),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_relied_upon() {
        let of = |name: &str| Filesystem(MAGIC.iter().find(|(_, known, _)| *known == name).unwrap().0);
        for local in ["ext4", "xfs", "btrfs", "tmpfs"] {
            assert!(of(local).syncs_all() && of(local).keeps_numbers(), "{local}");
        }
        assert!(!of("nfs").syncs_all() && of("nfs").keeps_numbers());
        for other in [of("fuse"), of("cifs"), of("vfat"), Filesystem(0), Filesystem(7)] {
            assert!(!other.syncs_all() && !other.keeps_numbers(), "{other:?}");
        }
    }
}
