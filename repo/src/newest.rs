//! Which snapshot of a volume is the newest, for somebody who relies on it: a list of changed blocks holds what changed
//! since that one, and would give wrong data with any other.

use crate::id::{SnapshotId, VolumeId};
use crate::storage::{Key, keys};
use crate::{Repository, Result, Snapshot, SnapshotList, SnapshotRecord, Timestamp};
use std::collections::HashSet;

/// The newest snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Newest {
    /// It is certain which one that is, and it may be built upon.
    Snapshot(SnapshotId),
    /// It is not, for this reason.
    Unclear(String),
}

impl Repository {
    /// The newest committed snapshot of a volume, those that are forgotten or partial included: one that may not be built
    /// upon is no reason to take the one before it.
    pub fn newest(&self, volume: VolumeId) -> Result<Newest> {
        let list = self.snapshots(Some(volume))?;
        Ok(match self.may_be_newest(volume, &list)? {
            Some(key) => {
                let text = "cannot be read, is gone for good, and may have been the newest snapshot of the volume";
                Newest::Unclear(format!("{key} {text}"))
            }
            None => judge(&list, self.clock().now()),
        })
    }

    /// A damaged record of what is gone for good that is not older, by the storage's clock, than one that can be read.
    fn may_be_newest(&self, volume: VolumeId, list: &SnapshotList) -> Result<Option<Key>> {
        if list.spoiled.is_empty() {
            return Ok(None);
        }
        let readable: HashSet<SnapshotId> = list.snapshots.iter().chain(&list.gone).map(|s| s.id).collect();
        let (mut newest, mut spoiled) = (None, Vec::new());
        self.storage().list(&format!("{}{volume}/", keys::SNAP), &mut |object| {
            match keys::parse_snap(&object.key) {
                Some((_, id)) if readable.contains(&id) => newest = newest.max(Some(object.modified)),
                _ if list.spoiled.contains(&object.key) => spoiled.push((object.key, object.modified)),
                _ => {}
            }
            Ok(())
        })?;
        let is_older = |at: Timestamp| newest.is_some_and(|newest| is_older(at, newest));
        Ok(spoiled.into_iter().find(|(_, at)| !is_older(*at)).map(|(key, _)| key))
    }
}

/// What the record of a snapshot says of when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub id: SnapshotId,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was committed.
    pub ended: Timestamp,
    /// What it was built upon.
    pub parent: Option<SnapshotId>,
}

impl Made {
    pub(crate) fn new(id: SnapshotId, record: &SnapshotRecord) -> Self {
        Self { id, started: record.started, ended: record.ended, parent: record.parent }
    }

    /// Clocks differ and jump, and runs overlap: what began last need not be what was made last.
    pub fn is_later(&self, newest: &Self) -> bool {
        self.ended > newest.ended || self.parent == Some(newest.id)
    }
}

impl Snapshot {
    /// What its record says of when it was made.
    pub fn made(&self) -> Made {
        Made::new(self.id, &self.record)
    }
}

/// Whether an object was written before another one, by the storage's clock. Some storages say whole seconds.
fn is_older(at: Timestamp, than: Timestamp) -> bool {
    at.0.saturating_add(1_000_000_000) < than.0
}

fn newest(all: &[Made]) -> Option<Made> {
    all.iter().max_by_key(|made| (made.started, made.id)).copied()
}

/// Of all snapshots of a volume, those that are gone for good included, the ones that say which is the newest. Their records
/// stay (G13): without one, a list of changed blocks would be taken for one since an older snapshot.
pub(crate) fn witnesses(all: &[Made]) -> HashSet<SnapshotId> {
    let Some(newest) = newest(all) else { return HashSet::new() };
    all.iter().filter(|made| made.id == newest.id || made.is_later(&newest)).map(|made| made.id).collect()
}

