//! I2: index segments are put together, and rows of packs that were deleted are dropped.
//!
//! A segment goes when each pack it names is swept, or is named, with the same rows, by a segment that has been there for the
//! grace. So the one that takes the place of others is made by one run, and the others go with a later one, or with the same
//! where there is no grace.

use super::report::Collected;
use super::{CollectStep, Run};
use crate::format::records::Kind;
use crate::format::segment::{self, PackRows};
use crate::id::{PackId, SessionId, VolumeId};
use crate::session::fence;
use crate::storage::{Key, Listed, keys};
use crate::{Error, ErrorKind, Result, Timestamp, clock};
use std::collections::BTreeMap;

/// Longer segments (bytes) are looked at only for what was deleted, and stay otherwise.
const SMALL: u64 = 1 << 20;
/// So many small segments are worth putting together.
const MANY: usize = 32;
/// Rows of a segment that takes the place of others (20 bytes each).
const ROWS: usize = 100_000;

/// A segment.
struct Found {
    key: Key,
    written: Timestamp,
    packs: Vec<PackRows>,
}

impl Run<'_> {
    pub(super) fn compact(&self, report: &mut Collected) -> Result<()> {
        let mut small = Vec::new();
        self.storage().list(keys::IDX, &mut |object| {
            small.extend((object.size < SMALL && keys::parse_segment(&object.key).is_some()).then_some(object));
            Ok(())
        })?;
        if small.is_empty() || (small.len() < MANY && report.swept.packs == 0) {
            return Ok(());
        }
        small.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let swept = self.swept(&self.list_generations()?)?;
        let mut found = Vec::new();
        // Rows in memory take about half as much again.
        let mut room = self.options.memory / 4;
        for Listed { key, size, modified } in small {
            if size * 3 / 2 > room {
                break;
            }
            room -= size * 3 / 2;
            (self.watch)(CollectStep::Compact, found.len() as u64, 0)?;
            match self.read_segment(&key) {
                Ok(mut packs) => {
                    packs.retain(|rows| swept.binary_search(&rows.pack.random).is_err());
                    found.push(Found { key, written: modified, packs });
                }
                // Damaged ones are for `check` to name; what they said is in the packs.
                Err(e) if self.repository.is_damage(&e) => tracing::warn!("{key} is left alone: {e}"),
                Err(e) => return Err(e),
            }
        }
        let live = found.iter().filter(|segment| !segment.packs.is_empty()).count();
        if live >= MANY && !self.is_merged(&found) {
            found.extend(self.merge(&found)?);
        }
        self.drop_covered(found, report)
    }

    fn read_segment(&self, key: &Key) -> Result<Vec<PackRows>> {
        let body = self.repository.keys().open_record(Kind::Segment, key, &self.storage().get(key)?)?;
        segment::decode(&body).map_err(|e| e.with_object(key))
    }

    /// Whether all that these say is in few of them already: the others wait for the grace.
    fn is_merged(&self, found: &[Found]) -> bool {
        let keepers = keepers(found, |_| true);
        keepers.len() < MANY
    }

    /// Puts the rows of all into as few segments as can be, and reads those back.
    fn merge(&self, found: &[Found]) -> Result<Vec<Found>> {
        let union: BTreeMap<PackId, &PackRows> = found.iter().flat_map(|f| &f.packs).map(|p| (p.pack, p)).collect();
        let session = SessionId::new(clock::random(self.repository.rng())?);
        fence(
            self.repository,
            VolumeId::new([0; 16]),
            session,
            "a collector's, for the index segments that it writes",
        )?;
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
        let mut merged = Vec::new();
        for (k, packs) in parts.into_iter().enumerate() {
            let key = keys::segment(&session, k as u32);
            let sealed = self.repository.keys().seal_record(Kind::Segment, &key, &segment::encode(&packs))?;
            self.storage().create(&key, sealed.into())?;
            let written = self.storage().head(&key)?.modified;
            if self.read_segment(&key)? != packs {
                return Err(Error::corrupt("an index segment is not what was stored a moment ago").with_object(&key));
            }
            merged.push(Found { key, written, packs });
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
