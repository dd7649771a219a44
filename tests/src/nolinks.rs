//! A filesystem that can neither link nor rename without replacing, as some network and removable ones: in memory,
//! through FUSE. It keeps files, folders, sizes and times, and no more than that. Parts of its files can be spoiled, as by
//! bad sectors, and it tells which folders were made durable. More that filesystems get wrong, or do otherwise, is in
//! [`Quirks`].
#![allow(clippy::redundant_closure_call, reason = "the closure is what lets `?` end the action of the macro")]

use crate::fuse;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use wherry_repo::{Clock, System};

const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

/// The mounted filesystem; dropped, it is unmounted and gone.
pub struct NoLinks {
    session: Option<BackgroundSession>,
    folder: TempDir,
    tree: Arc<Mutex<Tree>>,
}

impl fmt::Debug for NoLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NoLinks").field(&self.folder).finish()
    }
}

impl NoLinks {
    /// Mounts an empty one; needs /dev/fuse.
    pub fn mount() -> Self {
        Self::with(Quirks::default())
    }

    /// Likewise, one that does not always do as others do.
    pub fn with(quirks: Quirks) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-nolinks-").tempdir().expect("a temporary folder");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("nolinks".into())];
        let nodes = HashMap::from([(ROOT, Node::new(Kind::Folder(BTreeMap::new())))]);
        let tree = Tree {
            nodes,
            next: ROOT + 1,
            spoiled: Vec::new(),
            fleeting: None,
            durable: HashSet::new(),
            quirks,
            shut: HashMap::new(),
            unseen: HashMap::new(),
            longer: HashMap::new(),
            numbers: HashMap::new(),
            numbered: HashMap::new(),
        };
        let tree = Arc::new(Mutex::new(tree));
        let session = fuser::spawn_mount(Memory(tree.clone()), folder.path(), &config).expect("FUSE mounts");
        Self { session: Some(session), folder, tree }
    }

    /// All of this file can be read again.
    pub fn heal(&self, path: &Path) {
        let (mut tree, ino) = self.find(path);
        tree.spoiled.retain(|s| s.ino != ino);
        tree.shut.remove(&ino);
        tree.unseen.remove(&ino);
    }

    /// True when the names in this folder were made durable.
    pub fn is_durable(&self, folder: &Path) -> bool {
        let (tree, ino) = self.find(folder);
        tree.durable.contains(&ino)
    }

    /// A file cannot be opened any more, for this reason.
    pub fn shut(&self, path: &Path, errno: Errno) {
        let (mut tree, ino) = self.find(path);
        tree.shut.insert(ino, errno);
    }

    /// Nothing can be told of a file any more, for this reason; its name is listed.
    pub fn hide(&self, path: &Path, errno: Errno) {
        let (mut tree, ino) = self.find(path);
        tree.unseen.insert(ino, errno);
    }

    /// A file is said to have so many bytes more than it has.
    pub fn lengthen(&self, path: &Path, more: u64) {
        let (mut tree, ino) = self.find(path);
        tree.longer.insert(ino, more);
    }

    fn find(&self, path: &Path) -> (MutexGuard<'_, Tree>, u64) {
        let mut tree = self.tree.lock();
        let ino = tree.resolve(path.strip_prefix(self.path()).expect("it is in the mount")).expect("it is there");
        (tree, ino)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// These bytes of a file cannot be read, as in a bad sector: until they are written, or, `for_good`,
    /// never again.
    pub fn spoil(&self, path: &Path, bytes: Range<usize>, for_good: bool) {
        let (mut tree, ino) = self.find(path);
        tree.spoiled.push(Spoiled { ino, bytes, for_good });
    }

    /// A read of any of these bytes of a file fails once, after so many that do not.
    pub fn spoil_once(&self, path: &Path, bytes: Range<usize>, after: u64) {
        let (mut tree, ino) = self.find(path);
        tree.fleeting = Some((Spoiled { ino, bytes, for_good: false }, after));
    }

    /// Takes back what [`spoil_once`](Self::spoil_once) said; true when it has come to pass.
    pub fn has_failed_once(&self) -> bool {
        self.tree.lock().fleeting.take().is_none()
    }
}

