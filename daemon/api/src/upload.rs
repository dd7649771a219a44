//! `DataUpload`, velero.io/v2alpha1.

use crate::decode::or_default;
use crate::meta::Meta;
use crate::phase::Phase;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What Velero makes for each volume of a backup whose data is to be moved. It has no status subresource: every write
/// of the status is a write of the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataUpload {
    /// `metadata`. Labels: `velero.io/backup-name`, `velero.io/backup-uid`, `velero.io/pvc-uid`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`: written by Velero alone, or by whoever made the object in its place.
    #[serde(deserialize_with = "or_default")]
    pub spec: DataUploadSpec,
    /// `status`: written by the controller and the agent, and its message by Velero's cancel.
    #[serde(deserialize_with = "or_default")]
    pub status: DataUploadStatus,
}

/// `DataUploadSpec` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataUploadSpec {
    /// `snapshotType` (`SnapshotType`): Velero knows only `CSI`; its schema takes any text, and we know
    /// [`LOCAL`](crate::names::LOCAL), too.
    #[serde(deserialize_with = "or_default")]
    pub snapshot_type: String,
    /// `csiSnapshot` (`*CSISnapshotSpec`): of snapshotType `CSI`.
    pub csi_snapshot: Option<CsiSnapshot>,
    /// `sourcePVC`: name of the PVC.
    #[serde(rename = "sourcePVC", deserialize_with = "or_default")]
    pub source_pvc: String,
    /// `sourceNamespace`: of the PVC and of the VolumeSnapshot.
    #[serde(deserialize_with = "or_default")]
    pub source_namespace: String,
    /// `backupStorageLocation`: name, in the namespace of this object.
    #[serde(deserialize_with = "or_default")]
    pub backup_storage_location: String,
    /// `datamover`: who is meant; empty or `velero` is the one built into Velero.
    #[serde(deserialize_with = "or_default")]
    pub datamover: String,
    /// `dataMoverConfig`: Velero sets only `ParallelFilesUpload`.
    #[serde(deserialize_with = "or_default")]
    pub data_mover_config: BTreeMap<String, String>,
    /// `cancel`: a wish; never taken back.
    #[serde(deserialize_with = "or_default")]
    pub cancel: bool,
    /// `operationTimeout` (`metav1.Duration`): a duration of Go, the backup's csiSnapshotTimeout.
    #[serde(deserialize_with = "or_default")]
    pub operation_timeout: String,
}

/// `CSISnapshotSpec` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CsiSnapshot {
    /// `volumeSnapshot`: name, in the source namespace.
    #[serde(deserialize_with = "or_default")]
    pub volume_snapshot: String,
    /// `storageClass` of the source PVC.
    #[serde(deserialize_with = "or_default")]
    pub storage_class: String,
    /// `snapshotClass` of the VolumeSnapshot.
    #[serde(deserialize_with = "or_default")]
    pub snapshot_class: String,
    /// `driver`: name of the CSI driver.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
}

/// `DataUploadStatus` of Velero. Fields it does not know are pruned by the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataUploadStatus {
    /// `phase` (`DataUploadPhase`).
    pub phase: Phase,
    /// `snapshotID`: the text of [`SnapshotId`](crate::SnapshotId). All that a DataDownload is told.
    #[serde(rename = "snapshotID", deserialize_with = "or_default")]
    pub snapshot_id: String,
    /// `message`: the error, or a note.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// `acceptedTimestamp` (`*metav1.Time`): the prepare timeout runs from here.
    pub accepted_timestamp: Option<Time>,
    /// `startTimestamp`: the agent has begun.
    pub start_timestamp: Option<Time>,
    /// `completionTimestamp`: of any terminal phase.
    pub completion_timestamp: Option<Time>,
    /// `progress` (`shared.DataMoveOperationProgress`).
    #[serde(deserialize_with = "or_default")]
    pub progress: Progress,
    /// `incrementalBytes`: new against the parent.
    #[serde(deserialize_with = "or_default")]
    pub incremental_bytes: i64,
    /// `node`: where the volume is published.
    #[serde(deserialize_with = "or_default")]
    pub node: String,
}

/// `shared.DataMoveOperationProgress` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Progress {
    /// `totalBytes`: at the end the size of the volume; a DataDownload gets it as snapshotSize.
    #[serde(deserialize_with = "or_default")]
    pub total_bytes: i64,
    /// `bytesDone`.
    #[serde(deserialize_with = "or_default")]
    pub bytes_done: i64,
}
