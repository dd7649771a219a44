//! An inode as the kernel tells of it.

use wherry_repo::format::tree::{Extended, InodeFlags, Known, Set, Time, What};

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

/// What of the permissions its owner has, without bits that let a program run as somebody.
pub const OWNERS: u16 = 0o700;

/// The permissions of an entry, for who makes it or lets others at it. Where something of it could not be read and no
/// attribute is known, an ACL may be what is missing: the bits of the group would be its mask, so only the owner's are given.
pub fn permissions(known: &Known) -> u16 {
    let attributes = &known.attributes;
    let may_lack_acl = known.missing.is_some()
        && matches!(attributes.extended, Extended::None)
        && !matches!(known.what, What::Link(_));
    if may_lack_acl { attributes.permissions & OWNERS } else { attributes.permissions }
}

/// The type that an entry of a tree has, and the bytes of a regular file; 0 for everything else.
pub fn kind_of(what: &What) -> (InodeKind, u64) {
    match what {
        What::File { size, .. } => (InodeKind::File, *size),
        What::Folder { .. } => (InodeKind::Folder, 0),
        What::Link(target) => (InodeKind::Link(target.clone()), 0),
        What::Fifo => (InodeKind::Fifo, 0),
        What::Socket => (InodeKind::Socket, 0),
        What::Character(major, minor) => (InodeKind::Character(*major, *minor), 0),
        What::Block(major, minor) => (InodeKind::Block(*major, *minor), 0),
    }
}