/// What it does otherwise.
#[derive(Debug, Default)]
pub struct Quirks {
    /// Cases of names are not told apart, and a name keeps the spelling that it was made with.
    pub folds: bool,
    /// The number of an inode is that of a name in a folder: by another spelling it has another one.
    pub numbers_names: bool,
    /// Files with this name are listed, and not found.
    pub unfound: Option<&'static str>,
    /// Which attributes these names have cannot be read.
    pub no_attributes: &'static [&'static str],
    /// What was written is lost, and `fsync` says so.
    pub fails_sync: bool,
    /// What was written is lost, and `close` says so.
    pub fails_close: bool,
    /// What is written stays with the kernel for a while; and blocks of zeros are holes, as far as has come here.
    pub writes_late: bool,
    /// A listing of a folder ends after so many names, as if the folder had been removed.
    pub ends_early: Option<usize>,
}

/// What `lseek` is asked for, if not for a hole.
const SEEK_DATA: i32 = 3;
/// Of a file that has holes.
const BLOCK: usize = 4096;

/// Where data begin at or behind a place, or a hole, in blocks.
fn seek(bytes: &[u8], at: usize, data: bool) -> Result<usize, Errno> {
    if at >= bytes.len() {
        return Err(Errno::ENXIO);
    }
    let is_data = |block: &usize| bytes[*block..bytes.len().min(block + BLOCK)].iter().any(|byte| *byte != 0);
    let found = (at / BLOCK * BLOCK..bytes.len()).step_by(BLOCK).find(|block| is_data(block) == data);
    match found {
        Some(found) => Ok(found.max(at)),
        None if data => Err(Errno::ENXIO),
        None => Ok(bytes.len()),
    }
}

#[derive(Debug)]
struct Spoiled {
    ino: u64,
    bytes: Range<usize>,
    for_good: bool,
}

impl Spoiled {
    fn is_hit(&self, ino: u64, bytes: &Range<usize>) -> bool {
        self.ino == ino && self.bytes.start < bytes.end && bytes.start < self.bytes.end
    }
}

impl Drop for NoLinks {
    fn drop(&mut self) {
        fuse::unmount(self.session.take(), self.folder.path());
    }
}

#[derive(Debug)]
enum Kind {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, u64>),
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    perm: u16,
    modified: SystemTime,
}

impl Node {
    fn new(kind: Kind) -> Self {
        let perm = if matches!(kind, Kind::File(_)) { 0o600 } else { 0o700 };
        Self { kind, perm, modified: now() }
    }
}

fn now() -> SystemTime {
    let nanos = u64::try_from(System::default().now().0).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

#[derive(Debug)]
struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
    spoiled: Vec<Spoiled>,
    /// What fails once, after so many reads.
    fleeting: Option<(Spoiled, u64)>,
    /// Folders that were fsynced.
    durable: HashSet<u64>,
    quirks: Quirks,
    /// Files that cannot be opened.
    shut: HashMap<u64, Errno>,
    /// Files of which nothing can be told, and why.
    unseen: HashMap<u64, Errno>,
    /// Files that are said to be so much longer than they are.
    longer: HashMap<u64, u64>,
    /// Numbers of names, in which folder and of which node.
    numbers: HashMap<(u64, OsString, u64), u64>,
    /// The nodes that these are of.
    numbered: HashMap<u64, u64>,
}

struct Memory(Arc<Mutex<Tree>>);

impl Tree {
    fn resolve(&mut self, path: &Path) -> Result<u64, Errno> {
        path.iter().try_fold(ROOT, |ino, name| self.find(ino, name))
    }

