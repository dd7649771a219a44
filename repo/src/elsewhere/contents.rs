//! What a pack holds. Its own index says so; where that cannot be read, the rows do that an index segment has of it.

use super::Copy;
use super::table::rows_of;
use crate::format::pack::Index;
use crate::format::segment::PackRows;
use crate::id::{PackId, PackKind, ShortId};
use crate::pack::read_index;
use crate::storage::{Key, keys};
use crate::{ErrorKind, Repository, Result};
use parking_lot::Mutex;
use std::collections::HashMap;

/// What a pack holds, and where in it.
#[derive(Debug)]
pub(super) enum Contents {
    /// Its own index, and its key epoch.
    Index(Index, u32),
    /// All of its chunks, as a segment names them: without their classes and the lengths of their plaintexts.
    Rows(PackRows),
}

impl Contents {
    pub(super) fn ids(&self) -> Vec<ShortId> {
        match self {
            Self::Index(index, _) => index.entries.iter().map(|entry| entry.id.short()).collect(),
            Self::Rows(rows) => rows.chunks.iter().map(|(id, ..)| *id).collect(),
        }
    }

    pub(super) fn holds(&self, id: &ShortId) -> bool {
        match self {
            Self::Index(index, _) => index.entries.iter().any(|entry| entry.id.short() == *id),
            Self::Rows(rows) => rows.chunks.iter().any(|(known, ..)| known == id),
        }
    }

    /// The chunks and nodes of this id and class, in the pack that this is of. Rows name chunks alone.
    pub(super) fn copies(&self, pack: &PackId, id: &ShortId, class: u8) -> Vec<Copy> {
        let pack = *pack;
        match self {
            Self::Index(index, epoch) => {
                let entries = (0..).zip(&index.entries);
                let found = entries.filter(|(_, entry)| entry.id.short() == *id && entry.class == class);
                found
                    .filter_map(|(place, entry)| {
                        let at = index.location(entry, &pack, *epoch)?;
                        Some(Copy { pack, place, at, plain: entry.plain })
                    })
                    .collect()
            }
            Self::Rows(rows) => {
                let found = rows.locations().filter(|(known, _)| class < 128 && known == id);
                found.map(|(_, at)| Copy { pack, place: at.ordinal, at, plain: 0 }).collect()
            }
        }
    }
}

/// Packs that are there, or may be, and whose own index could not be read; with the segment that has rows of them, if one has.
#[derive(Debug, Default)]
pub(super) struct Unread(Mutex<HashMap<PackId, Option<Key>>>);

impl Unread {
    /// All of them.
    pub(super) fn all(&self) -> Vec<PackId> {
        self.0.lock().keys().copied().collect()
    }

    /// Those of which nobody can tell what is in them.
    pub(super) fn unknown(&self) -> Vec<PackId> {
        self.0.lock().iter().filter(|(_, segment)| segment.is_none()).map(|(pack, _)| *pack).collect()
    }

    /// What a pack holds; `None` when it is gone, or nobody can tell.
    pub(super) fn contents(&self, repository: &Repository, pack: &PackId) -> Result<Option<Contents>> {
        match read_index(repository.storage(), repository.keys(), pack) {
            Ok((index, epoch, _)) => Ok(Some(Contents::Index(index, epoch))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) if repository.is_damage(&e) => Ok(self.rows(repository, pack)?.map(Contents::Rows)),
            Err(e) => Err(e),
        }
    }

    /// What a segment says of such a pack. All segments are looked through once for each pack, by one thread at a time: others mostly
    /// wait for the same.
    fn rows(&self, repository: &Repository, pack: &PackId) -> Result<Option<PackRows>> {
        let mut known = self.0.lock();
        match known.get(pack) {
            Some(None) => return Ok(None),
            Some(Some(segment)) => {
                if let Some((_, rows)) = rows_of(repository, pack, vec![segment.clone()])? {
                    return Ok(Some(rows));
                }
                // A collector has put it together with others.
            }
            None => {}
        }
        let found = match pack.kind {
            PackKind::Data => rows_of(repository, pack, repository.list(keys::IDX)?)?,
            PackKind::Meta => None,
        };
        let (segment, rows) = found.unzip();
        known.insert(*pack, segment);
        Ok(rows)
    }
}
