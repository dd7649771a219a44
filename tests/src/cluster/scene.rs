//! What there is before our processes start: classes, a volume with Velero's snapshot of it or a PVC to be filled, the
//! CR, and things of others that must stay as they are.

use super::server::{Server, Who};
use super::world::Storage;
use serde_json::json;
use wherry_api::api::{Key, Kind};
use wherry_api::{Base, Time, names};

/// The DataUpload.
pub const UPLOAD: &str = "b-1";
/// The DataDownload.
pub const DOWNLOAD: &str = "r-1";

/// CRs that are not ours: of another mover, and copies that a restore or a sync made. Nobody may write them.
pub(super) fn others() -> [Key; 4] {
    let key = |kind, name| Key::new(kind, "velero", name);
    [
        key(Kind::DataUpload, "others"),
        key(Kind::DataUpload, "copy"),
        key(Kind::DataDownload, "others"),
        key(Kind::DataDownload, "copy"),
    ]
}

/// What may differ.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// DataDownload, not DataUpload.
    pub download: bool,
    /// Reclaim policy of the class, and deletion policy of the first content, are Retain.
    pub retain: bool,
    /// The class waits for the first consumer.
    pub wait_for_consumer: bool,
    /// The DataUpload is of a local volume, of which there is no snapshot; `retain` is the policy of its PV.
    pub local: bool,
    /// Source or target is in Velero's own namespace.
    pub beside: bool,
}

/// The PV of the source that is a local volume, on node n1.
pub const LOCAL_VOLUME: &str = "local-1";

/// A PV that was Available, with data of somebody, and was bound to a PVC of ours.
pub const TAKEN_VOLUME: &str = "precious";

/// The DataUpload of the backup before, where storage snapshots are kept.
pub const BEFORE: &str = "b-0";

/// The source PVC is there, and of the backup before its base.
pub(super) fn before(server: &Server, storage: &mut Storage) {
    let uid = |key: &Key| server.get(key).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    // Of a class that is not there, so that nobody provisions anything for it.
    let claim = Key::new(Kind::Claim, "app", "data");
    let spec = json!({
        "storageClassName": "none", "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "4096" } }, "selector": { "matchLabels": { "a": "b" } },
    });
    server.create(Who::Velero, &claim, &json!({ "metadata": { "name": "data" }, "spec": spec }));
    let cr = Key::new(Kind::DataUpload, "velero", BEFORE);
    let spec = json!({
        "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "data",
        "csiSnapshot": { "volumeSnapshot": "velero-data-0", "storageClass": "lab", "driver": "lab.csi" },
        "backupStorageLocation": "default", "operationTimeout": "10m0s",
    });
    let status = json!({ "phase": "Completed", "progress": {} });
    server.create(Who::Velero, &cr, &json!({ "metadata": { "name": BEFORE }, "spec": spec, "status": status }));
    let (cr_uid, pvc_uid) = (uid(&cr), uid(&claim));
    let base = Base {
        version: 1,
        cr_uid: cr_uid.clone(),
        cr: BEFORE.to_owned(),
        completed: Time(1),
        namespace: "app".to_owned(),
        pvc: "data".to_owned(),
        pvc_uid: pvc_uid.clone(),
        storage_class: "lab".to_owned(),
        driver: "lab.csi".to_owned(),
    };
    let name = names::object(&cr_uid);
    let labels = json!({ names::CR_UID: cr_uid, names::VELERO_NAMESPACE: "velero", names::EXCLUDE: "true" });
    storage.snapshots.insert("h0".to_owned());
    let content = json!({
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "deletionPolicy": "Delete", "driver": "lab.csi", "sourceVolumeMode": "Block",
            "source": { "snapshotHandle": "h0" }, "volumeSnapshotRef": { "namespace": "velero", "name": name },
        },
        "status": { "snapshotHandle": "h0", "readyToUse": true, "restoreSize": 4096 },
    });
    server.create(Who::Velero, &Key::new(Kind::VolumeSnapshotContent, "", &name), &content);
    let mut labels = labels;
    labels[names::BASE] = json!(pvc_uid);
    let owner = json!([{
        "apiVersion": "velero.io/v2alpha1", "kind": "DataUpload", "name": BEFORE, "uid": cr_uid, "controller": true,
    }]);
    let snapshot = json!({
        "metadata": {
            "name": name, "labels": labels, "annotations": { names::BASE_OF: base.print() }, "ownerReferences": owner,
        },
        "spec": { "source": { "volumeSnapshotContentName": name } },
    });
    server.create(Who::Velero, &Key::new(Kind::VolumeSnapshot, "velero", &name), &snapshot);
}

