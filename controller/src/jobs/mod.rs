//! Forgetting and gc: Jobs that look after the repositories, made when they are due, one at a time for each. This follows
//! locations, Jobs, and the phase of Backups; what Jobs found is in ConfigMaps. `controller/docs/forgetting.md`.

mod build;
pub mod decide;
pub(crate) mod deleting;
pub mod figures;

use crate::run::{Options, in_time};
use crate::work::time;
use decide::{Act, Job, Location, Said, View, plan, still_said};
use deleting::Deleting;
use figures::Figures;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, Refusal};
use wherry_api::job::{self, JobKind, JobResult};
use wherry_api::kube_api::KubeApi;
use wherry_api::location::{REPOSITORIES, Recorded};
use wherry_api::watch::{Seen, Selection, follow_as};
use wherry_api::{BackupStorageLocation, Settings, Time, decode};

/// In the namespace of Velero. Of Backups only the phase is looked at, and nothing is kept.
pub(crate) const FOLLOWED: [(Kind, &str); 3] = [(Kind::Location, ""), (Kind::Job, job::JOB), (Kind::Backup, "")];
/// Requests of a look where there is nothing to do.
#[cfg(test)]
pub(crate) const AT_REST: usize = 2;
/// After a write the watches have so long to tell of it before all is looked at again.
const SETTLE: Duration = Duration::from_secs(5);
/// After an error.
const RETRY: Duration = Duration::from_secs(30);
/// At the latest: a first backup may have made a repository, of which no watch tells.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// What it works with.
#[derive(Debug, Clone)]
pub(crate) struct Around<A = KubeApi> {
    pub(crate) api: A,
    pub(crate) options: Options,
    pub(crate) settings: Receiver<Option<Settings>>,
    /// Until when no other replica acts.
    pub(crate) held: Receiver<Option<Instant>>,
}

struct Jobs<A> {
    around: Around<A>,
    since: Time,
    locations: BTreeMap<String, BackupStorageLocation>,
    jobs: BTreeMap<String, Value>,
    listed: BTreeSet<Kind>,
    deleting: Deleting,
    said: BTreeMap<String, Time>,
    figures: Figures,
    /// Ended Jobs that were counted, by uid.
    counted: BTreeSet<String>,
    /// When all is looked at again.
    look: Instant,
}

/// What is kept of an object that is followed. There may be thousands of Backups, and only one that is being deleted says
/// anything here.
fn kept(kind: Kind, object: Value) -> Value {
    match kind {
        Kind::Backup if object["status"]["phase"] != "Deleting" => Value::Null,
        _ => object,
    }
}

/// Runs until it is dropped, or nothing tells of anything any more.
pub(crate) async fn run(around: Around) {
    let (to, mut seen) = unbounded_channel();
    let mut watches = JoinSet::new();
    for (kind, label) in FOLLOWED {
        let of = Selection {
            kind,
            namespace: around.options.namespace.clone(),
            label: label.to_owned(),
            name: String::new(),
        };
        watches.spawn(follow_as(around.api.clone(), of, None, to.clone(), kept));
    }
    let mut settings = around.settings.clone();
    let mut jobs = Jobs::new(around);
    loop {
        tokio::select! {
            event = seen.recv() => match event {
                Some(event) => jobs.see(event),
                None => return,
            },
            _ = watches.join_next() => return,
            changed = settings.changed() => match changed {
                Ok(()) => jobs.look = Instant::now(),
                Err(_) => return,
            },
            () = tokio::time::sleep_until(jobs.look.into()), if jobs.is_ready() => jobs.turn().await,
        }
    }
}

impl<A: Api> Jobs<A> {
    fn new(around: Around<A>) -> Self {
        Self {
            around,
            since: time(),
            locations: BTreeMap::new(),
            jobs: BTreeMap::new(),
            listed: BTreeSet::new(),
            deleting: Deleting::default(),
            said: BTreeMap::new(),
            figures: Figures::default(),
            counted: BTreeSet::new(),
            look: Instant::now(),
        }
    }

    /// Jobs, and where they belong, are known.
    fn is_ready(&self) -> bool {
        [Kind::Location, Kind::Job].iter().all(|kind| self.listed.contains(kind))
            && self.around.settings.borrow().is_some()
    }

    fn see(&mut self, seen: Seen) {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match seen {
            Seen::Listed(kind, objects) => {
                self.listed.insert(kind);
                match kind {
                    Kind::Location => self.locations.clear(),
                    Kind::Job => self.jobs.clear(),
                    _ => {}
                }
                objects.into_iter().for_each(|object| self.know(kind, object));
                self.look = Instant::now();
            }
            Seen::Changed(kind, object) => self.know(kind, object),
            Seen::Gone(Kind::Location, object) => {
                self.locations.remove(&name(&object));
            }
            Seen::Gone(Kind::Job, object) => {
                self.jobs.remove(&name(&object));
            }
            // Only what it was at last.
            Seen::Gone(kind, object) => self.know(kind, object),
        }
    }

