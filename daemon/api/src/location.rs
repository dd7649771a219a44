//! `BackupStorageLocation`, velero.io/v1: the parts that are read. wherry never writes one.

use crate::decode::or_default;
use crate::meta::Meta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// ConfigMap with the repository of each location, by its name.
pub const REPOSITORIES: &str = "wherry-repositories";

/// What is recorded of a location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// uuid of `repo.json`.
    pub repository: String,
    /// Where it lies. A location that leads elsewhere now is another one.
    pub location: String,
}

/// Where Velero keeps its backups; the repository lies below `<prefix>/plugins/wherry/` of the same bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupStorageLocation {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: LocationSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: LocationStatus,
}

/// `BackupStorageLocationSpec` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocationSpec {
    /// `provider`: `aws`, `azure`, `gcp`, with or without `velero.io/` before it.
    #[serde(deserialize_with = "or_default")]
    pub provider: String,
    /// `config`: keys of the provider (`region`, `s3Url`, `s3ForcePathStyle`, ...).
    #[serde(deserialize_with = "or_default")]
    pub config: BTreeMap<String, String>,
    /// `credential` (`*corev1.SecretKeySelector`), in the namespace of Velero.
    pub credential: Option<SecretKey>,
    /// `objectStorage` (`*ObjectStorageLocation`).
    pub object_storage: Option<ObjectStorage>,
    /// `accessMode`: `ReadOnly` allows restores only; empty is `ReadWrite`.
    #[serde(deserialize_with = "or_default")]
    pub access_mode: String,
}

/// `corev1.SecretKeySelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretKey {
    /// `name` of the Secret.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `key` in its data.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
}

/// `ObjectStorageLocation` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectStorage {
    /// `bucket`.
    #[serde(deserialize_with = "or_default")]
    pub bucket: String,
    /// `prefix`: without slashes at either end; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub prefix: String,
    /// `caCert`: `[]byte`, base64 in JSON. Superseded by `caCertRef`.
    #[serde(deserialize_with = "or_default")]
    pub ca_cert: String,
    /// `caCertRef` (`*corev1.SecretKeySelector`).
    pub ca_cert_ref: Option<SecretKey>,
}

/// `BackupStorageLocationStatus` of Velero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocationStatus {
    /// `phase`: `Available` or `Unavailable`; empty before the first look.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// `message`: why it is unavailable.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}
