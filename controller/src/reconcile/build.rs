//! The objects that are made, and the larger patches.

use super::exposing::Exposing;
use super::view::{Limits, UploadView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wherry_api::api::Kind;
use wherry_api::cluster::{BOUND_BY_CONTROLLER, Claim, Pod, PodVolume, SELECTED_NODE};
use wherry_api::quantity::quantity;
use wherry_api::{DownloadPlan, LocalVolume, Meta, Phase, Time, UploadPlan, VolumeSnapshotContent, names};

/// Labels of what goes before the CR does.
fn labels(cr: &Meta) -> Value {
    json!({ names::CR_UID: cr.uid, names::VELERO_NAMESPACE: cr.namespace, names::EXCLUDE: "true" })
}

/// The CR as owner: what is left behind by a controller that acts on an old state goes with it. Without
/// blockOwnerDeletion: that would need update on `datauploads/finalizers`.
fn owner(kind: Kind, cr: &Meta) -> Value {
    json!([{
        "apiVersion": kind.api_version(), "kind": kind.word(), "name": cr.name, "uid": cr.uid,
        "controller": true, "blockOwnerDeletion": false,
    }])
}

/// The access mode of a PVC that nobody writes to.
const READ_ONLY: &str = "ReadOnlyMany";

/// Whether the PVC is a device.
pub(super) fn is_block(claim: &Claim) -> bool {
    claim.spec.volume_mode.as_deref() == Some("Block")
}

/// Takes finalizer and node label off. A merge patch replaces lists, so other finalizers are said again.
pub(super) fn released(cr: &Meta) -> Value {
    let others: Vec<&String> = cr.finalizers.iter().filter(|name| *name != names::FINALIZER).collect();
    json!({ "metadata": { "finalizers": others, "labels": { names::NODE: null } } })
}

/// Puts the finalizer on.
pub(super) fn finalizers(cr: &Meta) -> Value {
    let mut all = cr.finalizers.clone();
    if !cr.has_finalizer(names::FINALIZER) {
        all.push(names::FINALIZER.to_owned());
    }
    json!(all)
}

/// The plan of an upload. `None`: the driver has not said the handle yet.
pub(super) fn upload_plan(view: &UploadView, content: &VolumeSnapshotContent) -> Option<UploadPlan> {
    let csi = view.cr.spec.csi_snapshot.clone().unwrap_or_default();
    let mode = content
        .spec
        .source_volume_mode
        .clone()
        .or_else(|| view.source.as_ref().and_then(|source| source.spec.volume_mode.clone()));
    let first = view.first.as_ref()?;
    // Not every driver says a size, and some need more than they say: the largest is what all of them take.
    let said = content.status.restore_size.and_then(|size| u64::try_from(size).ok());
    let of_first = || first.status.restore_size.as_deref().and_then(quantity);
    let of_source = || view.source.as_ref().and_then(|source| quantity(source.spec.resources.requests.get("storage")?));
    let of_volume = || view.source_volume.as_ref().and_then(|volume| quantity(volume.spec.capacity.get("storage")?));
    let sizes = [said, of_first(), of_source(), of_volume()];
    Some(UploadPlan {
        version: wherry_api::plan::VERSION,
        cr_uid: view.uid().to_owned(),
        attempt: 1,
        local: None,
        snapshot_uid: first.metadata.uid.clone(),
        content: content.metadata.name.clone(),
        content_uid: content.metadata.uid.clone(),
        snapshot_handle: content.status.snapshot_handle.clone().filter(|handle| !handle.is_empty())?,
        driver: content.spec.driver.clone(),
        source_handle: content.spec.source.volume_handle.clone().filter(|handle| !handle.is_empty()),
        snapshot_class: content.spec.volume_snapshot_class_name.clone(),
        storage_class: csi.storage_class,
        restore_size: sizes.into_iter().flatten().filter(|size| *size > 0).max(),
        // Down to the second: what is older than that is older than the snapshot.
        snapshot_time: content.status.creation_time.map(|at| Time(at.div_euclid(1_000_000_000))).filter(|at| at.0 > 0),
        source_volume_mode: mode.unwrap_or_else(|| "Filesystem".to_owned()),
        topology: view.source_volume.as_ref().and_then(|volume| volume.spec.node_affinity.clone()),
        source_uid: view.source.as_ref().map(|source| source.metadata.uid.clone()),
    })
}

/// Accepted, with the plan.
pub(super) fn accepted(cr: &Meta, plan: &str, now: Time) -> Value {
    json!({
        "metadata": { "annotations": { names::PLAN: plan }, "finalizers": finalizers(cr) },
        "status": { "phase": Phase::Accepted, "acceptedTimestamp": now },
    })
}

/// Our VolumeSnapshotContent: static, of the same storage snapshot.
pub(super) fn content(cr: &Meta, plan: &UploadPlan, first: Option<&VolumeSnapshotContent>) -> Value {
    let name = names::object(&cr.uid);
    let mut labels = labels(cr);
    let mut annotations = json!({});
    if let Some(first) = first {
        if let Some(node) = first.metadata.label(names::MANAGED_BY) {
            labels[names::MANAGED_BY] = json!(node);
        }
        // Those of deletion secrets and the like; what the snapshot controller keeps for itself is not ours to say.
        let kept = first.metadata.annotations.iter().filter(|(key, _)| {
            !key.starts_with("snapshot.storage.kubernetes.io/volumesnapshot-being-") && !key.contains("last-applied")
        });
        annotations = kept.map(|(key, value)| (key.clone(), json!(value))).collect();
    }
    json!({
        "apiVersion": Kind::VolumeSnapshotContent.api_version(), "kind": "VolumeSnapshotContent",
        "metadata": { "name": name, "labels": labels, "annotations": annotations },
        "spec": {
            "deletionPolicy": "Delete", "driver": plan.driver,
            "source": { "snapshotHandle": plan.snapshot_handle },
            "sourceVolumeMode": plan.source_volume_mode,
            "volumeSnapshotClassName": plan.snapshot_class,
            "volumeSnapshotRef": { "namespace": cr.namespace, "name": name },
        },
    })
}

/// Our VolumeSnapshot. One that is made by a lost request after its CR is gone goes with its owner.
pub(super) fn snapshot(cr: &Meta, plan: &UploadPlan) -> Value {
    let name = names::object(&cr.uid);
    json!({
        "apiVersion": Kind::VolumeSnapshot.api_version(), "kind": "VolumeSnapshot",
        "metadata": {
            "name": name, "namespace": cr.namespace, "labels": labels(cr), "ownerReferences": owner(Kind::DataUpload, cr),
        },
        "spec": { "source": { "volumeSnapshotContentName": name }, "volumeSnapshotClassName": plan.snapshot_class },
    })
}

/// The PVC of an attempt at an upload, made from our VolumeSnapshot, as the settings for the source's class have it.
pub(super) fn upload_claim(cr: &Meta, plan: &UploadPlan, limits: &Limits, name: &str) -> Value {
    let of = plan.storage_class.as_str();
    let mode = if *limits.backup_read_only.of(of) { READ_ONLY } else { "ReadWriteOnce" };
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": cr.namespace, "labels": labels(cr), "annotations": limits.backup_annotations.of(of),
            "ownerReferences": owner(Kind::DataUpload, cr),
        },
        "spec": {
            "accessModes": [mode],
            "volumeMode": plan.source_volume_mode,
            "storageClassName": limits.class_for(of),
            "resources": { "requests": { "storage": plan.restore_size.unwrap_or_default().to_string() } },
            "dataSource": {
                "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": names::object(&cr.uid),
            },
        },
    })
}

