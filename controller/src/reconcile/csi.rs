//! The exposer of CSI snapshots: rows U2 to U9 of the design. Velero's pair of VolumeSnapshot and VolumeSnapshotContent is taken
//! over by one of ours, of which the PVC of an attempt is made. What becomes of both afterwards is in `csi_removal`.

use super::exposer::Exposer;
use super::exposing::{Exposing, doom_volume, was_there};
use super::view::UploadView;
use super::{Action, Step, build, create, delete, patch};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use wherry_api::api::{Key, Kind};
use wherry_api::cluster::{Claim, Volume};
use wherry_api::{DataUpload, Phase, UploadPlan, VolumeSnapshot, VolumeSnapshotContent, names};

/// Of `spec.snapshotType` `CSI`.
#[derive(Debug)]
pub(super) struct Csi;

impl Exposer for Csi {
    fn plan(&self, view: &UploadView) -> ControlFlow<Step, UploadPlan> {
        view.snapshot_plan()
    }

    fn ready(&self, view: &UploadView, plan: &UploadPlan, exposing: &Exposing<'_>) -> Option<Step> {
        (!view.is_settled(plan)).then(|| view.takeover(plan, exposing)).flatten()
    }

    fn claim(&self, view: &UploadView, plan: &UploadPlan, name: &str) -> Value {
        build::upload_claim(&view.cr.metadata, plan, &view.limits, name)
    }

    /// The driver makes it; it is to go with its PVC, also where the class says otherwise. One that was there before has nothing of
    /// the snapshot.
    fn volume(
        &self,
        view: &UploadView,
        plan: &UploadPlan,
        _: &Exposing<'_>,
        claim: &Claim,
        volume: Option<&Volume>,
    ) -> Option<Step> {
        let volume = volume?;
        if was_there(volume) {
            let (pv, pvc, content) = (&volume.metadata.name, &claim.metadata.name, &plan.content);
            return Some(view.fail(&format!(
                "PVC {pvc}, to be made from the storage snapshot of VolumeSnapshotContent {content}, was bound to PV {pv}, which was \
                 Available and has other data: nothing was read, and the PV is kept (policy Retain, Released). Give PVs that are \
                 kept a claimRef or a class of their own, and make the backup anew"
            )));
        }
        doom_volume(Action::MarkVolume, volume, &view.cr.metadata)
    }

    fn remove(&self, view: &UploadView) -> Option<Step> {
        view.settle_snapshots()
    }
}

impl UploadView {
    fn first_name(&self) -> String {
        let name = self.cr.spec.csi_snapshot.as_ref().map_or("", |csi| csi.volume_snapshot.as_str());
        format!("VolumeSnapshot {}/{name}", self.cr.spec.source_namespace)
    }

    /// The plan, once the first content shows the storage snapshot; else why it waits or fails.
    fn snapshot_plan(&self) -> ControlFlow<Step, UploadPlan> {
        let Some(first) = self.first.as_ref().filter(|first| !first.metadata.is_going()) else {
            let gone = format!("{} is gone: nobody has the data of that time any more", self.first_name());
            return ControlFlow::Break(self.fail(&gone));
        };
        let Some(plan) = self.first_content.as_ref().and_then(|content| build::upload_plan(self, content)) else {
            let said = first.status.error.as_ref().map_or("", |error| error.message.as_str());
            return ControlFlow::Break(Step::wait(
                format!("{} has no storage snapshot yet {said}", self.first_name()).trim_end(),
            ));
        };
        if plan.restore_size.is_none() {
            return ControlFlow::Break(self.fail(&format!(
                "no size is known for a volume made from {}: neither the driver, nor the source PVC, nor its PV says one",
                self.first_name()
            )));
        }
        ControlFlow::Continue(plan)
    }

    /// The PVC of this attempt was made from the snapshot, and lives on without it: what becomes of the snapshots is not looked
    /// at before the end.
    pub(crate) fn is_settled(&self, plan: &UploadPlan) -> bool {
        let name = names::of_attempt(self.uid(), plan.attempt);
        let claim = self.claims.iter().find(|claim| claim.metadata.name == name);
        claim.is_some_and(|claim| self.cr.status.phase != Phase::Accepted || !claim.spec.volume_name.is_empty())
    }

    /// Whether our pair shows the storage snapshot, so that the first one may go.
    pub(super) fn pair_is_ready(&self, plan: &UploadPlan) -> bool {
        let ready = |pair: &VolumeSnapshot, content: &VolumeSnapshotContent| {
            pair.status.ready_to_use
                && pair.status.bound_volume_snapshot_content_name == content.metadata.name
                && content.status.snapshot_handle.as_deref() == Some(plan.snapshot_handle.as_str())
                && !pair.metadata.is_going()
                && !content.metadata.is_going()
        };
        self.pair.as_ref().zip(self.pair_content.as_ref()).is_some_and(|(pair, content)| ready(pair, content))
    }

    /// U2 to U6. The storage snapshot always has an owner that can be found. `None`: it is ours.
    fn takeover(&self, plan: &UploadPlan, exposing: &Exposing<'_>) -> Option<Step> {
        if let Some(doubt) = &self.doubt {
            return Some(self.fail(doubt));
        }
        let ready = self.pair_is_ready(plan);
        match &self.first_content {
            Some(content) if !ready || self.first.is_some() => {
                if let Some(step) = self.retain_first(content) {
                    return Some(step);
                }
            }
            None if self.pair_content.is_none() => {
                let lost = format!("VolumeSnapshotContent {} was deleted before it could be taken over", plan.content);
                return Some(self.fail(&lost));
            }
            _ => {}
        }
        if let Some(step) = self.make_pair(plan) {
            return Some(step);
        }
        if !ready {
            let error = self.pair_content.as_ref().and_then(|content| content.status.error.as_ref());
            let said = error.map_or_else(String::new, |error| format!(": {}", error.message));
            let why = format!("VolumeSnapshot {} is not ready{said}", names::object(self.uid()));
            return Some(exposing.wait(why).told());
        }
        self.drop_first(exposing)
    }

