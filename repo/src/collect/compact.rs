//! I2: index segments are put together, and rows of packs that were deleted are dropped.
//!
//! A segment goes when each pack it names is swept, or is named, with the same rows, by a segment that has been there for the
//! grace. So the one that takes the place of others is made by one run, and the others go with a later one, or with the same
//! where there is no grace.
//!
//! It comes to an end: segments are put together only if that at least halves them, and not while they wait for those that
//! take their place. Long ones are read in turns, a part of them by each run that deleted something: one whose packs are all
//! swept goes, and one of which little is left is put together with short ones.

use super::report::Collected;
use super::{CollectStep, Run};
use crate::format::records::Kind;
use crate::format::segment::{self, PackRows};
use crate::id::{PackId, SessionId, VolumeId};
use crate::session::fence;
use crate::storage::{Key, Listed, keys};
use crate::{Error, ErrorKind, Result, Timestamp, clock};
use std::collections::{BTreeMap, HashSet};

/// Longer segments (bytes) are not put together with others, unless little of what they say is still true.
const SMALL: u64 = 1 << 20;
/// So many small segments are worth putting together.
const MANY: usize = 32;
/// Rows of a segment that takes the place of others (20 bytes each).
const ROWS: usize = 100_000;
/// Long segments are read in each run up to so many bytes, no more than there is memory, or one part in [`TURNS`] of all of them.
const LOOK: u64 = 64 << 20;
const TURNS: u64 = 32;

/// A segment.
struct Found {
    key: Key,
    written: Timestamp,
    packs: Vec<PackRows>,
    /// It stays by itself, and others may go because of it.
    is_long: bool,
}

