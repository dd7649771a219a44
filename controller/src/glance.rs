//! Decides about one CR from what is known already, and asks the server for the rest only.
//!
//! A glance reads what is followed from the [`Mirror`], and each object of the rest of the cluster once in a row of steps.
//! That is enough to wait, and for writes that can be taken back: they rest on the resourceVersion of what they change, and a
//! create of what is there already is refused. What cannot be taken back, and whatever is said for good about a CR, is decided
//! anew from a look at the server.

use crate::apply::{Applied, apply};
use crate::known::Known;
use crate::mirror::{Mirror, is_followed};
use crate::observe::{self, Memory, ObserveError, View};
use crate::reconcile::{Action, Limits, Step, Write};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Guard, Key, Kind};
use wherry_api::{Time, names};

/// Nodes and agents are known as they were not longer ago than that: what rests on them is counted in minutes.
const HOSTS: Duration = Duration::from_secs(15);
/// What a storage class and a driver say changes with an administrator, or never.
const CLASSES: Duration = Duration::from_secs(60);
/// All PVs are listed for the sake of those that wait no more often than that, however many wait.
const VOLUMES: Duration = Duration::from_secs(60);
/// One that is under way is looked at anew after so long, whatever the watches say.
const ANEW: Duration = Duration::from_secs(120);
/// The CR itself, of one that has not ended: a cancel is not missed for long where a watch is silent.
const CR: Duration = Duration::from_secs(15);
/// And one that has ended, and waits for others to remove what they have.
const ANEW_ENDED: Duration = Duration::from_secs(600);
/// What was read in this row of steps not longer ago is as good as read now, where a write of ours may follow it.
const NOW: Duration = Duration::from_secs(2);

fn is_cr(kind: Kind) -> bool {
    matches!(kind, Kind::DataUpload | Kind::DataDownload)
}

/// What a look may take from the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trust {
    cr: bool,
    snapshots: bool,
    /// Pods and PVCs that it has.
    made: bool,
    /// And that those are not there which it has not.
    absent: bool,
    /// Nodes, agents, all PVs: as another look saw them a moment ago.
    shared: bool,
}

impl Trust {
    const GLANCE: Self = Self { cr: true, snapshots: true, made: true, absent: true, shared: true };
    const CR: Self = Self { cr: false, ..Self::GLANCE };
    /// Of what removal does not find by label the names are asked for.
    const BY_NAME: Self = Self { absent: false, ..Self::GLANCE };
    /// Who has the last word on the storage snapshot: the PVC and pod do not count yet.
    const SNAPSHOTS: Self = Self { cr: false, snapshots: false, ..Self::GLANCE };
    const ANEW: Self = Self { cr: false, snapshots: false, made: false, absent: false, shared: true };
    const NOTHING: Self = Self { shared: false, ..Self::ANEW };

    /// What a write must not rest on less than.
    fn needed(action: Action, is_upload: bool, begun: bool, ended: bool) -> Self {
        match action {
            // Once an agent may have begun: its node may not be ready since a moment ago, and then the pod is not made again.
            Action::MakePod if begun => Self::NOTHING,
            // The CR is patched as it was seen.
            Action::Finalizer | Action::Accept | Action::Prepare | Action::MoveNode => Self::GLANCE,
            // A PV of ours that is not to live on.
            Action::MarkVolume if is_upload => Self::GLANCE,
            // What is there already is refused. Of a CR that has ended meanwhile nothing may be made.
            Action::RetainContent | Action::MakeSnapshot | Action::MakeClaim | Action::MakePod => Self::CR,
            // The phase of a CR that has ended never comes back. Of one that has not, pods and PVCs may be known that are newer than
            // the plan that is known, and so of the attempt that is under way.
            Action::RemovePod if ended => Self::GLANCE,
            Action::RemovePod => Self::CR,
            // It is a copy of what the storage snapshot has; or, of a local volume, its PV is but another name of the place, which
            // stays as it is when that PV goes.
            Action::RemoveClaim if is_upload && ended => Self::GLANCE,
            Action::RemoveClaim if is_upload => Self::CR,
            Action::RemoveSnapshot => Self::BY_NAME,
            Action::MakeContent | Action::DropSnapshot | Action::DropContent => Self::SNAPSHOTS,
            // MakeVolume among them: it rests on what the source's PV says now, and on the plan that the CR has now.
            _ => Self::NOTHING,
        }
    }

