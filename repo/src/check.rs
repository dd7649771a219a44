//! Checking: finds damage, and says which snapshots and which of their bytes it hits.
//!
//! 1. Records: every clear object and every record opens and decodes.
//! 2. Packs: each has an intact header, index and trailer.
//! 3. Maps: every node opens, every slot is what the index of its pack says. What several snapshots share is looked at
//!    once; one bit per chunk or node says that it was. Trees likewise, and the maps of disk images in them; what is below
//!    each node of a tree adds up to what led there, for which 64 bits a node are kept.
//! 4. Data: on demand, the chunks of the packs that snapshots refer to are opened. Of a pack whose own index cannot be
//!    used, every chunk that maps refer to is opened in any case: only so can it be said what is lost.
//! 5. Hits: only when something is damaged, the maps are walked again to see whom it concerns.
//! 6. Ages: what was read is noted, and when all of each snapshot was.
//!
//! Nothing is read from or written to the local index. In the repository only such notes are written, where that is asked for.

mod age;
mod blame;
mod choice;
mod damaged;
mod data;
mod hits;
mod ledger;
mod maps;
mod objects;
mod packs;
mod paths;
mod report;
#[cfg(test)]
mod tests;
mod trees;
mod wanted;

pub use report::{CheckReport, Copies, Damage, DamageKind, Hit, LostPath, NotRead, NotReadReason};
pub use wanted::Wanted;
pub(crate) use wanted::{Name, Of};

use crate::id::{PackKind, ShortId, SnapshotId};
use crate::storage::{Key, Storage, keys};
use crate::tree::TreeCache;
use crate::{Error, ErrorKind, Repository, Result, Timestamp};
use report::Findings;
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

/// What is checked, and with what.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Only what these snapshots need; none: everything.
    pub snapshots: Vec<SnapshotId>,
    /// Whether chunks are read; without, only what leads to them is.
    pub read_data: Option<ReadData>,
    /// Requests to the storage under way at once. Each may need 8 MiB of memory.
    pub threads: usize,
    /// Bytes of memory for what the indexes of packs say; with less, some are read again and again.
    pub memory: u64,
    /// Notes in the repository what was read, for later checks (V8), and which snapshots damage hits; a check that reads no data
    /// notes damage alone. The report says whether that went well.
    pub keep: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { snapshots: Vec::new(), read_data: None, threads: 8, memory: 64 << 20, keep: false }
    }
}

/// Which packs are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadData {
    /// Such a share of all bytes that snapshots refer to, from 0 to 1: what was never read, then what was read longest ago.
    /// What was damaged the last time comes on top.
    pub share: f64,
    /// Only those that were read, or written, longer ago than this, or damaged the last time.
    pub max_age: Option<Duration>,
}

impl Default for ReadData {
    fn default() -> Self {
        Self { share: 1.0, max_age: None }
    }
}

/// Most bytes of nodes of trees that are kept.
const TREES: u64 = 24 << 20;

/// What a check is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// Records; counted in objects.
    Records,
    /// Indexes of packs; counted in packs.
    Packs,
    /// Maps and trees; counted in snapshots.
    Maps,
    /// Chunks; counted in bytes.
    Data,
    /// What the damage hits; counted in snapshots.
    Hits,
    /// When all of each snapshot was read; counted in snapshots.
    Ages,
}

/// How far a check is: a step, what is done of it and its total.
pub type Watch<'a> = &'a (dyn Fn(CheckStep, u64, u64) -> Result<()> + Sync);

impl Repository {
    /// Checks the repository. `watch` is called now and then, from any thread; an error it returns ends the check.
    ///
    /// Damage is in the report, not an error. Errors: `NoSnapshot` for an unknown id; what the storage says when it
    /// cannot be reached. What was read until then stays noted.
    pub fn check(&self, options: &CheckOptions, watch: Watch<'_>) -> Result<CheckReport> {
        self.examine(options, watch, 0).map(|(report, _)| report)
    }

    /// As [`check`](Self::check), and gives all that snapshots refer to and no pack has, as far as was looked: what [`Heal`](crate::Heal)
    /// takes from another repository.
    ///
    /// # Errors
    /// Those of `check`.
    pub fn find_wanted(&self, options: &CheckOptions, watch: Watch<'_>) -> Result<(CheckReport, Wanted)> {
        self.examine(options, watch, Wanted::most(options.memory / 2))
    }

