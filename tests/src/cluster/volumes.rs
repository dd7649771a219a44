//! Provisioner, PV controller, protection of PVCs, scheduler and kubelets of two nodes, garbage collectors.

use super::server::{Server, Who};
use super::snapshots::{is_going, text};
use super::world::{Content, Storage};
use serde_json::{Value, json};
use std::sync::Arc;
use wherry_api::api::{Key, Kind};

const KUBELET: &str = "model/kubelet";
const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
const SELECTED: &str = "volume.kubernetes.io/selected-node";

fn class_of(server: &Server, claim: &Value) -> Option<Arc<Value>> {
    server.get(&Key::new(Kind::StorageClass, "", text(claim, "/spec/storageClassName")))
}

fn waits(class: &Value) -> bool {
    class["volumeBindingMode"] == "WaitForFirstConsumer"
}

/// Makes a volume for a PVC that needs one. It refuses selectors, as external-provisioner does.
pub(super) fn provisioner(server: &Server, storage: &mut Storage) -> bool {
    // Begun is begun, as external-provisioner does it: it asks again until it is done, and makes the PV.
    if let Some((pv, object)) = (!storage.slow).then(|| storage.making.pop_first()).flatten() {
        server.create(Who::System, &pv, &object);
        return true;
    }
    for (key, claim) in server.all(Kind::Claim) {
        if is_going(&claim) || !text(&claim, "/spec/volumeName").is_empty() || claim["spec"]["selector"].is_object() {
            continue;
        }
        let Some(class) = class_of(server, &claim) else { continue };
        if waits(&class) && claim["metadata"]["annotations"][SELECTED].is_null() {
            continue;
        }
        let uid = text(&claim, "/metadata/uid");
        let name = format!("pvc-{uid}");
        let pv = Key::new(Kind::Volume, "", &name);
        if server.get(&pv).is_some() || storage.making.contains_key(&pv) {
            continue;
        }
        let source = text(&claim, "/spec/dataSource/name");
        let content = if source.is_empty() {
            Content::Old
        } else {
            let snapshot = server.get(&Key::new(Kind::VolumeSnapshot, &key.namespace, source));
            let Some(snapshot) = snapshot.filter(|snapshot| snapshot["status"]["readyToUse"] == true) else { continue };
            let bound = text(&snapshot, "/status/boundVolumeSnapshotContentName");
            let Some(of) = server.get(&Key::new(Kind::VolumeSnapshotContent, "", bound)) else { continue };
            Content::Clone(super::snapshots::handle(&of).to_owned())
        };
        storage.volumes.insert(name.clone(), content);
        let object = json!({
            "metadata": { "name": name },
            "spec": {
                "claimRef": { "namespace": key.namespace, "name": key.name, "uid": uid },
                "persistentVolumeReclaimPolicy": class["reclaimPolicy"],
                "storageClassName": class["metadata"]["name"],
                "capacity": { "storage": claim["spec"]["resources"]["requests"]["storage"] },
                "accessModes": claim["spec"]["accessModes"],
                "volumeMode": claim["spec"]["volumeMode"],
                "csi": { "driver": "lab.csi", "volumeHandle": name },
            },
        });
        if storage.slow {
            storage.making.insert(pv, object);
            continue;
        }
        server.create(Who::System, &pv, &object);
        return true;
    }
    false
}

