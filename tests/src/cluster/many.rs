//! Many DataUploads at once, and everything of a cluster but the controller, which is a process of its own. No data is moved: an
//! agent takes them, and ends them.

use super::clock::now;
use super::server::{Client, Server, Who};
use super::snapshots::{is_going, text};
use super::world::{OTHERS, Storage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wherry_api::api::{Api, Guard, Key, Kind, guarded};
use wherry_api::names;

/// Others write into every so many of them, in each phase.
const MEDDLED: usize = 4;
const NODES: [&str; 2] = ["n1", "n2"];

/// They, and who plays the rest.
#[derive(Debug)]
pub struct Many {
    server: Arc<Server>,
    storage: Storage,
    uploads: Vec<Key>,
    /// Phases in which others wrote an annotation, which must be there at the end.
    written: BTreeMap<Key, BTreeSet<String>>,
    /// Writes of the agent that the server refused, as the CR had changed meanwhile.
    pub conflicts: usize,
}

impl Many {
    /// So many, all made before anybody acts.
    pub fn on(server: Server, n: usize) -> Self {
        Self::of(server, 0..n, |_| {})
    }

    /// These numbers, in that order; `made` is called after each.
    pub fn of(server: Server, numbers: impl Iterator<Item = usize>, made: impl Fn(&Key)) -> Self {
        let server = Arc::new(server);
        server.set_now(server.start());
        let put = |kind: Kind, namespace: &str, name: &str, mut object: Value| {
            let key = Key::new(kind, namespace, name);
            object["metadata"]["name"] = json!(name);
            server.create(Who::Velero, &key, &object);
            key
        };
        let class = json!({ "provisioner": "lab.csi", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate" });
        put(Kind::StorageClass, "", "lab", class);
        for node in NODES {
            let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
            put(Kind::Node, "", node, ready);
            let spec = json!({
                "nodeName": node, "containers": [{ "name": "agent", "image": "wherry:test" }],
                "automountServiceAccountToken": false,
            });
            let labels = json!({ "labels": { names::AGENT_LABEL: "true" } });
            put(Kind::Pod, "velero", &format!("agent-{node}"), json!({ "metadata": labels, "spec": spec }));
        }
        let mut storage = Storage::default();
        let upload = |n: usize| {
            let (handle, content, snapshot) = (format!("h{n}"), format!("snapcontent-{n}"), format!("velero-data-{n}"));
            let spec = json!({
                "deletionPolicy": "Delete", "driver": "lab.csi", "volumeSnapshotClassName": "lab",
                "sourceVolumeMode": "Block", "source": { "volumeHandle": format!("v{n}") },
                "volumeSnapshotRef": { "namespace": "app", "name": snapshot },
            });
            let status = json!({ "snapshotHandle": handle, "readyToUse": true, "restoreSize": 4096 });
            put(Kind::VolumeSnapshotContent, "", &content, json!({ "metadata": {}, "spec": spec, "status": status }));
            let spec = json!({
                "volumeSnapshotClassName": "lab", "source": { "persistentVolumeClaimName": format!("data-{n}") },
            });
            let status = json!({ "boundVolumeSnapshotContentName": content, "readyToUse": true });
            put(Kind::VolumeSnapshot, "app", &snapshot, json!({ "metadata": {}, "spec": spec, "status": status }));
            storage.snapshots.insert(handle);
            let csi = json!({ "volumeSnapshot": snapshot, "storageClass": "lab", "snapshotClass": "lab", "driver": "lab.csi" });
            let spec = json!({
                "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": "app",
                "sourcePVC": format!("data-{n}"), "csiSnapshot": csi, "backupStorageLocation": "default",
                "operationTimeout": "10m0s",
            });
            let key = put(Kind::DataUpload, "velero", &format!("b-{n}"), json!({ "metadata": {}, "spec": spec }));
            made(&key);
            key
        };
        let uploads = numbers.map(upload).collect();
        Self { server, storage, uploads, written: BTreeMap::new(), conflicts: 0 }
    }

    /// A restore, made now; nobody ends it.
    pub fn restore(&self) -> Key {
        let key = Key::new(Kind::DataDownload, "velero", "r-1");
        let claim = json!({
            "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "lab",
            "resources": { "requests": { "storage": "4096" } },
            "selector": { "matchLabels": { "velero.io/dynamic-pv-restore": "app.back.x" } },
        });
        let claim = json!({ "metadata": { "name": "back" }, "spec": claim });
        self.server.create(Who::Velero, &Key::new(Kind::Claim, "app", "back"), &claim);
        let spec = json!({
            "datamover": "wherry", "snapshotID": "wherry1/ab/6831/c1.app.data.u-1", "sourceNamespace": "app",
            "targetVolume": { "pvc": "back", "namespace": "app", "pv": "" }, "snapshotSize": 4096,
            "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        self.server.create(Who::Velero, &key, &json!({ "metadata": { "name": "r-1" }, "spec": spec }));
        key
    }

    /// Sees what the controller did, and does nothing.
    pub fn look(&self) {
        self.server.look(Who::Controller);
        self.server.take_changes();
    }

    /// How many wait for nothing but a place.
    pub fn queued(&self) -> usize {
        let queued = |key: &&Key| {
            let cr = self.server.get(key).unwrap_or_default();
            let held = cr["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
            ["", "New"].contains(&text(&cr, "/status/phase")) && held
        };
        self.uploads.iter().filter(queued).count()
    }

    /// Sees what the controller did, and does what there is to do for everybody else.
    pub fn turn(&mut self) {
        self.server.look(Who::Controller);
        for (n, key) in self.uploads.clone().into_iter().enumerate() {
            let Some(cr) = self.server.get(&key) else { continue };
            if n.is_multiple_of(MEDDLED) {
                self.meddle(&key, &cr);
            }
            self.agent(&key);
        }
        while self.others_act() {}
        // Nobody judges what changed one by one.
        self.server.take_changes();
    }

    /// Someone writes into the CR, whoever else does so at the same time.
    fn meddle(&mut self, key: &Key, cr: &Value) {
        let phase = Some(text(cr, "/status/phase")).filter(|phase| !phase.is_empty()).unwrap_or("New").to_owned();
        if self.written.entry(key.clone()).or_default().insert(phase.clone()) {
            let annotation = format!("others.io/{}", phase.to_lowercase());
            self.server.patch(Who::Velero, key, &json!({ "metadata": { "annotations": { annotation: "yes" } } }));
        }
    }

    /// The agent takes one whose pod runs, and ends it.
    fn agent(&mut self, key: &Key) {
        let Some(cr) = self.server.get(key) else { return };
        let pod = Key::new(Kind::Pod, "velero", &names::of_attempt(text(&cr, "/metadata/uid"), 1));
        let runs = self.server.get(&pod).is_some_and(|pod| !is_going(&pod) && pod["status"]["phase"] == "Running");
        let status = match text(&cr, "/status/phase") {
            "Prepared" if runs => json!({ "phase": "InProgress" }),
            "InProgress" if runs => json!({
                "phase": "Completed", "snapshotID": snapshot_id(&cr),
                "progress": { "totalBytes": 4096, "bytesDone": 4096 },
            }),
            _ => return,
        };
        let text = |pointer| text(&cr, pointer).to_owned();
        let guard = Guard { uid: text("/metadata/uid"), resource_version: text("/metadata/resourceVersion") };
        let client = Client::new(&self.server, Who::Agent, None);
        if now(client.patch(key, &guarded(&json!({ "status": status }), &guard))).is_err() {
            self.conflicts += 1;
        }
    }

    fn others_act(&mut self) -> bool {
        let mut acted = false;
        for actor in OTHERS {
            acted |= actor(&self.server, &mut self.storage);
        }
        acted
    }

    /// Each with its phase, as it was seen last.
    pub fn phases(&self) -> Vec<(String, String)> {
        self.uploads.iter().map(|key| (key.name.clone(), self.phase(key))).collect()
    }

    /// The phase of a CR likewise.
    pub fn phase(&self, key: &Key) -> String {
        text(&self.server.get(key).unwrap_or_default(), "/status/phase").to_owned()
    }

    /// How many have ended, and are let go.
    pub fn ended(&self) -> usize {
        let ended = |key: &&Key| {
            let cr = self.server.get(key).unwrap_or_default();
            let held = cr["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
            ["Completed", "Failed", "Canceled"].contains(&text(&cr, "/status/phase")) && !held
        };
        self.uploads.iter().filter(ended).count()
    }

    /// What is not as it must be at the end.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for key in &self.uploads {
            let cr = self.server.get(key).unwrap_or_default();
            let status = &cr["status"];
            if status["phase"] != "Completed" || status["snapshotID"] != snapshot_id(&cr) {
                wrong.push(format!("{key}: {status}"));
            }
            if !cr["metadata"]["labels"][names::NODE].is_null() || cr["metadata"]["annotations"][names::PLAN].is_null()
            {
                wrong.push(format!("{key}: {}", cr["metadata"]));
            }
            for phase in self.written.get(key).into_iter().flatten() {
                if cr["metadata"]["annotations"][format!("others.io/{}", phase.to_lowercase())] != "yes" {
                    wrong.push(format!("{key}: what others wrote in phase {phase} is lost"));
                }
            }
        }
        for kind in
            [Kind::Pod, Kind::Claim, Kind::Volume, Kind::VolumeSnapshot, Kind::VolumeSnapshotContent, Kind::Attachment]
        {
            let left = self.server.all(kind).into_iter().map(|(key, _)| key);
            wrong.extend(left.filter(|key| !key.name.starts_with("agent-")).map(|key| format!("{key} is left")));
        }
        wrong.extend(self.storage.snapshots.iter().map(|handle| format!("the storage still has snapshot {handle}")));
        wrong.extend(self.storage.volumes.keys().map(|name| format!("the storage still has volume {name}")));
        wrong
    }
}

/// What the agent says of this one and of no other.
fn snapshot_id(cr: &Value) -> String {
    format!("wherry1/ab/{}/c1.app.{}.u-1", text(cr, "/metadata/uid").replace('-', ""), text(cr, "/spec/sourcePVC"))
}
