//! What is seen on a target where a filesystem or a table of partitions begins, also those in the partitions of the snapshot. A
//! restore that was interrupted leaves there zeros, bytes of its snapshot, and what it found. Anything else is of somebody who has
//! used the target since, and whose data the same command must not destroy only because it was once begun. Who uses a disk
//! without a trace at these places (a volume of LVM, a LUKS container) is not seen.

use crate::tree::inside::bytes::{Bytes, Window};
use crate::tree::inside::partitions;
use anyhow::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use wherry_repo::SnapshotReader;

/// What a disk writes at once (bytes): each is as it was before or as it was to be, also after a power failure.
const SECTOR: u64 = 512;

/// So many partitions are looked at: as many as a usual GPT has room for.
const MOST_PARTITIONS: usize = 128;

/// What was not zero at these places.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Where it is, and at most 4 KiB.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Seen {
    /// Looks at a target that exists, of `size` bytes, the first of which a snapshot takes.
    ///
    /// # Errors
    /// When it cannot be read, or the table of partitions of the snapshot cannot.
    pub(crate) fn on(target: &Path, size: u64, reader: &Arc<SnapshotReader>) -> Result<Self> {
        let mut parts = Vec::new();
        let table = partitions::read(&Window::whole(Arc::new(Content::of(reader))))?.unwrap_or_default();
        let starts: Vec<u64> = table.partitions.iter().take(MOST_PARTITIONS).map(|found| found.bytes.start).collect();
        let keep = |at, bytes: &[u8]| parts.push((at, bytes.to_vec()));
        wherry_block::look_at_places(target, size, reader.size(), &starts, keep)?;
        Ok(Self { parts })
    }

    /// Place and checksum of each part, for the note of a restore.
    pub(crate) fn checksums(&self) -> Vec<(u64, u32)> {
        self.parts.iter().map(|(at, bytes)| (*at, checksum(bytes))).collect()
    }

    /// The first byte of a part that is neither what was there `before` nor what the snapshot says or zero.
    ///
    /// # Errors
    /// When the snapshot cannot be read there.
    pub(crate) fn foreign(&self, reader: &Arc<SnapshotReader>, before: &[(u64, u32)]) -> Result<Option<u64>> {
        let before: HashMap<u64, u32> = before.iter().copied().collect();
        let content = Content::of(reader);
        let mut ours = [0; SECTOR as usize];
        for (at, bytes) in &self.parts {
            if before.get(at) == Some(&checksum(bytes)) {
                continue;
            }
            for (n, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                let at = at + n as u64 * SECTOR;
                if sector.iter().all(|byte| *byte == 0) {
                    continue;
                }
                if at >= reader.size() {
                    return Ok(Some(at));
                }
                let ours = &mut ours[..sector.len()];
                content.read(at, ours)?;
                if ours != sector {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }
}

/// The disk of a snapshot, one chunk at a time: who reads it goes up.
#[derive(Debug)]
struct Content {
    reader: Arc<SnapshotReader>,
    /// The chunk that was read last, and its number; empty when it is zero.
    last: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Content {
    fn of(reader: &Arc<SnapshotReader>) -> Self {
        Self { reader: reader.clone(), last: Mutex::default() }
    }
}

impl Bytes for Content {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> wherry_repo::Result<()> {
        let (unit, mut last) = (self.reader.chunk_size(), self.last.lock());
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (number, from) = (at / unit, (at % unit) as usize);
            if last.as_ref().is_none_or(|(known, _)| *known != number) {
                let chunk = self.reader.chunk(number)?.map(|chunk| self.reader.read_chunk(&chunk)).transpose()?;
                *last = Some((number, chunk.map_or_else(Vec::new, |chunk| chunk.into_inner())));
            }
            let len = (unit as usize - from).min(out.len() - done);
            let piece = &mut out[done..done + len];
            match last.as_ref().and_then(|(_, bytes)| bytes.get(from..from + len)) {
                Some(bytes) => piece.copy_from_slice(bytes),
                None => piece.fill(0),
            }
            done += len;
        }
        Ok(())
    }
}

/// Zeros at the end do not count: a file that gets longer has more of them.
fn checksum(bytes: &[u8]) -> u32 {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    crc32fast::hash(&bytes[..end])
}
