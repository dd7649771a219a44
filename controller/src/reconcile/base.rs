//! Whether the storage snapshot of an upload that is Completed stays, as the base that the next backup is compared with:
//! `controller/docs/kept-bases.md`.

use super::csi::snapshot_key;
use super::view::UploadView;
use super::{Action, Step, delete, patch};
use serde_json::json;
use wherry_api::{Base, KeepBase, Phase, UploadPlan, VolumeSnapshot, names};

impl UploadView {
    /// The last part of removal: what becomes of the storage snapshot. `None`: it is as it is to be.
    pub(super) fn settle_snapshots(&self) -> Option<Step> {
        let own = match self.believed() {
            Ok(plan) if self.may_have_base() => self.base(&plan).map(|base| (plan, base)),
            _ => None,
        };
        let Some((plan, own)) = own else { return self.remove_snapshots() };
        let is_newer = |other: &&VolumeSnapshot| base_of(other).is_some_and(|base| base.is_later(&own));
        match self.keeps(&plan) && !self.bases.iter().any(|other| is_newer(&other)) {
            // Ready, so there is one.
            true => {
                if let Some(step) = self.pair.as_ref().and_then(|pair| keep(pair, &own)) {
                    return Some(step);
                }
            }
            false => {
                if let Some(step) = self.remove_snapshots() {
                    return Some(step);
                }
            }
        }
        // Only now: until the newer one is kept, a backup that is taken meanwhile has the older one.
        let superseded = self.bases.iter().find(|other| !is_newer(other))?;
        Some(match superseded.metadata.is_going() {
            false => delete(Action::DropBase, snapshot_key(superseded), &superseded.metadata),
            true => Step::wait(format!("VolumeSnapshot {}, the base before, is going", superseded.metadata.name)),
        })
    }

    /// Only of a backup that is not being deleted.
    pub(crate) fn may_have_base(&self) -> bool {
        self.cr.status.phase == Phase::Completed && !self.cr.metadata.is_going()
    }

    /// What is said of it. `None`: nobody knows of which volume it is.
    fn base(&self, plan: &UploadPlan) -> Option<Base> {
        let (status, meta) = (&self.cr.status, &self.cr.metadata);
        let completed = status.completion_timestamp.or(status.start_timestamp).or(meta.creation_timestamp);
        Some(Base {
            version: wherry_api::plan::VERSION,
            cr_uid: meta.uid.clone(),
            cr: meta.name.clone(),
            completed: completed.unwrap_or_default(),
            namespace: self.cr.spec.source_namespace.clone(),
            pvc: self.cr.spec.source_pvc.clone(),
            pvc_uid: plan.source_uid.clone()?,
            storage_class: plan.storage_class.clone(),
            driver: plan.driver.clone(),
        })
    }

    /// It is wanted, its volume is still there, and our pair alone has the last word on it.
    fn keeps(&self, plan: &UploadPlan) -> bool {
        let wanted = match self.limits.keep_base.of(&plan.storage_class) {
            KeepBase::Always => true,
            KeepBase::Auto => self.changed_blocks,
            KeepBase::Never => false,
        };
        let alone = self.first.is_none() && self.first_content.is_none();
        let dooms = self.pair_content.as_ref().is_some_and(|content| content.spec.deletion_policy == "Delete");
        let lives = self.source.as_ref().is_some_and(|source| {
            Some(&source.metadata.uid) == plan.source_uid.as_ref() && !source.metadata.is_going()
        });
        wanted && alone && dooms && lives && self.pair_is_ready(plan)
    }
}

/// What a kept base says of itself. `None`: nothing that can be read.
pub(crate) fn base_of(snapshot: &VolumeSnapshot) -> Option<Base> {
    let uid = snapshot.metadata.label(names::CR_UID)?;
    Base::parse(snapshot.metadata.annotation(names::BASE_OF), uid).ok()
}

/// `None`: it is kept.
fn keep(pair: &VolumeSnapshot, own: &Base) -> Option<Step> {
    let said = own.print();
    let kept = pair.metadata.label(names::BASE) == Some(own.pvc_uid.as_str())
        && pair.metadata.annotation(names::BASE_OF) == Some(said.as_str());
    let body = json!({
        "metadata": { "labels": { names::BASE: own.pvc_uid }, "annotations": { names::BASE_OF: said } },
    });
    (!kept).then(|| patch(Action::KeepBase, snapshot_key(pair), &pair.metadata, body))
}
