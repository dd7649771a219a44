//! What is done next about a DataDownload: rows D0 to D12 of the design.

use super::exposing::{Exposing, cancel, cancel_under_way, fail, overdue, remove_pod};
use super::view::{DownloadView, waits_for_consumer};
use super::{Action, QUEUED, Step, build, delete, patch};
use std::ops::ControlFlow;
use std::time::Duration;
use wherry_api::api::{Key, Kind};
use wherry_api::cluster::{Claim, SELECTED_NODE, Volume};
use wherry_api::plan::PlanError;
use wherry_api::{DataDone, DownloadPlan, Phase, SnapshotId, Time, WaitForNode, names};

/// A target so young may get its pod any moment.
const OFTEN: Duration = Duration::from_secs(30);

impl DownloadView {
    /// What is done next.
    #[must_use]
    pub fn next_step(&self) -> Step {
        let cr = &self.cr;
        let copy = cr.metadata.label(names::BACKUP_NAME).is_some();
        if copy || !self.limits.are_for(&cr.spec.datamover, &cr.metadata) {
            return Step::Ignore;
        }
        let phase = &cr.status.phase;
        let held = cr.metadata.has_finalizer(names::FINALIZER);
        if phase.is_terminal() {
            return if held { self.removal() } else { Step::Nothing };
        }
        if let Phase::Other(word) = phase {
            return Step::wait(format!("phase {word:?} is not known to this version"));
        }
        if cr.metadata.is_going() && !held {
            return Step::Nothing;
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
                Err(e) if self.is_canceled() => cancel(self.key(), &cr.metadata, &e.to_string(), self.now),
                Err(e) => self.fail(&e.to_string()),
            },
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::new(Kind::DataDownload, &self.cr.metadata.namespace, &self.cr.metadata.name)
    }

    /// The server will never take what the next step would make. `None`: the CR has ended already.
    pub(crate) fn refused(&self, message: &str) -> Option<Step> {
        (!self.cr.status.phase.is_terminal()).then(|| self.fail(message))
    }

    /// The server does not take it now, by a quota or an admission plugin. `None`: it is waited for.
    pub(crate) fn forbidden(&self, message: &str) -> Option<Step> {
        let (status, cr) = (&self.cr.status, &self.cr.metadata);
        overdue(&status.phase, status.accepted_timestamp, cr.creation_timestamp, self.now, &self.limits, message)
            .map(|said| self.fail(&said))
    }

    fn fail(&self, message: &str) -> Step {
        fail(self.key(), &self.cr.metadata, message, self.now)
    }

    fn cancel(&self) -> Step {
        cancel(self.key(), &self.cr.metadata, &self.why_canceled(), self.now)
    }

    fn target_name(&self) -> String {
        format!("PVC {}/{}", self.cr.spec.target_volume.namespace, self.cr.spec.target_volume.pvc)
    }

    /// What is asked for cannot be had at all.
    fn refusal(&self) -> Option<String> {
        match self.cr.spec.snapshot_id.parse::<SnapshotId>() {
            Err(e) => Some(e.to_string()),
            Ok(id) => match id.namespace() {
                Some(namespace) if namespace == self.cr.spec.source_namespace => None,
                _ => Some(format!(
                    "spec.snapshotID is of volume {:?}, which is not of namespace {} (spec.sourceNamespace)",
                    id.volume, self.cr.spec.source_namespace
                )),
            },
        }
    }

    fn accept(&self) -> Step {
        if let Some(refusal) = self.refusal() {
            return self.fail(&refusal);
        }
        // Before admission: it may wait for hours, and is to keep no place meanwhile.
        if let Some(step) = self.target.as_ref().and_then(|target| self.wait_unadmitted(target)) {
            return step;
        }
        if !self.admitted {
            return Step::wait(QUEUED).told();
        }
        let Some(target) = self.target.as_ref().filter(|target| !target.metadata.is_going()) else {
            let timeout = self.cr.metadata.creation_timestamp.unwrap_or(self.now).after(self.limits.prepare);
            if timeout <= self.now {
                return self.fail(&format!("{} is not there: Velero makes it after this object", self.target_name()));
            }
            return Step::wait_until(format!("{} is not there yet", self.target_name()), timeout);
        };
        if let Some(bound) = is_bound(target) {
            return self.fail(&format!("{} is bound to PV {bound}: nothing is restored into it", self.target_name()));
        }
        if build::download_size(target, self.cr.spec.snapshot_size).is_none() {
            return self.fail(&self.without_size());
        }
        let plan = DownloadPlan {
            version: wherry_api::plan::VERSION,
            cr_uid: self.uid().to_owned(),
            attempt: 1,
            target_uid: target.metadata.uid.clone(),
        };
        let body = build::accepted(&self.cr.metadata, &plan.print(), self.now);
        patch(Action::Accept, self.key(), &self.cr.metadata, body)
    }

