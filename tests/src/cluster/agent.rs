//! The agent of a node, as the design has it: it takes Prepared CRs with its label, moves data, says so. What it
//! knows is lost with the process; what it wrote to storage and repository is not.

use super::clock::now;
use super::server::Client;
use super::snapshots::{is_going, text};
use super::world::{Content, Repository, Storage};
use serde_json::{Value, json};
use wherry_api::api::{Api, ApiError, Guard, Key, Kind};
use wherry_api::{DataDone, DownloadPlan, SnapshotId, UploadPlan, names};
use wherry_controller::apply::apply;
use wherry_controller::reconcile::Write;

/// What the process has in memory.
#[derive(Debug)]
pub struct AgentProcess {
    /// Its node.
    pub node: &'static str,
    /// PVs of which it has a file open.
    pub open: Vec<String>,
    /// Pieces moved of the one it works on.
    pub moved: u32,
    /// It is stopped, and does nothing.
    pub silent: bool,
}

impl AgentProcess {
    /// One that has just started.
    pub fn start(node: &'static str) -> Self {
        Self { node, open: Vec::new(), moved: 0, silent: false }
    }
}

/// Pieces of a volume.
const PIECES: u32 = 2;

pub(super) struct Turn<'a> {
    pub(super) client: &'a Client,
    pub(super) storage: &'a mut Storage,
    pub(super) repository: &'a mut Repository,
    pub(super) process: &'a mut AgentProcess,
}

