//! Tags of a snapshot that a DataUpload made: what tells whose it is, and how long it is wanted. They are API: forgetting
//! rests on them.

/// Id of the cluster: the uid of namespace `kube-system`.
pub const CLUSTER: &str = "cluster";
/// The namespace of Velero.
pub const VELERO_NAMESPACE: &str = "velero-namespace";
/// Name of the Backup.
pub const BACKUP: &str = "backup";
/// uid of the Backup.
pub const BACKUP_UID: &str = "backup-uid";
/// When the Backup expires, RFC 3339; not there: never, or nobody knew.
pub const EXPIRES: &str = "expires";
/// uid of the DataUpload: at most one whole snapshot has it.
pub const CR_UID: &str = "cr-uid";
/// Namespace of the PVC.
pub const NAMESPACE: &str = "namespace";
/// Name of the PVC.
pub const PVC: &str = "pvc";
/// uid of the PVC.
pub const PVC_UID: &str = "pvc-uid";
/// The driver's name of the storage snapshot that was read.
pub const SNAPSHOT_HANDLE: &str = "snapshot-handle";
/// When the storage took that snapshot, by its clock, RFC 3339; not there: nobody knows. What it holds is as of then, and
/// not of when it was read.
pub const SNAPSHOT_TIME: &str = "snapshot-time";
/// The driver's name of the volume that the storage snapshot was taken of.
pub const VOLUME_HANDLE: &str = "volume-handle";
/// Name of the CSI driver.
pub const DRIVER: &str = "driver";
/// How well what was read goes together; not there: as the storage snapshot that was read, which is of one moment.
pub const CONSISTENCY: &str = "consistency";
/// Value of [`CONSISTENCY`]: there was no snapshot. The volume was read while it could be written to: what is in it is of no one
/// moment, and at best, if nobody wrote meanwhile, as after a loss of power.
pub const LIVE: &str = "live";
/// The path on its node of a volume that was read live.
pub const LOCAL_PATH: &str = "local-path";

/// Bytes of the longest name of a volume.
const LONGEST: usize = 200;

/// Name of a volume in the repository: `<cluster id>.<namespace>.<pvc>.<pvc uid>`. Of a PVC whose name does not fit into
/// 200 bytes the beginning is taken; its uid tells it from others.
#[must_use]
pub fn volume(cluster: &str, namespace: &str, pvc: &str, pvc_uid: &str) -> String {
    let rest = cluster.len() + namespace.len() + pvc_uid.len() + 3;
    let pvc: String = pvc.chars().take(LONGEST.saturating_sub(rest)).collect();
    format!("{cluster}.{namespace}.{pvc}.{pvc_uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_names_of_bounded_length() {
        assert_eq!(volume("c", "app", "my.data", "u-1"), "c.app.my.data.u-1");
        let uid = "01234567-89ab-cdef-0123-456789abcdef";
        let long = volume(uid, &"n".repeat(63), &"p".repeat(253), uid);
        assert!(long.len() <= 200 && long.ends_with(uid), "{long}");
        assert_eq!(long.split('.').count(), 4);
    }
}
