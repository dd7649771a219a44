//! Names, labels and annotations of everything that wherry makes or marks in a cluster.

/// Value of `spec.datamover` that means wherry, unless the settings name others.
pub const DATAMOVER: &str = "wherry";
/// Value of `spec.snapshotType` that Velero makes: a CSI snapshot.
pub const CSI: &str = "CSI";
/// Value of `spec.snapshotType` of ours, for a DataUpload that Velero does not make: a PV of kind `local`, read while it is in use.
pub const LOCAL: &str = "Local";
/// Finalizer of DataUploads and DataDownloads: off when nothing of ours is left.
pub const FINALIZER: &str = "wherry.io/cleanup";
/// Annotation of a DataUpload or DataDownload: the plan, JSON.
pub const PLAN: &str = "wherry.io/plan";
/// Annotation of a DataDownload: the volume is written, fsynced and closed; JSON.
pub const DATA_DONE: &str = "wherry.io/data-done";
/// Annotation of a DataUpload: the agent's session in the repository, which whoever goes on after it ends first.
pub const SESSION: &str = "wherry.io/session";
/// Label of a DataUpload or DataDownload: the node whose agent has it, see [`node_label`]. Agents watch by it.
pub const NODE: &str = "wherry.io/node";
/// Label of every object of ours, and of what we mark: uid of the DataUpload or DataDownload.
pub const CR_UID: &str = "wherry.io/cr-uid";
/// Label beside it: the namespace of Velero.
pub const VELERO_NAMESPACE: &str = "wherry.io/velero-namespace";
/// Label that keeps Velero from backing up, and deleting, an object of ours. Never on what outlives the CR.
pub const EXCLUDE: &str = "velero.io/exclude-from-backup";
/// Annotation of a PV that changes hands: the reclaim policy it had.
pub const ORIGINAL_POLICY: &str = "wherry.io/original-reclaim-policy";
/// Annotation of a PV that changes hands: uid of the PVC that gets it.
pub const TARGET_UID: &str = "wherry.io/target-uid";
/// Label of our VolumeSnapshot of the newest Completed backup of a volume, where that is kept: uid of the source PVC. There is
/// one of each, and it outlives its upload, not its DataUpload.
pub const BASE: &str = "wherry.io/base";
/// Annotation beside it, see [`Base`](crate::Base).
pub const BASE_OF: &str = "wherry.io/base-of";
/// Name of the CustomResourceDefinition by which a driver says that it lists changed blocks; its objects have the drivers' names.
pub const METADATA_SERVICES: &str = "snapshotmetadataservices.cbt.storage.k8s.io";
/// Annotation of a VolumeSnapshotContent: its VolumeSnapshot is being deleted. Without it the sidecar does not let a
/// content go that is bound.
pub const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// Label of a VolumeSnapshotContent that is served by the node that took the snapshot; copied.
pub const MANAGED_BY: &str = "snapshot.storage.kubernetes.io/managed-by";
/// Label of a DataUpload that Velero restored from a backup: a copy, which starts nothing.
pub const RESTORE_NAME: &str = "velero.io/restore-name";
/// Label of a DataUpload: its backup. On a DataDownload it says that the object is a restored copy.
pub const BACKUP_NAME: &str = "velero.io/backup-name";
/// Label of a DataUpload: uid of its backup.
pub const BACKUP_UID: &str = "velero.io/backup-uid";
/// Label of a DataUpload: uid of the PVC.
pub const PVC_UID: &str = "velero.io/pvc-uid";
/// What `status.message` begins with while an agent tries again what failed: not the last word.
pub const AGAIN: &str = "tried again: ";
/// Annotation of a pod on OpenShift: the SecurityContextConstraints that it must get, or it is refused.
pub const REQUIRED_SCC: &str = "openshift.io/required-scc";
/// Label of agent pods.
pub const AGENT_LABEL: &str = "wherry.io/agent";

/// Whether a label or annotation of that key is for wherry alone to write.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| domain == "wherry.io" || domain.ends_with(".wherry.io"))
}

/// Name of VolumeSnapshot and VolumeSnapshotContent of a CR.
#[must_use]
pub fn object(cr_uid: &str) -> String {
    format!("wherry-{cr_uid}")
}

/// Name of pod and PVC of one attempt at a CR.
#[must_use]
pub fn of_attempt(cr_uid: &str, attempt: u32) -> String {
    format!("wherry-{cr_uid}-{attempt}")
}

/// Whether pod or PVC of that name belong to an attempt at the CR.
#[must_use]
pub fn is_of_attempt(name: &str, cr_uid: &str) -> bool {
    name.strip_prefix(&object(cr_uid))
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|attempt| !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_digit()))
}

/// uid of the CR of which a pod or PVC of that name is an attempt. Others have PVCs of such names, too, but for the uid: that is a
/// UUID, as the API server makes it.
#[must_use]
pub fn cr_of_attempt(name: &str) -> Option<&str> {
    let (uid, attempt) = name.strip_prefix("wherry-")?.rsplit_once('-')?;
    let is_number = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_digit());
    (is_number && is_uuid(uid)).then_some(uid)
}

/// Whether an object of that name may be one that was made for a CR: VolumeSnapshot, VolumeSnapshotContent, pod or PVC. What others
/// made has no such name, but for the uid in it, as the API server makes it.
#[must_use]
pub fn is_made(name: &str) -> bool {
    name.strip_prefix("wherry-").is_some_and(is_uuid) || cr_of_attempt(name).is_some()
}

fn is_uuid(text: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

/// The value of label [`NODE`]: the node's name, or where that is longer than a label may be (63) its beginning and a
/// hash of all of it.
#[must_use]
pub fn node_label(node: &str) -> String {
    const LONGEST: usize = 63;
    if node.len() <= LONGEST {
        return node.to_owned();
    }
    // FNV-1a: the same in every version; nobody gains by two nodes of one label.
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let start: String = node.chars().take(LONGEST - 17).collect();
    format!("{start}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_told_from_other_names() {
        assert!(is_of_attempt(&of_attempt("a-b", 12), "a-b"));
        for other in ["wherry-a-b", "wherry-a-b-", "wherry-a-b-x", "wherry-a-b-1-2", "wherry-a-1", "a-b-1"] {
            assert!(!is_of_attempt(other, "a-b"), "{other}");
        }
        let uid = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(cr_of_attempt(&of_attempt(uid, 12)), Some(uid));
        let cut = of_attempt(&uid[1..], 1);
        for other in
            ["wherry-cache-0", "wherry-", "wherry--1", "a-b-1", "wherry-a-", &cut, &object(uid), &uid.replace('-', "x")]
        {
            assert_eq!(cr_of_attempt(other), None, "{other}");
        }
    }

    #[test]
    fn long_nodes_have_short_labels_of_their_own() {
        let long = |last: char| format!("{}{last}", "node.example.".repeat(10));
        assert_eq!(node_label("n1"), "n1");
        assert_eq!(node_label(&long('a')).len(), 63);
        assert_ne!(node_label(&long('a')), node_label(&long('b')));
        assert_eq!(node_label(&long('a')), node_label(&long('a')));
    }
}