    fn know(&mut self, kind: Kind, object: Value) {
        let now = Instant::now();
        match kind {
            Kind::Backup => {
                self.deleting.see(&object, time());
                if self.deleting.is_due() {
                    self.look = now;
                }
            }
            Kind::Location => match decode::decode::<BackupStorageLocation>(kind.word(), &object) {
                Ok(location) => {
                    let before = self.locations.insert(location.metadata.name.clone(), location.clone());
                    // Velero writes to it each minute that it is still there.
                    if before.is_none_or(|before| is_usable(&before) != is_usable(&location)) {
                        self.look = now;
                    }
                }
                Err(e) => tracing::warn!("{e}"),
            },
            _ => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let ended = ended(&object).is_some();
                let before = self.jobs.insert(name, object);
                if ended && before.is_none_or(|before| self::ended(&before).is_none()) {
                    self.look = now;
                }
            }
        }
    }

    /// One look, and what follows from it.
    async fn turn(&mut self) {
        let Some(settings) = self.around.settings.borrow().clone() else { return };
        let pause = match self.look(&settings).await {
            Ok(pause) => pause,
            Err(e) => {
                tracing::warn!("{e}");
                e.retry_after.map_or(RETRY, |wanted| wanted.clamp(RETRY, LONGEST))
            }
        };
        self.look = Instant::now() + pause;
    }

    /// Gives how long nothing is due. What fails keeps nothing else from being done: the first error comes at the end.
    async fn look(&mut self, settings: &Settings) -> Result<Duration, ApiError> {
        let mut failed = if self.deleting.is_due() { self.keep_deleting().await.err() } else { None };
        let view = self.view().await?;
        let plan = plan(&view, settings);
        let still: BTreeSet<String> = still_said(&view).into_iter().map(ToOwned::to_owned).collect();
        self.said.retain(|of, _| still.contains(of));
        self.count(&view, settings);
        for said in &plan.said {
            failed = failed.or(self.say(said, view.now).await.err());
        }
        for act in &plan.acts {
            failed = failed.or(self.act(act, settings).await.err());
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        let until = plan.next.map_or(LONGEST, |next| seconds(next.0 - view.now.0));
        Ok(if plan.acts.is_empty() { until.clamp(SETTLE, LONGEST) } else { SETTLE })
    }

    async fn keep_deleting(&mut self) -> Result<(), ApiError> {
        self.may_write()?;
        in_time(self.deleting.write(&self.around.api, &self.around.options.namespace, time())).await
    }

    async fn view(&self) -> Result<View, ApiError> {
        let get = async |name: &str| {
            let key = Key::new(Kind::ConfigMap, &self.around.options.namespace, name);
            Ok::<_, ApiError>(in_time(self.around.api.get(&key)).await?.unwrap_or_default())
        };
        let (repositories, results) = (get(REPOSITORIES).await?, get(job::CONFIG_MAP).await?);
        let locations = self.locations.values().map(|location| location_of(location, &repositories, &results));
        let jobs = self.jobs.values().filter_map(job_of);
        Ok(View {
            now: time(),
            since: self.since,
            locations: locations.collect(),
            jobs: jobs.collect(),
            said: self.said.clone(),
        })
    }

    fn count(&mut self, view: &View, settings: &Settings) {
        for job in view.jobs.iter().filter(|job| job.ended.is_some()) {
            if self.counted.insert(job.guard.uid.clone()) && job.ended.is_some_and(|(_, well)| !well) {
                self.figures.unsuccessful += 1;
            }
        }
        self.counted.retain(|uid| view.jobs.iter().any(|job| job.guard.uid == *uid));
        self.figures.take(view, settings);
        self.figures.tell(&self.around.options.registry);
    }

    /// Another replica may act by now: what it does is not done twice.
    fn may_write(&self) -> Result<(), ApiError> {
        if self.around.held.borrow().is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        Err(ApiError::new(Refusal::Unavailable, "a Job", "the Lease is not certain to be ours".to_owned()))
    }

    async fn act(&mut self, act: &Act, settings: &Settings) -> Result<(), ApiError> {
        self.may_write()?;
        let (api, namespace) = (&self.around.api, &self.around.options.namespace);
        let done = match act {
            Act::Make { location, .. } if settings.hosting_image.is_empty() => {
                tracing::warn!("no Job is made for {location}: there is no image (setting hostingImage, or --image)");
                return Ok(());
            }
            Act::Make { kind, location, repository, after } => {
                let object = build::job(namespace, *kind, location, repository, *after, settings);
                let name = build::name(*kind, repository, *after);
                let made = in_time(api.create(&Key::new(Kind::Job, namespace, &name), &object)).await;
                if made.is_ok() {
                    tracing::info!("made Job {name} for {location}");
                    self.figures.made += 1;
                }
                made.map(drop)
            }
            Act::Remove { name, guard } => in_time(api.delete(&Key::new(Kind::Job, namespace, name), guard)).await,
        };
        match done {
            // Whoever did it, it is done; or it will be looked at again.
            Err(e) if matches!(e.refusal, Refusal::Exists | Refusal::NotFound | Refusal::Conflict) => Ok(()),
            done => done,
        }
    }

    async fn say(&mut self, said: &Said, now: Time) -> Result<(), ApiError> {
        self.may_write()?;
        tracing::warn!("{}: {}: {}", said.location, said.reason.word, said.message);
        let uid = self.locations.get(&said.location).map_or("", |location| &location.metadata.uid);
        let namespace = &self.around.options.namespace;
        let event = build::event(namespace, &said.location, uid, said.reason, &said.message, now);
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        // Nothing rests on it.
        if let Err(e) = in_time(self.around.api.create(&Key::new(Kind::Event, namespace, &name), &event)).await {
            tracing::warn!("{e}");
        }
        self.said.insert(said.of.clone(), now);
        Ok(())
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

fn is_usable(location: &BackupStorageLocation) -> bool {
    location.status.phase == "Available" && location.spec.access_mode != "ReadOnly" && !location.metadata.is_going()
}

pub(crate) fn location_of(location: &BackupStorageLocation, repositories: &Value, results: &Value) -> Location {
    let name = &location.metadata.name;
    let recorded = repositories["data"][name].as_str().and_then(|text| serde_json::from_str::<Recorded>(text).ok());
    let result = |kind: JobKind| {
        let text = results["data"][kind.key(name)].as_str()?;
        let result = JobResult::parse(text).inspect_err(|e| tracing::warn!("{kind} of {name}: {e}"));
        Some((kind, result.ok()?))
    };
    Location {
        name: name.clone(),
        usable: is_usable(location),
        repository: recorded.map(|recorded| recorded.repository),
        results: JobKind::ALL.into_iter().filter_map(result).collect(),
    }
}

/// When it ended, and whether well.
fn ended(object: &Value) -> Option<(Time, bool)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let of =
        |kind: &str| conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == "True");
    let (condition, well) = of("Complete").map(|it| (it, true)).or_else(|| of("Failed").map(|it| (it, false)))?;
    let at = condition["lastTransitionTime"].as_str().and_then(|at| at.parse().ok());
    Some((at.unwrap_or_else(time), well))
}

