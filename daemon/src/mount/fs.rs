//! The file system of a mount, without a kernel: names, attributes and reads. It never changes what it shows, it only
//! shows new snapshots: when folders are listed, when a name is asked for that is not there, and when a link is followed
//! (`latest` leads elsewhere then).

pub use super::attributes::{Attributes, Kind, Listed};

use super::attributes::time;
use super::disk::Disk;
use super::files::{self, Files, Home, OpenFile};
use super::source::Shared;
use super::streams::Streams;
use super::tree::{Inode, ROOT, Tree, What};
use super::workers::Scratch;
use crate::context;
use crate::readers::Readers;
use crate::select::{self, SnapSpec, Summary};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wherry_repo::format::tree::Set;
use wherry_repo::{ErrorKind, Repository, Result, Snapshot};

/// Who looks for new snapshots after this time finds them; before, what was found last is shown.
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
    /// It could not be read when the snapshot was made; logged.
    Missing,
    /// The repository failed; logged.
    Repository(ErrorKind),
}

/// The file system.
#[derive(Debug)]
pub struct Fs {
    repository: Repository,
    readers: Arc<Readers>,
    shared: Arc<Shared>,
    tree: RwLock<Tree>,
    files: Files,
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

/// An open disk or file.
#[derive(Debug)]
struct Handle {
    number: u64,
    what: Reading,
    streams: Mutex<Streams>,
}

#[derive(Debug)]
enum Reading {
    Disk(Arc<Disk>),
    File(OpenFile),
}

impl Fs {
    /// Shows every snapshot nobody asked to forget, or `only` this one. The table of hard links takes `links` bytes at most.
    pub fn new(repository: Repository, only: Option<Snapshot>, shared: Arc<Shared>, links: u64) -> Result<Self> {
        let clock = &repository.components().clock;
        let mut tree = Tree::new(clock.now());
        let listed = match only {
            Some(snapshot) => {
                tree.add(snapshot);
                None
            }
            None => {
                let at = clock.monotonic();
                list(&repository)?.show(&mut tree);
                Some(Mutex::new(at))
            }
        };
        let (tree, next_handle) = (RwLock::new(tree), AtomicU64::new(1));
        let readers = Arc::new(Readers::start(&repository)?);
        let files = Files::new(repository.clone(), readers.clone(), shared.clone(), links);
        Ok(Self { repository, readers, shared, tree, files, listed, opened: Mutex::default(), next_handle })
    }

    /// True when what is asked about this number is in memory.
    pub fn is_at_hand(&self, number: u64) -> bool {
        files::split(number).is_none()
    }

    /// The snapshot of a tree and the entry that has this number; `None`: it is the number of something else.
    fn entry(&self, number: u64) -> Result<Option<(Home, u64)>, Fault> {
        let Some((index, entry)) = files::split(number) else { return Ok(None) };
        let home = self.tree.read().home(index).cloned().ok_or(Fault::NoEntry)?;
        Ok(Some((home, entry)))
    }

    /// The entry `name` of a folder.
    pub fn lookup(&self, folder: u64, name: &[u8]) -> Result<Attributes, Fault> {
        if let Some((home, entry)) = self.entry(folder)? {
            return match name {
                b"." => self.files.attributes(&home, entry),
                b".." => self.attributes(self.files.parent(&home, entry)?),
                name => self.files.lookup(&home, entry, name),
            };
        }
        let number = match self.shown(folder, name) {
            Err(Fault::NoEntry) => {
                self.refresh();
                self.shown(folder, name)?
            }
            found => found?,
        };
        self.attributes(number)
    }

    /// The number of the entry `name` of a folder that is in no tree, if it is shown already. All of this is in memory.
    pub fn shown(&self, folder: u64, name: &[u8]) -> Result<u64, Fault> {
        let tree = self.tree.read();
        let inode = tree.inode(folder).ok_or(Fault::NoEntry)?;
        let What::Folder(entries) = &inode.what else { return Err(Fault::NotFolder) };
        match name {
            b"." => Ok(folder),
            b".." => Ok(inode.parent),
            // No name here is anything but UTF-8.
            name => std::str::from_utf8(name).ok().and_then(|name| entries.get(name)).ok_or(Fault::NoEntry),
        }
    }

