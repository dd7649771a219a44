//! Snapshots of disks that nobody read, as large as one likes: what collectors cost is measured on them
//! (`tests/examples/gc.rs`). Sessions, indexes and trailers of packs, index segments, rows of the index, maps and records
//! are those of any run; only most chunks are names without content. **Such a snapshot does not restore**, and its record
//! says so. No command leads here.

use super::{CommitInfo, SnapshotWriter, WriterOptions};
use crate::codec::{Compression, Packer};
use crate::crypto::{ChunkSeal, PackKey, TAG};
use crate::format::pack::{Entry, HEADER, Header, Index, TRAILER, Trailer};
use crate::format::segment::PackRows;
use crate::id::{ChunkId, Codec, Location, PackId, PackKind};
use crate::index::ChunkIndex;
use crate::pack::SealedPack;
use crate::repository::Snapshot;
use crate::{Repository, Result, clock};
use std::ops::Range;
use std::sync::Arc;

/// Packs of made-up chunks are numbered from here on, those of nodes from 0.
const FIRST: u32 = 1 << 31;

/// A snapshot that is being made up. Half of each chunk compresses.
#[derive(Debug)]
pub struct MadeDisk {
    writer: SnapshotWriter,
    packer: Packer,
    /// Longest pack in bytes.
    capacity: usize,
    seq: u32,
    open: Option<Open>,
}

/// The pack that is being filled.
#[derive(Debug)]
struct Open {
    id: PackId,
    epoch: u32,
    key: PackKey,
    /// All zero but for the header and the chunks that have content.
    body: Vec<u8>,
    end: usize,
    entries: Vec<Entry>,
}

impl MadeDisk {
    /// Begins as [`SnapshotWriter::start`] does.
    pub fn start(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions) -> Result<Self> {
        // The packs wait for nothing: one at a time is in memory.
        let options = WriterOptions { uploads: 0, ..options.clone() };
        let writer = SnapshotWriter::start(repository, index, &options)?;
        let packer = Packer::new(Compression::Lz4, writer.chunk_size())?;
        Ok(Self { writer, packer, capacity: options.pack_size, seq: FIRST, open: None })
    }

    /// Puts chunk `number`, whose content is named by a number; the same content is the same chunk. Where `real`, it is there,
    /// and can be opened. Else its bytes in the pack stay zero.
    pub fn put(&mut self, number: u64, content: u64, real: bool) -> Result<()> {
        let class = self.writer.map.class();
        let repository = self.writer.store.repository.clone();
        let ids = &repository.keys().ids;
        let size = self.writer.chunk_size();
        let (id, packed) = if real {
            let mut plain = vec![0; size];
            blake3::Hasher::new().update(&content.to_le_bytes()).finalize_xof().fill(&mut plain[..size / 2]);
            let (codec, packed) = self.packer.pack(&plain)?;
            (ids.chunk(class, &plain), (codec, packed.len(), packed.to_vec()))
        } else {
            let id = ids.chunk(class, &content.to_le_bytes());
            let more = usize::from(u16::from_le_bytes([id.bytes()[30], id.bytes()[31]])) % (size / 64);
            (id, (Codec::Lz4, size / 2 + more, Vec::new()))
        };
        let at = match self.writer.store.known(&id.short()) {
            Some(at) => at,
            None => self.append(&id, class, packed, size as u32)?,
        };
        self.writer.map.place(number, id.short(), at);
        Ok(())
    }

    /// Takes these chunks over from the parent.
    pub fn inherit(&mut self, chunks: Range<u64>) -> Result<()> {
        let bytes = (chunks.end - chunks.start) * self.writer.chunk_size() as u64;
        self.writer.inherit(chunks, bytes)
    }

    /// As [`SnapshotWriter::advance`].
    pub fn advance(&mut self, number: u64) -> Result<()> {
        self.writer.advance(number)
    }

    /// Commits a disk of so many chunks.
    pub fn commit(mut self, chunks: u64) -> Result<Snapshot> {
        self.finish()?;
        let size = chunks * self.writer.chunk_size() as u64;
        let source = "made up for a measurement: it does not restore".into();
        self.writer.commit(CommitInfo { size, source, ..CommitInfo::default() })
    }

    /// A place for a chunk, whose packed bytes are empty when it has none.
    fn append(
        &mut self,
        id: &ChunkId,
        class: u8,
        (codec, len, packed): (Codec, usize, Vec<u8>),
        plain: u32,
    ) -> Result<Location> {
        let len = len + TAG;
        let is_full =
            |open: &Open| open.end + len + Index::plain_len(open.entries.len() + 1) + TAG + TRAILER > self.capacity;
        if self.open.as_ref().is_some_and(is_full) {
            self.finish()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let at = Location {
            pack: open.id,
            epoch: open.epoch,
            ordinal: open.entries.len() as u32,
            offset: open.end as u32,
            len: len as u32,
            codec,
        };
        if !packed.is_empty() {
            let seal = ChunkSeal { ordinal: at.ordinal, id: id.short(), codec: codec as u8, plain, sealed: at.len };
            let place = &mut open.body[open.end..open.end + len];
            let (body, end) = place.split_at_mut(packed.len());
            body.copy_from_slice(&packed);
            end.copy_from_slice(&open.key.seal_chunk(&seal, body)?);
        }
        let Location { ordinal, offset, len, .. } = at;
        open.entries.push(Entry { id: *id, offset, len, plain, ordinal, codec, class, origin: 0 });
        open.end += len as usize;
        self.open = Some(open);
        Ok(at)
    }

    fn begin(&mut self) -> Result<Open> {
        let store = &self.writer.store;
        let (keys, rng) = (store.repository.keys(), store.repository.rng());
        let random = u64::from_le_bytes(clock::random(rng)?);
        let id = PackId { kind: PackKind::Data, session: store.session.id, seq: self.seq, random };
        self.seq += 1;
        let epoch = keys.epoch();
        let key = keys.pack(&id, epoch)?;
        // Pages that nobody writes to take no memory.
        let mut body = vec![0; self.capacity];
        body[..HEADER].copy_from_slice(&Header { epoch, pack: id, commitment: key.commitment }.encode());
        Ok(Open { id, epoch, key, body, end: HEADER, entries: Vec::new() })
    }

    /// Stores the pack that is open.
    fn finish(&mut self) -> Result<()> {
        let Some(Open { id, epoch, key, mut body, end, entries }) = self.open.take() else { return Ok(()) };
        let chunks = entries.iter().map(|e| (e.id.short(), e.len, e.codec)).collect();
        let count = entries.len();
        let index = key.seal_index(Index { origins: Vec::new(), entries }.encode())?;
        let trailer = Trailer::of(end, &index, count).encode();
        body[end..end + index.len()].copy_from_slice(&index);
        body[end + index.len()..end + index.len() + TRAILER].copy_from_slice(&trailer);
        body.truncate(end + index.len() + TRAILER);
        let rows = PackRows { pack: id, epoch, chunks };
        self.writer.store.send(SealedPack { id, body: body.into(), rows })
    }
}