    /// Nobody has said yet where the volume is to be, and it is not to be made anywhere. It is looked for at first often, as a pod
    /// mostly comes with its PVC, and later seldom: of a VM that is stopped none may ever come. As long as Velero waits, so does this.
    fn wait_unadmitted(&self, target: &Claim) -> Option<Step> {
        if target.metadata.is_going() || is_bound(target).is_some() {
            return None;
        }
        let until = self.waits_for_node(target)?;
        let why = self.without_node();
        let created = self.cr.metadata.creation_timestamp.unwrap_or(self.now);
        let over = created.after(self.limits.item);
        if over <= self.now {
            let limit = self.limits.item.as_secs();
            return Some(self.fail(&format!("not done within the item timeout of {limit} s: {why}")));
        }
        let step = Step::wait_until(why, over).no_later_than(until);
        let is_new = target.metadata.creation_timestamp.is_some_and(|at| at.after(OFTEN) > self.now);
        Some(if is_new { step } else { step.told() })
    }

    fn without_node(&self) -> String {
        format!("no pod that uses {} has a node yet", self.target_name())
    }

    /// The class waits for the first consumer, there is none yet, and by the setting that is waited for: until when, if not for
    /// ever. `None`: it need not wait.
    fn waits_for_node(&self, target: &Claim) -> Option<Option<Time>> {
        if target.metadata.annotation(SELECTED_NODE).is_some() || !waits_for_consumer(self.class.as_ref()) {
            return None;
        }
        let class = target.spec.storage_class_name.as_deref().unwrap_or_default();
        // Both are there since then.
        let since = self.cr.metadata.creation_timestamp.max(target.metadata.creation_timestamp).unwrap_or(self.now);
        let until = match self.limits.wait_for_node.of(class) {
            WaitForNode::Always => None,
            WaitForNode::Never => return None,
            WaitForNode::For(wait) => Some(since.after(*wait)),
        };
        until.is_none_or(|until| until > self.now).then_some(until)
    }

    fn without_size(&self) -> String {
        format!("neither {} nor spec.snapshotSize says a size: give the PVC a request", self.target_name())
    }

    fn under_way(&self, plan: &DownloadPlan) -> Step {
        let exposing = self.exposing(plan);
        let done = DataDone::parse(self.cr.metadata.annotation(names::DATA_DONE), self.uid());
        match done {
            Ok(done) if done.attempt == plan.attempt => match exposing.claim() {
                Some(claim) if !claim.metadata.is_going() => self.keep_volume(plan, &done, claim, &exposing),
                Some(_) if exposing.pod().is_some() && self.is_canceled() => self.cancel(),
                // We delete it only after the pod.
                Some(claim) if exposing.pod().is_some() => {
                    self.fail(&format!("PVC {} was deleted while a pod of ours used it", claim.metadata.name))
                }
                Some(claim) => exposing.wait(format!("PVC {} is going", claim.metadata.name)).told(),
                None => self.give_volume(plan, &done, &exposing),
            },
            Err(e @ PlanError::Version { .. }) => Step::wait(e.to_string()),
            _ => self.write_volume(plan, &exposing),
        }
    }

    /// The live target, if it is still that of the plan and free; else why not.
    fn target_of(&self, plan: &DownloadPlan) -> Result<&Claim, String> {
        match &self.target {
            Some(target) if target.metadata.uid == plan.target_uid && !target.metadata.is_going() => Ok(target),
            Some(_) => Err(format!("{} was deleted or made anew meanwhile", self.target_name())),
            None => Err(format!("{} was deleted meanwhile", self.target_name())),
        }
    }

