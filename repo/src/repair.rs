//! Repairing what can be made again: index segments, from the packs' own indexes (M1 of `docs/concurrency.md`). What a pack
//! has lost nobody can make; the next backup of a volume whose source still has it stores it anew (W8).

mod sessions;

pub use sessions::LostSession;

use crate::format::records::Kind;
use crate::format::segment::{self, PackRows};
use crate::id::{PackId, PackKind, SessionId};
use crate::pack::read_index;
use crate::storage::{Key, keys};
use crate::{Error, ErrorKind, Repository, Result, clock};
use std::collections::HashSet;

/// Packs whose rows go into one segment.
const PACKS: usize = 1024;

/// What a rebuild of the index did.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Index segments that were read.
    pub segments: u64,
    /// Those that could not be, and how. What they had held stands in new ones, and they are gone.
    pub damaged: Vec<(Key, Error)>,
    /// Data packs there are.
    pub packs: u64,
    /// Those that no segment had named, and that one names now.
    pub rebuilt: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Those whose own index cannot be read, and why.
    pub unreadable: Vec<(Key, Error)>,
    /// Segments that were written.
    pub written: u64,
}

impl Repository {
    /// M1: writes index segments for the data packs that no segment names, from the packs' own indexes, and removes segments
    /// that are damaged. `watch` is told how many packs of how many were looked at; an error of it ends the work.
    pub fn rebuild_index(&self, watch: &dyn Fn(u64, u64) -> Result<()>) -> Result<Rebuilt> {
        self.check_writable()?;
        let mut done = Rebuilt::default();
        let named = self.named_packs(&mut done)?;
        let mut lacking = Vec::new();
        self.storage().list(keys::PACKS, &mut |object| {
            if let Some(pack) = keys::parse_pack(&object.key).filter(|pack| pack.kind == PackKind::Data) {
                done.packs += 1;
                lacking.extend(Some(pack).filter(|pack| !named.contains(pack)));
            }
            Ok(())
        })?;
        drop(named);
        // Whoever reads a segment takes its packs for acknowledged; these were only listed.
        self.storage().make_durable(&mut lacking.iter().map(keys::pack))?;
        // A session of its own: a segment says nothing of a pack but what that says itself.
        let session = SessionId::new(clock::random(self.rng())?);
        let total = lacking.len() as u64;
        for (n, part) in lacking.chunks(PACKS).enumerate() {
            let mut rows = Vec::new();
            for (m, pack) in part.iter().enumerate() {
                watch((n * PACKS + m) as u64, total)?;
                match self.rows_of(pack) {
                    Ok(found) => rows.extend(found),
                    // Swept meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) if self.is_damage(&e) => done.unreadable.push((keys::pack(pack), e)),
                    Err(e) => return Err(e),
                }
            }
            if rows.is_empty() {
                continue;
            }
            self.write_segment(&keys::segment(&session, done.written as u32), &rows)?;
            done.written += 1;
            done.rebuilt += rows.len() as u64;
            done.chunks += rows.iter().map(|rows| rows.chunks.len() as u64).sum::<u64>();
        }
        // Not before the new ones are there. Nothing is decided by a segment, and its name comes never again (I1, I2).
        for (key, _) in &done.damaged {
            self.storage().delete(key)?;
        }
        Ok(done)
    }

    /// The packs that readable segments name.
    fn named_packs(&self, done: &mut Rebuilt) -> Result<HashSet<PackId>> {
        let mut named = HashSet::new();
        for key in self.list(keys::IDX)?.into_iter().filter(|key| keys::parse_segment(key).is_some()) {
            let read = || {
                let body = self.keys().open_record(Kind::Segment, &key, &self.storage().get(&key)?)?;
                segment::decode(&body).map_err(|e| e.with_object(&key))
            };
            match read() {
                Ok(packs) => {
                    done.segments += 1;
                    named.extend(packs.iter().map(|rows| rows.pack));
                }
                // Compacted meanwhile: what it held stands in another one, which may have been listed or not.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if self.is_damage(&e) => done.damaged.push((key, e)),
                Err(e) => return Err(e),
            }
        }
        Ok(named)
    }

    /// What a segment says of a pack; `None` of one with copied chunks, which a segment cannot describe.
    fn rows_of(&self, pack: &PackId) -> Result<Option<PackRows>> {
        let (index, epoch, _) = read_index(self.storage(), self.keys(), pack)?;
        let mut entries: Vec<_> = index.entries.iter().collect();
        entries.sort_by_key(|entry| entry.ordinal);
        let chunks = entries.iter().map(|entry| (entry.id.short(), entry.len, entry.codec)).collect();
        let rows = PackRows { pack: *pack, epoch, chunks };
        let fits = entries.len() == rows.chunks.len()
            && entries.iter().zip(rows.locations()).all(|(entry, (_, at))| {
                entry.origin == 0 && (entry.ordinal, entry.offset, entry.len) == (at.ordinal, at.offset, at.len)
            });
        Ok(fits.then_some(rows))
    }

    fn write_segment(&self, key: &Key, rows: &[PackRows]) -> Result<()> {
        let sealed = self.keys().seal_record(Kind::Segment, key, &segment::encode(rows))?;
        self.storage().create(key, sealed.clone().into())?;
        match self.storage().get(key) {
            Ok(stored) if stored == sealed => Ok(()),
            Ok(_) => Err(Error::corrupt("an index segment was not stored as it was sent").with_object(key)),
            // A collector has dropped it: its packs are swept, or another one says what it says (I2).
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
