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
        let there = if self.is_crowded() { self.forget_gone(repository)? } else { None };
        let trailers = trailers || there.is_some();
        take_segments(repository, self, &mut synced, |_| true, there.as_deref())?;
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

    /// Rows of packs that are gone take the room of others, and nobody else lets go of them: where they are many all rows are to be
    /// taken in anew, those of these packs alone (the random parts of their names, sorted).
    fn forget_gone(&self, repository: &Repository) -> Result<Option<Vec<u64>>> {
        let mut there = Vec::new();
        repository.storage().list(keys::PACKS, &mut |object| {
            there.extend(keys::parse_pack(&object.key).map(|id| id.random));
            Ok(())
        })?;
        there.sort_unstable();
        let cleared = self.clear_if(|pack| there.binary_search(&pack.random).is_err());
        let cleared = cleared.unwrap_or_else(|e| {
            tracing::warn!("the chunk index takes no more rows: {e}");
            false
        });
        if cleared {
            tracing::info!("the chunk index is made anew: half of the packs that it knows are gone");
        }
        Ok(cleared.then_some(there))
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
    take_segments(repository, index, &mut synced, |session| dead.contains(session), None)?;
    let wanted: Vec<PackId> = packs.iter().filter(|id| index.lacks(id)).copied().collect();
    take_trailers(repository, index, &mut synced, &wanted)
}

/// Takes in the segments of these sessions that the index has not taken in yet; those that cannot be read are left out, and so are
/// rows of packs that are not `there`, if that is said.
fn take_segments(
    repository: &Repository,
    index: &ChunkIndex,
    synced: &mut Synced,
    of: impl Fn(&SessionId) -> bool,
    there: Option<&[u64]>,
) -> Result<()> {
    let mut wanted = Vec::new();
    repository.storage().list(keys::IDX, &mut |object| {
        let segment = keys::parse_segment(&object.key).filter(|(session, _)| of(session));
        wanted.extend(segment.filter(|_| !index.is_covered(object.key.as_str()).unwrap_or(false)));
        Ok(())
    })?;
    for (session, k) in wanted {
        let key = keys::segment(&session, k);
        match take_segment(repository, index, &key, there) {
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

fn take_segment(repository: &Repository, index: &ChunkIndex, key: &Key, there: Option<&[u64]>) -> Result<()> {
    let bytes = repository.storage().get(key)?;
    let body = repository.keys().open_record(Kind::Segment, key, &bytes)?;
    let is_there = |pack: &PackId| there.is_none_or(|there| there.binary_search(&pack.random).is_ok());
    for pack in segment::decode(&body).map_err(|e| e.with_object(key))?.into_iter().filter(|rows| is_there(&rows.pack))
    {
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

/// Takes in packs by their own index; those that cannot be read are left out. They were listed, which says nothing of what is left of
/// them after a power cut: whoever stored one may have died before it was acknowledged. Those of a segment were acknowledged before.
fn take_trailers(repository: &Repository, index: &ChunkIndex, synced: &mut Synced, wanted: &[PackId]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    if let Err(e) = repository.storage().make_durable(&mut wanted.iter().map(keys::pack)) {
        tracing::warn!(
            "{} packs are left out of the chunk index, and what they hold is stored anew: {e}",
            wanted.len()
        );
        return Ok(());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;
    use crate::format::segment::PackRows;
    use crate::id::ShortId;
    use crate::index::IndexOptions;
    use crate::storage::Storage;

    const PACKS: u32 = 300;
    const CHUNKS: u32 = 200;

    fn pack(round: u8, n: u32) -> PackId {
        let random = u64::from(round) << 32 | u64::from(n) | u64::from(n) << 56;
        PackId { kind: PackKind::Data, session: SessionId::new([round; 16]), seq: n, random }
    }

    fn id(round: u8, n: u32, chunk: u32) -> ShortId {
        let mut id = [0; 16];
        let of = [&[round][..], &n.to_le_bytes(), &chunk.to_le_bytes()].concat();
        id.copy_from_slice(&blake3::hash(&of).as_bytes()[..16]);
        ShortId::new(id)
    }

    /// Stores packs, of which nobody reads more than the names, and a segment of them.
    fn store(repository: &Repository, round: u8) {
        let rows = |n| PackRows {
            pack: pack(round, n),
            epoch: 0,
            chunks: (0..CHUNKS).map(|chunk| (id(round, n, chunk), 1000, Codec::Raw)).collect(),
        };
        let rows: Vec<_> = (0..PACKS).map(rows).collect();
        let key = keys::segment(&SessionId::new([round; 16]), 0);
        let sealed = repository.keys().seal_record(Kind::Segment, &key, &segment::encode(&rows)).unwrap();
        repository.storage().create(&key, sealed.into()).unwrap();
        for n in 0..PACKS {
            repository.storage().create(&keys::pack(&pack(round, n)), bytes::Bytes::new()).unwrap();
        }
    }

    #[test]
    fn rows_of_packs_that_are_gone_do_not_take_the_room_of_others() {
        let (storage, _, repository) = crate::testing::repository();
        let dir = tempfile::tempdir().unwrap();
        let options =
            IndexOptions { dir: dir.path().into(), repository: repository.id(), memory: 4 << 20, max_disk: 16 << 20 };
        let mut sampled = 0;
        for round in 0..12 {
            store(&repository, round);
            let (index, _) = ChunkIndex::open(&options).unwrap();
            index.synchronise(&repository, false).unwrap();
            index.flush().unwrap();
            sampled = sampled.max(index.stats().sampling);
            drop(index);
            if round < 11 {
                let of_round = |key: &Key| keys::parse_pack(key).is_some() || keys::parse_segment(key).is_some();
                // The segment of the last one stays as long as a collector may be reading it.
                let gone = repository.list("").unwrap().into_iter().filter(of_round);
                let gone = gone.filter(|key| keys::parse_segment(key).is_none_or(|(s, _)| s.bytes()[0] < round));
                gone.for_each(|key| storage.delete(&key).unwrap());
            }
        }
        let (index, _) = ChunkIndex::open(&options).unwrap();
        index.synchronise(&repository, false).unwrap();
        let lost = (0..PACKS).flat_map(|n| (0..CHUNKS).map(move |chunk| id(11, n, chunk)));
        let lost = lost.filter(|id| index.lookup(id).unwrap().is_empty()).count();
        assert_eq!((lost, index.stats().sampling), (0, 0), "sampling was {sampled} on the way");
        let gone = (0..PACKS).filter(|n| !index.lookup(&id(3, *n, 7)).unwrap().is_empty()).count();
        assert!(gone == 0 && index.stats().disk < 10 << 20, "{gone}, {:?}", index.stats());
    }
}