    /// Whether a look so made is good enough for what needs that.
    fn is_enough(self, needed: Self) -> bool {
        self.and(needed) == self
    }

    fn and(self, other: Self) -> Self {
        Self {
            cr: self.cr && other.cr,
            snapshots: self.snapshots && other.snapshots,
            made: self.made && other.made,
            absent: self.absent && other.absent,
            shared: self.shared && other.shared,
        }
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::DataUpload | Kind::DataDownload => self.cr,
            Kind::VolumeSnapshot => self.snapshots,
            Kind::Pod | Kind::Claim => self.made,
            _ => false,
        }
    }
}

/// What we wrote in a row of steps: of that the watches tell nothing new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Objects as our writes left them, by resourceVersion.
    written: BTreeSet<(Key, String)>,
    deleted: BTreeSet<Key>,
}

impl Own {
    #[cfg(test)]
    pub(crate) fn of(written: &[(Key, &str)]) -> Self {
        let written = written.iter().map(|(key, version)| (key.clone(), (*version).to_owned())).collect();
        Self { written, deleted: BTreeSet::new() }
    }

    /// Whether an event tells of nothing but a write of ours. `going`: the object is being deleted.
    #[must_use]
    pub fn is_echo(&self, key: &Key, version: &str, going: bool) -> bool {
        self.written.contains(&(key.clone(), version.to_owned())) || (going && self.deleted.contains(key))
    }
}

/// Kind, namespace and selector of a list.
type Query = (Kind, String, String);

/// When something was read, and after how many writes of ours.
#[derive(Debug, Clone, Copy)]
struct When {
    at: Instant,
    writes: u64,
}

#[derive(Debug)]
struct Read {
    trust: Trust,
    /// Of ours, in this row of steps.
    writes: u64,
    own: Own,
    objects: BTreeMap<Key, (When, Option<Value>)>,
    lists: BTreeMap<Query, (When, Vec<Value>)>,
}

impl Read {
    fn now(&self) -> When {
        When { at: Instant::now(), writes: self.writes }
    }
}

/// The server as one row of steps sees it: through the mirror, and through what was read in this row already.
#[derive(Debug)]
pub struct Glance<'a, A> {
    api: &'a A,
    mirror: &'a Mirror,
    namespace: &'a str,
    is_upload: bool,
    read: Mutex<Read>,
}

impl<'a, A: Api + Sync> Glance<'a, A> {
    /// At the beginning of a row of steps at a CR, in whose namespace the mirror has what is followed.
    pub fn new(api: &'a A, mirror: &'a Mirror, cr: &'a Key) -> Self {
        let (namespace, is_upload) = (cr.namespace.as_str(), cr.kind == Kind::DataUpload);
        let (objects, lists) = (BTreeMap::new(), BTreeMap::new());
        let read = Read { trust: Trust::GLANCE, writes: 0, own: Own::default(), objects, lists };
        Self { api, mirror, namespace, is_upload, read: Mutex::new(read) }
    }

    /// What was written since the beginning.
    pub fn own(self) -> Own {
        self.read.into_inner().own
    }

