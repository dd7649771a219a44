//! What every run that stores something has, whatever it makes a snapshot of: a session, the packs that are being filled,
//! what is on its way to the storage, and the commit. Who writes a volume or a tree decides what to put, and what refers
//! to it.

use super::pulse::Pulse;
use super::uploads::Uploads;
use super::{CommitInfo, Put, WriterOptions};
use crate::codec::{Compression, Packer};
use crate::format::node::{Node, Slot};
use crate::format::pack::MAX_PACK;
use crate::format::records::{SnapshotRecord, Stats, TreeInfo};
use crate::id::{ChunkId, Codec, Location, PackId, PackKind, ShortId};
use crate::index::ChunkIndex;
use crate::map::NodeSink;
use crate::pack::{OpenPack, PackPool, Piece, SealedPack};
use crate::repository::Snapshot;
use crate::session::Session;
use crate::{Error, ErrorKind, Repository, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Buffers of one worker thread.
#[derive(Debug)]
pub struct Scratch {
    packer: Packer,
    sealed: Vec<u8>,
}

/// Meta packs are this long at most (bytes).
const META_PACK: usize = 4 << 20;

/// A run that stores chunks and nodes and commits what they make. Any number of threads may use it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) repository: Repository,
    pub(crate) session: Arc<Session>,
    /// What became of what was read; the writer says so.
    pub(crate) counts: Counts,
    compression: Compression,
    index: Arc<ChunkIndex>,
    data: Filling,
    meta: Filling,
    seq: AtomicU32,
    pulse: Pulse,
    uploads: Uploads,
}

/// The pack of one kind that is being filled.
#[derive(Debug)]
struct Filling {
    kind: PackKind,
    pool: Arc<PackPool>,
    open: Mutex<Option<Arc<OpenPack>>>,
}

/// Bytes of the source, as the [`Stats`] of the record have them.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) read: AtomicU64,
    zero: AtomicU64,
    unchanged: AtomicU64,
    known: AtomicU64,
    new: AtomicU64,
}