/// Binds, releases, reclaims.
pub(super) fn pv_controller(server: &Server, storage: &mut Storage) -> bool {
    for (key, volume) in server.all(Kind::Volume) {
        let phase = text(&volume, "/status/phase");
        let reference = &volume["spec"]["claimRef"];
        if !reference.is_object() {
            // An Available PV is anybody's.
            let free =
                |claim: &Value| text(claim, "/spec/volumeName").is_empty() && !claim["spec"]["selector"].is_object();
            if let Some((claim, object)) = server.all(Kind::Claim).into_iter().find(|(_, claim)| free(claim)) {
                let taken =
                    json!({ "namespace": claim.namespace, "name": claim.name, "uid": object["metadata"]["uid"] });
                server.patch(Who::System, &key, &json!({ "spec": { "claimRef": taken } }));
                return true;
            }
            continue;
        }
        let claim_key = Key::new(Kind::Claim, text(reference, "/namespace"), text(reference, "/name"));
        let claim = server.get(&claim_key).filter(|claim| claim["metadata"]["uid"] == reference["uid"]);
        let Some(claim) = claim else {
            if phase != "Released" {
                server.patch(Who::System, &key, &json!({ "status": { "phase": "Released" } }));
                return true;
            }
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" && !is_attached(server, &key.name) {
                // The driver first; the object outlives what it stands for.
                if storage.volumes.remove(&key.name).is_none() {
                    server.delete(Who::System, &key);
                }
                return true;
            }
            continue;
        };
        let named = text(&claim, "/spec/volumeName");
        let fits = claim["spec"]["volumeAttributesClassName"] == volume["spec"]["volumeAttributesClassName"];
        if named.is_empty() && !is_going(&claim) && fits {
            let patch = json!({ "spec": { "volumeName": key.name }, "status": { "phase": "Bound" } });
            server.patch(Who::System, &claim_key, &patch);
            return true;
        }
        if named == key.name && phase != "Bound" {
            server.patch(Who::System, &key, &json!({ "status": { "phase": "Bound" } }));
            return true;
        }
    }
    false
}

fn is_attached(server: &Server, volume: &str) -> bool {
    server.all(Kind::Attachment).iter().any(|(_, object)| text(object, "/spec/source/persistentVolumeName") == volume)
}

fn claim_of(pod: &Value) -> &str {
    text(pod, "/spec/volumes/0/persistentVolumeClaim/claimName")
}

/// A PVC goes when no pod uses it, a PV when it is bound to none.
pub(super) fn protection(server: &Server) -> bool {
    for (key, volume) in server.all(Kind::Volume) {
        let held = volume["metadata"]["finalizers"].to_string().contains(PV_PROTECTION);
        if is_going(&volume) && held && volume["status"]["phase"] != "Bound" {
            server.finish(Who::System, &key, PV_PROTECTION);
            return true;
        }
    }
    for (key, claim) in server.all(Kind::Claim) {
        let used = || {
            let uses = |pod: &Key, object: &Value| pod.namespace == key.namespace && claim_of(object) == key.name;
            server.all(Kind::Pod).iter().any(|(pod, object)| uses(pod, object))
        };
        let held = claim["metadata"]["finalizers"].to_string().contains(PVC_PROTECTION);
        if is_going(&claim) && held && !used() {
            server.finish(Who::System, &key, PVC_PROTECTION);
            return true;
        }
    }
    false
}

/// The first node that is ready, takes pods, and is the one that the pod and its volume must have: it goes there.
fn node_for(server: &Server, pod: &Value, volume: Option<&Value>) -> Option<String> {
    const PINNED: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms\
                          /0/matchFields/0/values/0";
    const OF_VOLUME: &str = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
    let pinned = [text(pod, PINNED), volume.map_or("", |volume| text(volume, OF_VOLUME))];
    let takes = |key: &Key, node: &Value| {
        let may = pinned.iter().all(|pinned| pinned.is_empty() || *pinned == key.name);
        is_ready(node) && node["spec"]["unschedulable"] != true && may
    };
    server.all(Kind::Node).into_iter().find(|(key, node)| takes(key, node)).map(|(key, _)| key.name)
}

fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"][0]["status"] == "True"
}

/// Attachments that no pod on their node needs go, after the pod.
pub(super) fn detach(server: &Server) -> bool {
    for (key, attachment) in server.all(Kind::Attachment) {
        let needs = |pod_key: &Key, pod: &Value| {
            let claim = server.get(&Key::new(Kind::Claim, &pod_key.namespace, claim_of(pod))).unwrap_or_default();
            text(pod, "/spec/nodeName") == text(&attachment, "/spec/nodeName")
                && text(&claim, "/spec/volumeName") == text(&attachment, "/spec/source/persistentVolumeName")
        };
        if !server.all(Kind::Pod).iter().any(|(pod_key, pod)| needs(pod_key, pod)) {
            server.delete(Who::System, &key);
            return true;
        }
    }
    false
}

