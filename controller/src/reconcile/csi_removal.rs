//! What an upload from a CSI snapshot leaves behind beside its PVC: the snapshots, ours and the first. Each is awaited.

use super::csi::{content_key, snapshot_key};
use super::view::UploadView;
use super::{Action, Step, delete, patch};
use serde_json::json;
use wherry_api::{VolumeSnapshot, VolumeSnapshotContent, names};

impl UploadView {
    /// `None`: there are none any more.
    ///
    /// As long as the first VolumeSnapshot is there, the storage snapshot goes with it, and our pair must not take it
    /// along. Once it is gone, our pair has the last word; where that was not made, or is not ready, it is made first:
    /// a content whose VolumeSnapshot is gone does not delete what it stands for.
    pub(super) fn remove_snapshots(&self) -> Option<Step> {
        let plan = self.believed().ok();
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
                    let ready = self.pair_is_ready(plan);
                    if self.closed && !ready {
                        return self.remove_found();
                    }
                    if !ready {
                        return Some(self.finish_takeover(content, plan));
                    }
                    return Some(match content.metadata.is_going() {
                        false => delete(Action::DropContent, content_key(content), &content.metadata),
                        true => Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)),
                    });
                }
                self.remove_pair()
            }
            (_, None) => self.remove_found(),
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

    /// The first VolumeSnapshot is gone. Without a plan nothing was ever ours; with one that cannot be read, what has
    /// our label is; and where nothing can be made, there is no pair to have the last word. The first content has it where it
    /// is still there.
    fn remove_found(&self) -> Option<Step> {
        let Some(first) = &self.first_content else { return self.remove_pair() };
        let first = || take_along(Action::DoomFirstContent, Action::DropContent, first);
        Some(self.remove_unused_pair().unwrap_or_else(first))
    }

    /// Our pair goes without effect on the storage.
    fn remove_unused_pair(&self) -> Option<Step> {
        let Some(pair) = &self.pair else { return self.pair_content.as_ref().map(leave_behind) };
        if let Some(content) = &self.pair_content
            && content.spec.deletion_policy != "Retain"
            && !content.metadata.is_going()
        {
            let body = json!({ "spec": { "deletionPolicy": "Retain" } });
            return Some(patch(Action::SpareContent, content_key(content), &content.metadata, body));
        }
        Some(match pair.metadata.is_going() {
            false => delete(Action::RemoveSnapshot, snapshot_key(pair), &pair.metadata),
            true => Step::wait(format!("VolumeSnapshot {} is going", pair.metadata.name)).told(),
        })
    }

    /// The first VolumeSnapshot is gone, its content is kept by Retain: our pair is to have the last word.
    fn finish_takeover(&self, content: &VolumeSnapshotContent, plan: &wherry_api::UploadPlan) -> Step {
        if let Some(step) = self.retain_first(content) {
            return step;
        }
        if let Some(going) = self.pair.as_ref().filter(|pair| pair.metadata.is_going()) {
            return Step::wait(format!("VolumeSnapshot {} is going", going.metadata.name)).told();
        }
        if let Some(pair) = &self.pair_content {
            // Bound to a VolumeSnapshot that is gone, it is never bound to another one: it is made anew.
            if self.pair.is_none() && is_bound(pair) {
                return leave_behind(pair);
            }
            if pair.metadata.is_going() {
                return Step::wait(format!("VolumeSnapshotContent {} is going", pair.metadata.name));
            }
            if let Some(step) = doom_content(pair) {
                return step;
            }
        }
        self.make_pair(plan)
            .unwrap_or_else(|| Step::wait(format!("VolumeSnapshot {} is not ready", names::object(self.uid()))).told())
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
                true => Step::wait(format!("VolumeSnapshot {} is going", pair.metadata.name)).told(),
            });
        }
        let content = self.pair_content.as_ref()?;
        // One that was never bound gets a VolumeSnapshot; one whose VolumeSnapshot is gone gets none any more.
        match self.believed() {
            Ok(_) if !is_bound(content) && content.metadata.is_going() => {
                Some(Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)))
            }
            Ok(plan) if !is_bound(content) && !self.closed => self.make_pair(&plan),
            _ => Some(take_along(Action::DoomContent, Action::RemoveContent, content)),
        }
    }
}

/// Whether it was ever bound to a VolumeSnapshot.
fn is_bound(content: &VolumeSnapshotContent) -> bool {
    !content.spec.volume_snapshot_ref.uid.is_empty()
}

/// A content without VolumeSnapshot goes, and the storage snapshot stays: another content has the last word.
fn leave_behind(content: &VolumeSnapshotContent) -> Step {
    let asked = !is_bound(content) || content.metadata.annotation(names::BEING_DELETED).is_some();
    if content.spec.deletion_policy != "Retain" || !asked {
        let body = json!({
            "metadata": { "annotations": { names::BEING_DELETED: "yes" } }, "spec": { "deletionPolicy": "Retain" },
        });
        return patch(Action::SpareContent, content_key(content), &content.metadata, body);
    }
    match content.metadata.is_going() {
        false => delete(Action::RemoveContent, content_key(content), &content.metadata),
        true => Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name)),
    }
}

/// A content without VolumeSnapshot goes, and the storage snapshot with it: only with the annotation, and not before it
/// shows the handle.
fn take_along(doom: Action, remove: Action, content: &VolumeSnapshotContent) -> Step {
    let asked = content.metadata.annotation(names::BEING_DELETED).is_some();
    if content.spec.deletion_policy != "Delete" || !asked {
        let body = json!({
            "metadata": { "annotations": { names::BEING_DELETED: "yes" } }, "spec": { "deletionPolicy": "Delete" },
        });
        return patch(doom, content_key(content), &content.metadata, body);
    }
    if content.metadata.is_going() {
        return Step::wait(format!("VolumeSnapshotContent {} is going", content.metadata.name));
    }
    if content.status.snapshot_handle.as_deref().unwrap_or_default().is_empty() {
        return Step::wait(format!("VolumeSnapshotContent {} does not show the handle yet", content.metadata.name));
    }
    delete(remove, content_key(content), &content.metadata)
}

fn doom_content(content: &VolumeSnapshotContent) -> Option<Step> {
    let body = json!({ "spec": { "deletionPolicy": "Delete" } });
    (content.spec.deletion_policy != "Delete")
        .then(|| patch(Action::DoomContent, content_key(content), &content.metadata, body))
}
