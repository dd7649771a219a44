//! The table of what is where, and reading all indexes of a repository: what an [`Elsewhere`](super::Elsewhere) asks.

use super::FRESH;
use super::contents::Unread;
use crate::format::{records::Kind, segment};
use crate::id::{PackId, PackKind, SessionId, ShortId};
use crate::storage::{Key, keys};
use crate::{Repository, Result};
use std::collections::HashSet;
use std::time::Duration;

/// Requests under way at once.
const THREADS: usize = 8;
/// What is kept of a pack takes as much as so many rows.
pub(super) const PACK_ROWS: usize = 6;

/// Which pack may hold a chunk.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// 40 bits of an id, then 24 of the number of its pack; sorted.
    rows: Vec<u64>,
    packs: Vec<PackId>,
    /// The random parts of the names of these packs.
    known: HashSet<u64>,
    /// Likewise, of those that were there when it was made or last updated.
    there: HashSet<u64>,
    segments: HashSet<(SessionId, u32)>,
    /// Some rows had no room.
    pub(super) is_full: bool,
    /// When it was made or last updated, by the monotonic clock.
    pub(super) made: Option<Duration>,
}

/// Bits of a row that are the number of the pack.
const NUMBER: u32 = 24;

fn prefix(id: &ShortId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.bytes()[..8]);
    u64::from_be_bytes(first) >> NUMBER
}

impl Table {
    pub(super) fn is_due(&self, repository: &Repository) -> bool {
        let now = repository.clock().monotonic();
        self.made.is_none_or(|made| now.saturating_sub(made) >= FRESH)
    }

    /// Whether this pack was there when the table was made or last updated: if it is gone now, others may have come.
    pub(super) fn had(&self, pack: &PackId) -> bool {
        !self.is_full && self.there.contains(&pack.random)
    }

    /// The packs that may hold this chunk; those of the newest rows last.
    pub(super) fn candidates(&self, id: &ShortId) -> Vec<PackId> {
        let prefix = prefix(id);
        let from = self.rows.partition_point(|row| row >> NUMBER < prefix);
        let rows = self.rows[from..].iter().take_while(|row| *row >> NUMBER == prefix);
        let packs = rows.filter_map(|row| self.packs.get((row & ((1 << NUMBER) - 1)) as usize).copied());
        packs.filter(|pack| self.is_full || self.there.contains(&pack.random)).collect()
    }

    /// Takes in what it does not have; at most `most` rows in all.
    pub(super) fn update(
        &mut self,
        repository: &Repository,
        kind: PackKind,
        most: usize,
        unread: &Unread,
    ) -> Result<()> {
        let start = repository.clock().monotonic();
        if self.is_full {
            self.made = Some(start);
            return Ok(());
        }
        let Self { rows, packs, known, segments, is_full, .. } = self;
        let (had, before) = (packs.len(), segments.clone());
        let known_before = known.clone();
        let (mut taken, mut there) = (HashSet::new(), HashSet::new());
        let result = walk(
            repository,
            kind,
            |segment| !before.contains(segment) && taken.insert(*segment),
            |pack| {
                there.insert(pack.random);
                !known_before.contains(&pack.random)
            },
            |pack, ids| {
                if rows.len() + ids.len() + PACK_ROWS * (packs.len() + 1) > most || packs.len() >> NUMBER != 0 {
                    *is_full = true;
                    return false;
                }
                if known.insert(pack.random) {
                    let number = packs.len() as u64;
                    packs.push(*pack);
                    rows.extend(ids.iter().map(|id| prefix(id) << NUMBER | number));
                }
                true
            },
            unread,
        );
        rows.sort_unstable();
        result?;
        segments.extend(taken);
        self.there = there;
        self.made = Some(start);
        let seconds = repository.clock().monotonic().saturating_sub(start).as_secs_f64();
        let (new, what) = (self.packs.len() - had, if kind == PackKind::Data { "chunks" } else { "map nodes" });
        tracing::debug!(packs = new, full = self.is_full, "{what} can be found by id after {seconds:.1} s");
        Ok(())
    }
}

