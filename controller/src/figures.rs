//! What the loop sees, as metrics and Events: phases and how long they last, what is left over, what is late. Pure but for the
//! registry, which it writes to: times are given.

use crate::admission::Work;
use crate::known::Known;
use crate::last_good::LastGood;
use crate::tell::Said;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wherry_api::api::{Key, Kind};
use wherry_api::events::{DEADLINE_AT_RISK, LEFTOVERS, NO_AGENT, Reason, UNSCHEDULABLE};
use wherry_api::metrics::{self, DOWNLOAD, Registry, UPLOAD};
use wherry_api::{Phase, Settings, Time, names};

/// What is there for so long without a CR that still needs it is left over.
const LEFT: Duration = Duration::from_secs(300);
/// An agent may be replaced, and is back within this time.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);

/// Since when each has been so, without a break.
#[derive(Debug, Default)]
struct Lasting(BTreeMap<Key, Instant>);

impl Lasting {
    /// Those that are so now; gives the ones for which it lasts longer.
    fn now(&mut self, those: &BTreeSet<&Key>, now: Instant, longer: Duration) -> Vec<Key> {
        self.0.retain(|key, _| those.contains(key));
        for key in those {
            self.0.entry((*key).clone()).or_insert(now);
        }
        self.0.iter().filter(|(_, since)| now.duration_since(**since) >= longer).map(|(key, _)| key.clone()).collect()
    }
}

/// The phase of a CR, and since when: `None` if this process did not see it begin.
#[derive(Debug)]
struct Stage {
    uid: String,
    phase: Phase,
    since: Option<Instant>,
}

/// An object that was made for a CR.
#[derive(Debug)]
struct Made {
    /// uid of the CR.
    uid: String,
    /// What the scheduler says of a pod.
    refused: Option<String>,
    /// A kept base, which needs its CR to be there, whatever its phase.
    base: bool,
}

/// What is kept for it.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) registry: Arc<Registry>,
    stages: BTreeMap<Key, Stage>,
    /// What was made for CRs in the namespace of Velero.
    made: BTreeMap<Key, Made>,
    left: Lasting,
    lonely: Lasting,
    /// When the newest CR of each kind that was Completed ended: it stays so when that CR has expired and is gone.
    completed: BTreeMap<&'static str, Time>,
    /// Contents and PVs that the sweep found to be nobody's, and could not remove.
    in_cluster: Arc<AtomicUsize>,
}

/// The value of label `kind`.
pub(crate) fn word(work: Work) -> &'static str {
    if work == Work::Backup { UPLOAD } else { DOWNLOAD }
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

