//! Writing a snapshot: chunks go in from any number of threads, a committed snapshot comes out. Nothing is acknowledged
//! before the storage has acknowledged everything the snapshot leads to.

mod pulse;
mod shape;
mod store;
mod uploads;

pub use pulse::Pulse;
pub use store::Scratch;
pub(crate) use store::{Content, Store};

use crate::codec::Compression;
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::id::SessionId;
use crate::index::ChunkIndex;
use crate::map::{MapBuilder, Tree, chunk_count, levels};
use crate::repository::{Snapshot, class_of};
use crate::session::{ParentChoice, Session};
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result};
use parking_lot::Mutex;
use shape::Shape;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a snapshot is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Name of the volume.
    pub name: String,
    /// Chunk size in bytes; `None`: the parent's, else the repository's.
    pub chunk_size: Option<u32>,
    /// What to build on.
    pub parent: ParentChoice,
    /// How chunks are packed.
    pub compression: Compression,
    /// Longest pack in bytes.
    pub pack_size: usize,
    /// Packs in memory at once, the one being filled included; at least 2.
    pub pack_buffers: usize,
    /// Packs under way to the storage at once. 0: the thread that completes a pack stores it (for tests).
    pub uploads: usize,
    /// A checkpoint is written after so many packs.
    pub checkpoint_packs: usize,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            chunk_size: None,
            parent: ParentChoice::Auto,
            compression: Compression::Lz4,
            pack_size: 32 << 20,
            pack_buffers: 4,
            uploads: 2,
            checkpoint_packs: 8,
        }
    }
}

/// What a commit adds to what the writer knows itself.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    /// Size of the volume in bytes.
    pub size: u64,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// What was read.
    pub source: String,
    /// The run, as in its log lines.
    pub run: String,
    /// Block engine.
    pub engine: String,
    /// Bytes the source did not have allocated.
    pub hole: u64,
    /// Some of the source could not be read: the snapshot is only a part.
    pub partial: bool,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Nothing but zeros.
    Zero,
    /// Equal to the parent at the same place.
    Unchanged,
    /// Found elsewhere in the repository.
    Known,
    /// Stored.
    New,
}

/// One snapshot being written. Drop it without [`commit`](Self::commit) and there is no snapshot.
#[derive(Debug)]
pub struct SnapshotWriter {
    store: Store,
    class: u8,
    parent: Option<Tree>,
    parent_broken: AtomicBool,
    parent_loaded: AtomicU64,
    map: Mutex<MapState>,
    shape: Shape,
}

#[derive(Debug)]
struct MapState {
    builder: MapBuilder,
    waiting: BTreeMap<u64, Slot>,
    /// Chunks that are the parent's: first and one past the last.
    inherited: BTreeMap<u64, u64>,
    next: u64,
}

