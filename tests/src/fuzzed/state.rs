//! What stands in a cluster all at once, as the controller sees it: a list of objects. What it would do about it is done on a server that
//! takes nothing but what a real one would.

use crate::cluster::{Scene, World, merge, now};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, Refusal};
use wherry_api::cluster::Pod;
use wherry_api::decode::decode;
use wherry_api::job::{self, DELETING};
use wherry_api::location::REPOSITORIES;
use wherry_api::watch::key_of;
use wherry_api::{BackupStorageLocation, DataDownload, DataUpload, Settings, Time, names};
use wherry_controller::apply::{Applied, apply};
use wherry_controller::decoders as of_controller;
use wherry_controller::glance::Glance;
use wherry_controller::jobs::decide::{Act, Job, Location, View, plan};
use wherry_controller::leaks::leaks;
use wherry_controller::lease::{Elector, Turn};
use wherry_controller::mirror::{Mirror, is_followed};
use wherry_controller::observe::{self, Memory, ObserveError};
use wherry_controller::reconcile::{Limits, Step, Write, unreadable};

/// The namespace of Velero.
const VELERO: &str = "velero";

type Objects = BTreeMap<Key, Value>;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Has these objects, and takes writes to them; whoever reads and writes is the only one, so that each write rests on what there is.
struct Given {
    objects: Mutex<Objects>,
    writes: Mutex<u64>,
}

impl Given {
    fn new(objects: &Objects) -> Self {
        Self { objects: Mutex::new(objects.clone()), writes: Mutex::default() }
    }

    fn has(&self, key: &Key) -> bool {
        self.objects.lock().contains_key(key)
    }

    /// The new version of an object that was written.
    fn version(&self) -> String {
        let mut writes = self.writes.lock();
        *writes += 1;
        format!("{}", (1_u64 << 60) + *writes)
    }

    fn rests_on(object: &Value, uid: &str, version: &str) {
        let seen = (text(object, "/metadata/uid"), text(object, "/metadata/resourceVersion"));
        assert_eq!((uid, version), seen, "a write does not rest on what there is");
    }
}

fn no(refusal: Refusal, key: &Key) -> ApiError {
    ApiError::new(refusal, &key.to_string(), "it is not so".to_owned())
}

impl Api for Given {
    async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        Ok(self.objects.lock().get(key).cloned())
    }

    async fn list(&self, kind: Kind, namespace: &str, labels: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
        let has = |object: &Value| labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == *value);
        self.list_where(kind, namespace, has).await
    }

    async fn list_where(
        &self,
        kind: Kind,
        namespace: &str,
        keep: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Result<Vec<Value>, ApiError> {
        let is_in = |key: &Key| namespace.is_empty() || !kind.is_namespaced() || key.namespace == namespace;
        let objects = self.objects.lock();
        let of_kind = objects.iter().filter(|(key, object)| key.kind == kind && is_in(key) && keep(object));
        Ok(of_kind.map(|(_, object)| object.clone()).collect())
    }

    async fn create(&self, key: &Key, object: &Value) -> Result<Value, ApiError> {
        assert_eq!(text(object, "/metadata/name"), key.name, "it is made under another name");
        assert_eq!(text(object, "/kind"), key.kind.word(), "it is made as another kind");
        if self.has(key) {
            return Err(no(Refusal::Exists, key));
        }
        let version = self.version();
        let mut object = object.clone();
        merge(&mut object, &json!({ "metadata": { "uid": format!("made-{version}"), "resourceVersion": version } }));
        self.objects.lock().insert(key.clone(), object.clone());
        Ok(object)
    }

    async fn patch(&self, key: &Key, patch: &Value) -> Result<Value, ApiError> {
        let version = self.version();
        let mut objects = self.objects.lock();
        let Some(object) = objects.get_mut(key) else { return Err(no(Refusal::NotFound, key)) };
        Self::rests_on(object, text(patch, "/metadata/uid"), text(patch, "/metadata/resourceVersion"));
        merge(object, patch);
        merge(object, &json!({ "metadata": { "resourceVersion": version } }));
        Ok(object.clone())
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<(), ApiError> {
        let version = self.version();
        let mut objects = self.objects.lock();
        let Some(object) = objects.get_mut(key) else { return Err(no(Refusal::NotFound, key)) };
        Self::rests_on(object, &guard.uid, &guard.resource_version);
        if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            objects.remove(key);
        } else {
            let going = json!({ "deletionTimestamp": "2026-11-26T13:00:00Z", "resourceVersion": version });
            merge(object, &json!({ "metadata": going }));
        }
        Ok(())
    }
}

