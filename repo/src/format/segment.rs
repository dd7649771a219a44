//! Index segments: which chunks a session's packs hold, without reading the packs. Each is also a checkpoint.

use super::Fields;
use super::pack::HEADER;
use crate::Result;
use crate::id::{Codec, Location, PackId, ShortId};

/// One pack's chunks, in ordinal order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRows {
    /// The pack; a data pack without origins.
    pub pack: PackId,
    /// Its key epoch.
    pub epoch: u32,
    /// Short id, sealed length in bytes, codec.
    pub chunks: Vec<(ShortId, u32, Codec)>,
}

impl PackRows {
    /// Where each chunk lies.
    pub fn locations(&self) -> impl Iterator<Item = (ShortId, Location)> {
        let mut offset = HEADER as u32;
        self.chunks.iter().enumerate().map(move |(n, (id, len, codec))| {
            let at =
                Location { pack: self.pack, epoch: self.epoch, ordinal: n as u32, offset, len: *len, codec: *codec };
            offset = offset.saturating_add(*len);
            (*id, at)
        })
    }
}

/// The body of an index segment.
pub fn encode(packs: &[PackRows]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0];
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    for rows in packs {
        out.extend_from_slice(&rows.pack.to_bytes());
        out.extend_from_slice(&rows.epoch.to_le_bytes());
        out.push(0);
        out.extend_from_slice(&(rows.chunks.len() as u32).to_le_bytes());
        for (id, len, codec) in &rows.chunks {
            out.extend_from_slice(id.bytes());
            out.extend_from_slice(&len.to_le_bytes()[..3]);
            out.push(*codec as u8);
        }
    }
    out
}

/// Bytes of such a body.
pub fn len(packs: &[PackRows]) -> usize {
    8 + packs.iter().map(|rows| PackId::LEN + 9 + 20 * rows.chunks.len()).sum::<usize>()
}

/// The reverse.
pub fn decode(bytes: &[u8]) -> Result<Vec<PackRows>> {
    let mut f = Fields::new("an index segment", bytes);
    if f.u8()? != 1 {
        return Err(f.bad("its version is unknown"));
    }
    f.zeros(3)?;
    let packs = f.u32()? as usize;
    let mut out = Vec::new();
    for _ in 0..packs {
        let pack = PackId::from_bytes(&f.array()?).ok_or_else(|| f.bad("an unknown kind of pack"))?;
        let epoch = f.u32()?;
        f.zeros(1)?;
        let count = f.u32()? as usize;
        if f.remaining() / 20 < count {
            return Err(f.bad("it ends too early"));
        }
        let mut chunks = Vec::with_capacity(count);
        let mut end = HEADER as u64;
        for _ in 0..count {
            let id = ShortId::new(f.array()?);
            let len = f.u24()?;
            let codec = Codec::from_u8(f.u8()?).ok_or_else(|| f.bad("an unknown codec"))?;
            end += u64::from(len);
            chunks.push((id, len, codec));
        }
        if end > super::pack::MAX_PACK {
            return Err(f.bad("a pack is too long"));
        }
        out.push(PackRows { pack, epoch, chunks });
    }
    f.end()?;
    Ok(out)
}
