//! Snapshots of trees in a mount. The number of an inode says in which snapshot it is and which entry of it, and the totals
//! of the tree lead from there to the entry: millions of them cost no memory, and there is nothing to forget.
//!
//! ```text
//! 0 1 | snapshot of the mount (18 bits) | entry of the tree (44 bits)
//! ```

use super::attributes::{Attributes, Kind, Listed};
use super::file::{File, Unreadable};
use super::fs::Fault;
use super::links::{Inode, Links};
use super::source::{Shared, Source};
use super::streams::Streams;
use super::workers::Scratch;
use crate::readers::Readers;
use crate::tree::alike;
use crate::tree::inode::permissions;
use crate::tree::path::escaped;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use wherry_repo::format::tree::{Below, Content, Entry, Extended, Known, Piece, Set, Time, What};
use wherry_repo::{Error, ErrorKind, Repository, Result, ShortId, Snapshot, TreeReader};

const MARK: u64 = 1 << 62;
const ENTRY_BITS: u32 = 44;

/// Snapshots of trees that a mount can show.
pub const MOST: usize = 1 << 18;

/// Trees that stay opened though no file of them is: a listing of all of them goes from one to the next.
const RECENT: usize = 8;

/// Files whose parts were counted.
const COUNTED: usize = 4096;

/// Number of an entry of a snapshot of a tree.
pub fn number(snapshot: u64, entry: u64) -> u64 {
    MARK | snapshot << ENTRY_BITS | entry
}

/// The reverse; `None`: it is the number of something else.
pub fn split(number: u64) -> Option<(u64, u64)> {
    let (snapshot, entry) = ((number ^ MARK) >> ENTRY_BITS, number & ((1 << ENTRY_BITS) - 1));
    (snapshot < MOST as u64).then_some((snapshot, entry))
}

/// A snapshot of a tree, as the mount shows it.
#[derive(Clone, Debug)]
pub struct Home {
    /// Which one of the mount.
    pub index: u64,
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Number of the folder that has the root of the tree in it.
    pub folder: u64,
}

/// All trees of a mount.
#[derive(Debug)]
pub struct Files {
    repository: Repository,
    readers: Arc<Readers>,
    shared: Arc<Shared>,
    recent: Mutex<VecDeque<Arc<Tree>>>,
    links: Links,
    /// Bytes outside holes of files with long lists and of disk images, by their content and size: what is the same in many
    /// snapshots is counted once.
    allocated: Mutex<HashMap<(ShortId, u64), u64>>,
    /// What was said to be damaged or missing.
    told: Mutex<BTreeSet<u64>>,
}

/// A tree, opened: its session lasts as long as this.
#[derive(Debug)]
struct Tree {
    index: u64,
    reader: Arc<TreeReader>,
    source: Arc<Source>,
    name: String,
}

/// An entry and where it is.
struct Found {
    entry: Entry,
    /// Number of the directory it is in; `None`: it is the root.
    parent: Option<u64>,
    /// Number of the directory where the filesystem begins that it is in.
    within: u64,
}

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    tree: Arc<Tree>,
    entry: u64,
    /// `None`: it could not be read when the snapshot was made.
    file: Option<File>,
}