impl Counts {
    /// Notes what became of so many bytes.
    pub(crate) fn note(&self, put: Put, bytes: u64) {
        let count = match put {
            Put::Zero => &self.zero,
            Put::Unchanged => &self.unchanged,
            Put::Known => &self.known,
            Put::New => &self.new,
        };
        count.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a snapshot is, in the terms of its record; [`CommitInfo`] has the rest.
#[derive(Debug)]
pub(crate) struct Content {
    /// Size class of the chunks of a volume.
    pub(crate) class: u8,
    /// Levels of its map.
    pub(crate) levels: u8,
    /// Digest of all of it.
    pub(crate) root: ChunkId,
    /// The encoded top node.
    pub(crate) top: Vec<u8>,
    /// Chunks of a volume that are not zero.
    pub(crate) chunks: u64,
    /// What a tree has besides; class, levels and chunks are 0 then.
    pub(crate) tree: Option<TreeInfo>,
}

impl Store {
    /// For a session that was just opened, and the packs that dead sessions `left`. `index` is brought up to date with
    /// what adopted sessions stored. No plaintext of a chunk is longer than `largest` bytes.
    pub(crate) fn new(
        session: Session,
        left: &[PackId],
        index: Arc<ChunkIndex>,
        options: &WriterOptions,
        largest: usize,
    ) -> Result<Self> {
        let session = Arc::new(session);
        let repository = session.repository.clone();
        session.or_leave(crate::index_sync::adopt(&repository, &index, &session.adopts, left))?;
        let data = PackPool::new(options.pack_buffers.max(2), pack_capacity(options.pack_size, largest));
        let uploads = Uploads::start(session.clone(), index.clone(), options.uploads, options.checkpoint_packs);
        let uploads = uploads.inspect_err(|_| {
            // It is not the storage that does not answer.
            session.leave().unwrap_or_else(|e| tracing::debug!("session {} stays open: {e}", session.id));
        })?;
        Ok(Self {
            repository,
            counts: Counts::default(),
            compression: options.compression,
            index,
            data: Filling { kind: PackKind::Data, pool: data, open: Mutex::default() },
            meta: Filling { kind: PackKind::Meta, pool: PackPool::new(3, META_PACK), open: Mutex::default() },
            seq: AtomicU32::new(0),
            pulse: Pulse::new(session.clone(), uploads.shared()),
            uploads,
            session,
        })
    }

    /// Bytes of data packs acknowledged so far.
    pub(crate) fn stored(&self) -> u64 {
        self.uploads.stored()
    }

    /// True when packs of a dead run may be used.
    pub(crate) fn is_resumed(&self) -> bool {
        !self.session.adopts.is_empty()
    }

    /// Buffers for one worker thread, for plaintexts of at most `largest` bytes.
    pub(crate) fn scratch(&self, largest: usize) -> Result<Scratch> {
        Ok(Scratch { packer: Packer::new(self.compression, largest)?, sealed: Vec::new() })
    }

    /// Gives signs of life of this run.
    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Fails when this run cannot commit any more: an upload failed, somebody said so with [`fail`](Self::fail), or the
    /// session was ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.uploads.check()
    }

    /// From now on nothing is taken and nothing is committed: what was decided would not be complete.
    pub(crate) fn fail(&self, why: &Error) {
        // A run that takes no more commits nothing as it is, and what it had begun is still to be stored.
        if !self.data.pool.is_closed() {
            self.uploads.fail(why.again());
        }
    }

    /// No pack is begun from now on, and who waits for room for one fails (`Cancelled`): a source is let go of although the storage
    /// is slow. What was begun is still stored by [`abandon`](Self::abandon).
    pub(crate) fn take_no_more(&self) {
        self.data.pool.close();
        self.meta.pool.close();
    }

    /// D1: true when what the parent refers to there may be taken over: its pack was listed
    /// and reaches that far, and its key is not lost (W8).
    pub(crate) fn is_listed(&self, at: &Location) -> bool {
        self.session.is_listed(at) && self.repository.keys().has(at.epoch)
    }

    /// T2: a chunk of this run that is on its way, or a copy anywhere that may still be referred to. The class need not be
    /// told: each has its own key for ids.
    pub(crate) fn known(&self, id: &ShortId) -> Option<Location> {
        if let Some(at) = self.uploads.on_the_way(id) {
            return Some(at);
        }
        match self.index.lookup(id) {
            Ok(found) => {
                let has_key = |at: &Location| self.repository.keys().has(at.epoch);
                found.into_iter().find(|at| has_key(at) && self.session.may_hit(at))
            }
            Err(e) => {
                tracing::warn!("the chunk index is not used any further: {e}");
                None
            }
        }
    }

    /// A chunk of `class` with this id: where it is known to be, else where it was stored now. After an error there is no
    /// snapshot.
    pub(crate) fn put_chunk(
        &self,
        scratch: &mut Scratch,
        class: u8,
        id: &ChunkId,
        plain: &[u8],
    ) -> Result<(Location, Put)> {
        if let Some(at) = self.known(&id.short()) {
            return Ok((at, Put::Known));
        }
        let (codec, packed) = scratch.packer.pack(plain)?;
        let piece = Piece { id: *id, class, codec, plain: plain.len() as u32, packed };
        self.store_chunk(&piece, &mut scratch.sealed)
    }

    /// Stores a node of `class` as it is. It is not looked for: no node is referred to but an own one or the parent's (D4).
    pub(crate) fn put_node(&self, class: u8, id: &ChunkId, plain: &[u8]) -> Result<Location> {
        let piece = Piece { id: *id, class, codec: Codec::Raw, plain: plain.len() as u32, packed: plain };
        self.store_node(&piece, &mut Vec::with_capacity(plain.len() + crate::crypto::TAG))
    }

    /// Likewise, packed as chunks are: for nodes of trees, which may have any codec.
    pub(crate) fn pack_node(&self, scratch: &mut Scratch, class: u8, id: &ChunkId, plain: &[u8]) -> Result<Location> {
        let (codec, packed) = scratch.packer.pack(plain)?;
        let piece = Piece { id: *id, class, codec, plain: plain.len() as u32, packed };
        self.store_node(&piece, &mut scratch.sealed)
    }

    /// D3: seals a chunk into the open pack, unless another thread did so a moment ago.
    fn store_chunk(&self, piece: &Piece<'_>, sealed: &mut Vec<u8>) -> Result<(Location, Put)> {
        let (pack, at) = loop {
            let mut open = self.data.open.lock();
            if let Some(at) = self.uploads.on_the_way(&piece.id.short()) {
                return Ok((at, Put::Known));
            }
            let pack = self.open_pack(&mut open, &self.data)?;
            match pack.reserve(piece, self.data.pool.capacity()) {
                Some(at) => {
                    self.uploads.expect(piece.id.short(), at);
                    break (pack, at);
                }
                None => {
                    *open = None;
                    drop(open);
                    if pack.close() {
                        self.uploads.send(pack.finish(&self.data.pool)?)?;
                    }
                }
            }
        };
        // A place that was reserved and is not filled would leave the pack incomplete for ever.
        let filled = pack.fill(&at, piece, sealed).inspect_err(|e| self.fail(e))?;
        if filled {
            self.uploads.send(pack.finish(&self.data.pool)?)?;
        }
        Ok((at, Put::New))
    }

    fn store_node(&self, piece: &Piece<'_>, sealed: &mut Vec<u8>) -> Result<Location> {
        let mut open = self.meta.open.lock();
        loop {
            let pack = self.open_pack(&mut open, &self.meta)?;
            if let Some(at) = pack.reserve(piece, self.meta.pool.capacity()) {
                // As of a chunk.
                pack.fill(&at, piece, sealed).inspect_err(|e| self.fail(e))?;
                return Ok(at);
            }
            *open = None;
            if pack.close() {
                self.uploads.send(pack.finish(&self.meta.pool)?)?;
            }
        }
    }

    fn open_pack(&self, open: &mut Option<Arc<OpenPack>>, filling: &Filling) -> Result<Arc<OpenPack>> {
        if let Some(pack) = open {
            return Ok(pack.clone());
        }
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let (keys, rng) = (self.repository.keys(), self.repository.rng());
        let pack = Arc::new(OpenPack::new(filling.kind, self.session.id, seq, keys, rng, &filling.pool)?);
        *open = Some(pack.clone());
        Ok(pack)
    }

    /// Stores a pack that was not filled here.
    pub(super) fn send(&self, pack: SealedPack) -> Result<()> {
        self.uploads.send(pack)
    }

    /// Sends the open pack, if there is one.
    fn close(&self, filling: &Filling) -> Result<()> {
        let Some(pack) = filling.open.lock().take() else { return Ok(()) };
        if pack.close() { self.uploads.send(pack.finish(&filling.pool)?) } else { Ok(()) }
    }

    /// Commits `content`: Ok means the snapshot is durable and will restore. Nothing may be put any more. `Conflict` means
    /// the run was ended by somebody else. `refused` is asked when all is stored, which may have taken long: on an error of
    /// that the run is given up, and what it stored is left to the next one.
    pub(crate) fn commit(
        self,
        content: Content,
        info: CommitInfo,
        refused: impl FnOnce() -> Result<()>,
    ) -> Result<Snapshot> {
        if self.data.pool.is_closed() {
            return Err(self.given_up(Error::internal("a run that takes no more is committed")));
        }
        let stored = self.close(&self.data).and_then(|()| self.close(&self.meta)).and_then(|()| self.uploads.finish());
        if let Err(e) = stored.and_then(|()| refused()) {
            return Err(self.given_up(e));
        }
        self.pulse.beat().map_err(|e| self.given_up(e))?;
        if let Some(copied) = info.copied.as_ref().filter(|copied| copied.chunks != content.chunks) {
            let (have, all) = (content.chunks, copied.chunks);
            let text = format!("a copy has {have} of {all} chunks; nothing is committed, please report it");
            return Err(self.given_up(Error::internal(text)));
        }
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let record = SnapshotRecord {
            name: self.session.name.clone(),
            size: info.size,
            class: content.class,
            levels: content.levels,
            root: content.root,
            top: content.top,
            chunks: content.chunks,
            parent: self.session.parent.as_ref().map(|p| p.id),
            tags: info.tags,
            started: info.copied.as_ref().map_or(self.session.started, |copied| copied.started),
            ended: self.repository.clock().now(),
            origin: info.copied.as_ref().map(|copied| copied.origin),
            host: info.copied.map_or_else(crate::process::host_name, |copied| copied.host),
            source: info.source,
            run: info.run,
            engine: info.engine,
            partial: info.partial,
            resumed: self.is_resumed(),
            stats: Stats {
                read: count(&self.counts.read),
                hole: info.hole,
                zero: count(&self.counts.zero),
                unchanged: count(&self.counts.unchanged),
                known: count(&self.counts.known),
                new: count(&self.counts.new),
                stored: self.uploads.stored(),
                metadata: self.session.written(),
            },
            version: env!("CARGO_PKG_VERSION").into(),
            nonce: self.repository.nonce().map_err(|e| self.given_up(e))?,
            tree: content.tree,
        };
        self.session.commit(record)
    }

    /// Ends the session after that error, or collectors on other machines would wait for it.
    pub(crate) fn given_up(&self, error: Error) -> Error {
        // A storage that does not answer takes no Fence either: the next run finds that this process is gone.
        if error.kind() != ErrorKind::Unavailable
            && let Err(e) = self.session.leave()
        {
            tracing::debug!("the run was not left in order: {e}");
        }
        error
    }

    /// Stores all that was put, nodes too, and ends the run without a snapshot.
    pub(crate) fn store_all(self) -> Result<()> {
        self.check().and_then(|()| self.close(&self.meta)).and(self.abandon())
    }

    /// Gives the run up, storing what is complete, so that the next run of the volume does not send it again.
    pub(crate) fn abandon(self) -> Result<()> {
        let stored = self.close(&self.data).and_then(|()| self.uploads.finish());
        match stored {
            // A storage that does not answer takes no Fence either: the next run finds that this process is gone.
            Err(e) if e.kind() == ErrorKind::Unavailable => Err(e),
            stored => self.session.leave().and(stored),
        }
    }
}

impl NodeSink for Store {
    fn store(&self, node: &Node) -> Result<Slot> {
        let ids = &self.repository.keys().ids;
        let id = ids.node(node.level, node.present().map(|(n, slot)| (n as u8, slot.id)));
        let at = self.put_node(128 + node.level, &id, &node.encode())?;
        Ok(Slot { id: id.short(), at })
    }

    fn is_listed(&self, at: &Location) -> bool {
        self.is_listed(at)
    }
}

/// How long packs are at most: two of the longest chunks fit, and readers take it.
fn pack_capacity(wanted: usize, largest: usize) -> usize {
    wanted.clamp(2 * largest, MAX_PACK as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pack_is_longer_than_readers_take() {
        assert_eq!(pack_capacity(1 << 30, 1 << 18), MAX_PACK as usize);
        assert_eq!(pack_capacity(32 << 20, 1 << 18), 32 << 20);
        assert_eq!(pack_capacity(0, 1 << 22), 8 << 20);
    }
}
