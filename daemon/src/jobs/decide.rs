//! Which snapshots of a repository go, and which stay, by what is known of their backups: a pure function, the table of
//! `controller/docs/forgetting.md`. What is not certain is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wherry_api::Time;
use wherry_api::job::JobKind;
use wherry_repo::{ErrorKind, Timestamp};

/// The own clock and that of the storage may differ by so much (seconds): else no time that is compared means anything.
const SKEW: i64 = 300;
/// Fewer missing backups than this, or exactly so many, are never too many.
const FEW: usize = 5;
/// More of the unexpired backups than one in so many missing are too many.
const SHARE: usize = 5;
/// Bytes of the longest value of a label; Velero cuts longer names, and puts six digits of a hash in place of the end.
const LABEL: usize = 63;
const CUT: usize = LABEL - 6;

/// Why nothing may be taken of a location: its `status.phase`, its `spec.accessMode`, and how many seconds the own clock is ahead
/// of the storage's. `None`: it may.
pub(super) fn refusal(phase: &str, access_mode: &str, ahead: i64) -> Option<String> {
    if phase != "Available" {
        return Some(format!("its phase is {phase:?}, not Available"));
    }
    if access_mode == "ReadOnly" {
        return Some("it is ReadOnly".to_owned());
    }
    let differ = || format!("the clocks of this machine and of the storage differ by {} s", ahead.abs());
    (ahead.abs() > SKEW).then(differ)
}

/// How many seconds the own clock is ahead of the storage's, which is told by an object that is written. A gc goes on where there is no room
/// for that: it makes room first, by the times of what is stored.
pub(super) fn ahead(kind: JobKind, now: Time, storage: wherry_repo::Result<Timestamp>) -> wherry_repo::Result<i64> {
    match storage {
        Err(full) if full.kind() == ErrorKind::Full && kind == JobKind::Gc => {
            tracing::warn!("whether the clocks of this machine and of the storage agree is not known: {full}");
            Ok(0)
        }
        time => Ok(now.0.saturating_sub(time?.seconds())),
    }
}

/// A backup, as its snapshots name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backup {
    /// Id of the cluster.
    pub(super) cluster: String,
    /// Namespace of Velero there.
    pub(super) namespace: String,
    /// Its name, cut where it is too long for a label.
    pub(super) name: String,
    /// Its uid; may be empty.
    pub(super) uid: String,
}

impl Backup {
    /// By what its first absence is remembered.
    pub(super) fn key(&self) -> String {
        let last = if self.uid.is_empty() { &self.name } else { &self.uid };
        format!("{}/{}/{last}", self.cluster, self.namespace)
    }

    fn is_maybe_cut(&self) -> bool {
        self.name.len() >= LABEL
    }

    /// Whether that folder of the bucket is this backup's.
    fn is(&self, stored: &Stored) -> bool {
        let cut = || self.is_maybe_cut() && stored.name.len() > LABEL && stored.name.get(..CUT) == self.name.get(..CUT);
        match &stored.uid {
            Some(uid) if !self.uid.is_empty() => *uid == self.uid,
            _ => stored.name == self.name || cut(),
        }
    }
}

/// A snapshot that is not gone for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snap {
    /// Its id.
    pub(super) id: String,
    /// Whose it is; `None`: it has not the tags of a backup.
    pub(super) backup: Option<Backup>,
    /// When the backup expires; `None`: never, or nobody knew.
    pub(super) expires: Option<Time>,
    /// Somebody asked to forget it, which can still be undone.
    pub(super) tombstone: bool,
}

/// A folder below `backups/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its name.
    pub(super) name: String,
    /// `metadata.uid` in its `velero-backup.json`; `None`: not known, so it is nobody else's.
    pub(super) uid: Option<String>,
}

/// What is known beside the snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Now, by a clock that agrees with the storage's.
    pub(super) now: Time,
    /// Id of this cluster.
    pub(super) cluster: String,
    /// Namespace of Velero here.
    pub(super) namespace: String,
    /// Backups in the API: uid and name.
    pub(super) api: BTreeMap<String, String>,
    /// Folders of the bucket, listed to the end.
    pub(super) stored: Vec<Stored>,
    /// uids of Backups that were seen in phase Deleting.
    pub(super) deleting: BTreeSet<String>,
    /// First absences, by [`Backup::key`].
    pub(super) missing: BTreeMap<String, Time>,
    /// Ids of snapshots that a DataDownload which has not ended names.
    pub(super) restoring: BTreeSet<String>,
    /// A human's word: what was missing by then may go.
    pub(super) accepted: Option<Time>,
    /// A backup may be missing for so long before its snapshots go.
    pub(super) missing_for: Duration,
}

/// What becomes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays.
    Keep(Why),
    /// It stays for now: its backup is missing.
    Wait,
    /// It is to be forgotten; on hold only when too much is missing.
    Forget,
    /// Its tombstone is to be taken back, if a Job made it.
    Undo,
    /// It has one, and that stays.
    Gone,
    /// Likewise, and it may become final if a Job made it and its delay is over. Of another cluster's only what F2 would take: that cluster
    /// alone sees whether its backup is in its API, or a restore of it runs there.
    Settle,
}

