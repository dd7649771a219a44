//! Writing a snapshot: chunks go in from any number of threads, a committed snapshot comes out. Nothing is acknowledged
//! before the storage has acknowledged everything the snapshot leads to.

mod made;
mod map;
mod pulse;
mod shape;
mod store;
mod uploads;

pub use made::MadeDisk;
pub(crate) use map::{MapWriter, Written};
pub use pulse::Pulse;
pub use store::Scratch;
pub(crate) use store::{Content, Store};

use crate::codec::Compression;
use crate::format::node::Node;
use crate::format::records::Origin;
use crate::id::SessionId;
use crate::index::ChunkIndex;
use crate::map::Tree;
use crate::repository::{Snapshot, class_of};
use crate::session::{ParentChoice, Session};
use crate::{ErrorKind, Repository, Result, Timestamp};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

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
    /// It is a copy.
    pub copied: Option<Copied>,
}

/// What the copy of a snapshot has from the original.
#[derive(Clone, Debug)]
pub struct Copied {
    /// What it is a copy of.
    pub origin: Origin,
    /// The snapshot's time.
    pub started: Timestamp,
    /// Host the original was made on.
    pub host: String,
    /// Chunks of the original that are not zero: a copy that has another number is not committed.
    pub chunks: u64,
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
    map: MapWriter,
}

impl SnapshotWriter {
    /// Opens a session. `index` is brought up to date with what adopted sessions stored.
    pub fn start(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions) -> Result<Self> {
        let wanted = options.chunk_size.map(class_of).transpose()?;
        let (mut session, left) = Session::start(repository, &options.name, &options.parent)?;
        // What is of another kind is not named as what this one is built upon.
        if let Some(tree) = session.parent.take_if(|parent| parent.record.tree.is_some()) {
            tracing::warn!("snapshot {} is the tree of a directory and not built upon", tree.id);
        }
        let inherited = session.parent.as_ref().and_then(|p| p.chunk_size()).map(|size| size.trailing_zeros() as u8);
        let class = wanted.or(inherited).map_or_else(|| class_of(repository.chunk_size()), Ok);
        let class = session.or_leave(class)?;
        let parent = match &session.parent {
            Some(parent) if parent.record.class == class => match Tree::open(repository, &parent.record) {
                Ok(tree) => Some(Arc::new(tree)),
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    tracing::warn!("snapshot {} is damaged and not built upon: {e}", parent.id);
                    None
                }
                Err(e) => return session.or_leave(Err(e)),
            },
            _ => None,
        };
        let store = Store::new(session, &left, index, options, 1 << class)?;
        Ok(Self { store, map: MapWriter::new(class, parent) })
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
        1 << self.map.class()
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

    /// The run is to end: no pack is begun any more, and whoever waits in [`put`](Self::put) or [`advance`](Self::advance) fails
    /// (`Cancelled`), however slow the storage is. [`abandon`](Self::abandon) still stores what was begun.
    pub fn take_no_more(&self) {
        self.store.take_no_more();
    }

    /// Takes chunk `number`, read from the source. Each number at most once; those never put are zero. All have the chunk
    /// size but the last one of a volume that ends inside it. After an error there is no snapshot.
    pub fn put(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        self.map.put(&self.store, scratch, number, plain)
    }

    /// W8: those of these chunks that can be inherited, ascending: the parent's map can be read there, and every pack it
    /// names was there when the session began. All others have to be put.
    pub fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.map.inheritable(&self.store, chunks)
    }

    /// Takes these chunks over from the parent without reading them, when a list of changed blocks says they are the
    /// same and they are [inheritable](Self::inheritable). They are not put. `bytes` is their length in the volume.
    pub fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()> {
        self.map.inherit(&self.store, chunks, bytes)
    }

    /// True when chunks can be inherited: there is an intact parent with the same chunk size.
    pub fn can_inherit(&self) -> bool {
        self.map.can_inherit()
    }

    /// Says that every chunk below `number` was put, is inherited or is zero, so that the map of these can be written. After
    /// an error there is no snapshot.
    pub fn advance(&self, number: u64) -> Result<()> {
        self.map.advance(&self.store, number)
    }

    /// Commits: Ok means the snapshot is durable and will restore. `Conflict` means the run was ended by somebody else.
    pub fn commit(self, info: CommitInfo) -> Result<Snapshot> {
        self.commit_unless(info, || Ok(()))
    }

    /// As [`commit`](Self::commit), but asks `refused` when all is stored, which may have taken long. On an error of that
    /// the run is given up, and what it stored is left to the next one.
    pub fn commit_unless(self, info: CommitInfo, refused: impl FnOnce() -> Result<()>) -> Result<Snapshot> {
        let Written { levels, top, chunks } = match self.map.finish(&self.store, info.size) {
            Ok(written) => written,
            Err(e) => return Err(self.store.given_up(e)),
        };
        let ids = &self.store.repository.keys().ids;
        let top_id = top.as_ref().map(|top| ids.node(top.level, top.present().map(|(n, slot)| (n as u8, slot.id))));
        let class = self.map.class();
        let content = Content {
            class,
            levels,
            root: ids.root(info.size, class, levels, top_id),
            top: top.as_ref().map(Node::encode).unwrap_or_default(),
            chunks,
            tree: None,
        };
        self.store.commit(content, info, refused)
    }

    /// Stores all of the map but its top node, commits nothing and ends the run.
    pub(crate) fn store(self, size: u64) -> Result<()> {
        match self.map.finish(&self.store, size) {
            Ok(_) => self.store.store_all(),
            Err(e) => self.store.abandon().and(Err(e)),
        }
    }

    /// Likewise, as far as the map is known.
    pub(crate) fn store_as_it_is(self) -> Result<()> {
        self.store.store_all()
    }

    /// Gives the run up, storing what is complete, so that the next run of the volume does not send it again.
    pub fn abandon(self) -> Result<()> {
        self.store.abandon()
    }
}

/// True when every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Blocks long enough to be compared with wide registers, short enough to stop soon.
    let mut blocks = bytes.chunks_exact(512);
    blocks.all(|block| block.iter().fold(0, |a, b| a | b) == 0) && blocks.remainder().iter().all(|b| *b == 0)
}