/// The PVC of an attempt at an upload of a local volume: for the PV of its own name, which is made for it, and for no other.
pub(super) fn local_claim(cr: &Meta, plan: &UploadPlan, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": cr.namespace, "labels": labels(cr), "ownerReferences": owner(Kind::DataUpload, cr),
        },
        "spec": {
            "accessModes": [READ_ONLY],
            "volumeMode": plan.source_volume_mode,
            // Empty is none; left out it would be the default class, which provisions.
            "storageClassName": "",
            "volumeName": name,
            "resources": { "requests": { "storage": plan.restore_size.unwrap_or_default().to_string() } },
        },
    })
}

/// A filesystem that no kernel has. The kubelet looks at it only where the path is a device, and then it mounts it: a journal would be
/// replayed, read-only or not. So that fails before the device is touched; mkfs and fsck it runs for no read-only volume.
const DIRECTORY_ONLY: &str = "wherry-directory-only";

/// The PV of that PVC: of the same place on the same node as the source's. It is kept by Retain, so that nobody takes what lies
/// there for theirs to wipe, and never without claimRef.
pub(super) fn local_volume(cr: &Meta, plan: &UploadPlan, local: &LocalVolume, claim: &Claim) -> Value {
    let mut source = json!({ "path": local.path });
    if plan.source_volume_mode != "Block" {
        source["fsType"] = json!(DIRECTORY_ONLY);
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": claim.metadata.name, "labels": labels(cr) },
        "spec": {
            "accessModes": [READ_ONLY],
            "volumeMode": plan.source_volume_mode,
            "storageClassName": "",
            "capacity": { "storage": plan.restore_size.unwrap_or_default().to_string() },
            "persistentVolumeReclaimPolicy": "Retain",
            "local": source,
            "nodeAffinity": plan.topology,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace, "name": claim.metadata.name, "uid": claim.metadata.uid,
            },
        },
    })
}

