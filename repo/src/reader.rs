//! Reading a snapshot: by plan for a restore, by chunk for a mount. Nothing leaves this module that was not verified.

use crate::format::node::{FANOUT, Slot};
use crate::id::{PackId, ShortId};
use crate::map::{Tree, chunk_count, chunk_len};
use crate::pack::open_chunk;
use crate::storage::keys;
use crate::{Error, Repository, Result, Snapshot};
use bytes::Bytes;
use std::ops::Range;

/// Bytes whose authentication tag and id were checked. Only these may reach a sink or a reader of a mount.
#[derive(Debug)]
pub struct Verified<B>(B);

impl<B> Verified<B> {
    /// The buffer.
    pub fn into_inner(self) -> B {
        self.0
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Verified<B> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// A chunk of a snapshot that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its number: it begins at number x chunk size.
    pub number: u64,
    /// Length in bytes of its plaintext.
    pub len: usize,
    slot: Slot,
}

impl ChunkRef {
    /// Its identity: chunks with the same id have the same content and chunk size.
    pub fn id(&self) -> ShortId {
        self.slot.id
    }
}

/// One ranged read of a pack that brings several chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pack: PackId,
    range: Range<u64>,
    /// The chunks in it, in the order of their place in the pack.
    pub chunks: Vec<ChunkRef>,
}

impl Fetch {
    /// Bytes it reads.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// Chunks of a pack with no more than this between them (bytes) are read together.
const GAP: u64 = 256 << 10;

/// A snapshot opened for reading; share it between threads.
#[derive(Debug)]
pub struct SnapshotReader {
    repository: Repository,
    tree: Tree,
    size: u64,
    class: u8,
}

impl SnapshotReader {
    /// Reads nothing yet: the top of the map is in the snapshot's record.
    pub fn open(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        let tree = Tree::open(repository, &snapshot.record)
            .map_err(|e| e.with_object(keys::snap(&snapshot.volume, &snapshot.id)))?;
        Ok(Self { repository: repository.clone(), tree, size: snapshot.record.size, class: snapshot.record.class })
    }

    /// Size of the volume in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Chunk size in bytes.
    pub fn chunk_size(&self) -> u64 {
        1 << self.class
    }

    /// Number of chunks, the zero ones included.
    pub fn chunk_count(&self) -> u64 {
        chunk_count(self.size, self.class)
    }

    fn reference(&self, number: u64, slot: Slot) -> ChunkRef {
        ChunkRef { number, len: chunk_len(self.size, self.class, number), slot }
    }

    /// The chunk of this number; `None` when it is zero.
    pub fn chunk(&self, number: u64) -> Result<Option<ChunkRef>> {
        Ok(self.tree.chunk(number)?.map(|slot| self.reference(number, slot)))
    }

    /// The chunks that are not zero in the next part of the map, from chunk `from` on, ascending, and the chunk number
    /// to go on from; `None` at the end.
    pub fn next_chunks(&self, from: u64) -> Result<Option<(Vec<ChunkRef>, u64)>> {
        let Some((leaf, node)) = self.tree.next_leaf(from / FANOUT as u64)? else { return Ok(None) };
        let base = leaf * FANOUT as u64;
        let chunks = node.present().map(|(n, slot)| self.reference(base + n as u64, *slot));
        Ok(Some((chunks.filter(|c| c.number >= from).collect(), base + FANOUT as u64)))
    }

    /// Ranged reads that bring these chunks, each at most about `most` bytes, sorted by their place in the storage.
    pub fn plan(&self, mut chunks: Vec<ChunkRef>, most: u64) -> Vec<Fetch> {
        chunks.sort_unstable_by_key(|c| (c.slot.at.pack, c.slot.at.offset));
        let mut plan: Vec<Fetch> = Vec::new();
        for chunk in chunks {
            let start = u64::from(chunk.slot.at.offset);
            let end = start + u64::from(chunk.slot.at.len);
            match plan.last_mut() {
                Some(fetch)
                    if fetch.pack == chunk.slot.at.pack
                        && start <= fetch.range.end + GAP
                        && end.max(fetch.range.end) - fetch.range.start <= most =>
                {
                    fetch.range.end = fetch.range.end.max(end);
                    fetch.chunks.push(chunk);
                }
                _ => plan.push(Fetch { pack: chunk.slot.at.pack, range: start..end, chunks: vec![chunk] }),
            }
        }
        plan
    }

    /// The sealed bytes of a fetch.
    pub fn fetch(&self, fetch: &Fetch) -> Result<Bytes> {
        self.repository.storage().get_range(&keys::pack(&fetch.pack), fetch.range.clone())
    }

    /// Opens one chunk out of the bytes of its fetch into `out`, which has the chunk's length.
    pub fn open_chunk<B: AsMut<[u8]>>(
        &self,
        fetch: &Fetch,
        bytes: &[u8],
        chunk: &ChunkRef,
        scratch: &mut Vec<u8>,
        mut out: B,
    ) -> Result<Verified<B>> {
        let at = &chunk.slot.at;
        let start = (u64::from(at.offset) - fetch.range.start) as usize;
        let sealed =
            bytes.get(start..start + at.len as usize).ok_or_else(|| Error::internal("a chunk is outside its fetch"))?;
        scratch.clear();
        scratch.extend_from_slice(sealed);
        let plain = out.as_mut();
        if plain.len() != chunk.len {
            return Err(Error::internal("a chunk was opened into a buffer of another length"));
        }
        let (keys, cache) = (self.repository.keys(), self.repository.pack_keys());
        open_chunk(keys, cache, &chunk.slot.id, self.class, at, scratch, plain)?;
        Ok(Verified(out))
    }

    /// True when `plain` is what the snapshot has as chunk `number`.
    pub fn is_same(&self, number: u64, plain: &[u8]) -> Result<bool> {
        let slot = self.tree.chunk(number)?;
        if plain.len() != chunk_len(self.size, self.class, number) {
            return Ok(false);
        }
        Ok(match slot {
            None => crate::writer::is_zero(plain),
            Some(slot) => self.repository.keys().ids.chunk(self.class, plain).short() == slot.id,
        })
    }

    /// One chunk, read and verified.
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Verified<Vec<u8>>> {
        let mut plan = self.plan(vec![*chunk], u64::MAX);
        let fetch = plan.pop().ok_or_else(|| Error::internal("a plan is empty"))?;
        let bytes = self.fetch(&fetch)?;
        self.open_chunk(&fetch, &bytes, chunk, &mut Vec::new(), vec![0; chunk.len])
    }
}
