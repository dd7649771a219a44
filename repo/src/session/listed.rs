//! The packs there are when a session begins, and how long each is (W8): of millions of packs, so as little as will do.

use crate::format::pack::{MIN_PACK, TRAILER};
use crate::id::{Location, PackId, PackKind, SessionId};
use crate::storage::keys;
use crate::{Repository, Result};

/// Above so many packs it is not kept what there is (12 bytes each).
const MOST: usize = 8 << 20;

/// What a listing shows of all packs.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The random part of a name and the size in bytes, big-endian, sorted.
    packs: Vec<[u8; 12]>,
}

impl Listed {
    fn add(&mut self, pack: &PackId, size: u64) {
        let mut row = [0; 12];
        row[..8].copy_from_slice(&pack.random.to_be_bytes());
        // None is longer than 256 MiB.
        row[8..].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        self.packs.push(row);
    }

    /// Whether the pack is there and was not cut before the end of what lies at this place: behind it there is a trailer at least.
    pub(super) fn holds(&self, at: &Location) -> bool {
        let random = at.pack.random.to_be_bytes();
        let row = self.packs.get(self.packs.partition_point(|row| row[..8] < random[..]));
        row.and_then(|row| row.strip_prefix(&random)).and_then(|size| size.try_into().ok()).is_some_and(|size| {
            let size = u64::from(u32::from_be_bytes(size));
            size >= MIN_PACK && at.end() + TRAILER as u64 <= size
        })
    }
}

/// All packs there are, or `None` when there are too many to keep; and the packs of chunks that these dead sessions left.
pub(super) fn list_packs(repository: &Repository, dead: &[SessionId]) -> Result<(Option<Listed>, Vec<PackId>)> {
    let (mut listed, mut left, mut cut) = (Listed::default(), Vec::new(), 0);
    for prefix in [keys::PACKS, keys::META] {
        repository.storage().list(prefix, &mut |object| {
            if let Some(id) = keys::parse_pack(&object.key) {
                if listed.packs.len() <= MOST {
                    listed.add(&id, object.size);
                }
                cut += usize::from(object.size < MIN_PACK);
                left.extend((id.kind == PackKind::Data && dead.contains(&id.session)).then_some(id));
            }
            Ok(())
        })?;
    }
    if cut > 0 {
        tracing::warn!("{cut} packs were cut, and nothing is left in them: `wherry check` says whom that hits");
    }
    if listed.packs.len() > MOST {
        tracing::warn!(
            "more than {MOST} packs: whether each pack that is built upon still exists is left to `wherry check`"
        );
        return Ok((None, left));
    }
    listed.packs.sort_unstable();
    Ok((Some(listed), left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Codec;

    #[test]
    fn what_lies_behind_the_end_of_a_pack_that_was_cut_is_not_there() {
        let pack = |random| PackId { kind: PackKind::Data, session: SessionId::new([1; 16]), seq: 0, random };
        let mut listed = Listed::default();
        for (random, size) in [(7, 1000), (3, 0), (u64::MAX, 127), (5, 128), (0, u64::MAX), (9, 1000), (9, 300)] {
            listed.add(&pack(random), size);
        }
        listed.packs.sort_unstable();
        let holds = |random, offset, len| {
            let at = Location { pack: pack(random), epoch: 0, ordinal: 0, offset, len, codec: Codec::Raw };
            listed.holds(&at)
        };
        assert!(
            holds(7, 64, 1000 - 128) && !holds(7, 64, 1000 - 127) && !holds(7, 1000, 16),
            "the trailer has 64 bytes"
        );
        assert!(!holds(3, 64, 16) && !holds(u64::MAX, 0, 0) && holds(5, 64, 0) && !holds(5, 64, 1));
        assert!(holds(0, u32::MAX - 200, 100) && !holds(0, u32::MAX, u32::MAX), "nothing wraps");
        assert!(!holds(8, 64, 16) && !holds(6, 64, 16), "not listed");
        assert!(holds(9, 64, 100) && !holds(9, 64, 500), "listed twice: the less counts");
    }
}
