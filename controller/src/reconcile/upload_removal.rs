//! What a DataUpload leaves behind goes, in this order: pods, PVCs with their PVs, snapshots, finalizer. Each is
//! awaited. It needs no bucket, and no word of the agent.

use super::exposing::{doom_claim, doom_volume, release, remove_pod};
use super::upload::{content_key, snapshot_key};
use super::view::UploadView;
use super::{Action, Step, delete, patch};
use serde_json::json;
use wherry_api::{VolumeSnapshot, VolumeSnapshotContent, names};

impl UploadView {
    /// The next of it.
    pub(super) fn removal(&self) -> Step {
        let cr = &self.cr.metadata;
        if let Some(pod) = self.pods.iter().find(|pod| !pod.metadata.is_going()) {
            return remove_pod(pod);
        }
        if let Some(pod) = self.pods.first() {
            return Step::wait(format!("pod {} is going", pod.metadata.name));
        }
        if let Some(step) = self.claims.iter().find_map(|claim| doom_claim(claim, &self.volumes, cr)) {
            return step;
        }
        if let Some(step) = self.volumes.iter().find_map(|volume| doom_volume(Action::DoomVolume, volume, cr)) {
            return step;
        }
        if let Some(claim) = self.claims.first() {
            return Step::wait(format!("PVC {} is going", claim.metadata.name));
        }
        if let Some(volume) = self.volumes.first() {
            return Step::wait(format!("PV {} is going", volume.metadata.name));
        }
        self.remove_snapshots().unwrap_or_else(|| release(self.key(), cr))
    }

    /// `None`: there are none any more.
    ///
    /// As long as the first VolumeSnapshot is there, the storage snapshot goes with it, and our pair must not take it
    /// along. Once it is gone, our pair has the last word; where that was not made, or is not ready, it is made first:
    /// a content whose VolumeSnapshot is gone does not delete what it stands for.
    fn remove_snapshots(&self) -> Option<Step> {
        let plan = self.plan().ok();
        let retained = self.first_content.as_ref().is_some_and(|content| content.spec.deletion_policy == "Retain");
        match (&self.first, &plan) {
            (Some(first), _) if !first.metadata.is_going() => Some(self.remove_with_first(first)),
            (Some(first), _) if !retained => {
                Some(Step::wait(format!("VolumeSnapshot {} is going", first.metadata.name)))
            }
            (None, _)
                if !retained && self.first_content.as_ref().is_some_and(|content| content.metadata.is_going()) =>
            {
                Some(Step::wait("the first VolumeSnapshotContent is going"))
            }
            (_, Some(plan)) => {
                if let Some(content) = &self.first_content {
                    if !self.pair_is_ready(plan) {
                        return Some(self.finish_takeover(content, plan));
                    }
                    return Some(match content.metadata.is_going() {
                        false => delete(Action::DropContent, content_key(content), &content.metadata),
                        true => Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)),
                    });
                }
                self.remove_pair()
            }
            // Never accepted, and its VolumeSnapshot is gone: nothing was ever ours.
            (_, None) => self.remove_pair(),
        }
    }

    /// The first VolumeSnapshot has the last word.
    fn remove_with_first(&self, first: &VolumeSnapshot) -> Step {
        if let Some(step) = self.remove_unused_pair() {
            return step;
        }
        if let Some(content) = &self.first_content
            && content.spec.deletion_policy != "Delete"
            && !content.metadata.is_going()
        {
            let body = json!({ "spec": { "deletionPolicy": "Delete" } });
            return patch(Action::DoomFirstContent, content_key(content), &content.metadata, body);
        }
        delete(Action::DropSnapshot, snapshot_key(first), &first.metadata)
    }

    /// Our pair goes without effect on the storage.
    fn remove_unused_pair(&self) -> Option<Step> {
        if let Some(content) = &self.pair_content {
            if content.spec.deletion_policy != "Retain" && !content.metadata.is_going() {
                let body = json!({ "spec": { "deletionPolicy": "Retain" } });
                return Some(patch(Action::SpareContent, content_key(content), &content.metadata, body));
            }
            if !content.metadata.is_going() && self.pair.is_none() {
                return Some(delete(Action::RemoveContent, content_key(content), &content.metadata));
            }
        }
        if let Some(pair) = &self.pair {
            return Some(match pair.metadata.is_going() {
                false => delete(Action::RemoveSnapshot, snapshot_key(pair), &pair.metadata),
                true => Step::wait(format!("VolumeSnapshot {} is going", pair.metadata.name)),
            });
        }
        let content = self.pair_content.as_ref()?;
        Some(Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)))
    }

    /// The first VolumeSnapshot is gone, its content is kept by Retain: our pair is to have the last word.
    fn finish_takeover(&self, content: &VolumeSnapshotContent, plan: &wherry_api::UploadPlan) -> Step {
        if let Some(step) = self.retain_first(content) {
            return step;
        }
        if let Some(going) = self.pair.as_ref().filter(|pair| pair.metadata.is_going()) {
            return Step::wait(format!("VolumeSnapshot {} is going", going.metadata.name));
        }
        if let Some(pair) = &self.pair_content {
            if pair.metadata.is_going() {
                return Step::wait(format!("VolumeSnapshotContent {} is going", pair.metadata.name));
            }
            if let Some(step) = doom_content(pair) {
                return step;
            }
        }
        self.make_pair(plan)
            .unwrap_or_else(|| Step::wait(format!("VolumeSnapshot {} is not ready", names::object(self.uid()))))
    }

    /// Our pair goes, and the storage snapshot with it. `None`: all is gone.
    fn remove_pair(&self) -> Option<Step> {
        if let Some(content) = self.pair_content.as_ref().filter(|content| !content.metadata.is_going())
            && let Some(step) = doom_content(content)
        {
            return Some(step);
        }
        if let Some(pair) = &self.pair {
            return Some(match pair.metadata.is_going() {
                false => delete(Action::RemoveSnapshot, snapshot_key(pair), &pair.metadata),
                true => Step::wait(format!("VolumeSnapshot {} is going", pair.metadata.name)),
            });
        }
        let content = self.pair_content.as_ref()?;
        if content.metadata.is_going() {
            return Some(Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)));
        }
        // Without a VolumeSnapshot it does not take the storage snapshot along: it gets one again.
        match self.plan() {
            Ok(plan) => self.make_pair(&plan),
            Err(_) => Some(delete(Action::RemoveContent, content_key(content), &content.metadata)),
        }
    }
}

fn doom_content(content: &VolumeSnapshotContent) -> Option<Step> {
    let body = json!({ "spec": { "deletionPolicy": "Delete" } });
    (content.spec.deletion_policy != "Delete")
        .then(|| patch(Action::DoomContent, content_key(content), &content.metadata, body))
}
