//! An inode as the kernel tells of it.

use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// Metadata of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: InodeKind,
    /// The 12 bits of the mode below the type.
    pub permissions: u16,
    /// User id.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// Immutable, append only, no dump.
    pub flags: InodeFlags,
    /// All extended attributes that the kernel lists, POSIX ACLs among them.
    pub extended: Set,
    /// mtime.
    pub modified: Time,
    /// ctime.
    pub changed: Time,
    /// Inode number.
    pub number: u64,
    /// Names it has.
    pub links: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes allocated.
    pub allocated: u64,
}

/// The types of inodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link and its target.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}
