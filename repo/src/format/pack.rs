//! Header, index and trailer of a pack.

use super::Fields;
use crate::id::{ChunkId, Codec, Location, PackId};
use crate::{Error, Result};

/// Length in bytes of a pack's header.
pub const HEADER: usize = 64;
/// Length in bytes of a pack's trailer.
pub const TRAILER: usize = 64;
/// A pack that is shorter (bytes) was cut, and holds nothing.
pub const MIN_PACK: u64 = (HEADER + TRAILER) as u64;
/// A pack is never longer than this (bytes).
pub const MAX_PACK: u64 = 256 << 20;
/// Length in bytes of an index entry.
pub const ENTRY: usize = 52;
const MAGIC: &[u8; 8] = b"WHRYPAK1";
const END: &[u8; 8] = b"WHRYEND1";

/// First bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Key epoch its chunks are sealed under.
    pub epoch: u32,
    /// Its name.
    pub pack: PackId,
    /// Tells the right key from a wrong one.
    pub commitment: [u8; 16],
}

impl Header {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        out[12..41].copy_from_slice(&self.pack.to_bytes());
        out[44..60].copy_from_slice(&self.commitment);
        let crc = crc32fast::hash(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The reverse.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut f = Fields::new("a pack's header", bytes);
        if bytes.len() != HEADER || f.array::<8>()? != *MAGIC {
            return Err(f.bad("it does not begin as a pack"));
        }
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(f.bad("its checksum does not fit"));
        }
        let epoch = f.u32()?;
        let pack = PackId::from_bytes(&f.array()?).ok_or_else(|| f.bad("an unknown kind of pack"))?;
        f.zeros(3)?;
        Ok(Self { epoch, pack, commitment: f.array()? })
    }
}

/// Last bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the sealed index begins.
    pub index_offset: u32,
    /// Length in bytes of the sealed index.
    pub index_len: u32,
    /// Chunks in the pack.
    pub entries: u32,
    /// Length in bytes of the whole pack.
    pub pack_len: u32,
    /// First half of BLAKE3 of the sealed index.
    pub index_hash: [u8; 16],
}

impl Trailer {
    /// Of a pack whose sealed index, of so many entries, begins at byte `start`.
    pub fn of(start: usize, index: &[u8], entries: usize) -> Self {
        let mut index_hash = [0; 16];
        index_hash.copy_from_slice(&blake3::hash(index).as_bytes()[..16]);
        Self {
            index_offset: start as u32,
            index_len: index.len() as u32,
            entries: entries as u32,
            pack_len: (start + index.len() + TRAILER) as u32,
            index_hash,
        }
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; TRAILER] {
        let mut out = [0; TRAILER];
        out[..8].copy_from_slice(END);
        for (i, n) in [self.index_offset, self.index_len, self.entries, self.pack_len].into_iter().enumerate() {
            out[8 + 4 * i..12 + 4 * i].copy_from_slice(&n.to_le_bytes());
        }
        out[24..40].copy_from_slice(&self.index_hash);
        let crc = crc32fast::hash(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The reverse; `size` is the length in bytes of the object it was found at the end of.
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self> {
        let mut f = Fields::new("a pack's trailer", bytes);
        if bytes.len() != TRAILER || f.array::<8>()? != *END {
            return Err(f.bad("the object does not end as a pack: it was cut or overwritten"));
        }
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(f.bad("its checksum does not fit"));
        }
        let trailer = Self {
            index_offset: f.u32()?,
            index_len: f.u32()?,
            entries: f.u32()?,
            pack_len: f.u32()?,
            index_hash: f.array()?,
        };
        f.zeros(20)?;
        if size > MAX_PACK {
            return Err(f.bad("the pack is longer than any may be"));
        }
        let end = u64::from(trailer.index_offset) + u64::from(trailer.index_len) + TRAILER as u64;
        if u64::from(trailer.pack_len) != size || end != size || (trailer.index_offset as usize) < HEADER {
            return Err(f.bad("its lengths do not fit the object"));
        }
        Ok(trailer)
    }
}

/// One chunk in a pack's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full id of the chunk or node.
    pub id: ChunkId,
    /// First byte in the pack.
    pub offset: u32,
    /// Sealed length in bytes, tag included.
    pub len: u32,
    /// Length of the plaintext in bytes.
    pub plain: u32,
    /// The ordinal it was sealed with.
    pub ordinal: u32,
    /// How it is packed.
    pub codec: Codec,
    /// Size class, or 128 + level of a node.
    pub class: u8,
    /// 0: sealed in this pack; n: copied from origin n - 1.
    pub origin: u16,
}

