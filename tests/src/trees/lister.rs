//! What a directory holds, so that two can be compared. Everything is asked of the kernel by path and never followed.

use rustix::fs::{IFlags, SeekFrom};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A copy may take so much more room than its source (bytes): the filesystem lays it out anew.
const SLACK: u64 = 64 << 10;

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: its size in bytes and a hash of its content.
    File(u64, u64),
    /// A directory.
    Folder,
    /// A symbolic link, and what it says.
    Link(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

/// What a backup and a restore have to keep of an inode.
#[derive(Clone)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Last change of the content: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes, ACLs and capabilities among them.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Immutable, append only, no dump.
    pub flags: u32,
    /// The least path of the same inode.
    pub first: Vec<u8>,
    /// Bytes on the disk; compared with some slack.
    pub room: u64,
    /// Bytes that are no hole; compared with some slack.
    pub data: u64,
    /// Its number; not compared.
    pub inode: u64,
}

impl Facts {
    /// True when `self` can be a copy of `source`.
    pub fn is_copy_of(&self, source: &Self) -> bool {
        let key = |f: &Self| (f.mode, f.owner, f.modified, f.flags);
        key(self) == key(source)
            && self.kind == source.kind
            && self.attributes == source.attributes
            && self.first == source.first
            && (!matches!(self.kind, Kind::File(..))
                || (self.room <= source.room + SLACK && self.data <= source.data + SLACK))
    }
}

impl fmt::Debug for Facts {
    /// In a length that can be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.60} ", format!("{:?}", self.kind))?;
        write!(f, "mode {:o} owner {:?} modified {:?} flags {:x} ", self.mode, self.owner, self.modified, self.flags)?;
        write!(f, "room {} data {} first {:.60}", self.room, self.data, self.first.escape_ascii().to_string())?;
        for (name, value) in &self.attributes {
            write!(f, " {}={:.40}", name.escape_ascii(), value.escape_ascii().to_string())?;
        }
        Ok(())
    }
}

/// Facts by path below the root; those of the root itself under the empty path.
pub type Listing = BTreeMap<Vec<u8>, Facts>;

/// What a directory holds.
///
/// # Panics
/// When something cannot be looked at.
pub fn list(root: &Path) -> Listing {
    let mut listing = Listing::new();
    look(root, Vec::new(), &mut listing, &mut BTreeMap::new());
    listing
}

/// Paths come in the order of the listing only within a directory, so the least path of an inode is put right at once.
fn look(path: &Path, below: Vec<u8>, listing: &mut Listing, inodes: &mut BTreeMap<(u64, u64), Vec<u8>>) {
    let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let kind = meta.file_type();
    let (mut data, mut flags) = (0, 0);
    let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if kind.is_dir() || kind.is_file() {
        let mut file = File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let kept = IFlags::IMMUTABLE | IFlags::APPEND | IFlags::NODUMP;
        // Not every filesystem has flags.
        flags = rustix::fs::ioctl_getflags(&file).map_or(0, |flags| (flags & kept).bits());
        if kind.is_file() {
            data = data_of(&file);
            rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
        }
        let kind = if kind.is_dir() { Kind::Folder } else { Kind::File(meta.len(), hash(&mut file)) };
        insert(path, below, &meta, kind, (data, flags), listing, inodes);
        return;
    }
    let kind = if kind.is_symlink() {
        Kind::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::Character(device.0, device.1)
    } else {
        assert!(kind.is_block_device(), "{path:?}: {kind:?}");
        Kind::Block(device.0, device.1)
    };
    insert(path, below, &meta, kind, (data, flags), listing, inodes);
}

fn insert(
    path: &Path,
    below: Vec<u8>,
    meta: &fs::Metadata,
    kind: Kind,
    (data, flags): (u64, u32),
    listing: &mut Listing,
    inodes: &mut BTreeMap<(u64, u64), Vec<u8>>,
) {
    let is_folder = kind == Kind::Folder;
    let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| below.clone()).clone();
    let facts = Facts {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes: attributes(path),
        flags,
        first,
        room: meta.blocks() * 512,
        data,
        inode: meta.ino(),
    };
    listing.insert(below.clone(), facts);
    if is_folder {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        // The same in both trees, so the first path of an inode is the same one.
        names.sort();
        for name in names {
            let slash: &[u8] = if below.is_empty() { b"" } else { b"/" };
            look(&path.join(&name), [&below, slash, name.as_bytes()].concat(), listing, inodes);
        }
    }
}

fn data_of(file: &File) -> u64 {
    let (mut at, mut sum) = (0, 0);
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap();
        sum += at - data;
    }
    sum
}

fn hash(file: &mut File) -> u64 {
    let (mut hasher, mut buffer) = (DefaultHasher::new(), vec![0; 1 << 20]);
    loop {
        // A short read must not change the hash.
        let (mut have, mut ended) = (0, false);
        while have < buffer.len() && !ended {
            let n = file.read(&mut buffer[have..]).unwrap();
            have += n;
            ended = n == 0;
        }
        hasher.write(&buffer[..have]);
        if ended {
            return hasher.finish();
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0_u8; 64 << 10];
    let used = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        used => used.unwrap_or_else(|e| panic!("{path:?}: {e}")),
    };
    let names = names[..used].split(|&b| b == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0_u8; 64 << 10];
        let used = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..used].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Asserts that `copy` holds what `source` holds, and names what differs.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn assert_same(copy: &Listing, source: &Listing, what: &str) {
    let mut wrong = String::new();
    let mut differ = 0;
    let absent: Vec<_> = source.keys().filter(|path| !copy.contains_key(*path)).collect();
    for path in copy.keys().chain(absent) {
        let (is, wanted) = (copy.get(path), source.get(path));
        if is.zip(wanted).is_some_and(|(is, wanted)| is.is_copy_of(wanted)) {
            continue;
        }
        differ += 1;
        if differ <= 10 {
            let name = path.escape_ascii();
            write!(wrong, "\n{name:.300}:\n  is     {is:?}\n  wanted {wanted:?}").unwrap();
        }
    }
    assert!(differ == 0, "{what}: {differ} names differ{wrong}");
}
