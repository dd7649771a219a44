//! What an agent has to do about a CR: decided from the CR and its hosting pod alone.

use serde_json::Value;
use wherry_api::api::Kind;
use wherry_api::cluster::Pod;
use wherry_api::decode::decode;
use wherry_api::plan::PlanError;
use wherry_api::{DataDone, DataDownload, DataUpload, DownloadPlan, Meta, Phase, UploadPlan, names};

/// One attempt at a CR while one pod keeps its volume published. Another pod, or another attempt, is another task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    /// DataUpload or DataDownload.
    pub(crate) kind: Kind,
    /// Name of the CR.
    pub(crate) name: String,
    /// uid of the CR.
    pub(crate) uid: String,
    /// Of the plan.
    pub(crate) attempt: u32,
    /// uid of the hosting pod.
    pub(crate) pod_uid: String,
}

impl Task {
    /// Name of the hosting pod, and of the PVC.
    pub(crate) fn object(&self) -> String {
        names::of_attempt(&self.uid, self.attempt)
    }
}

/// Why work that is under way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody wants the CR to end: the agent says that it has.
    Canceled,
    /// The pod goes, and with it the volume: another pod or agent goes on.
    PodGoes,
    /// The CR has ended, is gone, or is another agent's.
    Over,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The data is to be moved.
    Move(Task),
    /// Nothing is to be moved, and nobody but this agent says that it ended.
    Cancel(Task),
    /// It is not, or not now, this agent's.
    Leave(Why),
}

/// What is read of a CR of either kind.
struct Seen {
    meta: Meta,
    phase: Phase,
    node: String,
    cancel: bool,
    attempt: Result<u32, PlanError>,
    /// A download whose volume is written.
    done: bool,
}

fn see(kind: Kind, cr: &Value) -> Option<Seen> {
    Some(match kind {
        Kind::DataUpload => {
            let DataUpload { metadata, spec, status } = decode(kind.word(), cr).ok()?;
            let plan = UploadPlan::parse(metadata.annotation(names::PLAN), &metadata.uid);
            let attempt = plan.map(|plan| plan.attempt);
            let (phase, node) = (status.phase, status.node);
            Seen { meta: metadata, phase, node, cancel: spec.cancel, attempt, done: false }
        }
        _ => {
            let DataDownload { metadata, spec, status } = decode(kind.word(), cr).ok()?;
            let plan = DownloadPlan::parse(metadata.annotation(names::PLAN), &metadata.uid);
            let attempt = plan.map(|plan| plan.attempt);
            let done = DataDone::parse(metadata.annotation(names::DATA_DONE), &metadata.uid);
            let done = done.is_ok_and(|done| Ok(done.attempt) == attempt);
            Seen { phase: status.phase, node: status.node, cancel: spec.cancel, attempt, done, meta: metadata }
        }
    })
}