    /// `most`: things that are wanted and named.
    fn examine(&self, options: &CheckOptions, watch: Watch<'_>, most: usize) -> Result<(CheckReport, Wanted)> {
        let (findings, trees, began) = (Findings::default(), TreeCache::default(), self.clock().now());
        let run = Run { repository: self, options, watch, findings, trees, began };
        run.trees.set_limit((options.memory / 2).min(TREES) as usize);
        let objects = objects::examine(&run)?;
        let packs = packs::Packs::new(&run);
        if options.snapshots.is_empty() {
            packs.examine_all()?;
        }
        let maps = maps::examine(&run, &packs, &objects.snapshots)?;
        let ledger = match options.read_data {
            Some(_) => Some(ledger::Ledger::load(&run, &packs)?),
            None if options.keep => Some(ledger::Ledger::of_damage(&run, &packs)?),
            None => None,
        };
        let data = data::examine(&run, &packs, maps.suspects, ledger.as_ref());
        let ledger = ledger.filter(|_| options.keep);
        ledger.iter().for_each(|ledger| ledger.save());
        let data = data?;
        let known: HashSet<_> = data.bad.iter().map(|(pack, _)| *pack).collect();
        let bad = hits::Bad { packs: packs.gone(), parts: maps.bad.into_iter().chain(data.bad).collect() };
        let (hits, bad, wanted) = hits::find(&run, &packs, &objects, &maps.unreadable, bad, most)?;
        if let Some(ledger) = &ledger {
            // Copies of what is damaged, in packs that nobody refers to by place, which so far nobody read, and packs of so many
            // doubtful chunks that not all were read: a collector must not take them for intact (G5).
            let new: BTreeSet<_> =
                bad.parts.iter().map(|(pack, _)| *pack).filter(|pack| !known.contains(pack)).collect();
            new.iter().filter(|pack| pack.kind == PackKind::Data).for_each(|pack| ledger.note(pack, false, false));
            ledger.save();
        }
        let totals = packs.totals();
        let mut report = CheckReport {
            snapshots: objects.snapshots.len() as u64,
            records: objects.records,
            packs: totals.packs,
            nodes: totals.nodes,
            chunks: totals.chunks,
            data_bytes: totals.bytes,
            read_bytes: data.read_bytes,
            not_read: data.not_read,
            unused_packs: totals.unused_packs,
            unused_bytes: totals.unused_bytes,
            moved_chunks: totals.moved_chunks,
            moved_nodes: totals.moved_nodes,
            trees: objects.snapshots.iter().filter(|s| s.record.tree.is_some()).count() as u64,
            ..CheckReport::default()
        };
        if let Some(ledger) = &ledger {
            let hit: HashSet<SnapshotId> = hits.values().flatten().map(|hit| hit.snapshot).collect();
            let walked: HashSet<SnapshotId> = objects.snapshots.iter().map(|snapshot| snapshot.id).collect();
            let ages = match (ledger.works(), options.read_data) {
                (true, Some(_)) => age::of_all(&run, &packs, &objects.snapshots, &bad, &hit),
                (true, None) => Ok(walked.intersection(&hit).map(|id| (*id, None)).collect()),
                (false, _) => Ok(Vec::new()),
            };
            let is_data = |key: &Key| keys::parse_pack(key).is_some_and(|pack| pack.kind == PackKind::Data);
            let saw_all = objects.lost.is_empty() && maps.unreadable.is_empty() && hits.keys().all(is_data);
            // A pack that is gone and hits nobody was moved.
            let is_shared = !bad.parts.is_empty() || hits.keys().any(|key| keys::parse_pack(key).is_some());
            match ages {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                ages => ledger.finish(ages, Some(&walked).filter(|_| is_shared), saw_all, &mut report),
            }
        }
        report.damages = run.findings.into_damages(hits);
        Ok((report, wanted))
    }
}

/// What all steps share.
struct Run<'a> {
    repository: &'a Repository,
    options: &'a CheckOptions,
    watch: Watch<'a>,
    findings: Findings,
    /// Nodes of trees. Not the repository's, which may be older than the damage.
    trees: TreeCache,
    /// What is read is read since then.
    began: Timestamp,
}

impl Run<'_> {
    fn storage(&self) -> &dyn Storage {
        self.repository.storage()
    }

    /// True when the error says that an object is not as it should be; others end the check.
    fn is_damage(&self, error: &Error) -> bool {
        self.repository.is_damage(error)
    }

    /// Notes that a node does not open where it should be. True when its pack is gone: that it was there before it was asked for says
    /// nothing, a collector may have taken it since (V6).
    fn does_not_open(&self, node: &Piece, why: &Error) -> bool {
        let (key, is_gone) = (keys::pack(&node.at.pack), why.kind() == ErrorKind::NotFound);
        match is_gone {
            true => self.findings.missing(&key),
            false => self.findings.part(&key, node.at.ordinal, node.class),
        }
        is_gone
    }

    /// Does `work` for each item with several threads; the results are in the order of the items. The first error ends
    /// it.
    fn each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
        self.each_with(self.options.threads, items, work)
    }

    /// Likewise, with so many threads at most.
    fn each_with<T: Sync, R: Send>(
        &self,
        threads: usize,
        items: &[T],
        work: impl Fn(&T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        crate::side::each(threads, items, work)
    }
}

/// A chunk or node in a pack, as a slot or an entry of the pack's index describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    id: ShortId,
    /// Place, key and codec; `pack` and `ordinal` are those of the key.
    at: crate::Location,
    /// Size class, or 128 + level of a node.
    class: u8,
    /// Length of the plaintext in bytes.
    plain: u32,
}

impl Piece {
    /// 64 bits that differ for pieces that differ in anything.
    fn print(&self) -> u64 {
        let at = &self.at;
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.id.bytes()).update(&at.pack.to_bytes());
        for n in [at.epoch, at.ordinal, at.offset, at.len, self.plain] {
            hasher.update(&n.to_le_bytes());
        }
        hasher.update(&[at.codec as u8, self.class]);
        let mut out = [0; 8];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(out)
    }

    /// One past its last byte in the pack.
    fn end(&self) -> u64 {
        u64::from(self.at.offset) + u64::from(self.at.len)
    }
}
