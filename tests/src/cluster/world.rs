//! A run: our processes, the others, one fault, and events at a write, until nothing changes any more.

use super::agent::{AgentProcess, Turn};
use super::behind::Behind;
use super::clock::now;
use super::invariants::Invariants;
use super::scene::{LOCAL_VOLUME, Scene, TAKEN_VOLUME, before, others};
use super::server::{Client, Faults, How, Server, Who};
use super::snapshots::text;
use super::{snapshots, volumes};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use wherry_api::api::{Key, Kind, Refusal};
use wherry_api::settings::Settings;
use wherry_api::{SnapshotId, Time, names};
use wherry_controller::apply::{Applied, apply};
use wherry_controller::glance::Glance;
use wherry_controller::leaks;
use wherry_controller::observe::{self, Memory, View};
use wherry_controller::reconcile::{Limits, Step, Write};
use wherry_controller::sweep;

#[path = "controllers.rs"]
mod controllers;
#[path = "events.rs"]
mod events;

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Old bytes: zero is never assumed.
    Old,
    /// What a storage snapshot holds.
    Clone(String),
    /// Part of what is restored.
    Half,
    /// All of what is restored, fsynced.
    Whole,
}

/// What the driver stores.
#[derive(Debug, Default)]
pub struct Storage {
    /// Handles of storage snapshots.
    pub snapshots: BTreeSet<String>,
    /// By name of the PV.
    pub volumes: BTreeMap<String, Content>,
    /// The driver refuses to delete a snapshot as long as a volume was made from it.
    pub clones_hold: bool,
    /// Contents never become ready.
    pub never_ready: bool,
    /// CreateVolume takes long: what is being made is there when this is taken back, whatever became of its PVC.
    pub slow: bool,
    /// The PV [`TAKEN_VOLUME`](super::scene::TAKEN_VOLUME) came into it.
    pub taken: bool,
    /// PVs that are being made.
    pub making: BTreeMap<Key, Value>,
}

impl Storage {
    /// Whether a volume keeps the snapshot.
    pub fn is_cloned(&self, handle: &str) -> bool {
        self.clones_hold && self.volumes.values().any(|content| *content == Content::Clone(handle.to_owned()))
    }
}

/// What the repository holds.
#[derive(Debug, Default)]
pub struct Repository {
    /// uid of the CR, and its snapshot.
    pub committed: Vec<(String, SnapshotId)>,
}

impl Repository {
    /// The snapshot of a CR.
    pub fn of(&self, uid: &str) -> Option<&SnapshotId> {
        self.committed.iter().find(|(cr, _)| cr == uid).map(|(_, id)| id)
    }
}

/// All the parts of a cluster that are played, in the order of their turns; true: it did something.
pub(super) const OTHERS: [fn(&Server, &mut Storage) -> bool; 8] = [
    |server, _| snapshots::controller(server),
    snapshots::sidecar,
    volumes::provisioner,
    volumes::pv_controller,
    |server, _| volumes::kubelet(server),
    |server, _| volumes::detach(server),
    |server, _| volumes::protection(server),
    |server, _| volumes::garbage(server),
];

/// What others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `spec.cancel`, with a message, by an Update of the whole object.
    Cancel,
    /// The CR is deleted.
    Delete,
    /// The namespace of the source goes, and with it the VolumeSnapshot.
    SourceGone,
    /// The target PVC is deleted.
    TargetGone,
    /// The target PVC is deleted and made anew.
    TargetReplaced,
    /// The target PVC gets another attributes class than any volume has: it is never bound.
    TargetMisfits,
    /// The agent is stopped, and its pod is not ready any more.
    AgentStops,
    /// Node n1 is not ready any more; its pods stay as they are. An hour later it is declared gone.
    NodeLost,
    /// The same, and it is declared gone only when nothing else is left to do, and no time changes anything.
    NodeLostForLong,
    /// Node n1 is not ready any more, and our pods there are taken away by force at once. An hour later it is declared gone.
    NodeLostPodsForced,
    /// Node n1 is deleted, and with it our pods there, before anybody looks.
    NodeDeleted,
    /// Node n1 is drained: it takes no pods any more, ours are deleted, and its agent goes.
    NodeDrained,
    /// Our pods are evicted by their kubelet: they stay, in phase Failed.
    PodFails,
    /// Other hands delete our PVC; while a pod uses it, it stays.
    ClaimGoing,
    /// Other hands delete our pod and our PVC while we look away; of what that leads to, all has come until the
    /// driver has deleted a volume that nothing kept, and the PV is still there.
    ClaimGone,
    /// The namespace of Velero is deleted, and with it all that is ours in it.
    NamespaceGoes,
    /// Other hands take the labels off our PVC and pod.
    LabelsGone,
    /// Whoever may edit Velero's VolumeSnapshot puts a finalizer of theirs on it, and never takes it off.
    SnapshotHeld,
    /// Our PVC, of which no volume was made yet, is bound to a PV that was Available.
    OldVolume,
    /// Somebody writes into the plan.
    PlanBroken,
    /// The setting `datamovers` names another one.
    MoverRenamed,
}