/// Objects, each with its `kind`.
pub(super) fn cluster_state(bytes: &[u8]) -> bool {
    let Ok(objects) = serde_json::from_slice::<Vec<Value>>(bytes) else { return false };
    let keyed = |object: Value| {
        let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.word())?;
        let key = key_of(kind, &object);
        // No server has one without a name.
        (!key.name.is_empty()).then_some((key, object))
    };
    let there: Objects = objects.into_iter().filter_map(keyed).collect();
    let limits = limits();
    // A little after the last of what happened.
    let times = there.values().filter_map(|object| text(object, "/metadata/creationTimestamp").parse().ok());
    let time = times.max().unwrap_or(Time(0)).after(Duration::from_secs(5));
    for (key, object) in &there {
        match key.kind {
            Kind::Lease => lease(object),
            Kind::Pod => pod(object),
            Kind::DataUpload | Kind::DataDownload => {
                cr(key, object);
                decided(&there, key, &limits, time);
            }
            _ => {}
        }
    }
    jobs(&there, time);
    deleting(&there, time);
    left(&there, &limits, time);
    !there.is_empty()
}

fn limits() -> Limits {
    let image = ("hostingImage".to_owned(), "wherry:test".to_owned());
    Limits::from(&Settings::parse(&BTreeMap::from([image])).expect("these are settings"))
}