/// Decides for the agent of a node. `pod`: the one of that name in the namespace of Velero, as it was seen last.
pub(crate) fn verdict<'v>(node: &str, kind: Kind, cr: &Value, pod: impl FnOnce(&str) -> Option<&'v Value>) -> Verdict {
    let Some(seen) = see(kind, cr) else { return Verdict::Leave(Why::Over) };
    let Seen { meta, phase, node: there, cancel, attempt, done } = seen;
    let ours = there == node && meta.label(names::NODE) == Some(names::node_label(node).as_str());
    let Some(attempt) = attempt.ok().filter(|_| ours && !done) else { return Verdict::Leave(Why::Over) };
    if !matches!(phase, Phase::Prepared | Phase::InProgress | Phase::Canceling) {
        return Verdict::Leave(Why::Over);
    }
    let name = names::of_attempt(&meta.uid, attempt);
    let pod = pod(&name).and_then(|pod| decode::<Pod>("Pod", pod).ok());
    // One with an fsGroup, which admission gave it, has changed the volume: the controller refuses it.
    let runs = |pod: &Pod| {
        let unchanged = pod.spec.security_context.fs_group.is_none();
        !pod.metadata.is_going() && pod.status.phase == "Running" && pod.spec.node_name == node && unchanged
    };
    let pod = pod.filter(runs);
    let uid = meta.uid.clone();
    let task = |pod_uid: String| Task { kind, name: meta.name.clone(), uid, attempt, pod_uid };
    match (cancel || meta.is_going() || phase == Phase::Canceling, &phase, pod) {
        // The controller does it: nothing was begun.
        (true, Phase::Prepared, _) => Verdict::Leave(Why::Over),
        (true, _, pod) => Verdict::Cancel(task(pod.map(|pod| pod.metadata.uid).unwrap_or_default())),
        (false, _, Some(pod)) => Verdict::Move(task(pod.metadata.uid)),
        (false, _, None) => Verdict::Leave(Why::PodGoes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(version: u32, uid: &str) -> String {
        let plan = UploadPlan {
            version,
            cr_uid: uid.into(),
            attempt: 2,
            snapshot_uid: "su".into(),
            content: "c".into(),
            content_uid: "cu".into(),
            snapshot_handle: "h".into(),
            driver: "d".into(),
            ..UploadPlan::default()
        };
        plan.print()
    }

    fn upload(phase: &str) -> Value {
        json!({
            "metadata": {
                "name": "b-1", "namespace": "velero", "uid": "u", "resourceVersion": "7",
                "labels": { names::NODE: "n1" }, "annotations": { names::PLAN: plan(1, "u") },
            },
            "spec": { "cancel": false }, "status": { "phase": phase, "node": "n1" },
        })
    }

    fn pod(phase: &str) -> Value {
        json!({
            "metadata": { "name": "wherry-u-2", "uid": "p" }, "spec": { "nodeName": "n1" }, "status": { "phase": phase },
        })
    }

    fn decide(cr: &Value, pod: Option<&Value>) -> Verdict {
        verdict("n1", Kind::DataUpload, cr, |name| {
            assert_eq!(name, "wherry-u-2");
            pod
        })
    }

    fn task() -> Task {
        Task { kind: Kind::DataUpload, name: "b-1".into(), uid: "u".into(), attempt: 2, pod_uid: "p".into() }
    }

    #[test]
    fn data_is_moved_while_the_pod_runs() {
        let running = pod("Running");
        for phase in ["Prepared", "InProgress"] {
            assert_eq!(decide(&upload(phase), Some(&running)), Verdict::Move(task()), "{phase}");
            assert_eq!(decide(&upload(phase), None), Verdict::Leave(Why::PodGoes));
            assert_eq!(decide(&upload(phase), Some(&pod("Pending"))), Verdict::Leave(Why::PodGoes));
        }
        for phase in ["", "Accepted", "Completed", "Failed", "Canceled", "Later"] {
            assert_eq!(decide(&upload(phase), Some(&running)), Verdict::Leave(Why::Over), "{phase}");
        }
        let mut going = running.clone();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(decide(&upload("InProgress"), Some(&going)), Verdict::Leave(Why::PodGoes));
        let mut changed = running.clone();
        changed["spec"]["securityContext"] = json!({ "fsGroup": 1_000_740_000 });
        assert_eq!(decide(&upload("Prepared"), Some(&changed)), Verdict::Leave(Why::PodGoes));
        let mut elsewhere = running;
        elsewhere["spec"]["nodeName"] = json!("n2");
        assert_eq!(decide(&upload("InProgress"), Some(&elsewhere)), Verdict::Leave(Why::PodGoes));
    }

    #[test]
    fn a_cancel_is_the_agents_once_it_has_begun() {
        let running = pod("Running");
        let mut cr = upload("Prepared");
        cr["spec"]["cancel"] = json!(true);
        assert_eq!(decide(&cr, Some(&running)), Verdict::Leave(Why::Over));
        cr["status"]["phase"] = json!("InProgress");
        assert_eq!(decide(&cr, Some(&running)), Verdict::Cancel(task()));
        assert_eq!(decide(&upload("Canceling"), Some(&running)), Verdict::Cancel(task()));
        let mut going = upload("InProgress");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(decide(&going, None), Verdict::Cancel(Task { pod_uid: String::new(), ..task() }));
    }

    #[test]
    fn what_is_anothers_is_left_alone() {
        let running = pod("Running");
        let with = |pointer: &str, value: Value| {
            let mut cr = upload("Prepared");
            *cr.pointer_mut(pointer).unwrap() = value;
            decide(&cr, Some(&running))
        };
        for left in [
            with("/status/node", json!("n2")),
            with("/metadata/labels", json!({})),
            with("/metadata/annotations", json!({})),
            with("/metadata/annotations", json!({ names::PLAN: plan(1, "other") })),
            with("/metadata/annotations", json!({ names::PLAN: plan(9, "u") })),
            with("/spec/cancel", json!("perhaps")),
        ] {
            assert_eq!(left, Verdict::Leave(Why::Over));
        }
    }

    #[test]
    fn a_volume_that_is_written_is_not_written_again() {
        let plan = DownloadPlan { version: 1, cr_uid: "u".into(), attempt: 1, target_uid: "t".into() };
        let mut cr = upload("InProgress");
        cr["metadata"]["annotations"] = json!({ names::PLAN: plan.print() });
        let running = pod("Running");
        let decide = |cr: &Value| verdict("n1", Kind::DataDownload, cr, |_| Some(&running));
        assert!(matches!(decide(&cr), Verdict::Move(_)));
        let mut done = DataDone { version: 1, cr_uid: "u".into(), attempt: 2, volume: "pv".into(), bytes: 7 };
        cr["metadata"]["annotations"][names::DATA_DONE] = json!(done.print());
        assert!(matches!(decide(&cr), Verdict::Move(_)), "it is of another attempt");
        done.attempt = 1;
        cr["metadata"]["annotations"][names::DATA_DONE] = json!(done.print());
        assert_eq!(decide(&cr), Verdict::Leave(Why::Over));
    }
}