impl Figures {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        let (stages, made) = (BTreeMap::new(), BTreeMap::new());
        let in_cluster = Arc::default();
        let (left, lonely, completed) = (Lasting::default(), Lasting::default(), BTreeMap::new());
        Self { registry, stages, made, left, lonely, completed, in_cluster }
    }

    /// Where the sweep says what is left of the cluster's.
    pub(crate) fn left_in_cluster(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.in_cluster)
    }

    /// A CR as the watch tells of it.
    pub(crate) fn see(&mut self, key: &Key, known: &Known, now: Instant, time: Time) {
        if !known.ours {
            return drop(self.stages.remove(key));
        }
        let before = self.stages.get(key).filter(|stage| stage.uid == known.uid);
        if before.is_some_and(|stage| stage.phase == known.phase) {
            return;
        }
        let kind = word(known.work);
        if let Some(Stage { phase, since, .. }) = before {
            if let Some(since) = since {
                let seconds = now.duration_since(*since).as_secs_f64();
                self.registry.observe(&metrics::PHASE_SECONDS, &[kind, phase.as_str()], seconds);
            }
            if *phase == Phase::New && known.phase == Phase::Accepted {
                let queued = time.0.saturating_sub(known.created.unwrap_or(time).0).max(0);
                self.registry.observe(&metrics::QUEUE_SECONDS, &[kind], queued as f64);
            }
            if !phase.is_terminal() && known.phase.is_terminal() {
                self.registry.add(&metrics::ENDED, &[kind, known.phase.as_str()], 1.0);
            }
        }
        let since = before.map(|_| now);
        let stage = Stage { uid: known.uid.clone(), phase: known.phase.clone(), since };
        self.stages.insert(key.clone(), stage);
    }

    /// A CR that is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.stages.remove(key);
    }

    /// All objects of a kind that were made for CRs.
    pub(crate) fn listed(&mut self, kind: Kind, objects: &[Value]) {
        self.made.retain(|key, _| key.kind != kind);
        objects.iter().for_each(|object| self.made(kind, object));
    }

    /// An object that was made for a CR.
    pub(crate) fn made(&mut self, kind: Kind, object: &Value) {
        let meta = &object["metadata"];
        let uid = meta["labels"][names::CR_UID].as_str().unwrap_or_default().to_owned();
        let base = meta["labels"][names::BASE].is_string() && meta["deletionTimestamp"].is_null();
        self.made.insert(wherry_api::watch::key_of(kind, object), Made { uid, refused: unschedulable(object), base });
    }

    /// It is gone.
    pub(crate) fn unmade(&mut self, kind: Kind, object: &Value) {
        self.made.remove(&wherry_api::watch::key_of(kind, object));
    }

    /// Settings that are in force now, and whether they are what the ConfigMap says.
    pub(crate) fn settings(&self, settings: Option<&Settings>, good: bool) {
        self.registry.set(&metrics::SETTINGS_GOOD, &[], flag(good));
        self.registry.set(&metrics::PAUSED, &[], flag(settings.is_some_and(|settings| settings.pause)));
    }

    /// Nodes whose agent answers.
    pub(crate) fn agents(&self, nodes: &BTreeSet<String>) {
        self.registry.set(&metrics::AGENTS, &[], nodes.len() as f64);
    }

    /// All that is counted anew; gives the Events that are due, each time anew. `agents`: `None` if nobody knows.
    pub(crate) fn count(
        &mut self,
        known: &BTreeMap<Key, Known>,
        settings: &Settings,
        agents: Option<&BTreeSet<String>>,
        now: Instant,
        time: Time,
    ) -> Vec<Said> {
        let ours: BTreeMap<&Key, &Known> = known.iter().filter(|(_, known)| known.ours).collect();
        let needed: BTreeSet<&str> =
            ours.values().filter(|known| !known.phase.is_terminal()).map(|known| known.uid.as_str()).collect();
        let held = ours.iter().filter(|(_, known)| known.phase.is_terminal() && !known.over).map(|(key, _)| *key);
        let there: BTreeSet<&str> = known.values().map(|known| known.uid.as_str()).collect();
        let is_needed = |made: &Made| match made.base {
            true => there.contains(made.uid.as_str()),
            false => needed.contains(made.uid.as_str()),
        };
        let orphans = self.made.iter().filter(|(_, made)| !is_needed(made)).map(|(key, _)| key);
        let left = self.left.now(&held.chain(orphans).collect(), now, LEFT);
        let alone = |known: &Known| match (agents, known.node.as_str()) {
            (None, _) => false,
            (Some(agents), "") => agents.is_empty(),
            (Some(agents), node) => !agents.contains(node),
        };
        let alone = ours.iter().filter(|(_, known)| !known.phase.is_terminal() && alone(known));
        let lonely = self.lonely.now(&alone.map(|(key, _)| *key).collect(), now, AGENT_PATIENCE);
        let late: Vec<Key> =
            ours.iter().filter(|(_, known)| at_risk(known, settings, time)).map(|(key, _)| (*key).clone()).collect();

        let registry = &self.registry;
        registry.set(&metrics::LEFTOVERS, &[], (left.len() + self.in_cluster.load(Ordering::Relaxed)) as f64);
        for (work, kind) in [(Work::Backup, UPLOAD), (Work::Restore, DOWNLOAD)] {
            let of = |key: &&Key| ours.get(*key).is_some_and(|known| known.work == work);
            registry.set(&metrics::AT_RISK, &[kind], late.iter().filter(of).count() as f64);
            registry.set(&metrics::WITHOUT_AGENT, &[kind], lonely.iter().filter(of).count() as f64);
            let mut phases: BTreeMap<&str, u32> = BTreeMap::new();
            for known in ours.values().filter(|known| known.work == work) {
                *phases.entry(known.phase.as_str()).or_default() += 1;
            }
            let others = phases.iter().filter(|(phase, _)| !metrics::CRS.labels[1].values.contains(*phase));
            let others: u32 = others.map(|(_, count)| count).sum();
            for phase in metrics::CRS.labels[1].values {
                let count = if *phase == "other" { others } else { phases.get(phase).copied().unwrap_or_default() };
                registry.set(&metrics::CRS, &[kind, phase], f64::from(count));
            }
        }
        self.count_ends(&ours);

        let mut due = Vec::new();
        let mut say = |key: &Key, reason: Reason, message: String| {
            if let Some(known) = ours.get(key) {
                due.push(Said { about: key.clone(), uid: known.uid.clone(), reason, message });
            }
        };
        for key in &late {
            let timeout = settings.item_timeout.as_secs();
            let text = format!(
                "75 % of the item timeout ({timeout} s) have passed, and it has not ended; then Velero gives up"
            );
            say(key, DEADLINE_AT_RISK, text);
        }
        for key in &lonely {
            let node = ours.get(key).map(|known| known.node.as_str()).unwrap_or_default();
            let place = if node.is_empty() { "on any node".to_owned() } else { format!("on node {node}") };
            say(key, NO_AGENT, format!("no agent answers {place}: look at the pods of DaemonSet wherry-agent"));
        }
        for key in &left {
            let text = "it has ended, and not all that was made for it is gone: see the log of the controller";
            say(key, LEFTOVERS, text.to_owned());
        }
        for (pod, made) in &self.made {
            let Some(refused) = &made.refused else { continue };
            if let Some((key, _)) = ours.iter().find(|(_, known)| known.uid == made.uid && !known.phase.is_terminal()) {
                say(key, UNSCHEDULABLE, format!("no node takes pod {}: {refused}", pod.name));
            }
        }
        due
    }

    fn count_ends(&mut self, ours: &BTreeMap<&Key, &Known>) {
        for known in ours.values().filter(|known| known.phase == Phase::Completed) {
            let Some(ended) = known.ended else { continue };
            let last = self.completed.entry(word(known.work)).or_insert(ended);
            *last = (*last).max(ended);
        }
        let unix = |time: Option<Time>| time.map_or(0, |time| time.0) as f64;
        for kind in [UPLOAD, DOWNLOAD] {
            self.registry.set(&metrics::LAST_COMPLETED, &[kind], unix(self.completed.get(kind).copied()));
        }
        let LastGood { failing, all, tried } = LastGood::of(ours.values().copied());
        self.registry.set(&metrics::FAILING, &[], failing as f64);
        self.registry.set(&metrics::OLDEST_COMPLETED, &[metrics::OF_ALL], unix(all));
        self.registry.set(&metrics::OLDEST_COMPLETED, &[metrics::OF_TRIED], unix(tried));
    }
}

