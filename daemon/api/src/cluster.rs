//! Objects of Kubernetes itself, as far as they are read: claims, volumes, pods, nodes, classes, attachments.

use crate::decode::or_default;
use crate::meta::Meta;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Annotation of a PVC whose class waits for the first consumer: the node that the scheduler chose.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of a PV that the PV controller bound by itself; such a binding is undone when the PVC goes.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// `PersistentVolumeClaim`, v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: ClaimSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: ClaimStatus,
}

/// `PersistentVolumeClaimStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    /// `phase`: `Pending`, `Bound`, `Lost`.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// `capacity`: quantities as text; `storage` is what the driver says the volume has.
    #[serde(deserialize_with = "or_default")]
    pub capacity: BTreeMap<String, String>,
}

/// `PersistentVolumeClaimSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimSpec {
    /// `accessModes`.
    #[serde(deserialize_with = "or_default")]
    pub access_modes: Vec<String>,
    /// `resources` (`VolumeResourceRequirements`); of it `requests.storage` is read.
    #[serde(deserialize_with = "or_default")]
    pub resources: Resources,
    /// `storageClassName`.
    pub storage_class_name: Option<String>,
    /// `volumeAttributesClassName`.
    pub volume_attributes_class_name: Option<String>,
    /// `volumeMode`: `Block` or `Filesystem`; the latter if it is missing.
    pub volume_mode: Option<String>,
    /// `volumeName`: the PV; set once, by the binding.
    #[serde(deserialize_with = "or_default")]
    pub volume_name: String,
    /// `selector` (`*metav1.LabelSelector`); of it `matchLabels` is read.
    pub selector: Option<Selector>,
}

/// `VolumeResourceRequirements`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `requests`: quantities as text.
    #[serde(deserialize_with = "or_default")]
    pub requests: BTreeMap<String, String>,
}

/// `metav1.LabelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    /// `matchLabels`.
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
}

/// The `status` of a PV.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseOnly {
    /// `phase`: `Pending`, `Available`, `Bound`, `Released`, `Failed`.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
}

/// `PersistentVolume`, v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: VolumeSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: PhaseOnly,
}

/// `PersistentVolumeSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSpec {
    /// `persistentVolumeReclaimPolicy`: `Delete` or `Retain`.
    #[serde(deserialize_with = "or_default")]
    pub persistent_volume_reclaim_policy: String,
    /// `claimRef` (`*ObjectReference`): for whom the volume is. One without is anybody's.
    pub claim_ref: Option<ClaimRef>,
    /// `capacity`: quantities as text; `storage` is read.
    #[serde(deserialize_with = "or_default")]
    pub capacity: BTreeMap<String, String>,
    /// `nodeAffinity` (`*VolumeNodeAffinity`): copied, not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<Value>,
    /// `volumeMode`: `Block` or `Filesystem`; the latter if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<String>,
    /// `local` (`*LocalVolumeSource`): a directory or device of one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSource>,
    /// `csi` (`*CSIPersistentVolumeSource`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiSource>,
    /// `hostPath` (`*HostPathVolumeSource`): only whether it is there is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<Value>,
}

/// `LocalVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalSource {
    /// `path`: of a directory or, of volumeMode Block always, a device, on the node that `nodeAffinity` names.
    #[serde(deserialize_with = "or_default")]
    pub path: String,
    /// `fsType`: what a device is mounted as; of no effect where `path` is a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
}

/// `CSIPersistentVolumeSource`, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiSource {
    /// `driver`: its name.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
}

/// `corev1.ObjectReference` to a PVC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    /// `namespace`.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// `name`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `uid`: without it the volume is reserved for any claim of that name.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
}

/// `Pod`, v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// `PodSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// `nodeName`; empty until scheduled.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// `securityContext` (`PodSecurityContext`).
    #[serde(deserialize_with = "or_default")]
    pub security_context: Security,
    /// `containers`.
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    /// `volumes`.
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<PodVolume>,
}

/// `Volume` of a pod, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodVolume {
    /// `persistentVolumeClaim` (`PersistentVolumeClaimVolumeSource`).
    #[serde(deserialize_with = "or_default")]
    pub persistent_volume_claim: ClaimVolume,
}

/// `PersistentVolumeClaimVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimVolume {
    /// `claimName`; empty: the volume is none of a PVC.
    #[serde(deserialize_with = "or_default")]
    pub claim_name: String,
    /// `readOnly`: the kubelet mounts it so, without mkfs and fsck, whatever the PVC's access modes are.
    #[serde(deserialize_with = "or_default")]
    pub read_only: bool,
}

/// `PodSecurityContext` and `SecurityContext`, as far as they change a volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Security {
    /// `fsGroup` (of pods): the kubelet gives every file of a filesystem to that group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
    /// `seLinuxOptions` (`SELinuxOptions`): of another type than `spc_t` every file is labelled anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub se_linux_options: Option<Value>,
}

/// `Container`, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// `name`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `securityContext`.
    #[serde(deserialize_with = "or_default")]
    pub security_context: Security,
}

/// `PodStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    /// `phase`: `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// `conditions`: `PodScheduled` says why a pod has no node, `Ready` whether it answers.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// `PodCondition`, `NodeCondition`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// `type`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// `status`: `True`, `False`, `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// `reason`: one word.
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    /// `message`: for people.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// `lastTransitionTime`.
    pub last_transition_time: Option<Time>,
}

/// `Node`, v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// `status`; `Ready` is read.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// `NodeSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// `taints`; `node.kubernetes.io/out-of-service` says that nothing runs there any more.
    #[serde(deserialize_with = "or_default")]
    pub taints: Vec<Taint>,
}

/// `Taint`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// `key`.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
}

/// `StorageClass`, storage.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StorageClass {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `reclaimPolicy`; `Delete` if it is missing.
    pub reclaim_policy: Option<String>,
    /// `volumeBindingMode`: `Immediate` (also if missing) or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
}

/// `VolumeAttachment`, storage.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Meta,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: AttachmentSpec,
}

/// `VolumeAttachmentSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AttachmentSpec {
    /// `nodeName`.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// `source` (`VolumeAttachmentSource`).
    #[serde(deserialize_with = "or_default")]
    pub source: AttachmentSource,
}

/// `VolumeAttachmentSource`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AttachmentSource {
    /// `persistentVolumeName`.
    #[serde(deserialize_with = "or_default")]
    pub persistent_volume_name: String,
}
