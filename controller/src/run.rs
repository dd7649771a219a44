//! The loop: one replica of several acts; it follows the CRs, and works on those that are ours, several at a time.

use crate::figures::Figures;
use crate::holder::{Holder, NO_ANSWER};
use crate::jobs::{self, Around};
use crate::known::Known;
use crate::lease::RENEW;
use crate::mirror::Mirror;
use crate::observe::Memory;
use crate::queue::{Ended, Queue};
use crate::reconcile::Limits;
use crate::sweep;
use crate::tell::{Said, tell};
use crate::work::{Done, Reached, Work, time};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal};
use wherry_api::health::Beat;
use wherry_api::kube_api::KubeApi;
use wherry_api::metrics::{ACTS, Registry};
use wherry_api::settings::{CONFIG_MAP, Settings};
use wherry_api::watch::{Seen, Selection, follow_as, key_of};
use wherry_api::{Phase, names};

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
/// Metrics are counted, and Events looked for, this often.
const COUNT: Duration = Duration::from_secs(5);
/// While there is work, what is known of agents is never older.
const AGENTS: Duration = Duration::from_secs(60);
/// How long the loop waits for an answer to what it asks itself.
const PATIENCE: Duration = Duration::from_secs(8);
/// A Lease that could not be renewed is tried again after so long, and settings that there are none of are looked for.
pub const RETRY: Duration = Duration::from_secs(5);
/// Of those that only wait in the queue so many are passed over before the loop looks at other things.
const PASSED_OVER: usize = 500;
/// A restore that could not begin yet is looked at this often while there is no place for it: what it waits for, no watch tells.
const UNREADY: Duration = Duration::from_secs(120);
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
    /// What it tells of itself.
    pub registry: Arc<Registry>,
    /// Where probes are answered.
    pub beat: Option<Arc<Beat>>,
}

/// Why it ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another replica acts now, or may do so.
    #[error("the Lease could not be renewed, so another replica may act: this one ends")]
    LeaseLost,
    /// The API server said nothing about the Lease all that time.
    #[error(
        "the API server has said nothing about the Lease for {} s: this one ends, to begin with the certificates of today",
        NO_ANSWER.as_secs()
    )]
    NoAnswer,
    /// What follows the objects is gone, so nothing would be seen any more.
    #[error("one of the watches ended by itself ({0}): this one ends, to begin anew")]
    WatchEnded(String),
}

/// What the loop itself asks must not keep it from renewing the Lease.
pub(crate) async fn in_time<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => {
            let message = format!("the API server did not answer within {} s", PATIENCE.as_secs());
            Err(ApiError::new(Refusal::Unavailable, "the loop", message))
        }
    }
}

/// What is kept of an object that is followed.
enum Followed {
    /// Of a CR what [`Known`] says, and the object only as long as it is not over.
    Cr(Key, Box<Known>, Option<Value>),
    /// What was made for one.
    Made(Value),
}

impl Followed {
    fn of(kind: Kind, object: Value) -> Self {
        if !is_cr(kind) {
            return Self::Made(object);
        }
        let (key, kept) = (key_of(kind, &object), (!Known::is_over(&object)).then(|| object.clone()));
        Self::Cr(key, Box::new(Known::of(kind, object)), kept)
    }
}

fn is_cr(kind: Kind) -> bool {
    matches!(kind, Kind::DataUpload | Kind::DataDownload)
}

/// Runs until `stop` is true; whoever can say so must live as long.
pub async fn run(api: KubeApi, options: Options, stop: Receiver<bool>) -> Result<(), RunError> {
    let mut holder = Holder::new(api.clone(), &options.namespace, &options.identity, options.beat.clone());
    if !holder.wait(stop.clone()).await? {
        return Ok(());
    }
    tracing::info!("{} acts in namespace {}", options.identity, options.namespace);
    options.registry.set(&ACTS, &[], 1.0);
    let (told, due) = unbounded_channel();
    tokio::spawn(tell(api.clone(), due, holder.held()));
    let result = Loop::new(api, options, stop, holder.held(), told).run(&mut holder).await;
    holder.release().await;
    result
}

