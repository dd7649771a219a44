//! I1 to I8 of the design, and I9, of kept bases (`controller/docs/kept-bases.md`), looked at after every change and at the end.

use super::agent::AgentProcess;
use super::scene::{LOCAL_VOLUME, Scene, TAKEN_VOLUME, others};
use super::server::{Change, Server};
use super::snapshots::{handle, is_going, text};
use super::world::{Content, Repository, Storage};
use serde_json::Value;
use std::sync::Arc;
use wherry_api::api::{Key, Kind};
use wherry_api::{Phase, names};

/// What has been seen of one run.
#[derive(Debug)]
pub struct Invariants {
    pub(super) scene: Scene,
    cr: Key,
    uid: String,
    others: Vec<Option<Arc<Value>>>,
    reported: Vec<String>,
    seen: bool,
    /// The backup before has a kept base, and this one is to have one when it is Completed.
    pub(super) keeps: bool,
    /// The last phase of the CR.
    pub last_phase: String,
    /// What was violated, with the number of the invariant first.
    pub violations: Vec<String>,
}

fn rank(phase: &str) -> u8 {
    match Phase::from(phase) {
        Phase::New => 0,
        Phase::Accepted => 1,
        Phase::Prepared => 2,
        Phase::InProgress => 3,
        Phase::Canceling => 4,
        Phase::Canceled | Phase::Completed | Phase::Failed => 5,
        Phase::Other(_) => 9,
    }
}

impl Invariants {
    pub(super) fn new(scene: Scene, server: &Server, cr: &Key) -> Self {
        let uid = server.get(cr).map(|object| text(&object, "/metadata/uid").to_owned()).unwrap_or_default();
        Self {
            scene,
            cr: cr.clone(),
            uid,
            others: others().iter().map(|key| server.get(key)).collect(),
            reported: Vec::new(),
            seen: false,
            keeps: false,
            last_phase: String::new(),
            violations: Vec::new(),
        }
    }