/// Three quarters of the time that Velero waits have passed.
fn at_risk(known: &Known, settings: &Settings, time: Time) -> bool {
    let limit = settings.item_timeout.mul_f64(0.75);
    !known.phase.is_terminal() && known.created.is_some_and(|created| created.after(limit) <= time)
}

/// Why no node takes a pod, in the words of the scheduler.
pub(crate) fn unschedulable(object: &Value) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let is = |condition: &&Value| condition["type"] == "PodScheduled" && condition["reason"] == "Unschedulable";
    conditions.iter().find(is)?["message"].as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wherry_api::metrics::By;

    const CREATED: i64 = 1_767_225_600;

    fn cr(uid: &str, phase: &str, node: &str) -> Value {
        let finalizers = if phase == "New" { json!([]) } else { json!([names::FINALIZER]) };
        json!({
            "metadata": {
                "name": uid, "namespace": "velero", "uid": uid, "resourceVersion": "7", "finalizers": finalizers,
                "creationTimestamp": Time(CREATED),
            },
            "spec": { "datamover": "wherry", "sourceNamespace": "app", "sourcePVC": "data" },
            "status": { "phase": phase, "node": node },
        })
    }

    /// What the loop would keep, and what comes of it.
    struct Stand {
        figures: Figures,
        known: BTreeMap<Key, Known>,
        settings: Settings,
        begin: Instant,
    }

    impl Stand {
        fn new() -> Self {
            let figures = Figures::new(Arc::new(Registry::new(By::Controller)));
            let settings = Settings::parse(&BTreeMap::new()).unwrap();
            Self { figures, known: BTreeMap::new(), settings, begin: Instant::now() }
        }

        fn see(&mut self, object: Value, seconds: u64) -> Key {
            let key = wherry_api::watch::key_of(Kind::DataUpload, &object);
            let limits = crate::reconcile::Limits::from(&self.settings);
            let mut known = Known::of(Kind::DataUpload, object);
            known.judge(&limits);
            let (now, time) = (self.begin + Duration::from_secs(seconds), Time(CREATED + seconds as i64));
            self.figures.see(&key, &known, now, time);
            self.known.insert(key.clone(), known);
            key
        }

        /// The reasons of all Events that are due after so many seconds.
        fn due(&mut self, agents: &[&str], seconds: u64) -> Vec<&'static str> {
            let agents = agents.iter().map(|node| (*node).to_owned()).collect();
            let (now, time) = (self.begin + Duration::from_secs(seconds), Time(CREATED + seconds as i64));
            let Self { figures, known, settings, .. } = self;
            figures.count(known, settings, Some(&agents), now, time).iter().map(|said| said.reason.word).collect()
        }

        #[track_caller]
        fn has(&self, line: &str) {
            let text = self.figures.registry.print();
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_kept_base_is_left_over_without_its_upload_alone() {
        let mut stand = Stand::new();
        let mut ended = cr("a", "Completed", "n1");
        ended["metadata"]["finalizers"] = json!([]);
        let key = stand.see(ended, 0);
        let mut base = json!({ "metadata": {
            "name": "wherry-a", "namespace": "velero", "labels": { names::CR_UID: "a", names::BASE: "p" },
        } });
        stand.figures.made(Kind::VolumeSnapshot, &base);
        for seconds in [0, 400] {
            assert_eq!(stand.due(&["n1"], seconds), Vec::<&str>::new());
            stand.has("wherry_leftovers 0");
        }
        base["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        stand.figures.made(Kind::VolumeSnapshot, &base);
        stand.due(&["n1"], 500);
        stand.due(&["n1"], 801);
        stand.has("wherry_leftovers 1");
        base["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
        stand.figures.made(Kind::VolumeSnapshot, &base);
        stand.due(&["n1"], 900);
        stand.has("wherry_leftovers 0");
        stand.known.remove(&key);
        stand.due(&["n1"], 1000);
        stand.due(&["n1"], 1301);
        stand.has("wherry_leftovers 1");
        // Of the cluster, as the sweep says it.
        stand.figures.left_in_cluster().store(2, Ordering::Relaxed);
        stand.due(&["n1"], 1302);
        stand.has("wherry_leftovers 3");
    }

    #[test]
    fn phases_are_counted_and_timed() {
        let mut stand = Stand::new();
        for (phase, seconds) in [("New", 0), ("Accepted", 40), ("Prepared", 50), ("InProgress", 60), ("Completed", 360)]
        {
            stand.see(cr("a", phase, "n1"), seconds);
            stand.see(cr("a", phase, "n1"), seconds + 1);
        }
        // This one was under way before this process: nobody knows since when.
        stand.see(cr("b", "InProgress", "n1"), 0);
        stand.see(cr("b", "Failed", "n1"), 100);
        stand.see(cr("c", "of later", "n1"), 0);
        assert_eq!(stand.due(&["n1"], 400), Vec::<&str>::new());
        stand.has("wherry_queue_seconds_sum{kind=\"upload\"} 40");
        stand.has("wherry_queue_seconds_count{kind=\"upload\"} 1");
        stand.has("wherry_phase_seconds_sum{kind=\"upload\",phase=\"Accepted\"} 10");
        stand.has("wherry_phase_seconds_sum{kind=\"upload\",phase=\"InProgress\"} 300");
        stand.has("wherry_phase_seconds_count{kind=\"upload\",phase=\"InProgress\"} 1");
        stand.has("wherry_crs_ended_total{kind=\"upload\",result=\"Completed\"} 1");
        stand.has("wherry_crs_ended_total{kind=\"upload\",result=\"Failed\"} 1");
        stand.has("wherry_crs{kind=\"upload\",phase=\"Completed\"} 1");
        stand.has("wherry_crs{kind=\"upload\",phase=\"InProgress\"} 0");
        stand.has("wherry_crs{kind=\"upload\",phase=\"other\"} 1");
        stand.has("wherry_crs{kind=\"download\",phase=\"New\"} 0");
    }

    #[test]
    fn what_nobody_needs_any_more_is_left_over_after_a_while() {
        let mut stand = Stand::new();
        let pod =
            |uid: &str| json!({ "metadata": { "name": uid, "namespace": "velero", "labels": { names::CR_UID: uid } } });
        stand.see(cr("a", "InProgress", "n1"), 0);
        stand.figures.listed(Kind::Pod, &[pod("a"), pod("gone")]);
        assert_eq!(stand.due(&["n1"], 0), Vec::<&str>::new());
        stand.has("wherry_leftovers 0");
        stand.due(&["n1"], 299);
        stand.has("wherry_leftovers 0");
        stand.due(&["n1"], 300);
        stand.has("wherry_leftovers 1");
        // What was there for a moment only does not count.
        stand.figures.unmade(Kind::Pod, &pod("gone"));
        stand.due(&["n1"], 310);
        stand.has("wherry_leftovers 0");
        stand.figures.made(Kind::Pod, &pod("gone"));
        stand.due(&["n1"], 400);
        stand.has("wherry_leftovers 0");
        // Of one that has ended its pod and itself, which still has the finalizer.
        stand.see(cr("a", "Failed", "n1"), 400);
        assert_eq!(stand.due(&["n1"], 400), Vec::<&str>::new());
        assert_eq!(stand.due(&["n1"], 700), ["Leftovers"]);
        stand.has("wherry_leftovers 3");
    }

    #[test]
    fn late_ones_and_those_without_an_agent_are_told() {
        let mut stand = Stand::new();
        let timeout = stand.settings.item_timeout.as_secs();
        let key = stand.see(cr("a", "InProgress", "n1"), 0);
        assert_eq!(stand.due(&["n1"], timeout * 3 / 4 - 1), Vec::<&str>::new());
        stand.has("wherry_crs_deadline_at_risk{kind=\"upload\"} 0");
        assert_eq!(stand.due(&["n1"], timeout * 3 / 4), ["DeadlineAtRisk"]);
        stand.has("wherry_crs_deadline_at_risk{kind=\"upload\"} 1");

        let mut stand = Stand::new();
        stand.see(cr("a", "InProgress", "n1"), 0);
        assert_eq!(stand.due(&["n2"], 10), Vec::<&str>::new());
        assert_eq!(stand.due(&["n2"], 130), ["NoAgent"]);
        stand.has("wherry_crs_without_agent{kind=\"upload\"} 1");
        assert_eq!(stand.due(&["n1", "n2"], 140), Vec::<&str>::new());
        stand.has("wherry_crs_without_agent{kind=\"upload\"} 0");
        // On no node yet, any agent will do.
        stand.see(cr("a", "New", ""), 140);
        stand.due(&["n2"], 140);
        assert_eq!(stand.due(&["n2"], 1000), Vec::<&str>::new());
        stand.due(&[], 1000);
        assert_eq!(stand.due(&[], 1120), ["NoAgent"]);
        stand.figures.forget(&key);
    }

    #[test]
    fn a_pod_that_no_node_takes_is_told_in_the_words_of_the_scheduler() {
        let mut stand = Stand::new();
        stand.see(cr("a", "Accepted", ""), 0);
        let pod = json!({
            "metadata": { "name": "wherry-a-1", "namespace": "velero", "labels": { names::CR_UID: "a" } },
            "status": { "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "exceed max volume count",
            }] },
        });
        stand.figures.made(Kind::Pod, &pod);
        let Stand { figures, known, settings, begin } = &mut stand;
        let said = figures.count(known, settings, None, *begin, Time(CREATED));
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].message, "no node takes pod wherry-a-1: exceed max volume count");
    }

    #[test]
    fn a_volume_fails_when_its_newest_upload_did() {
        let mut stand = Stand::new();
        let ended = |uid: &str, phase: &str, pvc: &str, at: i64| {
            let mut object = cr(uid, phase, "n1");
            object["status"]["completionTimestamp"] = json!(Time(at));
            object["spec"]["sourcePVC"] = json!(pvc);
            object
        };
        stand.see(ended("a", "Failed", "data", 10), 0);
        stand.see(ended("b", "Completed", "data", 20), 0);
        stand.see(ended("c", "Completed", "logs", 30), 0);
        stand.see(ended("d", "Failed", "logs", 40), 0);
        stand.see(ended("e", "Canceled", "data", 50), 0);
        stand.see(ended("f", "Failed", "www", 5), 0);
        stand.see(ended("g", "Completed", "www", 6), 0);
        stand.due(&["n1"], 1);
        // Of `data` the newest was canceled, of `logs` it failed.
        stand.has("wherry_volumes_failing 2");
        stand.has("wherry_oldest_completed_timestamp_seconds{of=\"all\"} 6");
        // They were created after all that ended at such times.
        stand.has("wherry_oldest_completed_timestamp_seconds{of=\"tried\"} 6");
        stand.has("wherry_last_completed_timestamp_seconds{kind=\"upload\"} 30");
        stand.has("wherry_last_completed_timestamp_seconds{kind=\"download\"} 0");
        // Their backups have expired, and they with them: what is too old does not get young by that.
        stand.known.clear();
        stand.due(&["n1"], 2);
        stand.has("wherry_volumes_failing 0");
        stand.has("wherry_oldest_completed_timestamp_seconds{of=\"all\"} 0");
        stand.has("wherry_oldest_completed_timestamp_seconds{of=\"tried\"} 0");
        stand.has("wherry_last_completed_timestamp_seconds{kind=\"upload\"} 30");
    }
}
