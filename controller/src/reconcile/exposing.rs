//! What upload and download share: PVC, PV and hosting pod of an attempt, and the node they are on.

use super::build;
use super::view::{Agent, Host, Limits, waits_for_consumer};
use super::{Action, Step, create, delete, patch};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use wherry_api::api::{Key, Kind};
use wherry_api::cluster::{BOUND_BY_CONTROLLER, Claim, Pod, StorageClass, Volume};
use wherry_api::{Meta, Phase, Time, names};

/// The parts of a view that exposing rests on.
pub(super) struct Exposing<'a> {
    pub(super) now: Time,
    pub(super) limits: &'a Limits,
    pub(super) kind: Kind,
    pub(super) cr: &'a Meta,
    pub(super) phase: &'a Phase,
    pub(super) node: &'a str,
    pub(super) accepted: Option<Time>,
    pub(super) attempt: u32,
    pub(super) claims: &'a [Claim],
    pub(super) volumes: &'a [Volume],
    pub(super) pods: &'a [Pod],
    pub(super) class: Option<&'a StorageClass>,
    pub(super) host: &'a Host,
    /// Of an upload: `spec.nodeAffinity` of the source's PV.
    pub(super) topology: Option<&'a Value>,
    /// What is exposed is the volume itself, and no copy: a local one.
    pub(super) local: bool,
}

