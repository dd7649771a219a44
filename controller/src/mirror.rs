//! What the watches told of the objects that are followed: the CRs of ours that are not over, and the pods, PVCs and
//! VolumeSnapshots with our label in the namespace of Velero. Looks read it instead of asking the server again and again.
//!
//! It is behind the server by any number of events. So what it has may be out of date, and what it has not may be there all the
//! same: a write that rests on it is guarded by uid and resourceVersion as all are, and what cannot be taken back rests on a
//! look at the server ([`crate::glance`]).
//!
//! Objects are kept as text, a few KiB each; those of CRs that are over are not kept.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};
use wherry_api::api::{Key, Kind};
use wherry_api::names;
use wherry_api::watch::key_of;

/// Of so many objects that are gone the last version is remembered: an answer to a write of ours that comes later than the event
/// must not bring one back.
const GONE: usize = 512;

/// The kinds that a mirror may have.
#[must_use]
pub fn is_followed(kind: Kind) -> bool {
    matches!(kind, Kind::DataUpload | Kind::DataDownload | Kind::Pod | Kind::Claim | Kind::VolumeSnapshot)
}

/// `metadata.resourceVersion`, as a number: of one object a later version has a larger one. Kubernetes says so of all built-in
/// kinds and CRs since 1.35; before, etcd's revisions were it.
fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Of all that a decision may rest on: not the version, nor, of what was made for a CR, the finalizers, which change with each
/// step of others.
fn print(object: &Value, is_cr: bool) -> u64 {
    let mut print = DefaultHasher::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| field == "metadata") {
            Some(meta) => {
                for (field, value) in meta {
                    match field.as_str() {
                        "resourceVersion" | "managedFields" | "generation" | "deletionGracePeriodSeconds" => {}
                        "finalizers" if !is_cr => {}
                        // When is nobody's business.
                        "deletionTimestamp" => "going".hash(&mut print),
                        _ => (field, value.to_string()).hash(&mut print),
                    }
                }
            }
            None => (field, value.to_string()).hash(&mut print),
        }
    }
    print.finish()
}

#[derive(Debug)]
struct Kept {
    text: Box<str>,
    version: Option<u64>,
    print: u64,
    /// uid of the CR that it was made for; empty for a CR.
    cr: Box<str>,
}

impl Kept {
    fn of(object: &Value) -> Self {
        let cr = object["metadata"]["labels"][names::CR_UID].as_str().unwrap_or_default();
        let print = print(object, cr.is_empty());
        Self { text: object.to_string().into(), version: version(object), print, cr: cr.into() }
    }

    fn object(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Whether what is known is not older than that.
    fn is_as_new(&self, version: Option<u64>) -> bool {
        matches!((self.version, version), (Some(known), Some(version)) if known >= version)
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Kept>,
    /// Kinds of which all was told once.
    listed: BTreeSet<Kind>,
    gone: BTreeMap<Key, u64>,
    gone_order: VecDeque<Key>,
    /// What is of no CR alone, and changes seldom: read by many looks within a short time.
    shared: BTreeMap<(Kind, String), (Instant, Vec<Value>)>,
}

impl State {
    fn forget(&mut self, key: &Key, version: Option<u64>) {
        self.objects.remove(key);
        let Some(version) = version else { return };
        if self.gone.insert(key.clone(), version).is_none() {
            self.gone_order.push_back(key.clone());
        }
        while self.gone_order.len() > GONE {
            if let Some(oldest) = self.gone_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
    }

    /// `true`: it is news.
    fn put(&mut self, key: Key, object: &Value) -> bool {
        let kept = Kept::of(object);
        let is_gone = matches!((self.gone.get(&key), kept.version), (Some(gone), Some(version)) if *gone >= version);
        if is_gone || self.objects.get(&key).is_some_and(|known| known.is_as_new(kept.version)) {
            return false;
        }
        let print = kept.print;
        self.objects.insert(key, kept).is_none_or(|before| before.print != print)
    }
}

/// The objects, shared by the loop, which is told of them, and its workers, which look.
#[derive(Debug, Default)]
pub struct Mirror {
    state: Mutex<State>,
}

impl Mirror {
    /// All objects of a kind. CRs that are over are left out by whoever tells of them.
    ///
    /// It is taken as it is: versions of a server that was put back (etcd restored) are smaller than those known, and what is
    /// newer than the list is told by the events after it.
    pub fn listed(&self, kind: Kind, objects: &[Value]) {
        let mut state = self.state.lock();
        state.objects.retain(|key, _| key.kind != kind);
        state.gone.retain(|key, _| key.kind != kind);
        state.gone_order.retain(|key| key.kind != kind);
        state.listed.insert(kind);
        state.objects.extend(objects.iter().map(|object| (key_of(kind, object), Kept::of(object))));
    }

    /// One is new or has changed, by an event or by the answer to a write of ours. `true`: in a way that a decision may rest on.
    pub fn changed(&self, kind: Kind, object: &Value) -> bool {
        self.state.lock().put(key_of(kind, object), object)
    }

    /// One is gone; this is what it was at last.
    pub fn gone(&self, kind: Kind, object: &Value) {
        self.state.lock().forget(&key_of(kind, object), version(object));
    }

    /// A CR is gone, or over.
    pub fn forget(&self, key: &Key) {
        self.state.lock().objects.remove(key);
    }

    /// We have deleted one: until the watch says more, it is going.
    pub fn deleted(&self, key: &Key) {
        let mut state = self.state.lock();
        let Some(kept) = state.objects.get_mut(key) else { return };
        let mut object = kept.object();
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
            *kept = Kept::of(&object);
        }
    }

    /// All of a kind was told once.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.state.lock().listed.contains(&kind)
    }

    /// One object. `None`: it is not known, which does not mean that it is not there.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.state.lock().objects.get(key).map(Kept::object)
    }

