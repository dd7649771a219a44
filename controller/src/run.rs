//! The loop: one replica of several acts; it follows the CRs, and works on those that are ours, several at a time.

use crate::admission::{self, Active, Waiting};
use crate::api::{Api, ApiError, Key, Kind, Refusal};
use crate::apply::{Applied, apply, guarded};
use crate::kube_api::KubeApi;
use crate::lease::{Elector, GIVE_UP, RENEW, Turn};
use crate::observe::Memory;
use crate::queue::{Ended, Queue};
use crate::reconcile::{Limits, Write};
use crate::watch::{Seen, Selection, follow, key_of};
use crate::work::{Work, time};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use wherry_api::cluster::Pod;
use wherry_api::decode::{decode, decode_all};
use wherry_api::settings::{CONFIG_MAP, Settings};
use wherry_api::{DataDownload, DataUpload, Phase, Time, names};

/// CRs that are worked on at once. Each is a request at a time.
const WORKERS: usize = 8;
/// In the namespace of Velero: the CRs, and what is made for them. Of the rest of the cluster nothing is followed; what is
/// waited for there is looked at again and again.
const FOLLOWED: [(Kind, &str); 5] = [
    (Kind::DataUpload, ""),
    (Kind::DataDownload, ""),
    (Kind::Pod, names::CR_UID),
    (Kind::Claim, names::CR_UID),
    (Kind::VolumeSnapshot, names::CR_UID),
];
/// The ConfigMap is read again after so long.
const RELOAD: Duration = Duration::from_secs(60);
/// How long the loop waits for an answer to what it asks itself.
const PATIENCE: Duration = Duration::from_secs(8);
/// A Lease that could not be renewed is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// At its end it waits so long for work under way; killed later, nothing is lost.
const LAST_WORK: Duration = Duration::from_secs(20);

/// What a controller is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace of Velero.
    pub namespace: String,
    /// A name that no other process has or had, for the Lease.
    pub identity: String,
    /// Image of hosting pods where the setting `hostingImage` is empty.
    pub image: String,
}

/// Why it ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another replica acts now, or may do so.
    #[error("the Lease could not be renewed, so another replica may act: this one ends")]
    LeaseLost,
}

/// What the loop itself asks must not keep it from renewing the Lease.
async fn in_time<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => {
            let message = format!("the API server did not answer within {} s", PATIENCE.as_secs());
            Err(ApiError::new(Refusal::Unavailable, "the loop", message))
        }
    }
}

/// Runs until `stop` is true; whoever can say so must live as long.
pub async fn run(api: KubeApi, options: Options, stop: Receiver<bool>) -> Result<(), RunError> {
    let elector = Elector::new(&options.namespace, &options.identity);
    let mut holder = Holder { api: api.clone(), elector, lease: None, renewed: None };
    if !holder.wait(stop.clone()).await {
        return Ok(());
    }
    tracing::info!("{} acts in namespace {}", options.identity, options.namespace);
    let result = Loop::new(api, options, stop).run(&mut holder).await;
    holder.release().await;
    result
}

/// The Lease and when it was renewed last.
struct Holder {
    api: KubeApi,
    elector: Elector,
    /// As our last write left it.
    lease: Option<Value>,
    renewed: Option<Instant>,
}

