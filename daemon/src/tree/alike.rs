//! What all names of one inode say alike. The number of an inode is given anew when all its names have gone, and a tree
//! is read over a while: entries with one number are names of one inode only if they also agree in this.

use super::inode::{Inode, InodeKind, kind_of};
use std::hash::{DefaultHasher, Hash, Hasher};
use wherry_repo::format::tree::{Known, Time};

/// Of an entry of a tree.
pub fn of_known(known: &Known) -> u64 {
    let (kind, size) = kind_of(&known.what);
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