    /// The objects of a kind with these labels. `None`: they cannot be told from here.
    #[must_use]
    pub fn list(&self, kind: Kind, namespace: &str, labels: &[(&str, &str)]) -> Option<Vec<Value>> {
        let state = self.state.lock();
        if !state.listed.contains(&kind) {
            return None;
        }
        // Only what has our label is followed: another one says nothing of those without it, but for the mark of a base, which
        // has both.
        let cr = labels.iter().find_map(|(label, value)| (*label == names::CR_UID).then_some(*value));
        if cr.is_none() && !labels.iter().any(|(label, _)| *label == names::BASE) {
            return None;
        }
        let first = Key { kind, namespace: namespace.to_owned(), name: String::new() };
        let of_kind =
            state.objects.range(first..).take_while(|(key, _)| key.kind == kind && key.namespace == namespace);
        let of_cr = of_kind.filter(|(_, kept)| cr.is_none_or(|cr| *kept.cr == *cr)).map(|(_, kept)| kept.object());
        let fits = |object: &Value| labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == *value);
        Some(of_cr.filter(fits).collect())
    }

    /// What was read by some look not longer ago than that.
    #[must_use]
    pub fn shared(&self, kind: Kind, what: &str, age: Duration) -> Option<Vec<Value>> {
        let state = self.state.lock();
        let (since, objects) = state.shared.get(&(kind, what.to_owned()))?;
        (since.elapsed() < age).then(|| objects.clone())
    }

    /// Lets other looks read it, too. What is older than any of them asks for goes.
    pub fn share(&self, kind: Kind, what: &str, objects: &[Value], oldest: Duration) {
        let mut state = self.state.lock();
        state.shared.retain(|_, (since, _)| since.elapsed() < oldest);
        state.shared.insert((kind, what.to_owned()), (Instant::now(), objects.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, version: u64, phase: &str) -> Value {
        json!({
            "metadata": {
                "name": name, "namespace": "velero", "resourceVersion": version.to_string(), "labels": { names::CR_UID: "u" },
            },
            "status": { "phase": phase },
        })
    }

    fn phase(mirror: &Mirror, name: &str) -> Option<String> {
        let object = mirror.get(&Key::new(Kind::Pod, "velero", name))?;
        Some(object["status"]["phase"].as_str().unwrap().to_owned())
    }

    #[test]
    fn nothing_older_takes_the_place_of_what_is_known() {
        let mirror = Mirror::default();
        assert!(mirror.changed(Kind::Pod, &pod("a", 9, "Pending")));
        assert!(mirror.changed(Kind::Pod, &pod("a", 10, "Running")));
        // As numbers: a text of 9 is larger than one of 10.
        assert!(!mirror.changed(Kind::Pod, &pod("a", 9, "Pending")));
        assert_eq!(phase(&mirror, "a").as_deref(), Some("Running"));
    }

    /// etcd was restored: all versions are smaller, and what was deleted since is there again.
    #[test]
    fn a_list_takes_the_place_of_all_that_is_known_of_its_kind() {
        let mirror = Mirror::default();
        let claim = |mirror: &Mirror| mirror.get(&Key::new(Kind::Claim, "velero", "c"));
        mirror.changed(Kind::Pod, &pod("a", 10, "Running"));
        mirror.gone(Kind::Pod, &pod("b", 12, "Running"));
        mirror.changed(Kind::Claim, &pod("c", 11, "Bound"));
        mirror.listed(Kind::Pod, &[pod("b", 4, "Pending"), pod("a", 8, "Pending")]);
        assert_eq!(phase(&mirror, "a").as_deref(), Some("Pending"));
        assert_eq!(phase(&mirror, "b").as_deref(), Some("Pending"));
        assert!(mirror.changed(Kind::Pod, &pod("b", 5, "Running")));
        mirror.listed(Kind::Pod, &[]);
        assert_eq!(phase(&mirror, "a"), None);
        assert!(mirror.changed(Kind::Pod, &pod("b", 5, "Running")));
        assert!(claim(&mirror).is_some());
    }

    /// The answer to a write comes after the event that says that the object is gone.
    #[test]
    fn what_is_gone_does_not_come_back_by_a_late_answer() {
        let mirror = Mirror::default();
        mirror.gone(Kind::Pod, &pod("a", 12, "Running"));
        assert!(!mirror.changed(Kind::Pod, &pod("a", 10, "Pending")));
        assert_eq!(phase(&mirror, "a"), None);
        // One of that name that was made since.
        assert!(mirror.changed(Kind::Pod, &pod("a", 13, "Pending")));
        for n in 0..2 * GONE {
            mirror.gone(Kind::Pod, &pod(&n.to_string(), 20, "Running"));
        }
        assert_eq!(mirror.state.lock().gone.len(), GONE);
    }

    #[test]
    fn what_is_no_news_wakes_nobody() {
        let mirror = Mirror::default();
        assert!(mirror.changed(Kind::Pod, &pod("a", 1, "Pending")));
        let mut held = pod("a", 2, "Pending");
        held["metadata"]["finalizers"] = json!(["x"]);
        assert!(!mirror.changed(Kind::Pod, &held));
        // The version counts for the next write all the same.
        assert_eq!(mirror.get(&key_of(Kind::Pod, &held)), Some(held));
        let mut going = pod("a", 3, "Pending");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(mirror.changed(Kind::Pod, &going));
        assert!(mirror.changed(Kind::Pod, &pod("a", 4, "Running")));
    }

    #[test]
    fn only_what_is_followed_is_told() {
        let mirror = Mirror::default();
        let ours = [(names::CR_UID, "u")];
        assert_eq!(mirror.list(Kind::Pod, "velero", &ours), None);
        let mut other = pod("b", 2, "Pending");
        other["metadata"]["labels"][names::CR_UID] = json!("v");
        mirror.listed(Kind::Pod, &[pod("a", 1, "Pending"), other]);
        assert_eq!(mirror.list(Kind::Pod, "velero", &ours).unwrap().len(), 1);
        assert_eq!(mirror.list(Kind::Pod, "velero", &[(names::CR_UID, "w")]), Some(Vec::new()));
        // Agents have no such label.
        assert_eq!(mirror.list(Kind::Pod, "velero", &[(names::AGENT_LABEL, "true")]), None);
        assert_eq!(mirror.list(Kind::Pod, "velero", &[]), None);
    }

    #[test]
    fn what_we_deleted_is_going() {
        let mirror = Mirror::default();
        mirror.changed(Kind::Pod, &pod("a", 1, "Running"));
        let key = Key::new(Kind::Pod, "velero", "a");
        mirror.deleted(&key);
        assert!(mirror.get(&key).unwrap()["metadata"]["deletionTimestamp"].is_string());
        mirror.gone(Kind::Pod, &pod("a", 2, "Running"));
        mirror.deleted(&key);
        assert_eq!(mirror.get(&key), None);
    }
}