/// Scheduler, attach-detach controller, kubelets, and the collector of pods whose node is gone. Nothing happens to the
/// pods of a node that is not ready: it may be alive and writing.
pub(super) fn kubelet(server: &Server) -> bool {
    for (key, pod) in server.all(Kind::Pod) {
        if pod["metadata"]["labels"]["wherry.io/agent"].is_string() {
            continue;
        }
        let claim_key = Key::new(Kind::Claim, &key.namespace, claim_of(&pod));
        let claim = server.get(&claim_key);
        let volume = claim.as_ref().map_or("", |claim| text(claim, "/spec/volumeName")).to_owned();
        let attachment = Key::new(Kind::Attachment, "", &format!("csi-{volume}"));
        let node = server.get(&Key::new(Kind::Node, "", text(&pod, "/spec/nodeName")));
        let gone = node.is_none() && !text(&pod, "/spec/nodeName").is_empty();
        if node.is_some_and(|node| !is_ready(&node)) {
            continue;
        }
        if is_going(&pod) || gone {
            server.delete(Who::System, &key);
            server.finish(Who::System, &key, KUBELET);
            return true;
        }
        if text(&pod, "/status/phase") == "Failed" {
            continue;
        }
        let Some(claim) = claim.filter(|claim| !is_going(claim)) else { continue };
        if volume.is_empty() {
            let class = class_of(server, &claim);
            let Some(ready) = node_for(server, &pod, None) else { continue };
            if class.is_some_and(|class| waits(&class)) && claim["metadata"]["annotations"][SELECTED].is_null() {
                server.patch(Who::System, &claim_key, &json!({ "metadata": { "annotations": { SELECTED: ready } } }));
                return true;
            }
            continue;
        }
        if text(&pod, "/spec/nodeName").is_empty() {
            let pv = server.get(&Key::new(Kind::Volume, "", &volume));
            let Some(ready) = node_for(server, &pod, pv.as_deref()) else { continue };
            server.patch(
                Who::System,
                &key,
                &json!({ "spec": { "nodeName": ready }, "metadata": { "finalizers": [KUBELET] } }),
            );
            return true;
        }
        let attached = server.get(&attachment);
        if attached.as_ref().is_some_and(|attached| attached["spec"]["nodeName"] != pod["spec"]["nodeName"]) {
            continue;
        }
        if attached.is_none() {
            let spec = json!({ "nodeName": text(&pod, "/spec/nodeName"), "attacher": "lab.csi", "source": { "persistentVolumeName": volume } });
            server.create(Who::System, &attachment, &json!({ "metadata": { "name": attachment.name }, "spec": spec }));
            return true;
        }
        if text(&pod, "/status/phase") != "Running" {
            server.patch(Who::System, &key, &json!({ "status": { "phase": "Running" } }));
            return true;
        }
    }
    false
}

/// A pod that is being deleted goes, whatever its kubelet does.
pub(super) fn forget_pod(server: &Server, pod: &Key) {
    server.finish(Who::System, pod, KUBELET);
}

/// What belongs to an owner that is gone goes.
pub(super) fn garbage(server: &Server) -> bool {
    let mut alive: Vec<String> = Vec::new();
    for kind in [Kind::DataUpload, Kind::DataDownload] {
        alive.extend(server.all(kind).iter().map(|(_, object)| text(object, "/metadata/uid").to_owned()));
    }
    for kind in [Kind::Claim, Kind::Pod, Kind::VolumeSnapshot] {
        for (key, object) in server.all(kind) {
            let owner = text(&object, "/metadata/ownerReferences/0/uid");
            if !owner.is_empty() && !alive.iter().any(|uid| uid == owner) && !is_going(&object) {
                server.delete(Who::System, &key);
                return true;
            }
        }
    }
    false
}
