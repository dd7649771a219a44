//! The same cluster with a real API server beneath. Only this process writes to it, so what it holds is remembered here
//! after each write, and the played parts read that; our controller reads the server itself, as its own account.

use super::rules::split;
use super::server::Who;
use crate::kube::Kube;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry_api::Time;
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::kube_api::{KubeApi, path, path_of};

/// What is deployed with the controller.
pub const RBAC: &str = include_str!("../../../controller/deploy/rbac.yaml");

/// What is deployed for an account, for a namespace beside the one of the scenes: what is of the cluster is there already, and
/// the account gets it by a binding of its own.
pub fn deployed(account: &str, namespace: &str) -> String {
    let name = format!("\n  name: {account}");
    let all = RBAC.replace("namespace: velero", &format!("namespace: {namespace}"));
    let of_account = all
        .split("\n---\n")
        .filter(|document| document.contains(&format!("{name}\n")) && !document.contains("\nkind: ClusterRole\n"));
    let of_account = of_account.map(|document| match document.contains("\nkind: ClusterRoleBinding\n") {
        true => document.replacen(&name, &format!("{name}-{namespace}"), 1),
        false => document.to_owned(),
    });
    of_account.collect::<Vec<_>>().join("\n---\n")
}

/// What scenes are made of: all but the Lease, which belongs to the processes.
pub(super) const KINDS: [Kind; 11] = [
    Kind::DataUpload,
    Kind::DataDownload,
    Kind::VolumeSnapshot,
    Kind::VolumeSnapshotContent,
    Kind::Claim,
    Kind::Volume,
    Kind::Pod,
    Kind::Node,
    Kind::StorageClass,
    Kind::Attachment,
    Kind::ConfigMap,
];

/// Namespaces of the scenes, and the accounts that the controller-manager would make in them.
const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: velero
---
apiVersion: v1
kind: Namespace
metadata:
  name: app
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: default
  namespace: velero
";

/// A real server, set up for scenes.
#[derive(Debug)]
pub struct Real {
    /// The server.
    pub kube: Arc<Kube>,
    controller: KubeApi,
    used: AtomicBool,
}

impl Real {
    /// Namespaces and accounts are made.
    pub fn new(kube: Arc<Kube>) -> Self {
        kube.apply(NAMESPACES);
        kube.apply(RBAC);
        let controller = kube.account("velero", "wherry-controller");
        Self { kube, controller, used: AtomicBool::new(false) }
    }

    /// As whom one of ours asks.
    pub(super) fn api(&self, who: Who) -> &KubeApi {
        match who {
            Who::Controller | Who::Second => &self.controller,
            _ => self.kube.admin(),
        }
    }

    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.kube.wait(future)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        self.wait(self.kube.admin().get(key)).unwrap()
    }

    fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> Result<Value, ApiError> {
        self.kube.ask(method, path, Some((media, body.to_string().into_bytes())))
    }

    fn merge(&self, path: &str, body: &Value) -> Value {
        self.send(Method::PATCH, path, "application/merge-patch+json", body).unwrap()
    }

    fn status(&self, key: &Key, status: &Value) -> Value {
        self.merge(&format!("{}/status", path_of(key)), &json!({ "status": status }))
    }

    /// What there is after the last of several writes. One that goes may be gone by its own patch.
    fn after(&self, key: &Key, object: Value) -> Option<Value> {
        if object["metadata"]["deletionTimestamp"].is_string() { self.get(key) } else { Some(object) }
    }

    pub(super) fn create(&self, key: &Key, object: &Value) -> Option<Value> {
        let (mut object, status) = split(key.kind, object);
        object["apiVersion"] = json!(key.kind.api_version());
        object["kind"] = json!(key.kind.word());
        let made = self.send(Method::POST, &path(key.kind, &key.namespace), "application/json", &object).unwrap();
        Some(status.map_or(made, |status| self.status(key, &status)))
    }

    pub(super) fn patch(&self, key: &Key, patch: &Value) -> Option<Value> {
        let (mut patch, status) = split(key.kind, patch);
        let mut after = None;
        // A pod gets its node by a path of its own, too.
        let spec = patch.get_mut("spec").and_then(Value::as_object_mut).filter(|_| key.kind == Kind::Pod);
        let node = spec.and_then(|spec| spec.remove("nodeName"));
        if patch.as_object().is_some_and(|fields| !fields.is_empty()) {
            after = self.after(key, self.merge(&path_of(key), &patch));
        }
        if let Some(node) = node {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": { "name": key.name },
                "target": { "apiVersion": "v1", "kind": "Node", "name": node },
            });
            self.send(Method::POST, &format!("{}/binding", path_of(key)), "application/json", &binding).unwrap();
            after = self.get(key);
        }
        match status {
            Some(status) => self.after(key, self.status(key, &status)),
            None => after,
        }
    }

    /// Pods as their kubelet does it: at once.
    pub(super) fn delete(&self, key: &Key) -> Option<Value> {
        let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if key.kind == Kind::Pod {
            options["gracePeriodSeconds"] = json!(0);
        }
        let _ = self.send(Method::DELETE, &path_of(key), "application/json", &options);
        self.get(key)
    }

    /// All objects of a kind that scenes are made of.
    pub(super) fn all(&self, kind: Kind) -> Vec<(Key, Value)> {
        let namespaces: &[&str] = if kind.is_namespaced() { &["velero", "app"] } else { &[""] };
        let list = |namespace: &&str| {
            let objects = self.wait(self.kube.admin().list(kind, namespace, &[])).unwrap();
            let key = |object: &Value| Key::new(kind, namespace, object["metadata"]["name"].as_str().unwrap());
            // Lists do not say the kind of each.
            let named = |mut object: Value| {
                object["apiVersion"] = json!(kind.api_version());
                object["kind"] = json!(kind.word());
                object
            };
            objects.into_iter().map(|object| (key(&object), named(object))).collect::<Vec<_>>()
        };
        namespaces.iter().flat_map(list).collect()
    }

    /// Takes an object away, whatever holds it.
    fn remove(&self, key: &Key, object: &Value) {
        let loosen = || drop(self.merge(&path_of(key), &json!({ "metadata": { "finalizers": null } })));
        if object["metadata"]["finalizers"].is_array() {
            loosen();
        }
        while let Some(object) = self.delete(key) {
            assert!(object["metadata"]["finalizers"].is_array(), "{key} does not go: {object}");
            loosen();
        }
    }

    /// The next run begins: takes away what one left that failed.
    pub(super) fn begin(&self) {
        if self.used.swap(true, Ordering::SeqCst) {
            for kind in KINDS {
                self.all(kind).iter().for_each(|(key, object)| self.remove(key, object));
            }
        }
    }

    /// A run ends, and these are its objects.
    pub(super) fn end<'a>(&self, objects: impl Iterator<Item = (&'a Key, &'a Arc<Value>)>) {
        objects.for_each(|(key, object)| self.remove(key, object));
        self.used.store(false, Ordering::SeqCst);
    }

    #[expect(clippy::disallowed_methods, reason = "the clock of a real server is that of the machine")]
    pub(super) fn now(&self) -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Time(i64::try_from(since.as_secs()).unwrap())
    }
}