/// What the PVC of a download asks for: what the target does, as it is written, unless the snapshot is larger. `None`:
/// neither says a size.
pub(super) fn download_size(target: &Claim, snapshot_size: i64) -> Option<String> {
    let needed = u64::try_from(snapshot_size).unwrap_or(0);
    let wanted = target.spec.resources.requests.get("storage").map_or("0", String::as_str);
    match quantity(wanted) {
        Some(bytes) if bytes < needed => Some(needed.to_string()),
        Some(0) => None,
        _ => Some(wanted.to_owned()),
    }
}

/// The PVC of an attempt at a download: as the target is, but large enough, and without its selector, which no
/// provisioner takes.
pub(super) fn download_claim(cr: &Meta, target: &Claim, size: &str, node: Option<&str>, name: &str) -> Value {
    let mut annotations = json!({});
    if let Some(node) = node {
        annotations[SELECTED_NODE] = json!(node);
    }
    let mut spec = json!({
        "accessModes": target.spec.access_modes,
        "volumeMode": target.spec.volume_mode.as_deref().unwrap_or("Filesystem"),
        "storageClassName": target.spec.storage_class_name,
        "resources": { "requests": { "storage": size } },
    });
    if let Some(class) = &target.spec.volume_attributes_class_name {
        spec["volumeAttributesClassName"] = json!(class);
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": cr.namespace, "labels": labels(cr), "annotations": annotations,
            "ownerReferences": owner(Kind::DataDownload, cr),
        },
        "spec": spec,
    })
}

/// Name of the container of a hosting pod.
const HOLD: &str = "hold";

/// `seLinuxOptions` of that container: nothing is labelled anew for this type.
fn no_relabelling() -> Value {
    json!({ "type": "spc_t" })
}

/// What admission, or whoever made it, has made of a hosting pod, so that its kubelet would change the volume. `None`: nothing.
/// `read_only`: nothing may be written to it, as it is no copy.
///
/// Of `seLinuxOptions` those of the container count where it has any; the others of the pod have no effect then.
pub(super) fn changes_volume(pod: &Pod, read_only: bool) -> Option<String> {
    let is_so =
        |one: &PodVolume| one.persistent_volume_claim.claim_name.is_empty() || one.persistent_volume_claim.read_only;
    if read_only && !pod.spec.volumes.iter().all(is_so) {
        return Some("a volume without readOnly, on which the kubelet runs fsck or mkfs".to_owned());
    }
    if let Some(group) = pod.spec.security_context.fs_group {
        return Some(format!("fsGroup {group}, by which every file gets another group"));
    }
    let hold = pod.spec.containers.iter().find(|container| container.name == HOLD)?;
    let options = hold.security_context.se_linux_options.as_ref();
    match options.is_some_and(|options| *options == no_relabelling()) {
        true => None,
        false => {
            let said = options.map_or_else(|| "none".to_owned(), ToString::to_string);
            Some(format!("seLinuxOptions {said} instead of {}, by which every file is labelled anew", no_relabelling()))
        }
    }
}

/// Whence the image comes, and on which nodes the pod may run.
pub(crate) fn place(pod: &mut Value, secrets: &[String], tolerations: &[Value], nodes: &BTreeMap<String, String>) {
    if !secrets.is_empty() {
        pod["imagePullSecrets"] = secrets.iter().map(|name| json!({ "name": name })).collect();
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = json!(tolerations);
    }
    if !nodes.is_empty() {
        pod["nodeSelector"] = json!(nodes);
    }
}

/// That node alone, as `nodeSelectorTerms`.
pub(super) fn on_node(node: &str) -> Value {
    json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }])
}