struct Loop {
    api: KubeApi,
    options: Options,
    stop: Receiver<bool>,
    held: Receiver<Option<Instant>>,
    settings: Option<Settings>,
    /// The same, for what runs beside this.
    in_force: Sender<Option<Settings>>,
    known: BTreeMap<Key, Known>,
    /// The objects themselves, as far as they are of CRs that are not over.
    mirror: Arc<Mirror>,
    memories: BTreeMap<Key, Memory>,
    /// Those that were looked at.
    looked: BTreeSet<Key>,
    queue: Queue,
    workers: JoinSet<Done>,
    /// What each of them has, and whether it was admitted with this look.
    work: HashMap<tokio::task::Id, (Key, bool)>,
    /// Admitted and yet not accepted: others go before them.
    unready: BTreeSet<Key>,
    /// What happened around those that a worker has, as object, version, and whether that is being deleted: it may be no more than
    /// what the worker does.
    meanwhile: BTreeMap<Key, Vec<(Key, String, bool)>>,
    /// uids of those that may begin, but for the unready ones, and when that was reckoned. `None`: something has changed since.
    admission: Option<(Instant, BTreeSet<String>)>,
    /// Accepted by us, of which the watch has not told yet.
    accepted: BTreeSet<Key>,
    /// Nodes with an agent, as long as that is fresh.
    agents: Option<(Instant, BTreeSet<String>)>,
    /// When it was last asked for them in vain: each time may take as long as the loop waits at most.
    agents_unsaid: Option<Instant>,
    figures: Figures,
    /// To whoever sends Events.
    told: UnboundedSender<Said>,
}

impl Loop {
    fn new(
        api: KubeApi,
        options: Options,
        stop: Receiver<bool>,
        held: Receiver<Option<Instant>>,
        told: UnboundedSender<Said>,
    ) -> Self {
        Self {
            figures: Figures::new(Arc::clone(&options.registry)),
            told,
            api,
            options,
            stop,
            held,
            settings: None,
            in_force: channel(None).0,
            known: BTreeMap::new(),
            mirror: Arc::default(),
            memories: BTreeMap::new(),
            looked: BTreeSet::new(),
            queue: Queue::default(),
            workers: JoinSet::new(),
            work: HashMap::new(),
            unready: BTreeSet::new(),
            meanwhile: BTreeMap::new(),
            admission: None,
            accepted: BTreeSet::new(),
            agents: None,
            agents_unsaid: None,
        }
    }

    async fn run(mut self, holder: &mut Holder) -> Result<(), RunError> {
        self.reload().await;
        let (to, mut seen) = unbounded_channel();
        let mut watches = JoinSet::new();
        for (kind, label) in FOLLOWED {
            let of = Selection {
                kind,
                namespace: self.options.namespace.clone(),
                label: label.to_owned(),
                name: String::new(),
            };
            watches.spawn(follow_as(self.api.clone(), of, None, to.clone(), Followed::of));
        }
        // Jobs go on by themselves: what they wait for keeps no CR waiting.
        let around = Around {
            api: self.api.clone(),
            options: self.options.clone(),
            settings: self.in_force.subscribe(),
            held: self.held.clone(),
        };
        watches.spawn(sweep::run(around.clone(), self.figures.left_in_cluster()));
        watches.spawn(jobs::run(around));
        let mut stop = self.stop.clone();
        let (mut renew, mut reload) = (tokio::time::Instant::now() + RENEW, self.next_reload());
        let mut count = tokio::time::Instant::now();
        loop {
            if *stop.borrow() {
                self.finish(&mut seen).await;
                return Ok(());
            }
            if !holder.is_held() {
                self.workers.abort_all();
                return Err(RunError::LeaseLost);
            }
            self.begin_work(renew).await;
            let due = self.queue.next_due().filter(|_| self.workers.len() < WORKERS && self.settings.is_some());
            let due = due.map_or(renew, |due| renew.min(due.into()));
            tokio::select! {
                _ = stop.changed() => {}
                Some(ended) = watches.join_next() => {
                    self.workers.abort_all();
                    return Err(RunError::WatchEnded(ended.map_or_else(|e| e.to_string(), |()| "no reason".to_owned())));
                }
                event = seen.recv() => if let Some(event) = event { self.see(event) },
                Some(done) = self.workers.join_next_with_id() => self.done(done),
                // A renewal that is due comes before what may wait for a server.
                () = tokio::time::sleep_until(count), if tokio::time::Instant::now() < renew => {
                    count = tokio::time::Instant::now() + COUNT;
                    self.count().await;
                }
                () = tokio::time::sleep_until(reload), if tokio::time::Instant::now() < renew => {
                    self.reload().await;
                    reload = self.next_reload();
                }
                () = tokio::time::sleep_until(due) => {
                    if tokio::time::Instant::now() >= renew {
                        let renewed = holder.renew().await;
                        renew = tokio::time::Instant::now() + if renewed { RENEW } else { RETRY };
                    }
                }
            }
        }
    }