impl Files {
    /// Trees of a repository, read in sessions of `readers`. The table of hard links takes `links` bytes at most.
    pub fn new(repository: Repository, readers: Arc<Readers>, shared: Arc<Shared>, links: u64) -> Self {
        Self {
            repository,
            readers,
            shared,
            recent: Mutex::default(),
            links: Links::new(links),
            allocated: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// The tree, opened. Of the last few the repository knows that they are being read.
    fn tree(&self, home: &Home) -> Result<Arc<Tree>, Fault> {
        let known = |recent: &mut VecDeque<Arc<Tree>>| {
            let at = recent.iter().position(|tree| tree.index == home.index)?;
            let tree = recent.remove(at)?;
            recent.push_back(tree.clone());
            Some(tree)
        };
        if let Some(tree) = known(&mut self.recent.lock()) {
            return Ok(tree);
        }
        // Nobody else waits meanwhile.
        let tree = self.open_tree(home).map_err(|e| {
            tracing::error!(snapshot = %home.snapshot.id, "cannot be opened: {e}");
            Fault::Repository(e.kind())
        })?;
        let mut recent = self.recent.lock();
        let first = known(&mut recent);
        let oldest = match &first {
            Some(_) => None,
            None => {
                recent.push_back(tree.clone());
                if recent.len() > RECENT { recent.pop_front() } else { None }
            }
        };
        drop(recent);
        // Not under the lock: it may end a session.
        drop(oldest);
        Ok(first.unwrap_or(tree))
    }

    fn open_tree(&self, home: &Home) -> Result<Arc<Tree>> {
        let reader = TreeReader::within(self.readers.open(&home.snapshot)?)?;
        let below = match reader.root().what {
            What::Folder { below: Some(below), .. } => below.totals.below,
            _ => 0,
        };
        if below >> ENTRY_BITS > 0 {
            let text = format!("{below} entries are more than a mount can show: restore the snapshot");
            return Err(Error::invalid(text));
        }
        let name = format!("{} ({})", home.snapshot.record.name, home.snapshot.id);
        let source = Source::new(reader.chunks().clone(), name.clone(), None, self.shared.clone());
        Ok(Arc::new(Tree { index: home.index, reader: Arc::new(reader), source, name }))
    }

    /// Attributes of an entry.
    pub fn attributes(&self, home: &Home, entry: u64) -> Result<Attributes, Fault> {
        if entry == 0 {
            // That is in the record: who looks at many snapshots does not open them.
            let reader = TreeReader::open(&self.repository, &home.snapshot).map_err(|e| {
                if self.is_news(number(home.index, 0)) {
                    tracing::error!(snapshot = %home.snapshot.id, "cannot be shown: {e}");
                }
                Fault::Repository(e.kind())
            })?;
            return Ok(of_known(number(home.index, 0), reader.root(), links_of(reader.root()), 0));
        }
        let tree = self.tree(home)?;
        let found = self.find(&tree, entry)?;
        let links = match &found.entry {
            Entry::Unknown { .. } => 1,
            Entry::Known(known) => self.identity(&tree, entry, known, found.within).1,
        };
        Ok(self.of_entry(&tree, entry, &found.entry, links))
    }

    /// What is in a folder under this name. Of an inode with several names it is the one that was seen first.
    pub fn lookup(&self, home: &Home, folder: u64, name: &[u8]) -> Result<Attributes, Fault> {
        let tree = self.tree(home)?;
        let found = self.find(&tree, folder)?;
        let below = folder_of(&found.entry)?.ok_or(Fault::NoEntry)?;
        let within = found.within_it(folder);
        let child = tree.reader.find(&below, name).map_err(|e| self.fault(&tree, folder, &e))?;
        let (at, entry) = child.ok_or(Fault::NoEntry)?;
        Ok(self.shown(&tree, folder + at, &entry, within))
    }

    /// Number of the folder that an entry is in.
    pub fn parent(&self, home: &Home, entry: u64) -> Result<u64, Fault> {
        let parent = if entry == 0 { None } else { self.find(&*self.tree(home)?, entry)?.parent };
        Ok(parent.map_or(home.folder, |parent| number(home.index, parent)))
    }

    /// Calls `entry` with each name of a folder from `place` on, until it returns false; with attributes if they are
    /// `wanted`. Places 0 and 1 are the folder and the one it is in.
    pub fn list(
        &self,
        home: &Home,
        folder: u64,
        place: u64,
        wanted: bool,
        take: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), Fault> {
        let tree = self.tree(home)?;
        let found = self.find(&tree, folder)?;
        let below = folder_of(&found.entry)?;
        let mut given = false;
        for (at, name) in [(0, &b"."[..]), (1, b"..")].into_iter().skip(usize::try_from(place).unwrap_or(2)) {
            let which = if at == 0 { Some(folder) } else { found.parent };
            let number = which.map_or(home.folder, |which| number(home.index, which));
            // Nobody looks at attributes of these two.
            if !take(Listed { name, number, kind: Kind::Folder, next: at + 1, attributes: None }) {
                return Ok(());
            }
            given = true;
        }
        let Some(below) = below else { return self.end(&tree, folder, &found.entry, given) };
        let within = found.within_it(folder);
        let (first, whole) = (place.max(2), found.entry);
        let entries = tree.reader.list(&below, first - 2).map_err(|e| self.fault(&tree, folder, &e));
        let entries = match entries {
            // It is met again, and told, when the listing goes on from here.
            Err(_) if given => return Ok(()),
            entries => entries?,
        };
        for (next, found) in (first + 1..).zip(entries) {
            let (at, entry) = match found {
                Ok(found) => found,
                Err(e) => {
                    let fault = self.fault(&tree, folder, &e);
                    return if given { Ok(()) } else { Err(fault) };
                }
            };
            let at = folder + at;
            let attributes = wanted.then(|| self.shown(&tree, at, &entry, within));
            let which = match (&attributes, &entry) {
                (Some(attributes), _) => attributes.number,
                (None, Entry::Known(known)) => number(tree.index, self.identity(&tree, at, known, within).0),
                (None, Entry::Unknown { .. }) => number(tree.index, at),
            };
            let attributes = attributes.as_ref();
            let listed = Listed { name: entry.name(), number: which, kind: kind(&entry), next, attributes };
            if !take(listed) {
                return Ok(());
            }
            given = true;
        }
        self.end(&tree, folder, &whole, given)
    }

    /// The end of a listing: an error where the snapshot may lack names, so that whoever copies does not take it for whole.
    fn end(&self, tree: &Tree, folder: u64, entry: &Entry, given: bool) -> Result<(), Fault> {
        let Entry::Known(known) = entry else { return Ok(()) };
        match known.missing {
            // It is told when the listing goes on from here.
            Some(errno) if !given => {
                self.tell_missing(tree, folder, errno);
                Err(Fault::Missing)
            }
            _ => Ok(()),
        }
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, home: &Home, entry: u64) -> Result<Vec<u8>, Fault> {
        match self.known(&*self.tree(home)?, entry)?.what {
            What::Link(target) => Ok(target),
            _ => Err(Fault::Invalid),
        }
    }

    /// All extended attributes of an entry; empty when it has none.
    pub fn extended(&self, home: &Home, entry: u64, scratch: &mut Scratch) -> Result<Set, Fault> {
        let tree = self.tree(home)?;
        match self.find(&tree, entry)?.entry {
            Entry::Unknown { .. } => Ok(Set::default()),
            Entry::Known(known) => match &known.attributes.extended {
                Extended::None => Ok(Set::default()),
                Extended::Here(set) => Ok(set.clone()),
                Extended::Chunk(chunk) => {
                    let bytes = tree.source.get(&tree.reader.set(chunk), scratch);
                    let bytes = bytes.map_err(|kind| self.unreadable(&tree, entry, kind.into()))?;
                    Set::decode((*bytes).as_ref()).map_err(|e| self.fault(&tree, entry, &e))
                }
            },
        }
    }

    /// Opens a regular file.
    pub fn open(&self, home: &Home, entry: u64) -> Result<OpenFile, Fault> {
        let tree = self.tree(home)?;
        let known = self.known(&tree, entry)?;
        let (size, content) = match known.what {
            What::File { size, content } => (size, content),
            What::Folder { .. } => return Err(Fault::IsFolder),
            _ => return Err(Fault::Invalid),
        };
        let file = match known.missing.filter(|_| content == Content::Nothing) {
            Some(errno) => {
                self.tell_missing(&tree, entry, errno);
                None
            }
            None => Some(File::new(tree.reader.clone(), tree.source.clone(), size, content)),
        };
        Ok(OpenFile { tree, entry, file })
    }

    /// Gives `answer` the bytes of an open file, as [`File::read`].
    #[expect(clippy::too_many_arguments, reason = "those of a read, and who says what went wrong")]
    pub fn read<T>(
        &self,
        open: &OpenFile,
        streams: &Mutex<Streams>,
        offset: u64,
        len: usize,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Fault> {
        let file = open.file.as_ref().ok_or(Fault::Missing)?;
        let read = file.read(streams, offset, len, short, scratch, answer);
        read.map_err(|why| self.unreadable(&open.tree, open.entry, why))
    }

    /// `SEEK_DATA` or `SEEK_HOLE` in an open file, as [`File::seek`].
    pub fn seek(&self, open: &OpenFile, offset: u64, data: bool) -> Result<Option<u64>, Fault> {
        let file = open.file.as_ref().ok_or(Fault::Missing)?;
        file.seek(offset, data).map_err(|why| self.unreadable(&open.tree, open.entry, why))
    }

    fn find(&self, tree: &Tree, entry: u64) -> Result<Found, Fault> {
        let mut lineage = match tree.reader.lineage(entry) {
            Ok(lineage) => lineage,
            Err(e) if e.kind() == ErrorKind::Invalid => return Err(Fault::NoEntry),
            Err(e) => return Err(self.fault(tree, entry, &e)),
        };
        let (_, found) = lineage.pop().ok_or(Fault::NoEntry)?;
        let within = lineage.iter().rev().find(|(_, above)| is_boundary(above)).map_or(0, |(number, _)| *number);
        Ok(Found { entry: found, parent: lineage.last().map(|(number, _)| *number), within })
    }

    /// An entry that could be looked at.
    fn known(&self, tree: &Tree, entry: u64) -> Result<Known, Fault> {
        match self.find(tree, entry)?.entry {
            Entry::Known(known) => Ok(*known),
            Entry::Unknown { errno, .. } => {
                self.tell_missing(tree, entry, errno);
                Err(Fault::Missing)
            }
        }
    }

    /// The entry that stands for all names of an inode, and how many there are.
    fn identity(&self, tree: &Tree, entry: u64, known: &Known, within: u64) -> (u64, u64) {
        if matches!(known.what, What::Folder { .. }) || known.links.is_none() {
            return (entry, links_of(known));
        }
        let within = number(tree.index, within);
        let inode = Inode { within, inode: known.inode, alike: alike::of_known(known) };
        match self.links.number(inode, number(tree.index, entry)).and_then(split) {
            Some((_, first)) => (first, links_of(known)),
            None => (entry, 1),
        }
    }

    /// Attributes of what a name leads to.
    fn shown(&self, tree: &Tree, entry: u64, found: &Entry, within: u64) -> Attributes {
        let Entry::Known(known) = found else { return self.of_entry(tree, entry, found, 1) };
        let (first, links) = self.identity(tree, entry, known, within);
        if first == entry {
            return self.of_entry(tree, entry, found, links);
        }
        match self.find(tree, first) {
            Ok(first_found) => self.of_entry(tree, first, &first_found.entry, links),
            // Each name says everything: it is good for a file of its own.
            Err(_) => self.of_entry(tree, entry, found, 1),
        }
    }

    fn of_entry(&self, tree: &Tree, entry: u64, found: &Entry, links: u64) -> Attributes {
        let number = number(tree.index, entry);
        match found {
            Entry::Known(known) => of_known(number, known, links, self.allocated(tree, known)),
            // Nothing is known but the name. A file that cannot be opened stops those who copy; none would not.
            Entry::Unknown { .. } => Attributes {
                number,
                kind: Kind::File,
                size: 0,
                allocated: 0,
                permissions: 0,
                owner: None,
                links: 1,
                device: (0, 0),
                modified: Time::default(),
                changed: Time::default(),
                lasts: true,
            },
        }
    }

    /// Bytes of a file that are not in holes.
    fn allocated(&self, tree: &Tree, known: &Known) -> u64 {
        let What::File { size, content } = &known.what else { return 0 };
        let top = match content {
            Content::Nothing if known.missing.is_none() => return 0,
            Content::Pieces(pieces) => return pieces.iter().map(data_of).fold(0, u64::saturating_add),
            // What is missing must not be taken for a hole.
            Content::Nothing | Content::Shared { .. } => return *size,
            Content::List(top) | Content::Map { top, .. } => top,
        };
        let key = (top.to.id, *size);
        if let Some(counted) = self.allocated.lock().get(&key) {
            return *counted;
        }
        let pieces = tree.reader.pieces(*size, content, 0).and_then(|mut pieces| {
            pieces.try_fold(0u64, |sum, part| part.map(|part| sum + part.data.map_or(0, |_| part.len)))
        });
        let data = match pieces {
            Ok(data) => data,
            // Whoever reads it is told; one without holes is none that is skipped. Damage stays.
            Err(e) if e.kind() == ErrorKind::Corrupt => *size,
            Err(_) => return *size,
        };
        let mut counted = self.allocated.lock();
        if counted.len() >= COUNTED {
            counted.clear();
        }
        counted.insert(key, data);
        data
    }

    /// True once for each number, until there are too many.
    fn is_news(&self, number: u64) -> bool {
        /// Enough for any log; after that each is said each time.
        const MOST: usize = 10_000;
        let mut told = self.told.lock();
        told.len() >= MOST || told.insert(number)
    }

    fn tell_missing(&self, tree: &Tree, entry: u64, errno: NonZeroU32) {
        if self.is_news(number(tree.index, entry)) {
            let why = std::io::Error::from_raw_os_error(errno.get().cast_signed());
            let path = tree.path(entry);
            tracing::error!(snapshot = %tree.name, path, "could not be read when the snapshot was made: {why}");
        }
    }

    /// Says what cannot be read: damage once for each entry, as it stays and is met again and again.
    fn fault(&self, tree: &Tree, entry: u64, error: &Error) -> Fault {
        let stays = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
        if !stays {
            // A storage that does not answer is not asked for the path.
            tracing::error!(snapshot = %tree.name, entry, "cannot be read: {error}");
        } else if self.is_news(number(tree.index, entry)) {
            tracing::error!(snapshot = %tree.name, path = tree.path(entry), "cannot be read: {error}");
        }
        Fault::Repository(error.kind())
    }

    fn unreadable(&self, tree: &Tree, entry: u64, why: Unreadable) -> Fault {
        match why {
            Unreadable::List(e) => self.fault(tree, entry, &e),
            Unreadable::Chunk(kind) => {
                if kind == ErrorKind::Corrupt && self.is_news(number(tree.index, entry)) {
                    tracing::error!(snapshot = %tree.name, path = tree.path(entry), "a part of it cannot be read");
                }
                Fault::Repository(kind)
            }
        }
    }
}

impl Tree {
    /// The path of an entry from the root, for the log.
    fn path(&self, entry: u64) -> String {
        let Ok(lineage) = self.reader.lineage(entry) else { return format!("entry {entry}") };
        let names: Vec<_> = lineage.iter().skip(1).map(|(_, entry)| escaped(entry.name())).collect();
        format!("files/{}", names.join("/"))
    }
}

impl Found {
    /// Number of the directory where the filesystem begins that the entries of this one, which has this number, are in.
    fn within_it(&self, number: u64) -> u64 {
        if is_boundary(&self.entry) { number } else { self.within }
    }
}

fn is_boundary(entry: &Entry) -> bool {
    matches!(entry, Entry::Known(known) if matches!(known.what, What::Folder { boundary: true, .. }))
}

fn folder_of(entry: &Entry) -> Result<Option<Below>, Fault> {
    match entry {
        Entry::Known(known) => match known.what {
            What::Folder { below, .. } => Ok(below),
            _ => Err(Fault::NotFolder),
        },
        Entry::Unknown { .. } => Err(Fault::NotFolder),
    }
}

fn kind(entry: &Entry) -> Kind {
    let Entry::Known(known) = entry else { return Kind::File };
    match known.what {
        What::File { .. } => Kind::File,
        What::Folder { .. } => Kind::Folder,
        What::Link(_) => Kind::Link,
        What::Fifo => Kind::Fifo,
        What::Socket => Kind::Socket,
        What::Character(..) => Kind::Character,
        What::Block(..) => Kind::Block,
    }
}

fn links_of(known: &Known) -> u64 {
    match &known.what {
        What::Folder { below, .. } => below.map_or(2, |below| below.totals.folders.saturating_add(2)),
        _ => known.links.map_or(1, |links| links.get()),
    }
}

fn data_of(piece: &Piece) -> u64 {
    match piece {
        Piece::Chunk(chunk) => u64::from(chunk.to.plain),
        Piece::Hole(_) => 0,
    }
}

fn of_known(number: u64, known: &Known, links: u64, allocated: u64) -> Attributes {
    let (size, kind, device) = match &known.what {
        What::File { size, .. } => (*size, Kind::File, (0, 0)),
        What::Folder { .. } => (0, Kind::Folder, (0, 0)),
        What::Link(target) => (target.len() as u64, Kind::Link, (0, 0)),
        What::Fifo => (0, Kind::Fifo, (0, 0)),
        What::Socket => (0, Kind::Socket, (0, 0)),
        What::Character(major, minor) => (0, Kind::Character, (*major, *minor)),
        What::Block(major, minor) => (0, Kind::Block, (*major, *minor)),
    };
    let attributes = &known.attributes;
    Attributes {
        number,
        kind,
        size,
        allocated,
        permissions: permissions(known),
        owner: Some((attributes.owner, attributes.group)),
        links,
        device,
        modified: known.modified,
        changed: known.changed,
        lasts: true,
    }
}
