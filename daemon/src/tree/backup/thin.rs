//! Shared chunks of which a tree uses little: the next run stores what is left in them anew, else one small file could keep
//! 256 KiB for ever. Section *Record of a tree* of `repo/docs/format.md`.

use std::collections::HashMap;
use wherry_repo::ShortId;
use wherry_repo::format::tree::Placed;

/// So many shared chunks are looked at; of those that come later nobody asks how much is used.
const MOST: usize = 65_536;

/// So many are named at most.
const NAMED: usize = 4096;

/// How much of each shared chunk is used.
#[derive(Debug, Default)]
pub(super) struct Thin(HashMap<ShortId, (u32, u64)>);

impl Thin {
    /// So many bytes of the chunk are a file of this tree.
    pub(super) fn note(&mut self, chunk: &Placed, bytes: u64) {
        let room = self.0.len() < MOST;
        match self.0.entry(chunk.to.id) {
            std::collections::hash_map::Entry::Occupied(mut found) => found.get_mut().1 += bytes,
            std::collections::hash_map::Entry::Vacant(free) if room => {
                free.insert((chunk.to.plain, bytes));
            }
            std::collections::hash_map::Entry::Vacant(_) => {}
        }
    }

    /// Chunks of which less than a quarter is used, those with the most waste first.
    pub(super) fn ids(self) -> Vec<ShortId> {
        let mut thin: Vec<_> = self.0.into_iter().filter(|(_, (plain, used))| used * 4 < u64::from(*plain)).collect();
        // By id where the waste is the same: the same tree says the same.
        thin.sort_unstable_by_key(|(id, (plain, used))| (std::cmp::Reverse(u64::from(*plain) - used), *id));
        thin.truncate(NAMED);
        thin.into_iter().map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_repo::format::tree::{Ref, SHARED};
    use wherry_repo::{Codec, Location, PackId, PackKind, SessionId};

    fn chunk(n: u8, plain: u32) -> Placed {
        let pack = PackId { kind: PackKind::Data, session: SessionId::new([1; 16]), seq: 0, random: 7 };
        let at = Location { pack, epoch: 0, ordinal: n.into(), offset: 64, len: 100, codec: Codec::Raw };
        Placed { to: Ref { id: ShortId::new([n; 16]), class: SHARED, plain }, at }
    }

    #[test]
    fn below_a_quarter_is_thin() {
        let mut thin = Thin::default();
        for (n, plain, used) in [(1, 1000, &[100, 149][..]), (2, 1000, &[249, 1]), (3, 9000, &[1]), (4, 100, &[100])] {
            used.iter().for_each(|bytes| thin.note(&chunk(n, plain), *bytes));
        }
        assert_eq!(thin.ids(), [ShortId::new([3; 16]), ShortId::new([1; 16])]);
    }
}