impl Exposing<'_> {
    fn name(&self) -> String {
        names::of_attempt(&self.cr.uid, self.attempt)
    }

    pub(super) fn key(&self) -> Key {
        Key::new(self.kind, &self.cr.namespace, &self.cr.name)
    }

    pub(super) fn claim(&self) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.metadata.name == self.name())
    }

    pub(super) fn pod(&self) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.metadata.name == self.name())
    }

    pub(super) fn volume_of(&self, claim: &Claim) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.metadata.name == claim.spec.volume_name)
    }

    /// Waits while no agent works on it; in phase Accepted no longer than the prepare timeout, later no longer than Velero
    /// does. Then the reason is why it failed: nobody else would ever say that it ended.
    pub(super) fn wait(&self, why: String) -> Step {
        let (limits, cr) = (self.limits, self.cr);
        if let Some(message) = overdue(self.phase, self.accepted, self.since(), self.now, limits, &why) {
            return fail(self.key(), cr, &message, self.now);
        }
        let over = deadline(self.phase, self.accepted, self.since(), self.now, limits).map(|(at, _)| at);
        Step::Wait { why, until: over.into_iter().chain(self.lost_at()).min(), told: false }
    }

    /// Waits for the agent of the node. One that answers keeps the deadline itself once it has begun; until then, as it may have no place
    /// for this one, it is kept here.
    pub(super) fn wait_for_agent(&self) -> Step {
        match self.host.agent {
            Agent::Ready if *self.phase == Phase::Prepared => self
                .wait(format!("the agent of node {} has not begun, it may have no place (slotsPerNode)", self.node))
                .told(),
            Agent::Ready => Step::Wait { why: "the agent".to_owned(), until: self.lost_at(), told: true },
            Agent::Silent | Agent::Gone(_) => self.wait(format!("the agent of node {} does not answer", self.node)),
        }
    }

    /// Since when the item timeout counts: as Velero has it, or for those that it has not made without their time in the queue.
    fn since(&self) -> Option<Time> {
        let created = self.cr.creation_timestamp;
        if self.local { created.max(self.accepted) } else { created }
    }

    fn lost_at(&self) -> Option<Time> {
        self.host.lost_at(self.limits.node_lost).filter(|at| *at > self.now)
    }

    /// An agent may have begun on `status.node`: the controller names it there once a pod runs, and takes it away with the attempt.
    fn has_begun(&self) -> bool {
        !self.node.is_empty()
    }

    /// A lost node: its PVC may still be written to there, so the next attempt has one of its own. Also where nothing is left of the
    /// pod: whoever took it away did not end what runs on a node that is not reached.
    pub(super) fn lost(&self, plan: impl FnOnce(u32) -> String) -> Option<Step> {
        if self.pod().is_none() && !self.has_begun() {
            return None;
        }
        let why = self.host.is_lost(self.now, self.limits.node_lost)?;
        let Some(next) = self.attempt.checked_add(1) else {
            let said = format!("{why}, and after attempt {} of annotation {} there is none", self.attempt, names::PLAN);
            return Some(fail(self.key(), self.cr, &said, self.now));
        };
        // Nothing of the next one is there yet: else it would be taken for lost, too. The label says for longer which node it was.
        let body = json!({ "metadata": { "annotations": { names::PLAN: plan(next) } }, "status": { "node": null } });
        Some(patch(Action::NextAttempt, self.key(), self.cr, body))
    }

    /// What earlier attempts left. It is deleted, and not waited for: on a lost node it stays until the node is back.
    pub(super) fn earlier(&self) -> Option<Step> {
        let current = self.name();
        let pod = self.pods.iter().find(|pod| pod.metadata.name != current && !pod.metadata.is_going());
        if let Some(pod) = pod {
            return Some(remove_pod(pod));
        }
        let old = self.claims.iter().filter(|claim| claim.metadata.name != current);
        old.filter_map(|claim| doom_claim(claim, self.volumes, self.cr)).next()
    }

    /// PVC, PV and pod, until the pod runs. `Continue`: it does, on that node. `claim` makes the PVC of that name; `volume` says
    /// what has to be done beforehand about the PV that a PVC names, if there is one.
    pub(super) fn published(
        &self,
        claim: impl FnOnce(String) -> Value,
        volume: impl FnOnce(&Claim, Option<&Volume>) -> Option<Step>,
    ) -> ControlFlow<Step, String> {
        let Some(found) = self.claim() else {
            let name = self.name();
            let key = Key::new(Kind::Claim, &self.cr.namespace, &name);
            return ControlFlow::Break(create(Action::MakeClaim, key, claim(name)));
        };
        if found.metadata.is_going() {
            return ControlFlow::Break(self.wait(format!("PVC {} is being deleted", found.metadata.name)).told());
        }
        let bound = !found.spec.volume_name.is_empty();
        let its = self.volume_of(found);
        if let Some(step) = volume(found, its) {
            return ControlFlow::Break(step);
        }
        match its {
            Some(_) => {}
            None if bound => {
                return ControlFlow::Break(self.wait(format!("PV {} is not there", found.spec.volume_name)));
            }
            None if !waits_for_consumer(self.class) => {
                return ControlFlow::Break(self.wait(unbound(found)).told());
            }
            None => {}
        }
        let Some(pod) = self.pod() else {
            let name = self.name();
            if self.has_begun() && self.host.not_ready_since.is_some() {
                let why =
                    format!("pod {name} is gone, and node {} is not ready: what ran there may still write", self.node);
                return ControlFlow::Break(self.wait(why));
            }
            // A PV says itself where it can be used; until there is one, it is to be where the target's pod will run, or where the
            // volume is of which the snapshot was taken.
            let node = found.metadata.annotation(wherry_api::cluster::SELECTED_NODE);
            let node = self.chosen(node).filter(|_| self.kind == Kind::DataDownload).map(build::on_node);
            let terms = node.or_else(|| self.terms()).filter(|_| !bound);
            let object = build::pod(self, &name, found, terms.as_ref());
            return ControlFlow::Break(create(Action::MakePod, Key::new(Kind::Pod, &self.cr.namespace, &name), object));
        };
        if pod.metadata.is_going() {
            return ControlFlow::Break(self.wait(format!("pod {} is going", pod.metadata.name)).told());
        }
        // It is deleted with all the rest: one that was made again would come back the same.
        if let Some(what) = build::changes_volume(pod, self.local) {
            let message = format!(
                "admission gave pod {} {what}: it was refused, as nothing may change the volume. Let nothing set that for pods of \
                 this namespace; on OpenShift apply controller/deploy/openshift, whose SCC wherry-hosting is for them, and name it \
                 in setting hostingScc (annotation {} of the pod)",
                pod.metadata.name,
                names::REQUIRED_SCC
            );
            return ControlFlow::Break(fail(self.key(), self.cr, &message, self.now));
        }
        // Evicted, or refused by its kubelet: it never runs again.
        if matches!(pod.status.phase.as_str(), "Failed" | "Succeeded") {
            return ControlFlow::Break(remove_pod(pod));
        }
        if !bound || pod.spec.node_name.is_empty() || pod.status.phase != "Running" {
            let waits = if bound { String::new() } else { format!("; {}", unbound(found)) };
            let why = format!("pod {} does not run{}{waits}{}", pod.metadata.name, reason(pod), self.hint(found));
            return ControlFlow::Break(self.wait(why).told());
        }
        ControlFlow::Continue(pod.spec.node_name.clone())
    }

    /// What may keep the pod of a PVC from running, though nothing says so.
    fn hint(&self, claim: &Claim) -> &'static str {
        match self.local && !build::is_block(claim) {
            true => {
                "; if the path of the local volume is a device, it never will, as that must not be mounted a second time: mount the device \
                 on the node yourself, and make the local PV one of that directory"
            }
            false => "",
        }
    }

    /// `nodeSelectorTerms` of the source's PV, by the plan: there are drivers that can make a volume of a snapshot there alone (node-local
    /// ones, disks of a zone), and the PVC stays with the node that the scheduler has chosen for its pod.
    fn terms(&self) -> Option<Value> {
        let terms = self.topology?.pointer("/required/nodeSelectorTerms")?;
        terms.as_array().is_some_and(|terms| !terms.is_empty()).then(|| terms.clone())
    }

    /// The node that was chosen for the target's pod, where that is heeded: the next attempt does not go back to the
    /// node where the last one was lost, nor anywhere in particular if nobody knows any more which that was.
    pub(super) fn chosen<'n>(&self, node: Option<&'n str>) -> Option<&'n str> {
        let name = self.name();
        let earlier = self.pods.iter().filter(|pod| pod.metadata.name != name).map(|pod| pod.spec.node_name.as_str());
        let earlier = earlier.filter(|node| !node.is_empty()).map(names::node_label);
        let lost: Vec<String> = earlier.chain(self.cr.label(names::NODE).map(ToOwned::to_owned)).collect();
        node.filter(|node| self.attempt == 1 || (!lost.is_empty() && !lost.contains(&names::node_label(node))))
    }

    /// The pod runs on `node`: says so in the CR. `None`: it is said.
    pub(super) fn prepared(&self, node: &str) -> Option<Step> {
        let label = names::node_label(node);
        let said = self.node == node && self.cr.label(names::NODE) == Some(label.as_str());
        let mut body = json!({ "metadata": { "labels": { names::NODE: label } }, "status": { "node": node } });
        if *self.phase == Phase::Accepted {
            body["status"]["phase"] = json!(Phase::Prepared);
            return Some(patch(Action::Prepare, self.key(), self.cr, body));
        }
        (!said).then(|| patch(Action::MoveNode, self.key(), self.cr, body))
    }
}