    /// Attributes of an inode.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Fault> {
        if let Some((home, entry)) = self.entry(number)? {
            return self.files.attributes(&home, entry);
        }
        self.tree.read().inode(number).map(|i| attributes(number, i)).ok_or(Fault::NoEntry)
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, number: u64) -> Result<Vec<u8>, Fault> {
        if let Some((home, entry)) = self.entry(number)? {
            return self.files.read_link(&home, entry);
        }
        self.refresh();
        match &self.tree.read().inode(number).ok_or(Fault::NoEntry)?.what {
            What::Link(target) => Ok(target.clone().into_bytes()),
            _ => Err(Fault::Invalid),
        }
    }

    /// All extended attributes of an inode; empty when it has none.
    pub fn extended(&self, number: u64, scratch: &mut Scratch) -> Result<Set, Fault> {
        match self.entry(number)? {
            Some((home, entry)) => self.files.extended(&home, entry, scratch),
            None => Ok(Set::default()),
        }
    }

    /// Calls `take` with each entry of a folder from `place` on, until it returns false; with attributes if they are
    /// `wanted`. Place 0 looks for new snapshots first.
    pub fn list(
        &self,
        folder: u64,
        place: u64,
        wanted: bool,
        mut take: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), Fault> {
        if let Some((home, entry)) = self.entry(folder)? {
            return self.files.list(&home, entry, place, wanted, &mut take);
        }
        if place == 0 && folder != ROOT {
            self.refresh();
        }
        let mut place = usize::try_from(place).map_err(|_| Fault::Invalid)?;
        loop {
            let tree = self.tree.read();
            let inode = tree.inode(folder).ok_or(Fault::NoEntry)?;
            let What::Folder(entries) = &inode.what else { return Err(Fault::NotFolder) };
            let (name, number) = match place {
                0 => (".", folder),
                1 => ("..", inode.parent),
                _ => match entries.entry(place - 2) {
                    Some(entry) => entry,
                    None => return Ok(()),
                },
            };
            let (name, kind) = (name.to_owned(), tree.inode(number).map_or(Kind::Folder, kind));
            drop(tree);
            place += 1;
            // What cannot be shown is listed all the same: whoever looks at it learns why.
            let attributes = if wanted { self.attributes(number).ok() } else { None };
            let (name, attributes) = (name.as_bytes(), attributes.as_ref());
            if !take(Listed { name, number, kind, next: place as u64, attributes }) {
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
            Ok(listing) => listing.show(&mut self.tree.write()),
            Err(e) => tracing::warn!("new snapshots cannot be listed; what was found before is shown: {e}"),
        }
    }

    /// Opens a disk or a file for reading and gives a handle. The first one tells the repository that the snapshot is being read;
    /// it is kept, whoever forgets it, until the disk is closed and a few others were.
    pub fn open(&self, number: u64) -> Result<u64, Fault> {
        if let Some((home, entry)) = self.entry(number)? {
            let file = self.files.open(&home, entry)?;
            return Ok(self.handle_of(&mut self.opened.lock(), number, Reading::File(file)));
        }
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
        let handle = self.handle_of(&mut opened, number, Reading::Disk(disk));
        drop(opened);
        drop(spare);
        Ok(handle)
    }

    fn handle_of(&self, opened: &mut Opened, number: u64, what: Reading) -> u64 {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        opened.handles.insert(handle, Arc::new(Handle { number, what, streams: Mutex::default() }));
        handle
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
        let Reading::Disk(disk) = &handle.what else {
            drop(opened);
            return;
        };
        opened.recent.retain(|(number, _)| *number != handle.number);
        opened.recent.push_back((handle.number, disk.clone()));
        let oldest = if opened.recent.len() > RECENT { opened.recent.pop_front() } else { None };
        drop(opened);
        // Not under the lock: it may end a session.
        drop(oldest);
    }

    /// Gives `answer` the bytes of an open disk or file from `offset` on: `len` of them, fewer at its end, and with `short`
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
        let streams = &handle.streams;
        match &handle.what {
            Reading::Disk(disk) => disk.read(streams, offset, len, short, scratch, answer).map_err(Fault::Repository),
            Reading::File(file) => self.files.read(file, streams, offset, len, short, scratch, answer),
        }
    }

