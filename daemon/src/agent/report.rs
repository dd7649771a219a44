//! What the agent writes: the CR it works on, and Events. Before each write the CR is looked at anew; the write rests on what
//! was seen, so one that others have ended, or that is another attempt by now, is not written any more.

use super::Agent;
use super::store::guard_of;
use super::upload::Saved;
use super::verdict::{Task, Verdict, verdict};
use anyhow::Result;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal, guarded};
use wherry_api::events::{self, Reason, Source};
pub(crate) use wherry_api::names::AGAIN;
use wherry_api::{Phase, names};

/// After a failure nothing is asked of the API server for this long, then twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// What became of a write that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It stands.
    Written,
    /// The CR had changed.
    NotYet,
    /// The CR is no more the task's.
    Others,
}

/// What became of a write that cannot be left out.
#[derive(Debug)]
enum Said {
    /// It stands.
    Written,
    /// The CR is no more the task's, or this process is asked to end, and the next one says it.
    Left,
    /// The API server does not take it, and never will.
    Refused(ApiError),
}

/// Writes about one task.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    agent: &'a Agent,
    task: &'a Task,
    /// The CR as it was seen, or written, last.
    seen: Mutex<Value>,
}

/// What was seen of the CR, if it is the task's; only then it is kept. What is another attempt's is nothing to work by.
fn take(node: &str, task: &Task, seen: &mut Value, cr: Option<Value>) -> Option<Value> {
    let cr = cr.filter(|cr| is_of(node, task, cr))?;
    seen.clone_from(&cr);
    Some(cr)
}

/// Whether the CR is still that of the task, whatever its pod does.
fn is_of(node: &str, task: &Task, cr: &Value) -> bool {
    // The pod is left out: what was done before it went is reported all the same.
    let pod = json!({
        "metadata": { "uid": task.pod_uid }, "spec": { "nodeName": node }, "status": { "phase": "Running" },
    });
    match verdict(node, task.kind, cr, |_| Some(&pod)) {
        Verdict::Move(found) | Verdict::Cancel(found) => found == *task,
        Verdict::Leave(_) => false,
    }
}

impl<'a> Report<'a> {
    /// Of a task whose CR was just looked at.
    pub(crate) fn new(agent: &'a Agent, task: &'a Task, cr: Value) -> Self {
        Self { agent, task, seen: Mutex::new(cr) }
    }

    fn key(&self) -> Key {
        Key::new(self.task.kind, &self.agent.around.namespace, &self.task.name)
    }

    /// The CR as it was seen last.
    pub(crate) fn cr(&self) -> Value {
        self.seen.lock().clone()
    }

    /// The phase as it was seen last.
    pub(crate) fn phase(&self) -> Phase {
        Phase::from(self.seen.lock()["status"]["phase"].as_str().unwrap_or_default())
    }

    fn look(&self) -> Result<Option<Value>, ApiError> {
        let cr = self.agent.around.get(self.task.kind, &self.task.name)?;
        Ok(take(&self.agent.node, self.task, &mut self.seen.lock(), cr))
    }

    /// `briefly`: the work waits for it.
    fn write(&self, cr: &Value, patch: &Value, briefly: bool) -> Result<(), ApiError> {
        let guard = guard_of(cr).map_err(|e| ApiError::new(Refusal::Unavailable, "read", e.to_string()))?;
        let (key, patch) = (self.key(), guarded(patch, &guard));
        let patched = self.agent.around.api.patch(&key, &patch);
        let patched =
            if briefly { self.agent.around.wait_briefly("patch", patched) } else { self.agent.around.wait(patched) };
        *self.seen.lock() = patched?;
        Ok(())
    }

    /// Whether the data is still to be moved by this task, its pod included. Asked until there is an answer.
    pub(crate) fn stands(&self) -> bool {
        let mut pause = FIRST;
        loop {
            match self.agent.look(self.task) {
                Ok(found) => return found.is_some_and(|(_, verdict)| verdict == Verdict::Move(self.task.clone())),
                Err(e) if self.waited(&e, &mut pause) => {}
                Err(_) => return false,
            }
        }
    }

