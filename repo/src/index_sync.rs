//! Bringing the local index up to what the repository holds: index segments it has not taken in, and the trailers of
//! packs that no segment names.

use crate::format::{records::Kind, segment};
use crate::id::{PackKind, SessionId};
use crate::index::{ChunkIndex, Row};
use crate::pack::read_index;
use crate::storage::{Key, keys};
use crate::{ErrorKind, Repository, Result};
use std::collections::HashSet;

/// What a synchronisation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Index segments taken in.
    pub segments: usize,
    /// Packs whose own index was read.
    pub packs: usize,
    /// Segments or packs that are damaged and were left out.
    pub damaged: usize,
}

impl ChunkIndex {
    /// Takes in what the index lacks. With `trailers` also packs that no segment names, from their own index: for an index
    /// that is new, or when segments were lost.
    pub fn synchronise(&self, repository: &Repository, trailers: bool) -> Result<Synced> {
        let mut synced = Synced::default();
        let mut named = HashSet::new();
        for key in repository.list(keys::IDX)? {
            if !trailers && self.is_covered(key.as_str()).unwrap_or(false) {
                continue;
            }
            match take_segment(repository, self, &key, &mut named) {
                Ok(()) => synced.segments += 1,
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    tracing::warn!("{key} is left out of the chunk index: {e}");
                    synced.damaged += 1;
                }
                Err(e) => return Err(e),
            }
        }
        if trailers || synced.damaged > 0 {
            take_trailers(repository, self, &mut synced, |id| !named.contains(&id.random))?;
        }
        Ok(synced)
    }
}

/// A3, A4: packs of dead sessions become ordinary hits. Those a checkpoint names are in its segment, the others have
/// their own index.
pub(crate) fn adopt(repository: &Repository, index: &ChunkIndex, dead: &[SessionId]) -> Result<()> {
    if dead.is_empty() {
        return Ok(());
    }
    let mut named = HashSet::new();
    let dead: HashSet<_> = dead.iter().copied().collect();
    for key in repository.list(keys::IDX)? {
        if keys::parse_segment(&key).is_some_and(|(id, _)| dead.contains(&id)) {
            match take_segment(repository, index, &key, &mut named) {
                Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => return Err(e),
                _ => {}
            }
        }
    }
    let mine = |id: &crate::PackId| dead.contains(&id.session) && !named.contains(&id.random);
    take_trailers(repository, index, &mut Synced::default(), mine)
}

fn take_segment(repository: &Repository, index: &ChunkIndex, key: &Key, named: &mut HashSet<u64>) -> Result<()> {
    let bytes = repository.storage().get(key)?;
    let body = repository.keys().open_record(Kind::Segment, key, &bytes)?;
    for rows in segment::decode(&body).map_err(|e| e.with_object(key))? {
        let entries: Vec<Row> = rows
            .locations()
            .map(|(id, at)| Row { id, ordinal: at.ordinal, offset: at.offset, len: at.len, codec: at.codec })
            .collect();
        named.insert(rows.pack.random);
        take_rows(index, &rows.pack, rows.epoch, &entries);
    }
    if let Err(e) = index.cover(key.as_str()) {
        tracing::warn!("the chunk index takes no more rows: {e}");
    }
    Ok(())
}

fn take_rows(index: &ChunkIndex, pack: &crate::PackId, epoch: u32, rows: &[Row]) {
    if let Err(e) = index.insert(pack, epoch, rows) {
        tracing::warn!("the chunk index takes no more rows: {e}");
    }
}

fn take_trailers(
    repository: &Repository,
    index: &ChunkIndex,
    synced: &mut Synced,
    wanted: impl Fn(&crate::PackId) -> bool,
) -> Result<()> {
    for id in repository.list(keys::PACKS)?.iter().filter_map(keys::parse_pack) {
        if id.kind != PackKind::Data || !wanted(&id) {
            continue;
        }
        match read_index(repository.storage(), repository.keys(), &id) {
            Ok((found, epoch, _)) => {
                let own = found.entries.iter().filter(|e| e.origin == 0);
                let rows: Vec<Row> = own
                    .map(|e| Row { id: e.id.short(), ordinal: e.ordinal, offset: e.offset, len: e.len, codec: e.codec })
                    .collect();
                take_rows(index, &id, epoch, &rows);
                synced.packs += 1;
            }
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                tracing::warn!("{} is left out of the chunk index: {e}", keys::pack(&id));
                synced.damaged += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