impl Holder {
    /// Until it is ours; `false`: it is to end.
    async fn wait(&mut self, mut stop: Receiver<bool>) -> bool {
        loop {
            if *stop.borrow() {
                return false;
            }
            if self.renew().await {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Makes, takes or renews it. `false`: it is not ours, or nobody knows.
    async fn renew(&mut self) -> bool {
        // The time before the request: what the server did later than that is on the safe side.
        let begin = Instant::now();
        match in_time(self.try_renew(begin)).await {
            Ok(true) => {
                self.renewed = Some(begin);
                true
            }
            Ok(false) => {
                self.renewed = None;
                false
            }
            Err(e) => {
                tracing::warn!("{e}");
                self.lease = None;
                false
            }
        }
    }

    async fn try_renew(&mut self, now: Instant) -> Result<bool, ApiError> {
        let key = self.elector.key();
        let lease = match self.lease.take() {
            Some(lease) => Some(lease),
            None => self.api.get(&key).await?,
        };
        match self.elector.turn(lease.as_ref(), now, time()) {
            Turn::Theirs(who) => {
                tracing::debug!("{who} acts");
                Ok(false)
            }
            Turn::Write(Write::Patch { guard, patch, .. }) => {
                self.lease = Some(self.api.patched(&key, &guarded(&patch, &guard)).await?);
                Ok(true)
            }
            Turn::Write(write) => apply(&self.api, &write).await.map(|applied| applied == Applied::Done),
        }
    }

    /// No other replica can act yet.
    fn is_held(&self) -> bool {
        self.renewed.is_some_and(|renewed| renewed.elapsed() < GIVE_UP)
    }

    async fn release(&self) {
        let given = async {
            if let Ok(Some(lease)) = self.api.get(&self.elector.key()).await
                && let Some(write) = self.elector.release(&lease)
            {
                let _ = apply(&self.api, &write).await;
            }
        };
        // Without it the next one waits a little longer.
        let _ = tokio::time::timeout(Duration::from_secs(5), given).await;
    }
}

/// What is known of a CR from the watch.
#[derive(Debug, Clone)]
struct Known {
    version: String,
    uid: String,
    work: admission::Work,
    ours: bool,
    phase: Phase,
    node: String,
    created: Option<Time>,
    /// It waits for nothing but admission.
    queued: bool,
}

impl Known {
    /// `None`: it cannot be read as far as that.
    fn of(kind: Kind, object: &Value, limits: &Limits) -> Option<Self> {
        let (work, copied, meta, datamover, phase, node, cancel) = match kind {
            Kind::DataUpload => {
                let DataUpload { metadata, spec, status } = decode(kind.word(), object).ok()?;
                let copied = names::RESTORE_NAME;
                (admission::Work::Backup, copied, metadata, spec.datamover, status.phase, status.node, spec.cancel)
            }
            _ => {
                let DataDownload { metadata, spec, status } = decode(kind.word(), object).ok()?;
                let copied = names::BACKUP_NAME;
                (admission::Work::Restore, copied, metadata, spec.datamover, status.phase, status.node, spec.cancel)
            }
        };
        let held = kind != Kind::DataUpload || meta.has_finalizer(names::FINALIZER);
        Some(Self {
            ours: limits.datamovers.contains(&datamover) && meta.label(copied).is_none(),
            queued: phase == Phase::New && held && !cancel && !meta.is_going(),
            version: meta.resource_version,
            uid: meta.uid,
            created: meta.creation_timestamp,
            work,
            phase,
            node,
        })
    }
}

struct Loop {
    api: KubeApi,
    options: Options,
    stop: Receiver<bool>,
    settings: Option<Settings>,
    objects: BTreeMap<Key, Value>,
    known: BTreeMap<Key, Known>,
    memories: BTreeMap<Key, Memory>,
    /// The version of each that was looked at last.
    looked: BTreeMap<Key, String>,
    queue: Queue,
    workers: JoinSet<(Memory, Ended)>,
    /// What each of them has, and whether it was admitted with this look.
    work: HashMap<tokio::task::Id, (Key, bool)>,
    /// Admitted and yet not accepted: others go before them.
    unready: BTreeSet<Key>,
    /// Nodes with an agent, as long as that is fresh.
    agents: Option<(Instant, BTreeSet<String>)>,
}

impl Loop {
    fn new(api: KubeApi, options: Options, stop: Receiver<bool>) -> Self {
        Self {
            api,
            options,
            stop,
            settings: None,
            objects: BTreeMap::new(),
            known: BTreeMap::new(),
            memories: BTreeMap::new(),
            looked: BTreeMap::new(),
            queue: Queue::default(),
            workers: JoinSet::new(),
            work: HashMap::new(),
            unready: BTreeSet::new(),
            agents: None,
        }
    }

    async fn run(mut self, holder: &mut Holder) -> Result<(), RunError> {
        self.reload().await;
        let (to, mut seen) = unbounded_channel();
        for (kind, label) in FOLLOWED {
            let of = Selection { kind, namespace: self.options.namespace.clone(), label };
            tokio::spawn(follow(self.api.clone(), of, None, to.clone()));
        }
        let mut stop = self.stop.clone();
        let (mut renew, mut reload) = (tokio::time::Instant::now() + RENEW, tokio::time::Instant::now() + RELOAD);
        loop {
            if *stop.borrow() {
                self.finish(&mut seen).await;
                return Ok(());
            }
            if !holder.is_held() {
                self.workers.abort_all();
                return Err(RunError::LeaseLost);
            }
            self.begin_work().await;
            let due = self.queue.next_due().filter(|_| self.workers.len() < WORKERS && self.settings.is_some());
            let due = due.map_or(renew, |due| renew.min(due.into()));
            tokio::select! {
                _ = stop.changed() => {}
                event = seen.recv() => if let Some(event) = event { self.see(event) },
                Some(done) = self.workers.join_next_with_id() => self.done(done),
                () = tokio::time::sleep_until(reload) => {
                    reload = tokio::time::Instant::now() + RELOAD;
                    self.reload().await;
                }
                () = tokio::time::sleep_until(due) => {
                    if due >= renew {
                        let renewed = holder.renew().await;
                        renew = tokio::time::Instant::now() + if renewed { RENEW } else { RETRY };
                    }
                }
            }
        }
    }

    /// Nothing new is begun; what is under way ends after its next write.
    async fn finish(&mut self, seen: &mut UnboundedReceiver<Seen>) {
        seen.close();
        let ended = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORK, ended).await.is_err() {
            tracing::warn!("ends with {} requests under way; the next replica goes on from what they did", WORKERS);
        }
    }

    async fn reload(&mut self) {
        let key = Key::new(Kind::ConfigMap, &self.options.namespace, CONFIG_MAP);
        let data = match in_time(self.api.get(&key)).await {
            Ok(object) => object.map(|object| object["data"].clone()).unwrap_or_default(),
            Err(e) => {
                tracing::warn!(
                    "{e}: {}",
                    if self.settings.is_some() { "the settings stay" } else { "nothing is done" }
                );
                return;
            }
        };
        let data: BTreeMap<String, String> = serde_json::from_value(data).unwrap_or_default();
        match Settings::parse(&data) {
            Ok(mut settings) => {
                if settings.hosting_image.is_empty() {
                    settings.hosting_image.clone_from(&self.options.image);
                }
                if self.settings.as_ref() != Some(&settings) {
                    tracing::info!("settings: {settings:?}");
                    self.settings = Some(settings);
                    self.know_all();
                }
            }
            Err(wrong) => {
                for wrong in wrong {
                    tracing::error!("{wrong}; the settings before stay");
                }
            }
        }
    }

    /// Whose they are depends on the settings.
    fn know_all(&mut self) {
        let objects = std::mem::take(&mut self.objects);
        for (key, object) in objects {
            self.know(&key, object);
        }
    }

    fn know(&mut self, key: &Key, object: Value) {
        let Some(settings) = &self.settings else {
            self.objects.insert(key.clone(), object);
            return;
        };
        match Known::of(key.kind, &object, &Limits::from(settings)) {
            Some(known) => drop(self.known.insert(key.clone(), known)),
            None => tracing::warn!("{key} cannot be read; others go on"),
        }
        self.objects.insert(key.clone(), object);
        if self.known.get(key).is_some_and(|known| known.ours) {
            self.queue.changed(key, Instant::now());
        }
    }

    fn see(&mut self, seen: Seen) {
        let is_cr = |kind: Kind| matches!(kind, Kind::DataUpload | Kind::DataDownload);
        match seen {
            Seen::Listed(kind, objects) if is_cr(kind) => {
                let there: BTreeSet<Key> = objects.iter().map(|object| key_of(kind, object)).collect();
                let gone: Vec<Key> =
                    self.objects.keys().filter(|key| key.kind == kind && !there.contains(key)).cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
                for object in objects {
                    self.know(&key_of(kind, &object), object);
                }
            }
            Seen::Changed(kind, object) if is_cr(kind) => self.know(&key_of(kind, &object), object),
            Seen::Gone(kind, object) if is_cr(kind) => self.forget(&key_of(kind, &object)),
            // Some may have gone unseen.
            Seen::Listed(..) => self.changed(|_| true),
            Seen::Changed(_, object) | Seen::Gone(_, object) => {
                let uid = object["metadata"]["labels"][names::CR_UID].as_str().unwrap_or_default();
                self.changed(|known| known.uid == uid);
            }
        }
    }

    /// Something happened to what was made for those CRs.
    fn changed(&mut self, which: impl Fn(&Known) -> bool) {
        for (key, _) in self.known.iter().filter(|(_, known)| known.ours && which(known)) {
            self.queue.changed(key, Instant::now());
        }
    }

    fn forget(&mut self, key: &Key) {
        self.objects.remove(key);
        self.known.remove(key);
        self.memories.remove(key);
        self.looked.remove(key);
        self.unready.remove(key);
    }

    fn done(&mut self, done: Result<(tokio::task::Id, (Memory, Ended)), tokio::task::JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, Some(result)),
            // It panicked: that CR is tried again, later and later, and no other notices.
            Err(e) => (e.id(), None),
        };
        let Some((key, admitted)) = self.work.remove(&id) else { return };
        let ended = result.map_or(Ended::Failed(None), |(_, ended)| ended);
        match result {
            Some((memory, ended)) if self.known.contains_key(&key) && ended != Ended::Settled => {
                self.memories.insert(key.clone(), memory);
            }
            _ => drop(self.memories.remove(&key)),
        }
        if admitted && matches!(ended, Ended::Waits(_) | Ended::Failed(_)) {
            self.unready.insert(key.clone());
        } else {
            self.unready.remove(&key);
        }
        self.queue.ended(&key, ended, Instant::now());
    }

