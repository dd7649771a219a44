//! The chain of generations: G0, G8, G12. A number is taken once, and the mark of the next one begins after the delete set of
//! the one before is sealed.

use super::packs::no_room;
use super::{CollectStep, Run, TRIES};
use crate::format::records::{Generation, Sweep};
use crate::id::{PackId, SnapshotId};
use crate::storage::{Key, Listed, Storage, keys};
use crate::{Error, ErrorKind, Result, Timestamp};
use std::collections::{BTreeMap, HashSet};

/// The generations there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The number of the newest; 0: there is none.
    pub(super) newest: u32,
    /// When each delete set was sealed, by the storage's clock.
    pub(super) sealed: BTreeMap<u32, Timestamp>,
}

impl Chain {
    /// The newest, when it has no delete set yet.
    pub(super) fn unsealed(&self) -> Option<u32> {
        (self.newest > 0 && !self.sealed.contains_key(&self.newest)).then_some(self.newest)
    }
}

/// The chain of a repository, or the key of what is missing of it. A listing need not be one instant, so what came while it
/// was made may be in it and what came shortly before not (P2): a gap is one when the next listing has it too.
fn listed(storage: &dyn Storage) -> Result<std::result::Result<Chain, Key>> {
    let mut missing = None;
    for _ in 0..TRIES {
        let chain = list_chain(storage)?;
        let gap = gap(&chain);
        if gap.is_none() {
            return Ok(Ok(chain.1));
        }
        let is_lost = gap == missing;
        missing = gap;
        if is_lost {
            break;
        }
    }
    Ok(Err(missing.unwrap_or_else(|| keys::generation(1))))
}

/// What is missing of the chain of generations, if anything: without it neither backups nor collectors begin.
pub(crate) fn missing_generation(storage: &dyn Storage) -> Result<Option<Key>> {
    Ok(listed(storage)?.err())
}

/// The numbers of the lists there are, sorted, and what they and the delete sets make.
fn list_chain(storage: &dyn Storage) -> Result<(Vec<u32>, Chain)> {
    let (mut lists, mut sealed) = (Vec::new(), BTreeMap::new());
    storage.list(keys::GEN, &mut |Listed { key, modified, .. }| {
        match keys::parse_generation(&key) {
            Some((n, true)) => drop(sealed.insert(n, modified)),
            Some((n, false)) => lists.push(n),
            None => {}
        }
        Ok(())
    })?;
    lists.sort_unstable();
    let newest = lists.last().copied().unwrap_or(0);
    Ok((lists, Chain { newest, sealed }))
}

/// What is missing of a chain.
fn gap((lists, Chain { newest, sealed }): &(Vec<u32>, Chain)) -> Option<Key> {
    if let Some(n) = (1..=*newest).zip(lists).find_map(|(n, found)| (n != *found).then_some(n)) {
        return Some(keys::generation(n));
    }
    if let Some(n) = (1..*newest).find(|n| !sealed.contains_key(n)) {
        return Some(keys::sealed(n));
    }
    sealed.last_key_value().filter(|(n, _)| *n > newest).map(|(n, _)| keys::generation(*n))
}

impl Run<'_> {
    /// G0. A gap is damage: who does not know what a list condemned knows nothing of what was deleted (M5).
    pub(super) fn list_generations(&self) -> Result<Chain> {
        listed(self.storage())?.map_err(|key| {
            Error::corrupt(format!("{key} is gone: bring it back from a copy of the repository")).with_object(key)
        })
    }

    /// G0: each list can be read. The newest alone says whose records have to be there (V6), and no backup begins beside one that is
    /// damaged (W3, M5). So nothing is settled, published or deleted either.
    pub(super) fn read_lists(&self, chain: &Chain) -> Result<()> {
        let next = "bring it back from a copy of the repository";
        let read = |n: &u32| match self.repository.generation(*n) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = keys::generation(*n);
                Err(e.instead(format!("{key} is listed and not there: {next}")).with_object(key))
            }
            Err(e) if self.repository.is_damage(&e) => Err(e.advise(next)),
            read => read.map(drop),
        };
        let all: Vec<u32> = (1..=chain.newest).collect();
        // No more of them in memory at once than are read side by side.
        for part in all.chunks(self.options.threads.max(1)) {
            (self.watch)(CollectStep::Lists, u64::from(part[0]), 0)?;
            crate::side::each(self.options.threads, part, read)?;
        }
        Ok(())
    }

    /// The packs of a delete set.
    pub(super) fn delete_set(&self, n: u32) -> Result<Vec<PackId>> {
        Ok(self.repository.sweep(n)?.packs)
    }

    /// The random parts of the names of all packs in delete sets, sorted.
    pub(super) fn swept(&self, chain: &Chain) -> Result<Vec<u64>> {
        self.swept_by(&chain.sealed.keys().copied().collect::<Vec<_>>())
    }

    /// Of all packs in these delete sets. `Invalid` when memory does not suffice.
    pub(super) fn swept_by(&self, sets: &[u32]) -> Result<Vec<u64>> {
        let (mut swept, memory) = (Vec::new(), self.options.memory / 2);
        // No more of them in memory at once than are read side by side.
        for part in sets.chunks(self.options.threads.max(1)) {
            (self.watch)(CollectStep::Lists, swept.len() as u64, 0)?;
            let sets = crate::side::each(self.options.threads, part, |n| self.delete_set(*n))?;
            swept.extend(sets.into_iter().flatten().map(|pack| pack.random));
            if swept.len() as u64 * 8 > memory {
                return Err(no_room(swept.len(), memory));
            }
        }
        swept.sort_unstable();
        Ok(swept)
    }

    /// Whether each of these snapshots is called dead by a list already.
    pub(super) fn are_named(&self, dead: &[SnapshotId]) -> Result<bool> {
        let mut missing: HashSet<SnapshotId> = dead.iter().copied().collect();
        let newest = if missing.is_empty() { 0 } else { self.list_generations()?.newest };
        for n in (1..=newest).rev() {
            if missing.is_empty() {
                break;
            }
            (self.watch)(CollectStep::Lists, missing.len() as u64, 0)?;
            let list: Generation = self.repository.read(&keys::generation(n))?;
            missing.retain(|id| !list.dead.contains(id));
        }
        Ok(missing.is_empty())
    }

    /// G8: its number; `None` when that was taken by another collector.
    pub(super) fn publish(&self, chain: &Chain, list: Generation) -> Result<Option<u32>> {
        self.repository.check_collectable()?;
        let n = chain.newest + 1;
        match self.repository.publish_generation(n, &list) {
            // An earlier request of one's own has the same nonce (N2).
            Err(e) if e.kind() == ErrorKind::Conflict => {
                let stored: Generation = self.repository.read(&keys::generation(n))?;
                Ok((stored == list).then_some(n))
            }
            created => created.map(|()| Some(n)),
        }
    }

    /// G12. Where there is a delete set, that one counts.
    pub(super) fn seal(&self, n: u32, packs: Vec<PackId>) -> Result<()> {
        self.repository.check_collectable()?;
        let sweep = Sweep { packs, nonce: self.repository.nonce()? };
        match self.repository.publish_sweep(n, &sweep) {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            created => created,
        }
    }
}
