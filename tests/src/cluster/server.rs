//! The API server: objects with uid and resourceVersion, merge patches, finalizers, preconditions. In memory, or a real
//! one, of which the objects here are what was last seen.

use super::real::{KINDS, Real};
use super::rules;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use wherry_api::Time;
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, Refusal};

/// Who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Our controller.
    Controller,
    /// A second one, one write behind.
    Second,
    /// Our agent.
    Agent,
    /// Kubernetes and the CSI side.
    System,
    /// Velero, or a user.
    Velero,
}

impl Who {
    /// One of ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Controller | Self::Second | Self::Agent)
    }
}

/// One change, as the invariants see it.
#[derive(Debug, Clone)]
pub struct Change {
    /// By whom.
    pub who: Who,
    /// `create`, `patch` or `delete`.
    pub verb: &'static str,
    /// Of what.
    pub key: Key,
    /// Before; none if there was none.
    pub before: Option<Arc<Value>>,
    /// After; none if there is none any more.
    pub after: Option<Arc<Value>>,
}

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is not done.
    NotApplied,
    /// It is done, and the answer is lost.
    ReplyLost,
    /// It is done twice, and the second answer comes.
    Twice,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Server {
    state: Mutex<State>,
    real: Option<Arc<Real>>,
    remembered: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        // What a failed run left is looked for.
        if let Some(real) = self.real.as_ref().filter(|_| !std::thread::panicking()) {
            real.end(self.state.get_mut().objects.iter());
        }
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    counter: u64,
    now: Time,
    changes: Vec<Change>,
    /// A namespace that is being deleted.
    closed: String,
}

fn error(refusal: Refusal, verb: &str, key: &Key, message: &str) -> ApiError {
    ApiError::new(refusal, &format!("{verb} {key}"), message.to_owned())
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
}

impl State {
    fn bump(&mut self, object: &mut Value) {
        self.counter += 1;
        object["metadata"]["resourceVersion"] = json!(self.counter.to_string());
    }

    /// What a real server has now.
    fn learn(&mut self, who: Who, verb: &'static str, key: &Key, object: Option<Value>) {
        let before = match object {
            Some(object) => self.objects.insert(key.clone(), Arc::new(object)),
            None => self.objects.remove(key),
        };
        self.note(who, verb, key, before);
    }

    fn note(&mut self, who: Who, verb: &'static str, key: &Key, before: Option<Arc<Value>>) {
        let after = self.objects.get(key).cloned();
        if before != after {
            self.changes.push(Change { who, verb, key: key.clone(), before, after });
        }
    }