/// The hosting pod: while it runs, the kubelet keeps the volume published. It changes nothing on it: no fsGroup, no
/// relabelling, and of a local volume (`exposing.local`) no fsck and no mkfs, whatever the PVC says.
///
/// `terms`: nodes on which it may run, as `spec.affinity.nodeAffinity` has them.
pub(super) fn pod(exposing: &Exposing<'_>, name: &str, claim: &Claim, terms: Option<&Value>) -> Value {
    let Exposing { cr, kind, limits, local, .. } = *exposing;
    let block = is_block(claim);
    let mut container = json!({
        "name": HOLD, "image": limits.hosting_image, "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/bin/wherry", "hold"], "resources": limits.hosting_resources,
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            "seLinuxOptions": no_relabelling(),
        },
    });
    if block {
        container["volumeDevices"] = json!([{ "name": "volume", "devicePath": "/volume" }]);
    } else {
        container["volumeMounts"] = json!([{ "name": "volume", "mountPath": "/volume" }]);
    }
    let agents = json!({
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": { "matchExpressions": [{ "key": names::AGENT_LABEL, "operator": "Exists" }] },
    });
    let mut affinity = json!({ "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [agents] } });
    if let Some(terms) = terms {
        affinity["nodeAffinity"] =
            json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
    }
    let mut source = json!({ "claimName": name });
    // Of an upload: the target of a restore may ask for the same.
    if local || (kind == Kind::DataUpload && claim.spec.access_modes == [READ_ONLY]) {
        source["readOnly"] = json!(true);
    }
    let mut spec = json!({
        "restartPolicy": "Always",
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{ "name": "volume", "persistentVolumeClaim": source }],
        "affinity": affinity,
    });
    if !limits.hosting_priority_class.is_empty() {
        spec["priorityClassName"] = json!(limits.hosting_priority_class);
    }
    place(&mut spec, &limits.pull_secrets, &limits.hosting_tolerations, &limits.hosting_node_selector);
    let mut annotations = json!({ "cluster-autoscaler.kubernetes.io/safe-to-evict": "false" });
    if !limits.hosting_scc.is_empty() {
        annotations[names::REQUIRED_SCC] = json!(limits.hosting_scc);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": cr.namespace, "labels": labels(cr), "ownerReferences": owner(kind, cr),
            "annotations": annotations,
        },
        "spec": spec,
    })
}

/// The written PV is kept over the loss of its PVC, and says for whom. In one patch.
pub(super) fn kept(cr: &Meta, plan: &DownloadPlan, policy: &str) -> Value {
    json!({
        "metadata": {
            "labels": { names::CR_UID: cr.uid, names::VELERO_NAMESPACE: cr.namespace },
            "annotations": { names::ORIGINAL_POLICY: policy, names::TARGET_UID: plan.target_uid },
        },
        "spec": { "persistentVolumeReclaimPolicy": "Retain" },
    })
}

/// The PV is for the target, by uid, from one state to the next: claimRef is never empty.
///
/// It gets the labels that the target's selector wants, but for those of ours: that is the text of whoever owns the target, and with
/// labels of theirs in place of ours the PV would keep our marks and policy Retain, and nobody would look for it.
pub(super) fn given(target: &Claim) -> Value {
    let selected = target.spec.selector.as_ref().map(|selector| &selector.match_labels);
    let labels: BTreeMap<_, _> = selected.into_iter().flatten().filter(|(key, _)| !names::is_ours(key)).collect();
    json!({
        "metadata": { "labels": labels, "annotations": { BOUND_BY_CONTROLLER: null } },
        "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": target.metadata.namespace, "name": target.metadata.name, "uid": target.metadata.uid,
            // Of the claim it was for before.
            "resourceVersion": null,
        } },
    })
}

/// Our marks are off the PV, and its policy is what it was.
pub(super) fn unmarked(policy: &str) -> Value {
    json!({
        "metadata": {
            "labels": { names::CR_UID: null, names::VELERO_NAMESPACE: null },
            "annotations": { names::ORIGINAL_POLICY: null, names::TARGET_UID: null },
        },
        "spec": { "persistentVolumeReclaimPolicy": policy },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_target_and_snapshot_is_asked_for() {
        let size = |wanted: &str, snapshot: i64| {
            let mut target = Claim::default();
            target.spec.resources.requests.insert("storage".to_owned(), wanted.to_owned());
            download_size(&target, snapshot)
        };
        assert_eq!(size("1Gi", 5).as_deref(), Some("1Gi"));
        assert_eq!(size("1Gi", (1 << 30) + 1), Some(((1 << 30) + 1).to_string()));
        assert_eq!(size("1Gi", -4).as_deref(), Some("1Gi"));
        assert_eq!(size("0", 7).as_deref(), Some("7"));
        assert_eq!(size("0", 0), None);
    }
}
