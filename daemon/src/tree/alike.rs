//! What all names of one inode say alike. The number of an inode is given anew when all its names have gone, and a tree
//! is read over a while: entries with one number are names of one inode only if they also agree in this.

use super::inode::{Inode, InodeKind};
use std::hash::{DefaultHasher, Hash, Hasher};
use wherry_repo::format::tree::{Known, Time, What};

/// Of an entry of a tree.
pub fn of_known(known: &Known) -> u64 {
    let (kind, size) = match &known.what {
        What::File { size, .. } => (InodeKind::File, *size),
        What::Folder { .. } => (InodeKind::Folder, 0),
        What::Link(target) => (InodeKind::Link(target.clone()), 0),
        What::Fifo => (InodeKind::Fifo, 0),
        What::Socket => (InodeKind::Socket, 0),
        What::Character(major, minor) => (InodeKind::Character(*major, *minor), 0),
        What::Block(major, minor) => (InodeKind::Block(*major, *minor), 0),
    };
    alike(&kind, size, known.modified, known.changed, known.missing.is_some())
}

/// Of an entry as a view shows it; `is_missing`: something of it could not be read.
pub fn of_inode(inode: &Inode, is_missing: bool) -> u64 {
    let size = if inode.kind == InodeKind::File { inode.size } else { 0 };
    alike(&inode.kind, size, inode.modified, inode.changed, is_missing)
}

/// What could be read by one name and not by another must not take its place.
fn alike(kind: &InodeKind, size: u64, modified: Time, changed: Time, is_missing: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, size, modified, changed, is_missing).hash(&mut hasher);
    hasher.finish()
}