/// An event, once so many writes of ours were made.
#[derive(Debug, Clone, Copy)]
pub struct Trigger {
    /// Writes.
    pub after: usize,
    /// What happens then.
    pub event: Event,
}

/// Changes a decision before it is applied: how faults are planted.
pub type Tamper = fn(&Server, Step) -> Step;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Phase at the end; empty if the CR is gone.
    pub phase: String,
    /// Last phase it had.
    pub last_phase: String,
    /// Writes of controller and agent.
    pub writes: usize,
    /// Reads of the controller, where it is [behind](World::behind).
    pub reads: usize,
    /// What was violated.
    pub violations: Vec<String>,
    /// Decisions, in order, without repetition.
    pub steps: Vec<String>,
}

/// One run.
#[derive(Debug)]
pub struct World {
    /// The API server.
    pub server: Arc<Server>,
    /// The driver.
    pub storage: Storage,
    /// The repository.
    pub repository: Repository,
    /// The agent's process.
    pub agent: AgentProcess,
    /// The CR.
    pub cr: Key,
    settings: BTreeMap<String, String>,
    limits: Limits,
    faults: Arc<Mutex<Faults>>,
    triggers: Vec<Trigger>,
    memory: Memory,
    second: Option<Step>,
    with_second: bool,
    slow: bool,
    /// The controller reads a mirror, as its process does.
    behind: Option<Behind>,
    tamper: Option<Tamper>,
    invariants: Invariants,
    now: Time,
    until: Option<Time>,
    /// When node n1 is declared gone.
    gone_at: Option<Time>,
    steps: Vec<String>,
}

impl World {
    /// A scene before anybody has acted.
    pub fn new(scene: Scene) -> Self {
        Self::on(Server::default(), scene)
    }

    /// The same on that server, which has nothing yet.
    pub fn on(server: Server, scene: Scene) -> Self {
        let server = Arc::new(server);
        let start = server.start();
        server.set_now(start);
        let mut storage = Storage::default();
        let cr = scene.set(&server, &mut storage);
        let settings = BTreeMap::from([("hostingImage".to_owned(), "wherry:test".to_owned())]);
        let limits = Limits::from(&Settings::parse(&settings).unwrap());
        Self {
            invariants: Invariants::new(scene, &server, &cr),
            settings,
            limits,
            faults: Arc::default(),
            triggers: Vec::new(),
            memory: Memory::default(),
            second: None,
            with_second: false,
            slow: false,
            behind: None,
            tamper: None,
            now: start,
            until: None,
            gone_at: None,
            steps: Vec::new(),
            repository: Repository::default(),
            agent: AgentProcess::start("n1"),
            server,
            storage,
            cr,
        }
        .settled()
    }

    /// Settings that differ from what is usual.
    ///
    /// # Panics
    /// When there are no such settings.
    pub fn set(mut self, pairs: &[(&str, &str)]) -> Self {
        self.settings.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.limits = Limits::from(&self.settings());
        self
    }

    fn settings(&self) -> Settings {
        Settings::parse(&self.settings).unwrap()
    }

    /// An upload of a volume of which a base is kept already, and with that setting of `keepBase`.
    pub fn keeping(mut self, keep: &str) -> Self {
        before(&self.server, &mut self.storage);
        self.invariants.keeps = keep == "always";
        self.set(&[("keepBase", keep)]).settled()
    }

