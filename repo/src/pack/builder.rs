//! A pack while it is filled by several threads: a place is reserved in order, the sealed bytes follow when they are
//! ready, and whoever completes the pack gets it.

use super::pool::{PackBuffer, PackPool};
use crate::crypto::{ChunkSeal, PackKey, TAG};
use crate::format::pack::{Entry, HEADER, Header, Index, TRAILER, Trailer};
use crate::format::segment::PackRows;
use crate::id::{ChunkId, Codec, Location, PackId, PackKind, SessionId};
use crate::keys::Keys;
use crate::{Error, Result, Rng, clock};
use bytes::Bytes;
use parking_lot::Mutex;

/// A pack that is being filled.
#[derive(Debug)]
pub(crate) struct OpenPack {
    pub(crate) id: PackId,
    epoch: u32,
    key: PackKey,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buffer: PackBuffer,
    entries: Vec<Entry>,
    end: usize,
    pending: usize,
    closed: bool,
}

/// A complete pack, ready to be stored.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub(crate) id: PackId,
    pub(crate) body: Bytes,
    pub(crate) rows: PackRows,
}

/// What is put into a pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) id: ChunkId,
    pub(crate) class: u8,
    pub(crate) codec: Codec,
    /// Length of the plaintext in bytes.
    pub(crate) plain: u32,
    pub(crate) packed: &'a [u8],
}

impl OpenPack {
    /// Draws a name, which seals one content ever, and takes a buffer (waits for one). `Cancelled` when none is given any more.
    pub(crate) fn new(
        kind: PackKind,
        session: SessionId,
        seq: u32,
        keys: &Keys,
        rng: &dyn Rng,
        pool: &PackPool,
    ) -> Result<Self> {
        let random = u64::from_le_bytes(clock::random(rng)?);
        let id = PackId { kind, session, seq, random };
        let epoch = keys.epoch_to_seal()?;
        let key = keys.pack(&id, epoch)?;
        let mut buffer = pool.take()?;
        let header = Header { epoch, pack: id, commitment: key.commitment };
        buffer.all()[..HEADER].copy_from_slice(&header.encode());
        let state = State { buffer, entries: Vec::new(), end: HEADER, pending: 0, closed: false };
        Ok(Self { id, epoch, key, state: Mutex::new(state) })
    }

    /// A place for the piece: its ordinal and offset are fixed from now on. `None` when it does not fit any more.
    pub(crate) fn reserve(&self, piece: &Piece<'_>, capacity: usize) -> Option<Location> {
        let mut state = self.state.lock();
        let len = piece.packed.len() + TAG;
        let index = Index::plain_len(state.entries.len() + 1) + TAG + TRAILER;
        if state.closed || state.end + len + index > capacity {
            return None;
        }
        let at = Location {
            pack: self.id,
            epoch: self.epoch,
            ordinal: state.entries.len() as u32,
            offset: state.end as u32,
            len: len as u32,
            codec: piece.codec,
        };
        state.entries.push(Entry {
            id: piece.id,
            offset: at.offset,
            len: at.len,
            plain: piece.plain,
            ordinal: at.ordinal,
            codec: at.codec,
            class: piece.class,
            origin: 0,
        });
        state.end += len;
        state.pending += 1;
        Some(at)
    }

    /// Seals the piece into its place; `scratch` is overwritten. True when this completed a closed pack.
    pub(crate) fn fill(&self, at: &Location, piece: &Piece<'_>, scratch: &mut Vec<u8>) -> Result<bool> {
        scratch.clear();
        scratch.extend_from_slice(piece.packed);
        let seal = ChunkSeal {
            ordinal: at.ordinal,
            id: piece.id.short(),
            codec: piece.codec as u8,
            plain: piece.plain,
            sealed: at.len,
        };
        let tag = self.key.seal_chunk(&seal, scratch)?;
        scratch.extend_from_slice(&tag);
        let mut state = self.state.lock();
        let offset = at.offset as usize;
        state.buffer.all()[offset..offset + scratch.len()].copy_from_slice(scratch);
        state.pending -= 1;
        Ok(state.closed && state.pending == 0)
    }

    /// Takes no more pieces. True when none is pending, so that the caller must finish the pack.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.closed = true;
        state.pending == 0
    }

    /// Index and trailer; called once, by whom [`fill`](Self::fill) or [`close`](Self::close) told so.
    pub(crate) fn finish(&self, pool: &PackPool) -> Result<SealedPack> {
        let mut state = self.state.lock();
        if state.entries.is_empty() || state.pending > 0 || !state.closed {
            return Err(Error::internal("a pack was finished that is not complete"));
        }
        let entries = std::mem::take(&mut state.entries);
        let chunks = entries.iter().map(|e| (e.id.short(), e.len, e.codec)).collect();
        let count = entries.len();
        let index = self.key.seal_index(Index { origins: Vec::new(), entries }.encode())?;
        let (start, end) = (state.end, state.end + index.len());
        let trailer = Trailer::of(start, &index, count);
        if end + TRAILER > pool.capacity() {
            return Err(Error::internal("a pack is longer than its buffer"));
        }
        state.buffer.all()[start..end].copy_from_slice(&index);
        state.buffer.all()[end..end + TRAILER].copy_from_slice(&trailer.encode());
        state.buffer.set_len(end + TRAILER);
        let empty = state.buffer.give_up();
        let body = Bytes::from_owner(std::mem::replace(&mut state.buffer, empty));
        Ok(SealedPack { id: self.id, body, rows: PackRows { pack: self.id, epoch: self.epoch, chunks } })
    }
}
