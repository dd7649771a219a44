//! The snapshots that there are, and what was forgotten of them.

use super::{Repository, Snapshot, SnapshotList};
use crate::forget::Forget;
use crate::format::records::Outcome;
use crate::id::{SnapshotId, VolumeId};
use crate::storage::{Key, keys};
use crate::{ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};

impl Repository {
    /// Every snapshot of every volume, or of one.
    pub fn snapshots(&self, volume: Option<VolumeId>) -> Result<SnapshotList> {
        // Records first: of each that is among them what was asked by then is known. One that a collector removes in between is not found.
        let found = self.listed_records(volume)?;
        let own: BTreeSet<SnapshotId> = found.iter().map(|((_, id), _)| *id).collect();
        let listed = match volume {
            Some(_) => self.listed_forgets_of(&own)?,
            None => self.listed_forgets(keys::FORGET)?,
        };
        let traces = listed.settled().filter(|id| volume.is_none() && !own.contains(id)).collect();
        let forgets = self.verdicts(&listed, |id| own.contains(id))?;
        Ok(SnapshotList { traces, ..self.read_records(&found, forgets)? })
    }

    /// The outcome objects of all volumes, or of one.
    fn listed_records(&self, volume: Option<VolumeId>) -> Result<Vec<((VolumeId, SnapshotId), Key)>> {
        let prefix = volume.map_or_else(|| keys::SNAP.to_string(), |v| format!("{}{v}/", keys::SNAP));
        Ok(self.list(&prefix)?.into_iter().filter_map(|key| Some((keys::parse_snap(&key)?, key))).collect())
    }

    /// The snapshots of one volume, of whose forgets this is known.
    pub(crate) fn snapshots_beside(
        &self,
        volume: VolumeId,
        forgets: &BTreeMap<SnapshotId, Forget>,
    ) -> Result<SnapshotList> {
        let found = self.listed_records(Some(volume))?;
        let own = found.iter().filter_map(|((_, id), _)| Some((*id, *forgets.get(id)?))).collect();
        self.read_records(&found, own)
    }

    fn read_records(
        &self,
        found: &[((VolumeId, SnapshotId), Key)],
        forgets: BTreeMap<SnapshotId, Forget>,
    ) -> Result<SnapshotList> {
        let mut list = SnapshotList { forgets, ..SnapshotList::default() };
        let is_final = |list: &SnapshotList, id: &SnapshotId| list.forgets.get(id).is_some_and(|f| f.is_final());
        for (((volume, id), key), outcome) in found.iter().zip(self.read_many(found)) {
            match outcome {
                Ok((Outcome::Snapshot(record), record_size)) => {
                    list.snapshots.push(Snapshot { id: *id, volume: *volume, record: *record, record_size })
                }
                Ok((Outcome::Fence(fence), _)) => list.fenced.push((*id, fence.at)),
                // Whoever takes a record has made that final before; maybe only since forgets were listed.
                Err(e) if e.kind() == ErrorKind::NotFound && (is_final(&list, id) || self.is_gone(id)?) => {}
                // The others are as they were. One that is gone for good nobody misses.
                Err(e) if self.is_damage(&e) && list.forgets.get(id).is_some_and(|f| f.is_final()) => {
                    list.spoiled.push(key.clone());
                }
                Err(e) if self.is_damage(&e) => list.damaged.push((key.clone(), e)),
                Err(e) => return Err(e),
            }
        }
        let is_final = |s: &mut Snapshot| list.forgets.get(&s.id).is_some_and(|f| f.is_final());
        list.gone = list.snapshots.extract_if(.., is_final).collect();
        list.snapshots.sort_by_key(|s| (s.record.started, s.id));
        Ok(list)
    }
}