    /// What the controller does at its start and once an hour, until nothing changes any more; gives how many bases it dropped.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn sweep(&mut self) -> usize {
        let mut dropped = 0;
        loop {
            let api = Client::new(&self.server, Who::Controller, None);
            let now_dropped = now(sweep::bases(&api, "velero", &self.settings(), || Ok(()))).unwrap();
            dropped += now_dropped;
            let mut changed = now_dropped > 0;
            while self.others_act() {
                changed = true;
            }
            if !changed {
                return dropped;
            }
        }
    }

    /// Somebody tears the finalizers off the CR and deletes it: nobody removes anything for it any more.
    pub fn lose_cr(&mut self) {
        self.server.patch(Who::Velero, &self.cr, &json!({ "metadata": { "finalizers": null } }));
        self.server.delete(Who::Velero, &self.cr);
        while self.others_act() {}
    }

    /// The other half of a sweep, again and again, until it finds nothing it could do; gives what is left.
    ///
    /// # Panics
    /// When the server does not answer, or there is no end.
    pub fn sweep_leaks(&mut self) -> Vec<Key> {
        for _ in 0..50 {
            let api = Client::new(&self.server, Who::Controller, None);
            let found = now(leaks::leaks(&api, "velero", &self.limits, self.now, || Ok(()))).unwrap();
            self.check();
            let mut changed = found.writes > 0;
            while self.others_act() {
                changed = true;
            }
            if !changed {
                return found.left;
            }
        }
        panic!("no end in sight");
    }

    /// What is to be said of the run at this point, as if it were its end.
    pub fn judged(mut self) -> Outcome {
        self.check();
        self.ended()
    }

    /// Velero makes a CR when what it is about is bound and ready.
    fn settled(mut self) -> Self {
        while self.others_act() {}
        self
    }

    /// The n-th write, from 1, fails.
    pub fn fail(self, n: usize, how: How) -> Self {
        self.faults.lock().fail = Some((n, how));
        self
    }

    /// Something happens after so many writes.
    pub fn at(mut self, after: usize, event: Event) -> Self {
        self.triggers.push(Trigger { after, event });
        self
    }

    /// A second controller acts on what was there one write before.
    pub fn with_second(mut self) -> Self {
        self.with_second = true;
        self
    }

    /// Kubernetes and the CSI side act only when our processes have nothing to do.
    pub fn slow_others(mut self) -> Self {
        self.slow = true;
        self
    }

    /// The controller reads what the watches told, as its process does, and they are so many events behind; they tell more only
    /// when it has nothing to do.
    pub fn behind(mut self, by: usize) -> Self {
        let kinds = [Kind::DataUpload, Kind::DataDownload, Kind::Pod, Kind::Claim, Kind::VolumeSnapshot];
        let all: Vec<_> = kinds.into_iter().flat_map(|kind| self.server.all(kind)).collect();
        self.behind = Some(Behind::new(by, &all));
        self
    }

    /// Plants a fault.
    pub fn tampered(mut self, tamper: Tamper) -> Self {
        self.tamper = Some(tamper);
        self
    }

    /// What is to be seen of the CR now; `None` if it is gone.
    pub fn look(&self) -> Option<View> {
        let api = Client::new(&self.server, Who::Controller, None);
        let memory = Memory { admitted: true, ..self.memory };
        now(observe::look(&api, &self.cr, &self.limits, self.now, memory)).unwrap()
    }

    /// Runs until nothing changes any more.
    pub fn run(mut self) -> Outcome {
        self.look_at_others();
        let mut turns = 0;
        while self.turn() || self.sleep() || self.gone() || self.look_anew() {
            turns += 1;
            if turns == 1000 {
                self.invariants.violations.push("I0: no end in sight".to_owned());
                break;
            }
        }
        self.ended()
    }

    /// Plays everything but the controller, which is a process of its own, until it has nothing of the CR in its hands.
    ///
    /// # Panics
    /// When that takes longer than five minutes.
    pub fn play(self) -> Outcome {
        self.play_with(Self::agent_turn)
    }

    /// The turn of the played agent; true: it did something.
    pub fn agent_turn(&mut self) -> bool {
        self.check();
        self.agent_acts()
    }

    /// The same with another agent than the played one: `kubelet` is called whenever anything was looked at, before it is
    /// judged, and says whether it did anything.
    ///
    /// # Panics
    /// As [`Self::play`].
    pub fn play_with(mut self, mut kubelet: impl FnMut(&mut Self) -> bool) -> Outcome {
        let begin = std::time::Instant::now();
        loop {
            self.server.look(Who::Controller);
            let acted = kubelet(&mut self);
            self.check();
            let acted = acted | self.others_act();
            let cr = self.server.get(&self.cr).unwrap_or_default();
            let ended = ["Completed", "Failed", "Canceled"].contains(&text(&cr, "/status/phase"));
            if !acted && (cr.is_null() || ended && !cr["metadata"]["finalizers"].to_string().contains("wherry.io")) {
                return self.ended();
            }
            let steps = format!("{} after {:?}", text(&cr, "/status/phase"), begin.elapsed());
            assert!(begin.elapsed().as_secs() < 300, "no end in sight: {steps}: {cr:#}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn ended(mut self) -> Outcome {
        let phase = self.server.get(&self.cr).map_or_else(String::new, |cr| text(&cr, "/status/phase").to_owned());
        self.invariants.at_end(&self.server, &self.storage, &self.repository);
        self.invariants.violations.extend(self.server.forgotten());
        let (writes, reads) = {
            let faults = self.faults.lock();
            (faults.writes, faults.reads)
        };
        Outcome {
            last_phase: self.invariants.last_phase.clone(),
            violations: self.invariants.violations,
            writes,
            reads,
            steps: self.steps,
            phase,
        }
    }

    /// What is decided about the CRs that are not ours is done, too.
    fn look_at_others(&mut self) {
        let ours = self.cr.clone();
        for other in others() {
            self.cr = other;
            if let Some(Step::Do(_, write)) = self.look().map(|view| view.next_step()) {
                now(apply(&Client::new(&self.server, Who::Controller, None), &write)).unwrap();
            }
        }
        self.cr = ours;
        self.check();
    }

    /// Everybody acts once; `false`: nobody had anything to do.
    pub fn turn(&mut self) -> bool {
        self.settle();
        let mut changed = self.controller();
        self.settle();
        changed |= self.agent_acts();
        self.settle();
        if self.slow && changed {
            return true;
        }
        self.others_act() | changed
    }

    /// Runs until that many writes of ours are made and nobody else has anything to do.
    pub fn run_to(mut self, writes: usize) -> Self {
        for _ in 0..1000 {
            let before = self.faults.lock().writes;
            let mut changed = before < writes && self.controller();
            self.settle();
            if self.faults.lock().writes < writes {
                changed |= self.agent_acts();
                self.settle();
            }
            if !changed & !self.others_act() {
                break;
            }
        }
        assert_eq!(self.faults.lock().writes, writes);
        self
    }

    fn others_act(&mut self) -> bool {
        let mut changed = false;
        for actor in OTHERS {
            changed |= actor(&self.server, &mut self.storage);
            self.settle();
        }
        changed
    }

    /// Looks at what changed, lets events happen, and lets the second controller act on what was there before.
    fn settle(&mut self) {
        self.check();
        let writes = self.faults.lock().writes;
        while let Some(at) = self.triggers.iter().position(|trigger| trigger.after <= writes) {
            let event = self.triggers.remove(at).event;
            self.happen(event);
            self.check();
        }
        if self.with_second {
            if let Some(Step::Do(_, write)) = self.second.take() {
                let api = Client::new(&self.server, Who::Second, None);
                now(apply(&api, &write)).unwrap();
                self.check();
            }
            self.second = self.decide();
        }
    }

    fn check(&mut self) {
        let changes = self.server.take_changes();
        if let Some(behind) = &mut self.behind {
            behind.happened(&changes);
        }
        self.invariants.after(&changes, &self.server, &self.storage, &self.repository, &self.agent);
    }

    fn agent_acts(&mut self) -> bool {
        let client = Client::new(&self.server, Who::Agent, Some(&self.faults));
        let (storage, repository) = (&mut self.storage, &mut self.repository);
        let process = &mut self.agent;
        match (Turn { client: &client, storage, repository, process }).take() {
            Ok(acted) => acted,
            Err(_) => {
                let silent = self.agent.silent;
                self.agent = AgentProcess { silent, ..AgentProcess::start(self.agent.node) };
                true
            }
        }
    }

    /// Nobody has anything to do now: time passes, if that changes something.
    fn sleep(&mut self) -> bool {
        let until = self.until.filter(|until| *until > self.now);
        if self.gone_at.is_some_and(|gone| until.is_none_or(|until| gone <= until)) {
            self.now = self.now.max(self.gone_at.take().unwrap_or_default());
            self.server.set_now(self.now);
            return self.gone();
        }
        match until {
            Some(until) => {
                self.now = until;
                self.server.set_now(until);
                true
            }
            None => false,
        }
    }

    /// Somebody removes the Node that is lost.
    fn gone(&mut self) -> bool {
        let node = Key::new(Kind::Node, "", "n1");
        let ready = |node: &Value| node["status"]["conditions"][0]["status"] == "True";
        let lost = self.server.get(&node).is_some_and(|node| !ready(&node));
        if lost {
            self.server.delete(Who::System, &node);
        }
        lost
    }

    fn our_pods(&self) -> Vec<Key> {
        let pods = self.server.all(Kind::Pod);
        pods.into_iter().map(|(key, _)| key).filter(|key| key.name.starts_with("wherry-")).collect()
    }

    fn runs_on_n1(&self, pod: &Key) -> bool {
        self.server.get(pod).is_some_and(|pod| text(&pod, "/spec/nodeName") == "n1")
    }

    /// Our pods on node n1 go without a word of its kubelet.
    fn force_pods(&self) {
        for pod in self.our_pods().iter().filter(|pod| self.runs_on_n1(pod)) {
            self.server.delete(Who::System, pod);
            volumes::forget_pod(&self.server, pod);
        }
    }

    /// The PVC of the first attempt.
    fn our_claim(&self) -> Key {
        let cr = self.server.get(&self.cr).unwrap_or_default();
        Key::new(Kind::Claim, "velero", &names::of_attempt(text(&cr, "/metadata/uid"), 1))
    }
}
