//! The verbs that controller and agent need of an API server. The client of a real one has them ([`crate::kube_api`]),
//! and the tests' model of one.

use serde_json::{Value, json};
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// The kinds of object that are read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// DataUpload, velero.io/v2alpha1.
    DataUpload,
    /// DataDownload, velero.io/v2alpha1.
    DataDownload,
    /// VolumeSnapshot.
    VolumeSnapshot,
    /// VolumeSnapshotContent, of the cluster.
    VolumeSnapshotContent,
    /// PersistentVolumeClaim.
    Claim,
    /// PersistentVolume, of the cluster.
    Volume,
    /// Pod.
    Pod,
    /// Node, of the cluster.
    Node,
    /// StorageClass, of the cluster.
    StorageClass,
    /// VolumeAttachment, of the cluster.
    Attachment,
    /// Lease, coordination.k8s.io.
    Lease,
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
    /// Event.
    Event,
    /// Namespace, of the cluster.
    Namespace,
    /// Backup, velero.io/v1.
    Backup,
    /// BackupStorageLocation, velero.io/v1.
    Location,
    /// Job, batch/v1.
    Job,
    /// CustomResourceDefinition, of the cluster.
    CustomResource,
    /// SnapshotMetadataService, of the cluster, cbt.storage.k8s.io/v1beta1.
    MetadataServiceBeta,
    /// The same, v1alpha1.
    MetadataServiceAlpha,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::DataUpload,
        Self::DataDownload,
        Self::VolumeSnapshot,
        Self::VolumeSnapshotContent,
        Self::Claim,
        Self::Volume,
        Self::Pod,
        Self::Node,
        Self::StorageClass,
        Self::Attachment,
        Self::Lease,
        Self::ConfigMap,
        Self::Secret,
        Self::Event,
        Self::Namespace,
        Self::Backup,
        Self::Location,
        Self::Job,
        Self::CustomResource,
        Self::MetadataServiceBeta,
        Self::MetadataServiceAlpha,
    ];

    /// Group, version, `kind` and the name in the path, and whether it lies in namespaces.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str, &'static str, &'static str, bool) {
        match self {
            Self::DataUpload => ("velero.io", "v2alpha1", "DataUpload", "datauploads", true),
            Self::DataDownload => ("velero.io", "v2alpha1", "DataDownload", "datadownloads", true),
            Self::VolumeSnapshot => ("snapshot.storage.k8s.io", "v1", "VolumeSnapshot", "volumesnapshots", true),
            Self::VolumeSnapshotContent => {
                ("snapshot.storage.k8s.io", "v1", "VolumeSnapshotContent", "volumesnapshotcontents", false)
            }
            Self::Claim => ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
            Self::Volume => ("", "v1", "PersistentVolume", "persistentvolumes", false),
            Self::Pod => ("", "v1", "Pod", "pods", true),
            Self::Node => ("", "v1", "Node", "nodes", false),
            Self::StorageClass => ("storage.k8s.io", "v1", "StorageClass", "storageclasses", false),
            Self::Attachment => ("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", false),
            Self::Lease => ("coordination.k8s.io", "v1", "Lease", "leases", true),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps", true),
            Self::Secret => ("", "v1", "Secret", "secrets", true),
            Self::Event => ("", "v1", "Event", "events", true),
            Self::Namespace => ("", "v1", "Namespace", "namespaces", false),
            Self::Backup => ("velero.io", "v1", "Backup", "backups", true),
            Self::Location => ("velero.io", "v1", "BackupStorageLocation", "backupstoragelocations", true),
            Self::Job => ("batch", "v1", "Job", "jobs", true),
            Self::CustomResource => {
                ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false)
            }
            Self::MetadataServiceBeta => {
                ("cbt.storage.k8s.io", "v1beta1", "SnapshotMetadataService", "snapshotmetadataservices", false)
            }
            Self::MetadataServiceAlpha => {
                ("cbt.storage.k8s.io", "v1alpha1", "SnapshotMetadataService", "snapshotmetadataservices", false)
            }
        }
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(self) -> String {
        let (group, version, ..) = self.names();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// `kind` of its objects.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.names().2
    }

    /// Whether its objects lie in namespaces.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self.names().4
    }
}

/// One object. The namespace is empty for kinds of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.word())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What a write rests on: the object that was looked at, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// The patch, saying what it rests on.
#[must_use]
pub fn guarded(patch: &Value, guard: &Guard) -> Value {
    let mut guarded = patch.clone();
    if !guarded["metadata"].is_object() {
        guarded["metadata"] = json!({});
    }
    guarded["metadata"]["uid"] = Value::from(guard.uid.as_str());
    guarded["metadata"]["resourceVersion"] = Value::from(guard.resource_version.as_str());
    guarded
}

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such object: look again.
    NotFound,
    /// It has changed, or is another one of that name: look again.
    Conflict,
    /// There is one of that name already: look again.
    Exists,
    /// The state that a list or a watch goes on from is forgotten: list anew.
    Expired,
    /// Not allowed, or over a quota: wait, and say so.
    Forbidden,
    /// Not done, the server has too much to do: wait as long as it says.
    Busy,
    /// The object is wrong: the CR fails.
    Invalid,
    /// No answer, or none that tells whether it was done: look again.
    Unavailable,
}

/// A call that was not answered with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct ApiError {
    /// Kind of error.
    pub refusal: Refusal,
    /// Verb and object.
    pub call: String,
    /// What the server said.
    pub message: String,
    /// What it asks to wait.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// Without a time to wait.
    #[must_use]
    pub fn new(refusal: Refusal, call: &str, message: String) -> Self {
        Self { refusal, call: call.to_owned(), message, retry_after: None }
    }
}

/// An API server.
pub trait Api {
    /// One object; `None` if there is none.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Value>, ApiError>> + Send;

    /// All objects of a kind in a namespace (all namespaces, and kinds of the cluster: empty) that have the labels.
    fn list(
        &self,
        kind: Kind,
        namespace: &str,
        labels: &[(&str, &str)],
    ) -> impl Future<Output = Result<Vec<Value>, ApiError>> + Send;

    /// Of all objects of a kind in a namespace (likewise) those that are to be kept; others are dropped while the list is read.
    fn list_where(
        &self,
        kind: Kind,
        namespace: &str,
        keep: impl Fn(&Value) -> bool + Send + Sync,
    ) -> impl Future<Output = Result<Vec<Value>, ApiError>> + Send;

    /// Makes an object; gives it as it is then.
    fn create(&self, key: &Key, object: &Value) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// A merge patch (RFC 7386). Its `metadata.uid` and `metadata.resourceVersion` are what it rests on: where the
    /// object has others, the answer is [`Refusal::Conflict`]. Gives the object as it is then.
    fn patch(&self, key: &Key, patch: &Value) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Deletes the object that the guard names and no other.
    fn delete(&self, key: &Key, guard: &Guard) -> impl Future<Output = Result<(), ApiError>> + Send;
}
