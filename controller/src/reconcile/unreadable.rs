//! A CR of ours whose fields have other types than they should have: it can only fail, and say why.

use super::view::Limits;
use super::{Step, Write};
use serde_json::Value;
use wherry_api::api::{Key, Kind};
use wherry_api::{Meta, Phase, Time, names};

/// Whether an object that cannot be read is a CR of ours, as far as it says. What says whose it is must be right.
#[must_use]
pub fn is_ours(kind: Kind, object: &Value, limits: &Limits) -> bool {
    let copied = if kind == Kind::DataUpload { names::RESTORE_NAME } else { names::BACKUP_NAME };
    let datamover = object["spec"]["datamover"].as_str().unwrap_or_default();
    is_of(datamover, !object["metadata"]["labels"][copied].is_null(), is_held(object), limits)
}

/// Whether it has our finalizer.
pub(crate) fn is_held(object: &Value) -> bool {
    let all = object["metadata"]["finalizers"].as_array();
    all.is_some_and(|all| all.iter().any(|name| name == names::FINALIZER))
}

/// Whether a CR of that mover is ours; never one that a restore made of one in a backup. One that we hold is, whatever the
/// setting says by now.
#[must_use]
pub(crate) fn is_of(datamover: &str, copied: bool, held: bool, limits: &Limits) -> bool {
    !copied && (held || !limits.disown(datamover))
}

/// The write by which it fails. `None`: it is not ours, has ended already, or does not say enough to be written to. What
/// was made for it stays until the field is right: then removal goes on.
#[must_use]
pub fn unreadable(key: &Key, object: &Value, limits: &Limits, reason: &str, now: Time) -> Option<Write> {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let ended = object["status"]["phase"].as_str().is_some_and(|word| Phase::from(word).is_terminal());
    let meta = Meta { uid: text("uid"), resource_version: text("resourceVersion"), ..Meta::default() };
    if ended || meta.uid.is_empty() || meta.resource_version.is_empty() || !is_ours(key.kind, object, limits) {
        return None;
    }
    let left = if is_held(object) { "; what was made for it is removed once that field is right" } else { "" };
    match super::exposing::fail(key.clone(), &meta, &format!("{reason}{left}"), now) {
        Step::Do(_, write) => Some(write),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use wherry_api::Settings;

    #[test]
    fn one_of_ours_fails_and_others_are_left_alone() {
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let key = Key::new(Kind::DataDownload, "velero", "a");
        let failed = |object: &Value| unreadable(&key, object, &limits, "spec.cancel is no bool", Time(0));
        let object = json!({
            "metadata": { "name": "a", "namespace": "velero", "uid": "u", "resourceVersion": "7" },
            "spec": { "datamover": limits.datamovers[0], "cancel": "perhaps" }, "status": { "phase": "Accepted" },
        });
        let Some(Write::Patch { guard, patch, .. }) = failed(&object) else { panic!("it does not fail") };
        assert_eq!((guard.uid.as_str(), guard.resource_version.as_str()), ("u", "7"));
        assert_eq!(
            (&patch["status"]["phase"], &patch["status"]["message"]),
            (&json!("Failed"), &json!("spec.cancel is no bool"))
        );
        let with = |pointer: &str, value: Value| {
            let mut other = object.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            failed(&other)
        };
        assert!(with("/status", json!(7)).is_some());
        for (pointer, value) in [
            ("/spec/datamover", json!("velero")),
            ("/spec", json!([])),
            ("/status/phase", json!("Completed")),
            ("/metadata/uid", json!(7)),
            ("/metadata", json!(null)),
        ] {
            assert_eq!(with(pointer, value.clone()), None, "{pointer}: {value}");
        }
        let mut copy = object.clone();
        copy["metadata"]["labels"] = json!({ names::BACKUP_NAME: "b" });
        assert_eq!(failed(&copy), None);
    }
}
