//! `wherry job forget`: looks at cluster, bucket and repository, decides, and forgets.

use super::decide::{Backup, Decided, Evidence, Snap, Stored, Verdict, decide, doubtful};
use super::{Job, Outcome, result};
use crate::cli::JobForgetArgs;
use crate::commands::forget::DELAY;
use crate::exit::one_line;
use anyhow::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wherry_api::api::{Api, Kind};
use wherry_api::job::{ACCEPTED, DELETING, Forgetting, JobKind, State};
use wherry_api::{BackupStorageLocation, Phase, SnapshotId, Time, labels};
use wherry_repo::{ErrorKind, Key, Repository, SnapshotRecord, Storage};

/// How long a backup may be missing where nothing else is said.
const MISSING_FOR: Duration = Duration::from_secs(14 * 86_400);
/// Below the prefix of a location: Velero's backups.
const BACKUPS: &str = "backups";
/// In the folder of each: the Backup as it was.
const BACKUP: &str = "velero-backup.json";
/// How the reason of each tombstone begins that a Job made; by it a Job knows those that it may take back.
pub(crate) const REASON: &str = "job: ";
/// That a backup was being deleted counts for so many seconds.
const SEEN: i64 = 30 * 86_400;

pub(super) fn run(job: &Job<'_>, args: &JobForgetArgs) -> Result<Outcome> {
    let (location, store) = match job.open(JobKind::Forget)? {
        Ok(opened) => opened,
        Err(refused) => return Ok(refused),
    };
    let repository = &store.repository;
    let id = repository.id().to_string();
    // In this order: a backup is in the API before it has a snapshot, and stays there until it is in the bucket.
    let snaps = snapshots(repository)?;
    let mut evidence = Evidence {
        now: job.now(),
        cluster: job.around.cluster()?,
        namespace: job.around.namespace.clone(),
        missing: result::missing(&job.around, &job.location, &id)?,
        missing_for: args.missing_for.map_or(MISSING_FOR, |time| time.0),
        accepted: accepted(&location),
        ..Evidence::default()
    };
    cluster(job, &mut evidence)?;
    let bucket = store.beside(BACKUPS)?;
    evidence.stored = stored(job, &*bucket)?;
    let asked = doubtful(&snaps, &evidence);
    for stored in evidence.stored.iter_mut().filter(|stored| asked.contains(&stored.name)) {
        job.context.cancel.check()?;
        stored.uid = uid(&*bucket, &stored.name)?;
    }
    let decided = decide(&snaps, &evidence);
    let _turn = repository.begin_writing("job forget")?;
    let mut done = Forgetting { missing: decided.missing.clone(), ..Forgetting::default() };
    let delay = args.delay.map_or(DELAY, |delay| delay.0);
    let mut failed = None;
    // What is brought back comes first: nothing that fails elsewhere keeps it from that.
    for undoes in [true, false] {
        for snap in &snaps {
            let Some(verdict) = decided.verdicts.get(&snap.id) else { continue };
            if (*verdict == Verdict::Undo) != undoes {
                continue;
            }
            job.context.cancel.check()?;
            let is_final = decided.hold.is_none();
            if let Err(e) = act(repository, snap, *verdict, delay, is_final, &mut done) {
                tracing::error!(snapshot = %snap.id, "{}", one_line(&e));
                failed.get_or_insert_with(|| format!("snapshot {}: {}; ", snap.id, one_line(&e)));
            }
        }
    }
    done.held = decided.hold.as_ref().map_or(0, |hold| hold.missing as u64);
    let state = match (&failed, &decided.hold) {
        (Some(_), _) => State::Failed,
        (None, Some(_)) => State::OnHold,
        (None, None) => State::Done,
    };
    Ok(Outcome {
        state,
        message: failed.unwrap_or_default() + &text(job, &decided, &done),
        repository: Some(id),
        forgetting: Some(done),
        ..Outcome::default()
    })
}

/// All that are not gone for good. A record that cannot be read is not among them, and is left alone.
fn snapshots(repository: &Repository) -> Result<Vec<Snap>> {
    let list = repository.snapshots(None)?;
    for (key, error) in &list.damaged {
        tracing::warn!("{key} cannot be read: {error}");
    }
    let snap = |snapshot: &wherry_repo::Snapshot| Snap {
        id: snapshot.id.to_string(),
        backup: backup(&snapshot.record),
        expires: snapshot.record.tags.get(labels::EXPIRES).and_then(|text| text.parse().ok()),
        tombstone: !list.is_visible(&snapshot.id),
    };
    Ok(list.snapshots.iter().map(snap).collect())
}