impl Turn<'_> {
    /// One write, or one piece of work. `Ok(false)`: nothing to do.
    pub(super) fn take(&mut self) -> Result<bool, ApiError> {
        if self.process.silent {
            return Ok(false);
        }
        for kind in [Kind::DataUpload, Kind::DataDownload] {
            let label = names::node_label(self.process.node);
            let list = now(self.client.list(kind, "velero", &[(names::NODE, label.as_str())]))?;
            for cr in list {
                if self.one(kind, &cr)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn one(&mut self, kind: Kind, cr: &Value) -> Result<bool, ApiError> {
        let uid = text(cr, "/metadata/uid");
        let plan = cr["metadata"]["annotations"][names::PLAN].as_str();
        let attempt = match kind {
            Kind::DataUpload => UploadPlan::parse(plan, uid).map(|plan| plan.attempt),
            _ => DownloadPlan::parse(plan, uid).map(|plan| plan.attempt),
        };
        let Ok(attempt) = attempt else { return Ok(false) };
        let name = names::of_attempt(uid, attempt);
        let pod = now(self.client.get(&Key::new(Kind::Pod, "velero", &name)))?;
        let claim = now(self.client.get(&Key::new(Kind::Claim, "velero", &name)))?;
        let volume = claim.as_ref().map_or("", |claim| text(claim, "/spec/volumeName")).to_owned();
        let phase = text(cr, "/status/phase");
        let here = |pod: &Value| text(pod, "/spec/nodeName") == self.process.node;
        let runs = pod.is_some_and(|pod| !is_going(&pod) && pod["status"]["phase"] == "Running" && here(&pod));
        if !runs || !["Prepared", "InProgress", "Canceling"].contains(&phase) {
            return Ok(self.close_all());
        }
        let canceled = cr["spec"]["cancel"] == true || is_going(cr);
        match (phase, kind) {
            ("Canceling", _) => {
                self.close(&volume);
                self.status(
                    kind,
                    cr,
                    json!({ "phase": "Canceled", "message": "canceled", "completionTimestamp": null }),
                )
            }
            ("Prepared", _) if canceled => Ok(false),
            ("Prepared", _) => self.status(kind, cr, json!({ "phase": "InProgress" })),
            (_, Kind::DataUpload) => self.upload(cr, uid, &volume, canceled),
            _ => self.download(cr, uid, attempt, &volume, canceled),
        }
    }

    fn upload(&mut self, cr: &Value, uid: &str, volume: &str, canceled: bool) -> Result<bool, ApiError> {
        if let Some(id) = self.repository.of(uid).cloned() {
            self.close(volume);
            let progress = json!({ "totalBytes": 4096, "bytesDone": 4096 });
            let status = json!({ "phase": "Completed", "snapshotID": id.to_string(), "progress": progress });
            return self.status(Kind::DataUpload, cr, status);
        }
        if canceled {
            self.close(volume);
            return self.status(Kind::DataUpload, cr, json!({ "phase": "Canceling" }));
        }
        if self.open(volume) {
            return Ok(true);
        }
        let local = UploadPlan::parse(cr["metadata"]["annotations"][names::PLAN].as_str(), uid).unwrap().local;
        let content = match local {
            Some(local) => Some(Content::Clone(local.path)),
            None => self.storage.volumes.get(volume).cloned(),
        };
        match content {
            Some(Content::Clone(handle)) => {
                let session = handle.bytes().map(|b| format!("{b:02x}")).collect::<String>();
                let volume = "c1.app.data.u-1".to_owned();
                let id = SnapshotId { repository: "ab".to_owned(), session, volume };
                self.repository.committed.push((uid.to_owned(), id));
                Ok(true)
            }
            other => panic!("the volume {volume} to be read holds {other:?}"),
        }
    }

    fn download(
        &mut self,
        cr: &Value,
        uid: &str,
        attempt: u32,
        volume: &str,
        canceled: bool,
    ) -> Result<bool, ApiError> {
        let done = DataDone::parse(cr["metadata"]["annotations"][names::DATA_DONE].as_str(), uid);
        if done.is_ok_and(|done| done.attempt == attempt) {
            return Ok(self.close(volume));
        }
        if canceled {
            self.close(volume);
            return self.status(Kind::DataDownload, cr, json!({ "phase": "Canceling" }));
        }
        if self.storage.volumes.get(volume) != Some(&Content::Whole) || self.process.moved > 0 {
            self.storage.volumes.insert(volume.to_owned(), Content::Half);
            if self.open(volume) {
                return Ok(true);
            }
            self.storage.volumes.insert(volume.to_owned(), Content::Whole);
            self.close(volume);
            return Ok(true);
        }
        let done = DataDone { version: 1, cr_uid: uid.to_owned(), attempt, volume: volume.to_owned(), bytes: 4096 };
        self.patch(Kind::DataDownload, cr, json!({ "metadata": { "annotations": { names::DATA_DONE: done.print() } } }))
    }

    /// `true`: opened, or a piece moved; `false`: all is moved.
    fn open(&mut self, volume: &str) -> bool {
        if !self.process.open.iter().any(|open| open == volume) {
            self.process.open.push(volume.to_owned());
            self.process.moved = 0;
        }
        self.process.moved += 1;
        self.process.moved <= PIECES
    }

    fn close(&mut self, volume: &str) -> bool {
        let before = self.process.open.len();
        self.process.open.retain(|open| open != volume);
        self.process.moved = 0;
        self.process.open.len() != before
    }

    /// Its pod is gone, and with it what was open.
    fn close_all(&mut self) -> bool {
        self.process.moved = 0;
        !std::mem::take(&mut self.process.open).is_empty()
    }

    fn status(&self, kind: Kind, cr: &Value, status: Value) -> Result<bool, ApiError> {
        self.patch(kind, cr, json!({ "status": status }))
    }

    fn patch(&self, kind: Kind, cr: &Value, patch: Value) -> Result<bool, ApiError> {
        let guard = Guard {
            uid: text(cr, "/metadata/uid").to_owned(),
            resource_version: text(cr, "/metadata/resourceVersion").to_owned(),
        };
        let key = Key::new(kind, "velero", text(cr, "/metadata/name"));
        now(apply(self.client, &Write::Patch { key, guard, patch })).map(|_| true)
    }
}
