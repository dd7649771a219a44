//! What a directory holds, listed by paths and with other calls than the restore uses; and what it should hold.

use super::feeder::Node;
use crate::tree::inode::InodeKind;
use rustix::fs::IFlags;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use wherry_repo::format::tree::InodeFlags;

/// A directory that goes away with all flags in it.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A name in it.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        loosen(self.0.path());
    }
}

fn loosen(path: &Path) {
    let Ok(meta) = path.symlink_metadata() else { return };
    if (meta.is_dir() || meta.is_file())
        && let Ok(file) = File::open(path)
    {
        let _ = rustix::fs::ioctl_setflags(&file, IFlags::empty());
    }
    if meta.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| loosen(&entry.path()));
    }
}

/// All that is restored of an inode.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: InodeKind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) modified: (i64, i64),
    pub(super) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) flags: u8,
    pub(super) data: Vec<u8>,
    /// The first path (by name) of the inode.
    pub(super) first: Vec<u8>,
}

impl fmt::Debug for Facts {
    /// What can be read: data and values are told by their beginnings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = |bytes: &[u8]| format!("{} ({} bytes)", bytes[..bytes.len().min(40)].escape_ascii(), bytes.len());
        write!(
            f,
            "mode {:o}, owner {:?}, modified {:?}, flags {}, ",
            self.mode, self.owner, self.modified, self.flags
        )?;
        for (name, value) in &self.attributes {
            write!(f, "{} {}, ", name.escape_ascii(), begin(value))?;
        }
        let kind = format!("{:?}", self.kind);
        write!(f, "data {}, first {}, {kind:.40}", begin(&self.data), begin(&self.first))
    }
}

pub(super) type Listing = BTreeMap<Vec<u8>, Facts>;

/// What a directory holds; its own facts are under the empty path.
pub(super) fn list(root: &Path) -> Listing {
    let (mut listing, mut inodes) = (Listing::new(), BTreeMap::new());
    list_into(root, b"", &mut listing, &mut inodes);
    listing
}

fn list_into(path: &Path, below: &[u8], listing: &mut Listing, inodes: &mut BTreeMap<(u64, u64), Vec<u8>>) {
    let meta = path.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let kind = if kind.is_dir() {
        InodeKind::Folder
    } else if kind.is_file() {
        InodeKind::File
    } else if kind.is_symlink() {
        InodeKind::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
    } else if kind.is_fifo() {
        InodeKind::Fifo
    } else if kind.is_socket() {
        InodeKind::Socket
    } else if kind.is_char_device() {
        InodeKind::Character(device().0, device().1)
    } else {
        InodeKind::Block(device().0, device().1)
    };
    let plain = matches!(kind, InodeKind::File | InodeKind::Folder);
    let flags = if plain { rustix::fs::ioctl_getflags(File::open(path).unwrap()).unwrap() } else { IFlags::empty() };
    let kept = [
        (IFlags::IMMUTABLE, InodeFlags::IMMUTABLE),
        (IFlags::APPEND, InodeFlags::APPEND),
        (IFlags::NODUMP, InodeFlags::NO_DUMP),
    ];
    let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| below.to_vec()).clone();
    let facts = Facts {
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes: attributes(path),
        flags: kept.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, kept)| kept).sum(),
        data: if kind == InodeKind::File { fs::read(path).unwrap() } else { Vec::new() },
        first,
        kind,
    };
    let folder = facts.kind == InodeKind::Folder;
    listing.insert(below.to_vec(), facts);
    if folder {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            list_into(&path.join(&name), &join(below, name.as_bytes()), listing, inodes);
        }
    }
}

fn join(below: &[u8], name: &[u8]) -> Vec<u8> {
    if below.is_empty() { name.to_vec() } else { [below, b"/", name].concat() }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0_u8; 64 << 10];
    let used = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..used].split(|&b| b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 64 << 10];
            let used = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..used].to_vec())
        })
        .collect()
}

/// What a directory should hold. Times are as the filesystem of `probe` keeps them.
pub(super) fn expected(tree: &Node, probe: &Path) -> Listing {
    let mut listing = Listing::new();
    expect_into(tree, b"", probe, &mut listing);
    let firsts: Vec<_> = listing.iter().map(|(path, facts)| (path.clone(), facts.first.clone())).collect();
    // Of names of one inode the first by name counts, whichever was made first.
    for (path, first) in &firsts {
        let least = firsts.iter().filter(|(_, of)| of == first).map(|(path, _)| path).min().unwrap();
        listing.get_mut(path).unwrap().first.clone_from(least);
    }
    listing
}

fn expect_into(node: &Node, path: &[u8], probe: &Path, listing: &mut Listing) {
    let inode = &node.inode;
    let mut data = if inode.kind == InodeKind::File { vec![0; inode.size as usize] } else { Vec::new() };
    for (at, bytes) in &node.data {
        data[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let facts = Facts {
        kind: inode.kind.clone(),
        mode: inode.permissions.into(),
        owner: (inode.owner, inode.group),
        modified: kept_time(probe, inode.modified.seconds, inode.modified.nanoseconds),
        attributes: inode.extended.0.iter().cloned().collect(),
        flags: inode.flags.0,
        data,
        first: node.first.clone().unwrap_or_else(|| path.to_vec()),
    };
    listing.insert(path.to_vec(), facts);
    for (name, node) in &node.inside {
        expect_into(node, &join(path, name), probe, listing);
    }
}

/// What a filesystem makes of a time: ext4 ends in 2446.
fn kept_time(probe: &Path, seconds: i64, nanoseconds: u32) -> (i64, i64) {
    let file = tempfile::NamedTempFile::new_in(probe).unwrap();
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let at = rustix::fs::AtFlags::empty();
    rustix::fs::utimensat(rustix::fs::CWD, file.path(), &times, at).unwrap();
    let meta = file.path().metadata().unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

/// Asserts that a directory holds a tree, and names each difference.
pub(super) fn assert_holds(root: &Path, tree: &Node) {
    let (there, wanted) = (list(root), expected(tree, root.parent().unwrap()));
    let mut wrong = Vec::new();
    for path in there.keys().chain(wanted.keys()) {
        if there.get(path) != wanted.get(path) {
            let name = path.escape_ascii();
            wrong.push(format!("{name}:\n  is     {:?}\n  wanted {:?}", there.get(path), wanted.get(path)));
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A path below another, of bytes.
pub(super) fn below(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}
