//! What the loop keeps in mind of each CR, from the watch alone: whose it is, and whether there is anything to do.

use crate::admission;
use crate::reconcile::{Limits, is_ours};
use serde_json::Value;
use wherry_api::api::Kind;
use wherry_api::decode::decode;
use wherry_api::{DataDownload, DataUpload, Phase, Time, names};

/// What is known of a CR from the watch.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) version: String,
    pub(crate) uid: String,
    pub(crate) work: admission::Work,
    pub(crate) ours: bool,
    pub(crate) phase: Phase,
    pub(crate) node: String,
    pub(crate) created: Option<Time>,
    /// It waits for nothing but admission.
    pub(crate) queued: bool,
    /// Somebody wants it to end.
    pub(crate) ending: bool,
    /// It has ended, and nothing of ours is left: never looked at again.
    pub(crate) over: bool,
}

impl Known {
    /// `None`: it cannot be read as far as that.
    pub(crate) fn of(kind: Kind, object: &Value, limits: &Limits) -> Option<Self> {
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
        let held = meta.has_finalizer(names::FINALIZER);
        let ending = cancel || meta.is_going() || limits.disown(&datamover);
        Some(Self {
            ours: limits.are_for(&datamover, &meta) && meta.label(copied).is_none(),
            queued: phase == Phase::New && (held || kind != Kind::DataUpload) && !ending,
            ending,
            over: phase.is_terminal() && !held,
            version: meta.resource_version,
            uid: meta.uid,
            created: meta.creation_timestamp,
            work,
            phase,
            node,
        })
    }

    /// One of ours that cannot be read: it is looked at, and fails by that. `None`: it is not ours.
    pub(crate) fn of_unreadable(kind: Kind, object: &Value, limits: &Limits) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let phase = Phase::from(text("/status/phase"));
        is_ours(kind, object, limits).then(|| Self {
            version: text("/metadata/resourceVersion").to_owned(),
            uid: text("/metadata/uid").to_owned(),
            work: if kind == Kind::DataUpload { admission::Work::Backup } else { admission::Work::Restore },
            ours: true,
            over: phase.is_terminal(),
            phase,
            node: String::new(),
            created: None,
            queued: false,
            ending: false,
        })
    }
}

/// Whether nothing has changed that a decision may rest on: not the bytes done, which an agent says every few seconds,
/// nor what changes with each write.
pub(crate) fn is_same(before: &Value, now: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        for (part, fields) in [("metadata", &["resourceVersion", "managedFields"][..]), ("status", &["progress"])] {
            if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        object
    };
    without(before) == without(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use wherry_api::Settings;

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
        let over = |phase: &str, finalizers: &[&str]| {
            Known::of(Kind::DataUpload, &upload(phase, finalizers), &limits()).unwrap().over
        };
        for phase in ["Completed", "Failed", "Canceled"] {
            assert!(over(phase, &[]) && over(phase, &["others"]) && !over(phase, &[names::FINALIZER]), "{phase}");
        }
        assert!(!over("New", &[]) && !over("InProgress", &[]));
    }

    #[test]
    fn one_that_somebody_wants_to_end_is_not_queued() {
        let mut object = upload("New", &[names::FINALIZER]);
        let known = |object: &Value| Known::of(Kind::DataUpload, object, &limits()).unwrap();
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
            let known = Known::of(Kind::DataUpload, &object, &limits()).unwrap();
            let unreadable = Known::of_unreadable(Kind::DataUpload, &object, &limits()).is_some();
            (known.ours && unreadable, known.ending, known.queued)
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
        assert!(Known::of(Kind::DataUpload, &object, &limits()).is_none());
        let known = Known::of_unreadable(Kind::DataUpload, &object, &limits()).unwrap();
        assert!(known.ours && !known.over && !known.queued && known.uid == "u");
        object["spec"]["datamover"] = json!("velero");
        assert!(Known::of_unreadable(Kind::DataUpload, &object, &limits()).is_none());
    }

    #[test]
    fn bytes_done_are_no_change() {
        let before = upload("InProgress", &[]);
        let mut now = before.clone();
        now["metadata"]["resourceVersion"] = json!("8");
        now["metadata"]["managedFields"] = json!([{ "manager": "agent" }]);
        now["status"]["progress"] = json!({ "bytesDone": 5 });
        assert!(is_same(&before, &now));
        for (pointer, value) in [
            ("/status/phase", json!("Completed")),
            ("/metadata/uid", json!("v")),
            ("/metadata/finalizers", json!(["x"])),
            ("/spec/datamover", json!("")),
            ("/status", json!(null)),
        ] {
            let mut other = now.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(!is_same(&before, &other), "{pointer}");
        }
    }
}
