//! What a mount says of an inode.

use wherry_repo::Timestamp;
use wherry_repo::format::tree::Time;

/// The kinds of inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// The disk of a snapshot.
    Disk,
    /// A regular file of a tree.
    File,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not in holes.
    pub allocated: u64,
    /// The 12 bits of the mode below the type.
    pub permissions: u16,
    /// User and group id; `None`: those of the mount.
    pub owner: Option<(u32, u32)>,
    /// Names it has; of a directory 2 and those of the directories in it.
    pub links: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// mtime, and atime, which is not kept.
    pub modified: Time,
    /// ctime.
    pub changed: Time,
    /// Never changes while the mount lives.
    pub lasts: bool,
}

/// One name of a folder.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The name: any bytes.
    pub name: &'a [u8],
    /// Number of its inode.
    pub number: u64,
    /// What that is.
    pub kind: Kind,
    /// The place behind it, where a listing may go on.
    pub next: u64,
    /// Attributes, if they were asked for.
    pub attributes: Option<&'a Attributes>,
}

/// A moment as a filesystem has it.
pub fn time(timestamp: Timestamp) -> Time {
    const BILLION: i64 = 1_000_000_000;
    Time { seconds: timestamp.0.div_euclid(BILLION), nanoseconds: timestamp.0.rem_euclid(BILLION) as u32 }
}
