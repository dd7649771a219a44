//! Bringing the local index up to what the repository holds: index segments it has not taken in, and the trailers of
//! packs that no segment names.

use crate::format::{records::Kind, segment};
use crate::id::{PackId, PackKind, SessionId};
use crate::index::{ChunkIndex, Row};
use crate::pack::read_index;
use crate::storage::{Key, keys};
use crate::{Repository, Result};

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
        take_segments(repository, self, &mut synced, |_| true)?;
        if trailers || synced.damaged > 0 {
            // Only what is wanted is kept of a listing: there may be millions of packs.
            let mut wanted = Vec::new();
            repository.storage().list(keys::PACKS, &mut |object| {
                wanted.extend(keys::parse_pack(&object.key).filter(|id| self.lacks(id)));
                Ok(())
            })?;
            take_trailers(repository, self, &mut synced, &wanted)?;
        }
        Ok(synced)
    }

    fn lacks(&self, pack: &PackId) -> bool {
        pack.kind == PackKind::Data && !self.covered_pack(pack).unwrap_or(false)
    }
}

/// A3, A4: packs of dead sessions become ordinary hits. Those a checkpoint names are in its segment, the others have
/// their own index. `packs` are the packs of these sessions that were listed (W8).
pub(crate) fn adopt(repository: &Repository, index: &ChunkIndex, dead: &[SessionId], packs: &[PackId]) -> Result<()> {
    if dead.is_empty() {
        return Ok(());
    }
    let mut synced = Synced::default();
    take_segments(repository, index, &mut synced, |session| dead.contains(session))?;
    let wanted: Vec<PackId> = packs.iter().filter(|id| index.lacks(id)).copied().collect();
    take_trailers(repository, index, &mut synced, &wanted)
}

/// Takes in the segments of these sessions that the index has not taken in yet; those that cannot be read are left out.
fn take_segments(
    repository: &Repository,
    index: &ChunkIndex,
    synced: &mut Synced,
    of: impl Fn(&SessionId) -> bool,
) -> Result<()> {
    let mut wanted = Vec::new();
    repository.storage().list(keys::IDX, &mut |object| {
        let segment = keys::parse_segment(&object.key).filter(|(session, _)| of(session));
        wanted.extend(segment.filter(|_| !index.is_covered(object.key.as_str()).unwrap_or(false)));
        Ok(())
    })?;
    for (session, k) in wanted {
        let key = keys::segment(&session, k);
        match take_segment(repository, index, &key) {
            Ok(()) => synced.segments += 1,
            Err(e) if repository.is_damage(&e) => {
                tracing::warn!("{key} is left out of the chunk index: {e}");
                synced.damaged += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn take_segment(repository: &Repository, index: &ChunkIndex, key: &Key) -> Result<()> {
    let bytes = repository.storage().get(key)?;
    let body = repository.keys().open_record(Kind::Segment, key, &bytes)?;
    for pack in segment::decode(&body).map_err(|e| e.with_object(key))? {
        take_rows(index, &pack.pack, pack.epoch, &Row::all(&pack));
    }
    if let Err(e) = index.cover(key.as_str()) {
        tracing::warn!("the chunk index takes no more rows: {e}");
    }
    Ok(())
}

fn take_rows(index: &ChunkIndex, pack: &PackId, epoch: u32, rows: &[Row]) {
    if let Err(e) = index.insert(pack, epoch, rows) {
        tracing::warn!("the chunk index takes no more rows: {e}");
    }
}

/// Takes in packs by their own index; those that cannot be read are left out.
fn take_trailers(repository: &Repository, index: &ChunkIndex, synced: &mut Synced, wanted: &[PackId]) -> Result<()> {
    for id in wanted {
        match read_index(repository.storage(), repository.keys(), id) {
            Ok((found, epoch, _)) => {
                let own = found.entries.iter().filter(|e| e.origin == 0);
                let rows: Vec<Row> = own
                    .map(|e| Row { id: e.id.short(), ordinal: e.ordinal, offset: e.offset, len: e.len, codec: e.codec })
                    .collect();
                take_rows(index, id, epoch, &rows);
                synced.packs += 1;
            }
            Err(e) if repository.is_damage(&e) => {
                tracing::warn!("{} is left out of the chunk index: {e}", keys::pack(id));
                synced.damaged += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
