//! Chunks and map nodes that are not where a map says (rule V3 of `docs/concurrency.md`): a repack moved them, or their
//! pack is lost or damaged and another one holds the same. They are found by id, from index segments and the packs' own
//! indexes.
//!
//! What is kept is a table of 8 bytes a chunk: 40 bits of its id and the number of the pack. It is only a guess where to
//! look: the pack's own index says where in it, and whoever reads verifies tag and id. The table is made when it is needed
//! for the first time. Where memory ends it does, and what it then does not know is looked for in all of the indexes.
//!
//! The index in the cache directory is not asked. One process at a time has it, and backups want it; a mount that holds
//! it for days would do more harm than good. So reading is the same with and without a cache.

#[cfg(test)]
mod tests;

use crate::format::node::{Node, Slot};
use crate::format::pack::Index;
use crate::format::{records::Kind, segment};
use crate::id::{Location, PackId, PackKind, SessionId, ShortId};
use crate::pack::{open_node, read_index};
use crate::storage::{Key, keys};
use crate::{ErrorKind, Repository, Result};
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was moved since the table was made is looked for no sooner than this after the last time.
const FRESH: Duration = Duration::from_secs(60);
/// Requests under way at once.
const THREADS: usize = 8;
/// Indexes of packs that are kept: neighbours on a disk are mostly moved together.
const KEPT: usize = 8;
/// Packs that are named in the log, each once.
const NAMED: usize = 100;
/// Bytes of memory for each row of a table, which needs half of that but while it grows.
const ROW: u64 = 16;
/// What is kept of a pack takes as much as so many rows.
const PACK_ROWS: usize = 6;

/// A chunk or node in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// The pack that holds it.
    pub(crate) pack: PackId,
    /// Its place in that pack, counted from 0.
    pub(crate) place: u32,
    /// Offset and length are those in that pack. Pack, epoch and ordinal are those it was sealed for: others, when a repack
    /// copied it.
    pub(crate) at: Location,
    /// Length in bytes of its plaintext.
    pub(crate) plain: u32,
}

/// What is known of where else chunks and nodes are.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    memory: AtomicU64,
    data: Mutex<Table>,
    meta: Mutex<Table>,
    recent: Mutex<VecDeque<(PackId, Arc<(Index, u32)>)>>,
    found: AtomicU64,
    named: Mutex<HashSet<PackId>>,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            memory: AtomicU64::new(32 << 20),
            data: Mutex::default(),
            meta: Mutex::default(),
            recent: Mutex::default(),
            found: AtomicU64::new(0),
            named: Mutex::default(),
        }
    }
}

impl Repository {
    /// Bytes of memory for finding chunks by id that are not where a map says; with less it takes longer.
    pub fn limit_lookups(&self, memory: u64) {
        self.elsewhere().memory.store(memory, Ordering::Relaxed);
    }

    /// Chunks and map nodes that were not where a map says and were read elsewhere since the repository was opened.
    pub fn found_elsewhere(&self) -> u64 {
        self.elsewhere().found.load(Ordering::Relaxed)
    }
}

impl Elsewhere {
    /// Notes that something which should be at `slot` was found, verified, in another place.
    pub(crate) fn note(&self, slot: &Slot, copy: &Copy) {
        self.found.fetch_add(1, Ordering::Relaxed);
        let mut named = self.named.lock();
        if named.len() < NAMED && named.insert(slot.at.pack) {
            let (pack, other) = (keys::pack(&slot.at.pack), keys::pack(&copy.pack));
            tracing::info!("{pack} is gone or damaged; what it held is found by id in other packs, such as {other}");
        }
    }

    /// Every copy of a chunk or node of `class` that an intact pack says it holds, but the one at `not`.
    pub(crate) fn find(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let known = self.known(repository, id, class, not)?;
        if known.is_empty() { self.again(repository, id, class, not) } else { Ok(known) }
    }