    /// Waits before something is asked again. `false`: this process is asked to end.
    fn waited(&self, e: &ApiError, pause: &mut Duration) -> bool {
        tracing::warn!("{e}; it is tried again");
        let end = std::time::Instant::now() + e.retry_after.map_or(*pause, |wanted| wanted.min(LONGEST));
        while std::time::Instant::now() < end {
            if self.agent.leaving.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(FIRST.min(*pause));
        }
        *pause = (*pause * 2).min(LONGEST);
        true
    }

    /// One write, if the CR is still what it was. For what can be left out, or is tried again later.
    pub(crate) fn once(&self, patch: &Value) -> Result<Noted, ApiError> {
        let cr = self.seen.lock().clone();
        if !is_of(&self.agent.node, self.task, &cr) {
            return Ok(Noted::Others);
        }
        match self.write(&cr, patch, true) {
            Ok(()) => Ok(Noted::Written),
            Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {
                Ok(if self.look()?.is_some() { Noted::NotYet } else { Noted::Others })
            }
            Err(e) => Err(e),
        }
    }

    /// Writes, and tries again until it is written.
    fn surely(&self, patch: impl Fn(&Value) -> Option<Value>) -> Said {
        let mut pause = FIRST;
        loop {
            let written = match self.look() {
                Ok(None) => return Said::Left,
                Ok(Some(cr)) => match patch(&cr) {
                    None => return Said::Left,
                    Some(patch) => self.write(&cr, &patch, false),
                },
                Err(e) => Err(e),
            };
            match written {
                Ok(()) => return Said::Written,
                Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {}
                Err(e) if e.refusal == Refusal::Invalid => {
                    tracing::error!("{e}");
                    return Said::Refused(e);
                }
                Err(e) if self.waited(&e, &mut pause) => {}
                Err(_) => return Said::Left,
            }
        }
    }

    /// From Prepared to InProgress. `false`: the CR is no more the task's.
    pub(crate) fn begin(&self) -> bool {
        let now = self.agent.now();
        let begins = json!({ "status": { "phase": Phase::InProgress, "startTimestamp": now } });
        matches!(self.surely(|_| Some(begins.clone())), Said::Written)
    }

    /// Failed, with a message: Velero takes one without for success.
    pub(crate) fn fail(&self, message: &str) {
        let message =
            if message.is_empty() { "it failed, and nobody said why: see the log of the agent" } else { message };
        let now = self.agent.now();
        let failed = json!({ "status": { "phase": Phase::Failed, "message": message, "completionTimestamp": now } });
        if let Said::Written = self.surely(|_| Some(failed.clone())) {
            tracing::error!("failed: {message}");
            self.event(events::FAILED, message);
        }
    }

    /// All is closed: Canceled. Velero's own message, set together with `spec.cancel`, is kept.
    pub(crate) fn cancel(&self) {
        let now = self.agent.now();
        let canceled = |cr: &Value| {
            let said = cr["status"]["message"].as_str().filter(|said| !said.is_empty() && !said.starts_with(AGAIN));
            let deleted = cr["metadata"]["deletionTimestamp"].is_string();
            let why = if deleted { "the object was deleted" } else { "spec.cancel was set" };
            let message = said.unwrap_or(why);
            Some(json!({ "status": { "phase": Phase::Canceled, "message": message, "completionTimestamp": now } }))
        };
        let stopping = |cr: &Value| {
            let is_canceling = cr["status"]["phase"] == Phase::Canceling.as_str();
            (!is_canceling).then(|| json!({ "status": { "phase": Phase::Canceling } }))
        };
        self.surely(stopping);
        if let Said::Written = self.surely(canceled) {
            tracing::info!("canceled");
        }
    }

