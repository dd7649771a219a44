//! Which packs checks have found damaged: for writers, which refer to none of them (W8), and for collectors, which keep what
//! is intact elsewhere (G5).

use super::ledger::{TRIES, latest};
use crate::format::checked::{ReadTogether, Readings};
use crate::id::PackId;
use crate::storage::{Key, keys};
use crate::{ErrorKind, Repository, Result, Timestamp};
use std::collections::{HashMap, HashSet};

/// Records that are in memory at once; each may take 2 MiB.
const AT_ONCE: usize = 8;

impl Repository {
    /// The packs that were damaged when a check last read them, as `checked/packs` says. A reading that is dated further ahead
    /// than a wrong clock explains counts where it says damage, and not where it says that all is intact. A record that is
    /// damaged itself is left out: a check reads anew what only that one had.
    ///
    /// Costs a listing; the records are read once, and those with later readings a second time where some pack is damaged.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub(crate) fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        for _ in 0..TRIES {
            if let Some(damaged) = self.damaged_now()? {
                return Ok(damaged);
            }
        }
        // Checks put records together faster than they are read here; nobody waits for that.
        let damaged = self.damaged_now()?;
        if damaged.is_none() {
            tracing::warn!("checks are at work, so which packs they have found damaged is not known");
        }
        Ok(damaged.unwrap_or_default())
    }

    /// `None`: a record went while it was read. What it said is in another one, which may not have been listed.
    fn damaged_now(&self) -> Result<Option<HashSet<PackId>>> {
        let mut found = self.list(keys::READ)?;
        found.retain(|key| keys::parse_readings(key).is_some());
        let mut damaged: HashMap<PackId, Timestamp> = HashMap::new();
        // When the newest reading of each record was.
        let mut times: HashMap<Key, Timestamp> = HashMap::new();
        let whole = self.each_reading(&found, |key, group| {
            let time = times.entry(key.clone()).or_insert(group.at);
            *time = group.at.max(*time);
            for id in &group.damaged {
                let at = damaged.entry(*id).or_insert(group.at);
                *at = group.at.max(*at);
            }
        })?;
        if !whole {
            return Ok(None);
        }
        let Some(first) = damaged.values().min().copied() else { return Ok(Some(HashSet::new())) };
        // What was brought back from a copy of the repository, and read since.
        found.retain(|key| times.get(key).is_some_and(|newest| *newest > first));
        let latest = latest(self);
        let whole = self.each_reading(&found, |_, group| {
            for id in group.intact.iter().filter(|_| group.at <= latest) {
                if damaged.get(id).is_some_and(|at| *at < group.at) {
                    damaged.remove(id);
                }
            }
        })?;
        Ok(whole.then(|| damaged.into_keys().collect()))
    }

    /// False when a record was gone by the time it was read.
    fn each_reading(&self, found: &[Key], mut take: impl FnMut(&Key, &ReadTogether)) -> Result<bool> {
        for part in found.chunks(AT_ONCE) {
            let part: Vec<_> = part.iter().map(|key| ((), key.clone())).collect();
            for (((), key), record) in part.iter().zip(self.read_many::<_, Readings>(&part)) {
                match record {
                    Ok((record, _)) => record.groups.iter().for_each(|group| take(key, group)),
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
                    Err(e) if self.is_damage(&e) => {
                        tracing::warn!(
                            "{key} cannot be read, so which packs are damaged may not be known: {e}; run \
                            `wherry check --read-data`"
                        );
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(true)
    }
}
