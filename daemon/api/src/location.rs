//! `BackupStorageLocation`, velero.io/v1: the parts that are read. wherry never writes one.

use crate::decode::or_default;
use crate::meta::Meta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// ConfigMap with the repository of each location, by its name.
pub const REPOSITORIES: &str = "wherry-repositories";

/// What is recorded of a location: the repository where it leads, and those where it led before. None is ever struck out: where
/// a location leads back, a repository that has vanished there is missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// uuid of `repo.json`.
    pub repository: String,
    /// Where it lies. A location that leads elsewhere now is another one.
    pub location: String,
    /// The same of places where the location led before, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Earlier>,
}

/// A repository where a location led before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// uuid of `repo.json`.
    pub repository: String,
    /// Where it lies.
    pub location: String,
}

impl Recorded {
    /// The first repository of a location.
    #[must_use]
    pub fn new(repository: String, location: String) -> Self {
        Self { repository, location, earlier: Vec::new() }
    }

    /// uuid of the repository at that place, wherever the location leads now. `None`: none was ever used there.
    #[must_use]
    pub fn at(&self, location: &str) -> Option<&str> {
        let mut earlier = self.earlier.iter().rev().filter(|earlier| earlier.location == location);
        if self.location == location {
            return Some(&self.repository);
        }
        earlier.next().map(|earlier| earlier.repository.as_str())
    }

    /// The location leads there now; what was known of other places stays.
    #[must_use]
    pub fn moved(mut self, repository: String, location: String) -> Self {
        self.earlier.retain(|earlier| earlier.location != location);
        if self.location != location {
            self.earlier.push(Earlier { repository: self.repository, location: self.location });
        }
        Self { repository, location, earlier: self.earlier }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_that_leads_back_is_known_there() {
        // As versions before wrote it.
        let first: Recorded = serde_json::from_str(r#"{"repository":"1","location":"a"}"#).unwrap();
        assert_eq!(first, Recorded::new("1".into(), "a".into()));
        assert_eq!((first.at("a"), first.at("b")), (Some("1"), None));
        let second = first.moved("2".into(), "b".into());
        assert_eq!((second.at("a"), second.at("b")), (Some("1"), Some("2")));
        let back = second.moved("1".into(), "a".into());
        assert_eq!((back.at("a"), back.at("b"), back.earlier.len()), (Some("1"), Some("2"), 1));
        let text = serde_json::to_string(&back).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), back);
        assert_eq!(back.clone().moved("1".into(), "a".into()), back);
    }
}
