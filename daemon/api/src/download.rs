//! `DataDownload`, velero.io/v2alpha1.

use crate::decode::or_default;
use crate::meta::Meta;
use crate::phase::Phase;
use crate::time::Time;
use crate::upload::Progress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What Velero makes for each volume to be restored, before it makes the PVC. No status subresource either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataDownload {
    /// `metadata`. Labels: `velero.io/restore-name`, `velero.io/restore-uid`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`: written by Velero alone.
    #[serde(deserialize_with = "or_default")]
    pub spec: DataDownloadSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: DataDownloadStatus,
}

/// `DataDownloadSpec` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataDownloadSpec {
    /// `targetVolume` (`TargetVolumeSpec`).
    #[serde(deserialize_with = "or_default")]
    pub target_volume: TargetVolume,
    /// `backupStorageLocation`: name, in the namespace of this object.
    #[serde(deserialize_with = "or_default")]
    pub backup_storage_location: String,
    /// `datamover`: who is meant.
    #[serde(deserialize_with = "or_default")]
    pub datamover: String,
    /// `snapshotID` of the DataUpload; empty if that one never got so far.
    #[serde(rename = "snapshotID", deserialize_with = "or_default")]
    pub snapshot_id: String,
    /// `sourceNamespace`: of the PVC that was backed up.
    #[serde(deserialize_with = "or_default")]
    pub source_namespace: String,
    /// `dataMoverConfig`: `WriteSparseFiles` and `ParallelFilesDownload`.
    #[serde(deserialize_with = "or_default")]
    pub data_mover_config: BTreeMap<String, String>,
    /// `cancel`: a wish; never taken back.
    #[serde(deserialize_with = "or_default")]
    pub cancel: bool,
    /// `operationTimeout` (`metav1.Duration`).
    #[serde(deserialize_with = "or_default")]
    pub operation_timeout: String,
    /// `snapshotSize`: bytes, the DataUpload's `progress.totalBytes`.
    #[serde(deserialize_with = "or_default")]
    pub snapshot_size: i64,
}

/// `TargetVolumeSpec` of Velero. Its `pv` is always empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetVolume {
    /// `pvc`: name of the PVC to fill. Velero makes it after this object.
    #[serde(deserialize_with = "or_default")]
    pub pvc: String,
    /// `namespace` of that PVC.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
}

/// `DataDownloadStatus` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataDownloadStatus {
    /// `phase` (`DataDownloadPhase`).
    pub phase: Phase,
    /// `message`: the error, or a note.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// `acceptedTimestamp` (`*metav1.Time`): the prepare timeout runs from here.
    pub accepted_timestamp: Option<Time>,
    /// `startTimestamp`: the agent has begun.
    pub start_timestamp: Option<Time>,
    /// `completionTimestamp`: of any terminal phase.
    pub completion_timestamp: Option<Time>,
    /// `progress`.
    #[serde(deserialize_with = "or_default")]
    pub progress: Progress,
    /// `node`: where the volume is published.
    #[serde(deserialize_with = "or_default")]
    pub node: String,
}