    /// `SEEK_DATA` or `SEEK_HOLE` on an open disk or file.
    pub fn seek(&self, handle: u64, offset: u64, data: bool) -> Result<u64, Fault> {
        let handle = self.handle(handle)?;
        let found = match &handle.what {
            Reading::Disk(disk) => disk.seek(offset, data).map_err(Fault::Repository)?,
            Reading::File(file) => self.files.seek(file, offset, data)?,
        };
        found.ok_or(Fault::Beyond)
    }

    fn handle(&self, handle: u64) -> Result<Arc<Handle>, Fault> {
        self.opened.lock().handles.get(&handle).cloned().ok_or(Fault::BadHandle)
    }
}

impl Opened {
    fn disk(&self, number: u64) -> Option<Arc<Disk>> {
        let open = self.handles.values().filter(|h| h.number == number).find_map(|h| match &h.what {
            Reading::Disk(disk) => Some(disk),
            Reading::File(_) => None,
        });
        open.or_else(|| self.recent.iter().find(|(n, _)| *n == number).map(|(_, disk)| disk)).cloned()
    }
}

/// What the repository has to be shown.
struct Listing {
    snapshots: Vec<Snapshot>,
    /// Of each volume the one with the latest time, and why it may not be the newest.
    latest: Vec<(Summary, Option<String>)>,
}

fn list(repository: &Repository) -> Result<Listing> {
    let list = repository.snapshots(None)?;
    for (key, error) in &list.damaged {
        tracing::warn!("{key} cannot be read and is not shown: {error}");
    }
    let now = repository.components().clock.now();
    let mut all = select::summaries(&list);
    all.sort_by(|a, b| a.volume.cmp(&b.volume));
    let latest = all.chunk_by(|a, b| a.volume == b.volume).filter_map(|volume| {
        let newest = select::newest(volume.iter())?;
        let record = list.snapshots.iter().find(|s| s.id == newest.id)?;
        let unread = context::doubt(&list, record, &SnapSpec::LatestOf(newest.volume.clone()));
        let ahead = || {
            let rival = select::rival(volume, newest, now)?;
            Some(format!("it could be {} or {}, as a clock is wrong, or was", newest.id, rival.id))
        };
        Some((newest.clone(), unread.map(|e| e.to_string()).or_else(ahead)))
    });
    Ok(Listing { latest: latest.collect(), snapshots: list.visible().cloned().collect() })
}

impl Listing {
    fn show(self, tree: &mut Tree) {
        self.snapshots.into_iter().for_each(|s| tree.add(s));
        for (newest, doubt) in &self.latest {
            let Some(doubt) = doubt else {
                tree.set_latest(&newest.volume, Some(newest.id));
                continue;
            };
            if tree.set_latest(&newest.volume, None) {
                let of = &newest.volume;
                tracing::warn!(
                    "latest of volume {of:?} leads nowhere: {doubt}; what can be read is shown by its time and id"
                );
            }
        }
    }
}

fn kind(inode: &Inode) -> Kind {
    match &inode.what {
        What::Folder(_) => Kind::Folder,
        What::Link(_) => Kind::Link,
        What::Disk(_) => Kind::Disk,
    }
}

fn attributes(number: u64, inode: &Inode) -> Attributes {
    let (size, allocated, permissions) = match &inode.what {
        What::Folder(_) => (0, 0, 0o555),
        What::Link(target) => (target.len() as u64, 0, 0o777),
        What::Disk(snapshot) => {
            let record = &snapshot.record;
            let allocated = record.chunks.saturating_mul(snapshot.chunk_size().unwrap_or(0)).min(record.size);
            (record.size, allocated, 0o400)
        }
    };
    let (kind, time) = (kind(inode), time(inode.time));
    Attributes {
        number,
        kind,
        size,
        allocated,
        permissions,
        owner: None,
        links: 1,
        device: (0, 0),
        modified: time,
        changed: time,
        lasts: kind == Kind::Disk,
    }
}
