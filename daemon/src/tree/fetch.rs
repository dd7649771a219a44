//! The way of a tree's restore: the tree is walked in order and told to the restorer, the chunks of a window of files are
//! sorted by their place, fetched and verified by many threads, and each is written wherever it belongs at once. What is in
//! the target already is compared first (`delta`), and what was written can be read back (`readback`).

mod delta;
mod readback;
mod whole;
mod work;

pub use whole::{Whole, left_out, run_number};

use self::readback::Check;
use self::work::{Job, Place, Places, Target, Work};
use super::alike;
use super::first::FirstNames;
use super::inode::{Inode, OWNERS, kind_of, permissions};
use super::path::escaped;
use super::restore::{Begun, FileHandle, Item, Listed, ReadBack, Restorer, There, Why};
use super::select::Select;
use crate::exit::one_line;
use crate::progress::Progress;
use crate::signals::Cancel;
use crate::threads;
use anyhow::Result;
use crossbeam_channel::{Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wherry_repo::format::tree::{Attributes, Content, Entry, Extended, Known, Set, What};
use wherry_repo::{ChunkRef, Entries, Error, Part, TreeReader};

/// Chunks of a batch are sorted by their place before they are fetched.
const BATCH: usize = 512;

/// Bytes of chunks in a batch, at most, but for the last one.
const BATCH_BYTES: u64 = 64 << 20;

/// Chunks that a worker compares with what is in the target before it plans requests for the others.
const COMPARED: usize = 32;

/// What happens when something of the snapshot is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// It ends the restore.
    Ends,
    /// The restore goes on without it.
    LeaveOut,
}

/// What a restore works with.
#[derive(Debug)]
pub struct TreeRestore<'a> {
    /// What is read.
    pub reader: &'a TreeReader,
    /// Which part of it is wanted.
    pub select: &'a Select,
    /// The target gets the metadata of the tree's root.
    pub root: bool,
    /// Requests to the storage under way at once; as many threads decrypt and decompress.
    pub fetchers: usize,
    /// Longest request in bytes, unless a single chunk is longer.
    pub fetch_bytes: u64,
    /// Reads back what a window holds before it gets its names.
    pub read_back: bool,
    /// Bytes of first names of inodes with several, at most.
    pub links: usize,
    /// Shows how far it is.
    pub progress: &'a Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

impl TreeRestore<'_> {
    /// Restores everything that is wanted; what is done is on the disk then. Afterwards the restorer can remove what the
    /// snapshot does not have, and has to be finished.
    ///
    /// # Errors
    /// When something cannot be read or written: a file that is not whole never gets its name.
    pub fn run(&self, restorer: &mut Restorer) -> Result<Told> {
        self.run_as(restorer, Damage::Ends)
    }

    /// The same, but goes on where the repository has lost something: the file or directory is left out, and the
    /// [report](super::restore::Report::lost) of the restorer names it. When it names any, nothing may be removed that the
    /// snapshot seems not to have.
    ///
    /// # Errors
    /// As [`Self::run`], but for what is lost.
    pub fn run_around_damage(&self, restorer: &mut Restorer) -> Result<Told> {
        self.run_as(restorer, Damage::LeaveOut)
    }

    fn run_as(&self, restorer: &mut Restorer, damage: Damage) -> Result<Told> {
        let (queue, jobs) = bounded::<Job>(self.fetchers.max(1) * 2);
        let work = Work::new(self, damage)?;
        std::thread::scope(|scope| {
            let work = &work;
            threads::some(scope, self.fetchers, move || work.run(jobs))?;
            let mut walk = Walk {
                restore: self,
                restorer,
                queue,
                work,
                places: Places::new(),
                chunks: Vec::new(),
                bytes: 0,
                checks: Vec::new(),
                links: FirstNames::new(self.links),
                boundaries: 0,
                path: Vec::new(),
                told: Told::default(),
            };
            let walked = walk.whole();
            let mut told = Told { apart: walk.links.beyond(), ..std::mem::take(&mut walk.told) };
            drop(walk);
            // The first failure of a worker says more than the end of the walk because of it.
            work.under.wait().and(walked)?;
            work.tell(&mut told);
            Ok(told)
        })
    }

    /// The extended attributes of an entry.
    fn extended(&self, attributes: &Attributes) -> Result<Set> {
        Ok(match &attributes.extended {
            Extended::None => Set::default(),
            Extended::Here(set) => set.clone(),
            Extended::Chunk(chunk) => {
                let chunk = self.reader.set(chunk);
                Set::decode(self.reader.chunks().read_chunk(&chunk)?.as_ref())?
            }
        })
    }
}

