//! What a row of the index is, and its bytes in the database.
//!
//! A row that is wrong and believed would let a backup refer to bytes that are not there. So each stored copy carries a
//! check of its own, over everything that a [`Location`] is made of: the chunk's id, the pack's full name and key epoch,
//! ordinal, offset, length and codec. It finds flips that a block checksum misses or that happened in memory before the
//! block was written, a row under another key, and a pack number that has come to mean another pack. It is a CRC: it
//! guards against accidents, not against somebody who may write the cache directory.

use crate::format::segment::PackRows;
use crate::{Codec, Error, Location, PackId, Result, ShortId};

/// One chunk of a pack, as [`super::ChunkIndex::insert`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The chunk.
    pub id: ShortId,
    /// Its place in the pack, counted from 0.
    pub ordinal: u32,
    /// First byte of the sealed chunk in the pack object.
    pub offset: u32,
    /// Sealed length in bytes, tag included; below 16 MiB.
    pub len: u32,
    /// How the plaintext was packed.
    pub codec: Codec,
}

/// A pack as rows refer to it: by a number that is never given to another pack in the life of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) number: u32,
    pub(super) id: PackId,
    pub(super) epoch: u32,
}

/// Copies of one chunk that are kept: the newest. More exist only if many writers raced for the same new chunk.
pub(super) const MAX_COPIES: usize = 8;

/// Length in bytes of one stored copy: pack number, ordinal, offset, length (24 bits) with codec (8 bits), check; all
/// little-endian. The value of a chunk's key is its copies one after the other, newest first.
pub(super) const COPY_LEN: usize = 20;

/// One copy of a chunk before its pack is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) pack: u32,
    pub(super) ordinal: u32,
    pub(super) offset: u32,
    pub(super) len_codec: u32,
}

impl Row {
    /// The rows of a pack, as a segment has them.
    pub(crate) fn all(pack: &PackRows) -> Vec<Self> {
        let row = |(id, at): (ShortId, Location)| {
            let Location { ordinal, offset, len, codec, .. } = at;
            Self { id, ordinal, offset, len, codec }
        };
        pack.locations().map(row).collect()
    }

    /// The copy this row stands for, once it lies in the pack of this number. `Invalid` when the length has no room.
    pub(super) fn copy_in(&self, pack: u32) -> Result<Copy> {
        if self.len >> 24 != 0 {
            return Err(Error::invalid(format!(
                "a sealed chunk of {} bytes does not fit the index (below 16 MiB); this is a mistake in wherry",
                self.len
            )));
        }
        let len_codec = self.len | (self.codec as u32) << 24;
        Ok(Copy { pack, ordinal: self.ordinal, offset: self.offset, len_codec })
    }
}

impl Copy {
    /// The full location; `None` when the codec is none that this build knows.
    pub(super) fn location(&self, pack: &Pack) -> Option<Location> {
        Some(Location {
            pack: pack.id,
            epoch: pack.epoch,
            ordinal: self.ordinal,
            offset: self.offset,
            len: self.len_codec & 0x00ff_ffff,
            codec: Codec::from_u8(self.len_codec.to_le_bytes()[3])?,
        })
    }

    fn fields(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[0..4].copy_from_slice(&self.pack.to_le_bytes());
        out[4..8].copy_from_slice(&self.ordinal.to_le_bytes());
        out[8..12].copy_from_slice(&self.offset.to_le_bytes());
        out[12..16].copy_from_slice(&self.len_codec.to_le_bytes());
        out
    }

    fn check(&self, id: &ShortId, pack: &Pack) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(id.bytes());
        crc.update(&pack.id.to_bytes());
        crc.update(&pack.epoch.to_le_bytes());
        crc.update(&self.fields());
        crc.finalize()
    }

    /// Its stored bytes.
    pub(super) fn encode(&self, id: &ShortId, pack: &Pack) -> [u8; COPY_LEN] {
        let mut out = [0; COPY_LEN];
        out[..16].copy_from_slice(&self.fields());
        out[16..].copy_from_slice(&self.check(id, pack).to_le_bytes());
        out
    }

    /// The reverse of [`Copy::encode`], before the check: that needs the pack, see [`Copy::verify`].
    pub(super) fn decode(raw: &[u8; COPY_LEN]) -> (Self, u32) {
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        (Self { pack: word(0), ordinal: word(4), offset: word(8), len_codec: word(12) }, word(16))
    }

    /// The location, when `check` shows that these fields were written for this chunk in this pack.
    pub(super) fn verify(&self, check: u32, id: &ShortId, pack: &Pack) -> Option<Location> {
        if self.pack != pack.number || self.check(id, pack) != check {
            return None;
        }
        self.location(pack)
    }
}

/// Splits a chunk's value into its copies; `None` when its length is none that was written.
pub(super) fn copies(value: &[u8]) -> Option<&[[u8; COPY_LEN]]> {
    let (copies, rest) = value.as_chunks::<COPY_LEN>();
    (rest.is_empty() && !copies.is_empty() && copies.len() <= MAX_COPIES).then_some(copies)
}

/// `body` followed by a check over `key` and `body`: how all that is not a chunk's row is stored.
pub(super) fn checked(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 4);
    out.extend_from_slice(body);
    out.extend_from_slice(&crc(key, body).to_le_bytes());
    out
}

/// The body of what [`checked`] made for this key; `None` when it is not that.
pub(super) fn unchecked<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (body, check) = value.split_last_chunk::<4>()?;
    (crc(key, body) == u32::from_le_bytes(*check)).then_some(body)
}

fn crc(key: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(body);
    crc.finalize()
}
