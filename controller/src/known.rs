//! What the loop keeps in mind of each CR, from the watch alone: whose it is, and whether there is anything to do. The object
//! itself is dropped: in a cluster of ordinary age there are thousands that are over, and those of other movers.

use crate::admission;
use crate::reconcile::{Limits, is_held, is_of};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use wherry_api::api::Kind;
use wherry_api::decode::decode;
use wherry_api::{DataDownload, DataUpload, Phase, Time, names};

/// What is known of a CR from the watch.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) version: String,
    pub(crate) uid: String,
    pub(crate) work: admission::Work,
    /// `spec.datamover`.
    datamover: String,
    /// A restore made it of one in a backup.
    copied: bool,
    /// It has our finalizer.
    held: bool,
    /// It waits for admission, unless it is to end.
    waits: bool,
    /// Itself it says that it is to end.
    asked: bool,
    /// By the settings in force.
    pub(crate) ours: bool,
    /// It can be read; else it is looked at, and fails by that, where it is ours.
    pub(crate) readable: bool,
    pub(crate) phase: Phase,
    pub(crate) node: String,
    pub(crate) created: Option<Time>,
    /// `status.completionTimestamp`.
    pub(crate) ended: Option<Time>,
    /// Namespace and name of the PVC that an upload is of.
    pub(crate) source: (String, String),
    /// It waits for nothing but admission.
    pub(crate) queued: bool,
    /// Somebody wants it to end.
    pub(crate) ending: bool,
    /// It has ended, and nothing of ours is left: never looked at again.
    pub(crate) over: bool,
    /// Of all that a decision may rest on: that of two which are the same is the same.
    pub(crate) print: u64,
}

impl Known {
    /// Of a CR as the watch tells of it; whose it is, is said by [`judge`](Self::judge).
    pub(crate) fn of(kind: Kind, mut object: Value) -> Self {
        // As the API server compares it, too: not the bytes done, which an agent says every few seconds, nor what changes with
        // each write.
        let version =
            object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (part, fields) in [("metadata", &["resourceVersion", "managedFields"][..]), ("status", &["progress"])] {
            if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        let mut print = DefaultHasher::new();
        object.to_string().hash(&mut print);
        let unread = Self::unread(kind, &object, version, print.finish());
        match kind {
            Kind::DataUpload => match decode::<DataUpload>(kind.word(), &object) {
                Ok(DataUpload { metadata, spec, status }) => {
                    let known = Self {
                        node: status.node,
                        ended: status.completion_timestamp,
                        source: (spec.source_namespace, spec.source_pvc),
                        ..unread
                    };
                    known.read(&metadata, status.phase, spec.cancel, true)
                }
                Err(_) => unread,
            },
            _ => match decode::<DataDownload>(kind.word(), &object) {
                Ok(DataDownload { metadata, spec, status }) => {
                    let known = Self { node: status.node, ended: status.completion_timestamp, ..unread };
                    known.read(&metadata, status.phase, spec.cancel, false)
                }
                Err(_) => unread,
            },
        }
    }

    /// Whether nothing is ever done about it any more, whatever else it says.
    pub(crate) fn is_over(object: &Value) -> bool {
        let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        Phase::from(phase).is_terminal() && !is_held(object)
    }

    /// As far as one says that cannot be read.
    fn unread(kind: Kind, object: &Value, version: String, print: u64) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let phase = Phase::from(text("/status/phase"));
        let copied = if kind == Kind::DataUpload { names::RESTORE_NAME } else { names::BACKUP_NAME };
        Self {
            uid: text("/metadata/uid").to_owned(),
            work: if kind == Kind::DataUpload { admission::Work::Backup } else { admission::Work::Restore },
            datamover: text("/spec/datamover").to_owned(),
            copied: !object["metadata"]["labels"][copied].is_null(),
            held: is_held(object),
            waits: false,
            asked: false,
            ours: false,
            readable: false,
            over: phase.is_terminal(),
            phase,
            node: String::new(),
            created: None,
            ended: None,
            source: Default::default(),
            queued: false,
            ending: false,
            version,
            print,
        }
    }

    fn read(self, meta: &wherry_api::Meta, phase: Phase, cancel: bool, needs_finalizer: bool) -> Self {
        Self {
            readable: true,
            waits: phase == Phase::New && (self.held || !needs_finalizer),
            asked: cancel || meta.is_going(),
            over: phase.is_terminal() && !self.held,
            created: meta.creation_timestamp,
            phase,
            ..self
        }
    }

