//! The loop: what is seen of CRs and hosting pods, what is begun and ended because of it.

use super::Agent;
use super::begun;
use super::job::{self, Handle, word};
use super::verdict::{Task, Verdict, Why, verdict};
use crate::signals::Cancel;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use wherry_api::api::{Api, Key, Kind};
use wherry_api::health::Beat;
use wherry_api::metrics::MOVING;
use wherry_api::settings::CONFIG_MAP;
use wherry_api::watch::{Seen, Selection, follow, key_of};
use wherry_api::{Time, names};

/// The loop turns at least this often: a signal is heeded, and what was put off is looked at.
const TURN: Duration = Duration::from_millis(500);
/// The ConfigMap is read this often.
const RELOAD: Duration = Duration::from_secs(60);
/// A CR whose work has just ended is left alone so long: what was written of it has to come back first.
const PAUSE: Duration = Duration::from_secs(2);
/// What is under way gets so long to let go at the end; the grace period of the pod (120 s) is longer.
const GRACE: Duration = Duration::from_secs(60);
/// Packs that were begun get so long of it: at 16 MiB/s as many as fit into 1 GiB of memory. Volumes are let go before that.
const SEALS: Duration = Duration::from_secs(50);

/// What is followed, each kind with a label selector.
const FOLLOWED: [Kind; 3] = [Kind::DataUpload, Kind::DataDownload, Kind::Pod];

/// Work under way.
struct Running {
    task: Task,
    handle: Handle,
}

struct Loop {
    agent: Arc<Agent>,
    objects: BTreeMap<Key, Value>,
    listed: BTreeSet<Kind>,
    /// By uid of the CR.
    running: BTreeMap<String, Running>,
    paused: BTreeMap<String, Instant>,
    ended: UnboundedSender<String>,
}

/// Runs until `stop` is asked for and all that was under way has let go.
pub(super) async fn run(agent: Arc<Agent>, beat: Option<Arc<Beat>>, stop: Cancel) {
    let (to, mut seen) = unbounded_channel();
    let (ended, mut has_ended) = unbounded_channel();
    let mut watches = JoinSet::new();
    for kind in FOLLOWED {
        let label = match kind {
            Kind::Pod => names::CR_UID.to_owned(),
            _ => format!("{}={}", names::NODE, names::node_label(&agent.node)),
        };
        let of = Selection { kind, namespace: agent.around.namespace.clone(), label, name: String::new() };
        watches.spawn(follow(agent.around.api.clone(), of, None, to.clone()));
    }
    let mut this = Loop {
        agent,
        objects: BTreeMap::new(),
        listed: BTreeSet::new(),
        running: BTreeMap::new(),
        paused: BTreeMap::new(),
        ended,
    };
    let mut reload = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= reload {
            reload = Instant::now() + RELOAD;
            let agent = Arc::clone(&this.agent);
            tokio::spawn(async move {
                match agent.around.api.get(&Key::new(Kind::ConfigMap, &agent.around.namespace, CONFIG_MAP)).await {
                    Ok(map) => agent.take_settings(map.as_ref()),
                    Err(e) => tracing::warn!("{e}"),
                }
                agent.look_for_key().await;
            });
        }
        if this.agent.settings.lock().is_none() || this.agent.around.is_key_missing() {
            // Not yet, or something is wrong; asked again soon.
            reload = reload.min(Instant::now() + Duration::from_secs(5));
        }
        tokio::select! {
            what = seen.recv() => if let Some(what) = what {
                this.see(what);
                // All that has come together is looked at together.
                while let Ok(what) = seen.try_recv() {
                    this.see(what);
                }
            },
            // Each of them goes on for ever. One that does not leaves the agent deaf.
            _ = watches.join_next() => {
                tracing::error!("what changes is not told any more: the process ends, and is started again");
                break;
            }
            uid = has_ended.recv() => if let Some(uid) = uid { this.over(&uid) },
            () = tokio::time::sleep(TURN) => {}
        }
        this.look();
        if let Some(beat) = &beat {
            beat.beat(this.is_ready());
        }
    }
    tracing::info!(under_way = this.running.len(), "ends: what is under way lets go, and the next agent goes on");
    this.agent.leaving.store(true, Ordering::SeqCst);
    this.running.values().for_each(|running| running.handle.leave(SEALS));
    let end = tokio::time::Instant::now() + GRACE;
    while !this.running.is_empty() {
        match tokio::time::timeout_at(end, has_ended.recv()).await {
            Ok(Some(uid)) => this.over(&uid),
            _ => return tracing::warn!("some work did not let go in time: its session is ended by whoever goes on"),
        }
    }
}

impl Loop {
    /// All that there is was seen, and there are settings.
    fn is_ready(&self) -> bool {
        self.listed.len() == FOLLOWED.len() && self.agent.settings.lock().is_some()
    }

