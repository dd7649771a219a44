//! What is done next about a DataUpload: rows U0 to U13 of the design. How its volume gets to where an agent can read it, the
//! exposer of its `spec.snapshotType` says.

use super::exposer::{KNOWN, exposer, known};
use super::exposing::{
    Exposing, cancel, cancel_under_way, doom_claim, doom_volume, fail, overdue, release, remove_any_made, remove_pods,
    was_there,
};
use super::view::UploadView;
use super::{Action, QUEUED, Step, build, patch};
use serde_json::json;
use std::ops::ControlFlow;
use wherry_api::api::{Key, Kind};
use wherry_api::plan::PlanError;
use wherry_api::{Phase, UploadPlan, names};

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
                // No agent has begun; what was made is left to whoever can read the plan.
                Err(PlanError::Version { .. })
                    if self.is_canceled() && matches!(phase, Phase::Accepted | Phase::Prepared) =>
                {
                    self.cancel()
                }
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
        // The plan says what was begun, whatever the DataUpload says by now.
        let is_local = self.plan().is_ok_and(|plan| plan.local.is_some());
        let advice = match is_local && message.contains("persistentvolumes is forbidden") {
            true => "; give the controller the rights of controller/deploy/local-volumes (chart: localVolumes.enabled)",
            false => "",
        };
        let message = format!("{message}{advice}");
        overdue(&status.phase, status.accepted_timestamp, cr.creation_timestamp, self.now, &self.limits, &message)
            .map(|said| self.fail(&said))
    }

    pub(super) fn fail(&self, message: &str) -> Step {
        fail(self.key(), &self.cr.metadata, message, self.now)
    }

    fn cancel(&self) -> Step {
        self.cancel_saying(&self.why_canceled())
    }

    fn cancel_saying(&self, message: &str) -> Step {
        cancel(self.key(), &self.cr.metadata, message, self.now)
    }

    /// Local ones are made by others, and have no time that anybody waits.
    fn made_by_velero(&self) -> bool {
        self.cr.spec.snapshot_type != names::LOCAL
    }

    fn accept(&self) -> Step {
        let Some(exposer) = known(&self.cr.spec.snapshot_type) else {
            return self.fail(&format!("spec.snapshotType {:?} is not known; {KNOWN}", self.cr.spec.snapshot_type));
        };
        // Velero waits from creation on, and may have given it up without a word: what is stored later no backup names.
        let over = self
            .made_by_velero()
            .then(|| self.cr.metadata.creation_timestamp.unwrap_or(self.now).after(self.limits.item));
        if over.is_some_and(|over| over <= self.now) {
            let limit = self.limits.item.as_secs();
            return self.fail(&format!(
                "not begun within the item timeout of {limit} s (setting itemTimeout), for which Velero waits: its backup does not name \
                 this volume's snapshot; take the next backup when there are places (setting maxActive), and pause is off"
            ));
        }
        let plan = match exposer.plan(self) {
            ControlFlow::Continue(plan) => plan,
            ControlFlow::Break(step) => return step.no_later_than(over),
        };
        if !self.admitted {
            return Step::wait(QUEUED).told().no_later_than(over);
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
        let exposer = exposer(plan.snapshot_type());
        if let Some(step) = exposer.ready(self, plan, &exposing) {
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
        let claim = |name: String| exposer.claim(self, plan, &name);
        match exposing.published(claim, |claim, volume| exposer.volume(self, plan, &exposing, claim, volume)) {
            ControlFlow::Break(step) => step,
            ControlFlow::Continue(node) => {
                match exposing.prepared(&node).unwrap_or_else(|| exposing.wait_for_agent()) {
                    // No watch tells of the source PVC, whose volume is what is read.
                    Step::Wait { why, until, .. } if plan.local.is_some() => Step::Wait { why, until, told: false },
                    step => step,
                }
            }
        }
    }

    /// What it leaves behind goes, in this order: pods, PVCs with their PVs, what its exposer has made beside them, finalizer.
    /// Each is awaited. It needs no bucket, and no word of the agent.
    fn removal(&self) -> Step {
        let cr = &self.cr.metadata;
        if let Err(e @ PlanError::Version { .. }) = self.plan() {
            return Step::wait(e.to_string());
        }
        if let Some(step) = remove_pods(&self.pods) {
            return step;
        }
        if let Some(step) = self.claims.iter().find_map(|claim| doom_claim(claim, &self.volumes, cr)) {
            return step;
        }
        if let Some(step) = self.volumes.iter().find_map(|volume| doom_volume(Action::DoomVolume, volume, cr)) {
            return step;
        }
        if let Some(claim) = self.claims.first() {
            return Step::wait(format!("PVC {} is going", claim.metadata.name)).told();
        }
        if let Some(step) = remove_any_made(self.volumes.iter(), cr) {
            return step;
        }
        if let Some(volume) = self.volumes.iter().find(|volume| !was_there(volume)) {
            return Step::wait(format!("PV {} is going", volume.metadata.name));
        }
        let exposer = match self.plan() {
            Ok(plan) => exposer(plan.snapshot_type()),
            Err(_) => exposer(&self.cr.spec.snapshot_type),
        };
        exposer.remove(self).unwrap_or_else(|| release(self.key(), cr))
    }

    pub(super) fn exposing<'a>(&'a self, plan: &'a UploadPlan) -> Exposing<'a> {
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
            topology: plan.topology.as_ref(),
            local: plan.local.is_some(),
        }
    }
}