fn judge(list: &SnapshotList, now: Timestamp) -> Newest {
    let unclear = Newest::Unclear;
    if let Some((key, error)) = list.damaged.first() {
        return unclear(format!("{key} cannot be read, and may be the newest snapshot of the volume ({error})"));
    }
    let all: Vec<Made> = list.snapshots.iter().chain(&list.gone).map(Snapshot::made).collect();
    let Some(made) = newest(&all) else {
        return unclear("the volume has no snapshot yet".to_owned());
    };
    let id = made.id;
    if let Some(other) = all.iter().find(|other| other.id != id && other.is_later(&made)) {
        return unclear(format!("it is not certain which snapshot is the newest, {id} or {}", other.id));
    }
    if made.ended > now {
        return unclear(format!("the newest snapshot, {id}, is from the future: a clock is wrong, or was"));
    }
    if !list.is_visible(&id) {
        return unclear(format!("the newest snapshot, {id}, is forgotten"));
    }
    if list.snapshots.iter().any(|s| s.id == id && s.record.partial) {
        return unclear(format!("the newest snapshot, {id}, is partial"));
    }
    if list.snapshots.iter().any(|s| s.id == id && s.record.origin.is_some()) {
        return unclear(format!("the newest snapshot, {id}, was copied from another repository"));
    }
    Newest::Snapshot(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::records::{Outcome, Settled, Verdict};
    use crate::index::ChunkIndex;
    use crate::storage::Memory;
    use crate::{
        CommitInfo, Components, Credential, InitOptions, PasswordCost, Snapshot, SnapshotWriter, System, WriterOptions,
    };
    use std::sync::Arc;
    use std::time::Duration;

    fn repository() -> Repository {
        let components = Components {
            storage: Arc::new(Memory::default()),
            clock: Arc::new(System::default()),
            rng: Arc::new(System::default()),
        };
        let cheap = PasswordCost { memory_kib: 8, passes: 1 };
        let options = InitOptions { password_cost: cheap, ..InitOptions::default() };
        Repository::init(components, &options, &Credential::Password("x".to_owned().into())).unwrap()
    }

    /// A snapshot of an empty volume.
    fn snapshot(repository: &Repository) -> Snapshot {
        let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
        let index = Arc::new(ChunkIndex::in_memory(1 << 20));
        SnapshotWriter::start(repository, index, &options).unwrap().commit(CommitInfo::default()).unwrap()
    }

    fn rewrite(repository: &Repository, snapshot: &Snapshot, change: impl FnOnce(&mut SnapshotRecord)) {
        let key = keys::snap(&snapshot.volume, &snapshot.id);
        let mut record = snapshot.record.clone();
        change(&mut record);
        let sealed = repository.sealed(&key, &Outcome::Snapshot(Box::new(record))).unwrap();
        repository.storage().overwrite(&key, sealed).unwrap();
    }

    fn newest(repository: &Repository) -> Newest {
        repository.newest(repository.volume_id("vm")).unwrap()
    }

    #[track_caller]
    fn unclear(repository: &Repository, words: &str) {
        let Newest::Unclear(why) = newest(repository) else { panic!("it was certain: {words}") };
        assert!(why.contains(words), "{why}");
    }

    #[test]
    fn one_that_may_not_be_built_upon_is_still_the_newest() {
        let repository = repository();
        unclear(&repository, "no snapshot yet");
        let first = snapshot(&repository);
        assert_eq!(newest(&repository), Newest::Snapshot(first.id));
        let second = snapshot(&repository);
        assert_eq!(newest(&repository), Newest::Snapshot(second.id));

        let origin = crate::Origin { repository: repository.id(), snapshot: first.id };
        rewrite(&repository, &second, |record| record.origin = Some(origin));
        unclear(&repository, "copied from another repository");
        rewrite(&repository, &second, |record| record.partial = true);
        unclear(&repository, "partial");
        rewrite(&repository, &second, |_| {});
        repository.forget(&second.id, Duration::ZERO, "test").unwrap();
        unclear(&repository, &second.id.to_string());
        repository.unforget(&second.id).unwrap();
        assert_eq!(newest(&repository), Newest::Snapshot(second.id));
        repository.forget(&second.id, Duration::ZERO, "test").unwrap();
        let settled = Settled { verdict: Verdict::Final, at: Timestamp(1), nonce: [1; 16] };
        repository.create(&keys::forget(&second.id, 1, true), &settled).unwrap();
        assert_eq!(repository.snapshots(None).unwrap().snapshots.len(), 1, "it is gone for good");
        unclear(&repository, "forgotten");
        // Nor does one come before it where its record cannot be read any more.
        let key = keys::snap(&second.volume, &second.id);
        repository.storage().overwrite(&key, b"junk".as_slice().into()).unwrap();
        assert!(repository.snapshots(None).unwrap().damaged.is_empty());
        unclear(&repository, "may have been the newest");
    }

    #[test]
    fn a_record_that_cannot_be_read_may_be_that_of_the_newest() {
        let repository = repository();
        let first = snapshot(&repository);
        snapshot(&repository);
        let key = keys::snap(&first.volume, &first.id);
        repository.storage().overwrite(&key, b"junk".as_slice().into()).unwrap();
        unclear(&repository, key.as_str());
    }

    #[test]
    fn clocks_alone_decide_nothing() {
        let repository = repository();
        let (first, second) = (snapshot(&repository), snapshot(&repository));
        // The clock went back between the two, and before that it ran ahead.
        rewrite(&repository, &second, |record| (record.started, record.ended) = (Timestamp(1), Timestamp(2)));
        unclear(&repository, "not certain");
        rewrite(&repository, &second, |record| {
            (record.started, record.ended, record.parent) = (Timestamp(1), first.record.ended, None);
        });
        assert_eq!(newest(&repository), Newest::Snapshot(first.id));
        // The other one ended later: two runs side by side.
        rewrite(&repository, &second, |record| {
            (record.started, record.ended, record.parent) = (Timestamp(1), second.record.ended, None);
        });
        unclear(&repository, "not certain");
        rewrite(&repository, &second, |record| {
            (record.started, record.ended) = (Timestamp(i64::MAX - 1), Timestamp(i64::MAX));
        });
        unclear(&repository, "future");
    }
}
