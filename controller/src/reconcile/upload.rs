//! What is done next about a DataUpload: rows U0 to U13 of the design.

use super::exposing::{Exposing, cancel, cancel_under_way, fail, overdue};
use super::view::UploadView;
use super::{Action, Step, build, create, delete, patch};
use serde_json::json;
use std::ops::ControlFlow;
use wherry_api::api::{Key, Kind};
use wherry_api::plan::PlanError;
use wherry_api::{Phase, UploadPlan, VolumeSnapshot, VolumeSnapshotContent, names};

impl UploadView {
    /// What is done next.
    #[must_use]
    pub fn next_step(&self) -> Step {
        let cr = &self.cr;
        let copy = cr.metadata.label(names::RESTORE_NAME).is_some();
        if copy || !self.limits.are_for(&cr.spec.datamover, &cr.metadata) {
            return Step::Ignore;
        }
        let phase = &cr.status.phase;
        let held = cr.metadata.has_finalizer(names::FINALIZER);
        if !held && (phase.is_terminal() || cr.metadata.is_going()) {
            return Step::Nothing;
        }
        if let Phase::Other(word) = phase {
            return Step::wait(format!("phase {word:?} is not known to this version"));
        }
        if !held {
            let body = json!({ "metadata": { "finalizers": build::finalizers(&cr.metadata) } });
            return patch(Action::Finalizer, self.key(), &cr.metadata, body);
        }
        if phase.is_terminal() {
            return self.removal();
        }
        match phase {
            Phase::New if self.is_canceled() => self.cancel(),
            Phase::New => self.accept(),
            _ => match self.plan() {
                Ok(plan) => self.under_way(&plan),
                Err(e @ PlanError::Version { .. }) => Step::wait(e.to_string()),
                Err(e) if self.is_canceled() => self.cancel_saying(&e.to_string()),
                Err(e) => self.fail(&e.to_string()),
            },
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::new(Kind::DataUpload, &self.cr.metadata.namespace, &self.cr.metadata.name)
    }

    /// The server will never take what the next step would make. `None`: the CR has ended already.
    pub(crate) fn refused(&self, message: &str) -> Option<Step> {
        (!self.cr.status.phase.is_terminal()).then(|| self.fail(message))
    }

    /// The server does not take it now, by a quota or an admission plugin. `None`: it is waited for.
    pub(crate) fn forbidden(&self, message: &str) -> Option<Step> {
        let (status, cr) = (&self.cr.status, &self.cr.metadata);
        overdue(&status.phase, status.accepted_timestamp, cr, self.now, &self.limits, message)
            .map(|said| self.fail(&said))
    }

    fn fail(&self, message: &str) -> Step {
        fail(self.key(), &self.cr.metadata, message, self.now)
    }

    fn cancel(&self) -> Step {
        self.cancel_saying(&self.why_canceled())
    }

    fn cancel_saying(&self, message: &str) -> Step {
        cancel(self.key(), &self.cr.metadata, message, self.now)
    }

    fn first_name(&self) -> String {
        let name = self.cr.spec.csi_snapshot.as_ref().map_or("", |csi| csi.volume_snapshot.as_str());
        format!("VolumeSnapshot {}/{name}", self.cr.spec.source_namespace)
    }

    fn accept(&self) -> Step {
        if self.cr.spec.snapshot_type != "CSI" {
            return self.fail(&format!("spec.snapshotType {:?} is not known; CSI is", self.cr.spec.snapshot_type));
        }
        let Some(first) = self.first.as_ref().filter(|first| !first.metadata.is_going()) else {
            return self.fail(&format!("{} is gone: nobody has the data of that time any more", self.first_name()));
        };
        let Some(plan) = self.first_content.as_ref().and_then(|content| build::upload_plan(self, content)) else {
            let said = first.status.error.as_ref().map_or("", |error| error.message.as_str());
            return Step::wait(format!("{} has no storage snapshot yet {said}", self.first_name()).trim_end());
        };
        if plan.restore_size.is_none() {
            return self.fail(&format!(
                "no size is known for a volume made from {}: neither the driver, nor the source PVC, nor its PV says one",
                self.first_name()
            ));
        }
        if !self.admitted {
            return Step::wait("queued").told();
        }
        let body = build::accepted(&self.cr.metadata, &plan.print(), self.now);
        patch(Action::Accept, self.key(), &self.cr.metadata, body)
    }

    fn under_way(&self, plan: &UploadPlan) -> Step {
        let exposing = self.exposing(plan);
        let moving = matches!(self.cr.status.phase, Phase::InProgress | Phase::Canceling);
        if self.is_canceled() {
            return match moving {
                true => cancel_under_way(&exposing, self.cancel_since, &self.why_canceled()),
                false => self.cancel(),
            };
        }
        if let Some(step) = (!self.is_settled(plan)).then(|| self.takeover(plan, &exposing)).flatten() {
            return step;
        }
        if let Some(step) = exposing.lost(|attempt| UploadPlan { attempt, ..plan.clone() }.print()) {
            return step;
        }
        if let Some(step) = exposing.earlier() {
            return step;
        }
        if exposing.claim().is_none() && plan.restore_size.is_none() {
            return self.fail(&format!("annotation {} has no restoreSize: no PVC can be made", names::PLAN));
        }
        match exposing.published(true, |name| build::upload_claim(&self.cr.metadata, plan, &self.limits, &name)) {
            ControlFlow::Break(step) => step,
            ControlFlow::Continue(node) => exposing.prepared(&node).unwrap_or_else(|| exposing.wait_for_agent()),
        }
    }

    /// The PVC of this attempt was made from the snapshot, and lives on without it: what becomes of the snapshots is not looked
    /// at before the end.
    pub(crate) fn is_settled(&self, plan: &UploadPlan) -> bool {
        let name = names::of_attempt(self.uid(), plan.attempt);
        let claim = self.claims.iter().find(|claim| claim.metadata.name == name);
        claim.is_some_and(|claim| self.cr.status.phase != Phase::Accepted || !claim.spec.volume_name.is_empty())
    }

    pub(super) fn exposing(&self, plan: &UploadPlan) -> Exposing<'_> {
        Exposing {
            now: self.now,
            limits: &self.limits,
            kind: Kind::DataUpload,
            cr: &self.cr.metadata,
            phase: &self.cr.status.phase,
            node: &self.cr.status.node,
            accepted: self.cr.status.accepted_timestamp,
            attempt: plan.attempt,
            claims: &self.claims,
            volumes: &self.volumes,
            pods: &self.pods,
            class: self.class.as_ref(),
            host: &self.host,
        }
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

pub(super) fn content_key(content: &VolumeSnapshotContent) -> Key {
    Key::new(Kind::VolumeSnapshotContent, "", &content.metadata.name)
}

pub(super) fn snapshot_key(snapshot: &VolumeSnapshot) -> Key {
    Key::new(Kind::VolumeSnapshot, &snapshot.metadata.namespace, &snapshot.metadata.name)
}
