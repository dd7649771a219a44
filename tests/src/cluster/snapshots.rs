//! The snapshot controller and the driver's sidecar, as external-snapshotter 8.3 does it.

use super::server::{Server, Who};
use super::world::Storage;
use serde_json::{Value, json};
use std::sync::Arc;
use wherry_api::api::{Key, Kind};

const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const CONTENT: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The storage snapshot that a content names.
pub(super) fn handle(content: &Value) -> &str {
    let said = text(content, "/status/snapshotHandle");
    if said.is_empty() { text(content, "/spec/source/snapshotHandle") } else { said }
}

/// One write of the snapshot controller; `false`: nothing to do.
pub(super) fn controller(server: &Server) -> bool {
    for (key, snapshot) in server.all(Kind::VolumeSnapshot) {
        let bound = text(&snapshot, "/status/boundVolumeSnapshotContentName");
        let named = if bound.is_empty() { text(&snapshot, "/spec/source/volumeSnapshotContentName") } else { bound };
        let content_key = Key::new(Kind::VolumeSnapshotContent, "", named);
        let content = server.get(&content_key);
        let uid = text(&snapshot, "/metadata/uid");
        if is_going(&snapshot) {
            // Others may still hold one that this has let go of.
            if !snapshot["metadata"]["finalizers"].to_string().contains(BOUND) {
                continue;
            }
            if deleting(server, &key, uid, content.map(|content| (content_key, content))) {
                return true;
            }
            continue;
        }
        if server.hold(Who::System, &key, BOUND) {
            return true;
        }
        let Some(content) = content else { continue };
        let reference = &content["spec"]["volumeSnapshotRef"];
        if reference["name"] != key.name.as_str() || reference["namespace"] != key.namespace.as_str() {
            continue;
        }
        if text(reference, "/uid").is_empty() {
            let patch = json!({ "spec": { "volumeSnapshotRef": { "uid": uid } } });
            server.patch(Who::System, &content_key, &patch);
            server.hold(Who::System, &content_key, CONTENT);
            return true;
        }
        let ready = content["status"]["readyToUse"] == true && reference["uid"] == uid;
        if ready && snapshot["status"]["readyToUse"] != true {
            let status = json!({ "boundVolumeSnapshotContentName": content_key.name, "readyToUse": true });
            server.patch(Who::System, &key, &json!({ "status": status }));
            return true;
        }
    }
    false
}

/// A VolumeSnapshot on its way out: it stays while a PVC is being made from it, and until a content of policy Delete is
/// gone.
fn deleting(server: &Server, key: &Key, uid: &str, content: Option<(Key, Arc<Value>)>) -> bool {
    let used = server.all(Kind::Claim).iter().any(|(claim, object)| {
        claim.namespace == key.namespace
            && text(object, "/spec/dataSource/name") == key.name
            && text(object, "/spec/volumeName").is_empty()
            && !is_going(object)
    });
    if used {
        return false;
    }
    match content {
        Some((content_key, content)) if content["spec"]["volumeSnapshotRef"]["uid"] == uid => {
            if content["metadata"]["annotations"][BEING_DELETED].is_null() {
                let patch = json!({ "metadata": { "annotations": { BEING_DELETED: "yes" } } });
                server.patch(Who::System, &content_key, &patch);
                return true;
            }
            if content["spec"]["deletionPolicy"] != "Delete" {
                server.finish(Who::System, key, BOUND);
                return true;
            }
            if is_going(&content) {
                return false;
            }
            server.delete(Who::System, &content_key);
        }
        _ => server.finish(Who::System, key, BOUND),
    }
    true
}

/// One write of the driver's sidecar; `false`: nothing to do.
pub(super) fn sidecar(server: &Server, storage: &mut Storage) -> bool {
    for (key, content) in server.all(Kind::VolumeSnapshotContent) {
        let named = handle(&content).to_owned();
        if is_going(&content) {
            let retain = content["spec"]["deletionPolicy"] == "Retain";
            let unbound = text(&content, "/spec/volumeSnapshotRef/uid").is_empty();
            let asked = content["metadata"]["annotations"][BEING_DELETED].is_string();
            if !unbound && !asked {
                continue;
            }
            if !retain && !text(&content, "/status/snapshotHandle").is_empty() {
                if storage.is_cloned(&named) {
                    continue;
                }
                storage.snapshots.remove(&named);
            }
            server.finish(Who::System, &key, CONTENT);
            return true;
        }
        if content["status"]["readyToUse"] != true && !storage.never_ready && storage.snapshots.contains(&named) {
            let status = json!({ "snapshotHandle": named, "readyToUse": true, "restoreSize": 4096 });
            server.patch(Who::System, &key, &json!({ "status": status }));
            return true;
        }
    }
    false
}