    /// Metrics and Events of what there is now.
    async fn count(&mut self) {
        if let Some(beat) = &self.options.beat {
            beat.beat(self.settings.is_some());
        }
        let Some(settings) = self.settings.clone() else { return };
        let under_way = self.known.values().any(|known| known.ours && !known.phase.is_terminal());
        let agents = if under_way { self.agents_within(AGENTS).await } else { None };
        let said = self.figures.count(&self.known, &settings, agents.as_ref(), Instant::now(), time());
        // Who sends them lives as long as this process.
        said.into_iter().for_each(|said| drop(self.told.send(said)));
    }

    /// Nothing new is begun; what is under way ends after its next write.
    async fn finish(&mut self, seen: &mut UnboundedReceiver<Seen<Followed>>) {
        seen.close();
        let ended = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORK, ended).await.is_err() {
            let left = self.workers.len();
            tracing::warn!("ends with {left} CRs in hand; the next replica goes on from what was done");
        }
    }

    /// Without settings nothing is done, so they are looked for soon.
    fn next_reload(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + if self.settings.is_some() { RELOAD } else { RETRY }
    }

    async fn reload(&mut self) {
        let key = Key::new(Kind::ConfigMap, &self.options.namespace, CONFIG_MAP);
        let map = match in_time(self.api.get(&key)).await {
            Ok(map) => map,
            Err(e) => {
                tracing::warn!(
                    "{e}: {}",
                    if self.settings.is_some() { "the settings stay" } else { "nothing is done" }
                );
                return;
            }
        };
        let good = self.take_settings(map.as_ref());
        self.figures.settings(self.settings.as_ref(), good);
    }

    /// Takes the ConfigMap as it is now, and says whether all of it can be used. One that is not there is no word for the defaults, by
    /// which work of another datamover name would be canceled and a pause be over: it may be on its way (`kubectl replace --force`).
    fn take_settings(&mut self, map: Option<&Value>) -> bool {
        let stay = "the settings before stay";
        let Some(map) = map else {
            let then = if self.settings.is_some() { stay } else { "nothing is done until there is one" };
            tracing::error!("there is no ConfigMap {CONFIG_MAP}; {then}");
            return false;
        };
        let data: BTreeMap<String, String> = serde_json::from_value(map["data"].clone()).unwrap_or_default();
        match Settings::lenient(&data) {
            Ok((mut settings, foreign)) => {
                for foreign in &foreign {
                    tracing::error!("{foreign}; the others are in force");
                }
                if settings.hosting_image.is_empty() {
                    settings.hosting_image.clone_from(&self.options.image);
                }
                if self.settings.as_ref() != Some(&settings) {
                    tracing::info!("settings: {settings:?}");
                    self.in_force.send_replace(Some(settings.clone()));
                    self.settings = Some(settings);
                    self.admission = None;
                    self.know_all();
                }
                foreign.is_empty()
            }
            Err(wrong) => {
                let then = if self.settings.is_some() { stay } else { "nothing is done until it is mended" };
                for wrong in wrong {
                    tracing::error!("ConfigMap {CONFIG_MAP}: {wrong}; {then}");
                }
                false
            }
        }
    }

    /// Whose they are depends on the settings.
    fn know_all(&mut self) {
        for (key, known) in std::mem::take(&mut self.known) {
            let ended = known.ending;
            self.know(&key, known, true);
            // By the settings of now it is nobody's any more.
            if !ended && self.known.get(&key).is_some_and(|known| known.ours && known.ending) {
                self.queue.urgent(&key, Instant::now());
            }
        }
    }

    /// `news`: it is not as our own last write left it.
    fn know(&mut self, key: &Key, mut known: Known, news: bool) {
        let Some(settings) = &self.settings else {
            self.known.insert(key.clone(), known);
            return;
        };
        known.judge(&Limits::from(settings));
        if !known.readable {
            tracing::warn!("{key} cannot be read; others go on");
        }
        let same = self.known.get(key).is_some_and(|before| before.print == known.print);
        if known.phase != Phase::New {
            self.accepted.remove(key);
        }
        self.figures.see(key, &known, Instant::now(), time());
        let before = self.known.get(key).filter(|before| before.uid == known.uid);
        let counts = |known: &Known| (known.ours, known.queued, known.phase.clone(), known.node.clone());
        if before.is_none_or(|before| counts(before) != counts(&known)) {
            self.admission = None;
        }
        if before.is_none() {
            self.looked.remove(key);
        }
        // Another one of that name: of it nothing is remembered.
        if before.is_none() && self.known.contains_key(key) {
            self.memories.remove(key);
            self.unready.remove(key);
            self.accepted.remove(key);
        }
        // Its finalizer was our own write, and only now it is in the queue.
        let news = news || known.queued && before.is_none_or(|before| !before.queued);
        if known.ours && known.ending && !known.phase.is_terminal() && before.is_none_or(|before| !before.ending) {
            self.queue.urgent(key, Instant::now());
        } else if known.ours && !known.over && !same && news {
            self.happened(key, (key.clone(), known.version.clone(), false));
        }
        self.known.insert(key.clone(), known);
    }

    fn see(&mut self, seen: Seen<Followed>) {
        match seen {
            Seen::Listed(kind, all) => {
                let (mut crs, mut made) = (BTreeMap::new(), Vec::new());
                for one in all {
                    match one {
                        Followed::Cr(key, known, object) => {
                            crs.insert(key, *known);
                            made.extend(object);
                        }
                        Followed::Made(object) => made.push(object),
                    }
                }
                self.mirror.listed(kind, &made);
                let is_gone = |key: &&Key| key.kind == kind && !crs.contains_key(key);
                let gone: Vec<Key> = self.known.keys().filter(is_gone).cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
                crs.into_iter().for_each(|(key, known)| self.know(&key, known, true));
                if !is_cr(kind) {
                    self.figures.listed(kind, &made);
                    // Some may have gone unseen.
                    self.changed(|_| true);
                }
            }
            Seen::Changed(kind, Followed::Cr(key, known, object)) => {
                let news = match object {
                    Some(object) => self.mirror.changed(kind, &object),
                    None => {
                        self.mirror.forget(&key);
                        true
                    }
                };
                self.know(&key, *known, news);
            }
            Seen::Gone(_, Followed::Cr(key, ..)) => self.forget(&key),
            Seen::Changed(kind, Followed::Made(object)) => {
                self.figures.made(kind, &object);
                if self.mirror.changed(kind, &object) {
                    self.changed_of(kind, &object, object["metadata"]["deletionTimestamp"].is_string());
                }
            }
            Seen::Gone(kind, Followed::Made(object)) => {
                self.figures.unmade(kind, &object);
                self.mirror.gone(kind, &object);
                self.changed_of(kind, &object, false);
            }
        }
    }

    /// Something happened to this object, which was made for a CR.
    fn changed_of(&mut self, kind: Kind, object: &Value, going: bool) {
        let uid = object["metadata"]["labels"][names::CR_UID].as_str().unwrap_or_default();
        let of = self.known.iter().find(|(_, known)| known.ours && !known.over && known.uid == uid);
        let Some(key) = of.map(|(key, _)| key.clone()) else { return };
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        self.happened(&key, (key_of(kind, object), version, going));
    }

    /// Something happened to a CR, or to what was made for it.
    fn happened(&mut self, key: &Key, what: (Key, String, bool)) {
        match self.work.values().any(|(taken, _)| taken == key) {
            true => self.meanwhile.entry(key.clone()).or_default().push(what),
            false => self.queue.changed(key, Instant::now()),
        }
    }

    /// Something happened to what was made for those CRs.
    fn changed(&mut self, which: impl Fn(&Known) -> bool) {
        for (key, _) in self.known.iter().filter(|(_, known)| known.ours && !known.over && which(known)) {
            self.queue.changed(key, Instant::now());
        }
    }

    fn forget(&mut self, key: &Key) {
        self.figures.forget(key);
        self.mirror.forget(key);
        self.known.remove(key);
        self.memories.remove(key);
        self.looked.remove(key);
        self.unready.remove(key);
        self.accepted.remove(key);
        self.meanwhile.remove(key);
        self.admission = None;
    }

    fn done(&mut self, done: Result<(tokio::task::Id, Done), tokio::task::JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, Some(result)),
            // It panicked: that CR is tried again, later and later, and no other notices.
            Err(e) => (e.id(), None),
        };
        let Some((key, admitted)) = self.work.remove(&id) else { return };
        let ended = result.as_ref().map_or(Ended::Failed(None), |done| done.ended);
        let own = |(object, version, going): &(Key, String, bool)| {
            result.as_ref().is_some_and(|done| done.own.is_echo(object, version, *going))
        };
        // What is more than its own writes is looked at now.
        if !self.meanwhile.remove(&key).unwrap_or_default().iter().all(own) {
            self.queue.changed(&key, Instant::now());
        }
        let Reached { accepted, ready, canceled } = result.as_ref().map(|done| done.reached).unwrap_or_default();
        // Not one of that name that was made meanwhile.
        let is_same = |done: &Done| self.known.get(&key).is_some_and(|known| known.uid == done.uid);
        let same = result.as_ref().is_some_and(is_same);
        let (accepted, admitted) = (accepted && same, admitted && (same || result.is_none()));
        match result {
            Some(done) if same && ended != Ended::Settled => drop(self.memories.insert(key.clone(), done.memory)),
            _ => drop(self.memories.remove(&key)),
        }
        // Else nobody would count it until the watch tells of it, and another one would be admitted in its place.
        let is_new = self.known.get(&key).is_some_and(|known| known.phase == Phase::New);
        if is_new && accepted {
            self.accepted.insert(key.clone());
        }
        // The answer to its last write may have come after the event.
        if self.known.get(&key).is_none_or(|known| known.over) {
            self.mirror.forget(&key);
        }
        // Begun, or not ready: in either case it is not among those that may begin any more.
        if admitted {
            self.admission = None;
        }
        // Settled, and not accepted, it would be let begin again at once, for ever.
        if admitted && (ended != Ended::Settled || !accepted) && self.known.contains_key(&key) {
            self.unready.insert(key.clone());
        } else if (admitted || ready || !self.known.get(&key).is_some_and(|known| known.queued))
            && self.unready.remove(&key)
        {
            // It has its place by its deadline again, before those that came later.
            self.admission = None;
        }
        self.queue.ended(&key, ended, Instant::now());
        let is_to_end = |known: &Known| known.ours && known.ending && !known.phase.is_terminal();
        // The watch may not have told yet that it has ended. One that fails leaves a turn to the others.
        let failed = matches!(ended, Ended::Failed(_));
        if !canceled && !failed && self.known.get(&key).is_some_and(is_to_end) {
            self.queue.stays_first(&key);
        }
    }

    /// One that others went before, as it could not begin, and that has not been looked at for a while.
    fn may_be_ready(&self, key: &Key) -> bool {
        let seen = self.memories.get(key).and_then(|memory| memory.cr_seen_at);
        key.kind == Kind::DataDownload
            && self.unready.contains(key)
            && seen.is_none_or(|seen| seen.after(UNREADY) <= time())
    }

    /// No later than `renew`: who may begin is asked of the server, and the Lease is renewed by nobody meanwhile.
    async fn begin_work(&mut self, renew: tokio::time::Instant) {
        let mut passed_over = 0;
        let is_due = || tokio::time::Instant::now() >= renew;
        if !is_due() {
            self.let_begin().await;
        }
        while !is_due() && self.workers.len() < WORKERS && passed_over < PASSED_OVER {
            let Some(settings) = self.settings.clone() else { return };
            let Some(key) = self.queue.take(Instant::now()) else { return };
            let Some(known) = self.known.get(&key).cloned() else {
                self.queue.ended(&key, Ended::Settled, Instant::now());
                continue;
            };
            let queued = known.queued && !self.accepted.contains(&key);
            let admitted = queued
                && if self.unready.contains(&key) {
                    self.admitted(Some(&key), &settings).await.contains(&known.uid)
                } else {
                    // All of them may begin, so those that do change nothing for the others.
                    self.admission.as_ref().is_some_and(|(_, uids)| uids.contains(&known.uid))
                };
            // One that only waits in the queue is looked at once before its turn: many may wait for hours.
            // Velero has given it up by then: it ends, whether there is a place or not.
            let over = key.kind == Kind::DataUpload
                && known.created.is_some_and(|created| created.after(settings.item_timeout) <= time());
            if queued && !admitted && !over && self.looked.contains(&key) && !self.may_be_ready(&key) {
                self.queue.ended(&key, Ended::Waits(None), Instant::now());
                passed_over += 1;
                continue;
            }
            self.looked.insert(key.clone());
            let memory = Memory { admitted, ..self.memories.get(&key).copied().unwrap_or_default() };
            let limits = Limits::from(&settings);
            let (stop, held) = (self.stop.clone(), self.held.clone());
            let (uid, told) = (known.uid, self.told.clone());
            let (api, mirror) = (self.api.clone(), Arc::clone(&self.mirror));
            let work = Work { api, mirror, limits, cr: key.clone(), uid, told, stop, held };
            let task = self.workers.spawn(async move { work.go_on(memory).await });
            self.work.insert(task.id(), (key, admitted));
        }
    }
}

#[path = "begin.rs"]
mod begin;
#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
