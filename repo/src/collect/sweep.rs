//! G13: deletes exactly what delete sets say, and records of snapshots that are gone for good. Any collector, any time.

use super::generation::Chain;
use super::report::Collected;
use super::{CollectStep, Run};
use crate::format::records::Generation;
use crate::id::{PackId, SnapshotId, VolumeId};
use crate::newest::{Made, witnesses};
use crate::storage::keys;
use crate::{Result, Snapshot};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Deletes between two looks at the watch.
const BATCH: usize = 256;

/// Whether a storage answers deletes. Each waits for as long as it may be away. One may fail for itself; after two without an answer
/// to any in between there is no end to it.
#[derive(Default)]
struct Silence {
    last: AtomicBool,
    for_good: AtomicBool,
    answers: AtomicUsize,
}

impl Silence {
    fn is_for_good(&self) -> bool {
        self.for_good.load(Ordering::Relaxed)
    }

    /// A delete begins: the answers so far.
    fn begin(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// One that began after so many answers had one, or none.
    fn end(&self, begun: usize, silence: bool) {
        let answers = self.answers.fetch_add(usize::from(!silence), Ordering::Relaxed);
        if self.last.swap(silence, Ordering::Relaxed) && silence && answers == begun {
            self.for_good.store(true, Ordering::Relaxed);
        }
    }
}

impl Run<'_> {
    pub(super) fn sweep(&self, report: &mut Collected) -> Result<()> {
        self.repository.check_collectable()?;
        let chain = self.list_generations()?;
        let (due, _) = self.due(&chain);
        self.await_grace(&chain, report)?;
        // What went is to be known as gone after a power cut, too: others may have listed these, and nobody been told that they are stored.
        self.storage().make_durable(&mut due.iter().flat_map(|n| [keys::generation(*n), keys::sealed(*n)]))?;
        let doomed = self.doomed(&due)?;
        let total: u64 = doomed.iter().map(|(_, size)| size).sum();
        let silence = Silence::default();
        for part in doomed.chunks(BATCH) {
            let deleted = crate::side::each(self.options.threads, part, |(id, size)| {
                if silence.is_for_good() {
                    return Ok((false, *size));
                }
                let begun = silence.begin();
                let deleted = self.storage().delete(&keys::pack(id));
                silence.end(begun, deleted.as_ref().is_err_and(|e| self.repository.is_silence(e)));
                if let Err(e) = &deleted {
                    tracing::warn!("{} was not deleted, the next run tries again: {e}", keys::pack(id));
                }
                Ok((deleted.is_ok(), *size))
            })?;
            for (deleted, size) in deleted {
                if deleted { report.swept.add(size) } else { report.failed.add(size) }
            }
            (self.watch)(CollectStep::Sweep, report.swept.bytes, total)?;
            // Whether that is the storage or these packs, what comes next tells.
            if silence.is_for_good() {
                tracing::warn!("no more packs are deleted by this run: the storage did not answer twice in a row");
                break;
            }
        }
        self.clear_sessions(report)?;
        self.remove_records(&due, report)
    }

    /// The generations whose grace is over, and those where it is not.
    fn due(&self, chain: &Chain) -> (Vec<u32>, Vec<u32>) {
        let is_due = |n: &u32| self.age(chain.sealed[n]) >= self.options.grace;
        chain.sealed.keys().partition(|n| is_due(n))
    }

    /// Says how much waits for the end of the grace.
    pub(super) fn await_grace(&self, chain: &Chain, report: &mut Collected) -> Result<()> {
        let (_, young) = self.due(chain);
        report.graced = Default::default();
        self.doomed(&young)?.iter().for_each(|(_, size)| report.graced.add(*size));
        Ok(())
    }