fn backup(record: &SnapshotRecord) -> Option<Backup> {
    let tag = |name: &str| record.tags.get(name).cloned();
    Some(Backup {
        cluster: tag(labels::CLUSTER)?,
        namespace: tag(labels::VELERO_NAMESPACE)?,
        name: tag(labels::BACKUP)?,
        uid: tag(labels::BACKUP_UID).unwrap_or_default(),
    })
}

/// A human's word. One that cannot be read says nothing.
fn accepted(location: &BackupStorageLocation) -> Option<Time> {
    let text = location.metadata.annotation(ACCEPTED)?;
    text.parse().inspect_err(|e| tracing::warn!("annotation {ACCEPTED} of {}: {e}", location.metadata.name)).ok()
}

/// What the API server knows.
fn cluster(job: &Job<'_>, evidence: &mut Evidence) -> Result<()> {
    let around = &job.around;
    let list = |kind| around.wait(around.api.list(kind, &around.namespace, &[]));
    for object in list(Kind::Backup)? {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        evidence.api.insert(text("uid"), text("name"));
    }
    evidence.restoring = list(Kind::DataDownload)?.iter().filter_map(restored).collect();
    evidence.deleting = deleting(&around.get(Kind::ConfigMap, DELETING)?.unwrap_or_default(), job.now());
    Ok(())
}

/// The uids of Backups that were seen in phase Deleting, by the ConfigMap that says so. A deletion may fail, and the backup be whole
/// again: what was seen long ago says nothing.
pub(crate) fn deleting(map: &Value, now: Time) -> BTreeSet<String> {
    let counts = |at: &Value| at.as_str().and_then(|at| at.parse::<Time>().ok()).is_some_and(|at| now.0 < at.0 + SEEN);
    let seen = map["data"].as_object().into_iter().flatten().filter(|(_, at)| counts(at));
    // Never the uid of a backup that has none.
    seen.map(|(uid, _)| uid.clone()).filter(|uid| !uid.is_empty()).collect()
}

/// The snapshot that a DataDownload reads, or is going to.
pub(crate) fn restored(cr: &Value) -> Option<String> {
    let phase = Phase::from(cr["status"]["phase"].as_str().unwrap_or_default());
    let id: SnapshotId = cr["spec"]["snapshotID"].as_str()?.parse().ok()?;
    (!phase.is_terminal()).then_some(id.session)
}

/// Folders below `backups/`, to the last one.
fn stored(job: &Job<'_>, bucket: &dyn Storage) -> Result<Vec<Stored>> {
    let mut names = BTreeSet::new();
    bucket.list("", &mut |object| {
        job.context.cancel.check()?;
        names.extend(object.key.as_str().split_once('/').map(|(name, _)| name.to_owned()));
        Ok(())
    })?;
    Ok(names.into_iter().map(|name| Stored { name, uid: None }).collect())
}

/// Whose a folder is; `None`: that is not said there.
fn uid(bucket: &dyn Storage, name: &str) -> Result<Option<String>> {
    // Of a name too long for a key it stays unknown.
    let Ok(key) = Key::new(format!("{name}/{BACKUP}")) else { return Ok(None) };
    let bytes = match bucket.get(&key) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    Ok(uid_in(&bytes))
}

/// The uid in a `velero-backup.json`.
pub(crate) fn uid_in(bytes: &[u8]) -> Option<String> {
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()).map(ToOwned::to_owned)
}