/// The index of a pack: what it holds, in the order of offsets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Index {
    /// Packs and their key epochs that chunks were copied from.
    pub origins: Vec<(PackId, u32)>,
    /// The chunks.
    pub entries: Vec<Entry>,
}

impl Index {
    /// Where the chunk of an entry of `pack`, sealed under `epoch`, lies, and what it was sealed for; `None` when its origin
    /// is not in the index.
    pub fn location(&self, entry: &Entry, pack: &PackId, epoch: u32) -> Option<Location> {
        let (pack, epoch) = match entry.origin {
            0 => (*pack, epoch),
            n => *self.origins.get(usize::from(n) - 1)?,
        };
        let Entry { ordinal, offset, len, codec, .. } = *entry;
        Some(Location { pack, epoch, ordinal, offset, len, codec })
    }

    /// Length in bytes of the plain index of `entries` chunks without origins.
    pub const fn plain_len(entries: usize) -> usize {
        6 + entries * ENTRY
    }

    /// The bytes, before sealing.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::plain_len(self.entries.len()) + crate::crypto::TAG);
        out.extend_from_slice(&(self.origins.len() as u16).to_le_bytes());
        for (pack, epoch) in &self.origins {
            out.extend_from_slice(&pack.to_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for e in &self.entries {
            out.extend_from_slice(e.id.bytes());
            for n in [e.offset, e.len, e.plain, e.ordinal] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            out.extend_from_slice(&[e.codec as u8, e.class]);
            out.extend_from_slice(&e.origin.to_le_bytes());
        }
        out
    }

    /// The reverse. `end` is the offset of the sealed index: chunks fill the bytes from the header up to it.
    pub fn decode(bytes: &[u8], end: u32) -> Result<Self> {
        let mut f = Fields::new("a pack's index", bytes);
        let origins = usize::from(f.u16()?);
        if f.remaining() < origins * 33 {
            return Err(f.bad("it ends too early"));
        }
        let origins = (0..origins)
            .map(|_| Ok((PackId::from_bytes(&f.array()?).ok_or_else(|| f.bad("an unknown kind of pack"))?, f.u32()?)))
            .collect::<Result<Vec<_>>>()?;
        let count = f.u32()? as usize;
        if f.remaining() != count.checked_mul(ENTRY).ok_or_else(|| f.bad("too many entries"))? {
            return Err(f.bad("its length does not fit its number of entries"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut next = HEADER as u32;
        for place in 0..count as u32 {
            let entry = Entry {
                id: ChunkId::new(f.array()?),
                offset: f.u32()?,
                len: f.u32()?,
                plain: f.u32()?,
                ordinal: f.u32()?,
                codec: Codec::from_u8(f.u8()?).ok_or_else(|| f.bad("an unknown codec"))?,
                class: f.u8()?,
                origin: f.u16()?,
            };
            let own_place = entry.origin != 0 || entry.ordinal == place;
            if entry.offset != next || usize::from(entry.origin) > origins.len() || !own_place {
                return Err(f.bad("an entry is not where it belongs"));
            }
            next = next.checked_add(entry.len).ok_or_else(|| f.bad("its chunks are too long"))?;
            entries.push(entry);
        }
        if next != end {
            return Err(f.bad("its chunks do not fill the pack"));
        }
        f.end()?;
        Ok(Self { origins, entries })
    }
}

/// The error of a chunk or node whose tag or id does not fit.
pub(crate) fn damaged_chunk(what: &str, why: &str) -> Error {
    Error::corrupt(format!("{what} is damaged: {why}"))
}
