//! What is seen on a target where a filesystem or a table of partitions begins. A restore that was interrupted leaves there zeros,
//! bytes of its snapshot, and what it found. Anything else is of somebody who has used the target since, and whose data the same
//! command must not destroy only because it was once begun.

use anyhow::Result;
use std::collections::HashMap;
use std::path::Path;
use wherry_repo::SnapshotReader;

/// What a disk writes at once (bytes): each is as it was before or as it was to be, also after a power failure.
const SECTOR: u64 = 512;

/// What was not zero at these places.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Where it is, and at most 4 KiB.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Seen {
    /// Looks at a target that exists, of `size` bytes, of which a snapshot takes the first `need`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn on(target: &Path, size: u64, need: u64) -> Result<Self> {
        let mut parts = Vec::new();
        wherry_block::look_at_places(target, size, need, |at, bytes| parts.push((at, bytes.to_vec())))?;
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
    pub(crate) fn foreign(&self, reader: &SnapshotReader, before: &[(u64, u32)]) -> Result<Option<u64>> {
        let before: HashMap<u64, u32> = before.iter().copied().collect();
        let unit = reader.chunk_size();
        // Parts ascend within a place: one chunk at a time is enough.
        let mut chunk: Option<(u64, Vec<u8>)> = None;
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
                let number = at / unit;
                if chunk.as_ref().is_none_or(|(known, _)| *known != number) {
                    let bytes = match reader.chunk(number)? {
                        Some(chunk) => reader.read_chunk(&chunk)?.into_inner(),
                        None => Vec::new(),
                    };
                    chunk = Some((number, bytes));
                }
                let from = (at - number * unit) as usize;
                let is_ours =
                    chunk.as_ref().and_then(|(_, bytes)| bytes.get(from..from + sector.len())) == Some(sector);
                if !is_ours {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }
}

/// Zeros at the end do not count: a file that gets longer has more of them.
fn checksum(bytes: &[u8]) -> u32 {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    crc32fast::hash(&bytes[..end])
}