    /// D1 to D5: the volume is not written yet.
    fn write_volume(&self, plan: &DownloadPlan, exposing: &Exposing<'_>) -> Step {
        if self.is_canceled() {
            return match self.cr.status.phase {
                Phase::InProgress | Phase::Canceling => {
                    cancel_under_way(exposing, self.cancel_since, &self.why_canceled())
                }
                _ => self.cancel(),
            };
        }
        let target = match self.target_of(plan) {
            Ok(target) => target,
            Err(why) => return self.fail(&why),
        };
        if let Some(bound) = is_bound(target) {
            return self.fail(&format!("{} was bound to PV {bound} meanwhile", self.target_name()));
        }
        if let Some(step) = exposing.lost(|attempt| DownloadPlan { attempt, ..plan.clone() }.print()) {
            return step;
        }
        if let Some(step) = exposing.earlier() {
            return step;
        }
        let Some(size) = build::download_size(target, self.cr.spec.snapshot_size) else {
            return self.fail(&self.without_size());
        };
        // It had one when it was accepted, which the scheduler has taken back.
        if let Some(until) = self.waits_for_node(target).filter(|_| exposing.claim().is_none()) {
            return exposing.wait(self.without_node()).no_later_than(until);
        }
        let node = target.metadata.annotation(SELECTED_NODE);
        let node = exposing.chosen(node);
        let claim = |name: String| build::download_claim(&self.cr.metadata, target, &size, node, &name);
        match exposing.published(claim, |_, _| None) {
            ControlFlow::Break(step) => step,
            ControlFlow::Continue(node) => exposing.prepared(&node).unwrap_or_else(|| exposing.wait_for_agent()),
        }
    }

    /// D6 to D8: the volume is whole, its PVC is still ours.
    fn keep_volume(&self, plan: &DownloadPlan, done: &DataDone, claim: &Claim, exposing: &Exposing<'_>) -> Step {
        if self.is_canceled() {
            return self.cancel();
        }
        match self.target_of(plan).map(is_bound) {
            Err(why) => return self.fail(&why),
            Ok(Some(bound)) => {
                return self.fail(&format!("{} was bound to PV {bound} meanwhile", self.target_name()));
            }
            Ok(None) => {}
        }
        let Some(volume) = self.volume(done).filter(|volume| claim.spec.volume_name == volume.metadata.name) else {
            return self
                .fail(&format!("PV {} was written, and {} is not bound to it", done.volume, claim.metadata.name));
        };
        if volume.metadata.is_going() {
            return self.fail(&format!("PV {} was deleted by somebody else", done.volume));
        }
        let policy = volume.spec.persistent_volume_reclaim_policy.as_str();
        if !self.is_kept(volume, plan) {
            let original = volume.metadata.annotation(names::ORIGINAL_POLICY).unwrap_or(policy);
            let body = build::kept(&self.cr.metadata, plan, original);
            return patch(Action::KeepVolume, volume_key(volume), &volume.metadata, body);
        }
        if let Some(step) = self.let_go(exposing, done) {
            return step;
        }
        let key = Key::new(Kind::Claim, &claim.metadata.namespace, &claim.metadata.name);
        delete(Action::RemoveClaim, key, &claim.metadata)
    }

    /// D7 and D8: pod, then attachment. `None`: both are gone. On a lost node that may take until it is declared gone.
    fn let_go(&self, exposing: &Exposing<'_>, done: &DataDone) -> Option<Step> {
        match exposing.pod() {
            Some(pod) if !pod.metadata.is_going() => return Some(remove_pod(pod)),
            Some(pod) => return Some(exposing.wait(format!("pod {} is going", pod.metadata.name)).told()),
            None => {}
        }
        let attached = |name: &str| name == done.volume;
        let still = self.attachments.iter().find(|a| attached(&a.spec.source.persistent_volume_name))?;
        Some(exposing.wait(format!("PV {} is still attached to node {}", done.volume, still.spec.node_name)))
    }

    /// Nothing takes the volume away when its PVC goes, and it says for whom it is.
    fn is_kept(&self, volume: &Volume, plan: &DownloadPlan) -> bool {
        self.is_marked(volume)
            && volume.metadata.annotation(names::TARGET_UID) == Some(plan.target_uid.as_str())
            && volume.spec.persistent_volume_reclaim_policy == "Retain"
            && !volume.metadata.is_going()
    }