    /// U2: policy and label in one patch. `None`: it is done.
    pub(super) fn retain_first(&self, content: &VolumeSnapshotContent) -> Option<Step> {
        let cr = &self.cr.metadata;
        let ours = content.metadata.label(names::CR_UID) == Some(self.uid());
        if ours && content.spec.deletion_policy == "Retain" {
            return None;
        }
        if content.metadata.is_going() && content.spec.deletion_policy != "Retain" {
            let lost =
                format!("VolumeSnapshotContent {} was deleted before it could be taken over", content.metadata.name);
            return (!self.cr.status.phase.is_terminal()).then(|| self.fail(&lost));
        }
        let body = json!({
            "metadata": { "labels": { names::CR_UID: cr.uid, names::VELERO_NAMESPACE: cr.namespace } },
            "spec": { "deletionPolicy": "Retain" },
        });
        Some(patch(Action::RetainContent, content_key(content), &content.metadata, body))
    }

    /// U3 and U4. `None`: both are there.
    pub(super) fn make_pair(&self, plan: &UploadPlan) -> Option<Step> {
        let name = names::object(self.uid());
        let cr = &self.cr.metadata;
        if self.pair_content.is_none() {
            let object = build::content(cr, plan, self.first_content.as_ref());
            return Some(create(Action::MakeContent, Key::new(Kind::VolumeSnapshotContent, "", &name), object));
        }
        if self.pair.is_none() {
            let key = Key::new(Kind::VolumeSnapshot, &cr.namespace, &name);
            return Some(create(Action::MakeSnapshot, key, build::snapshot(cr, plan)));
        }
        None
    }

    /// U5 and U6, once our pair is ready. `None`: both are gone.
    fn drop_first(&self, exposing: &Exposing<'_>) -> Option<Step> {
        if let Some(first) = &self.first {
            if !first.metadata.is_going() {
                return Some(delete(Action::DropSnapshot, snapshot_key(first), &first.metadata));
            }
            return Some(exposing.wait(format!("{} is going", self.first_name())));
        }
        let content = self.first_content.as_ref()?;
        if !content.metadata.is_going() {
            if content.spec.deletion_policy != "Retain" {
                return self.retain_first(content);
            }
            return Some(delete(Action::DropContent, content_key(content), &content.metadata));
        }
        Some(exposing.wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)))
    }
}

/// Why the content that a plan names is not the one of the snapshot that the DataUpload is of. `None`: it is.
///
/// Whoever may write one DataUpload could have any content of the cluster marked and deleted else, with its storage snapshot, or any
/// handle of the storage read.
pub(crate) fn doubt(cr: &DataUpload, plan: &UploadPlan, content: &VolumeSnapshotContent) -> Option<String> {
    let name = cr.spec.csi_snapshot.as_ref().map_or("", |csi| csi.volume_snapshot.as_str());
    let of = &content.spec.volume_snapshot_ref;
    let handle = content.status.snapshot_handle.as_deref().unwrap_or_default();
    let wrong = [
        ("volumeSnapshotRef.namespace", of.namespace.as_str(), cr.spec.source_namespace.as_str()),
        ("volumeSnapshotRef.name", of.name.as_str(), name),
        ("volumeSnapshotRef.uid", of.uid.as_str(), plan.snapshot_uid.as_str()),
        ("driver", content.spec.driver.as_str(), plan.driver.as_str()),
        ("snapshotHandle", handle, plan.snapshot_handle.as_str()),
    ];
    let (field, is, wanted) = wrong.into_iter().find(|(_, is, wanted)| is != wanted)?;
    Some(format!(
        "VolumeSnapshotContent {} is not the one that annotation {} is of: its {field} is {is:?}, and not {wanted:?}; nothing was done to \
         it. Somebody has changed the annotation or the spec: make the backup anew",
        content.metadata.name,
        names::PLAN
    ))
}

/// What finalizers of the snapshot controller begin with.
const OF_SNAPSHOTS: &str = "snapshot.storage.kubernetes.io/";

/// Whether the snapshot controller has done with a VolumeSnapshot that is being deleted: what still holds it is a finalizer of others,
/// as whoever may edit it can put on it for as long as they like. It counts as gone: it has no word on the storage snapshot any
/// more, and a finalizer that is not on it by now never will be.
pub(crate) fn is_let_go(snapshot: &VolumeSnapshot) -> bool {
    let meta = &snapshot.metadata;
    meta.is_going() && !meta.finalizers.iter().any(|finalizer| finalizer.starts_with(OF_SNAPSHOTS))
}

pub(super) fn content_key(content: &VolumeSnapshotContent) -> Key {
    Key::new(Kind::VolumeSnapshotContent, "", &content.metadata.name)
}

pub(super) fn snapshot_key(snapshot: &VolumeSnapshot) -> Key {
    Key::new(Kind::VolumeSnapshot, &snapshot.metadata.namespace, &snapshot.metadata.name)
}
