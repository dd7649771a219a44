//! Backups that were seen in phase Deleting: kept in a ConfigMap, as soon afterwards there is nothing left to see.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, guarded};
use wherry_api::job::DELETING;
use wherry_api::{Time, names};

/// For so long: by then a snapshot of a backup that is gone is forgotten, seen or not.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// No more of them, the newest: each takes about a hundred bytes, managed fields included, and the API takes 1 MiB of data and 1.5 MiB of a request.
/// One that had no room goes as one that nobody saw deleted: when it has expired, or 14 days after it is gone.
const MOST: usize = 6000;

/// What was seen, and is not written yet.
#[derive(Debug, Default)]
pub(crate) struct Deleting {
    /// By uid.
    seen: BTreeMap<String, Time>,
    /// Of those it is in the ConfigMap.
    written: BTreeMap<String, Time>,
}

impl Deleting {
    /// A Backup as it is now.
    pub(crate) fn see(&mut self, backup: &Value, now: Time) {
        let uid = backup["metadata"]["uid"].as_str().unwrap_or_default();
        if backup["status"]["phase"] == "Deleting" && !uid.is_empty() && !self.written.contains_key(uid) {
            self.seen.entry(uid.to_owned()).or_insert(now);
        }
    }

    /// Whether there is something to be written.
    pub(crate) fn is_due(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Writes what was seen, and strikes out what is old.
    ///
    /// # Errors
    /// Those of the API; what was seen is kept for the next time.
    pub(crate) async fn write(&mut self, api: &impl Api, namespace: &str, now: Time) -> Result<(), ApiError> {
        let key = Key::new(Kind::ConfigMap, namespace, DELETING);
        match api.get(&key).await? {
            None => {
                let labels = json!({ names::EXCLUDE: "true" });
                let metadata = json!({ "name": DELETING, "namespace": namespace, "labels": labels });
                let data = changes(&Value::Null, &self.seen, now);
                let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
                api.create(&key, &map).await?;
            }
            Some(map) => {
                let guard = Guard {
                    uid: map["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
                    resource_version: map["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
                };
                api.patch(&key, &guarded(&json!({ "data": changes(&map["data"], &self.seen, now) }), &guard)).await?;
            }
        }
        self.written.retain(|_, at| now < at.after(KEPT));
        self.written.append(&mut self.seen);
        Ok(())
    }
}

/// What becomes of the data: null strikes out. One that is there already keeps its time.
fn changes(data: &Value, seen: &BTreeMap<String, Time>, now: Time) -> BTreeMap<String, Option<Time>> {
    let known: BTreeMap<&String, Option<Time>> = data
        .as_object()
        .map(|data| data.iter().map(|(uid, at)| (uid, at.as_str().and_then(|at| at.parse().ok()))).collect())
        .unwrap_or_default();
    let is_old = |at: &Option<Time>| at.is_none_or(|at| now >= at.after(KEPT));
    let mut changes: BTreeMap<String, Option<Time>> =
        known.iter().filter(|(_, at)| is_old(at)).map(|(uid, _)| ((*uid).clone(), None)).collect();
    for (uid, at) in seen.iter().filter(|(uid, _)| known.get(uid).is_none_or(is_old)) {
        changes.insert(uid.clone(), Some(*at));
    }
    let mut stay: Vec<(Time, String)> = known
        .iter()
        .filter(|(_, at)| !is_old(at))
        .filter_map(|(uid, at)| Some(((*at)?, (*uid).clone())))
        .chain(changes.iter().filter_map(|(uid, at)| Some(((*at)?, uid.clone()))))
        .collect();
    stay.sort_unstable_by(|one, other| other.cmp(one));
    for (_, uid) in stay.drain(MOST.min(stay.len())..) {
        match known.contains_key(&uid) {
            true => changes.insert(uid, None),
            false => changes.remove(&uid),
        };
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(uid: &str, phase: &str) -> Value {
        json!({ "metadata": { "uid": uid, "name": uid }, "status": { "phase": phase } })
    }

    #[test]
    fn only_that_phase_counts_and_once() {
        let mut deleting = Deleting::default();
        for phase in ["New", "Completed", "Failed", "", "deleting"] {
            deleting.see(&backup("a", phase), Time(1));
        }
        deleting.see(&backup("", "Deleting"), Time(1));
        assert!(!deleting.is_due());
        deleting.see(&backup("a", "Deleting"), Time(2));
        deleting.see(&backup("a", "Deleting"), Time(3));
        assert_eq!(deleting.seen, BTreeMap::from([("a".to_owned(), Time(2))]));
        deleting.written.append(&mut deleting.seen);
        deleting.see(&backup("a", "Deleting"), Time(4));
        assert!(!deleting.is_due());
    }

    #[test]
    fn what_is_old_is_struck_out() {
        let now = Time(100 * 86_400);
        let data = json!({ "old": Time(70 * 86_400), "new": Time(71 * 86_400), "no-time": "x" });
        let seen = BTreeMap::from([("new".to_owned(), now), ("b".to_owned(), now)]);
        let changes = changes(&data, &seen, now);
        let expected = [("b".to_owned(), Some(now)), ("no-time".to_owned(), None), ("old".to_owned(), None)];
        assert_eq!(changes, BTreeMap::from(expected));
        assert_eq!(serde_json::to_value(&changes).unwrap()["old"], Value::Null);
    }

    /// What has no room any more is struck out, the oldest first, and is never sent.
    #[test]
    fn there_are_no_more_than_the_api_takes() {
        let now = Time(100 * 86_400);
        let at = |n: usize| Time(now.0 - n as i64);
        let data: BTreeMap<String, Time> = (1..=MOST).map(|n| (format!("{n:05}"), at(n))).collect();
        let seen = BTreeMap::from([("a".to_owned(), now), ("b".to_owned(), at(1)), ("older".to_owned(), at(MOST + 1))]);
        let struck = changes(&serde_json::to_value(&data).unwrap(), &seen, now);
        let last = |n: usize| (format!("{:05}", MOST - n), None);
        let expected = [last(1), last(0), ("a".to_owned(), Some(now)), ("b".to_owned(), Some(at(1)))];
        assert_eq!(struck, BTreeMap::from(expected));

        let many: BTreeMap<String, Time> = (0..=MOST).map(|n| (format!("{n:05}"), at(n))).collect();
        let first = changes(&Value::Null, &many, now);
        assert!(first.len() == MOST && !first.contains_key(&format!("{MOST:05}")));
        assert!(first.values().all(Option::is_some));
    }
}
