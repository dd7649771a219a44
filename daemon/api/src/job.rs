//! What the Jobs of the agent's image print with `--json`: the controller touches no bucket itself.

use crate::decode::or_default;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// The version of results that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// One result, on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum JobResult {
    /// What a BackupStorageLocation holds.
    Listing(Listing),
    /// What became of snapshots that were to be forgotten.
    Forgotten(Forgotten),
}

/// What lies below `backups/` of a location, and the snapshots of the repository beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// Format, [`VERSION`].
    pub version: u32,
    /// The listing came to its end. One that did not decides nothing.
    pub complete: bool,
    /// uuid of `repo.json`; none if there is no repository.
    #[serde(default)]
    pub repository: Option<String>,
    /// The storage's own time when it answered: a clock that is far off decides nothing.
    pub store_time: Option<Time>,
    /// Backups below `backups/`.
    #[serde(default, deserialize_with = "or_default")]
    pub backups: Vec<ListedBackup>,
    /// Snapshots of the repository that are not forgotten.
    #[serde(default, deserialize_with = "or_default")]
    pub snapshots: Vec<ListedSnapshot>,
}

/// One folder below `backups/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedBackup {
    /// Of the folder.
    pub name: String,
    /// `metadata.uid` in its `velero-backup.json`; none if that is missing or cannot be read.
    #[serde(default)]
    pub uid: Option<String>,
}

/// One snapshot, with what decides whether it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSnapshot {
    /// The text of [`SnapshotId`](crate::SnapshotId).
    pub id: String,
    /// Id of the cluster that made it.
    pub cluster: String,
    /// The namespace of Velero there.
    pub velero_namespace: String,
    /// Name of the backup.
    pub backup_name: String,
    /// uid of the backup.
    pub backup_uid: String,
    /// uid of the DataUpload.
    pub cr_uid: String,
    /// When the backup expires; none: never.
    #[serde(default)]
    pub expires: Option<Time>,
}

/// Result of forgetting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgotten {
    /// Format, [`VERSION`].
    pub version: u32,
    /// Snapshot ids with a tombstone now, whoever made it.
    #[serde(default, deserialize_with = "or_default")]
    pub forgotten: Vec<String>,
    /// Those that stay, and why.
    #[serde(default, deserialize_with = "or_default")]
    pub kept: Vec<Kept>,
}

/// A snapshot that was not forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Why it stays.
    pub reason: String,
}

/// A line that is no result.
#[derive(Debug, thiserror::Error)]
#[error("the job's result cannot be read: {0}")]
pub struct NotAResult(String);

impl JobResult {
    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self, NotAResult> {
        let result: Self = serde_json::from_str(line).map_err(|e| NotAResult(e.to_string()))?;
        let version = match &result {
            Self::Listing(listing) => listing.version,
            Self::Forgotten(forgotten) => forgotten.version,
        };
        if version != VERSION {
            return Err(NotAResult(format!("it is of version {version}, this build knows {VERSION}")));
        }
        Ok(result)
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

    #[test]
    fn there_and_back() {
        let listing = JobResult::Listing(Listing {
            version: VERSION,
            complete: true,
            repository: Some("ab".into()),
            store_time: Some(Time(1_000_000)),
            backups: vec![ListedBackup { name: "b1".into(), uid: None }],
            snapshots: vec![ListedSnapshot {
                id: "wherry1/a/b/c".into(),
                expires: Some(Time(7)),
                ..Default::default()
            }],
        });
        assert_eq!(JobResult::parse(&listing.print()).unwrap(), listing);
        let forgotten = JobResult::Forgotten(Forgotten {
            version: VERSION,
            forgotten: vec!["wherry1/a/b/c".into()],
            kept: vec![Kept { id: "wherry1/a/b/d".into(), reason: "it is being restored".into() }],
        });
        assert_eq!(JobResult::parse(&forgotten.print()).unwrap(), forgotten);
    }

    #[test]
    fn others_are_refused() {
        for bad in ["", "{}", "{\"job\":\"listing\"}", "{\"job\":\"other\"}", "{\"job\":\"forgotten\",\"version\":2}"] {
            assert!(JobResult::parse(bad).is_err(), "{bad}");
        }
        // Cut in the middle: what a Job printed before it was killed.
        let whole = JobResult::Forgotten(Forgotten { version: VERSION, ..Default::default() }).print();
        assert!(JobResult::parse(&whole[..whole.len() - 1]).is_err());
    }
}
