//! The file system of a mount, without a kernel: names, attributes and reads. It never changes what it shows, it only
//! shows new snapshots when folders are listed.

use super::disk::{Disk, Shared};
use super::streams::Streams;
use super::tree::{Inode, ROOT, Tree, What};
use super::workers::Scratch;
use crate::readers::Readers;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wherry_repo::{ErrorKind, Repository, Result, Snapshot, Timestamp};

/// A listing is no older than this.
const FRESH: Duration = Duration::from_secs(5);

/// Closed disks that stay opened: what was read of their maps is worth keeping.
const RECENT: usize = 4;

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is nothing of that name or number.
    NoEntry,
    /// A folder was expected.
    NotFolder,
    /// A folder was not expected.
    IsFolder,
    /// The request makes no sense for this kind of inode.
    Invalid,
    /// There is neither data nor a hole where it was looked for.
    Beyond,
    /// Nothing can be changed here.
    ReadOnly,
    /// The handle is not open.
    BadHandle,
    /// The repository failed; logged.
    Repository(ErrorKind),
}

/// The kinds of inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// The disk of a snapshot.
    Disk,
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
    /// Bytes that are not zero: whole chunks.
    pub allocated: u64,
    /// Its time.
    pub time: Timestamp,
}

/// The file system.
#[derive(Debug)]
pub struct Fs {
    repository: Repository,
    readers: Readers,
    shared: Arc<Shared>,
    tree: RwLock<Tree>,
    /// When the snapshots were listed last, by the monotonic clock; `None` when what is shown is fixed.
    listed: Option<Mutex<Duration>>,
    opened: Mutex<Opened>,
    next_handle: AtomicU64,
}

#[derive(Debug, Default)]
struct Opened {
    handles: HashMap<u64, Arc<Handle>>,
    recent: VecDeque<(u64, Arc<Disk>)>,
}

/// An open disk.
#[derive(Debug)]
struct Handle {
    number: u64,
    disk: Arc<Disk>,
    streams: Mutex<Streams>,
}

impl Fs {
    /// Shows every snapshot nobody asked to forget, or `only` this one.
    pub fn new(repository: Repository, only: Option<Snapshot>, shared: Arc<Shared>) -> Result<Self> {
        let clock = &repository.components().clock;
        let mut tree = Tree::new(clock.now());
        let listed = match only {
            Some(snapshot) => {
                tree.add(snapshot);
                None
            }
            None => {
                let at = clock.monotonic();
                list(&repository)?.into_iter().for_each(|s| tree.add(s));
                Some(Mutex::new(at))
            }
        };
        let (tree, next_handle) = (RwLock::new(tree), AtomicU64::new(1));
        let readers = Readers::start(&repository)?;
        Ok(Self { repository, readers, shared, tree, listed, opened: Mutex::default(), next_handle })
    }

    /// The entry `name` of a folder.
    pub fn lookup(&self, folder: u64, name: &str) -> Result<Attributes, Fault> {
        let tree = self.tree.read();
        let inode = tree.inode(folder).ok_or(Fault::NoEntry)?;
        let What::Folder(entries) = &inode.what else { return Err(Fault::NotFolder) };
        let number = match name {
            "." => folder,
            ".." => inode.parent,
            name => entries.get(name).ok_or(Fault::NoEntry)?,
        };
        tree.inode(number).map(|i| attributes(number, i)).ok_or(Fault::NoEntry)
    }