impl SnapshotWriter {
    /// Opens a session. `index` is brought up to date with what adopted sessions stored.
    pub fn start(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions) -> Result<Self> {
        let wanted = options.chunk_size.map(class_of).transpose()?;
        let (session, left) = Session::start(repository, &options.name, &options.parent)?;
        let other = session.parent.as_ref().filter(|p| p.record.tree.is_some());
        if let Some(tree) = other {
            tracing::warn!("snapshot {} is the tree of a directory and not built upon", tree.id);
        }
        let inherited = session.parent.as_ref().and_then(|p| p.chunk_size()).map(|size| size.trailing_zeros() as u8);
        let class = wanted.or(inherited).map_or_else(|| class_of(repository.chunk_size()), Ok)?;
        let parent = match &session.parent {
            Some(parent) if parent.record.class == class => match Tree::open(repository, &parent.record) {
                Ok(tree) => Some(tree),
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    tracing::warn!("snapshot {} is damaged and not built upon: {e}", parent.id);
                    None
                }
                Err(e) => return Err(e),
            },
            _ => None,
        };
        Ok(Self {
            store: Store::new(session, &left, index, options, 1 << class)?,
            class,
            parent,
            parent_broken: AtomicBool::new(false),
            parent_loaded: AtomicU64::new(u64::MAX),
            map: Mutex::new(MapState {
                builder: MapBuilder::new(),
                waiting: BTreeMap::new(),
                inherited: BTreeMap::new(),
                next: 0,
            }),
            shape: Shape::new(class),
        })
    }

    /// Id of the session, and of the snapshot if it commits.
    pub fn id(&self) -> SessionId {
        self.store.session.id
    }

    /// The snapshot it builds on.
    pub fn parent(&self) -> Option<&Snapshot> {
        self.store.session.parent.as_ref()
    }

    /// True when packs of a dead run may be used.
    pub fn is_resumed(&self) -> bool {
        self.store.is_resumed()
    }

    /// Chunk size in bytes.
    pub fn chunk_size(&self) -> usize {
        1 << self.class
    }

    /// Bytes of data packs acknowledged so far.
    pub fn stored(&self) -> u64 {
        self.store.stored()
    }

    /// Buffers for one worker thread.
    pub fn scratch(&self) -> Result<Scratch> {
        self.store.scratch(self.chunk_size())
    }

    /// Gives signs of life of this run; somebody has to do that about once a minute, until it has committed.
    pub fn pulse(&self) -> Pulse {
        self.store.pulse()
    }

    /// Fails when this run cannot commit any more: an upload failed, or the session was ended.
    pub fn check(&self) -> Result<()> {
        self.store.check()
    }

    /// Takes chunk `number`, read from the source. Each number at most once; those never put are zero. All have the chunk
    /// size but the last one of a volume that ends inside it. After an error there is no snapshot.
    pub fn put(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        self.store.check()?;
        // What was not put would be zero.
        self.take(scratch, number, plain).inspect_err(|e| self.store.fail(e))
    }

    fn take(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        self.shape.note(number, plain.len())?;
        let len = plain.len() as u64;
        self.store.counts.read.fetch_add(len, Ordering::Relaxed);
        let put = if is_zero(plain) { Put::Zero } else { self.decide(scratch, number, plain)? };
        self.store.counts.note(put, len);
        Ok(put)
    }

    /// Finds or makes a place for a chunk that is not zero.
    fn decide(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        let id = self.store.repository.keys().ids.chunk(self.class, plain);
        let short = id.short();
        let same = self.parent_slot(number)?.filter(|s| s.id == short && self.store.is_listed(&s.at.pack));
        let (at, put) = match same {
            Some(slot) => (slot.at, Put::Unchanged),
            None => self.store.put_chunk(scratch, self.class, &id, plain)?,
        };
        self.map.lock().waiting.insert(number, Slot { id: short, at });
        Ok(put)
    }

    /// W8: those of these chunks that can be inherited, ascending: the parent's map can be read there, and every pack it
    /// names was there when the session began. All others have to be put.
    pub fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let Some(tree) = &self.parent else { return Ok(found) };
        let mut start = chunks.start;
        let mut leaf = start >> FANOUT_BITS;
        loop {
            match tree.next_leaf(leaf) {
                Ok(Some((number, node))) if number << FANOUT_BITS < chunks.end => {
                    for (n, _) in node.present().filter(|(_, slot)| !self.store.is_listed(&slot.at.pack)) {
                        let lost = (number << FANOUT_BITS) + n as u64;
                        if chunks.contains(&lost) {
                            found.push(start..lost);
                            start = lost + 1;
                        }
                    }
                    leaf = number + 1;
                }
                Ok(_) => break,
                // What lies behind it cannot be told from what is zero.
                Err(e) if self.store.repository.is_damage(&e) => {
                    self.parent_broken.store(true, Ordering::Relaxed);
                    tracing::warn!("a part of the parent's map cannot be read and is not built upon: {e}");
                    found.push(start..(leaf << FANOUT_BITS).clamp(start, chunks.end));
                    start = chunks.end;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        found.push(start..chunks.end);
        found.retain(|range| range.start < range.end);
        Ok(found)
    }

    /// Takes these chunks over from the parent without reading them, when a list of changed blocks says they are the
    /// same and they are [inheritable](Self::inheritable). They are not put. `bytes` is their length in the volume.
    pub fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()> {
        if self.parent.is_none() {
            return Err(Error::internal("nothing to inherit from"));
        }
        self.store.counts.note(Put::Unchanged, bytes);
        if !chunks.is_empty() {
            self.map.lock().inherited.insert(chunks.start, chunks.end);
        }
        Ok(())
    }

    /// True when chunks can be inherited: there is an intact parent with the same chunk size.
    pub fn can_inherit(&self) -> bool {
        self.parent.is_some()
    }

    /// Says that every chunk below `number` was put, is inherited or is zero, so that the map of these can be written. After
    /// an error there is no snapshot.
    pub fn advance(&self, number: u64) -> Result<()> {
        // What was being put into the map is in it no more.
        self.write_map(number).inspect_err(|e| self.store.fail(e))
    }

    fn write_map(&self, number: u64) -> Result<()> {
        let mut guard = self.map.lock();
        let map = &mut *guard;
        if number <= map.next {
            return Ok(());
        }
        map.next = number;
        let later = map.waiting.split_off(&number);
        let ready = std::mem::replace(&mut map.waiting, later);
        let parent = self.parent.as_ref().filter(|_| !self.parent_broken.load(Ordering::Relaxed));
        for (n, slot) in ready {
            self.push_inherited(map, n, parent)?;
            map.builder.push(n, slot, parent, &self.store)?;
        }
        self.push_inherited(map, number, parent)
    }

    /// Puts the inherited chunks below `end` into the map, whose nodes may be those of `parent`.
    fn push_inherited(&self, map: &mut MapState, end: u64, parent: Option<&Tree>) -> Result<()> {
        while let Some((&from, &to)) = map.inherited.first_key_value().filter(|(from, _)| **from < end) {
            map.inherited.pop_first();
            let stop = to.min(end);
            if stop < to {
                map.inherited.insert(stop, to);
            }
            let tree = self.parent.as_ref().ok_or_else(|| Error::internal("nothing to inherit from"))?;
            let mut leaf = from >> FANOUT_BITS;
            // Not a leaf further: whether that can be read is not known.
            while leaf << FANOUT_BITS < stop
                && let Some((number, node)) = tree.next_leaf(leaf)?.filter(|(n, _)| n << FANOUT_BITS < stop)
            {
                for (n, slot) in node.present() {
                    let chunk = (number << FANOUT_BITS) + n as u64;
                    if (from..stop).contains(&chunk) {
                        if !self.store.is_listed(&slot.at.pack) {
                            // Who asked what is inheritable does not come here. The chunk would be lost.
                            return Err(Error::internal(format!(
                                "chunk {chunk} was taken over unread from {}, which is gone; nothing is committed, please \
                                 report it",
                                keys::pack(&slot.at.pack)
                            )));
                        }
                        map.builder.push(chunk, *slot, parent, &self.store)?;
                    }
                }
                leaf = number + 1;
            }
        }
        Ok(())
    }

    /// Commits: Ok means the snapshot is durable and will restore. `Conflict` means the run was ended by somebody else.
    pub fn commit(self, info: CommitInfo) -> Result<Snapshot> {
        self.commit_unless(info, || Ok(()))
    }

    /// As [`commit`](Self::commit), but asks `refused` when all is stored, which may have taken long. On an error of that
    /// the run is given up, and what it stored is left to the next one.
    pub fn commit_unless(self, info: CommitInfo, refused: impl FnOnce() -> Result<()>) -> Result<Snapshot> {
        self.shape.check(info.size)?;
        self.advance(u64::MAX)?;
        let map = std::mem::replace(&mut self.map.lock().builder, MapBuilder::new());
        let chunks = map.chunks();
        let levels = levels(chunk_count(info.size, self.class));
        let parent = self.parent.as_ref().filter(|_| !self.parent_broken.load(Ordering::Relaxed));
        let top = map.finish(levels, parent, &self.store)?;
        let ids = &self.store.repository.keys().ids;
        let top_id = top.as_ref().map(|top| ids.node(top.level, top.present().map(|(n, slot)| (n as u8, slot.id))));
        let content = Content {
            class: self.class,
            levels,
            root: ids.root(info.size, self.class, levels, top_id),
            top: top.as_ref().map(Node::encode).unwrap_or_default(),
            chunks,
            tree: None,
        };
        self.store.commit(content, info, refused)
    }

    /// Gives the run up, storing what is complete, so that the next run of the volume does not send it again.
    pub fn abandon(self) -> Result<()> {
        self.store.abandon()
    }

    /// T1: what the parent has at this place. A parent whose map cannot be read is not built upon any longer.
    fn parent_slot(&self, number: u64) -> Result<Option<Slot>> {
        let Some(tree) = self.parent.as_ref().filter(|_| !self.parent_broken.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        let group = number >> (2 * FANOUT_BITS);
        let load = || match self.parent_loaded.swap(group, Ordering::Relaxed) == group {
            true => Ok(()),
            false => tree.load_below(group, 0),
        };
        match load().and_then(|()| tree.chunk(number)) {
            Ok(slot) => Ok(slot),
            Err(e) if self.store.repository.is_damage(&e) => {
                if !self.parent_broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the parent's map cannot be read and is not built upon any further: {e}");
                }
                Ok(None)
            }
            Err(e) => Err(e.context("the parent's map").advise("--parent none does without it")),
        }
    }
}

/// True when every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Blocks long enough to be compared with wide registers, short enough to stop soon.
    let mut blocks = bytes.chunks_exact(512);
    blocks.all(|block| block.iter().fold(0, |a, b| a | b) == 0) && blocks.remainder().iter().all(|b| *b == 0)
}