/// `is_final`: what was forgotten, and whose delay is over, goes for good now that its backup was seen to be gone once more.
fn act(
    repository: &Repository,
    snap: &Snap,
    verdict: Verdict,
    delay: Duration,
    is_final: bool,
    done: &mut Forgetting,
) -> Result<()> {
    let id = snap.id.parse()?;
    let is_own = || Ok::<_, wherry_repo::Error>(repository.forget_reason(&id)?.is_some_and(|r| r.starts_with(REASON)));
    match verdict {
        Verdict::Keep(_) => done.kept += 1,
        Verdict::Wait => done.waiting += 1,
        Verdict::Gone => {}
        Verdict::Settle => {
            let due = repository.forget_due(&id)?.is_some_and(|due| due <= repository.components().clock.now());
            if is_final && due && is_own()? {
                match repository.settle(&id) {
                    Ok(true) => tracing::info!(snapshot = %id, "gone for good: its backup did not come back"),
                    Ok(false) => {}
                    // The storage's clock counts, and is behind this one.
                    Err(e) if e.kind() == ErrorKind::Invalid => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Verdict::Forget => {
            let name = snap.backup.as_ref().map_or("", |backup| &backup.name);
            match repository.forget(&id, delay, &format!("{REASON}backup {name:?} is gone")) {
                Err(e) if e.kind() == ErrorKind::Invalid && repository.is_pinned(&id)? => done.pinned += 1,
                // Whoever was first, it is forgotten.
                asked => {
                    done.forgotten += u64::from(asked?);
                    tracing::info!(snapshot = %id, backup = name, "forgotten");
                }
            }
        }
        Verdict::Undo if is_own()? => {
            // Too late is an error: the backup is there, and its snapshot is not.
            done.undone += u64::from(repository.unforget(&id)?);
            tracing::info!(snapshot = %id, "brought back: its backup is there again, or it is being restored");
        }
        // A human forgot it.
        Verdict::Undo => {}
    }
    Ok(())
}

fn text(job: &Job<'_>, decided: &Decided, done: &Forgetting) -> String {
    let counts: BTreeMap<&str, u64> = BTreeMap::from([
        ("stay", done.kept),
        ("wait", done.waiting),
        ("forgotten", done.forgotten),
        ("brought back", done.undone),
        ("pinned", done.pinned),
    ]);
    let counts: Vec<_> = counts.iter().filter(|(_, n)| **n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    let Some(hold) = &decided.hold else { return format!("snapshots: {counts}") };
    format!(
        "on hold, nothing is forgotten: of {} backups that have not expired {} are neither in the cluster nor in the bucket. If that is \
         as it should be: kubectl -n {} annotate --overwrite backupstoragelocation {} {ACCEPTED}={} (snapshots: {counts})",
        hold.of, hold.missing, job.around.namespace, job.location, hold.latest
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use wherry_repo::storage::{Memory, keys};
    use wherry_repo::{Clock, Components, Credential, InitOptions, PasswordCost, System, Timestamp};

    /// That of a node which is a year ahead.
    #[derive(Debug, Default)]
    struct Ahead(System);

    impl Clock for Ahead {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.now().0 + 365 * 86_400 * 1_000_000_000)
        }

        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }

        fn sleep(&self, time: Duration) {
            self.0.sleep(time);
        }
    }

    fn repository() -> Repository {
        let storage = Arc::new(Memory::default());
        let components = Components { storage, clock: Arc::new(Ahead::default()), rng: Arc::new(System::default()) };
        let mut options = InitOptions::default();
        options.password_cost = PasswordCost::new(8, 1);
        Repository::init(components, &options, &Credential::Password("x".to_owned().into())).unwrap()
    }

    fn tombstone() -> Snap {
        Snap { id: "0123456789abcdef".repeat(2), backup: None, expires: None, tombstone: true }
    }

    /// Whose it is nobody can tell then: it is left alone, until somebody asks anew.
    #[test]
    fn a_forget_that_cannot_be_read_fails_no_job() {
        let (repository, snap) = (repository(), tombstone());
        let id = snap.id.parse().unwrap();
        assert!(repository.forget(&id, Duration::ZERO, REASON).unwrap());
        repository.storage().overwrite(&keys::forget(&id, 0, false), b"junk".as_slice().into()).unwrap();
        for verdict in [Verdict::Settle, Verdict::Undo, Verdict::Forget] {
            let mut done = Forgetting::default();
            act(&repository, &snap, verdict, Duration::ZERO, true, &mut done).unwrap();
            assert_eq!(done, Forgetting::default(), "{verdict:?}");
        }
        assert_eq!(repository.forget_due(&id).unwrap(), None);
        // The way out that is named.
        assert!(repository.unforget(&id).unwrap() && repository.forget(&id, Duration::ZERO, REASON).unwrap());
        assert!(repository.forget_due(&id).unwrap().is_some());
    }

    /// By its clock the delay of a forget is over; by the storage's, which counts, it is not.
    #[test]
    fn a_node_that_is_ahead_makes_nothing_final_and_fails_no_job() {
        let (repository, snap) = (repository(), tombstone());
        let id = snap.id.parse().unwrap();
        let hour = Duration::from_secs(3600);
        assert!(repository.forget(&id, hour, REASON).unwrap());
        assert!(repository.forget_due(&id).unwrap().unwrap() < repository.components().clock.now());
        act(&repository, &snap, Verdict::Settle, hour, true, &mut Forgetting::default()).unwrap();
        assert!(repository.unforget(&id).unwrap(), "it is final");
    }
}