    fn create(&mut self, who: Who, key: &Key, object: &Value) -> Result<(), ApiError> {
        if key.kind.is_namespaced() && !rules::NAMESPACES.contains(&key.namespace.as_str()) {
            return Err(error(Refusal::NotFound, "create", key, "there is no such namespace"));
        }
        if key.kind.is_namespaced() && key.namespace == self.closed {
            let why = "unable to create new content in namespace velero because it is being terminated";
            return Err(error(Refusal::Forbidden, "create", key, why));
        }
        if self.objects.contains_key(key) {
            return Err(error(Refusal::Exists, "create", key, "there is one"));
        }
        if let Some(why) = rules::invalid(key.kind, None, object) {
            return Err(error(Refusal::Invalid, "create", key, why));
        }
        let mut object = object.clone();
        if object["metadata"]["name"] != key.name.as_str() {
            return Err(error(Refusal::Invalid, "create", key, "metadata.name is another"));
        }
        self.counter += 1;
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.counter));
        object["metadata"]["creationTimestamp"] = json!(self.now);
        if key.kind.is_namespaced() {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        if let Some(finalizer) = rules::protection(key.kind) {
            object["metadata"]["finalizers"] = json!([finalizer]);
        }
        if let Some(phase) = rules::first_phase(key.kind).filter(|_| object["status"]["phase"].is_null()) {
            object["status"]["phase"] = json!(phase);
        }
        self.bump(&mut object);
        self.objects.insert(key.clone(), Arc::new(object));
        self.note(who, "create", key, None);
        Ok(())
    }

    fn patch(&mut self, who: Who, key: &Key, patch: &Value) -> Result<(), ApiError> {
        let Some(before) = self.objects.get(key).cloned() else {
            return Err(error(Refusal::NotFound, "patch", key, "not found"));
        };
        let rests_on = &patch["metadata"]["resourceVersion"];
        if !rests_on.is_null() && *rests_on != before["metadata"]["resourceVersion"] {
            return Err(error(Refusal::Conflict, "patch", key, "the object has been modified"));
        }
        let mut after = Value::clone(&before);
        merge(&mut after, patch);
        if let Some(why) = rules::invalid(key.kind, Some(&before), &after) {
            return Err(error(Refusal::Invalid, "patch", key, why));
        }
        if after["metadata"]["deletionTimestamp"].is_string() && !has_finalizers(&after) {
            self.objects.remove(key);
        } else if after != *before {
            self.bump(&mut after);
            self.objects.insert(key.clone(), Arc::new(after));
        }
        self.note(who, "patch", key, Some(before));
        Ok(())
    }

    fn delete(&mut self, who: Who, key: &Key, guard: Option<&Guard>) -> Result<(), ApiError> {
        let Some(before) = self.objects.get(key).cloned() else {
            return Err(error(Refusal::NotFound, "delete", key, "not found"));
        };
        if let Some(guard) = guard {
            let same = before["metadata"]["uid"] == guard.uid.as_str()
                && before["metadata"]["resourceVersion"] == guard.resource_version.as_str();
            if !same {
                return Err(error(Refusal::Conflict, "delete", key, "a precondition failed"));
            }
        }
        if !has_finalizers(&before) {
            self.objects.remove(key);
        } else if before["metadata"]["deletionTimestamp"].is_null() {
            let mut after = Value::clone(&before);
            after["metadata"]["deletionTimestamp"] = json!(self.now);
            self.bump(&mut after);
            self.objects.insert(key.clone(), Arc::new(after));
        }
        self.note(who, "delete", key, Some(before));
        Ok(())
    }
}

impl Server {
    /// A real one, without what earlier runs left.
    pub fn on(real: &Arc<Real>) -> Self {
        real.begin();
        Self { state: Mutex::default(), real: Some(real.clone()), remembered: false }
    }

    /// Learns what another process did on a real server.
    pub(super) fn look(&self, who: Who) {
        let Some(real) = &self.real else { return };
        for kind in KINDS {
            let mut there: BTreeMap<Key, Value> = real.all(kind).into_iter().collect();
            for (key, before) in self.all(kind) {
                match there.remove(&key) {
                    Some(object) if object == *before => {}
                    object => {
                        let going = |object: &Value| object["metadata"]["deletionTimestamp"].is_string();
                        let goes = object.as_ref().is_none_or(|object| going(object) && !going(&before));
                        let verb = if goes { "delete" } else { "patch" };
                        self.state.lock().learn(who, verb, &key, object);
                    }
                }
            }
            for (key, object) in there {
                self.state.lock().learn(who, "create", &key, Some(object));
            }
        }
    }

    /// Our processes read what is remembered, too: for runs in which only the writes matter.
    pub fn remembered(mut self) -> Self {
        self.remembered = true;
        self
    }

    /// The real server, if our processes read from it.
    fn read(&self, who: Who) -> Option<&Real> {
        // The agent is a played part.
        self.real.as_deref().filter(|_| !self.remembered && who != Who::Agent)
    }

    /// The time when a run begins.
    pub(super) fn start(&self) -> Time {
        self.real.as_ref().map_or(Time(1_000_000_000), |real| real.now())
    }