    fn found(&mut self, violation: String) {
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    fn is_ours(&self, key: &Key, object: &Value) -> bool {
        self.is_own(object) || key.name.starts_with(&names::object(&self.uid))
    }

    pub(super) fn after(
        &mut self,
        changes: &[Change],
        server: &Server,
        storage: &Storage,
        repository: &Repository,
        agent: &AgentProcess,
    ) {
        for change in changes {
            self.seen |= change.who.is_ours();
            self.phases(change, repository);
            self.contents(change, server);
            self.volumes(change, server);
            self.elsewhere(change);
        }
        self.storage_snapshot(server, storage);
        self.bases(server, storage);
        self.target(server, storage, agent);
        for (key, before) in others().iter().zip(self.others.clone()) {
            if server.get(key) != before {
                self.found(format!("I8: {key}, which is not ours, was written"));
            }
        }
    }

    /// I5, and I6 of what is reported.
    fn phases(&mut self, change: &Change, repository: &Repository) {
        if change.key != self.cr {
            return;
        }
        let (Some(before), Some(after)) = (&change.before, &change.after) else { return };
        let (from, to) = (text(before, "/status/phase"), text(after, "/status/phase"));
        if from != to {
            if rank(to) < rank(from) || rank(from) == 5 {
                self.found(format!("I5: phase {from} became {to}"));
            }
            if ["Failed", "Canceled"].contains(&to) && text(after, "/status/message").is_empty() {
                self.found(format!("I5: {to} without a message"));
            }
            self.last_phase = to.to_owned();
        }
        let id = text(after, "/status/snapshotID");
        if to == "Completed" && !self.scene.download {
            let known = repository.committed.iter().any(|(uid, known)| *uid == self.uid && known.to_string() == id);
            if !known {
                self.found(format!("I5: Completed with snapshotID {id:?}, which does not restore"));
            }
        }
        if !id.is_empty() && !self.reported.iter().any(|known| known == id) {
            self.reported.push(id.to_owned());
        }
        if self.reported.len() > 1 {
            self.found(format!("I6: {:?} were reported", self.reported));
        }
    }

    /// I2.
    fn contents(&mut self, change: &Change, server: &Server) {
        if change.key.kind != Kind::VolumeSnapshotContent {
            return;
        }
        let dooms = |object: &Value| handle(object) == "h1" && object["spec"]["deletionPolicy"] == "Delete";
        if server.all(Kind::VolumeSnapshotContent).iter().filter(|(_, object)| dooms(object)).count() > 1 {
            self.found("I2: two contents of policy Delete name the storage snapshot".to_owned());
        }
        let ours = || server.get(&Key::new(Kind::VolumeSnapshotContent, "", &names::object(&self.uid)));
        let shown = || ours().is_some_and(|content| text(&content, "/status/snapshotHandle") == "h1");
        if change.key.name == "snapcontent-1" && change.after.is_none() && !self.is_done(server) && !shown() {
            self.found("I2: the first content went before ours showed the handle".to_owned());
        }
        if change.verb == "delete"
            && let Some(before) = &change.before
            && before["spec"]["deletionPolicy"] == "Delete"
            && text(before, "/status/snapshotHandle").is_empty()
        {
            self.found(format!("I2: {} of policy Delete was deleted before it showed the handle", change.key));
        }
    }

    /// I3.
    fn volumes(&mut self, change: &Change, server: &Server) {
        if change.key.kind != Kind::Volume {
            return;
        }
        if let Some(after) = &change.after
            && text(after, "/spec/claimRef/uid").is_empty()
        {
            self.found(format!("I3: {} is without claimRef", change.key));
        }
        if change.key.name == LOCAL_VOLUME && change.who.is_ours() {
            self.found(format!("I3: {}, which is the source's, was written", change.key));
        }
        if let Some(after) = &change.after
            && self.is_ours(&change.key, after)
            && after["spec"]["local"].is_object()
            && after["spec"]["persistentVolumeReclaimPolicy"] != "Retain"
        {
            self.found(format!("I3: {} may take along what it stands for", change.key));
        }
        if let (Some(before), None) = (&change.before, &change.after) {
            // Of local volumes a PVC names its PV before that is made, and one of a PVC that is gone goes before.
            let is_its = |claim: &Value| claim["metadata"]["uid"] == before["spec"]["claimRef"]["uid"];
            let names = |claim: &Value| {
                text(claim, "/spec/volumeName") == change.key.name && (!self.scene.local || is_its(claim))
            };
            if server.all(Kind::Claim).iter().any(|(_, claim)| names(claim)) {
                self.found(format!("I3: {} was deleted while a PVC names it", change.key));
            }
        }
    }

    /// I7, while it runs: in other namespaces nothing is written but the deletion of VolumeSnapshots.
    fn elsewhere(&mut self, change: &Change) {
        let elsewhere = change.key.kind.is_namespaced() && change.key.namespace != "velero";
        let allowed = change.key.kind == Kind::VolumeSnapshot && change.verb == "delete";
        if change.who.is_ours() && elsewhere && !allowed {
            self.found(format!("I7: {} of {} by {:?}", change.verb, change.key, change.who));
        }
    }

    fn is_done(&self, server: &Server) -> bool {
        server.get(&self.cr).is_none_or(|cr| rank(text(&cr, "/status/phase")) == 5)
    }

    /// I1, while the CR is not done.
    fn storage_snapshot(&mut self, server: &Server, storage: &Storage) {
        if self.scene.download || self.scene.local || self.is_done(server) || !self.seen {
            return;
        }
        let owner = |key: &Key, object: &Value| {
            handle(object) == "h1"
                && (key.name == "snapcontent-1" || object["metadata"]["labels"][names::CR_UID] == self.uid.as_str())
        };
        if !server.all(Kind::VolumeSnapshotContent).iter().any(|(key, object)| owner(key, object)) {
            self.found("I1: nothing that can be found names the storage snapshot".to_owned());
        }
        if !storage.snapshots.contains("h1") {
            self.found("I1: the storage snapshot went before the CR was done".to_owned());
        }
    }

    fn is_own(&self, object: &Value) -> bool {
        object["metadata"]["labels"][names::CR_UID] == self.uid.as_str()
    }

    /// I9: a kept base is of a Completed upload, and one object that can be found has the last word on it. The base before
    /// stays until the next one is kept.
    fn bases(&mut self, server: &Server, storage: &Storage) {
        let marked: Vec<_> =
            server.all(Kind::VolumeSnapshot).into_iter().filter(|(_, object)| is_base(object)).collect();
        for (key, object) in &marked {
            let content = server.get(&Key::new(Kind::VolumeSnapshotContent, "", &key.name)).unwrap_or_default();
            let names = storage.snapshots.contains(handle(&content));
            let last_word = content["spec"]["deletionPolicy"] == "Delete" && names;
            if !last_word && !is_going(object) {
                self.found(format!("I9: {key} is a base, and its content has not the last word on a storage snapshot"));
            }
            if self.is_own(object) && self.last_phase != "Completed" {
                self.found(format!("I9: {key} is a base of an upload in phase {:?}", self.last_phase));
            }
        }
        let before = marked.iter().any(|(_, object)| !self.is_own(object) && !is_going(object));
        let cr = server.get(&self.cr);
        let goes = cr.is_none_or(|cr| is_going(&cr));
        let own = marked.iter().any(|(_, object)| self.is_own(object));
        if self.keeps && !before && !own && !goes {
            self.found("I9: the base before went before there was another one".to_owned());
        }
    }

    /// I9, of what is left: the base of this upload, or that of the one before.
    fn base_at_end(&mut self, server: &Server, storage: &Storage) {
        let marked: Vec<_> =
            server.all(Kind::VolumeSnapshot).into_iter().filter(|(_, object)| is_base(object)).collect();
        let expected: &[&str] = match (self.last_phase.as_str(), server.get(&self.cr).is_some()) {
            ("Completed", true) => &["h1"],
            // Completed, and deleted: its own is gone with it, and that of the one before, if it had superseded it.
            ("Completed", false) if storage.snapshots.is_empty() => &[],
            _ => &["h0"],
        };
        let stored: Vec<&str> = storage.snapshots.iter().map(String::as_str).collect();
        if stored != expected || marked.len() != expected.len() {
            self.found(format!(
                "I9: at the end {:?} are bases, stored are {stored:?}, and not {expected:?}",
                marked.len()
            ));
        }
    }

    /// I4.
    fn target(&mut self, server: &Server, storage: &Storage, agent: &AgentProcess) {
        if !self.scene.download {
            return;
        }
        let target = server.get(&Key::new(Kind::Claim, self.scene.namespace(), "data")).unwrap_or_default();
        let volume = text(&target, "/spec/volumeName");
        if volume.is_empty() {
            return;
        }
        if storage.volumes.get(volume) != Some(&Content::Whole) && !is_going(&target) {
            self.found(format!("I4: the target is bound to {volume}, which holds {:?}", storage.volumes.get(volume)));
        }
        if agent.open.iter().any(|open| open == volume) {
            self.found(format!("I4: the agent has {volume} open, to which the target is bound"));
        }
    }

    /// I1, I3, I6 and I7 of what is left.
    pub(super) fn at_end(&mut self, server: &Server, storage: &Storage, repository: &Repository) {
        let done = self.is_done(server);
        if !done {
            let phase = server.get(&self.cr).map(|cr| cr["status"].to_string()).unwrap_or_default();
            self.found(format!("I7: it never ended: {phase}"));
        }
        if let Some(cr) = server.get(&self.cr) {
            if cr["metadata"]["finalizers"].to_string().contains(names::FINALIZER) {
                self.found("I7: the finalizer is left".to_owned());
            }
            if cr["metadata"]["labels"][names::NODE].is_string() {
                self.found("I7: the node label is left".to_owned());
            }
        }
        let keeps = self.keeps && self.last_phase == "Completed" && server.get(&self.cr).is_some();
        if self.keeps && self.seen {
            self.base_at_end(server, storage);
        }
        if !self.scene.download && self.seen && !keeps {
            let named = server.all(Kind::VolumeSnapshotContent).iter().any(|(_, object)| handle(object) == "h1");
            let first = server.get(&Key::new(Kind::VolumeSnapshot, self.scene.namespace(), "velero-data-x")).is_some();
            if named || first || storage.snapshots.contains("h1") {
                self.found(format!("I1: at the end: content {named}, VolumeSnapshot {first}, {:?}", storage.snapshots));
            }
        }
        if repository.committed.len() > 1 {
            self.found(format!("I6: {} snapshots were committed", repository.committed.len()));
        }
        self.left(server, storage);
    }

    fn left(&mut self, server: &Server, storage: &Storage) {
        let target = server.get(&Key::new(Kind::Claim, self.scene.namespace(), "data")).unwrap_or_default();
        let mut given = text(&target, "/spec/volumeName").to_owned();
        // One that the target was given stays its own also where it could not be bound to it; else it is to be bound by now.
        let misfits = target["spec"]["volumeAttributesClassName"].is_string();
        let is_for = |object: &Value| object["spec"]["claimRef"]["uid"] == target["metadata"]["uid"];
        if given.is_empty() && misfits {
            let its = server.all(Kind::Volume).into_iter().find(|(_, object)| is_for(object));
            given = its.map_or_else(String::new, |(key, _)| key.name);
        }
        let marked = |key: &Key| {
            let pair = Key::new(Kind::VolumeSnapshot, "velero", &key.name);
            matches!(key.kind, Kind::VolumeSnapshot | Kind::VolumeSnapshotContent)
                && server.get(&pair).is_some_and(|object| is_base(&object) && !is_going(&object))
        };
        if storage.taken {
            let volume = server.get(&Key::new(Kind::Volume, "", TAKEN_VOLUME)).unwrap_or_default();
            let policy = text(&volume, "/spec/persistentVolumeReclaimPolicy");
            let content = storage.volumes.get(TAKEN_VOLUME);
            let lost = content.is_none() || (!self.scene.download && content != Some(&Content::Old));
            if lost || (given != TAKEN_VOLUME && policy != "Retain") {
                self.found(format!(
                    "I3: {TAKEN_VOLUME}, which was there before, holds {content:?}, of policy {policy:?}"
                ));
            }
        }
        for kind in Kind::ALL {
            for (key, object) in server.all(kind) {
                // Which one it is I9 says.
                let kept = self.keeps && marked(&key);
                if self.is_ours(&key, &object) && key != self.cr && !kept {
                    self.found(format!("I7: {key} is left"));
                }
                if kind == Kind::Volume && key.name != given && key.name != TAKEN_VOLUME {
                    self.found(format!("I7: {key} is left"));
                }
                if kind == Kind::Attachment {
                    self.found(format!("I7: {key} is left"));
                }
            }
        }
        if let Some(volume) = storage.volumes.keys().find(|name| **name != given && *name != TAKEN_VOLUME) {
            self.found(format!("I7: the storage still has volume {volume}"));
        }
        let Some(volume) = server.get(&Key::new(Kind::Volume, "", &given)) else { return };
        let policy = if self.scene.retain { "Retain" } else { "Delete" };
        if volume["spec"]["persistentVolumeReclaimPolicy"] != policy {
            self.found(format!("I3: the restored PV has not its policy {policy}"));
        }
        if volume["metadata"].to_string().contains("wherry.io/") {
            self.found(format!("I3: the restored PV has our marks: {}", volume["metadata"]));
        }
    }
}

fn is_base(object: &Value) -> bool {
    object["metadata"]["labels"][names::BASE].is_string()
}

/// Whether one of the violations is of that invariant.
pub fn violates(violations: &[String], invariant: &str) -> bool {
    violations.iter().any(|violation| violation.starts_with(invariant))
}
