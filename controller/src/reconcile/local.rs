//! The exposer of local volumes: a directory or device of one node, of which there are no snapshots. It is read where it lies, by
//! a PV and a PVC of our own beside the source's, read-only, and may be written to meanwhile: crash-consistent at best.
//! `controller/docs/local-volumes.md`.

use super::exposer::Exposer;
use super::exposing::{Exposing, is_made, remove_made};
use super::view::UploadView;
use super::{Action, Step, build, create};
use serde_json::Value;
use std::ops::ControlFlow;
use wherry_api::api::{Key, Kind};
use wherry_api::cluster::{Claim, Volume};
use wherry_api::quantity::quantity;
use wherry_api::{LocalVolume, Phase, UploadPlan, names};

/// Of `spec.snapshotType` [`LOCAL`](wherry_api::names::LOCAL).
#[derive(Debug)]
pub(super) struct Local;

impl Exposer for Local {
    fn plan(&self, view: &UploadView) -> ControlFlow<Step, UploadPlan> {
        let plan = || {
            let (source, volume, local) = view.local_source()?;
            let capacity = volume.spec.capacity.get("storage").and_then(|text| quantity(text));
            let size = capacity.filter(|bytes| *bytes > 0);
            Ok(UploadPlan {
                version: wherry_api::plan::LOCAL_VERSION,
                cr_uid: view.uid().to_owned(),
                attempt: 1,
                local: Some(local),
                storage_class: source.spec.storage_class_name.clone().unwrap_or_default(),
                restore_size: Some(size.ok_or_else(|| format!("PV {} says no capacity", volume.metadata.name))?),
                source_volume_mode: mode(volume).to_owned(),
                topology: volume.spec.node_affinity.clone(),
                source_uid: Some(source.metadata.uid.clone()),
                ..UploadPlan::default()
            })
        };
        let plan: Result<UploadPlan, String> = plan();
        match plan {
            Ok(plan) => ControlFlow::Continue(plan),
            Err(why) => ControlFlow::Break(view.fail(&why)),
        }
    }

    /// Where the source's volume is another one by now, what lies at its path may be anybody's.
    fn ready(&self, view: &UploadView, plan: &UploadPlan, _: &Exposing<'_>) -> Option<Step> {
        let local = plan.local.as_ref()?;
        let source = view.source.as_ref();
        let same = |claim: &&Claim| {
            Some(&claim.metadata.uid) == plan.source_uid.as_ref() && claim.spec.volume_name == local.volume
        };
        if source.filter(same).is_none() {
            let gone = "was deleted or made anew meanwhile: what lies at the path of its volume may be another's";
            return Some(view.fail(&format!("{} {gone}", view.source_name())));
        }
        (view.cr.status.phase == Phase::Accepted).then(|| view.is_elsewhere(plan, local)).flatten()
    }

    fn claim(&self, view: &UploadView, plan: &UploadPlan, name: &str) -> Value {
        build::local_claim(&view.cr.metadata, plan, name)
    }

    fn volume(
        &self,
        view: &UploadView,
        plan: &UploadPlan,
        exposing: &Exposing<'_>,
        claim: &Claim,
        volume: Option<&Volume>,
    ) -> Option<Step> {
        let (name, cr) = (&claim.metadata.name, &view.cr.metadata);
        if claim.spec.volume_name != *name {
            let other = &claim.spec.volume_name;
            return Some(
                view.fail(&format!("PVC {name} names PV {other:?}: it is not the one that was made for this")),
            );
        }
        let Some(volume) = volume else {
            let local = plan.local.as_ref()?;
            // In every phase: also that of a later attempt, and where somebody wrote the attempt, or the phase.
            let make = || {
                let object = build::local_volume(cr, plan, local, claim);
                create(Action::MakeVolume, Key::new(Kind::Volume, "", name), object)
            };
            return Some(view.is_elsewhere(plan, local).unwrap_or_else(make));
        };
        let is_its = volume.spec.claim_ref.as_ref().is_some_and(|of| of.uid == claim.metadata.uid);
        if is_its && !volume.metadata.is_going() {
            return None;
        }
        // One of a PVC that somebody deleted binds to no other.
        let of = if is_its { "" } else { ", of a PVC that is gone," };
        let wait = || exposing.wait(format!("PV {name}{of} is going"));
        Some(remove_made(volume).filter(|_| is_made(volume, cr)).unwrap_or_else(wait))
    }

