//! `VolumeSnapshot` and `VolumeSnapshotContent`, snapshot.storage.k8s.io/v1: the parts that are read.

use crate::decode::or_default;
use crate::meta::Meta;
use serde::{Deserialize, Serialize};

/// A snapshot as the owner of a namespace sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSnapshot {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: VolumeSnapshotSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: VolumeSnapshotStatus,
}

/// `VolumeSnapshotSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    /// `volumeSnapshotClassName`.
    pub volume_snapshot_class_name: Option<String>,
}

/// `VolumeSnapshotStatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// `boundVolumeSnapshotContentName`.
    #[serde(deserialize_with = "or_default")]
    pub bound_volume_snapshot_content_name: String,
    /// `readyToUse`.
    #[serde(deserialize_with = "or_default")]
    pub ready_to_use: bool,
    /// `restoreSize` (`*resource.Quantity`), as text.
    pub restore_size: Option<String>,
    /// `error` (`*VolumeSnapshotError`).
    pub error: Option<SnapshotError>,
}

/// `VolumeSnapshotError`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotError {
    /// `message` of the driver.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}

/// The snapshot in the storage, of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSnapshotContent {
    /// `metadata`. Label `snapshot.storage.kubernetes.io/managed-by` where snapshots are taken by each node.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: ContentSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: ContentStatus,
}

/// `VolumeSnapshotContentSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContentSpec {
    /// `deletionPolicy`: `Delete` or `Retain`; whether the storage snapshot goes with the object.
    #[serde(deserialize_with = "or_default")]
    pub deletion_policy: String,
    /// `driver`.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
    /// `volumeSnapshotClassName`.
    pub volume_snapshot_class_name: Option<String>,
    /// `source` (`VolumeSnapshotContentSource`).
    #[serde(deserialize_with = "or_default")]
    pub source: ContentSource,
    /// `sourceVolumeMode` (`*corev1.PersistentVolumeMode`): `Block` or `Filesystem`.
    pub source_volume_mode: Option<String>,
    /// `volumeSnapshotRef` (`corev1.ObjectReference`): the VolumeSnapshot.
    #[serde(deserialize_with = "or_default")]
    pub volume_snapshot_ref: SnapshotRef,
}

/// `VolumeSnapshotContentSource`, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContentSource {
    /// `volumeHandle` (`*string`): the driver's name of the volume that the snapshot was taken of. None in a content that was
    /// made for a snapshot that was there before.
    pub volume_handle: Option<String>,
}

/// `corev1.ObjectReference`, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotRef {
    /// `namespace`.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// `name`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `uid`; empty until a static content is bound.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
}

/// `VolumeSnapshotContentStatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContentStatus {
    /// `snapshotHandle` (`*string`): the driver's name of the storage snapshot.
    pub snapshot_handle: Option<String>,
    /// `restoreSize` (`*int64`): bytes.
    pub restore_size: Option<i64>,
    /// `creationTime` (`*int64`): when the storage took it, nanoseconds since 1970, by the clock of the storage.
    pub creation_time: Option<i64>,
    /// `readyToUse`.
    #[serde(deserialize_with = "or_default")]
    pub ready_to_use: bool,
    /// `error` (`*VolumeSnapshotError`).
    pub error: Option<SnapshotError>,
}