/// `None`: it has not our labels.
pub(crate) fn job_of(object: &Value) -> Option<Job> {
    let meta = &object["metadata"];
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let word = meta["labels"][job::JOB].as_str()?;
    Some(Job {
        name: text(&meta["name"])?,
        guard: Guard { uid: text(&meta["uid"])?, resource_version: text(&meta["resourceVersion"])? },
        kind: JobKind::ALL.into_iter().find(|kind| kind.word() == word)?,
        repository: text(&meta["labels"][job::REPOSITORY])?,
        location: text(&meta["annotations"][job::LOCATION]).unwrap_or_default(),
        created: meta["creationTimestamp"].as_str()?.parse().ok()?,
        ended: ended(object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use serde_json::json;
    use std::sync::Arc;
    use tokio::sync::watch::channel;
    use wherry_api::metrics::{By, Registry};

    /// A server with a repository of one location. It takes no write to objects of these names, and notes those that it takes.
    #[derive(Clone, Default)]
    struct Server {
        refused: Arc<Mutex<Vec<&'static str>>>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn write(&self, what: String) -> Result<Value, ApiError> {
            if self.refused.lock().iter().any(|name| what.contains(name)) {
                return Err(ApiError::new(Refusal::Unavailable, &what, "an admission webhook is away".to_owned()));
            }
            self.written.lock().push(what);
            Ok(Value::Null)
        }
    }

    impl Api for Server {
        async fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
            let recorded = json!({ "data": { "default": "{\"repository\":\"r\",\"location\":\"s3://b/x\"}" } });
            Ok((key.name == REPOSITORIES).then_some(recorded))
        }

        async fn list(&self, _: Kind, _: &str, _: &[(&str, &str)]) -> Result<Vec<Value>, ApiError> {
            Ok(Vec::new())
        }

        async fn list_where(
            &self,
            _: Kind,
            _: &str,
            _: impl Fn(&Value) -> bool + Send + Sync,
        ) -> Result<Vec<Value>, ApiError> {
            Ok(Vec::new())
        }

        async fn create(&self, key: &Key, _: &Value) -> Result<Value, ApiError> {
            self.write(format!("create {}", key.name))
        }

        async fn patch(&self, key: &Key, _: &Value) -> Result<Value, ApiError> {
            self.write(format!("patch {}", key.name))
        }

        async fn delete(&self, key: &Key, _: &Guard) -> Result<(), ApiError> {
            self.write(format!("delete {}", key.name)).map(drop)
        }
    }

    /// Whichever write the server does not take, the others are done, and the figures are those of this look.
    #[tokio::test]
    async fn one_write_that_is_refused_stops_nothing_else() {
        let pairs = [("hostingImage", "w"), ("jobHistory", "1")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = Settings::parse(&BTreeMap::from(pairs)).unwrap();
        let registry = Arc::new(Registry::new(By::Controller));
        let (namespace, identity) = ("velero".to_owned(), "a".to_owned());
        let options = Options { namespace, identity, image: String::new(), registry, beat: None };
        let held = channel(Some(Instant::now() + Duration::from_secs(600))).1;
        let api = Server::default();
        let mut jobs = Jobs::new(Around { api: api.clone(), options, settings: channel(None).1, held });
        let mut location = BackupStorageLocation::default();
        (location.metadata.name, location.status.phase) = ("default".into(), "Available".into());
        jobs.locations.insert("default".into(), location);
        for (name, created) in [("old", 1), ("older", 0)] {
            let mut object = build::job("velero", JobKind::Gc, "default", "r", None, &settings);
            object["metadata"]["name"] = json!(name);
            object["metadata"]["uid"] = json!(name);
            object["metadata"]["resourceVersion"] = json!("7");
            object["metadata"]["creationTimestamp"] = json!(Time(created));
            object["status"] = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
            jobs.know(Kind::Job, object);
        }
        let all = ["create wherry-deleting", "create wherry-forget-r", "delete older"];
        let cases = [vec![all[0]], vec![all[1]], vec![all[2]], all.to_vec(), Vec::new()];
        for (n, refused) in cases.into_iter().enumerate() {
            (*api.refused.lock(), *api.written.lock()) = (refused.clone(), Vec::new());
            jobs.figures = Figures::default();
            let backup = json!({ "metadata": { "uid": format!("u{n}") }, "status": { "phase": "Deleting" } });
            jobs.know(Kind::Backup, backup);
            assert_eq!(jobs.look(&settings).await.is_err(), !refused.is_empty(), "{refused:?}");
            let written = api.written.lock().clone();
            for what in all {
                let is_done = written.iter().any(|done| done.starts_with(what));
                assert_eq!(is_done, !refused.contains(&what), "{what} of {written:?}");
            }
            assert!(jobs.figures.locations.contains_key("default"), "{refused:?}");
        }
    }

    #[test]
    fn a_job_as_the_server_has_it_is_read() {
        let settings = Settings::parse(&BTreeMap::new()).unwrap();
        let mut object = build::job("velero", JobKind::Gc, "default", "abc", None, &settings);
        assert_eq!(job_of(&object), None, "the server has not taken it yet");
        object["metadata"]["uid"] = json!("u");
        object["metadata"]["resourceVersion"] = json!("7");
        object["metadata"]["creationTimestamp"] = json!(Time(5));
        let read = job_of(&object).unwrap();
        assert_eq!((read.kind, read.repository.as_str(), read.location.as_str()), (JobKind::Gc, "abc", "default"));
        assert_eq!((read.created, read.ended), (Time(5), None));
        for (kind, well) in [("Complete", true), ("Failed", false)] {
            let suspended = json!({ "type": "Suspended", "status": "True" });
            let condition = json!({ "type": kind, "status": "True", "lastTransitionTime": Time(9) });
            object["status"]["conditions"] = json!([suspended, condition]);
            assert_eq!(ended(&object), Some((Time(9), well)));
            object["status"]["conditions"][1]["status"] = json!("False");
            assert_eq!(ended(&object), None);
        }
    }

    #[test]
    fn what_is_recorded_of_a_location_is_read() {
        let mut location = BackupStorageLocation::default();
        location.metadata.name = "default".into();
        location.status.phase = "Available".into();
        let repositories = json!({ "data": { "default": "{\"repository\":\"r\",\"location\":\"s3://b/x\"}" } });
        let result = JobResult::new(JobKind::Gc, Time(3), job::State::Done, String::new());
        let results = json!({ "data": { "gc.default": result.print(), "forget.default": "none" } });
        let read = location_of(&location, &repositories, &results);
        assert_eq!((read.usable, read.repository.as_deref()), (true, Some("r")));
        assert_eq!(read.results, BTreeMap::from([(JobKind::Gc, result)]));
        location.spec.access_mode = "ReadOnly".into();
        assert!(!location_of(&location, &Value::Null, &Value::Null).usable);
    }
}