    /// What is done next about the CR, and what that rests on. `None`: it is gone.
    ///
    /// # Errors
    /// Those of the look.
    pub async fn decide(
        &self,
        cr: &Key,
        limits: &Limits,
        now: Time,
        memory: &mut Memory,
    ) -> Result<Option<(View, Step)>, ObserveError> {
        // What the mirror has of a new one is as good as a look; of one that the cluster was not as had been seen, nothing is.
        let seen = *memory.seen_at.get_or_insert(now);
        let cr_seen = *memory.cr_seen_at.get_or_insert(now);
        let mut trust = if memory.doubt { Trust::NOTHING } else { Trust::GLANCE };
        if memory.by_name {
            trust = trust.and(Trust::BY_NAME);
        }
        loop {
            self.begin(trust);
            let mut known = *memory;
            if trust == Trust::NOTHING {
                (known.first_gone, known.first_content_gone) = (false, false);
            }
            let Some(mut view) = observe::look(self, cr, limits, now, known).await? else { return Ok(None) };
            let gone = (memory.first_gone, memory.first_content_gone);
            view.remember(memory);
            // Said for good only by the server.
            if trust.snapshots {
                (memory.first_gone, memory.first_content_gone) = gone;
            }
            if !trust.made {
                (memory.doubt, memory.seen_at) = (false, Some(now));
            }
            if !trust.cr {
                memory.cr_seen_at = Some(now);
            }
            let step = view.next_step();
            let needed = match &step {
                Step::Do(action, _) => Trust::needed(*action, self.is_upload, view.has_begun(), view.has_ended()),
                // Nothing was made for it yet, and hundreds may so wait for hours. What it waits for, each look asks the server anew.
                Step::Wait { .. } if view.is_new() && cr_seen.after(CR) <= now => Trust::CR,
                Step::Wait { .. } if view.is_new() => Trust::GLANCE,
                Step::Wait { .. } if seen.after(if view.has_ended() { ANEW_ENDED } else { ANEW }) <= now => Trust::ANEW,
                Step::Wait { .. } if !view.has_ended() && cr_seen.after(CR) <= now => Trust::CR,
                _ => Trust::GLANCE,
            };
            if trust.is_enough(needed) {
                return Ok(Some((view, step)));
            }
            trust = trust.and(needed);
        }
    }

    /// Does what was decided, and knows what came of it.
    ///
    /// # Errors
    /// Those of the API.
    pub async fn apply(&self, write: &Write, memory: &mut Memory) -> Result<Applied, ApiError> {
        let applied = apply(self, write).await;
        // Not as it was seen, or nobody knows: what is known is worth nothing.
        if !matches!(applied, Ok(Applied::Done)) {
            memory.doubt = true;
            let mut read = self.read.lock();
            read.objects.clear();
            read.lists.clear();
        }
        applied
    }

    /// A look that trusts the mirror so far: what is asked anew for it is forgotten.
    fn begin(&self, trust: Trust) {
        let mut read = self.read.lock();
        read.trust = trust;
        if trust == Trust::GLANCE {
            return;
        }
        let writes = read.writes;
        // Where others may have acted since our last write, nothing counts that was read before it.
        let stays = |when: &When| (trust.snapshots || when.writes == writes) && when.at.elapsed() < NOW;
        let by_name = |kind: Kind| matches!(kind, Kind::Pod | Kind::Claim) && !trust.absent;
        read.objects.retain(|key, (when, _)| stays(when) && !by_name(key.kind));
        read.lists.retain(|(kind, ..), (when, _)| stays(when) && !by_name(*kind));
    }

    fn trust(&self) -> Trust {
        self.read.lock().trust
    }

    /// Whether the mirror is asked at all.
    fn mirrors(&self, kind: Kind, namespace: &str) -> bool {
        namespace == self.namespace && self.trust().has(kind) && self.mirror.has(kind)
    }

    /// An object that we wrote, as it is now.
    fn wrote(&self, key: &Key, object: Option<Value>) {
        let mut read = self.read.lock();
        read.writes += 1;
        read.objects.remove(key);
        read.lists.retain(|(kind, ..), _| *kind != key.kind);
        let Some(object) = object.filter(|object| object["metadata"]["name"] == key.name.as_str()) else {
            read.own.deleted.insert(key.clone());
            return self.mirror.deleted(key);
        };
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        read.own.written.insert((key.clone(), version));
        // No event would ever take the place of what is not followed.
        let is_told = is_cr(key.kind) || object["metadata"]["labels"][names::CR_UID].is_string();
        if is_told && is_followed(key.kind) && key.namespace == self.namespace {
            self.mirror.changed(key.kind, &object);
        }
        if key.kind == Kind::Volume {
            self.mirror.share(key.kind, &key.name, std::slice::from_ref(&object), CLASSES.max(VOLUMES));
        }
        // The answer is what the server has.
        let when = read.now();
        read.objects.insert(key.clone(), (when, Some(object)));
    }

