//! What a DataDownload that Failed or was Canceled leaves behind goes: pods, PVCs with their PVs, finalizer.

use super::download::unmark;
use super::exposing::{doom_claim, doom_volume, release, remove_any_made, remove_pods, was_there};
use super::view::DownloadView;
use super::{Action, Step};
use wherry_api::cluster::Volume;
use wherry_api::names;
use wherry_api::plan::PlanError;

impl DownloadView {
    /// The next of it.
    pub(super) fn removal(&self) -> Step {
        let cr = &self.cr.metadata;
        if let Err(e @ PlanError::Version { .. }) = self.plan() {
            return Step::wait(e.to_string());
        }
        if let Some(step) = remove_pods(&self.pods) {
            return step;
        }
        // Given, and the restore failed all the same: its owner gets it as it was.
        let targets = |volume: &&Volume| self.is_marked(volume) && self.is_targets(volume);
        if let Some(volume) = self.volumes.iter().find(targets) {
            return unmark(volume);
        }
        let ours = || self.volumes.iter().filter(|volume| self.is_ours(volume) && !self.is_targets(volume));
        if let Some(step) = ours().find_map(|volume| doom_volume(Action::DoomVolume, volume, cr)) {
            return step;
        }
        if let Some(step) = self.claims.iter().find_map(|claim| doom_claim(claim, &self.volumes, cr)) {
            return step;
        }
        if let Some(claim) = self.claims.first() {
            return Step::wait(format!("PVC {} is going", claim.metadata.name)).told();
        }
        if let Some(step) = remove_any_made(ours(), cr) {
            return step;
        }
        if let Some(volume) = ours().find(|volume| !was_there(volume)) {
            return Step::wait(format!("PV {} is going", volume.metadata.name));
        }
        release(self.key(), cr)
    }

    /// Marked, or for a PVC of ours. What data-done names is only a name.
    pub(super) fn is_ours(&self, volume: &Volume) -> bool {
        let claim = volume.spec.claim_ref.as_ref();
        volume.metadata.label(names::CR_UID) == Some(self.uid())
            || claim.is_some_and(|claim| {
                claim.namespace == self.cr.metadata.namespace && names::is_of_attempt(&claim.name, self.uid())
            })
    }

    /// A volume that the live target names, or that is for it: never taken away. One that is for a target on its way out
    /// that is not bound to it is nobody's.
    fn is_targets(&self, volume: &Volume) -> bool {
        let Some(target) = &self.target else { return false };
        let for_it = volume.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == target.metadata.uid);
        let named = target.spec.volume_name.as_str();
        named == volume.metadata.name || (for_it && named.is_empty() && !target.metadata.is_going())
    }
}