    fn see(&mut self, what: Seen) {
        match what {
            Seen::Listed(kind, objects) => {
                self.objects.retain(|key, _| key.kind != kind);
                self.objects.extend(objects.into_iter().map(|object| (key_of(kind, &object), object)));
                self.listed.insert(kind);
                self.sweep();
            }
            Seen::Changed(kind, object) => drop(self.objects.insert(key_of(kind, &object), object)),
            Seen::Gone(kind, object) => drop(self.objects.remove(&key_of(kind, &object))),
        }
    }

    fn over(&mut self, uid: &str) {
        if let Some(Running { task, .. }) = self.running.remove(uid) {
            self.agent.around.metrics.add(&MOVING, &[word(task.kind)], -1.0);
        }
        self.sweep();
        self.paused.insert(uid.to_owned(), Instant::now() + PAUSE);
    }

    /// Marks of downloads that are not this node's any more go.
    fn sweep(&self) {
        if self.is_ready() {
            let crs = self.objects.iter().filter(|(key, _)| key.kind == Kind::DataDownload);
            begun::sweep(&self.agent.state_dir, crs.map(|(_, cr)| cr));
        }
    }

    fn decide(&self, key: &Key, cr: &Value) -> Verdict {
        let namespace = &self.agent.around.namespace;
        verdict(&self.agent.node, key.kind, cr, |name| self.objects.get(&Key::new(Kind::Pod, namespace, name)))
    }

    /// Ends what is to end, and begins what is to begin.
    fn look(&mut self) {
        if !self.is_ready() {
            return;
        }
        let now = Instant::now();
        self.paused.retain(|_, until| *until > now);
        let crs = self.objects.iter().filter(|(key, _)| key.kind != Kind::Pod);
        let mut verdicts: Vec<(Turn, Verdict)> = crs.map(|(key, cr)| (turn(cr), self.decide(key, cr))).collect();
        for (uid, running) in &self.running {
            let Running { task, handle } = running;
            match verdicts.iter().find(|((_, of), _)| of == uid).map(|(_, verdict)| verdict) {
                Some(Verdict::Move(found)) if found == task => {}
                // Another pod or attempt: its turn comes when this one has let go.
                Some(Verdict::Move(_)) | Some(Verdict::Leave(Why::PodGoes)) => handle.end(Why::PodGoes),
                Some(Verdict::Cancel(_)) => handle.end(Why::Canceled),
                Some(Verdict::Leave(why)) => handle.end(*why),
                None => handle.end(Why::Over),
            }
        }
        let slots = self.agent.slots(self.running.is_empty());
        verdicts.sort_by(|(a, _), (b, _)| a.cmp(b));
        for ((_, uid), verdict) in verdicts {
            let task = match verdict {
                Verdict::Move(task) if self.running.len() < slots => task,
                // It takes no memory.
                Verdict::Cancel(task) => task,
                _ => continue,
            };
            if !self.running.contains_key(&uid) && !self.paused.contains_key(&uid) {
                self.begin(task);
            }
        }
    }

    fn begin(&mut self, task: Task) {
        let handle = Handle::default();
        let (agent, ended) = (Arc::clone(&self.agent), self.ended.clone());
        let (of_thread, to_end) = (task.clone(), handle.clone());
        let work = move || {
            // Told also where the work panics.
            let _told = Told(of_thread.uid.clone(), ended);
            // Whatever is logged for it, in whichever thread, has its name.
            let _span = tracing::info_span!("job", cr = %of_thread.name).entered();
            job::run(&agent, &of_thread, &to_end);
        };
        match std::thread::Builder::new().name(format!("job {}", task.name)).spawn(work) {
            Ok(_) => {
                self.agent.around.metrics.add(&MOVING, &[word(task.kind)], 1.0);
                self.running.insert(task.uid.clone(), Running { task, handle });
            }
            Err(e) => {
                tracing::error!(cr = %task.name, "no thread can be started: {e}");
                self.paused.insert(task.uid, Instant::now() + PAUSE);
            }
        }
    }
}

/// Whose turn comes first where there are fewer slots than volumes: the deadline runs from the creation, so that of the oldest; then
/// by uid. One whose creation cannot be read is the last.
type Turn = ((bool, Option<Time>), String);

pub(crate) fn turn(cr: &Value) -> Turn {
    let created = cr["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    ((created.is_none(), created), cr["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

/// Says that work has ended, however it did.
struct Told(String, UnboundedSender<String>);

impl Drop for Told {
    fn drop(&mut self) {
        // Nobody listens any more: the process ends.
        let _ = self.1.send(self.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_has_the_first_turn_whatever_its_uid_is() {
        let cr = |uid: &str, created: &str| json!({ "metadata": { "uid": uid, "creationTimestamp": created } });
        let crs = [
            cr("a", "2026-11-22T18:42:56Z"),
            cr("b", "junk"),
            cr("d", "2026-11-22T09:42:56Z"),
            cr("c", "2026-11-22T18:42:56Z"),
            cr("e", "2025-12-31T23:59:59Z"),
        ];
        let mut turns: Vec<Turn> = crs.iter().map(turn).collect();
        turns.sort();
        let uids: Vec<&str> = turns.iter().map(|(_, uid)| uid.as_str()).collect();
        assert_eq!(uids, ["e", "d", "a", "c", "b"]);
    }
}
