//! The plan of a CR (annotation `wherry.io/plan`) and the agent's word that a volume is written (`wherry.io/data-done`).
//!
//! Both are JSON with a version. A plan lets every later step go without the source PVC and the first VolumeSnapshot.

use crate::Time;
use crate::decode::or_default;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of plan that this build writes, and the only one it reads, but for [`LOCAL_VERSION`].
pub const VERSION: u32 = 1;
/// The version of a plan of an upload that has [`UploadPlan::local`]: to a build that does not know that field it would be one of a
/// CSI snapshot that is gone.
pub const LOCAL_VERSION: u32 = 2;

/// Why an annotation is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is none.
    #[error("there is no annotation {0}")]
    Missing(&'static str),
    /// Written by a later version.
    #[error("annotation {name} is of version {version}, this build knows {newest}; update controller and agent")]
    Version {
        /// Of the annotation.
        name: &'static str,
        /// What it says.
        version: u64,
        /// The newest that this build reads.
        newest: u32,
    },
    /// Of another CR: copied, by a restore or by hand.
    #[error("annotation {name} is of the object with uid {uid}, not of this one")]
    Foreign {
        /// Of the annotation.
        name: &'static str,
        /// What it says.
        uid: String,
    },
    /// Not readable.
    #[error("annotation {name} cannot be read: {reason}")]
    Broken {
        /// Of the annotation.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is fixed when a DataUpload is accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadPlan {
    /// Format of the plan: [`VERSION`], or [`LOCAL_VERSION`] of a local volume.
    pub version: u32,
    /// uid of the DataUpload: with another one the plan is void.
    pub cr_uid: String,
    /// Counts from 1; one more for each PVC of ours that may still be in use on a lost node.
    pub attempt: u32,
    /// The volume itself, of an upload that reads that and no snapshot; then nothing is said of a snapshot and its driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalVolume>,
    /// uid of the first VolumeSnapshot.
    #[serde(default)]
    pub snapshot_uid: String,
    /// Name of its VolumeSnapshotContent.
    #[serde(default)]
    pub content: String,
    /// uid of that.
    #[serde(default)]
    pub content_uid: String,
    /// The driver's name of the storage snapshot.
    #[serde(default)]
    pub snapshot_handle: String,
    /// Name of the CSI driver.
    #[serde(default)]
    pub driver: String,
    /// The driver's name of the volume that the storage snapshot was taken of. None if the content does not say it, as one
    /// that was made for a snapshot that was there before: then nothing is known to be of the same volume.
    #[serde(default)]
    pub source_handle: Option<String>,
    /// VolumeSnapshotClass; none if the content names none.
    #[serde(default)]
    pub snapshot_class: Option<String>,
    /// StorageClass of the source PVC.
    pub storage_class: String,
    /// Bytes that a volume made from the snapshot needs at least: the largest that driver, VolumeSnapshot, request of the source PVC and
    /// its PV say. None if none of them says it.
    #[serde(default)]
    pub restore_size: Option<u64>,
    /// When the storage took the snapshot, by its clock; none if the driver does not say it.
    #[serde(default)]
    pub snapshot_time: Option<Time>,
    /// `Block` or `Filesystem`: what the source volume is.
    pub source_volume_mode: String,
    /// `spec.nodeAffinity`, all of it, of the source's PV; none if it has none or is gone.
    #[serde(default)]
    pub topology: Option<Value>,
    /// uid of the source PVC; none if it was gone already.
    #[serde(default)]
    pub source_uid: Option<String>,
}

/// A PV of kind `local`, of which an upload reads by a PV of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalVolume {
    /// Name of the source's PV.
    pub volume: String,
    /// Its `spec.local.path`: of a directory or device, on the node that [`UploadPlan::topology`] names.
    pub path: String,
}

/// What is fixed when a DataDownload is accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadPlan {
    /// Format of the plan, [`VERSION`].
    pub version: u32,
    /// uid of the DataDownload: with another one the plan is void.
    pub cr_uid: String,
    /// Counts from 1; one more for each PVC of ours that may still be in use on a lost node.
    pub attempt: u32,
    /// uid of the target PVC.
    pub target_uid: String,
}