    async fn begin_work(&mut self) {
        while self.workers.len() < WORKERS {
            let Some(settings) = self.settings.clone() else { return };
            let Some(key) = self.queue.take(Instant::now()) else { return };
            let Some(known) = self.known.get(&key).cloned() else {
                self.queue.ended(&key, Ended::Settled, Instant::now());
                continue;
            };
            let admitted = known.queued && self.admitted(&key, &settings).await.contains(&known.uid);
            // One that only waits in the queue is not looked at again before its turn: many may wait for hours.
            if known.queued && !admitted && self.looked.get(&key) == Some(&known.version) {
                self.queue.ended(&key, Ended::Waits(None), Instant::now());
                continue;
            }
            self.looked.insert(key.clone(), known.version);
            let mut memory = Memory { admitted, ..self.memories.get(&key).copied().unwrap_or_default() };
            let limits = Limits::from(&settings);
            let work = Work { api: self.api.clone(), limits, cr: key.clone(), stop: self.stop.clone() };
            let task = self.workers.spawn(async move {
                let ended = work.go_on(&mut memory).await;
                (memory, ended)
            });
            self.work.insert(task.id(), (key, admitted));
        }
    }

    /// uids of those that may begin, seen from one that is to be looked at.
    async fn admitted(&mut self, of: &Key, settings: &Settings) -> BTreeSet<String> {
        let ours = || self.known.iter().filter(|(_, known)| known.ours);
        let begins = |key: &Key| self.work.values().any(|(other, admitted)| other == key && *admitted);
        let waiting: Vec<Waiting> = ours()
            .filter(|(key, known)| known.queued && !begins(key) && (*key == of || !self.unready.contains(key)))
            .map(|(key, known)| Waiting {
                uid: known.uid.clone(),
                work: known.work,
                // One that is not ready, for whatever reason, keeps nobody waiting.
                deadline: match self.unready.contains(key) {
                    true => Time(i64::MAX),
                    false => known.created.unwrap_or_default().after(settings.item_timeout),
                },
                nodes: None,
            })
            .collect();
        let active: Vec<Active> = ours()
            .filter(|(key, known)| (known.phase != Phase::New && !known.phase.is_terminal()) || begins(key))
            .map(|(_, known)| Active {
                work: known.work,
                node: Some(known.node.clone()).filter(|node| !node.is_empty()),
                nodes: None,
            })
            .collect();
        let nodes = self.nodes().await;
        admission::admit(&waiting, &active, &nodes, settings)
    }

    /// Nodes whose agent answers.
    async fn nodes(&mut self) -> BTreeSet<String> {
        if let Some((_, nodes)) = self.agents.as_ref().filter(|(since, _)| since.elapsed() < Duration::from_secs(5)) {
            return nodes.clone();
        }
        let pods: Result<Vec<Value>, ApiError> =
            in_time(self.api.list(Kind::Pod, &self.options.namespace, &[(names::AGENT_LABEL, "true")])).await;
        let nodes = match pods {
            Ok(pods) => {
                let (pods, _): (Vec<Pod>, _) = decode_all(Kind::Pod.word(), &pods);
                let answers = |pod: &Pod| {
                    let ready = pod.status.conditions.iter().find(|condition| condition.kind == "Ready");
                    !pod.metadata.is_going() && ready.is_none_or(|ready| ready.status == "True")
                };
                pods.into_iter().filter(answers).map(|pod| pod.spec.node_name).filter(|node| !node.is_empty()).collect()
            }
            Err(e) => {
                tracing::warn!("{e}");
                BTreeSet::new()
            }
        };
        self.agents = Some((Instant::now(), nodes));
        self.agents.as_ref().map(|(_, nodes)| nodes.clone()).unwrap_or_default()
    }
}