/// Until when one may wait for others than an agent that works on it, and what is said then. `None`: no limit is known. `since`: when
/// the item timeout began.
fn deadline(
    phase: &Phase,
    accepted: Option<Time>,
    since: Option<Time>,
    now: Time,
    limits: &Limits,
) -> Option<(Time, &'static str)> {
    match phase {
        Phase::Accepted => Some((accepted.unwrap_or(now).after(limits.prepare), "not prepared within")),
        Phase::Prepared | Phase::InProgress => Some((since?.after(limits.item), "not done within the item timeout of")),
        _ => None,
    }
}

/// What is said of one that has waited for too long, and what for. `None`: it may go on waiting.
pub(super) fn overdue(
    phase: &Phase,
    accepted: Option<Time>,
    since: Option<Time>,
    now: Time,
    limits: &Limits,
    why: &str,
) -> Option<String> {
    let (_, said) = deadline(phase, accepted, since, now, limits).filter(|(at, _)| *at <= now)?;
    let limit = if *phase == Phase::Accepted { limits.prepare } else { limits.item };
    Some(format!("{said} {} s: {why}", limit.as_secs()))
}

/// What is said of a PVC of ours that has no volume yet. Who makes volumes says in Events alone why there is none, and they stay for
/// an hour when the PVC is gone.
fn unbound(claim: &Claim) -> String {
    let Meta { name, namespace, .. } = &claim.metadata;
    format!(
        "PVC {name} is not bound: no volume has been made for it, and its Events say why \
         (kubectl -n {namespace} get events --field-selector involvedObject.name={name})"
    )
}