    fn node(&mut self, ino: u64) -> Result<&mut Node, Errno> {
        let ino = self.numbered.get(&ino).copied().unwrap_or(ino);
        self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    /// What is told of a node that was found, or made, by a name.
    fn named(&mut self, parent: u64, name: &OsStr, ino: u64) -> Result<FileAttr, Errno> {
        if !self.quirks.numbers_names {
            return self.attr(ino);
        }
        let parent = self.numbered.get(&parent).copied().unwrap_or(parent);
        let number = *self.numbers.entry((parent, name.into(), ino)).or_insert(self.next);
        self.next = self.next.max(number + 1);
        self.numbered.insert(number, ino);
        self.attr(number)
    }

    fn folder(&mut self, ino: u64) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.node(ino)?.kind {
            Kind::Folder(entries) => Ok(entries),
            Kind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn file(&mut self, ino: u64) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.node(ino)?.kind {
            Kind::File(bytes) => Ok(bytes),
            Kind::Folder(_) => Err(Errno::EISDIR),
        }
    }

    fn find(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        let name = self.spelling(parent, name)?;
        self.folder(parent)?.get(&name).copied().ok_or(Errno::ENOENT)
    }

    /// A name as the folder has it, if it has it.
    fn spelling(&mut self, parent: u64, name: &OsStr) -> Result<OsString, Errno> {
        let folds = self.quirks.folds;
        let there = self.folder(parent)?.keys().find(|there| folds && there.eq_ignore_ascii_case(name));
        Ok(there.cloned().unwrap_or_else(|| name.into()))
    }

    fn attr(&mut self, ino: u64) -> Result<FileAttr, Errno> {
        let more = self.longer.get(&ino).copied().unwrap_or_default();
        let node = self.node(ino)?;
        let (kind, size) = match &node.kind {
            Kind::File(bytes) => (FileType::RegularFile, bytes.len() as u64 + more),
            Kind::Folder(_) => (FileType::Directory, 0),
        };
        let (perm, time) = (node.perm, node.modified);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn add(&mut self, parent: u64, name: &OsStr, kind: Kind) -> Result<FileAttr, Errno> {
        if self.find(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Node::new(kind));
        self.folder(parent)?.insert(name.into(), ino);
        self.named(parent, name, ino)
    }

    fn remove(&mut self, parent: u64, name: &OsStr, folder: bool) -> Result<(), Errno> {
        let ino = self.find(parent, name)?;
        match (&self.node(ino)?.kind, folder) {
            (Kind::Folder(entries), true) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
            (Kind::Folder(_), false) => return Err(Errno::EISDIR),
            (Kind::File(_), true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        let name = self.spelling(parent, name)?;
        // The node stays: somebody may have it open, and nobody counts.
        self.folder(parent)?.remove(&name);
        Ok(())
    }
}

/// Answers with what `act` gives.
macro_rules! answer {
    ($reply:ident, $self:ident, $tree:ident => $act:expr, $value:pat => $good:expr) => {{
        let mut guard = $self.0.lock();
        let $tree = &mut *guard;
        let outcome: Result<_, Errno> = (|| $act)();
        match outcome {
            Ok($value) => $good,
            Err(errno) => $reply.error(errno),
        }
    }};
}

impl Filesystem for Memory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let late = self.0.lock().quirks.writes_late;
        if late {
            config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE).expect("the kernel keeps what is written");
        }
        Ok(())
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        if !self.0.lock().quirks.writes_late {
            return reply.error(Errno::ENOSYS);
        }
        answer!(reply, self, tree => seek(tree.file(ino.0)?, offset as usize, whence == SEEK_DATA),
            at => reply.offset(at as i64));
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self, tree => {
            let ino = tree.find(parent.0, name)?;
            let unfound = tree.quirks.unfound.is_some_and(|unfound| name == unfound);
            match tree.unseen.get(&ino) {
                Some(errno) => Err(*errno),
                None if unfound => Err(Errno::ENOENT),
                None => tree.named(parent.0, name, ino),
            }
        },
            attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self, tree => tree.attr(ino.0), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(reply, self, tree => {
            if let Some(mode) = mode {
                tree.node(ino.0)?.perm = (mode & 0o7777) as u16;
            }
            if let Some(size) = size {
                tree.file(ino.0)?.resize(size as usize, 0);
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => tree.node(ino.0)?.modified = time,
                Some(TimeOrNow::Now) => tree.node(ino.0)?.modified = now(),
                None => {}
            }
            tree.attr(ino.0)
        }, attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        answer!(reply, self, tree => tree.add(parent.0, name, Kind::Folder(BTreeMap::new())),
            attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        answer!(reply, self, tree => tree.add(parent.0, name, Kind::File(Vec::new())),
            attr => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self, tree => tree.remove(parent.0, name, false), () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self, tree => tree.remove(parent.0, name, true), () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        answer!(reply, self, tree => {
            let ino = tree.find(parent.0, name)?;
            let newname = tree.spelling(newparent.0, newname)?;
            tree.folder(newparent.0)?.insert(newname, ino);
            tree.folder(parent.0)?.remove(name);
            Ok(())
        }, () => reply.ok());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let tree = self.0.lock();
        if let Some(errno) = tree.shut.get(&ino.0) {
            return reply.error(*errno);
        }
        // Else the kernel reads ahead, and once more what failed then; and fills with zeros what is not there.
        let is_counted =
            tree.fleeting.as_ref().is_some_and(|(spoiled, _)| spoiled.ino == ino.0) || tree.longer.contains_key(&ino.0);
        // Else it writes what it has when somebody opens the file.
        let keeps = if tree.quirks.writes_late { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        drop(tree);
        let flags = if is_counted { FopenFlags::FOPEN_DIRECT_IO } else { keeps };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(reply, self, tree => {
            let range = offset as usize..offset as usize + size as usize;
            if tree.spoiled.iter().any(|s| s.is_hit(ino.0, &range)) {
                return Err(Errno::EIO);
            }
            if let Some((_, left)) = tree.fleeting.as_mut().filter(|(s, _)| s.is_hit(ino.0, &range)) {
                if *left == 0 {
                    tree.fleeting = None;
                    return Err(Errno::EIO);
                }
                *left -= 1;
            }
            let bytes = tree.file(ino.0)?;
            Ok(bytes[bytes.len().min(range.start)..bytes.len().min(range.end)].to_vec())
        }, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(reply, self, tree => {
            let (from, to) = (offset as usize, offset as usize + data.len());
            tree.spoiled.retain(|s| s.for_good || !s.is_hit(ino.0, &(from..to)));
            let bytes = tree.file(ino.0)?;
            bytes.resize(bytes.len().max(to), 0);
            bytes[from..to].copy_from_slice(data);
            tree.node(ino.0)?.modified = now();
            Ok(data.len() as u32)
        }, len => reply.written(len));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let tree = self.0.lock();
        let of = |node: &Node, name: &str| match &node.kind {
            Kind::Folder(entries) => entries.get(OsStr::new(name)) == Some(&ino.0),
            Kind::File(_) => false,
        };
        let names = tree.quirks.no_attributes;
        if names.is_empty() {
            return reply.error(Errno::ENOSYS);
        }
        if names.iter().any(|name| tree.nodes.values().any(|node| of(node, name))) {
            return reply.error(Errno::EIO);
        }
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if self.0.lock().quirks.fails_close { reply.error(Errno::EDQUOT) } else { reply.ok() }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.0.lock().quirks.fails_sync { reply.error(Errno::EDQUOT) } else { reply.ok() }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.lock().durable.insert(ino.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut tree = self.0.lock();
        let most = tree.quirks.ends_early.unwrap_or(usize::MAX);
        if offset as usize >= most {
            return reply.error(Errno::ENOENT);
        }
        let entries: Vec<(OsString, u64)> = match tree.folder(ino.0) {
            Ok(entries) => entries.iter().map(|(name, ino)| (name.clone(), *ino)).collect(),
            Err(errno) => return reply.error(errno),
        };
        for (n, (name, ino)) in entries.into_iter().enumerate().take(most).skip(offset as usize) {
            let kind = tree.attr(ino).map_or(FileType::RegularFile, |attr| attr.kind);
            if reply.add(INodeNo(ino), n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