impl Run<'_> {
    pub(super) fn compact(&self, report: &mut Collected) -> Result<()> {
        let (mut small, mut long) = (Vec::new(), Vec::new());
        self.storage().list(keys::IDX, &mut |object| {
            if keys::parse_segment(&object.key).is_some() {
                if object.size < SMALL { small.push(object) } else { long.push(object) }
            }
            Ok(())
        })?;
        let has_swept = report.swept.packs > 0;
        if small.len() < MANY && !has_swept {
            return Ok(());
        }
        let chain = self.list_generations()?;
        let swept = self.swept(&chain)?;
        // The shortest first: of them most have room.
        small.sort_unstable_by(|a, b| (a.size, &a.key).cmp(&(b.size, &b.key)));
        let half = self.options.memory / 8;
        let oldest = small.iter().map(|object| object.modified).min();
        let mut found = self.read_segments(small, &swept, half)?;
        // What an earlier run has made of them may be long. It came later than they.
        long.sort_unstable_by(|a, b| (b.modified, &b.key).cmp(&(a.modified, &a.key)));
        let later = long.iter().filter(|object| oldest.is_some_and(|oldest| object.modified >= oldest)).cloned();
        let mut covering = self.read_segments(later.collect(), &swept, half)?;
        let known: HashSet<Key> = covering.iter().map(|segment| segment.key.clone()).collect();
        found.append(&mut covering);
        if has_swept {
            long.retain(|object| !known.contains(&object.key));
            self.look_at_long(long, chain.newest, &swept, &mut found)?;
        }
        if let Some(parts) = worth_merging(&found) {
            found.extend(self.merge(parts)?);
        }
        self.drop_covered(found, report)
    }

    /// Reads segments, without the rows of packs that are swept, as long as there is room for them (bytes).
    fn read_segments(&self, objects: Vec<Listed>, swept: &[u64], mut room: u64) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for object in objects {
            // Rows in memory take about half as much again.
            let need = object.size * 3 / 2;
            if need > room {
                break;
            }
            room -= need;
            found.extend(self.live_rows(object, swept)?);
        }
        Ok(found)
    }

    /// What a segment says of packs that are not swept.
    fn live_rows(&self, Listed { key, modified, size }: Listed, swept: &[u64]) -> Result<Option<Found>> {
        (self.watch)(CollectStep::Compact, 0, 0)?;
        match self.read_segment(&key) {
            Ok(mut packs) => {
                packs.retain(|rows| swept.binary_search(&rows.pack.random).is_err());
                Ok(Some(Found { key, written: modified, packs, is_long: size >= SMALL }))
            }
            // Damaged ones are for `check` to name; what they said is in the packs.
            Err(e) if self.repository.is_damage(&e) => {
                tracing::warn!("{key} is left alone: {e}");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// A part of the long segments, another one with each generation: those of which little is left are put together with
    /// the short ones, those of which nothing is left go.
    fn look_at_long(&self, mut long: Vec<Listed>, turn: u32, swept: &[u64], found: &mut Vec<Found>) -> Result<()> {
        long.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let all: u64 = long.iter().map(|object| object.size).sum();
        let most = LOOK.min(self.options.memory).max(all / TURNS);
        // So many in any case: else some would be passed over for ever.
        let least = (long.len() as u64).div_ceil(TURNS);
        if all > most {
            let start = u64::from(turn) * least % long.len() as u64;
            long.rotate_left(start as usize);
        }
        let (mut read, mut room) = (0, self.options.memory / 8);
        for (n, object) in (0..).zip(long) {
            read += object.size;
            if read > most && n >= least {
                break;
            }
            let Some(segment) = self.live_rows(object, swept)? else { continue };
            let left = segment::len(&segment.packs) as u64;
            if left < SMALL / 2 && left * 3 / 2 <= room {
                room -= left * 3 / 2;
                found.push(Found { is_long: false, ..segment });
            }
        }
        Ok(())
    }

    fn read_segment(&self, key: &Key) -> Result<Vec<PackRows>> {
        let body = self.repository.keys().open_record(Kind::Segment, key, &self.storage().get(key)?)?;
        segment::decode(&body).map_err(|e| e.with_object(key))
    }

    /// Writes these parts and reads them back.
    fn merge(&self, parts: Vec<Vec<PackRows>>) -> Result<Vec<Found>> {
        let session = SessionId::new(clock::random(self.repository.rng())?);
        fence(
            self.repository,
            VolumeId::new([0; 16]),
            session,
            "a collector's, for the index segments that it writes",
        )?;
        let mut merged = Vec::new();
        for (k, packs) in parts.into_iter().enumerate() {
            let key = keys::segment(&session, k as u32);
            let sealed = self.repository.keys().seal_record(Kind::Segment, &key, &segment::encode(&packs))?;
            self.storage().create(&key, sealed.into())?;
            let stored = self.storage().head(&key).and_then(|object| Ok((object, self.read_segment(&key)?)));
            match stored {
                Ok((Listed { modified: written, size, .. }, read)) if read == packs => {
                    merged.push(Found { key, written, packs, is_long: size >= SMALL });
                }
                Ok(_) => {
                    return Err(
                        Error::corrupt("an index segment is not what was stored a moment ago").with_object(&key)
                    );
                }
                // Another collector, which gives no grace, found that others say the same.
                Err(e) if e.kind() == ErrorKind::NotFound => tracing::debug!("{key} was dropped by another one: {e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(merged)
    }

    /// Deletes segments that say nothing which one of the others, that has been there for the grace, does not.
    fn drop_covered(&self, found: Vec<Found>, report: &mut Collected) -> Result<()> {
        let kept = keepers(&found, |segment| self.age(segment.written) >= self.options.grace);
        for (n, segment) in found.iter().enumerate() {
            if !kept.contains(&n) {
                match self.storage().delete(&segment.key) {
                    Ok(()) => report.segments += 1,
                    Err(e) if e.kind() == ErrorKind::Denied => return Err(e),
                    Err(e) => tracing::warn!("{} was not deleted, a later run tries again: {e}", segment.key),
                }
            }
        }
        Ok(())
    }
}

/// What takes the place of the short segments among these, if they are many and it is at most half as many: else the same
/// would be written again by each run. Those that wait for the grace, as another one says what they say, are no part of it.
fn worth_merging(found: &[Found]) -> Option<Vec<Vec<PackRows>>> {
    let mut kept = keepers(found, |_| true);
    kept.retain(|n| !found[*n].is_long && !found[*n].packs.is_empty());
    if kept.len() < MANY {
        return None;
    }
    let union: BTreeMap<PackId, &PackRows> =
        kept.iter().flat_map(|n| &found[*n].packs).map(|rows| (rows.pack, rows)).collect();
    let (mut parts, mut part, mut rows): (Vec<Vec<PackRows>>, Vec<PackRows>, usize) = Default::default();
    for pack in union.into_values() {
        if rows + pack.chunks.len() > ROWS && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            rows = 0;
        }
        rows += pack.chunks.len();
        part.push(pack.clone());
    }
    parts.extend((!part.is_empty()).then_some(part));
    (2 * parts.len() <= kept.len()).then_some(parts)
}

/// Numbers of segments that stay: those with the most packs first, all others only for what is in none of them. `may_cover`:
/// others may go because of it.
fn keepers(found: &[Found], may_cover: impl Fn(&Found) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(found[*n].packs.len()));
    let mut covered: BTreeMap<PackId, &PackRows> = BTreeMap::new();
    let mut kept = Vec::new();
    for n in order {
        let segment = &found[n];
        if segment.packs.iter().all(|rows| covered.get(&rows.pack) == Some(&rows)) {
            continue;
        }
        kept.push(n);
        if may_cover(segment) {
            covered.extend(segment.packs.iter().map(|rows| (rows.pack, rows)));
        }
    }
    kept
}

#[cfg(test)]
mod tests;