/// The agent's word that the volume of this attempt holds the whole snapshot, is fsynced, and has no file open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataDone {
    /// Format, [`VERSION`].
    pub version: u32,
    /// uid of the DataDownload.
    pub cr_uid: String,
    /// Of the plan that was worked on.
    pub attempt: u32,
    /// Name of the PV that was written: no other may be given to the target.
    pub volume: String,
    /// Bytes of the snapshot.
    #[serde(default, deserialize_with = "or_default")]
    pub bytes: u64,
}

impl UploadPlan {
    /// Reads the annotation of the DataUpload with that uid.
    pub fn parse(text: Option<&str>, cr_uid: &str) -> Result<Self, PlanError> {
        let plan: Self = parse_to(LOCAL_VERSION, crate::names::PLAN, text, cr_uid)?;
        let broken = |reason: String| Err(PlanError::Broken { name: crate::names::PLAN, reason });
        if (plan.version == LOCAL_VERSION) != plan.local.is_some() {
            return broken(format!("one of version {LOCAL_VERSION} is of a local volume, and no other is"));
        }
        if plan.local.is_some() {
            return Ok(plan);
        }
        let of_snapshot = [
            ("snapshotUid", &plan.snapshot_uid),
            ("content", &plan.content),
            ("contentUid", &plan.content_uid),
            ("snapshotHandle", &plan.snapshot_handle),
            ("driver", &plan.driver),
        ];
        match of_snapshot.iter().find(|(_, value)| value.is_empty()) {
            Some((field, _)) => broken(format!("it is of a storage snapshot and has no {field}")),
            None => Ok(plan),
        }
    }

    /// The `spec.snapshotType` that it was made for, whatever the DataUpload says by now.
    #[must_use]
    pub fn snapshot_type(&self) -> &'static str {
        if self.local.is_some() { crate::names::LOCAL } else { crate::names::CSI }
    }

    /// The text of the annotation.
    #[must_use]
    pub fn print(&self) -> String {
        print(self)
    }
}

impl DownloadPlan {
    /// Reads the annotation of the DataDownload with that uid.
    pub fn parse(text: Option<&str>, cr_uid: &str) -> Result<Self, PlanError> {
        parse(crate::names::PLAN, text, cr_uid)
    }

    /// The text of the annotation.
    #[must_use]
    pub fn print(&self) -> String {
        print(self)
    }
}

impl DataDone {
    /// Reads the annotation of the DataDownload with that uid.
    pub fn parse(text: Option<&str>, cr_uid: &str) -> Result<Self, PlanError> {
        parse(crate::names::DATA_DONE, text, cr_uid)
    }

    /// The text of the annotation.
    #[must_use]
    pub fn print(&self) -> String {
        print(self)
    }
}

pub(crate) fn print<T: Serialize>(value: &T) -> String {
    // These types have no map with keys that are no text, the one thing that can fail.
    serde_json::to_string(value).unwrap_or_default()
}

pub(crate) fn parse<T: DeserializeOwned>(name: &'static str, text: Option<&str>, cr_uid: &str) -> Result<T, PlanError> {
    parse_to(VERSION, name, text, cr_uid)
}

