//! Which snapshots are there to be copied, and what each copy is built upon.

use crate::format::records::{Origin, Outcome};
use crate::storage::{Key, keys};
use crate::{Repository, Result, Snapshot, SnapshotId, SnapshotList};
use std::collections::{HashMap, HashSet};

/// A snapshot of the source and its copy at the target, upon which another copy is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// At the source.
    pub of: Snapshot,
    /// At the target.
    pub copy: SnapshotId,
}

/// What the target has of what the source has.
#[derive(Debug)]
pub struct CopyPlan {
    source: SnapshotList,
    /// Snapshots of the target, by what they are copies of: the id and whether they are visible.
    there: HashMap<Origin, Vec<(SnapshotId, bool, bool)>>,
    origins: HashMap<SnapshotId, Origin>,
    /// Records of the target that need not be read again.
    seen: HashSet<SnapshotId>,
}

/// What a snapshot is a copy of; itself, when it is none.
pub(crate) fn origin(repository: &Repository, snapshot: &Snapshot) -> Origin {
    let own = Origin { repository: repository.id(), snapshot: snapshot.id };
    snapshot.record.origin.unwrap_or(own)
}

impl CopyPlan {
    /// From the lists of both repositories. What the target has is told as copied, so it is made durable: whoever makes it may not have
    /// been told yet that it is stored.
    ///
    /// # Errors
    /// The target does not make it durable.
    pub fn new(source: &Repository, listed: SnapshotList, target: &Repository, there: &SnapshotList) -> Result<Self> {
        let mut found: HashMap<Origin, Vec<_>> = HashMap::new();
        for snapshot in &there.snapshots {
            let known = found.entry(origin(target, snapshot)).or_default();
            known.push((snapshot.id, there.is_visible(&snapshot.id), snapshot.record.partial));
        }
        let origins: HashMap<_, _> = listed.snapshots.iter().map(|s| (s.id, origin(source, s))).collect();
        let wanted: HashSet<&Origin> = origins.values().collect();
        let copies = there.snapshots.iter().filter(|s| wanted.contains(&origin(target, s)));
        target.storage().make_durable(&mut copies.map(|s| keys::snap(&s.volume, &s.id)))?;
        let seen = there.snapshots.iter().chain(&there.gone).map(|s| s.id);
        let seen = seen.chain(there.fenced.iter().map(|(id, _)| *id)).collect();
        Ok(Self { source: listed, there: found, origins, seen })
    }

    /// The snapshots of the source.
    pub fn source(&self) -> &SnapshotList {
        &self.source
    }

    fn at_target(&self, id: &SnapshotId) -> &[(SnapshotId, bool, bool)] {
        self.origins.get(id).and_then(|origin| self.there.get(origin)).map_or(&[], Vec::as_slice)
    }

    /// The one of the target that holds the same as this one of the source, and whether it is visible there; one that is
    /// forgotten there is there too, until it is gone for good.
    pub fn copy_of(&self, id: &SnapshotId) -> Option<(SnapshotId, bool)> {
        let found = self.at_target(id);
        let best = found.iter().find(|(_, visible, _)| *visible).or(found.first());
        best.map(|(id, visible, _)| (*id, *visible))
    }

    /// As [`copy_of`](Self::copy_of), what others have copied since the target was listed; reads only what is new of the volume.
    pub fn copied_since(&self, target: &Repository, snapshot: &Snapshot) -> Result<Option<(SnapshotId, bool)>> {
        let prefix = format!("{}{}/", keys::SNAP, target.volume_id(&snapshot.record.name));
        let new = |key: Key| Some((keys::parse_snap(&key)?.1, key)).filter(|(id, _)| !self.seen.contains(id));
        let new: Vec<_> = target.list(&prefix)?.into_iter().filter_map(new).collect();
        for ((id, key), read) in new.iter().zip(target.read_many::<_, Outcome>(&new)) {
            let record = match read {
                Ok((Outcome::Snapshot(record), _)) => record,
                Ok((Outcome::Fence(_), _)) => continue,
                // Of this one nobody knows what it is a copy of.
                Err(e) if target.is_damage(&e) => continue,
                Err(e) => return Err(e),
            };
            if record.origin.is_some() && record.origin.as_ref() == self.origins.get(&snapshot.id) {
                match target.forget_of(id)? {
                    Some(forget) if forget.is_final() => {}
                    forget => {
                        target.storage().make_durable(&mut std::iter::once(key.clone()))?;
                        return Ok(Some((*id, !forget.is_some_and(|forget| forget.hides()))));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the copy of a snapshot is best built upon: the one it was built upon itself, else the newest of the volume that is
    /// not newer, else the oldest. Both are visible and whole, and of one kind.
    pub fn base_of(&self, snapshot: &Snapshot) -> Option<Base> {
        let fits = |other: &&Snapshot| {
            other.volume == snapshot.volume
                && other.id != snapshot.id
                && other.record.tree.is_some() == snapshot.record.tree.is_some()
                && other.record.class == snapshot.record.class
                && !other.record.partial
        };
        let base = |other: &Snapshot| {
            let copy = self.at_target(&other.id).iter().find(|(_, visible, partial)| *visible && !partial)?;
            Some(Base { of: other.clone(), copy: copy.0 })
        };
        let mut all: Vec<_> = self.source.visible().filter(fits).collect();
        // The nearest first: those before it from new to old, then those behind it.
        let key = |s: &Snapshot| (s.record.started, s.id);
        let mine = key(snapshot);
        let behind = all.partition_point(|s| key(s) < mine);
        all[..behind].reverse();
        let parent = snapshot.record.parent.and_then(|parent| all.iter().find(|s| s.id == parent).copied());
        parent.into_iter().chain(all).find_map(base)
    }

    /// Notes that a snapshot was copied.
    pub fn note(&mut self, id: &SnapshotId, copy: &Snapshot) {
        self.seen.insert(copy.id);
        if let Some(origin) = self.origins.get(id) {
            self.there.entry(*origin).or_default().push((copy.id, true, copy.record.partial));
        }
    }
}