fn reason(pod: &Pod) -> String {
    let wrong = pod.status.conditions.iter().find(|condition| condition.status == "False");
    wrong.map_or_else(String::new, |condition| format!(": {}: {}", condition.reason, condition.message))
}

/// Hosting pods go before all else, and are awaited. `None`: there is none any more.
pub(super) fn remove_pods(pods: &[Pod]) -> Option<Step> {
    if let Some(pod) = pods.iter().find(|pod| !pod.metadata.is_going()) {
        return Some(remove_pod(pod));
    }
    pods.first().map(|pod| Step::wait(format!("pod {} is going", pod.metadata.name)).told())
}

pub(super) fn remove_pod(pod: &Pod) -> Step {
    delete(Action::RemovePod, Key::new(Kind::Pod, &pod.metadata.namespace, &pod.metadata.name), &pod.metadata)
}

/// A PV that we made, and no driver: it has the name of its attempt. What it stands for is not ours, and stays.
pub(super) fn is_made(volume: &Volume, cr: &Meta) -> bool {
    names::is_of_attempt(&volume.metadata.name, &cr.uid)
}

/// Deletes a PV that we made; `None`: it goes already. Its PVC goes before.
pub(super) fn remove_made(volume: &Volume) -> Option<Step> {
    let key = Key::new(Kind::Volume, "", &volume.metadata.name);
    (!volume.metadata.is_going()).then(|| delete(Action::RemoveVolume, key, &volume.metadata))
}

/// The same of whichever is among them.
pub(super) fn remove_any_made<'a>(mut volumes: impl Iterator<Item = &'a Volume>, cr: &Meta) -> Option<Step> {
    volumes.find_map(|volume| remove_made(volume).filter(|_| is_made(volume, cr)))
}

/// Whether a PV was there before the PVC that it was bound to. Neither the scheduler nor the PV controller asks what a PVC is to be made
/// from: any PV that is Available, of its class, mode and size, will do (Kubernetes, `FindMatchingVolume`), and only such a one gets this
/// annotation (`GetBindVolumeToClaim`). What it holds is somebody's.
pub(super) fn was_there(volume: &Volume) -> bool {
    volume.metadata.annotation(BOUND_BY_CONTROLLER).is_some()
}

/// A PV that was there before is to outlive its PVC, whatever its policy was, and bears no marks of ours. `None`: so it is.
fn spare_volume(volume: &Volume) -> Option<Step> {
    let marks = [names::CR_UID, names::VELERO_NAMESPACE].iter().any(|label| volume.metadata.label(label).is_some())
        || volume.metadata.annotation(names::ORIGINAL_POLICY).is_some();
    let kept = volume.spec.persistent_volume_reclaim_policy == "Retain";
    if (kept && !marks) || volume.metadata.is_going() {
        return None;
    }
    let key = Key::new(Kind::Volume, "", &volume.metadata.name);
    Some(patch(Action::SpareVolume, key, &volume.metadata, build::unmarked("Retain")))
}