/// What was left out, with the paths of the first.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Names that the snapshot has, but not their content.
    pub missing: u64,
    /// Bytes of files that were restored or are there already.
    pub bytes: u64,
    /// Bytes of requests for data; extended attributes and the tree itself are not counted.
    pub fetched: u64,
    /// Paths of the first files that were read back and are not what was written, and how many there are.
    pub wrong: Listed<Vec<u8>>,
    /// Files that were read back through the page cache: their filesystem reads in no other way.
    pub cached: u64,
    /// Files that were to be read back and were not, as they are not the snapshot's or may not be read by this process;
    /// directories that were not entered count as one.
    pub unread: u64,
    /// Files whose further names became files of their own, as memory did not hold all links.
    pub apart: u64,
}

/// The walk through the tree.
struct Walk<'a, 'b> {
    restore: &'b TreeRestore<'a>,
    restorer: &'b mut Restorer,
    queue: Sender<Job>,
    work: &'b Work<'b>,
    places: Places,
    chunks: Vec<ChunkRef>,
    bytes: u64,
    /// What the window holds, to be read back.
    checks: Vec<Check>,
    links: FirstNames,
    boundaries: u64,
    path: Vec<u8>,
    told: Told,
}

/// A directory that the walk is in.
struct Inside<'a> {
    entries: Option<Entries<'a>>,
    select: &'a Select,
    above: usize,
    boundary: u64,
}