    /// Packs of these delete sets that are still there, and their sizes.
    fn doomed(&self, generations: &[u32]) -> Result<Vec<(PackId, u64)>> {
        let swept = self.swept_by(generations)?;
        let mut found = Vec::new();
        if swept.is_empty() {
            return Ok(found);
        }
        self.each_pack(&mut |id, size| {
            found.extend(swept.binary_search(&id.random).is_ok().then_some((id, size)));
            Ok(())
        })?;
        drop(swept);
        // Of a few of them the sets say their names in full: mostly the newest.
        found.sort_unstable();
        found.dedup();
        let mut doomed = Vec::with_capacity(found.len());
        for part in generations.rchunks(self.options.threads.max(1)) {
            if found.is_empty() {
                break;
            }
            (self.watch)(CollectStep::Lists, doomed.len() as u64, 0)?;
            let sets = crate::side::each(self.options.threads, part, |n| self.delete_set(*n))?;
            let mut named: Vec<PackId> = sets.into_iter().flatten().collect();
            named.sort_unstable();
            doomed.extend(found.extract_if(.., |(id, _)| named.binary_search(id).is_ok()));
        }
        Ok(doomed)
    }

    /// Removes the records that these lists call dead, but for those that say which snapshot of a volume is the newest.
    fn remove_records(&self, due: &[u32], report: &mut Collected) -> Result<()> {
        let forgets = self.repository.listed_forgets(keys::FORGET)?;
        let mut gone: HashMap<SnapshotId, VolumeId> = HashMap::new();
        self.storage().list(keys::SNAP, &mut |object| {
            gone.extend(keys::parse_snap(&object.key).map(|(volume, id)| (id, volume)));
            Ok(())
        })?;
        // Of what has no record there is nothing to remove.
        let forgets = self.repository.verdicts(&forgets, |id| gone.contains_key(id))?;
        gone.retain(|id, _| forgets.get(id).is_some_and(|forget| forget.is_final()));
        if gone.is_empty() {
            return Ok(());
        }
        let mut dead: BTreeMap<VolumeId, Vec<SnapshotId>> = BTreeMap::new();
        for (k, part) in due.chunks(self.options.threads.max(1)).enumerate() {
            (self.watch)(CollectStep::Lists, k as u64, 0)?;
            let read = |n: &u32| Ok(self.repository.read::<Generation>(&keys::generation(*n))?.dead);
            for id in crate::side::each(self.options.threads, part, read)?.into_iter().flatten() {
                if let Some(volume) = gone.get(&id) {
                    dead.entry(*volume).or_default().push(id);
                }
            }
        }
        // A session that has notes and no record might be taken for one that is open.
        let noted: HashSet<SnapshotId> =
            self.repository.list(keys::SESS)?.iter().filter_map(keys::parse_session).map(|(id, _)| id).collect();
        for (volume, ids) in dead {
            (self.watch)(CollectStep::Sweep, report.swept.bytes, report.swept.bytes)?;
            let list = self.repository.snapshots_beside(volume, &forgets)?;
            if !list.damaged.is_empty() {
                continue;
            }
            let all: Vec<Made> = list.snapshots.iter().chain(&list.gone).map(Snapshot::made).collect();
            let kept = witnesses(&all);
            // One that became damaged since a list named it stays (G4): it may be the newest.
            let read: HashSet<SnapshotId> = list.snapshots.iter().chain(&list.gone).map(|s| s.id).collect();
            for id in ids.into_iter().filter(|id| read.contains(id) && !kept.contains(id) && !noted.contains(id)) {
                (self.watch)(CollectStep::Sweep, report.swept.bytes, report.swept.bytes)?;
                self.storage().delete(&keys::snap(&volume, &id))?;
                report.records += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Silence;

    #[test]
    fn only_silence_without_an_answer_to_any_is_for_good() {
        let silence = Silence::default();
        // Two that take long, side by side, while others are answered.
        let slow = [silence.begin(), silence.begin()];
        silence.end(silence.begin(), false);
        slow.into_iter().for_each(|begun| silence.end(begun, true));
        assert!(!silence.is_for_good());
        let begun = silence.begin();
        silence.end(silence.begin(), false);
        silence.end(begun, true);
        assert!(!silence.is_for_good(), "one between answers");
        silence.end(silence.begin(), true);
        assert!(silence.is_for_good());
    }
}