    /// Where what is remembered of a real server is not what it has.
    pub(super) fn forgotten(&self) -> Vec<String> {
        let Some(real) = &self.real else { return Vec::new() };
        let mut wrong = Vec::new();
        for kind in KINDS {
            let seen: BTreeMap<Key, Value> = real.all(kind).into_iter().collect();
            let known: BTreeMap<Key, Value> =
                self.all(kind).into_iter().map(|(key, object)| (key, Value::clone(&object))).collect();
            if seen != known {
                wrong.push(format!("{kind:?}: the server has {seen:#?}, remembered are {known:#?}"));
            }
        }
        wrong
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.state.lock().objects.get(key).cloned()
    }

    /// All of a kind.
    pub fn all(&self, kind: Kind) -> Vec<(Key, Arc<Value>)> {
        let first = Key { kind, namespace: String::new(), name: String::new() };
        let state = self.state.lock();
        let of_kind = state.objects.range(first..).take_while(|(key, _)| key.kind == kind);
        of_kind.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Makes an object; there must be none.
    pub fn create(&self, who: Who, key: &Key, object: &Value) {
        match &self.real {
            None => self.state.lock().create(who, key, object).unwrap(),
            Some(real) => {
                let object = real.create(key, object);
                self.state.lock().learn(who, "create", key, object);
            }
        }
    }

    /// Patches an object that there is.
    pub fn patch(&self, who: Who, key: &Key, patch: &Value) {
        match &self.real {
            None => self.state.lock().patch(who, key, patch).unwrap(),
            Some(real) => {
                let object = real.patch(key, patch);
                self.state.lock().learn(who, "patch", key, object);
            }
        }
    }

    /// Deletes an object, if it is there.
    pub fn delete(&self, who: Who, key: &Key) {
        match &self.real {
            None => drop(self.state.lock().delete(who, key, None)),
            Some(real) => {
                let object = real.delete(key);
                self.state.lock().learn(who, "delete", key, object);
            }
        }
    }

    /// Takes a finalizer off.
    pub fn finish(&self, who: Who, key: &Key, finalizer: &str) {
        let Some(object) = self.get(key) else { return };
        let others: Vec<&Value> = object["metadata"]["finalizers"]
            .as_array()
            .map(|all| all.iter().filter(|name| *name != finalizer).collect())
            .unwrap_or_default();
        self.patch(who, key, &json!({ "metadata": { "finalizers": others } }));
    }

    /// Puts a finalizer on; `false` if it is there.
    pub fn hold(&self, who: Who, key: &Key, finalizer: &str) -> bool {
        let object = self.get(key).unwrap();
        let mut all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if all.iter().any(|name| name == finalizer) {
            return false;
        }
        all.push(json!(finalizer));
        self.patch(who, key, &json!({ "metadata": { "finalizers": all } }));
        true
    }

    /// A namespace is being deleted: nothing can be made in it any more.
    pub fn close(&self, namespace: &str) {
        self.state.lock().closed = namespace.to_owned();
    }

    /// The server's clock.
    pub fn set_now(&self, now: Time) {
        self.state.lock().now = now;
    }

    /// What changed since this was asked last.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state.lock().changes)
    }
}

/// The n-th write of all clients that share this fails.
#[derive(Debug, Default)]
pub struct Faults {
    /// Writes so far, of controller and agent together.
    pub writes: usize,
    /// Reads of the controller so far.
    pub reads: usize,
    /// Of them, lists of all PVs.
    pub lists_of_volumes: usize,
    /// Which of them fails, counted from 1, and how.
    pub fail: Option<(usize, How)>,
}

/// The server as our processes see it.
#[derive(Debug, Clone)]
pub struct Client {
    server: Arc<Server>,
    who: Who,
    faults: Option<Arc<Mutex<Faults>>>,
}

impl Client {
    /// A client; `faults` counts its writes and makes one fail.
    pub fn new(server: &Arc<Server>, who: Who, faults: Option<&Arc<Mutex<Faults>>>) -> Self {
        Self { server: server.clone(), who, faults: faults.cloned() }
    }