    /// What other looks read a moment ago, or is read for them, too.
    async fn shared(
        &self,
        (kind, what): (Kind, &str),
        age: Duration,
        ask: impl Future<Output = Result<Vec<Value>, ApiError>> + Send,
    ) -> Result<Vec<Value>, ApiError> {
        // A class has no part in what cannot be taken back.
        let may = self.trust().shared || kind == Kind::StorageClass;
        if let Some(objects) = may.then(|| self.mirror.shared(kind, what, age)).flatten() {
            return Ok(objects);
        }
        let objects = ask.await?;
        // That a PV is not there yet is true for a moment only.
        if kind != Kind::Volume || what.is_empty() || !objects.is_empty() {
            self.mirror.share(kind, what, &objects, CLASSES.max(VOLUMES));
        }
        Ok(objects)
    }
}

impl<A: Api + Sync> Api for Glance<'_, A> {
    async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        let age = match key.kind {
            Kind::Node => Some(HOSTS),
            // That of our PVC: once it has our label, nobody else changes what counts of it. And that of a local source, of which
            // place and node are fixed when it is made.
            Kind::Volume if self.is_upload => Some(VOLUMES),
            Kind::StorageClass | Kind::CustomResource | Kind::MetadataServiceAlpha | Kind::MetadataServiceBeta => {
                Some(CLASSES)
            }
            _ => None,
        };
        if let Some(age) = age {
            let ask = async { Ok(self.api.get(key).await?.into_iter().collect()) };
            return Ok(self.shared((key.kind, &key.name), age, ask).await?.pop());
        }
        if self.mirrors(key.kind, &key.namespace) {
            if let Some(object) = self.mirror.get(key) {
                return Ok(Some(object));
            }
            // Of what others have in this namespace (Velero's VolumeSnapshot, a source or target PVC) nothing is followed.
            let is_followed = is_cr(key.kind) || names::is_made(&key.name);
            if is_followed && self.trust().absent {
                return Ok(None);
            }
        }
        if let Some((_, known)) = self.read.lock().objects.get(key) {
            return Ok(known.clone());
        }
        let found = self.api.get(key).await?;
        // For the next look, and for others. One that is over is not kept.
        if let Some(object) = found.as_ref().filter(|object| is_cr(key.kind) && !Known::is_over(object))
            && key.namespace == self.namespace
        {
            self.mirror.changed(key.kind, object);
        }
        let mut read = self.read.lock();
        let when = read.now();
        read.objects.insert(key.clone(), (when, found.clone()));
        Ok(found)
    }

    async fn list(&self, kind: Kind, namespace: &str, labels: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
        if kind == Kind::Pod && labels == [(names::AGENT_LABEL, "true")] {
            return self.shared((kind, namespace), HOSTS, self.api.list(kind, namespace, labels)).await;
        }
        if self.mirrors(kind, namespace)
            && let Some(objects) = self.mirror.list(kind, namespace, labels)
        {
            return Ok(objects);
        }
        let selector = labels.iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>().join(",");
        let query = (kind, namespace.to_owned(), selector);
        if let Some((_, known)) = self.read.lock().lists.get(&query) {
            return Ok(known.clone());
        }
        let found = self.api.list(kind, namespace, labels).await?;
        let mut read = self.read.lock();
        let when = read.now();
        read.lists.insert(query, (when, found.clone()));
        Ok(found)
    }

    async fn list_where(
        &self,
        kind: Kind,
        namespace: &str,
        keep: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Result<Vec<Value>, ApiError> {
        if kind != Kind::Volume || !self.trust().shared {
            return self.api.list_where(kind, namespace, keep).await;
        }
        // Of every CR of this namespace, for all that wait.
        let is_ours = |object: &Value| {
            let claim = &object["spec"]["claimRef"];
            object["metadata"]["labels"][names::CR_UID].is_string()
                || claim["namespace"] == self.namespace
                    && claim["name"].as_str().is_some_and(|name| names::cr_of_attempt(name).is_some())
        };
        let mut ours = self.shared((kind, ""), VOLUMES, self.api.list_where(kind, namespace, is_ours)).await?;
        ours.retain(keep);
        Ok(ours)
    }

    async fn create(&self, key: &Key, object: &Value) -> Result<Value, ApiError> {
        let made = self.api.create(key, object).await?;
        self.wrote(key, Some(made.clone()));
        Ok(made)
    }

    async fn patch(&self, key: &Key, patch: &Value) -> Result<Value, ApiError> {
        let patched = self.api.patch(key, patch).await?;
        self.wrote(key, Some(patched.clone()));
        Ok(patched)
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<(), ApiError> {
        self.api.delete(key, guard).await?;
        self.wrote(key, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wherry_api::Settings;

    #[test]
    fn a_pv_of_a_path_rests_on_nothing_but_the_server() {
        for ended in [false, true] {
            assert_eq!(Trust::needed(Action::MakeVolume, true, false, ended), Trust::NOTHING);
        }
    }

    /// A server of a few objects, which counts what it is asked.
    #[derive(Debug, Default)]
    struct Counting {
        objects: BTreeMap<Key, Value>,
        asked: Mutex<Vec<String>>,
    }

    impl Api for Counting {
        async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
            self.asked.lock().push(key.to_string());
            Ok(self.objects.get(key).cloned())
        }

        async fn list(&self, kind: Kind, _: &str, _: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
            self.asked.lock().push(format!("all of {}", kind.word()));
            Ok(Vec::new())
        }

        async fn list_where(
            &self,
            kind: Kind,
            namespace: &str,
            _: impl Fn(&Value) -> bool + Send + Sync,
        ) -> Result<Vec<Value>, ApiError> {
            self.list(kind, namespace, &[]).await
        }

        async fn create(&self, key: &Key, _: &Value) -> Result<Value, ApiError> {
            panic!("{key} was made")
        }

        async fn patch(&self, key: &Key, _: &Value) -> Result<Value, ApiError> {
            panic!("{key} was changed")
        }

        async fn delete(&self, key: &Key, _: &Guard) -> Result<(), ApiError> {
            panic!("{key} was deleted")
        }
    }

    /// Once in two minutes (`run.rs`, `UNREADY`), for hours, of hundreds: `controller/docs/controller.md` reckons with two.
    #[tokio::test]
    async fn a_restore_that_waits_for_a_node_asks_for_two_objects_a_look() {
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let cr = Key::new(Kind::DataDownload, "velero", "d");
        let download = json!({
            "metadata": {
                "name": "d", "namespace": "velero", "uid": "u", "resourceVersion": "7",
                "finalizers": [names::FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "datamover": limits.datamovers[0], "sourceNamespace": "app",
                "snapshotID": "wherry1/ab/cd/c1.app.data.t",
                "targetVolume": { "namespace": "app", "pvc": "data", "pv": "" },
            },
            "status": { "phase": "New" },
        });
        let target = json!({
            "metadata": { "name": "data", "namespace": "app", "uid": "t", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "storageClassName": "late", "resources": { "requests": { "storage": "1Gi" } } },
        });
        let class = json!({ "metadata": { "name": "late" }, "volumeBindingMode": "WaitForFirstConsumer" });
        let objects = [
            (cr.clone(), download.clone()),
            (Key::new(Kind::Claim, "app", "data"), target),
            (Key::new(Kind::StorageClass, "", "late"), class),
        ];
        let api = Counting { objects: objects.into(), ..Counting::default() };
        let mirror = Mirror::default();
        for kind in [Kind::DataUpload, Kind::Pod, Kind::Claim, Kind::VolumeSnapshot] {
            mirror.listed(kind, &[]);
        }
        mirror.listed(Kind::DataDownload, &[download]);
        let created: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut memory = Memory::default();
        for look in 0..5 {
            let now = Time(created.0 + 120 * (look + 1));
            let decided = Glance::new(&api, &mirror, &cr).decide(&cr, &limits, now, &mut memory).await.unwrap();
            let (_, Step::Wait { why, .. }) = decided.unwrap() else { panic!("it does not wait") };
            assert!(why.contains("has a node yet"), "{why}");
            let asked = std::mem::take(&mut *api.asked.lock());
            // The class is asked for by the first of all.
            if look > 0 {
                assert_eq!(asked.len(), 2, "look {look}: {asked:?}");
            }
        }
    }
}