/// Why a snapshot stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Made by hand.
    NoBackup,
    /// Its backup is there.
    Alive,
    /// A restore reads it.
    Restoring,
    /// Too much is missing.
    Hold,
}

/// More is missing than a Job may believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Own unexpired backups that are missing and not accepted.
    pub(super) missing: usize,
    /// Own unexpired backups in all.
    pub(super) of: usize,
    /// The latest first absence of them: a word from this time on lets them go.
    pub(super) latest: Time,
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    /// Of each snapshot, by id.
    pub(super) verdicts: BTreeMap<String, Verdict>,
    /// The first absences that are to be remembered.
    pub(super) missing: BTreeMap<String, Time>,
    /// Nothing is forgotten.
    pub(super) hold: Option<Hold>,
}

impl Evidence {
    fn is_own(&self, backup: &Backup) -> bool {
        backup.cluster == self.cluster && backup.namespace == self.namespace
    }

    fn is_alive(&self, backup: &Backup) -> bool {
        let in_api = self.is_own(backup)
            && match backup.uid.is_empty() {
                true => self.api.values().any(|name| backup.is(&Stored { name: name.clone(), uid: None })),
                false => self.api.contains_key(&backup.uid),
            };
        in_api || self.stored.iter().any(|stored| backup.is(stored))
    }

    /// A human has said that it may go.
    fn is_accepted(&self, since: Time) -> bool {
        // A time to come would be a word about what nobody has seen yet.
        self.accepted.is_some_and(|accepted| accepted <= self.now && since <= accepted)
    }

    /// Of a backup that is not alive: whether its snapshots go now.
    fn is_due(&self, backup: &Backup, expired: bool, since: Time) -> bool {
        let long = self.now >= since.after(self.missing_for);
        match self.is_own(backup) {
            true if self.deleting.contains(&backup.uid) => true,
            true if !backup.is_maybe_cut() => expired || long,
            _ => expired && long,
        }
    }
}

/// Names below `backups/` of which it matters whose they are: those of backups that the API has not.
pub(super) fn doubtful(snaps: &[Snap], evidence: &Evidence) -> BTreeSet<String> {
    let bare = Evidence { stored: Vec::new(), ..evidence.clone() };
    let backups = snaps.iter().filter_map(|snap| snap.backup.as_ref()).filter(|backup| !bare.is_alive(backup));
    let backups: BTreeSet<&Backup> = backups.collect();
    let names = backups.iter().flat_map(|backup| evidence.stored.iter().filter(|stored| backup.is(stored)));
    names.map(|stored| stored.name.clone()).collect()
}

/// All that is known of one backup.
struct Group<'a> {
    snaps: Vec<&'a Snap>,
    expired: bool,
}

/// Decides about all of them.
pub(super) fn decide(snaps: &[Snap], evidence: &Evidence) -> Decided {
    let mut decided = Decided::default();
    let mut groups: BTreeMap<&Backup, Group<'_>> = BTreeMap::new();
    for snap in snaps {
        let Some(backup) = &snap.backup else {
            let verdict = if snap.tombstone { Verdict::Gone } else { Verdict::Keep(Why::NoBackup) };
            decided.verdicts.insert(snap.id.clone(), verdict);
            continue;
        };
        let expired = snap.expires.is_some_and(|expires| expires <= evidence.now);
        let group = groups.entry(backup).or_insert_with(|| Group { snaps: Vec::new(), expired: true });
        group.expired &= expired;
        group.snaps.push(snap);
    }
    let mut hold = Hold { missing: 0, of: 0, latest: Time::default() };
    for (backup, group) in &groups {
        // What has a tombstone is no more counted, as it is not taken now.
        let counts = evidence.is_own(backup) && !group.expired && group.snaps.iter().any(|s| !s.tombstone);
        hold.of += usize::from(counts);
        let alive = evidence.is_alive(backup);
        let mut due = false;
        if !alive {
            let since = evidence.missing.get(&backup.key()).copied().unwrap_or(evidence.now);
            decided.missing.insert(backup.key(), since);
            due = evidence.is_due(backup, group.expired, since);
            if counts && !evidence.is_accepted(since) {
                hold.missing += 1;
                hold.latest = hold.latest.max(since);
            }
        }
        for snap in &group.snaps {
            let restoring = evidence.restoring.contains(&snap.id);
            let verdict = match snap.tombstone {
                true if alive || restoring => Verdict::Undo,
                true if due || evidence.is_own(backup) => Verdict::Settle,
                true => Verdict::Gone,
                false if alive => Verdict::Keep(Why::Alive),
                false if restoring => Verdict::Keep(Why::Restoring),
                false if due => Verdict::Forget,
                false => Verdict::Wait,
            };
            decided.verdicts.insert(snap.id.clone(), verdict);
        }
    }
    if hold.missing > FEW && hold.missing * SHARE > hold.of {
        for verdict in decided.verdicts.values_mut().filter(|verdict| **verdict == Verdict::Forget) {
            *verdict = Verdict::Keep(Why::Hold);
        }
        decided.hold = Some(hold);
    }
    decided
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