    fn count(&self) {
        if let Some(faults) = self.faults.as_ref().filter(|_| self.who == Who::Controller) {
            faults.lock().reads += 1;
        }
    }

    /// Does a write once, not at all or twice, and loses its answer or not.
    fn write(&self, verb: &'static str, key: &Key, call: Call<'_>) -> Result<(), ApiError> {
        let how = self.faults.as_ref().and_then(|faults| {
            let mut faults = faults.lock();
            faults.writes += 1;
            faults.fail.filter(|(n, _)| *n == faults.writes).map(|(_, how)| how)
        });
        let lost = ApiError::new(Refusal::Unavailable, verb, "planted".to_owned());
        let once = || self.once(verb, key, &call);
        match how {
            None => once(),
            Some(How::NotApplied) => Err(lost),
            Some(How::ReplyLost) => once().and(Err(lost)),
            Some(How::Twice) => {
                let _ = once();
                once()
            }
        }
    }

    /// The object as a write left it. One that its last finalizer held is gone.
    fn answer(&self, key: &Key) -> Value {
        self.server.get(key).map(|object| Value::clone(&object)).unwrap_or_default()
    }

    fn once(&self, verb: &'static str, key: &Key, call: &Call<'_>) -> Result<(), ApiError> {
        let Some(real) = &self.server.real else {
            let mut state = self.server.state.lock();
            return match call {
                Call::Create(object) => state.create(self.who, key, &rules::split(key.kind, object).0),
                Call::Patch(patch) => state.patch(self.who, key, &rules::split(key.kind, patch).0),
                Call::Delete(guard) => state.delete(self.who, key, Some(guard)),
            };
        };
        let api = real.api(self.who);
        let answer = match call {
            Call::Create(object) => real.wait(api.create(key, object)).map(drop),
            Call::Patch(patch) => real.wait(api.patch(key, patch)).map(drop),
            Call::Delete(guard) => real.wait(api.delete(key, guard)),
        };
        let object = real.get(key);
        self.server.state.lock().learn(self.who, verb, key, object);
        answer
    }
}

/// A write of ours.
enum Call<'a> {
    Create(&'a Value),
    Patch(&'a Value),
    Delete(&'a Guard),
}

impl Api for Client {
    async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        self.count();
        match self.server.read(self.who) {
            Some(real) => real.wait(real.api(self.who).get(key)),
            None => Ok(self.server.get(key).map(|object| Value::clone(&object))),
        }
    }

    async fn list(&self, kind: Kind, namespace: &str, labels: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
        self.count();
        if let Some(real) = self.server.read(self.who) {
            return real.wait(real.api(self.who).list(kind, namespace, labels));
        }
        let fits = |key: &Key, object: &Value| {
            (namespace.is_empty() || !kind.is_namespaced() || key.namespace == namespace)
                && labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == *value)
        };
        let all = self.server.all(kind);
        Ok(all.iter().filter(|(key, object)| fits(key, object)).map(|(_, object)| Value::clone(object)).collect())
    }

    async fn list_where(
        &self,
        kind: Kind,
        namespace: &str,
        keep: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Result<Vec<Value>, ApiError> {
        if let Some(faults) = self.faults.as_ref().filter(|_| kind == Kind::Volume) {
            faults.lock().lists_of_volumes += 1;
        }
        if let Some(real) = self.server.read(self.who) {
            self.count();
            return real.wait(real.api(self.who).list_where(kind, namespace, keep));
        }
        let mut all = self.list(kind, namespace, &[]).await?;
        all.retain(|object| keep(object));
        Ok(all)
    }

    async fn create(&self, key: &Key, object: &Value) -> Result<Value, ApiError> {
        self.write("create", key, Call::Create(object)).map(|()| self.answer(key))
    }

    async fn patch(&self, key: &Key, patch: &Value) -> Result<Value, ApiError> {
        self.write("patch", key, Call::Patch(patch)).map(|()| self.answer(key))
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<(), ApiError> {
        self.write("delete", key, Call::Delete(guard))
    }
}