    /// What `open` makes of a copy of a chunk or node of `class` that is not the one at `not`. It says `None` of a copy
    /// that is damaged or gone. `None` when it does so of all of them, also of those that came since the last look.
    pub(crate) fn first<T>(
        &self,
        repository: &Repository,
        id: &ShortId,
        class: u8,
        not: &Location,
        mut open: impl FnMut(&Copy) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let known = self.known(repository, id, class, not)?;
        for copy in &known {
            if let Some(found) = open(copy)? {
                return Ok(Some(found));
            }
        }
        // What is known of a pack may be older than the loss of it.
        for copy in self.again(repository, id, class, not)?.iter().filter(|copy| !known.contains(copy)) {
            if let Some(found) = open(copy)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The table of chunks or of nodes, and how many rows it may have.
    fn table(&self, class: u8) -> (&Mutex<Table>, PackKind, usize) {
        let most = (self.memory.load(Ordering::Relaxed) / 2 / ROW) as usize;
        match class {
            128.. => (&self.meta, PackKind::Meta, most),
            _ => (&self.data, PackKind::Data, most),
        }
    }

    /// Copies in packs that the table has, which is made when there is none.
    fn known(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let (table, kind, most) = self.table(class);
        let packs = {
            let mut table = table.lock();
            if table.made.is_none() {
                table.update(repository, kind, most)?;
            }
            table.candidates(id)
        };
        self.copies(repository, packs, id, class, not)
    }

    /// Copies that the table does not have: of those that had no room, or came since. None when it is too early to look.
    fn again(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let (table, kind, most) = self.table(class);
        let mut packs = Vec::new();
        if table.lock().is_full {
            walk(
                repository,
                kind,
                |_| true,
                |_| true,
                |pack, ids| {
                    if ids.contains(id) {
                        packs.push(*pack);
                    }
                    true
                },
            )?;
        } else {
            let mut table = table.lock();
            if table.is_due(repository) {
                table.update(repository, kind, most)?;
                packs = table.candidates(id);
            }
        }
        self.copies(repository, packs, id, class, not)
    }

    /// What the indexes of these packs say of the chunk.
    fn copies(
        &self,
        repository: &Repository,
        packs: Vec<PackId>,
        id: &ShortId,
        class: u8,
        not: &Location,
    ) -> Result<Vec<Copy>> {
        let mut copies = Vec::new();
        for pack in packs {
            let known = match self.index(repository, &pack) {
                Ok(known) => known,
                Err(e) if repository.is_damage(&e) => continue,
                Err(e) => return Err(e),
            };
            let (index, epoch) = &*known;
            for (place, entry) in index.entries.iter().enumerate() {
                let here = pack == not.pack && entry.offset == not.offset;
                if entry.id.short() != *id || entry.class != class || here {
                    continue;
                }
                if let Some(at) = index.location(entry, &pack, *epoch) {
                    copies.push(Copy { pack, place: place as u32, at, plain: entry.plain });
                }
            }
        }
        Ok(copies)
    }

    fn index(&self, repository: &Repository, pack: &PackId) -> Result<Arc<(Index, u32)>> {
        if let Some((_, known)) = self.recent.lock().iter().find(|(id, _)| id == pack) {
            return Ok(known.clone());
        }
        let (index, epoch, _) = read_index(repository.storage(), repository.keys(), pack)?;
        let known = Arc::new((index, epoch));
        let mut recent = self.recent.lock();
        recent.push_back((*pack, known.clone()));
        if recent.len() > KEPT {
            recent.pop_front();
        }
        Ok(known)
    }

    /// A map node of `level` from another place than its slot says, verified; `None` when there is none.
    pub(crate) fn node(&self, repository: &Repository, slot: &Slot, level: u8) -> Result<Option<Node>> {
        self.first(repository, &slot.id, 128 + level, &slot.at, |copy| {
            let start = u64::from(copy.at.offset);
            let range = start..start + u64::from(copy.at.len);
            let node = repository.storage().get_range(&keys::pack(&copy.pack), range).and_then(|bytes| {
                let (keys, cache) = (repository.keys(), repository.pack_keys());
                open_node(keys, cache, &slot.id, level, &copy.at, &mut bytes.to_vec())
            });
            match node {
                Ok(node) => {
                    self.note(slot, copy);
                    Ok(Some(node))
                }
                Err(e) if repository.is_damage(&e) => {
                    tracing::warn!("another copy of a map node is damaged too: {e}");
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        })
    }
}

/// Which pack may hold a chunk.
#[derive(Debug, Default)]
struct Table {
    /// 40 bits of an id, then 24 of the number of its pack; sorted.
    rows: Vec<u64>,
    packs: Vec<PackId>,
    /// The random parts of the names of these packs.
    known: HashSet<u64>,
    segments: HashSet<(SessionId, u32)>,
    /// Some rows had no room.
    is_full: bool,
    /// When it was made or last updated, by the monotonic clock.
    made: Option<Duration>,
}

/// Bits of a row that are the number of the pack.
const NUMBER: u32 = 24;

fn prefix(id: &ShortId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.bytes()[..8]);
    u64::from_be_bytes(first) >> NUMBER
}

impl Table {
    fn is_due(&self, repository: &Repository) -> bool {
        let now = repository.clock().monotonic();
        self.made.is_none_or(|made| now.saturating_sub(made) >= FRESH)
    }

    /// The packs that may hold this chunk; those of the newest rows last.
    fn candidates(&self, id: &ShortId) -> Vec<PackId> {
        let prefix = prefix(id);
        let from = self.rows.partition_point(|row| row >> NUMBER < prefix);
        let rows = self.rows[from..].iter().take_while(|row| *row >> NUMBER == prefix);
        rows.filter_map(|row| self.packs.get((row & ((1 << NUMBER) - 1)) as usize).copied()).collect()
    }

    /// Takes in what it does not have; at most `most` rows in all.
    fn update(&mut self, repository: &Repository, kind: PackKind, most: usize) -> Result<()> {
        let start = repository.clock().monotonic();
        if self.is_full {
            self.made = Some(start);
            return Ok(());
        }
        let Self { rows, packs, known, segments, is_full, .. } = self;
        let (had, before) = (packs.len(), segments.clone());
        let known_before = known.clone();
        let mut taken = HashSet::new();
        let result = walk(
            repository,
            kind,
            |segment| !before.contains(segment) && taken.insert(*segment),
            |pack| !known_before.contains(&pack.random),
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
        );
        rows.sort_unstable();
        result?;
        segments.extend(taken);
        self.made = Some(start);
        let seconds = repository.clock().monotonic().saturating_sub(start).as_secs_f64();
        let (new, what) = (self.packs.len() - had, if kind == PackKind::Data { "chunks" } else { "map nodes" });
        tracing::debug!(packs = new, full = self.is_full, "{what} can be found by id after {seconds:.1} s");
        Ok(())
    }
}

/// Calls `take` with the ids of all that each pack of a kind holds, from index segments where `segment` says so, and from
/// its own index for packs no segment names; only packs that are there and that `pack` admits, until `take` returns
/// false. A segment or pack that is damaged is left out.
fn walk(
    repository: &Repository,
    kind: PackKind,
    mut segment: impl FnMut(&(SessionId, u32)) -> bool,
    pack: impl Fn(&PackId) -> bool,
    mut take: impl FnMut(&PackId, &[ShortId]) -> bool,
) -> Result<()> {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    let listed = repository.list(prefix)?;
    let mut wanted: HashSet<PackId> = listed.iter().filter_map(keys::parse_pack).filter(|id| pack(id)).collect();
    drop(listed);
    if kind == PackKind::Data {
        let segments = repository.list(keys::IDX)?;
        let segments: Vec<_> =
            segments.into_iter().filter(|key| keys::parse_segment(key).is_some_and(|name| segment(&name))).collect();
        for part in segments.chunks(THREADS) {
            for rows in side_by_side(part, |key| read_segment(repository, key))?.into_iter().flatten() {
                let ids: Vec<ShortId> = rows.chunks.iter().map(|(id, ..)| *id).collect();
                if wanted.remove(&rows.pack) && !take(&rows.pack, &ids) {
                    return Ok(());
                }
            }
        }
    }
    let mut rest: Vec<PackId> = wanted.into_iter().collect();
    rest.sort_unstable();
    for part in rest.chunks(THREADS) {
        let read = |id: &PackId| match read_index(repository.storage(), repository.keys(), id) {
            Ok((index, ..)) => Ok(Some((*id, index))),
            Err(e) if repository.is_damage(&e) => Ok(None),
            Err(e) => Err(e),
        };
        for (id, index) in side_by_side(part, read)?.into_iter().flatten() {
            let ids: Vec<ShortId> = index.entries.iter().map(|entry| entry.id.short()).collect();
            if !take(&id, &ids) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a segment says of each pack; nothing when it is gone or damaged.
fn read_segment(repository: &Repository, key: &Key) -> Result<Vec<segment::PackRows>> {
    let read = || {
        let body = repository.keys().open_record(Kind::Segment, key, &repository.storage().get(key)?)?;
        segment::decode(&body)
    };
    match read() {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => Ok(Vec::new()),
        read => read,
    }
}

/// Does `work` for a few items at once.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        let lost = || Err(crate::Error::internal("a thread that read indexes panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    })
}