impl<'a, 'b> Walk<'a, 'b> {
    fn whole(&mut self) -> Result<()> {
        let root = self.restore.reader.root().clone();
        if self.restore.root {
            let inode = self.folder_inode(&root)?;
            self.restorer.root(&item(&root, &inode));
        }
        self.miss(&root);
        let mut inside = vec![self.enter(&root, self.restore.select, 0)?];
        while let Some(here) = inside.last_mut() {
            self.restore.cancel.check()?;
            self.work.under.check()?;
            if self.restorer.window_full() {
                self.window()?;
            }
            let (select, above, boundary) = (here.select, here.above, here.boundary);
            let Some(entry) = here.entries.as_mut().and_then(Iterator::next) else {
                inside.pop();
                self.path.truncate(above);
                if !inside.is_empty() {
                    self.restorer.leave()?;
                }
                continue;
            };
            let entry = match entry.map_err(anyhow::Error::from) {
                Ok((_, entry)) => entry,
                // The rest of the list went with it.
                Err(e) if self.work.goes_on(&e) => {
                    self.lose_folder(&self.path, &e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let Some(select) = select.of(entry.name()) else { continue };
            let Entry::Known(known) = entry else {
                self.told.missing += 1;
                tracing::warn!("{}: could not be looked at when the snapshot was made", self.shown(entry.name()));
                continue;
            };
            self.miss(&known);
            if let What::Folder { boundary: is_boundary, .. } = known.what {
                let inode = self.folder_inode(&known)?;
                if self.restorer.enter(&item(&known, &inode))? {
                    self.boundaries += u64::from(is_boundary);
                    let boundary = if is_boundary { self.boundaries } else { boundary };
                    let folder = self.enter(&known, select, boundary)?;
                    inside.push(folder);
                } else {
                    self.told.unread += u64::from(self.restore.read_back);
                }
                continue;
            }
            self.name(&known, boundary)?;
        }
        self.window()
    }

    /// Notes that the snapshot does not have the content of an entry.
    fn miss(&mut self, known: &Known) {
        if let Some(errno) = known.missing {
            self.told.missing += 1;
            let why = std::io::Error::from_raw_os_error(errno.get().cast_signed());
            tracing::warn!("{}: was not read when the snapshot was made: {why}", self.shown(&known.name));
        }
    }

    fn shown(&self, name: &[u8]) -> String {
        escaped(&self.path_of(name))
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn enter(&mut self, known: &Known, select: &'b Select, boundary: u64) -> Result<Inside<'b>> {
        let above = self.path.len();
        self.path = self.path_of(&known.name);
        let below = match &known.what {
            What::Folder { below, .. } => below.as_ref(),
            _ => None,
        };
        let listed = below.map(|below| self.restore.reader.list(below, 0)).transpose().map_err(anyhow::Error::from);
        let entries = match listed {
            Err(e) if self.work.goes_on(&e) => {
                self.lose_folder(&self.path, &e);
                None
            }
            listed => listed?,
        };
        Ok(Inside { entries, select, above, boundary })
    }

    /// A name that is no directory.
    fn name(&mut self, known: &Known, boundary: u64) -> Result<()> {
        let key = known.links.map(|links| ((boundary, known.inode, alike::of_known(known)), links.get()));
        if let Some((key, _)) = key
            && let Some(first) = self.links.further(&key)
        {
            return self.restorer.link(&known.name, &first);
        }
        let inode = match self.inode(known) {
            // Without its ACL it may be open to others: it is left out.
            Err(e) if self.work.goes_on(&e) => {
                let path = self.path_of(&known.name);
                tracing::warn!("not restored: {}: its attributes: {}", escaped(&path), one_line(&e));
                self.restorer.lose(&path);
                return Ok(());
            }
            inode => inode?,
        };
        let item = item(known, &inode);
        let is_ours = match &known.what {
            // What there is of it would pass for the whole.
            What::File { size: 1.., content: Content::Nothing } if known.missing.is_some() => false,
            What::File { size, content } => match self.restorer.file(&item)? {
                Begun::Write(handle) => {
                    self.data(&known.name, handle, *size, content)?;
                    true
                }
                Begun::There(there) => {
                    self.compared(&known.name, there, *size, content)?;
                    true
                }
                Begun::Left(why) => {
                    self.restore.progress.add(*size);
                    self.told.unread += u64::from(self.restore.read_back);
                    why == Some(Why::Done)
                }
            },
            _ => self.restorer.other(&item)?,
        };
        if let Some((key, links)) = key.filter(|_| is_ours) {
            let path = self.path_of(&known.name);
            self.links.note(key, path, links);
        }
        Ok(())
    }

    /// Puts the parts of a file into the batch.
    fn data(&mut self, name: &[u8], handle: FileHandle, size: u64, content: &Content) -> Result<()> {
        self.told.bytes += size;
        let path = self.path_of(name);
        let back = handle.read_back();
        let file = Arc::new(Target::written(path, size, handle));
        let sparse = matches!(content, Content::Map { .. });
        self.check(back, &file, size, content);
        match self.parts(&file, size, content, sparse) {
            Err(e) if self.work.goes_on(&e) => {
                self.work.lose(&file, &e);
                Ok(())
            }
            placed => placed.and_then(|()| file.part_done()),
        }
    }

    fn parts(&mut self, file: &Arc<Target>, size: u64, content: &Content, sparse: bool) -> Result<()> {
        for span in self.restore.reader.pieces(size, content, 0)? {
            let span = span?;
            let Some(Part { chunk, skip }) = span.data else {
                self.restore.progress.add(span.len);
                continue;
            };
            file.left.fetch_add(1, Ordering::AcqRel);
            let (file, skip, len) = (file.clone(), skip as usize, span.len as usize);
            self.place(chunk, Place { file, skip, len, offset: span.offset, sparse })?;
        }
        Ok(())
    }

    /// Puts a place of a chunk into the batch.
    fn place(&mut self, chunk: ChunkRef, place: Place) -> Result<()> {
        let places = self.places.entry((chunk.id(), chunk.len)).or_default();
        if places.is_empty() {
            self.chunks.push(chunk);
            self.bytes += chunk.len as u64;
        }
        places.push(place);
        if self.chunks.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    /// A file that is there. One that shares its chunk with others is compared when these are known; any other alone.
    fn compared(&mut self, name: &[u8], there: There, size: u64, content: &Content) -> Result<()> {
        self.told.bytes += size;
        let back = there.read_back();
        let file = Arc::new(Target::there(self.path_of(name), size, there));
        self.check(back, &file, size, content);
        if let Content::Shared { .. } = content {
            for span in self.restore.reader.pieces(size, content, 0)? {
                let span = span?;
                if let Some(Part { chunk, skip }) = span.data {
                    let (file, skip, len) = (file.clone(), skip as usize, span.len as usize);
                    self.place(chunk, Place { file, skip, len, offset: span.offset, sparse: false })?;
                }
            }
            return Ok(());
        }
        self.hand_out(Job::Compare { file, size, content: content.clone() })
    }

    fn check(&mut self, back: ReadBack, file: &Arc<Target>, size: u64, content: &Content) {
        if self.restore.read_back {
            self.checks.push(Check { back, file: file.clone(), size, content: content.clone() });
        }
    }

    fn hand_out(&mut self, job: Job) -> Result<()> {
        self.work.under.check()?;
        self.work.under.begin();
        if self.queue.send(job).is_err() {
            self.work.under.end(Err(Error::internal("the workers are gone").into()));
        }
        Ok(())
    }

    /// Hands the batch out.
    fn send(&mut self) -> Result<()> {
        let places = Arc::new(std::mem::take(&mut self.places));
        let chunks = std::mem::take(&mut self.chunks);
        self.bytes = 0;
        let is_there = |chunk: &ChunkRef| work::at(&places, chunk).iter().any(|place| place.file.is_there);
        let (there, chunks): (Vec<_>, Vec<_>) = chunks.into_iter().partition(is_there);
        for chunks in there.chunks(COMPARED) {
            self.hand_out(Job::Assemble { chunks: chunks.to_vec(), places: places.clone() })?;
        }
        for fetch in self.restore.reader.chunks().plan(chunks, self.restore.fetch_bytes) {
            self.hand_out(Job::Fetch { fetch, places: places.clone() })?;
        }
        Ok(())
    }

    /// Everything that was begun gets its name.
    fn window(&mut self) -> Result<()> {
        self.send()?;
        self.work.under.wait()?;
        if self.restore.read_back {
            self.restorer.sync_window()?;
            for check in std::mem::take(&mut self.checks) {
                self.hand_out(Job::ReadBack(Box::new(check)))?;
            }
            self.work.under.wait()?;
        }
        self.restorer.finish_window()
    }

    /// Notes that names or attributes of a directory are lost.
    fn lose_folder(&self, path: &[u8], e: &anyhow::Error) {
        let shown = [if path.is_empty() { b"." } else { path }, b"/"].concat();
        tracing::warn!("not restored whole: {}: {}", escaped(&shown), one_line(e));
        self.restorer.lose(&shown);
    }

    /// A directory whose extended attributes are lost is made without them, and for its owner alone: an ACL may be among them.
    fn folder_inode(&self, known: &Known) -> Result<Inode> {
        match self.inode(known) {
            Err(e) if self.work.goes_on(&e) => {
                let path = if known.name.is_empty() { self.path.clone() } else { self.path_of(&known.name) };
                self.lose_folder(&path, &e);
                let inode = self.inode_with(known, Set::default());
                Ok(Inode { permissions: inode.permissions & OWNERS, ..inode })
            }
            inode => inode,
        }
    }

    fn inode(&self, known: &Known) -> Result<Inode> {
        Ok(self.inode_with(known, self.restore.extended(&known.attributes)?))
    }

    fn inode_with(&self, known: &Known, extended: Set) -> Inode {
        let attributes = &known.attributes;
        let (kind, size) = kind_of(&known.what);
        Inode {
            kind,
            permissions: permissions(known),
            owner: attributes.owner,
            group: attributes.group,
            flags: attributes.flags,
            extended,
            modified: known.modified,
            changed: known.changed,
            number: known.inode,
            links: known.links.map_or(1, |links| links.get()),
            size,
            allocated: 0,
        }
    }
}

fn item<'a>(known: &'a Known, inode: &'a Inode) -> Item<'a> {
    let attributes = &known.attributes;
    Item { name: &known.name, inode, owner: &attributes.owner_name, group: &attributes.group_name }
}