/// A PV of ours is to go with its PVC: policy Delete, and the label by which it is found when the PVC is gone. One that we made
/// is never to take along what it stands for, and one that was there before stays.
pub(super) fn doom_volume(action: Action, volume: &Volume, cr: &Meta) -> Option<Step> {
    if is_made(volume, cr) {
        return None;
    }
    if was_there(volume) {
        return spare_volume(volume);
    }
    let ours = volume.metadata.label(names::CR_UID) == Some(cr.uid.as_str());
    if (ours && volume.spec.persistent_volume_reclaim_policy == "Delete") || volume.metadata.is_going() {
        return None;
    }
    let body = json!({
        "metadata": { "labels": { names::CR_UID: cr.uid, names::VELERO_NAMESPACE: cr.namespace } },
        "spec": { "persistentVolumeReclaimPolicy": "Delete" },
    });
    Some(patch(action, Key::new(Kind::Volume, "", &volume.metadata.name), &volume.metadata, body))
}

/// Deletes a PVC of ours, its PV being doomed or spared before; `None` if that is done already.
pub(super) fn doom_claim(claim: &Claim, volumes: &[Volume], cr: &Meta) -> Option<Step> {
    let volume = volumes.iter().find(|volume| volume.metadata.name == claim.spec.volume_name);
    if let Some(step) = volume.and_then(|volume| doom_volume(Action::DoomVolume, volume, cr)) {
        return Some(step);
    }
    let key = Key::new(Kind::Claim, &claim.metadata.namespace, &claim.metadata.name);
    (!claim.metadata.is_going()).then(|| delete(Action::RemoveClaim, key, &claim.metadata))
}

fn end(action: Action, phase: &Phase, key: Key, cr: &Meta, message: &str, now: Time) -> Step {
    let body = json!({ "status": { "phase": phase, "message": message, "completionTimestamp": now } });
    patch(action, key, cr, body)
}

/// Failed, with a message: Velero takes one without for success.
pub(super) fn fail(key: Key, cr: &Meta, message: &str, now: Time) -> Step {
    end(Action::Fail, &Phase::Failed, key, cr, message, now)
}

/// Canceled, with what is said about it.
pub(super) fn cancel(key: Key, cr: &Meta, said: &str, now: Time) -> Step {
    end(Action::Cancel, &Phase::Canceled, key, cr, said, now)
}

/// Nothing is left: finalizer and node label go off.
pub(super) fn release(key: Key, cr: &Meta) -> Step {
    patch(Action::Release, key, cr, build::released(cr))
}

/// Agents have their time to let go; a silent one is not waited for.
pub(super) fn cancel_under_way(exposing: &Exposing<'_>, since: Option<Time>, said: &str) -> Step {
    let limit = since.unwrap_or(exposing.now).after(exposing.limits.cancel);
    if limit <= exposing.now {
        return cancel(exposing.key(), exposing.cr, said, exposing.now);
    }
    Step::wait_until("the agent stops", limit).told()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wherry_api::Settings;

    /// Also one that a quota keeps from going on: its reason is what the user reads.
    #[test]
    fn what_is_not_prepared_in_time_says_what_it_waited_for() {
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let at = |phase: Phase, accepted: Option<i64>, later: i64| {
            let prepare = i64::try_from(limits.prepare.as_secs()).unwrap();
            let cr = Meta { creation_timestamp: Some(Time(90)), ..Meta::default() };
            overdue(
                &phase,
                accepted.map(Time),
                cr.creation_timestamp,
                Time(100 + prepare + later),
                &limits,
                "exceeded quota",
            )
        };
        assert_eq!(at(Phase::Accepted, Some(100), -1), None);
        let said = at(Phase::Accepted, Some(100), 0).unwrap();
        assert!(said.starts_with("not prepared within ") && said.ends_with(" s: exceeded quota"), "{said}");
        assert_eq!(at(Phase::Accepted, None, 0), None);
        assert_eq!(at(Phase::InProgress, Some(100), 1000), None);
        assert_eq!(at(Phase::Failed, Some(100), 100_000), None);
        // From then on it is as long as Velero waits.
        let rest = i64::try_from((limits.item - limits.prepare).as_secs()).unwrap() - 10;
        for phase in [Phase::Prepared, Phase::InProgress] {
            assert_eq!(at(phase.clone(), Some(100), rest - 1), None);
            let said = at(phase, Some(100), rest).unwrap();
            assert_eq!(said, "not done within the item timeout of 14400 s: exceeded quota");
        }
    }
}
