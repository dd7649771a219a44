//! Chunks and map nodes that are not where a map says (rule V3 of `docs/concurrency.md`): a repack moved them, or their
//! pack is lost or damaged and another one holds the same. They are found by id, from index segments and the packs' own
//! indexes.
//!
//! What is kept is a table of 8 bytes a chunk: 40 bits of its id and the number of the pack. It is only a guess where to
//! look: the pack's own index says where in it, and whoever reads verifies tag and id. The table is made when it is needed
//! for the first time. Where memory ends it does, and what it then does not know is looked for in all of the indexes: one
//! walk through them for as many ids as are waited for, and its answers hold for a minute.
//!
//! Where a pack's own index cannot be read, the rows that a segment has of it say where its chunks are: they lie without gaps. What
//! is kept is which segment that was; its rows are read again when they are asked for, as indexes are.
//!
//! The index in the cache directory is not asked. One process at a time has it, and backups want it; a mount that holds
//! it for days would do more harm than good. So reading is the same with and without a cache.

mod contents;
mod table;
#[cfg(test)]
mod tests;

use crate::format::node::{Node, Slot};
use crate::format::tree::{Placed, Ref};
use crate::id::{Location, PackId, PackKind, ShortId};
use crate::storage::keys;
use crate::{ErrorKind, Repository, Result};
use contents::{Contents, Unread};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use table::{Table, rows_of_gone, walk};

/// What was moved since the table was made is looked for no sooner than this after the last time, unless a pack is seen
/// to have gone since.
const FRESH: Duration = Duration::from_secs(60);
/// Indexes of packs that are kept: neighbours on a disk are mostly moved together.
const KEPT: usize = 8;
/// Packs that are named in the log, each once.
const NAMED: usize = 100;
/// Bytes of memory for each row of a table, which needs half of that but while it grows.
const ROW: u64 = 16;
/// Ids that one walk looks for: what a check of a few snapshots at a time expects. Answers are kept for as many; four
/// megabytes for each kind of pack.
const ANSWERS: usize = 1 << 16;

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
    /// Length in bytes of its plaintext; 0 where only a segment names it, which does not say it: of chunks alone.
    pub(crate) plain: u32,
}

impl Copy {
    /// Whether only a segment says that it is there, as the pack's own index cannot be read: that pack is damaged.
    pub(crate) fn is_by_rows(&self) -> bool {
        self.plain == 0
    }

    /// Whether it may be a chunk of so many bytes.
    pub(crate) fn may_be_of(&self, plain: u32) -> bool {
        self.plain == plain || self.is_by_rows()
    }
}

/// What is known of where else chunks and nodes are.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    memory: AtomicU64,
    data: Side,
    meta: Side,
    recent: Mutex<VecDeque<(PackId, Arc<Contents>)>>,
    found: AtomicU64,
    named: Mutex<HashSet<PackId>>,
    unread: Unread,
}

/// What is known of packs of one kind.
#[derive(Debug, Default)]
struct Side {
    table: Mutex<Table>,
    /// What was asked for while somebody else walked, or will be soon.
    wanted: Mutex<HashSet<ShortId>>,
    /// The packs that a walk found, also none, and until when that holds (monotonic). Whoever walks has the lock.
    walked: Mutex<HashMap<ShortId, (Duration, Vec<PackId>)>>,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            memory: AtomicU64::new(32 << 20),
            data: Side::default(),
            meta: Side::default(),
            recent: Mutex::default(),
            found: AtomicU64::new(0),
            named: Mutex::default(),
            unread: Unread::default(),
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
    /// One that knows nothing yet and may use so many bytes.
    pub(crate) fn new(memory: u64) -> Self {
        Self { memory: AtomicU64::new(memory), ..Self::default() }
    }

    /// Packs that are there, or may be, and whose own index could not be read, whatever segments say of them: for who deletes.
    pub(crate) fn left_out(&self) -> Vec<PackId> {
        self.unread.all()
    }

    /// Those of which no segment has rows either: what was not found may be in them.
    pub(crate) fn unknown(&self) -> Vec<PackId> {
        self.unread.unknown()
    }