    /// Attributes of an inode.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Fault> {
        self.tree.read().inode(number).map(|i| attributes(number, i)).ok_or(Fault::NoEntry)
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, number: u64) -> Result<String, Fault> {
        match &self.tree.read().inode(number).ok_or(Fault::NoEntry)?.what {
            What::Link(target) => Ok(target.clone()),
            _ => Err(Fault::Invalid),
        }
    }

    /// Calls `entry` with number, kind and name of each entry of a folder from `place` on, and the place after it, until
    /// it returns false. Place 0 looks for new snapshots first.
    pub fn list(
        &self,
        folder: u64,
        place: u64,
        mut entry: impl FnMut(u64, Kind, &str, u64) -> bool,
    ) -> Result<(), Fault> {
        if place == 0 && folder != ROOT {
            self.refresh();
        }
        let tree = self.tree.read();
        let inode = tree.inode(folder).ok_or(Fault::NoEntry)?;
        let What::Folder(entries) = &inode.what else { return Err(Fault::NotFolder) };
        let mut place = usize::try_from(place).map_err(|_| Fault::Invalid)?;
        loop {
            let (name, number) = match place {
                0 => (".", folder),
                1 => ("..", inode.parent),
                _ => match entries.entry(place - 2) {
                    Some(entry) => entry,
                    None => return Ok(()),
                },
            };
            place += 1;
            let kind = tree.inode(number).map_or(Kind::Folder, kind);
            if !entry(number, kind, name, place as u64) {
                return Ok(());
            }
        }
    }

    /// Shows snapshots that were made meanwhile. Whoever comes while this is under way sees what was shown before.
    fn refresh(&self) {
        let Some(mut listed) = self.listed.as_ref().and_then(Mutex::try_lock) else { return };
        let now = self.repository.components().clock.monotonic();
        if now.saturating_sub(*listed) < FRESH {
            return;
        }
        *listed = now;
        match list(&self.repository) {
            Ok(snapshots) => {
                let mut tree = self.tree.write();
                snapshots.into_iter().for_each(|s| tree.add(s));
            }
            Err(e) => tracing::warn!("new snapshots cannot be listed; what was found before is shown: {e}"),
        }
    }

    /// Opens a disk for reading and gives a handle. The first one tells the repository that the snapshot is being read;
    /// it is kept, whoever forgets it, until the disk is closed and a few others were.
    pub fn open(&self, number: u64) -> Result<u64, Fault> {
        let snapshot = match &self.tree.read().inode(number).ok_or(Fault::NoEntry)?.what {
            What::Disk(snapshot) => snapshot.clone(),
            What::Folder(_) => return Err(Fault::IsFolder),
            What::Link(_) => return Err(Fault::Invalid),
        };
        let known = self.opened.lock().disk(number);
        // Nobody else waits meanwhile.
        let disk = match known {
            Some(disk) => disk,
            None => self.disk(&snapshot).map_err(|e| {
                tracing::error!(snapshot = %snapshot.id, "cannot be opened: {e}");
                Fault::Repository(e.kind())
            })?,
        };
        let mut opened = self.opened.lock();
        let (disk, spare) = match opened.disk(number) {
            Some(first) => (first, Some(disk)),
            None => (disk, None),
        };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        opened.handles.insert(handle, Arc::new(Handle { number, disk, streams: Mutex::default() }));
        drop(opened);
        drop(spare);
        Ok(handle)
    }

    fn disk(&self, snapshot: &Snapshot) -> Result<Arc<Disk>> {
        Disk::open(self.readers.open(snapshot)?, self.shared.clone())
    }

    /// Tells the repository that nothing is read any more.
    pub fn end(&self) {
        self.readers.end();
    }

    /// Ends a handle.
    pub fn close(&self, handle: u64) {
        let mut opened = self.opened.lock();
        let Some(handle) = opened.handles.remove(&handle) else { return };
        opened.recent.retain(|(number, _)| *number != handle.number);
        opened.recent.push_back((handle.number, handle.disk.clone()));
        let oldest = if opened.recent.len() > RECENT { opened.recent.pop_front() } else { None };
        drop(opened);
        // Not under the lock: it may end a session.
        drop(oldest);
    }

    /// Gives `answer` the bytes of an open disk from `offset` on: `len` of them, fewer at its end, and with `short`
    /// before bytes that cannot be read.
    pub fn read<T>(
        &self,
        handle: u64,
        offset: u64,
        len: usize,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Fault> {
        let handle = self.handle(handle)?;
        handle.disk.read(&handle.streams, offset, len, short, scratch, answer).map_err(Fault::Repository)
    }

    /// `SEEK_DATA` or `SEEK_HOLE` on an open disk.
    pub fn seek(&self, handle: u64, offset: u64, data: bool) -> Result<u64, Fault> {
        let handle = self.handle(handle)?;
        handle.disk.seek(offset, data).map_err(Fault::Repository)?.ok_or(Fault::Beyond)
    }

    fn handle(&self, handle: u64) -> Result<Arc<Handle>, Fault> {
        self.opened.lock().handles.get(&handle).cloned().ok_or(Fault::BadHandle)
    }
}

impl Opened {
    fn disk(&self, number: u64) -> Option<Arc<Disk>> {
        let open = self.handles.values().find(|h| h.number == number).map(|h| &h.disk);
        open.or_else(|| self.recent.iter().find(|(n, _)| *n == number).map(|(_, disk)| disk)).cloned()
    }
}

/// The snapshots to show, oldest first.
fn list(repository: &Repository) -> Result<Vec<Snapshot>> {
    let list = repository.snapshots(None)?;
    for (key, error) in &list.damaged {
        tracing::warn!("{key} cannot be read and is not shown: {error}");
    }
    Ok(list.visible().cloned().collect())
}

fn kind(inode: &Inode) -> Kind {
    match &inode.what {
        What::Folder(_) => Kind::Folder,
        What::Link(_) => Kind::Link,
        What::Disk(_) => Kind::Disk,
    }
}

fn attributes(number: u64, inode: &Inode) -> Attributes {
    let (size, allocated) = match &inode.what {
        What::Folder(_) => (0, 0),
        What::Link(target) => (target.len() as u64, 0),
        What::Disk(snapshot) => {
            let record = &snapshot.record;
            (record.size, (record.chunks.saturating_mul(snapshot.chunk_size())).min(record.size))
        }
    };
    Attributes { number, kind: kind(inode), size, allocated, time: inode.time }
}