    /// Says whose it is by these settings, and what follows from that.
    pub(crate) fn judge(&mut self, limits: &Limits) {
        self.ours = is_of(&self.datamover, self.copied, self.held, limits);
        self.ending = self.readable && (self.asked || limits.disown(&self.datamover));
        self.queued = self.waits && !self.ending;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use wherry_api::Settings;

    fn known(object: &Value) -> Known {
        let mut known = Known::of(Kind::DataUpload, object.clone());
        known.judge(&limits());
        known
    }

    fn limits() -> Limits {
        Limits::from(&Settings::parse(&BTreeMap::new()).unwrap())
    }

    fn upload(phase: &str, finalizers: &[&str]) -> Value {
        json!({
            "metadata": {
                "name": "a", "namespace": "velero", "uid": "u", "resourceVersion": "7", "finalizers": finalizers,
            },
            "spec": { "datamover": limits().datamovers[0] }, "status": { "phase": phase },
        })
    }

    #[test]
    fn one_that_has_ended_is_over_when_nothing_of_it_is_left() {
        let over = |phase: &str, finalizers: &[&str]| known(&upload(phase, finalizers)).over;
        for phase in ["Completed", "Failed", "Canceled"] {
            assert!(over(phase, &[]) && over(phase, &["others"]) && !over(phase, &[names::FINALIZER]), "{phase}");
        }
        assert!(!over("New", &[]) && !over("InProgress", &[]));
    }

    #[test]
    fn one_that_somebody_wants_to_end_is_not_queued() {
        let mut object = upload("New", &[names::FINALIZER]);
        assert!(known(&object).queued && !known(&object).ending);
        object["spec"]["cancel"] = json!(true);
        assert!(!known(&object).queued && known(&object).ending);
        object["spec"]["cancel"] = json!(false);
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!known(&object).queued && known(&object).ending);
    }

    /// The setting named it when it was begun, and does not any more.
    #[test]
    fn one_that_was_begun_is_ours_until_nothing_of_it_is_left() {
        let of = |phase: &str, finalizers: &[&str]| {
            let mut object = upload(phase, finalizers);
            object["spec"]["datamover"] = json!("earlier");
            let readable = known(&object);
            object["spec"]["cancel"] = json!("perhaps");
            let unreadable = known(&object);
            assert!(readable.readable && !unreadable.readable);
            (readable.ours && unreadable.ours, readable.ending, readable.queued)
        };
        assert_eq!(of("InProgress", &[names::FINALIZER]), (true, true, false));
        assert_eq!(of("New", &[names::FINALIZER]), (true, true, false));
        assert_eq!(of("Completed", &[names::FINALIZER]), (true, true, false));
        for phase in ["New", "InProgress", "Completed"] {
            assert!(!of(phase, &[]).0 && !of(phase, &["others"]).0, "{phase}");
        }
    }

    #[test]
    fn one_of_ours_that_cannot_be_read_is_looked_at() {
        let mut object = upload("Accepted", &[]);
        object["spec"]["cancel"] = json!("perhaps");
        let unread = known(&object);
        assert!(unread.ours && !unread.readable && !unread.over && !unread.queued && unread.uid == "u");
        object["spec"]["datamover"] = json!("velero");
        assert!(!known(&object).ours);
        object["spec"]["datamover"] = json!(limits().datamovers[0]);
        object["metadata"]["labels"] = json!({ names::RESTORE_NAME: "r" });
        assert!(!known(&object).ours);
    }

    #[test]
    fn what_metrics_say_is_kept() {
        let mut object = upload("Completed", &[]);
        object["spec"]["sourceNamespace"] = json!("app");
        object["spec"]["sourcePVC"] = json!("data");
        object["status"]["completionTimestamp"] = json!(Time(10));
        object["status"]["node"] = json!("n1");
        let kept = known(&object);
        assert_eq!((kept.source.0.as_str(), kept.source.1.as_str(), kept.ended), ("app", "data", Some(Time(10))));
        assert_eq!((kept.node.as_str(), kept.version.as_str(), kept.ours, kept.readable), ("n1", "7", true, true));
    }

    #[test]
    fn bytes_done_are_no_change() {
        let before = upload("InProgress", &[]);
        let mut now = before.clone();
        now["metadata"]["resourceVersion"] = json!("8");
        now["metadata"]["managedFields"] = json!([{ "manager": "agent" }]);
        now["status"]["progress"] = json!({ "bytesDone": 5 });
        let print = |object: &Value| known(object).print;
        assert_eq!(print(&before), print(&now));
        for (pointer, value) in [
            ("/status/phase", json!("Completed")),
            ("/metadata/uid", json!("v")),
            ("/metadata/finalizers", json!(["x"])),
            ("/spec/datamover", json!("")),
            ("/status", json!(null)),
        ] {
            let mut other = now.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_ne!(print(&before), print(&other), "{pointer}");
        }
    }
}
