//! Jobs of the agent's image that look after a repository: their names, and what each says when it ends. The controller touches
//! no bucket itself; what a Job found it reads from ConfigMap [`CONFIG_MAP`].

use crate::decode::or_default;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The version of results that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// ConfigMap with the newest result of each kind and location, see [`JobKind::key`].
pub const CONFIG_MAP: &str = "wherry-jobs";
/// ConfigMap with the uids of Backups that were seen in phase Deleting, and when.
pub const DELETING: &str = "wherry-deleting";
/// Label of a Job and its pod: what it does, [`JobKind`].
pub const JOB: &str = "wherry.io/job";
/// Label beside it: uuid of the repository.
pub const REPOSITORY: &str = "wherry.io/repository";
/// Annotation of a Job: name of the BackupStorageLocation.
pub const LOCATION: &str = "wherry.io/location";
/// Annotation of a BackupStorageLocation, a human's word: a time; backups that were missing by then may go.
pub const ACCEPTED: &str = "wherry.io/missing-accepted";
/// The account that Jobs run as.
pub const ACCOUNT: &str = "wherry-jobs";

/// What a Job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Forgets the snapshots of backups that are gone.
    Forget,
    /// Deletes what no snapshot needs.
    Gc,
}

impl JobKind {
    /// In the order in which they are due: what was forgotten is collected later.
    pub const ALL: [Self; 2] = [Self::Forget, Self::Gc];

    /// Its name in labels, in names of Jobs, and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Forget => "forget",
            Self::Gc => "gc",
        }
    }

    /// The key of the result in [`CONFIG_MAP`].
    #[must_use]
    pub fn key(self, location: &str) -> String {
        format!("{}.{location}", self.word())
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a Job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All was done that there was to do.
    Done,
    /// A gc that only waited for backups, or that others came before: nothing was decided, and the next one goes on. Once that is
    /// nothing; where each one ends so, nothing is ever deleted.
    Unfinished,
    /// Nothing was forgotten, as too many backups are missing: a human has to look.
    OnHold,
    /// Nothing was looked at, by the state that the location or its repository is in.
    Refused,
    /// It broke off; the next one goes on.
    #[default]
    Failed,
}

/// What a Job says when it ends, on one line of standard output and in [`CONFIG_MAP`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// Format, [`VERSION`].
    pub version: u32,
    /// What it does.
    pub job: JobKind,
    /// When it ended.
    pub at: Time,
    /// How.
    pub state: State,
    /// For people: what was found, or why it was not done.
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    /// uuid of the repository; `None`: it did not come so far.
    #[serde(default)]
    pub repository: Option<String>,
    /// When the last one of this kind ended in state `Done`, this one or one before.
    #[serde(default)]
    pub last_done: Option<Time>,
    /// When the first one of this kind and repository ended, whatever came of it; what earlier builds wrote does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Time>,
    /// Of a Job that forgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<Forgetting>,
    /// Of a gc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collecting: Option<Collecting>,
}

/// What became of the snapshots of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Forgetting {
    /// Snapshots that stay.
    pub kept: u64,
    /// Snapshots whose backup is missing, and which wait.
    pub waiting: u64,
    /// Snapshots that this Job asked to forget.
    pub forgotten: u64,
    /// Snapshots whose tombstone this Job took back.
    pub undone: u64,
    /// Snapshots that were to be forgotten, and are pinned.
    pub pinned: u64,
    /// Own unexpired backups that are missing and not accepted, if that is too many.
    pub held: u64,
    /// First absence of each backup that is missing.
    #[serde(deserialize_with = "or_default")]
    pub missing: BTreeMap<String, Time>,
}

/// What a gc did; sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Collecting {
    /// Size of the packs that stay; none where the run had to end before it had looked at them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_bytes: Option<u64>,
    /// Size of the packs that it named to go.
    pub condemned_bytes: u64,
    /// Size of the packs that it deleted.
    pub deleted_bytes: u64,
    /// Packs that it deleted.
    pub deleted_packs: u64,
    /// Packs that could not be deleted.
    pub failed_packs: u64,
    /// Forgets that became final.
    pub settled: u64,
    /// Sessions that it waits for.
    pub waiting: u64,
}

/// A text that is no result.
#[derive(Debug, thiserror::Error)]
#[error("the job's result cannot be read: {0}")]
pub struct NotAResult(String);

impl JobResult {
    /// One that came to nothing so far.
    #[must_use]
    pub fn new(job: JobKind, at: Time, state: State, message: String) -> Self {
        let (repository, last_done, first, forgetting, collecting) = (None, None, None, None, None);
        Self { version: VERSION, job, at, state, message, repository, last_done, first, forgetting, collecting }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// When it is none, or one of another version.
    pub fn parse(line: &str) -> Result<Self, NotAResult> {
        let result: Self = serde_json::from_str(line).map_err(|e| NotAResult(e.to_string()))?;
        match result.version {
            VERSION => Ok(result),
            other => Err(NotAResult(format!("it is of version {other}, this build knows {VERSION}"))),
        }
    }

    /// The line.
    #[must_use]
    pub fn print(&self) -> String {
        // No map with keys that are no text: this does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> JobResult {
        let missing = BTreeMap::from([("c/velero/u".to_owned(), Time(7))]);
        JobResult {
            repository: Some("ab".into()),
            last_done: Some(Time(1_000_000)),
            first: Some(Time(900_000)),
            forgetting: Some(Forgetting { kept: 3, missing, ..Forgetting::default() }),
            ..JobResult::new(JobKind::Forget, Time(2_000_000), State::OnHold, "why".into())
        }
    }

    #[test]
    fn there_and_back() {
        assert_eq!(JobResult::parse(&result().print()).unwrap(), result());
        let collecting = Some(Collecting { deleted_bytes: 7, ..Collecting::default() });
        let gc = JobResult { collecting, ..JobResult::new(JobKind::Gc, Time(1), State::Done, String::new()) };
        assert_eq!(JobResult::parse(&gc.print()).unwrap(), gc);
        assert_eq!((JobKind::Gc.key("default"), JobKind::Forget.to_string()), ("gc.default".into(), "forget".into()));
    }

    #[test]
    fn others_are_refused() {
        let whole = result().print();
        let other = whole.replace("\"version\":1", "\"version\":2");
        assert_ne!(other, whole);
        // Cut in the middle: what a Job printed before it was killed.
        for bad in
            ["", "{}", "{\"version\":1,\"job\":\"gc\"}", "{\"job\":\"other\"}", &other, &whole[..whole.len() - 1]]
        {
            assert!(JobResult::parse(bad).is_err(), "{bad}");
        }
    }
}