fn parse_to<T: DeserializeOwned>(
    newest: u32,
    name: &'static str,
    text: Option<&str>,
    cr_uid: &str,
) -> Result<T, PlanError> {
    let broken = |e: serde_json::Error| PlanError::Broken { name, reason: e.to_string() };
    let value: Value = serde_json::from_str(text.ok_or(PlanError::Missing(name))?).map_err(broken)?;
    if !value.is_object() {
        // serde takes a list of what its fields are for it as well, which says neither whose it is nor of which version.
        return Err(PlanError::Broken { name, reason: "it is no JSON object".to_owned() });
    }
    // Whose it is, then of which version: nothing else is looked at in what may have another shape.
    if let Some(uid) = value["crUid"].as_str()
        && uid != cr_uid
    {
        return Err(PlanError::Foreign { name, uid: uid.to_owned() });
    }
    if let Some(version) = value["version"].as_u64()
        && !(u64::from(VERSION)..=u64::from(newest)).contains(&version)
    {
        return Err(PlanError::Version { name, version, newest });
    }
    T::deserialize(value).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> UploadPlan {
        UploadPlan {
            version: VERSION,
            cr_uid: "u1".to_owned(),
            attempt: 2,
            snapshot_uid: "s".to_owned(),
            content: "c".to_owned(),
            content_uid: "cu".to_owned(),
            snapshot_handle: "h".to_owned(),
            driver: "d".to_owned(),
            restore_size: Some(1 << 30),
            snapshot_time: Some(Time(1_800_000_000)),
            topology: Some(serde_json::json!({ "nodeSelectorTerms": [] })),
            ..UploadPlan::default()
        }
    }

    #[test]
    fn plans_there_and_back() {
        assert_eq!(UploadPlan::parse(Some(&plan().print()), "u1").unwrap(), plan());
        let download = DownloadPlan { version: VERSION, cr_uid: "d".into(), attempt: 1, target_uid: "t".into() };
        assert_eq!(DownloadPlan::parse(Some(&download.print()), "d").unwrap(), download);
        let done = DataDone { version: VERSION, cr_uid: "d".into(), attempt: 1, volume: "pv".into(), bytes: 7 };
        assert_eq!(DataDone::parse(Some(&done.print()), "d").unwrap(), done);
    }

    #[test]
    fn a_plan_of_a_local_volume_is_of_a_version_of_its_own() {
        let local = Some(LocalVolume { volume: "pv".to_owned(), path: "/mnt/a".to_owned() });
        let of = |version, local| UploadPlan { version, local, ..plan() };
        let right = of(LOCAL_VERSION, local.clone());
        assert_eq!(UploadPlan::parse(Some(&right.print()), "u1").unwrap(), right);
        // A build that does not know it must not take it for one of a snapshot, nor this build one that lacks it.
        for wrong in [of(VERSION, local), of(LOCAL_VERSION, None)] {
            assert!(
                matches!(UploadPlan::parse(Some(&wrong.print()), "u1"), Err(PlanError::Broken { .. })),
                "{wrong:?}"
            );
        }
        let other = DownloadPlan { version: LOCAL_VERSION, cr_uid: "d".into(), attempt: 1, target_uid: "t".into() };
        let newer = DownloadPlan::parse(Some(&other.print()), "d");
        assert!(matches!(newer, Err(PlanError::Version { version: 2, newest: 1, .. })), "{newer:?}");
    }

    #[test]
    fn a_plan_of_a_snapshot_says_of_which() {
        for field in ["snapshotUid", "content", "contentUid", "snapshotHandle", "driver"] {
            let mut value: Value = serde_json::from_str(&plan().print()).unwrap();
            for without in [Some(serde_json::json!("")), None] {
                let fields = value.as_object_mut().unwrap();
                let _ = match without {
                    Some(empty) => fields.insert(field.to_owned(), empty),
                    None => fields.remove(field),
                };
                match UploadPlan::parse(Some(&value.to_string()), "u1") {
                    Err(PlanError::Broken { reason, .. }) => assert!(reason.contains(field), "{reason}"),
                    other => panic!("{field}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_field_of_a_later_build_is_passed_over() {
        let mut value: Value = serde_json::from_str(&plan().print()).unwrap();
        value["later"] = serde_json::json!([1, 2]);
        assert_eq!(UploadPlan::parse(Some(&value.to_string()), "u1").unwrap(), plan());
    }

    #[test]
    fn what_is_not_taken_says_why() {
        assert_eq!(UploadPlan::parse(None, "u1"), Err(PlanError::Missing("wherry.io/plan")));
        assert!(matches!(UploadPlan::parse(Some(&plan().print()), "u2"), Err(PlanError::Foreign { .. })));
        let later = plan().print().replace("\"version\":1", "\"version\":9");
        assert!(matches!(UploadPlan::parse(Some(&later), "u1"), Err(PlanError::Version { version: 9, .. })));
        for broken in [
            "",
            "x",
            "[]",
            "{}",
            "[1,\"u1\",1,\"t\"]",
            "{\"crUid\":\"u1\"}",
            "{\"crUid\":\"u1\",\"version\":1,\"attempt\":-1}",
        ] {
            assert!(matches!(UploadPlan::parse(Some(broken), "u1"), Err(PlanError::Broken { .. })), "{broken}");
            assert!(matches!(DownloadPlan::parse(Some(broken), "u1"), Err(PlanError::Broken { .. })), "{broken}");
        }
    }
}
