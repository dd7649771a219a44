//! What the agent writes: the CR it works on, and Events. Before each write the CR is looked at anew; the write rests on what
//! was seen, so one that others have ended, or that is another attempt by now, is not written any more.

use super::Agent;
use super::store::guard_of;
use super::verdict::{Task, Verdict, verdict};
use anyhow::Result;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal, guarded};
use wherry_api::{Phase, names};

/// After a failure nothing is asked of the API server for this long, then twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Writes about one task.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    agent: &'a Agent,
    task: &'a Task,
    /// The CR as it was seen, or written, last.
    seen: Mutex<Value>,
}

/// Whether the CR is still that of the task, whatever its pod does.
fn is_of(agent: &Agent, task: &Task, cr: &Value) -> bool {
    // The pod is left out: what was done before it went is reported all the same.
    let pod = json!({
        "metadata": { "uid": task.pod_uid }, "spec": { "nodeName": agent.node }, "status": { "phase": "Running" },
    });
    match verdict(&agent.node, task.kind, cr, |_| Some(&pod)) {
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
        Key::new(self.task.kind, &self.agent.namespace, &self.task.name)
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
        let cr = self.agent.wait(self.agent.api.get(&self.key()))?;
        if let Some(cr) = &cr {
            self.seen.lock().clone_from(cr);
        }
        Ok(cr.filter(|cr| is_of(self.agent, self.task, cr)))
    }

    fn write(&self, cr: &Value, patch: &Value) -> Result<(), ApiError> {
        let guard = guard_of(cr).map_err(|e| ApiError::new(Refusal::Unavailable, "read", e.to_string()))?;
        let patched = self.agent.wait(self.agent.api.patched(&self.key(), &guarded(patch, &guard)))?;
        *self.seen.lock() = patched;
        Ok(())
    }

    /// One write, if the CR is still what it was; `false`: others have it, or have changed it. For what can be left out.
    pub(crate) fn once(&self, patch: &Value) -> Result<bool, ApiError> {
        let cr = self.seen.lock().clone();
        if !is_of(self.agent, self.task, &cr) {
            return Ok(false);
        }
        match self.write(&cr, patch) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {
                self.look()?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether the CR is the task's still, by a look.
    pub(crate) fn is_still(&self) -> Result<bool, ApiError> {
        Ok(self.look()?.is_some())
    }

    /// Writes, and tries again until it is written or the CR is no more the task's. `false`: it is not, or this process is
    /// asked to end, and the next one says it.
    pub(crate) fn surely(&self, patch: impl Fn(&Value) -> Option<Value>) -> bool {
        let mut pause = FIRST;
        loop {
            let written = match self.look() {
                Ok(None) => return false,
                Ok(Some(cr)) => match patch(&cr) {
                    None => return false,
                    Some(patch) => self.write(&cr, &patch),
                },
                Err(e) => Err(e),
            };
            match written {
                Ok(()) => return true,
                Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {}
                Err(e) => {
                    tracing::warn!(cr = %self.task.name, "{e}; it is tried again");
                    let end = std::time::Instant::now() + e.retry_after.map_or(pause, |wanted| wanted.min(LONGEST));
                    while std::time::Instant::now() < end {
                        if self.agent.leaving.load(Ordering::Relaxed) {
                            return false;
                        }
                        std::thread::sleep(FIRST.min(pause));
                    }
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
    }

    /// From Prepared to InProgress. `false`: the CR is no more the task's.
    pub(crate) fn begin(&self) -> bool {
        let now = self.agent.now();
        self.surely(|_| Some(json!({ "status": { "phase": Phase::InProgress, "startTimestamp": now } })))
    }

    /// Failed, with a message: Velero takes one without for success.
    pub(crate) fn fail(&self, message: &str) {
        let message =
            if message.is_empty() { "it failed, and nobody said why: see the log of the agent" } else { message };
        let now = self.agent.now();
        let failed = json!({ "status": { "phase": Phase::Failed, "message": message, "completionTimestamp": now } });
        if self.surely(|_| Some(failed.clone())) {
            tracing::error!(cr = %self.task.name, "failed: {message}");
            self.event("Warning", "Failed", message);
        }
    }

    /// All is closed: Canceled. Velero's own message, set together with `spec.cancel`, is kept.
    pub(crate) fn cancel(&self) {
        let now = self.agent.now();
        let canceled = |cr: &Value| {
            let said = cr["status"]["message"].as_str().filter(|said| !said.is_empty());
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
        if self.surely(canceled) {
            tracing::info!(cr = %self.task.name, "canceled");
        }
    }

    /// Of an upload whose snapshot stands, with its id, the size of the volume and what is new.
    pub(crate) fn completed(&self, snapshot_id: &str, total: u64, incremental: u64, message: &str) {
        let now = self.agent.now();
        let status = json!({
            "phase": Phase::Completed, "snapshotID": snapshot_id, "incrementalBytes": incremental, "message": message,
            "progress": { "totalBytes": total, "bytesDone": total }, "completionTimestamp": now,
        });
        if self.surely(|_| Some(json!({ "status": status }))) {
            tracing::info!(cr = %self.task.name, snapshot = snapshot_id, "completed: {message}");
            self.event("Normal", "Completed", message);
        }
    }

    /// Of a download whose volume is whole, fsynced and closed.
    pub(crate) fn data_done(&self, done: &str, total: u64, message: &str) {
        let patch = json!({
            "metadata": { "annotations": { names::DATA_DONE: done } },
            "status": { "progress": { "totalBytes": total, "bytesDone": total }, "message": message },
        });
        if self.surely(|cr| (cr["status"]["phase"] == Phase::InProgress.as_str()).then(|| patch.clone())) {
            tracing::info!(cr = %self.task.name, "the volume is written: {message}");
            self.event("Normal", "DataDone", message);
        }
    }

    /// An Event of the CR. Nothing rests on it.
    fn event(&self, kind: &str, reason: &str, message: &str) {
        let agent = self.agent;
        let mut random = [0; 8];
        if wherry_repo::Rng::fill(&agent.context.system, &mut random).is_err() {
            return;
        }
        let name = format!("{}.{:016x}", self.task.name, u64::from_le_bytes(random));
        let now = agent.now();
        let message: String = message.chars().take(1000).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": agent.namespace },
            "type": kind, "reason": reason, "message": message, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            "source": { "component": "wherry-agent", "host": agent.node },
            "involvedObject": {
                "apiVersion": self.task.kind.api_version(), "kind": self.task.kind.word(), "namespace": agent.namespace,
                "name": self.task.name, "uid": self.task.uid,
            },
        });
        if let Err(e) = agent.wait(agent.api.create(&Key::new(Kind::Event, &agent.namespace, &name), &object)) {
            tracing::debug!("{e}");
        }
    }
}
