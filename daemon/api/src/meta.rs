//! `metav1.ObjectMeta`, as far as it is read.

use crate::decode::or_default;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What every object says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// `metadata.name`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `metadata.namespace`; empty for objects of the cluster.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `metadata.uid`: an object made anew under the same name has another one.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    /// `metadata.resourceVersion`: what a patch rests on.
    #[serde(deserialize_with = "or_default")]
    pub resource_version: String,
    /// `metadata.labels`.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// `metadata.finalizers`.
    #[serde(deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
    /// `metadata.ownerReferences`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<Owner>,
    /// `metadata.creationTimestamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// `metadata.deletionTimestamp`: the object is on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
}

/// `metav1.OwnerReference`, as far as it is read: what an object goes with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// `kind`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// `name`, which is never cut.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `uid`.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
}

impl Meta {
    /// Somebody deleted the object; finalizers or a grace period keep it.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The value of a label; `None` if the object has no such label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Whether the finalizer is on the object.
    #[must_use]
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }
}
