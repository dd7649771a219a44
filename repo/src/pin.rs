//! Pinning snapshots: what is pinned is not forgotten, neither by name nor by a policy. Steps F5 and F6 of
//! `docs/concurrency.md`.

use crate::format::clear;
use crate::format::records::{Pinned, Unpinned};
use crate::id::SnapshotId;
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A pin that was ended before it could be acknowledged is tried again so often.
const TRIES: usize = 10;

/// The pins of one snapshot.
#[derive(Debug, Default)]
struct Pins {
    /// One more than the highest number.
    next: u32,
    /// Those that were not ended.
    standing: BTreeSet<u32>,
}

impl Repository {
    /// The snapshots that are pinned, those that are gone for good among them.
    pub fn pins(&self) -> Result<BTreeSet<SnapshotId>> {
        let found = self.pins_below(keys::PIN)?;
        Ok(found.into_iter().filter(|(_, pins)| !pins.standing.is_empty()).map(|(id, _)| id).collect())
    }

    /// Whether a snapshot is pinned.
    pub fn is_pinned(&self, id: &SnapshotId) -> Result<bool> {
        Ok(!self.pins_of(id)?.standing.is_empty())
    }

    fn pins_of(&self, id: &SnapshotId) -> Result<Pins> {
        Ok(self.pins_below(&format!("{}{id}/", keys::PIN))?.remove(id).unwrap_or_default())
    }

    /// An end that cannot be read is none, and a beginning counts whether it can be read or not: damage drops no pin.
    fn pins_below(&self, prefix: &str) -> Result<BTreeMap<SnapshotId, Pins>> {
        let mut found: BTreeMap<SnapshotId, Pins> = BTreeMap::new();
        let keys: Vec<_> = self.list(prefix)?.iter().filter_map(keys::parse_pin).collect();
        for (id, k, unpinned) in &keys {
            let pins = found.entry(*id).or_default();
            pins.next = pins.next.max(k.saturating_add(1));
            if !unpinned {
                pins.standing.insert(*k);
            }
        }
        let ended = keys.into_iter().filter(|(.., unpinned)| *unpinned);
        let ended: Vec<_> = ended.map(|(id, k, _)| ((id, k), keys::pin(&id, k, true))).collect();
        for (((id, k), _), read) in ended.iter().zip(self.read_many::<_, Unpinned>(&ended)) {
            match read {
                Ok(_) => drop(found.entry(*id).or_default().standing.remove(k)),
                Err(e) if self.is_damage(&e) => tracing::warn!("{e}: the snapshot counts as pinned"),
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// F5. Pins a snapshot; false when it was pinned already. `Invalid` when somebody has asked to forget it, `Conflict`
    /// when it became final meanwhile, `Busy` when somebody ends each pin at once. From Ok on no policy and no `forget` takes it before [`unpin`](Self::unpin).
    pub fn pin(&self, id: &SnapshotId) -> Result<bool> {
        self.check_writable()?;
        for _ in 0..TRIES {
            if let Some(pinned) = self.try_to_pin(id)? {
                return Ok(pinned);
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("snapshot {id} is unpinned as often as it is pinned: try again")))
    }

    /// F5 once; `None` when no pin stands at its end.
    fn try_to_pin(&self, id: &SnapshotId) -> Result<Option<bool>> {
        match self.forget_of(id)? {
            Some(forget) if forget.is_final() => return Err(too_late(id)),
            Some(forget) if forget.hides() => {
                let text = format!("snapshot {id} is forgotten and was not pinned: `wherry unforget {id}` comes first");
                return Err(Error::invalid(text));
            }
            _ => {}
        }
        self.enable(clear::PIN)?;
        let Pins { next, standing } = self.pins_of(id)?;
        let pinned = match standing.is_empty() {
            false => {
                // From Ok on it holds, whoever made it and was not told yet.
                self.storage().make_durable(&mut standing.iter().map(|k| keys::pin(id, *k, false)))?;
                false
            }
            true => match self.create(&keys::pin(id, next, false), &self.pinned()?) {
                Ok(_) => true,
                Err(e) if e.kind() == ErrorKind::Conflict => false,
                Err(e) => return Err(e),
            },
        };
        // Ended since: then a forget that was asked for is right, and stays.
        if !self.is_pinned(id)? {
            return Ok(None);
        }
        // Asked for since: whoever asks may have looked for pins before this one was there.
        match self.unforget(id) {
            Ok(_) => Ok(Some(pinned)),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                self.unpin(id)?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    fn pinned(&self) -> Result<Pinned> {
        Ok(Pinned { at: self.clock().now(), nonce: self.nonce()? })
    }

    /// F6. Ends the pin of a snapshot; false when it was not pinned.
    pub fn unpin(&self, id: &SnapshotId) -> Result<bool> {
        self.check_writable()?;
        let standing = self.pins_of(id)?.standing;
        for k in &standing {
            let unpinned = Unpinned { at: self.clock().now(), nonce: self.nonce()? };
            match self.create(&keys::pin(id, *k, true), &unpinned) {
                Ok(_) => {}
                // Somebody else was first, or the one that is there is damaged: the key is taken for ever.
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    let key = keys::pin(id, *k, true);
                    let text = "the pin stays: bring the object back from a copy of the repository, or move it away and run \
                                `wherry unpin` again";
                    self.read::<Unpinned>(&key).map_err(|e| e.advise(text))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(!standing.is_empty())
    }
}

fn too_late(id: &SnapshotId) -> Error {
    Error::new(ErrorKind::Conflict, format!("it is too late: snapshot {id} was forgotten for good"))
}

#[cfg(test)]
mod tests;