    /// Of an upload whose snapshot stands, with its id, the size of the volume and what is new.
    pub(crate) fn completed(&self, saved: &Saved) {
        let Saved { snapshot_id, total, incremental, message } = saved;
        let now = self.agent.now();
        let status = json!({
            "phase": Phase::Completed, "snapshotID": snapshot_id, "incrementalBytes": incremental, "message": message,
            "progress": { "totalBytes": total, "bytesDone": total }, "completionTimestamp": now,
        });
        match self.surely(|_| Some(json!({ "status": status }))) {
            Said::Written => {
                tracing::info!(snapshot = snapshot_id, "completed: {message}");
                self.event(events::COMPLETED, message);
            }
            Said::Left => {}
            Said::Refused(e) => self.fail(&format!("the API server refuses the result: {e}")),
        }
    }

    /// Of a download whose volume is whole, fsynced and closed.
    pub(crate) fn data_done(&self, done: &str, total: u64, message: &str) {
        let patch = json!({
            "metadata": { "annotations": { names::DATA_DONE: done } },
            "status": { "progress": { "totalBytes": total, "bytesDone": total }, "message": message },
        });
        match self.surely(|cr| (cr["status"]["phase"] == Phase::InProgress.as_str()).then(|| patch.clone())) {
            Said::Written => {
                tracing::info!("the volume is written: {message}");
                self.event(events::DATA_DONE, message);
            }
            Said::Left => {}
            Said::Refused(e) => self.fail(&format!("the API server refuses the result: {e}")),
        }
    }

    /// An Event of the CR. Nothing rests on it.
    fn event(&self, reason: Reason, message: &str) {
        let agent = self.agent;
        let mut random = [0; 8];
        if wherry_repo::Rng::fill(&agent.context.system, &mut random).is_err() {
            return;
        }
        let name = format!("{}.{:016x}", self.task.name, u64::from_le_bytes(random));
        let of = Source { component: "wherry-agent", host: &agent.node };
        let object = events::event(&name, &self.key(), &self.task.uid, of, reason, message, agent.now());
        let key = Key::new(Kind::Event, &agent.around.namespace, &name);
        if let Err(e) = agent.around.wait(agent.around.api.create(&key, &object)) {
            tracing::debug!("{e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_api::UploadPlan;

    /// Its annotation names a session that runs on another node: who takes that for its own ends it.
    #[test]
    fn the_cr_of_another_attempt_is_not_kept() {
        let cr = |attempt: u32, node: &str, phase: &str| {
            let plan = UploadPlan {
                version: 1,
                cr_uid: "u".into(),
                attempt,
                snapshot_uid: "su".into(),
                content: "c".into(),
                content_uid: "cu".into(),
                snapshot_handle: "h".into(),
                driver: "d".into(),
                ..UploadPlan::default()
            };
            json!({
                "metadata": {
                    "name": "b-1", "namespace": "velero", "uid": "u", "resourceVersion": "7",
                    "labels": { names::NODE: node }, "annotations": { names::PLAN: plan.print() },
                },
                "spec": {}, "status": { "phase": phase, "node": node },
            })
        };
        let pod_uid = "p".to_owned();
        let task = Task { kind: Kind::DataUpload, name: "b-1".into(), uid: "u".into(), attempt: 1, pod_uid };
        let own = cr(1, "n1", "InProgress");
        let mut seen = Value::Null;
        assert_eq!(take("n1", &task, &mut seen, Some(own.clone())), Some(own.clone()));
        for other in [cr(2, "n2", "InProgress"), cr(2, "n1", "InProgress"), cr(1, "n1", "Failed")] {
            assert_eq!(take("n1", &task, &mut seen, Some(other)), None);
            assert_eq!(seen, own);
        }
        assert_eq!(take("n1", &task, &mut seen, None), None);
        assert_eq!(seen, own);
    }
}