impl Scene {
    /// Namespace of source and target.
    pub(super) fn namespace(self) -> &'static str {
        if self.beside { "velero" } else { "app" }
    }

    pub(super) fn set(self, server: &Server, storage: &mut Storage) -> Key {
        let policy = if self.retain { "Retain" } else { "Delete" };
        let mode = if self.wait_for_consumer { "WaitForFirstConsumer" } else { "Immediate" };
        let put = |key: Key, mut object: serde_json::Value| {
            object["metadata"]["name"] = json!(key.name);
            server.create(Who::Velero, &key, &object);
            key
        };
        put(
            Key::new(Kind::StorageClass, "", "lab"),
            json!({ "provisioner": "lab.csi", "reclaimPolicy": policy, "volumeBindingMode": mode }),
        );
        for node in ["n1", "n2"] {
            let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
            put(Key::new(Kind::Node, "", node), ready);
            let labels = json!({ "labels": { "wherry.io/agent": "true" } });
            let agent = Key::new(Kind::Pod, "velero", &format!("agent-{node}"));
            let spec = json!({
                "nodeName": node, "containers": [{ "name": "agent", "image": "wherry:test" }],
                "automountServiceAccountToken": false,
            });
            put(agent, json!({ "metadata": labels, "spec": spec }));
        }
        // Would take any PV that is Available, and gets none otherwise: its class does not exist.
        let greedy = json!({
            "storageClassName": "none", "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "4096" } },
        });
        put(Key::new(Kind::Claim, "app", "greedy"), json!({ "spec": greedy }));
        for key in others() {
            let mover = if key.name == "copy" { "wherry" } else { "velero" };
            let copied = if key.kind == Kind::DataUpload { "velero.io/restore-name" } else { "velero.io/backup-name" };
            let labels = if key.name == "copy" { json!({ copied: "x" }) } else { json!({}) };
            let spec = json!({
                "datamover": mover, "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "x",
                "csiSnapshot": { "volumeSnapshot": "velero-data-x", "storageClass": "lab" },
                "snapshotID": "wherry1/ab/6831/c1.app.data.u-1", "snapshotSize": 4096,
                "targetVolume": { "pvc": "data", "namespace": "app", "pv": "" },
                "backupStorageLocation": "default", "operationTimeout": "10m0s",
            });
            put(key, json!({ "metadata": { "labels": labels }, "spec": spec }));
        }
        match (self.download, self.local) {
            (true, _) => self.download(put),
            (false, true) => self.local(server, put, policy),
            (false, false) => self.upload(put, policy, storage),
        }
    }

    fn upload(self, put: impl Fn(Key, serde_json::Value) -> Key, policy: &str, storage: &mut Storage) -> Key {
        storage.snapshots.insert("h1".to_owned());
        put(
            Key::new(Kind::VolumeSnapshotContent, "", "snapcontent-1"),
            json!({
                "metadata": { "finalizers": ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"] },
                "spec": {
                    "deletionPolicy": policy, "driver": "lab.csi", "volumeSnapshotClassName": "lab",
                    "sourceVolumeMode": "Block", "source": { "volumeHandle": "v1" },
                    "volumeSnapshotRef": { "namespace": self.namespace(), "name": "velero-data-x" },
                },
                "status": { "snapshotHandle": "h1", "readyToUse": true, "restoreSize": 4096 },
            }),
        );
        put(
            Key::new(Kind::VolumeSnapshot, self.namespace(), "velero-data-x"),
            json!({
                "spec": { "volumeSnapshotClassName": "lab", "source": { "persistentVolumeClaimName": "data" } },
                "status": { "boundVolumeSnapshotContentName": "snapcontent-1", "readyToUse": true },
            }),
        );
        let csi = json!({
            "volumeSnapshot": "velero-data-x", "storageClass": "lab", "snapshotClass": "lab", "driver": "lab.csi",
        });
        put(
            Key::new(Kind::DataUpload, "velero", UPLOAD),
            json!({
                "metadata": { "labels": { "velero.io/backup-name": "b" } },
                "spec": {
                    "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": self.namespace(), "sourcePVC": "data",
                    "csiSnapshot": csi, "backupStorageLocation": "default", "operationTimeout": "10m0s",
                },
                "status": { "progress": {} },
            }),
        )
    }

    fn local(self, server: &Server, put: impl Fn(Key, serde_json::Value) -> Key, policy: &str) -> Key {
        let of_both = |more: serde_json::Value| {
            let mut spec =
                json!({ "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "none" });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let requests = json!({ "requests": { "storage": "4096" } });
        let spec = of_both(json!({ "volumeName": LOCAL_VOLUME, "resources": requests }));
        let claim = put(Key::new(Kind::Claim, self.namespace(), "data"), json!({ "spec": spec }));
        let uid = server.get(&claim).unwrap()["metadata"]["uid"].clone();
        let there = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"] });
        let spec = of_both(json!({
            "capacity": { "storage": "4096" }, "persistentVolumeReclaimPolicy": policy,
            "local": { "path": "/dev/disk/by-id/a" }, "claimRef": { "namespace": self.namespace(), "name": "data", "uid": uid },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [there] }] } },
        }));
        put(Key::new(Kind::Volume, "", LOCAL_VOLUME), json!({ "spec": spec }));
        let spec = json!({
            "datamover": "wherry", "snapshotType": names::LOCAL, "sourceNamespace": self.namespace(), "sourcePVC": "data",
            "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        put(Key::new(Kind::DataUpload, "velero", UPLOAD), json!({ "spec": spec, "status": { "progress": {} } }))
    }

    fn download(self, put: impl Fn(Key, serde_json::Value) -> Key) -> Key {
        let node = json!({ "volume.kubernetes.io/selected-node": "n1" });
        put(
            Key::new(Kind::Claim, self.namespace(), "data"),
            json!({
                "metadata": { "annotations": if self.wait_for_consumer { node } else { json!({}) } },
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "lab",
                    "resources": { "requests": { "storage": "4096" } },
                    "selector": { "matchLabels": { "velero.io/dynamic-pv-restore": "app.data.x" } },
                },
            }),
        );
        put(
            Key::new(Kind::DataDownload, "velero", DOWNLOAD),
            json!({
                "metadata": { "labels": { "velero.io/restore-name": "r" } },
                "spec": {
                    "datamover": "wherry", "snapshotID": "wherry1/ab/6831/c1.app.data.u-1", "sourceNamespace": "app",
                    "targetVolume": { "pvc": "data", "namespace": self.namespace(), "pv": "" }, "snapshotSize": 4096,
                    "backupStorageLocation": "default", "operationTimeout": "10m0s",
                },
                "status": { "progress": {} },
            }),
        )
    }
}