/// Calls `take` with the ids of all that each pack of a kind holds, from index segments where `segment` says so, and from
/// its own index for packs no segment names; only packs that are there and that `pack` admits, until `take` returns
/// false. A segment that is damaged is left out, and so is a pack whose own index cannot be read, unless another segment has rows of it;
/// `unread` then knows. What collectors copied comes first: that is what is looked for most, so whoever has not room for all has it.
pub(super) fn walk(
    repository: &Repository,
    kind: PackKind,
    mut segment: impl FnMut(&(SessionId, u32)) -> bool,
    mut pack: impl FnMut(&PackId) -> bool,
    mut take: impl FnMut(&PackId, &[ShortId]) -> bool,
    unread: &Unread,
) -> Result<()> {
    let lanes = repository.storage().lanes().min(THREADS);
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    // Of millions of packs a set would take twice as much.
    let mut wanted = Vec::new();
    repository.storage().list(prefix, &mut |object| {
        wanted.extend(keys::parse_pack(&object.key).filter(|id| pack(id)));
        Ok(())
    })?;
    wanted.sort_unstable();
    wanted.dedup();
    let mut done = vec![false; wanted.len()];
    let of_packs = |packs: Vec<PackId>, take: &mut dyn FnMut(&PackId, &[ShortId]) -> bool| -> Result<bool> {
        for part in packs.chunks(lanes) {
            let read = |id: &PackId| Ok(unread.contents(repository, id)?.map(|contents| contents.ids()));
            for (id, ids) in part.iter().zip(side_by_side(part, read)?) {
                if ids.is_some_and(|ids| !take(id, &ids)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    if kind == PackKind::Data {
        let collectors: HashSet<SessionId> = repository
            .list(&keys::fences_of_collectors())?
            .iter()
            .filter_map(keys::parse_snap)
            .map(|(_, id)| id)
            .collect();
        let mut copies = Vec::new();
        for (id, done) in wanted.iter().zip(&mut done).filter(|(id, _)| collectors.contains(&id.session)) {
            *done = true;
            copies.push(*id);
        }
        if !of_packs(copies, &mut take)? {
            return Ok(());
        }
        let segments = repository.list(keys::IDX)?;
        let segments: Vec<_> =
            segments.into_iter().filter(|key| keys::parse_segment(key).is_some_and(|name| segment(&name))).collect();
        for part in segments.chunks(lanes) {
            for rows in side_by_side(part, |key| rows_in(repository, key))?.into_iter().flatten() {
                let ids: Vec<ShortId> = rows.chunks.iter().map(|(id, ..)| *id).collect();
                let Ok(at) = wanted.binary_search(&rows.pack) else { continue };
                if !std::mem::replace(&mut done[at], true) && !take(&rows.pack, &ids) {
                    return Ok(());
                }
            }
        }
    }
    let mut is_done = done.into_iter();
    wanted.retain(|_| !is_done.next().unwrap_or(false));
    of_packs(wanted, &mut take).map(drop)
}

/// Calls `take` with what segments say of packs that are not there.
pub(super) fn rows_of_gone(
    repository: &Repository,
    mut take: impl FnMut(segment::PackRows) -> Result<()>,
) -> Result<()> {
    let lanes = repository.storage().lanes().min(THREADS);
    let mut there = HashSet::new();
    repository.storage().list(keys::PACKS, &mut |object| {
        there.extend(keys::parse_pack(&object.key).map(|id| id.random));
        Ok(())
    })?;
    for part in repository.list(keys::IDX)?.chunks(lanes) {
        let rows = side_by_side(part, |key| rows_in(repository, key))?.into_iter().flatten();
        rows.filter(|rows| !there.contains(&rows.pack.random)).try_for_each(&mut take)?;
    }
    Ok(())
}

/// The rows that one of these segments has of a pack, and which segment. Who wrote the pack has mostly written that too.
pub(super) fn rows_of(
    repository: &Repository,
    pack: &PackId,
    mut segments: Vec<Key>,
) -> Result<Option<(Key, segment::PackRows)>> {
    let lanes = repository.storage().lanes().min(THREADS);
    segments.sort_by_key(|key| keys::parse_segment(key).is_none_or(|(session, _)| session != pack.session));
    for part in segments.chunks(lanes) {
        for (key, packs) in part.iter().zip(side_by_side(part, |key| rows_in(repository, key))?) {
            if let Some(rows) = packs.into_iter().find(|rows| rows.pack == *pack) {
                return Ok(Some((key.clone(), rows)));
            }
        }
    }
    Ok(None)
}

/// What a segment says of each pack; nothing when it is gone or damaged.
pub(super) fn rows_in(repository: &Repository, key: &Key) -> Result<Vec<segment::PackRows>> {
    let read = || {
        let body = repository.keys().open_record(Kind::Segment, key, &repository.storage().get(key)?)?;
        segment::decode(&body)
    };
    match read() {
        Err(e) if repository.is_damage(&e) => Ok(Vec::new()),
        read => read,
    }
}

/// Does `work` for a few items at once.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let lost = || Err(crate::Error::internal("a thread that read indexes panicked"));
    crate::side::at_once(items.iter(), work, lost).into_iter().collect()
}