    /// D9 to D12: our PVC is gone. It is too late to cancel, if the target is bound: the volume is given to it, or it goes.
    fn give_volume(&self, plan: &DownloadPlan, done: &DataDone, exposing: &Exposing<'_>) -> Step {
        let target = match self.target_of(plan) {
            Ok(target) => target,
            Err(why) => return self.fail(&why),
        };
        let Some(volume) = self.volume(done) else {
            return self.fail(&format!("PV {} was written, and is gone", done.volume));
        };
        match is_bound(target) {
            Some(bound) if bound != done.volume => {
                return self.fail(&format!("{} was bound to PV {bound} meanwhile", self.target_name()));
            }
            _ => {}
        }
        let given = volume.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == target.metadata.uid);
        if !given {
            // Somebody else deleted our PVC: the driver may have deleted the volume already, or is about to.
            if !self.is_kept(volume, plan) || !self.is_ours(volume) {
                return self.fail(&format!(
                    "the PVC of PV {} was deleted by somebody else, and nothing kept the PV",
                    done.volume
                ));
            }
            if let Some(step) = self.let_go(exposing, done) {
                // It is nobody's yet, so that it may still go.
                return if self.is_canceled() { self.cancel() } else { step };
            }
            return patch(Action::GiveVolume, volume_key(volume), &volume.metadata, build::given(target));
        }
        let bound = target.spec.volume_name == done.volume;
        if !bound && volume.metadata.is_going() {
            return self.fail(&format!("PV {} was deleted by somebody else", done.volume));
        }
        if !bound || target.status.phase != "Bound" || volume.status.phase != "Bound" {
            return self.wait_for_binding(volume, target, exposing);
        }
        if self.is_marked(volume) {
            return unmark(volume);
        }
        if let Some(step) = exposing.earlier() {
            return step;
        }
        // What an earlier attempt left on a lost node holds the finalizer, not the restore.
        let others = |v: &Volume| v.metadata.name != done.volume && self.is_ours(v);
        let left = !self.pods.is_empty() || !self.claims.is_empty() || self.volumes.iter().any(others);
        let mut body = if left { serde_json::json!({}) } else { build::released(&self.cr.metadata) };
        body["status"] = serde_json::json!({ "phase": Phase::Completed, "completionTimestamp": self.now });
        patch(Action::Complete, self.key(), &self.cr.metadata, body)
    }

    /// D10. The PV is never taken back: the target may be bound to it at this very moment, by a write that ours would not meet. One who
    /// waits no longer leaves it to the target, as it was; the removal takes our marks off.
    fn wait_for_binding(&self, volume: &Volume, target: &Claim, exposing: &Exposing<'_>) -> Step {
        let why = format!(
            "PV {} holds the whole snapshot and is given to {}, but they are not bound to each other (PV {:?}, PVC {:?}): the PV stays that \
             PVC's; its Events say what is in the way, and with the PVC both go",
            volume.metadata.name,
            self.target_name(),
            volume.status.phase,
            target.status.phase
        );
        if !self.is_canceled() {
            return exposing.wait(why);
        }
        // As a rule it takes a moment, and the restore is done.
        let limit = self.cancel_since.unwrap_or(self.now).after(self.limits.cancel);
        if limit <= self.now {
            return cancel(self.key(), &self.cr.metadata, &format!("{}; {why}", self.why_canceled()), self.now);
        }
        Step::wait_until(why, limit)
    }

    fn volume(&self, done: &DataDone) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.metadata.name == done.volume)
    }

    pub(super) fn is_marked(&self, volume: &Volume) -> bool {
        volume.metadata.label(names::CR_UID) == Some(self.uid())
    }

    fn exposing(&self, plan: &DownloadPlan) -> Exposing<'_> {
        Exposing {
            now: self.now,
            limits: &self.limits,
            kind: Kind::DataDownload,
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
            topology: None,
            local: false,
        }
    }
}

fn is_bound(claim: &Claim) -> Option<&str> {
    Some(claim.spec.volume_name.as_str()).filter(|name| !name.is_empty())
}

/// The PV is its owner's alone. Where nobody knows its policy any more, it is the one that loses nothing.
pub(super) fn unmark(volume: &Volume) -> Step {
    let policy = volume.metadata.annotation(names::ORIGINAL_POLICY).unwrap_or("Retain");
    patch(Action::UnmarkVolume, volume_key(volume), &volume.metadata, build::unmarked(policy))
}

fn volume_key(volume: &Volume) -> Key {
    Key::new(Kind::Volume, "", &volume.metadata.name)
}