    /// Calls `take` with each data pack that a segment names and that is not there, and what was in it. An error of `take` ends it.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub(crate) fn each_gone(
        &self,
        repository: &Repository,
        mut take: impl FnMut(&PackId, &mut dyn Iterator<Item = ShortId>) -> Result<()>,
    ) -> Result<()> {
        rows_of_gone(repository, |rows| take(&rows.pack, &mut rows.chunks.iter().map(|(id, ..)| *id)))
    }

    /// What is known is forgotten: packs came that nobody saw go.
    pub(crate) fn forget(&self) {
        for side in [&self.data, &self.meta] {
            // In this order: whoever makes a table or walks holds the lock of it alone.
            *side.table.lock() = Table::default();
            side.walked.lock().clear();
        }
        self.recent.lock().clear();
    }

    /// Notes that something which should be in `pack` was found, verified, in another place. `is_gone`: there is no such pack, as
    /// after every collector that moved what was in it; else it is damaged.
    pub(crate) fn note(&self, pack: &PackId, copy: &Copy, is_gone: bool) {
        self.found.fetch_add(1, Ordering::Relaxed);
        let mut named = self.named.lock();
        if named.len() < NAMED && named.insert(*pack) {
            let (pack, other) = (keys::pack(pack), keys::pack(&copy.pack));
            match is_gone {
                true => tracing::debug!("{pack} is gone; what it held is found by id in other packs, such as {other}"),
                false => {
                    tracing::info!("{pack} is damaged; what it held is found by id in other packs, such as {other}")
                }
            }
        }
    }

    /// Copies of a chunk or node of `class` that packs say they hold, or of damaged ones a segment, but the one at `not`: all of them, but
    /// where the table has no room for all packs. There it is some of them if the table knows any, which costs no walk; see
    /// [`find_all`](Self::find_all).
    pub(crate) fn find(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let known = self.known(repository, id, class, not)?;
        if known.is_empty() { self.again(repository, id, class, not) } else { Ok(known) }
    }

    /// Whether [`find`](Self::find) may have left out copies that [`find_all`](Self::find_all) has.
    pub(crate) fn may_know_more(&self, class: u8) -> bool {
        self.side(class).0.table.lock().is_full
    }

    /// Every copy, also of packs that the table has no room for: for whoever needs an intact one and knows only of damaged ones, or
    /// must leave none out. A walk answers for all that was [expected](Self::expect).
    pub(crate) fn find_all(
        &self,
        repository: &Repository,
        id: &ShortId,
        class: u8,
        not: &Location,
    ) -> Result<Vec<Copy>> {
        let mut copies = self.find(repository, id, class, not)?;
        if self.may_know_more(class) {
            let more = self.again(repository, id, class, not)?;
            let new: Vec<Copy> = more.into_iter().filter(|copy| !copies.contains(copy)).collect();
            copies.extend(new);
        }
        Ok(copies)
    }

    /// Likewise, for whoever found that all of these are gone: what came since, where a pack is gone that was there when was looked
    /// last. Nothing when none is.
    pub(crate) fn find_moved(
        &self,
        repository: &Repository,
        id: &ShortId,
        class: u8,
        not: &Location,
    ) -> Result<Vec<Copy>> {
        self.after_a_loss(repository, id, class, not)
    }

    /// Looks anew, for whoever has learned what collectors are about to delete: all that they have copied of it is known then.
    pub(crate) fn look_anew(&self, repository: &Repository) -> Result<()> {
        for (side, kind) in [(&self.data, PackKind::Data), (&self.meta, PackKind::Meta)] {
            let mut table = side.table.lock();
            if table.made.is_some() {
                table.update(repository, kind, self.most(), &self.unread)?;
            }
            drop(table);
            side.walked.lock().clear();
        }
        Ok(())
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
        let mut tried = known;
        for look in [Self::again, Self::after_a_loss] {
            for copy in look(self, repository, id, class, not)? {
                if tried.contains(&copy) {
                    continue;
                }
                if let Some(found) = open(&copy)? {
                    return Ok(Some(found));
                }
                tried.push(copy);
            }
        }
        Ok(None)
    }

    /// Says that these will be looked for next, so that what needs a walk is done in one.
    pub(crate) fn expect(&self, class: u8, ids: impl IntoIterator<Item = ShortId>) {
        let mut wanted = self.side(class).0.wanted.lock();
        let room = ANSWERS.saturating_sub(wanted.len());
        wanted.extend(ids.into_iter().take(room));
    }

    /// What is known of packs of chunks or of nodes.
    fn side(&self, class: u8) -> (&Side, PackKind) {
        match class {
            128.. => (&self.meta, PackKind::Meta),
            _ => (&self.data, PackKind::Data),
        }
    }

    /// Rows that a table may have.
    fn most(&self) -> usize {
        (self.memory.load(Ordering::Relaxed) / 2 / ROW) as usize
    }

    /// Copies in packs that the table has, which is made when there is none.
    fn known(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let (side, kind) = self.side(class);
        let (mut packs, is_full) = {
            let mut table = side.table.lock();
            if table.made.is_none() {
                table.update(repository, kind, self.most(), &self.unread)?;
            }
            (table.candidates(id), table.is_full)
        };
        if is_full {
            // What was next to it has mostly gone to the same pack.
            let recent = self.recent.lock();
            let near = recent.iter().filter(|(pack, known)| pack.kind == kind && known.holds(id));
            let near = near.map(|(pack, _)| *pack).filter(|pack| !packs.contains(pack)).collect::<Vec<_>>();
            packs.extend(near);
        }
        self.copies(repository, packs, id, class, not)
    }

    /// Copies that were not known: of those that had no room, or came since the table was made or somebody looked last.
    fn again(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let (side, kind) = self.side(class);
        let (packs, is_full) = {
            let mut table = side.table.lock();
            if !table.is_full && table.is_due(repository) {
                table.update(repository, kind, self.most(), &self.unread)?;
            }
            // Also when it is not due: another thread may have brought it up to date since this one looked.
            (table.candidates(id), table.is_full)
        };
        let packs = if is_full { side.walked(repository, kind, id, &self.unread)? } else { packs };
        self.copies(repository, packs, id, class, not)
    }

    /// Copies in packs that came since the last look, however short a time ago that was, where a pack that was there then is
    /// gone now: what it held was moved. Each such look knows all packs that are gone, so there are no more of them than
    /// sweeps, and none for what was lost before.
    fn after_a_loss(&self, repository: &Repository, id: &ShortId, class: u8, not: &Location) -> Result<Vec<Copy>> {
        let (side, kind) = self.side(class);
        let (mut packs, is_full) = {
            let table = side.table.lock();
            (table.candidates(id), table.is_full)
        };
        if is_full {
            if !side.forget_gone(repository, id)? {
                return Ok(Vec::new());
            }
            let packs = side.walked(repository, kind, id, &self.unread)?;
            return self.copies(repository, packs, id, class, not);
        }
        packs.push(not.pack);
        for pack in packs {
            if !side.table.lock().had(&pack) {
                continue;
            }
            match repository.storage().head(&keys::pack(&pack)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // One that a disk cannot open is there.
                Err(e) if !repository.is_damage(&e) => return Err(e),
                _ => continue,
            }
            let mut table = side.table.lock();
            // Another thread may have looked since.
            if table.had(&pack) {
                table.update(repository, kind, self.most(), &self.unread)?;
            }
            let packs = table.candidates(id);
            drop(table);
            return self.copies(repository, packs, id, class, not);
        }
        Ok(Vec::new())
    }

    /// What is known of the chunk in these packs.
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
            if let Some(known) = self.contents(repository, &pack)? {
                copies.extend(known.copies(&pack, id, class));
            }
        }
        copies.retain(|copy| copy.pack != not.pack || copy.at.offset != not.offset);
        Ok(copies)
    }

    fn contents(&self, repository: &Repository, pack: &PackId) -> Result<Option<Arc<Contents>>> {
        if let Some((_, known)) = self.recent.lock().iter().find(|(id, _)| id == pack) {
            return Ok(Some(known.clone()));
        }
        let Some(known) = self.unread.contents(repository, pack)?.map(Arc::new) else { return Ok(None) };
        let mut recent = self.recent.lock();
        recent.push_back((*pack, known.clone()));
        if recent.len() > KEPT {
            recent.pop_front();
        }
        Ok(Some(known))
    }

    /// A map node of `level` from another place than its slot says, verified; `None` when there is none. `is_gone`: see
    /// [`note`](Self::note).
    pub(crate) fn node(&self, repository: &Repository, slot: &Slot, level: u8, is_gone: bool) -> Result<Option<Node>> {
        self.opened(repository, &slot.id, 128 + level, &slot.at, is_gone, |copy, sealed| {
            repository.opener().node(&slot.id, level, &copy.at, sealed)
        })
    }

    /// Likewise a tree node, encoded. Its hints, and so its length, may be others than those of the one that is gone.
    pub(crate) fn tree_node(&self, repository: &Repository, node: &Placed, is_gone: bool) -> Result<Option<Vec<u8>>> {
        self.opened(repository, &node.to.id, node.to.class, &node.at, is_gone, |copy, sealed| {
            let to = Ref { plain: copy.plain, ..node.to };
            repository.opener().tree_node(&to, &copy.at, sealed)
        })
    }

    /// What `open` makes of the sealed bytes of a copy of a node, as [`first`](Self::first).
    fn opened<T>(
        &self,
        repository: &Repository,
        id: &ShortId,
        class: u8,
        not: &Location,
        is_gone: bool,
        open: impl Fn(&Copy, &mut [u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        self.first(repository, id, class, not, |copy| {
            let start = u64::from(copy.at.offset);
            let range = start..start + u64::from(copy.at.len);
            let sealed = repository.storage().get_range(&keys::pack(&copy.pack), range);
            match sealed.and_then(|sealed| open(copy, &mut sealed.to_vec())) {
                Ok(node) => {
                    self.note(&not.pack, copy, is_gone);
                    Ok(Some(node))
                }
                Err(e) if repository.is_damage(&e) => {
                    tracing::warn!("another copy of a node is damaged too: {e}");
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        })
    }
}

impl Side {
    /// Whether a walk is worth it: one of the packs in which the last one found `id` is gone. Then what that walk found there is forgotten: it may have
    /// moved. The next walk looks for all of it, and finds packs that are there: so there are no more of them than sweeps.
    fn forget_gone(&self, repository: &Repository, id: &ShortId) -> Result<bool> {
        // No walk looked for it, or somebody else's look made it forgotten.
        let Some(packs) = self.walked.lock().get(id).map(|(_, packs)| packs.clone()) else { return Ok(true) };
        for pack in packs {
            match repository.storage().head(&keys::pack(&pack)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // As above.
                Err(e) if !repository.is_damage(&e) => return Err(e),
                _ => continue,
            }
            let mut walked = self.walked.lock();
            // Another thread may have walked since.
            let gone: Vec<ShortId> =
                walked.extract_if(|_, (_, packs)| packs.contains(&pack)).map(|(id, _)| id).collect();
            let mut wanted = self.wanted.lock();
            let room = ANSWERS.saturating_sub(wanted.len());
            wanted.extend(gone.into_iter().take(room));
            return Ok(true);
        }
        Ok(false)
    }

    /// The packs that hold `id`, by a walk through all of them that is not older than [`FRESH`], or than it took.
    fn walked(&self, repository: &Repository, kind: PackKind, id: &ShortId, unread: &Unread) -> Result<Vec<PackId>> {
        self.wanted.lock().insert(*id);
        let mut walked = self.walked.lock();
        let start = repository.clock().monotonic();
        let holds = |until: &Duration| start < *until;
        if let Some((_, packs)) = walked.get(id).filter(|(until, _)| holds(until)) {
            return Ok(packs.clone());
        }
        let mut wanted = std::mem::take(&mut *self.wanted.lock());
        wanted.retain(|id| !walked.get(id).is_some_and(|(until, _)| holds(until)));
        // It is not in there when somebody else's walk took it and failed.
        wanted.insert(*id);
        // What is forgotten may be about to be asked for: this walk answers it once more.
        let is_full = walked.len() + wanted.len() > ANSWERS;
        let mut again = Vec::new();
        walked.retain(|id, (until, _)| {
            let stays = !is_full && holds(until);
            if !stays {
                again.push(*id);
            }
            stays
        });
        again.truncate(ANSWERS.saturating_sub(wanted.len()));
        wanted.extend(again);
        let mut found: HashMap<ShortId, Vec<PackId>> = wanted.into_iter().map(|id| (id, Vec::new())).collect();
        walk(
            repository,
            kind,
            |_| true,
            |_| true,
            |pack, ids| {
                for id in ids {
                    if let Some(packs) = found.get_mut(id)
                        && packs.last() != Some(pack)
                    {
                        packs.push(*pack);
                    }
                }
                true
            },
            unread,
        )?;
        let end = repository.clock().monotonic();
        let until = end + FRESH.max(end.saturating_sub(start));
        let packs = found.get(id).cloned().unwrap_or_default();
        walked.extend(found.into_iter().map(|(id, packs)| (id, (until, packs))));
        Ok(packs)
    }
}