    /// PVs that we made go with what all uploads leave.
    fn remove(&self, _: &UploadView) -> Option<Step> {
        None
    }
}

/// What the volume is.
fn mode(volume: &Volume) -> &str {
    volume.spec.volume_mode.as_deref().unwrap_or("Filesystem")
}

impl UploadView {
    fn source_name(&self) -> String {
        format!("PVC {}/{}", self.cr.spec.source_namespace, self.cr.spec.source_pvc)
    }

    /// A plan is an annotation: what is exposed is what the source's PV says, not what anybody writes there. `None`: both say the
    /// same, as the source is now.
    fn is_elsewhere(&self, plan: &UploadPlan, local: &LocalVolume) -> Option<Step> {
        let (volume, found) = match self.local_source() {
            Ok((_, volume, found)) => (volume, found),
            Err(why) => return Some(self.fail(&why)),
        };
        let what = match () {
            () if found != *local => format!("path {}", found.path),
            () if volume.spec.node_affinity != plan.topology => "another nodeAffinity".to_owned(),
            () if mode(volume) != plan.source_volume_mode => format!("volumeMode {}", mode(volume)),
            () => return None,
        };
        let name = names::PLAN;
        let said =
            format!("PV {} has {what}, and not what annotation {name} says: make another DataUpload", found.volume);
        Some(self.fail(&said))
    }

    /// The source PVC, the PV that is bound to it, and the place on a node that this stands for; else why that cannot be read.
    fn local_source(&self) -> Result<(&Claim, &Volume, LocalVolume), String> {
        let name = self.source_name();
        let source = self.source.as_ref().ok_or_else(|| format!("{name} is not there"))?;
        if source.metadata.is_going() {
            return Err(format!("{name} is being deleted"));
        }
        let pv = &source.spec.volume_name;
        if pv.is_empty() {
            return Err(format!("{name} is not bound: there is nothing to read"));
        }
        let volume = self.source_volume.as_ref().filter(|volume| volume.metadata.name == *pv);
        let volume = volume.ok_or_else(|| format!("PV {pv}, which {name} names, is not there"))?;
        // Anybody may write any name into a PVC of theirs.
        let is_its = volume.spec.claim_ref.as_ref().is_some_and(|of| of.uid == source.metadata.uid);
        if !is_its {
            return Err(format!("PV {pv}, which {name} names, is not bound to it"));
        }
        let spec = &volume.spec;
        let local = match (&spec.local, &spec.csi, &spec.host_path) {
            (Some(local), ..) if !local.path.is_empty() => local,
            (_, Some(csi), _) => {
                return Err(format!(
                    "PV {pv} is of CSI driver {}, and no local volume: have Velero take a snapshot of it (spec.snapshotType CSI)",
                    csi.driver
                ));
            }
            (_, _, Some(_)) => {
                let why = "is a hostPath, which says nothing of its node: make it a local PV with nodeAffinity";
                return Err(format!("PV {pv} {why}"));
            }
            _ => return Err(format!("PV {pv} has no spec.local: snapshotType Local is for local volumes alone")),
        };
        if spec.node_affinity.is_none() {
            return Err(format!("PV {pv} has no nodeAffinity: nobody knows on which node it is"));
        }
        if mode(volume) != "Block" && local.fs_type.as_deref().is_some_and(|of| !of.is_empty()) {
            return Err(format!(
                "PV {pv} is a device that the kubelet mounts (spec.local.fsType): it would be mounted a second time, and that writes \
                 to it. Mount it on the node yourself and make it a local PV of that directory, or use volumeMode Block"
            ));
        }
        Ok((source, volume, LocalVolume { volume: pv.clone(), path: local.path.clone() }))
    }
}