fn lease(object: &Value) {
    let mut elector = Elector::new(VELERO, "me");
    let holder = text(object, "/spec/holderIdentity");
    let begin = Instant::now();
    for at in [begin, begin + Duration::from_secs(3600)] {
        match elector.turn(Some(object), at, Time(0)) {
            Turn::Theirs(theirs) => {
                assert!(theirs == holder && !holder.is_empty() && holder != "me", "{theirs:?} has it");
                let long = object["spec"]["leaseDurationSeconds"].as_u64().is_some_and(|seconds| seconds > 3600);
                assert!(at == begin || long, "nobody ever takes it over");
            }
            Turn::Write(Write::Patch { guard, patch, .. }) => {
                Given::rests_on(object, &guard.uid, &guard.resource_version);
                let number = patch["spec"]["leaseTransitions"].as_u64();
                // int32, by the API: it takes no other.
                assert!(number.is_none_or(|number| i32::try_from(number).is_ok()), "no server takes {number:?}");
                assert!(number.is_some() || holder == "me", "it is taken over, and nobody counts that");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(elector.release(object).is_some(), holder == "me");
}

/// Why no node takes a pod is said by the condition that the scheduler sets.
fn pod(object: &Value) {
    let Ok(pod) = decode::<Pod>("Pod", object) else { return };
    let mut conditions = pod.status.conditions.into_iter();
    let why = conditions.find(|condition| condition.kind == "PodScheduled" && condition.reason == "Unschedulable");
    let said = of_controller::unschedulable(object).unwrap_or_default();
    assert_eq!(said, why.map(|why| why.message).unwrap_or_default());
}

/// What is kept of a CR.
fn cr(key: &Key, object: &Value) {
    let (readable, over, print) = of_controller::known(key.kind, object);
    let can_be_read = match key.kind {
        Kind::DataUpload => decode::<DataUpload>("", object).is_ok(),
        _ => decode::<DataDownload>("", object).is_ok(),
    };
    assert!(readable || !can_be_read, "it is taken for one that cannot be read");
    assert!(!readable || over == of_controller::is_over(object), "it is over, and it is not");
    if object["metadata"].is_object() && object["status"].is_object() {
        let mut later = object.clone();
        let progress = json!({ "bytesDone": 1 });
        merge(&mut later, &json!({ "metadata": { "resourceVersion": "x" }, "status": { "progress": progress } }));
        assert_eq!(of_controller::known(key.kind, &later), (readable, over, print), "bytes done are no change");
    }
}

/// One step about a CR: the same when it is looked at again and through the mirror, fit to be done, and not the next one again.
fn decided(there: &Objects, key: &Key, limits: &Limits, time: Time) {
    let api = Given::new(there);
    let look = || now(observe::look(&api, key, limits, time, Memory { admitted: true, ..Memory::default() }));
    let step = match look() {
        Ok(view) => view.expect("it is there").next_step(),
        Err(ObserveError::UndecodableCr { object, reason }) => {
            let Some(write) = unreadable(key, &object, limits, &reason, time) else { return };
            done(&api, &write);
            return;
        }
        Err(_) => return,
    };
    assert_eq!(look().ok().flatten().map(|view| view.next_step()), Some(step.clone()), "it is decided otherwise");
    through_the_mirror(there, key, limits, time, &step);
    let Step::Do(_, write) = step else { return };
    if done(&api, &write) == Applied::LookAgain {
        return;
    }
    let next = look().ok().flatten().map(|view| view.next_step());
    assert!(!matches!(&next, Some(Step::Do(_, next)) if *next == write), "{write:?} again and again");
}

fn done(api: &Given, write: &Write) -> Applied {
    let (Write::Create { key, .. } | Write::Patch { key, .. } | Write::Delete { key, .. }) = write;
    assert!(!key.name.is_empty(), "{write:?} is of no object");
    // What is there under the name of one of ours, and is none, was not seen.
    let may_be_there = matches!(write, Write::Create { .. }) && api.has(key);
    let applied = now(apply(api, write)).unwrap_or_else(|e| panic!("{write:?}: {e}"));
    assert!(applied == Applied::Done || may_be_there, "{write:?} is of nothing that is there");
    applied
}

/// The loop's own look, by a mirror that was told of all.
fn through_the_mirror(there: &Objects, key: &Key, limits: &Limits, time: Time, step: &Step) {
    let mirror = Mirror::default();
    for kind in Kind::ALL.into_iter().filter(|kind| is_followed(*kind)) {
        let of_kind = there.iter().filter(|(key, _)| key.kind == kind && key.namespace == VELERO);
        mirror.listed(kind, &of_kind.map(|(_, object)| object.clone()).collect::<Vec<_>>());
    }
    let api = Given::new(there);
    let mut memory = Memory { admitted: true, ..Memory::default() };
    let decided = now(Glance::new(&api, &mirror, key).decide(key, limits, time, &mut memory));
    // Whose uid is none that a server gives finds more, or less, by the names of what is made for it.
    let is_real = there.get(key).is_some_and(|cr| names::is_made(&names::object(text(cr, "/metadata/uid"))));
    if let Ok(Some((_, seen))) = decided
        && is_real
        && key.namespace == VELERO
    {
        assert_eq!(seen, *step, "the mirror shows something else than the server has");
    }
}

/// A Job as its own fields say it.
fn written(job: &Job) -> Value {
    let condition = job.ended.map(|(at, well)| {
        let kind = if well { "Complete" } else { "Failed" };
        json!({ "type": kind, "status": "True", "lastTransitionTime": at })
    });
    json!({
        "metadata": {
            "name": job.name, "uid": job.guard.uid, "resourceVersion": job.guard.resource_version,
            "creationTimestamp": job.created, "annotations": { job::LOCATION: job.location },
            "labels": { job::JOB: job.kind.word(), job::REPOSITORY: job.repository },
        },
        "status": { "conditions": condition.into_iter().collect::<Vec<_>>() },
    })
}

/// Which Jobs are made and removed.
fn jobs(there: &Objects, time: Time) {
    let of_kind = |kind| there.iter().filter(move |(key, _)| key.kind == kind).map(|(_, object)| object);
    let map = |name: &str| there.get(&Key::new(Kind::ConfigMap, VELERO, name)).cloned().unwrap_or_default();
    let (repositories, results) = (map(REPOSITORIES), map(job::CONFIG_MAP));
    let jobs: Vec<Job> = of_kind(Kind::Job).filter_map(of_controller::job).collect();
    for job in &jobs {
        assert_eq!(of_controller::job(&written(job)).as_ref(), Some(job), "it is read as another");
    }
    let read = of_kind(Kind::Location).filter_map(|object| decode::<BackupStorageLocation>("", object).ok());
    let locations = read.map(|location| of_controller::location(&location, &repositories, &results)).collect();
    let view = View { now: time, since: time, locations, jobs, said: BTreeMap::new() };
    let plan = plan(&view, &Settings::parse(&BTreeMap::new()).expect("the defaults are settings"));
    let mut begun = BTreeSet::new();
    for act in &plan.acts {
        match act {
            Act::Make { location, repository, .. } => {
                let is_right =
                    |of: &Location| of.name == *location && of.usable && of.repository.as_ref() == Some(repository);
                assert!(view.locations.iter().any(is_right), "{act:?} is for no location");
                let runs = |job: &Job| job.repository == *repository && job.ended.is_none();
                assert!(begun.insert(repository) && !view.jobs.iter().any(runs), "{act:?} beside another");
            }
            Act::Remove { name, .. } => {
                let has_ended = |job: &Job| job.name == *name && job.ended.is_some();
                assert!(view.jobs.iter().any(has_ended), "{act:?} has not ended");
            }
        }
    }
}

/// That backups are being deleted is written so that a Job reads it.
fn deleting(there: &Objects, time: Time) {
    let api = Given::new(there);
    let of_kind = there.iter().filter(|(key, _)| key.kind == Kind::Backup && key.namespace == VELERO);
    let backups: Vec<Value> = of_kind.map(|(_, object)| object.clone()).collect();
    let note =
        || now(of_controller::note_deleting(&api, VELERO, &backups, time)).expect("what is there can be written");
    let map = || now(api.get(&Key::new(Kind::ConfigMap, VELERO, DELETING))).ok().flatten().unwrap_or_default();
    if !note() {
        return;
    }
    let first = map();
    let is_going = |backup: &&Value| text(backup, "/status/phase") == "Deleting";
    let uids =
        backups.iter().filter(is_going).map(|backup| text(backup, "/metadata/uid")).filter(|uid| !uid.is_empty());
    let seen = wherry::decoders::deleting(&first, time);
    for uid in uids {
        assert!(seen.contains(uid), "{uid:?} is not read of {first}");
    }
    note();
    assert_eq!(map()["data"], first["data"], "what is there already keeps its time");
}

/// What nobody removes any more goes, and nothing else.
fn left(there: &Objects, limits: &Limits, time: Time) {
    let api = Given::new(there);
    let Ok(found) = now(leaks(&api, VELERO, limits, time, || Ok(()))) else { return };
    assert!(found.left.iter().all(|key| api.has(key)), "{:?} are left, and are not there", found.left);
    // Velero's own VolumeSnapshot is named by a content that has our mark.
    let named = |key: &Key| {
        let of = there.iter().filter(|(of, object)| {
            of.kind == Kind::VolumeSnapshotContent && of_controller::cr_of(of.kind, object, VELERO).is_some()
        });
        of.map(|(_, content)| &content["spec"]["volumeSnapshotRef"])
            .any(|of| text(of, "/namespace") == key.namespace && text(of, "/name") == key.name)
    };
    for (key, before) in there {
        let is_same = api.objects.lock().get(key) == Some(before);
        // By its name, or by the label that says for which CR it was made.
        let is_made = names::is_made(&key.name) || before["metadata"]["labels"][names::CR_UID].is_string();
        let is_ours = of_controller::cr_of(key.kind, before, VELERO).is_some() || is_made;
        let is_first = key.kind == Kind::VolumeSnapshot && named(key);
        assert!(is_same || is_ours || is_first, "{key} is not ours, and was {before}");
    }
}

const LEASE: &str = r#"[{"kind":"Lease","metadata":{"name":"wherry-controller","namespace":"velero","uid":"u","resourceVersion":"7"},"spec":{"holderIdentity":"other","leaseDurationSeconds":60,"leaseTransitions":3}}]"#;
const JOBS: &str = r#"[{"kind":"BackupStorageLocation","metadata":{"name":"default","namespace":"velero"},"status":{"phase":"Available"}},
{"kind":"ConfigMap","metadata":{"name":"wherry-repositories","namespace":"velero"},"data":{"default":"{\"repository\":\"r\",\"location\":\"s3://b/x\"}"}},
{"kind":"ConfigMap","metadata":{"name":"wherry-jobs","namespace":"velero"},"data":{"gc.default":"{\"version\":1,\"job\":\"gc\",\"at\":\"2026-11-26T13:00:00Z\",\"state\":\"done\"}"}},
{"kind":"ConfigMap","metadata":{"name":"wherry-deleting","namespace":"velero","uid":"m","resourceVersion":"7"},"data":{"old":"2026-01-01T00:00:00Z","v":"2026-11-26T13:00:00Z"}},
{"kind":"Backup","metadata":{"name":"b","namespace":"velero","uid":"u","creationTimestamp":"2026-11-26T14:00:00Z"},"status":{"phase":"Deleting"}},
{"kind":"Job","metadata":{"name":"j","namespace":"velero","uid":"j","resourceVersion":"8","creationTimestamp":"2026-11-26T13:00:00Z","labels":{"wherry.io/job":"gc","wherry.io/repository":"r"},"annotations":{"wherry.io/location":"default"}},"status":{"conditions":[{"type":"Complete","status":"True","lastTransitionTime":"2026-11-26T13:30:00Z"}]}},
{"kind":"Pod","metadata":{"name":"p","namespace":"velero"},"status":{"conditions":[{"type":"PodScheduled","reason":"Unschedulable","message":"no node"}]}}]"#;

/// All that a played cluster has.
fn stand(world: &World) -> Vec<u8> {
    let all = Kind::ALL.into_iter().flat_map(|kind| world.server.all(kind));
    let kinded = all.map(|(key, object)| {
        let mut object = Value::clone(&object);
        object["kind"] = json!(key.kind.word());
        object
    });
    serde_json::to_vec(&kinded.collect::<Vec<_>>()).expect("objects can be written")
}

pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let scene = |download, local| Scene { download, local, retain: false, wait_for_consumer: false, beside: false };
    let (upload, download, local) = (scene(false, false), scene(true, false), scene(false, true));
    let mut left = World::new(upload).run_to(10);
    left.lose_cr();
    [
        ("upload", stand(&World::new(upload))),
        ("upload-exposed", stand(&World::new(upload).run_to(10))),
        ("upload-kept", stand(&World::new(upload).keeping("always").run_to(10))),
        ("download", stand(&World::new(download).run_to(3))),
        ("local", stand(&World::new(local).run_to(4))),
        ("left", stand(&left)),
        ("lease", LEASE.as_bytes().to_vec()),
        ("lease-most", LEASE.replace(":3}", ":2147483647}").into_bytes()),
        ("jobs", JOBS.as_bytes().to_vec()),
    ]
    .map(|(name, bytes)| ("cluster_state", name, bytes))
    .to_vec()
}
